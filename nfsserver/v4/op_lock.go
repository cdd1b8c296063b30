package v4

import (
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/state"
)

// maxTestStateids bounds the stateids of one TEST_STATEID.
const maxTestStateids = 4096

func validLockType(t nfsv4.NfsLockType4) bool {
	return t >= nfsv4.READ_LT && t <= nfsv4.WRITEW_LT
}

// opLock is LOCK (RFC 8881, 18.10).
func (c *compound) opLock() status {
	a := state.LockArgs{
		Type:    nfsv4.NfsLockType4(c.d.Int32()),
		Reclaim: c.d.Bool(),
		Offset:  c.d.Uint64(),
		Length:  c.d.Uint64(),
		New:     c.d.Bool(),
	}
	if a.New {
		c.d.Uint32() // open seqid
		a.Stateid = c.decodeStateid()
		c.d.Uint32() // lock seqid
		c.d.Uint64() // client id: that of the session counts
		a.Owner = c.d.Opaque(nfsv4.NFS4_OPAQUE_LIMIT)
	} else {
		a.Stateid = c.decodeStateid()
		c.d.Uint32() // lock seqid
	}
	if c.d.Err() != nil || !validLockType(a.Type) {
		return nfsv4.NFS4ERR_BADXDR
	}
	if st := c.lockable(); st != nfsv4.NFS4_OK {
		return st
	}
	a.Client, a.File = c.clientID(), c.cur.file()
	id, denied, eff, st := c.s.cfg.State.Lock(c.now, a)
	return c.lockResult(id, denied, c.apply(eff, st))
}

// lockable fails unless the current filehandle is a regular file, as far as that
// is known without asking: a stateid given for another object is refused anyway.
func (c *compound) lockable() status {
	if c.cur.pseudo() {
		return nfsv4.NFS4ERR_ISDIR
	}
	if c.cur.hasAttr {
		return checkType(c.cur.attr.Type, false)
	}
	return nfsv4.NFS4_OK
}

// lockResult answers LOCK.
func (c *compound) lockResult(id state.Stateid, denied *state.LockDenied, st status) status {
	if st == nfsv4.NFS4ERR_DENIED && denied != nil {
		c.appendDenied(denied)
		return st
	}
	return c.newStateid(id, st)
}

// appendDenied appends LOCK4denied.
func (c *compound) appendDenied(l *state.LockDenied) {
	b := xdr.AppendUint64(c.r.B, l.Offset)
	b = xdr.AppendUint64(b, l.Length)
	b = xdr.AppendInt32(b, int32(l.Type))
	b = xdr.AppendUint64(b, l.Client)
	c.r.B = xdr.AppendOpaque(b, l.Owner)
	c.keepBody = true
}

// opLockT is LOCKT (RFC 8881, 18.11).
func (c *compound) opLockT() status {
	t := nfsv4.NfsLockType4(c.d.Int32())
	offset, length := c.d.Uint64(), c.d.Uint64()
	c.d.Uint64() // client id: that of the session counts
	owner := c.d.Opaque(nfsv4.NFS4_OPAQUE_LIMIT)
	if c.d.Err() != nil || !validLockType(t) {
		return nfsv4.NFS4ERR_BADXDR
	}
	// No stateid vouches for the object.
	if st := c.load(&c.cur); st != nfsv4.NFS4_OK {
		return st
	}
	if st := c.lockable(); st != nfsv4.NFS4_OK {
		return st
	}
	denied, eff, st := c.s.cfg.State.TestLock(c.now, c.clientID(), c.cur.file(), owner, t, offset, length)
	st = c.apply(eff, st)
	if st == nfsv4.NFS4ERR_DENIED && denied != nil {
		c.appendDenied(denied)
	}
	return st
}

// opLockU is LOCKU (RFC 8881, 18.12).
func (c *compound) opLockU() status {
	t := nfsv4.NfsLockType4(c.d.Int32())
	c.d.Uint32() // seqid
	id := c.decodeStateid()
	offset, length := c.d.Uint64(), c.d.Uint64()
	if c.d.Err() != nil || !validLockType(t) {
		return nfsv4.NFS4ERR_BADXDR
	}
	if st := c.lockable(); st != nfsv4.NFS4_OK {
		return st
	}
	got, st := c.s.cfg.State.Unlock(c.now, c.clientID(), c.cur.file(), id, offset, length)
	return c.newStateid(got, st)
}

// opTestStateid is TEST_STATEID (RFC 8881, 18.48).
func (c *compound) opTestStateid() status {
	n := c.d.Count(maxTestStateids, 16)
	if st := c.tooBig(4 + 4*n); st != nfsv4.NFS4_OK {
		return st
	}
	c.r.B = xdr.AppendUint32(c.r.B, uint32(n))
	for range n {
		st := c.s.cfg.State.TestStateid(c.clientID(), c.decodeStateid())
		c.r.B = xdr.AppendUint32(c.r.B, uint32(st))
	}
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	return nfsv4.NFS4_OK
}

// opFreeStateid is FREE_STATEID (RFC 8881, 18.38).
func (c *compound) opFreeStateid() status {
	id := c.decodeStateid()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	eff, st := c.s.cfg.State.FreeStateid(c.now, c.clientID(), id)
	return c.apply(eff, st)
}
