package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

type fuzzProgram struct{}

func (fuzzProgram) ServeRPC(_ context.Context, req *Request) {
	req.Reply.AttachOpaque(req.Body, nil)
}

// FuzzRecords sends arbitrary bytes to a connection. Whatever they are, the
// connection ends when the stream does, and what comes back is whole reply
// records.
func FuzzRecords(f *testing.F) {
	w := func(v ...uint32) (b []byte) {
		for _, x := range v {
			b = binary.BigEndian.AppendUint32(b, x)
		}
		return b
	}
	null := w(1<<31|40, 7, 0, 2, 100003, 4, 0, 0, 0, 0, 0)
	f.Add(null)
	f.Add(append(bytes.Clone(null), null...))
	f.Add(w(1<<31|56, 7, 0, 2, 100003, 4, 1, 0, 0, 0, 0, 1, 2, 3, 4))                    // with arguments
	f.Add(w(20, 7, 0, 2, 100003, 4, 1<<31|20, 0, 0, 0, 0, 0))                            // two fragments
	f.Add(w(1<<31|68, 7, 0, 2, 100003, 4, 1, 1, 28, 9, 1, 0x61000000, 5, 6, 1, 7, 0, 0)) // AUTH_SYS
	f.Add(w(1<<31|40, 7, 0, 3, 100003, 4, 0, 0, 0, 0, 0))                                // RPC_MISMATCH
	f.Add(w(1<<31|40, 7, 0, 2, 100003, 9, 0, 0, 0, 0, 0))                                // PROG_MISMATCH
	f.Add(w(1<<31|40, 7, 0, 2, 100003, 4, 0, 7, 0, 0, 0))                                // AUTH_TLS
	f.Add(w(1<<31|24, 9, 1, 0, 0, 0, 0))                                                 // a reply nobody asked for
	f.Add(w(0, 0, 0, 1<<31|40, 7, 0, 2, 100003, 4, 0, 0, 0, 0, 0))                       // empty fragments
	f.Add(w(1<<31 | 1<<30))                                                              // too large
	f.Fuzz(func(t *testing.T, data []byte) {
		ep := newEndpoint(context.Background(), Limits{MaxRecord: 1 << 14, Workers: 2, RecordTimeout: time.Minute}, nil)
		ep.programs = programs{{100003, versionRange{4, 4}, fuzzProgram{}}}
		ln := newPipe()
		c := newConn(ep, 1, ln.server)
		go c.serve()
		go func() {
			_, _ = ln.client.Write(data)
			_ = ln.client.(*net.TCPConn).CloseWrite()
		}()
		got, _ := io.ReadAll(ln.client) // a reset ends it like a close
		<-c.Done()
		_ = ln.client.Close()
		for len(got) > 0 {
			if len(got) < 4 {
				t.Fatalf("%d stray bytes", len(got))
			}
			mark := binary.BigEndian.Uint32(got)
			n := int(mark &^ (1 << 31))
			if mark>>31 != 1 || n < 20 || n > len(got)-4 {
				break // cut off by a reset
			}
			if msg := binary.BigEndian.Uint32(got[8:]); msg != msgReply {
				t.Fatalf("message type %d", msg)
			}
			got = got[4+n:]
		}
		if len(c.tokens) != 0 {
			t.Fatalf("%d worker tokens lost", len(c.tokens))
		}
	})
}

type pipe struct{ client, server net.Conn }

// newPipe is a pair of connected TCP sockets.
func newPipe() pipe {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer func() { _ = ln.Close() }()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		panic(err)
	}
	server, err := ln.Accept()
	if err != nil {
		panic(err)
	}
	return pipe{client, server}
}
