package v4_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
)

func lockFirst(t nfsv4.NfsLockType4, open nfsv4.Stateid4, owner string) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_LOCK{Oplock: nfsv4.Lock4args{Locktype: t, Length: 10, Locker: &nfsv4.Locker4_TRUE{OpenOwner: nfsv4.OpenToLockOwner4{
		OpenStateid: open, LockOwner: nfsv4.LockOwner4{Owner: []byte(owner)},
	}}}}
}

// A client with a backchannel that was denied a blocking lock is told when it is free; others are promised nothing and told nothing.
func TestNotifyLock(t *testing.T) {
	w := newWorld(t)
	t.Cleanup(func() { w.v4.Shutdown(t.Context()) })
	w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o666, 0)
	holder := w.connect("holder", 1)
	openFile := func(c *client) (fh []byte, ok nfsv4.Open4resok) {
		res := c.ok(ops(root(), open("o", rw, 0, nil, named("file")), &nfsv4.NfsArgop4_OP_GETFH{})...)
		return fhOf(last(res)), openOK(res[len(res)-2])
	}
	fh, mine := openFile(holder)
	if mine.Rflags&nfsv4.OPEN4_RESULT_MAY_NOTIFY_LOCK != 0 {
		t.Error("promised without a backchannel")
	}
	res := last(holder.ok(putFH(fh), lockFirst(nfsv4.WRITE_LT, mine.Stateid, "holder")))
	held := res.(*nfsv4.NfsResop4_OP_LOCK).Oplock.(*nfsv4.Lock4res_NFS4_OK).Resok4.LockStateid

	waiter, b := w.connectBack("waiter")
	_, yours := openFile(waiter)
	if yours.Rflags&nfsv4.OPEN4_RESULT_MAY_NOTIFY_LOCK == 0 {
		t.Error("not promised")
	}
	waiter.fails(nfsv4.NFS4ERR_DENIED, putFH(fh), lockFirst(nfsv4.WRITE_LT, yours.Stateid, "impatient"))
	waiter.fails(nfsv4.NFS4ERR_DENIED, putFH(fh), lockFirst(nfsv4.WRITEW_LT, yours.Stateid, "patient"))
	if len(b.notified) > 0 {
		t.Fatal("told before it is free")
	}
	holder.ok(putFH(fh), &nfsv4.NfsArgop4_OP_LOCKU{Oplocku: nfsv4.Locku4args{Locktype: nfsv4.WRITE_LT, LockStateid: held, Length: 10}})
	select {
	case n := <-b.notified:
		if !bytes.Equal(n.CnlaFh, fh) || n.CnlaLockOwner.Clientid != waiter.id || string(n.CnlaLockOwner.Owner) != "patient" {
			t.Errorf("told %+v", n)
		}
	case <-time.After(5 * time.Minute):
		t.Fatal("no CB_NOTIFY_LOCK")
	}
	waiter.ok(putFH(fh), lockFirst(nfsv4.WRITEW_LT, yours.Stateid, "patient"))

	// The holder's silence frees it, too.
	other, b2 := w.connectBack("other")
	_, theirs := openFile(other)
	other.fails(nfsv4.NFS4ERR_DENIED, putFH(fh), lockFirst(nfsv4.READW_LT, theirs.Stateid, "reader"))
	w.advance(lease / 2)
	other.ok()
	w.advance(lease/2 + time.Second)
	select {
	case <-b2.notified:
	case <-time.After(5 * time.Minute):
		t.Fatal("no CB_NOTIFY_LOCK")
	}
	other.ok(putFH(fh), lockFirst(nfsv4.READW_LT, theirs.Stateid, "reader"))
	if len(b.notified) > 0 {
		t.Error("told again, or who does not wait")
	}
}
