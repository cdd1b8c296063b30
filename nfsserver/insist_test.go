package nfsserver_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// awayFS is why a file system does not do what it is asked for.
type awayFS struct {
	times atomic.Int32                          // for so many calls it is away
	write atomic.Pointer[func(*vfs.Call) error] // what comes before a WRITE
}

func (a *awayFS) look(op string) error {
	if a.times.Add(-1) >= 0 {
		return vfs.KindUnavailable.Err(op)
	}
	return nil
}

func (f unsureFS) Open(ctx context.Context, c *vfs.Cred, ino vfs.Ino, fl vfs.OpenFlags, override bool) (vfs.Attr, error) {
	if err := f.away.look("open"); err != nil {
		return vfs.Attr{}, err
	}
	return f.Kept.Open(ctx, c, ino, fl, override)
}

func (f unsureFS) Rename(ctx context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (vfs.DirChange, vfs.DirChange, error) {
	if err := f.away.look("rename"); err != nil {
		return vfs.DirChange{}, vfs.DirChange{}, err
	}
	return f.Kept.Rename(ctx, c, fromDir, from, toDir, to)
}

// A request that was done by a server that died is sent again to another one while the file system is away, or one of the operations before is put off. Were the client told to try later,
// it would make a new request of it, which is another change.
func TestRepeatedIsNotPutOff(t *testing.T) {
	ctx, w := newSeveral(t)
	a, b := w.client("a"), w.client("b")
	b.move(w.pick(1))
	f, err := a.Create(ctx, a.root, "file", 0o666)
	if err != nil {
		t.Fatal(err)
	}
	sl, err := a.Session(0).Slot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer sl.Put()
	// twice has a do cp, its server die, and cp come again.
	twice := func(what string, cp *nfsclient.Compound, meanwhile func() error) {
		t.Helper()
		r, err := sl.Do(ctx, cp)
		if err != nil || r.Status != nfsv4.NFS4_OK {
			t.Fatalf("%s: %v, %+v", what, err, r)
		}
		r.Release()
		if err := meanwhile(); err != nil {
			t.Fatal(err)
		}
		at := a.at.Load()
		w.mu.Lock()
		w.dies(at)
		w.mu.Unlock()
		w.burials.Wait()
		w.away.times.Store(3)
		r = resendTo(t, ctx, sl, cp)
		if r.Status == nfsv4.NFS4ERR_DELAY { // as a client in a kernel does
			t.Errorf("%s was put off", what)
			r.Release()
			if r, err = sl.Do(ctx, cp); err != nil {
				t.Fatal(err)
			}
		}
		if r.Status != nfsv4.NFS4_OK {
			t.Errorf("%s that was done is answered %s when it is sent again", what, nfsv4.Nfsstat4_name[r.Status])
		}
		r.Release()
		if n := w.away.times.Swap(0); n > 0 {
			t.Errorf("%s: the file system was asked less than %d times", what, 3)
		}
	}
	over := &nfsclient.File{FH: f.FH}
	twice("a WRITE", nfsclient.NewCompound().PutFH(f.FH).Write(nfsclient.Stateid{}, 0, nfsv4.FILE_SYNC4, []byte{1}), func() error {
		_, err := b.Write(ctx, over, 0, nfsv4.FILE_SYNC4, []byte{2})
		return err
	})
	got := []byte{0}
	if _, _, err := b.Read(ctx, over, 0, got); err != nil || got[0] != 2 {
		t.Errorf("read %d, %v: what was written over the WRITE is undone", got[0], err)
	}
	twice("a RENAME", nfsclient.NewCompound().PutFH(a.root).SaveFH().PutFH(a.root).Rename("file", "file2"), func() error {
		return b.Rename(ctx, b.root, "file2", b.root, "file3")
	})
	if _, _, err := b.Lookup(ctx, b.root, "file3"); err != nil {
		t.Error(err)
	}
}

// A server that was not heard of for a while comes back in the middle of a WRITE: its client is another one's. It does not answer, for it does not know what became of the WRITE there.
func TestWhoLostTheClientDoesNotAnswer(t *testing.T) {
	ctx, w := newSeveral(t)
	a := w.client("a")
	f, err := a.Create(ctx, a.root, "file", 0o666)
	if err != nil {
		t.Fatal(err)
	}
	first, other := w.pick(0), w.pick(1)
	lost := func(call *vfs.Call) error {
		w.away.write.Store(nil)
		call.Begin()
		w.mu.Lock()
		w.serves[state.ClientID(a.ID())] = other
		w.mu.Unlock()
		if err := first.srv.Serves(ctx, func(state.ClientID) bool { return false }); err != nil {
			t.Error(err)
		}
		a.at.Store(other)
		return vfs.KindUnknown.Err("write")
	}
	w.away.write.Store(&lost)
	if _, err := a.Write(ctx, f, 0, nfsv4.FILE_SYNC4, []byte{7}); err != nil {
		t.Errorf("write: %v", err)
	}
	got := []byte{0}
	if n, _, err := a.Read(ctx, f, 0, got); err != nil || n != 1 || got[0] != 7 {
		t.Errorf("read %x, %v", got[:n], err)
	}
}
