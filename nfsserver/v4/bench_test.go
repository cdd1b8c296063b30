package v4_test

import (
	"context"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/v4"
	"github.com/rackfs/rackfs/vfs"
)

// flatFS answers reads and writes without doing anything, so that what is
// measured is the front end.
type flatFS struct{ *memfs.FS }

func (flatFS) Read(_ context.Context, _ vfs.Ino, _ uint64, p []byte) (int, bool, error) {
	return len(p), false, nil
}

func (flatFS) Write(_ context.Context, _ *vfs.Cred, _ vfs.Ino, _ uint64, _ []byte, s vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	return s, vfs.Verifier{}, nil
}

// benchmark sends the same operations again and again over one loopback
// connection; the client's cost is part of it.
func benchmark(b *testing.B, bytes int, request func(c *client, fh []byte, id nfsv4.Stateid4) []nfsv4.NfsArgop4) {
	mem := memfs.New(memfs.Options{})
	w := newWorldOf(b, mem, flatFS{mem}, 0)
	c := w.connect("bench", 1)
	res := c.ok(ops(root(), open("o", rw, 0, unchecked(), named("f")), &nfsv4.NfsArgop4_OP_GETFH{})...)
	id, fh := openOK(res[2]).Stateid, fhOf(res[3])
	c.seq++
	args := encodeCompound(b, 1, append([]nfsv4.NfsArgop4{c.sequenceAgain()}, request(c, fh, id)...)...)
	// sequenceid is the word behind tag, minor version, count, opcode and session id.
	at := 4 + 4 + 4 + 4 + 4 + 16
	cred := rpc.AuthSysCred("bench", &c.cred)
	call := &rpc.Call{Prog: v4.Program, Vers: v4.Version, Proc: 1, Cred: cred, Args: args, MaxReply: 4 << 20}
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		args[at], args[at+1], args[at+2], args[at+3] = byte(c.seq>>24), byte(c.seq>>16), byte(c.seq>>8), byte(c.seq)
		resp, err := c.conn.Call(context.Background(), call)
		if err != nil {
			b.Fatal(err)
		}
		if st := resp.Body[3]; st != 0 {
			b.Fatalf("%x", resp.Body[:64])
		}
		resp.Release()
		c.seq++
	}
}

func BenchmarkRead1MiB(b *testing.B) {
	benchmark(b, 1<<20, func(_ *client, fh []byte, id nfsv4.Stateid4) []nfsv4.NfsArgop4 {
		return ops(putFH(fh), read(id, 0, 1<<20))
	})
}

func BenchmarkWrite1MiB(b *testing.B) {
	data := pattern(1 << 20)
	benchmark(b, 1<<20, func(_ *client, fh []byte, id nfsv4.Stateid4) []nfsv4.NfsArgop4 {
		return ops(putFH(fh), write(id, 0, nfsv4.UNSTABLE4, data))
	})
}

func BenchmarkRead4KiB(b *testing.B) {
	benchmark(b, 4<<10, func(_ *client, fh []byte, id nfsv4.Stateid4) []nfsv4.NfsArgop4 {
		return ops(putFH(fh), read(id, 0, 4<<10))
	})
}

func BenchmarkGetAttr(b *testing.B) {
	benchmark(b, 0, func(_ *client, fh []byte, _ nfsv4.Stateid4) []nfsv4.NfsArgop4 {
		return ops(putFH(fh), access(0x3f), getAttr(1, 3, 4, 8, 20, 33, 35, 36, 37, 41, 45, 47, 52, 53, 55))
	})
}
