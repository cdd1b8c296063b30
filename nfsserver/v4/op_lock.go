package v4

import (
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
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
	a.Client, a.File, a.Tail = c.clientID(), c.cur.file(), c.tail()
	mark := c.r.Mark()
	st := c.lock(&a)
	if st == nfsv4.NFS4ERR_DENIED && (a.Type == nfsv4.READW_LT || a.Type == nfsv4.WRITEW_LT) && c.s.cfg.State.HasBackchannel(a.Client) {
		if c.s.cfg.State.AwaitLock(c.now, a, c.enc.ring.Append(nil, c.cur.handle()), c.elsewhere) { // it was freed just now
			c.r.Truncate(mark)
			c.keepBody = false
			st = c.lock(&a)
		}
	}
	if st == nfsv4.NFS4_OK {
		c.s.freed() // it may have been a downgrade
	}
	return st
}

// lock does what opLock has decoded.
func (c *compound) lock(a *state.LockArgs) status {
	c.elsewhere = 0
	if k := c.s.keeperOf(c.cur.export.FS); k != nil {
		return c.keepLock(k, a)
	}
	id, denied, eff, st := c.s.cfg.State.Lock(c.now, *a)
	return c.lockResult(id, denied, c.apply(eff, st))
}

// keepLock is LOCK where the file system decides.
func (c *compound) keepLock(k vfs.Keeper, a *state.LockArgs) status {
	if a.New {
		if st := c.reviveIf(a.Stateid); st != nfsv4.NFS4_OK {
			return st
		}
	}
	last := uint64(0)
	for range maxDenials {
		p, st := c.s.cfg.State.BeginLock(c.now, *a)
		if st != nfsv4.NFS4_OK {
			return st
		}
		var conflict *vfs.LockConflict
		var err error
		if p.Share != nil {
			err = k.Share(c.ctx, c.cur.ino, *p.Share)
		}
		if err == nil {
			conflict, err = k.Lock(c.ctx, c.cur.ino, p.Owner, p.State, p.Range)
		}
		id, denied, eff, st := c.s.cfg.State.EndLock(c.now, p, conflict, err != nil)
		st = c.apply(eff, st)
		switch {
		case err != nil:
			return lockStatus(err)
		case st == nfsv4.NFS4ERR_DENIED && denied != nil && denied.Client != last && c.opCall.Repeated():
			// As undenied: it may have been tried again after that and granted, and the file system tells the outcomes of then one by one.
			last = denied.Client
		case st != nfsv4.NFS4ERR_DENIED || denied != nil:
			return c.lockResult(id, denied, st)
		}
	}
	return nfsv4.NFS4ERR_DELAY
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
		if c.s.cfg.Others && !c.s.cfg.State.Serves(denied.Client) {
			c.elsewhere = denied.Client
			c.s.cfg.State.DeniedElsewhere(c.now, denied.Client) // its server ends it if its lease is over
		}
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
	begin := c.reading
	if t == nfsv4.WRITE_LT || t == nfsv4.WRITEW_LT {
		begin = func(o *object) (func(), status) { return c.changing(o) }
	}
	end, st := begin(&c.cur) // whoever has the file may have locks on it of which nobody was told
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	if k := c.s.keeperOf(c.cur.export.FS); k != nil {
		return c.keepTestLock(k, owner, t, offset, length)
	}
	denied, eff, st := c.s.cfg.State.TestLock(c.now, c.clientID(), c.cur.file(), owner, t, offset, length)
	st = c.apply(eff, st)
	if st == nfsv4.NFS4ERR_DENIED && denied != nil {
		c.appendDenied(denied)
	}
	return st
}

// keepTestLock is LOCKT where the file system knows.
func (c *compound) keepTestLock(k vfs.Keeper, owner []byte, t nfsv4.NfsLockType4, offset, length uint64) status {
	for range maxDenials {
		o, r, st := c.s.cfg.State.BeginTestLock(c.clientID(), owner, t, offset, length)
		if st != nfsv4.NFS4_OK {
			return st
		}
		conflict, err := k.TestLock(c.ctx, c.cur.ino, o, r)
		if err != nil {
			return statusOf(err, true)
		}
		denied, eff, st := c.s.cfg.State.EndTestLock(c.now, conflict)
		if st = c.apply(eff, st); st != nfsv4.NFS4ERR_DENIED {
			return st
		}
		if denied != nil {
			c.appendDenied(denied)
			return st
		}
	}
	return nfsv4.NFS4ERR_DELAY
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
	if k := c.s.keeperOf(c.cur.export.FS); k != nil {
		return c.keepUnlock(k, id, offset, length)
	}
	got, st := c.s.cfg.State.Unlock(c.now, c.clientID(), c.cur.file(), id, offset, length)
	c.s.freed()
	return c.newStateid(got, st)
}

// keepUnlock is LOCKU where the file system keeps the locks.
func (c *compound) keepUnlock(k vfs.Keeper, id state.Stateid, offset, length uint64) status {
	p, st := c.s.cfg.State.BeginUnlock(c.clientID(), c.cur.file(), id, offset, length)
	if st != nfsv4.NFS4_OK {
		return st
	}
	err := k.Unlock(c.ctx, c.cur.ino, p.Owner, p.First, p.Last)
	got, st := c.s.cfg.State.EndUnlock(p, err != nil)
	c.s.freed()
	if err != nil {
		return lockStatus(err)
	}
	return c.newStateid(got, st)
}

// lockStatus is the status of a lock that failed. Limits are told as those of package state.
func lockStatus(err error) status {
	if vfs.KindOf(err) == vfs.KindTooMany {
		return nfsv4.NFS4ERR_DELAY
	}
	return statusOf(err, true)
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
