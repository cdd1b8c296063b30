package volume_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

func TestAdvice(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	f, data := bigFile(t, c, 24<<20)
	if _, err := c.Open(context.Background(), &vfs.Root, f, vfs.OpenRead, false); err != nil {
		t.Fatal(err)
	}
	advise := func(a vfs.Advice, off, n uint64) {
		t.Helper()
		if ok, err := c.volume().Advise(context.Background(), f, off, n, a); !ok || err != nil {
			t.Fatalf("advice %d: %v, %v", a, ok, err)
		}
	}
	bytesRead := func() int { _, n := c.blocks.counts(); return n }
	same := func(off, n int) {
		t.Helper()
		if !bytes.Equal(read(t, c, f, uint64(off), n), data[off:off+n]) {
			t.Fatal("bytes differ")
		}
	}
	// What will be needed is read once, before it is read.
	advise(vfs.AdviseWillNeed, 8<<20, 3<<20)
	eventually(t, "a range is read before it is asked for", func() bool { return bytesRead() >= 3<<20 })
	for off := 10 << 20; off >= 8<<20; off -= 1 << 20 { // backwards, which is no stream
		same(off+12345, 4096)
	}
	if n := bytesRead(); n != 3<<20 {
		t.Fatalf("%d bytes were read for an advice of 3 MiB", n)
	}
	// What is not needed is read again.
	advise(vfs.AdviseDontNeed, 9<<20, 1<<20)
	same(8<<20, 4096)
	same(10<<20, 4096)
	if n := bytesRead(); n != 3<<20 {
		t.Fatalf("more was dropped than the range: %d bytes read", n)
	}
	same(9<<20+100, 4096)
	if n := bytesRead(); n <= 3<<20 {
		t.Fatal("the range was not dropped")
	}
	// The first read of what is said to be a stream reads ahead.
	before := bytesRead()
	advise(vfs.AdviseSequential, 16<<20, 0)
	same(16<<20, 4096)
	eventually(t, "the first read of a stream reads ahead", func() bool { return bytesRead() >= before+1<<20 })
	// Beyond the end, of nothing, and of what is no file.
	advise(vfs.AdviseWillNeed, 1<<40, 1<<20)
	advise(vfs.AdviseDontNeed, ^uint64(0), ^uint64(0))
	if _, err := c.volume().Advise(context.Background(), vfs.RootIno, 0, 0, vfs.AdviseWillNeed); vfs.KindOf(err) != vfs.KindIsDir {
		t.Fatalf("a directory: %v", err)
	}
	if ok, err := c.volume().Advise(context.Background(), f, 0, 0, 99); ok || err != nil {
		t.Fatalf("unknown advice: %v, %v", ok, err)
	}
	same(0, len(data)/8)
}
