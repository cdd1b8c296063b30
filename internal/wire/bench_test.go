package wire

import (
	"context"
	"fmt"
	"net"
	"testing"
)

// sink answers a put with an empty reply and a get with what it asks for.
func sink(page []byte) Handler {
	return func(_ context.Context, c *Call) error {
		if c.Op == opSize {
			return c.Reply(nil, page[:le.Uint32(c.Meta)])
		}
		return c.Reply(nil)
	}
}

// BenchmarkCall measures a put (payload up) and a get (payload down) through
// loopback, client and server in one process, one caller and sixteen.
func BenchmarkCall(b *testing.B) {
	page := make([]byte, 1<<20)
	for _, mode := range []Mode{ModeInsecure, ModeMAC, ModeTLS} {
		h := start(b, mode, sink(page), ServerOptions{})
		for _, size := range []int{4 << 10, 64 << 10, 1 << 20} {
			for _, callers := range []int{1, 16} {
				for _, dir := range []string{"put", "get"} {
					b.Run(fmt.Sprintf("%v/%dK/%s/c%d", mode, size>>10, dir, callers), func(b *testing.B) {
						c := h.client(ClientOptions{})
						meta := le.AppendUint32(nil, uint32(size))
						call := func(into []byte) error {
							var r *Reply
							var err error
							if dir == "put" {
								r, err = c.Call(context.Background(), opEcho, meta, net.Buffers{page[:size]}, nil)
							} else {
								r, err = c.Call(context.Background(), opSize, meta, nil, into)
							}
							r.Release()
							return err
						}
						if err := call(make([]byte, size)); err != nil {
							b.Fatal(err)
						}
						b.SetBytes(int64(size))
						b.ReportAllocs()
						b.ResetTimer()
						done := make(chan error, callers)
						for i := range callers {
							n := b.N / callers
							if i < b.N%callers {
								n++
							}
							go func() {
								into := make([]byte, size)
								for range n {
									if err := call(into); err != nil {
										done <- err
										return
									}
								}
								done <- nil
							}()
						}
						for range callers {
							if err := <-done; err != nil {
								b.Fatal(err)
							}
						}
						b.StopTimer()
						c.Close()
					})
				}
			}
		}
	}
}
