package v4_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/v4"
	"github.com/rackfs/rackfs/vfs"
)

// A server that may not say who its clients are answers nothing but NFS4ERR_DELAY, and SEQUENCE not at all; one that may not say what they hold in a file system grants and
// denies nothing there. Clients that tried meanwhile have what they had. Calls of sessions wait for a while.
func TestNothingIsGrantedWithoutLease(t *testing.T) {
	var clients, files atomic.Bool // what may not be said
	var looks atomic.Int32         // for so many times who the clients are
	mem := memfs.New(memfs.Options{})
	w := newWorldWith(t, mem, mem, v4.Config{ValidWait: time.Second, Valid: func(fsid uint32) bool {
		if fsid == 0 && looks.Load() > 0 {
			looks.Add(-1)
			return false
		}
		return !(fsid == 0 && clients.Load() || fsid == testFS && files.Load())
	}})
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o666, 0)
	a, b := w.connect("a", 1), w.connect("b", 1)
	fh := a.handleOf("f")
	lockBy := func(c *client, owner string) nfsv4.NfsArgop4 {
		id := openOK(last(c.ok(ops(root(), open("o", rw, 0, nil, named("f")))...))).Stateid
		return &nfsv4.NfsArgop4_OP_LOCK{Oplock: nfsv4.Lock4args{Locktype: nfsv4.WRITE_LT, Length: 10,
			Locker: &nfsv4.Locker4_TRUE{OpenOwner: nfsv4.OpenToLockOwner4{OpenStateid: id, LockOwner: nfsv4.LockOwner4{Owner: []byte(owner)}}}}}
	}
	lockA, lockB := lockBy(a, "pa"), lockBy(b, "pb")
	testB := &nfsv4.NfsArgop4_OP_LOCKT{Oplockt: nfsv4.Lockt4args{Locktype: nfsv4.WRITE_LT, Length: 10, Owner: nfsv4.LockOwner4{Owner: []byte("pb")}}}

	files.Store(true)
	a.fails(nfsv4.NFS4ERR_DELAY, putFH(fh), lockA)
	b.fails(nfsv4.NFS4ERR_DELAY, putFH(fh), testB)
	b.fails(nfsv4.NFS4ERR_DELAY, ops(root(), open("o2", rd, 0, nil, named("f")))...)
	b.ok(putFH(fh), getAttr(1))
	files.Store(false)
	b.ok(putFH(fh), testB) // the refused lock was not taken
	a.ok(putFH(fh), lockA)
	files.Store(true)
	b.fails(nfsv4.NFS4ERR_DELAY, putFH(fh), lockB)
	files.Store(false)
	b.fails(nfsv4.NFS4ERR_DENIED, putFH(fh), lockB)

	looks.Store(3)
	a.ok(putFH(fh), getAttr(1))
	if looks.Load() != 0 {
		t.Error("a call was answered before that was allowed")
	}

	// a is heard of 20 s after its last answer, which is too long ago another 20 s later.
	clients.Store(true)
	w.advance(lease - 10*time.Second)
	if res, err := a.send(encodeCompound(t, a.minor, a.sequence(), putFH(fh), getAttr(1))); err == nil {
		t.Fatalf("an answer: %x", res)
	}
	<-a.conn.Done() // Linux connects and sends again at once, and waits for 15 s after NFS4ERR_DELAY of SEQUENCE
	a.conn = w.dial(1).conn
	a.seq-- // not taken
	for _, op := range []nfsv4.NfsArgop4{
		&nfsv4.NfsArgop4_OP_EXCHANGE_ID{OpexchangeId: nfsv4.ExchangeId4args{
			EiaClientowner: nfsv4.ClientOwner4{CoOwnerid: []byte("x")}, EiaStateProtect: &nfsv4.StateProtect4A_SP4_NONE{},
		}},
		&nfsv4.NfsArgop4_OP_CREATE_SESSION{OpcreateSession: nfsv4.CreateSession4args{CsaClientid: a.id, CsaSequence: 2}},
		&nfsv4.NfsArgop4_OP_BIND_CONN_TO_SESSION{OpbindConnToSession: nfsv4.BindConnToSession4args{BctsaSessid: a.session, BctsaDir: nfsv4.CDFC4_FORE}},
		&nfsv4.NfsArgop4_OP_DESTROY_SESSION{OpdestroySession: nfsv4.DestroySession4args{DsaSessionid: a.session}},
		&nfsv4.NfsArgop4_OP_DESTROY_CLIENTID{OpdestroyClientid: nfsv4.DestroyClientid4args{DcaClientid: a.id}},
	} {
		b.want(b.raw(1, op), nfsv4.NFS4ERR_DELAY)
	}
	w.advance(lease - 10*time.Second)
	clients.Store(false)
	b.fails(nfsv4.NFS4ERR_DENIED, putFH(fh), lockB)
	a.ok(putFH(fh), getAttr(1))
	w.advance(2 * lease)
	b.ok(putFH(fh), lockB)
}
