package rpc

import (
	"encoding/binary"
	"testing"
)

// FuzzReply decodes anything as the answer to a call of ours: results are a part of it.
func FuzzReply(f *testing.F) {
	w := func(v ...uint32) (b []byte) {
		for _, x := range v {
			b = binary.BigEndian.AppendUint32(b, x)
		}
		return b
	}
	f.Add(w(0, 0, 0, 0, 1, 2, 3))       // accepted, with results
	f.Add(w(0, 0, 0, 2, 2, 4))          // PROG_MISMATCH
	f.Add(w(0, 1, 4, 0xabcd0000, 0))    // a verifier
	f.Add(w(1, 1, 7))                   // AUTH_TLS refused
	f.Add(w(1, 0, 2, 2))                // RPC_MISMATCH
	f.Add(w(0, 0, 0xffffffff, 0, 1, 2)) // absurd verifier
	f.Fuzz(func(t *testing.T, b []byte) {
		res, err := decodeReply(b)
		if err == nil && len(res) > len(b)-12 || err != nil && (res != nil || err.Error() == "") {
			t.Fatalf("%d bytes of results in %d, %v", len(res), len(b), err)
		}
	})
}
