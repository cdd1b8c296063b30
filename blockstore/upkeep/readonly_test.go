package upkeep

import (
	"syscall"
	"testing"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// A store whose disk is read-only is read, by clients and for the repair of others; its own keeper deletes and rebuilds nothing, says
// why, and does so when the disk can be written again.
func TestReadOnlyStoreIsLeftAlone(t *testing.T) {
	r := newRig(t, rigOptions{stores: 7, k: 4, m: 2, pgs: 14})
	files := r.writeMany(20)
	n := r.nodes[0]
	disk, index := n.o.FS, n.o.IndexFS
	n.close()
	n.o.FS = vfile.NewFaults(disk, func(c vfile.Call) *vfile.Fault {
		switch c.Op {
		case vfile.OpCreate, vfile.OpRemove, vfile.OpRename, vfile.OpMkdir, vfile.OpLock, vfile.OpWrite, vfile.OpAllocate, vfile.OpZero:
			return &vfile.Fault{Err: syscall.EROFS}
		}
		return nil
	})
	n.open(nil)
	if i := n.store.Info(); !i.ReadOnly || i.Writable {
		t.Fatalf("%+v", i)
	}
	r.readAll()
	for _, f := range files[:10] {
		r.remove(f)
	}
	r.reap()
	_, err := n.keeper.Collect(r.ctx)
	if vfs.KindOf(err) != vfs.KindReadOnly {
		t.Fatalf("collect: %v", err)
	}
	n.keeper.markAll()
	if err := n.keeper.Heal(r.ctx); vfs.KindOf(err) != vfs.KindReadOnly {
		t.Fatalf("heal: %v", err)
	}
	if st := n.keeper.Status(); st.Error == "" || st.Collect.Error == "" {
		t.Fatalf("the status does not tell: %+v", st)
	}
	r.readAll()
	n.close()
	n.o.FS, n.o.IndexFS = disk, index
	n.open(nil)
	if c, err := n.keeper.Collect(r.ctx); err != nil || c.Dead == 0 {
		t.Fatalf("%+v %v", c, err)
	}
	r.readAll()
}
