package nfsserver_test

import (
	"sync/atomic"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
)

// The benchmarks count client, server and reference file system together, over
// one loopback connection.

func benchFile(b *testing.B, size int) (*conn, *nfsclient.File) {
	c := newInstance(b).dial("bench")
	f := c.file("f")
	if _, err := c.Write(c.in.ctx, f, 0, nfsv4.UNSTABLE4, make([]byte, size)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetBytes(int64(size))
	b.ResetTimer()
	return c, f
}

func benchRead(b *testing.B, size, parallel int) {
	c, f := benchFile(b, size)
	b.SetParallelism(parallel)
	b.RunParallel(func(pb *testing.PB) {
		p := make([]byte, size)
		for pb.Next() {
			if n, _, err := c.Read(b.Context(), f, 0, p); n != size || err != nil {
				b.Errorf("read %d: %v", n, err)
				return
			}
		}
	})
}

func benchWrite(b *testing.B, size, parallel int) {
	c, f := benchFile(b, size)
	var next atomic.Uint64
	b.SetParallelism(parallel)
	b.RunParallel(func(pb *testing.PB) {
		p := make([]byte, size)
		off := next.Add(1) % 8 * uint64(size)
		for pb.Next() {
			if _, err := c.Write(b.Context(), f, off, nfsv4.UNSTABLE4, p); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkClientRead1MiB(b *testing.B)     { benchRead(b, 1<<20, 1) }
func BenchmarkClientRead1MiBx8(b *testing.B)   { benchRead(b, 1<<20, 4) }
func BenchmarkClientRead4KiBx16(b *testing.B)  { benchRead(b, 4<<10, 8) }
func BenchmarkClientWrite1MiB(b *testing.B)    { benchWrite(b, 1<<20, 1) }
func BenchmarkClientWrite4KiBx16(b *testing.B) { benchWrite(b, 4<<10, 8) }

func BenchmarkClientGetattrx16(b *testing.B) {
	c, f := benchFile(b, 1)
	b.SetBytes(0)
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Getattr(b.Context(), f.FH); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
