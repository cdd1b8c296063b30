package v3ro_test

import (
	"testing"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

// BenchmarkRead and BenchmarkGetAttr are one client on one connection, over the reference file system in memory.
func BenchmarkRead(b *testing.B) {
	w := newWorld(b)
	ino := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	w.write(ino, make([]byte, 1<<20))
	c := w.dial(user)
	h, _ := c.lookup(c.mount("/default"), "f")
	args := readArgs(h, 0, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.raw(nfs, 3, pRead, args); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGetAttr(b *testing.B) {
	w := newWorld(b)
	c := w.dial(user)
	args := xdr.AppendOpaque(nil, c.mount("/default"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.raw(nfs, 3, pGetAttr, args); err != nil {
			b.Fatal(err)
		}
	}
}
