package wire

import (
	"bytes"
	"math/rand/v2"
	"net"
	"testing"
)

func fill(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestEcho(t *testing.T) {
	for mode := range securities(t) {
		t.Run(mode.String(), func(t *testing.T) {
			h := start(t, mode, echo, ServerOptions{})
			c := h.client(ClientOptions{})
			for _, n := range []int{0, 1, 100, inlinePayload, inlinePayload + 1, 64 << 10, 1 << 20, MaxPayload} {
				for _, m := range []int{0, 17, MaxMeta} {
					meta, want := fill(m, 1), fill(n, 2)
					var payload net.Buffers
					for rest := want; len(rest) > 0; { // pieces that do not end at chunk borders
						k := min(len(rest), 1+n/3)
						payload = append(payload, rest[:k])
						rest = rest[k:]
					}
					into := make([]byte, n)
					r, err := c.Call(testContext(t), opEcho, meta, payload, into)
					if err != nil {
						t.Fatalf("%d+%d bytes: %v", m, n, err)
					}
					if !bytes.Equal(r.Meta, meta) || !bytes.Equal(r.Payload, want) {
						t.Fatalf("%d+%d bytes: answer differs", m, n)
					}
					if n > 0 && &r.Payload[0] != &into[0] {
						t.Fatalf("%d+%d bytes: payload is not in the caller's buffer", m, n)
					}
					r.Release()
				}
			}
		})
	}
}
