package nfsserver_test

import (
	"bytes"
	"context"
	"sync"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/vfs"
)

// toldWrites are the outcomes of stable WRITEs by their calls, as a file system remembers them that outlives its servers.
type toldWrites struct {
	mu    sync.Mutex // guards slots
	slots map[toldSlot]toldWrite
}

type toldSlot struct {
	session [16]byte
	slot    uint32
}

type toldWrite struct {
	seq      uint64
	op       uint32
	stable   vfs.Stable
	verifier vfs.Verifier
	err      error
}

// Write does a stable WRITE once.
func (f unsureFS) Write(ctx context.Context, cred *vfs.Cred, ino vfs.Ino, off uint64, p []byte, stable vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	if err := f.away.look("write"); err != nil {
		return 0, vfs.Verifier{}, err
	}
	call := vfs.CallOf(ctx)
	if do := f.away.write.Load(); do != nil {
		if err := (*do)(call); err != nil {
			return 0, vfs.Verifier{}, err
		}
	}
	if call == nil || stable == vfs.Unstable {
		return f.Kept.Write(ctx, cred, ino, off, p, stable)
	}
	f.told.mu.Lock()
	defer f.told.mu.Unlock()
	at := toldSlot{call.Session, call.Slot}
	w := f.told.slots[at]
	switch {
	case w.seq > call.Seq:
		return 0, vfs.Verifier{}, vfs.KindSuperseded.Err("write")
	case w.seq != call.Seq || w.op != call.Op:
		w = toldWrite{seq: call.Seq, op: call.Op}
		w.stable, w.verifier, w.err = f.Kept.Write(ctx, cred, ino, off, p, stable)
		f.told.slots[at] = w
	}
	return w.stable, w.verifier, w.err
}

// writeTwice has c write a byte at off, and b another one over it. Then c sends its WRITE again, to a server, and does what a client in a kernel does with the answer. What b was told is
// stable is to be there then.
func (c *traveller) writeTwice(b *traveller, fh nfsclient.FH, off uint64, first, other byte, to *side) {
	t, ctx := c.w.t, c.w.ctx
	t.Helper()
	sl, err := c.Session(0).Slot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer sl.Put()
	cp := nfsclient.NewCompound().PutFH(fh).Write(nfsclient.Stateid{}, off, nfsv4.FILE_SYNC4, []byte{first}) // nor does Linux ask for the reply to be kept
	r, err := sl.Do(ctx, cp)
	if err != nil || r.Status != nfsv4.NFS4_OK {
		t.Fatalf("write: %v, %+v", err, r)
	}
	told := bytes.Clone(r.Body())
	r.Release()
	over := &nfsclient.File{FH: fh}
	if _, err := b.Write(ctx, over, off, nfsv4.FILE_SYNC4, []byte{other}); err != nil {
		t.Fatal(err)
	}
	c.move(to)
	r = resendTo(t, ctx, sl, cp)
	switch {
	case r.Status == nfsv4.NFS4ERR_RETRY_UNCACHED_REP: // another call is made of it
		r.Release()
		if r, err = sl.Do(ctx, cp); err != nil || r.Status != nfsv4.NFS4_OK {
			t.Fatalf("write again: %v, %+v", err, r)
		}
	case !bytes.Equal(told, r.Body()):
		t.Errorf("first answer\n%x, then\n%x", told, r.Body())
	}
	r.Release()
	got := []byte{0}
	if n, _, err := b.Read(ctx, over, off, got); err != nil || n != 1 || got[0] != other {
		t.Fatalf("read %x after a WRITE of %x that came over %x, %v: a WRITE that was sent again has undone it", got[:n], other, first, err)
	}
}
