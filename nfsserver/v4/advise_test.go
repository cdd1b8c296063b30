package v4_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/vfs"
)

// advised remembers advice, and follows all but that of some offset.
type advised struct {
	*memfs.FS
	mu  sync.Mutex
	got []vfs.Advice
}

func (a *advised) Advise(_ context.Context, _ vfs.Ino, off, n uint64, advice vfs.Advice) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n != 10 {
		return false, vfs.KindUnavailable.Err("advise")
	}
	a.got = append(a.got, advice)
	return off < 100, nil
}

func (a *advised) advice() []vfs.Advice {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.got)
}

func TestAdvice(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	fs := &advised{FS: mem}
	w := newWorldOf(t, mem, fs, 0)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	c := w.connect("a", 2)
	followed := func(off, n uint64, hints uint32) uint32 {
		t.Helper()
		op := &nfsv4.NfsArgop4_OP_IO_ADVISE{OpioAdvise: nfsv4.IoAdvise4args{IaaOffset: off, IaaCount: n, IaaHints: []uint32{hints}}}
		r := last(c.ok(ops(at("f"), op)...)).(*nfsv4.NfsResop4_OP_IO_ADVISE).OpioAdvise.(*nfsv4.IoAdvise4res_NFS4_OK).Resok4.IorHints
		if len(r) == 0 {
			return 0
		}
		return r[0]
	}
	const sequential, random, willNeed, dontNeed = 1 << 1, 1 << 3, 1 << 4, 1 << 6
	if got := followed(0, 10, sequential|random|willNeed|dontNeed); got != sequential|willNeed|dontNeed {
		t.Errorf("followed %#x", got)
	}
	if want := []vfs.Advice{vfs.AdviseSequential, vfs.AdviseWillNeed, vfs.AdviseDontNeed}; !slices.Equal(fs.advice(), want) {
		t.Errorf("advice %v", fs.advice())
	}
	if got := followed(100, 10, willNeed); got != 0 {
		t.Errorf("followed %#x, which the file system does not", got)
	}
	if got := followed(0, 11, willNeed); got != 0 {
		t.Errorf("followed %#x, which failed", got)
	}
}
