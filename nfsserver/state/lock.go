package state

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// lockOwnerKey names a lock-owner on a file.
type lockOwnerKey struct {
	client *client
	owner  string
}

// lockState is one lock-owner's locks on one file: what a lock stateid names.
type lockState struct {
	stateidState
	key  lockOwnerKey
	open *open // the open that the last first lock came through
	busy bool  // a vfs.Keeper is deciding about a lock of it

	// unsure: a Keeper's answer did not come, so it may have more than the table here.
	unsure bool

	// instead, if not zero, is what the Keeper may have it under still: an answer to the LOCK that made it did not come.
	instead vfs.StateID
}

func (l *lockState) openState() *open { return l.open.now() }

// appendEnding names l to a vfs.Keeper.
func (l *lockState) appendEnding(list []vfs.HeldLocks) []vfs.HeldLocks {
	h := vfs.HeldLocks{Ino: l.file.key.Ino, Owner: l.owner(), LockState: vfs.LockState{State: l.other, Open: l.open.other}}
	list = append(list, h)
	if l.instead != (vfs.StateID{}) {
		h.State = l.instead
		list = append(list, h)
	}
	return list
}

// mayBeFreed reports whether the client may have given l up before, with nothing left that says so: it was adopted, holds nothing and was not named since. The end of it may
// come yet, from the gateway that the client freed it at, or closed the open at.
func (l *lockState) mayBeFreed() bool {
	return l.loose && !l.named && l.file.locks.Holds(l) == 0
}

func (l *lockState) owner() vfs.LockOwner {
	return vfs.LockOwner{Client: uint64(l.client.id), Owner: l.key.owner}
}

// endLockState takes away l and its locks.
func (s *State) endLockState(l *lockState) {
	s.countLocks(l.client, -l.file.locks.Holds(l))
	l.file.locks.Clear(l, 0, 1<<64-1)
	s.unlocked(l.file.key)
	delete(l.file.owners, l.key)
	delete(l.open.locks, l)
	delete(s.stateids, l.other)
}

func (s *State) countLocks(c *client, n int) {
	c.locks += n
	s.st.Locks += n
}

// lockType decodes a lock type; a blocking request is the same as one that is
// not: the client asks again, see AwaitLock.
func lockType(t nfsv4.NfsLockType4) (write, ok bool) {
	switch t {
	case nfsv4.READ_LT, nfsv4.READW_LT:
		return false, true
	case nfsv4.WRITE_LT, nfsv4.WRITEW_LT:
		return true, true
	}
	return false, false
}

// Lock is LOCK (RFC 8881, 18.10). With NFS4ERR_DENIED comes a LockDenied.
func (s *State) Lock(now time.Time, a LockArgs) (Stateid, *LockDenied, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	id, denied, st := s.lock(now, &a, &eff)
	return id, denied, s.effects(eff), st
}

func (s *State) lock(now time.Time, a *LockArgs, eff *Effects) (Stateid, *LockDenied, Status) {
	p, st := s.planLock(a)
	if st != nfsv4.NFS4_OK {
		return Stateid{}, nil, st
	}
	if denied := s.lockConflict(now, p.open.file, p.locks, p.Range, eff); denied != nil {
		return Stateid{}, denied, nfsv4.NFS4ERR_DENIED
	}
	if p.locks == nil {
		p.locks = s.newLockState(p.open, p.Owner.Owner, p.State.State)
	}
	s.granted(p)
	s.mustRecord(p.open.client, eff)
	return p.locks.stateid(), nil, nfsv4.NFS4_OK
}

// planLock checks everything about a LOCK but conflicts.
func (s *State) planLock(a *LockArgs) (*LockPlan, Status) {
	c := s.clients[a.Client]
	if c == nil {
		return nil, nfsv4.NFS4ERR_STALE_CLIENTID
	}
	first, last, okRange := byterange.Of(a.Offset, a.Length)
	write, okType := lockType(a.Type)
	if !okRange || !okType || len(a.Owner) > s.cfg.Limits.OwnerBytes {
		return nil, nfsv4.NFS4ERR_INVAL
	}
	o, l, st := s.lockHolder(a)
	if st != nfsv4.NFS4_OK {
		return nil, st
	}
	if st := s.mayAcquire(c, a.Reclaim); st != nfsv4.NFS4_OK {
		return nil, st
	}
	need := uint32(nfsv4.OPEN4_SHARE_ACCESS_READ)
	if write {
		need = nfsv4.OPEN4_SHARE_ACCESS_WRITE
	}
	if o.access&need == 0 {
		return nil, nfsv4.NFS4ERR_OPENMODE
	}
	if c.locks >= s.cfg.Limits.LocksPerClient {
		return nil, nfsv4.NFS4ERR_DELAY
	}
	p := &LockPlan{Range: byterange.Range{First: first, Last: last, Write: write}, open: o, locks: l}
	if l != nil && a.New && l.mayBeFreed() {
		p.locks = nil // a stateid of its own, which its late end does not name
	}
	if l := p.locks; l != nil {
		p.Owner, p.State = l.owner(), vfs.LockState{State: l.other, Open: o.other}
		return p, nfsv4.NFS4_OK
	}
	p.Owner = vfs.LockOwner{Client: uint64(c.id), Owner: string(a.Owner)}
	p.State = vfs.LockState{State: s.newOther(formLock, c, p.Owner.Owner, a.Tail), Open: o.other}
	return p, nfsv4.NFS4_OK
}

// granted takes note of a lock that was granted, of a lock state that is there.
func (s *State) granted(p *LockPlan) {
	l := p.locks
	if l.open != p.open { // the owner goes on through another open of the file
		delete(l.open.locks, l)
		l.open = p.open
		p.open.locks[l] = struct{}{}
	}
	s.countLocks(l.client, l.file.locks.Set(l, p.Range.First, p.Range.Last, p.Range.Write))
	s.forgetWaiter(l.file.key, l.client, l.key.owner)
	if !p.Range.Write {
		s.unlocked(l.file.key) // it may have been a write lock
	}
	l.instead = vfs.StateID{}
	l.bump()
}

// lockHolder finds the open a LOCK comes through, and the lock state if there
// is one already.
func (s *State) lockHolder(a *LockArgs) (*open, *lockState, Status) {
	if !a.New {
		l, st := s.lookupLock(a.Client, a.File, a.Stateid)
		if st != nfsv4.NFS4_OK {
			return nil, nil, st
		}
		return l.open.now(), l, nfsv4.NFS4_OK
	}
	o, st := s.lookupOpen(a.Client, a.File, a.Stateid)
	if st != nfsv4.NFS4_OK {
		return nil, nil, st
	}
	return o.now(), o.file.owners[lockOwnerKey{o.client, string(a.Owner)}], nfsv4.NFS4_OK
}

// newLockState makes the lock state of an owner, in place of one that there is.
func (s *State) newLockState(o *open, owner string, other vfs.StateID) *lockState {
	l := &lockState{
		stateidState: stateidState{other: other, client: o.client, file: o.file},
		key:          lockOwnerKey{o.client, owner},
		open:         o,
	}
	if was := o.file.owners[l.key]; was != nil {
		l.instead = was.other
		s.endLockState(was)
	}
	s.stateids[other] = l
	o.file.owners[l.key] = l
	o.locks[l] = struct{}{}
	return l
}

// lockConflict returns a lock in the way. Those of clients whose lease is over
// are not: the clients are ended.
func (s *State) lockConflict(now time.Time, f *file, self *lockState, want byterange.Range, eff *Effects) *LockDenied {
	var denied *LockDenied
	var over []*client
	f.locks.Conflicts(self, want.First, want.Last, want.Write, func(l *lockState, r byterange.Range) bool {
		if s.expired(l.client, now) {
			over = append(over, l.client)
			return true
		}
		denied = lockDenied(&vfs.LockConflict{Owner: l.owner(), Range: r})
		return false
	})
	if denied != nil {
		s.st.LockConflicts++
		return denied
	}
	s.expireAll(over, eff)
	return nil
}

func lockDenied(c *vfs.LockConflict) *LockDenied {
	d := &LockDenied{
		Offset: c.Range.First,
		Length: c.Range.Length(),
		Type:   nfsv4.READ_LT,
		Client: c.Owner.Client,
		Owner:  []byte(c.Owner.Owner),
	}
	if c.Range.Write {
		d.Type = nfsv4.WRITE_LT
	}
	return d
}

// TestLock is LOCKT (RFC 8881, 18.11). With NFS4ERR_DENIED comes a LockDenied.
func (s *State) TestLock(now time.Time, client ClientID, f File, owner []byte, t nfsv4.NfsLockType4, offset, length uint64) (*LockDenied, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	c := s.clients[client]
	if c == nil {
		return nil, s.effects(eff), nfsv4.NFS4ERR_STALE_CLIENTID
	}
	_, want, st := s.testLock(client, owner, t, offset, length)
	if st != nfsv4.NFS4_OK {
		return nil, s.effects(eff), st
	}
	fl := s.files[f]
	if fl == nil {
		return nil, s.effects(eff), nfsv4.NFS4_OK
	}
	self := fl.owners[lockOwnerKey{c, string(owner)}]
	if denied := s.lockConflict(now, fl, self, want, &eff); denied != nil {
		return denied, s.effects(eff), nfsv4.NFS4ERR_DENIED
	}
	return nil, s.effects(eff), nfsv4.NFS4_OK
}

// Unlock is LOCKU (RFC 8881, 18.12). Unlocking what is not locked succeeds.
func (s *State) Unlock(now time.Time, client ClientID, f File, id Stateid, offset, length uint64) (Stateid, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, last, ok := byterange.Of(offset, length)
	if !ok {
		return Stateid{}, nfsv4.NFS4ERR_INVAL
	}
	l, st := s.lookupLock(client, f, id)
	if st != nfsv4.NFS4_OK {
		return Stateid{}, st
	}
	s.countLocks(l.client, l.file.locks.Clear(l, first, last))
	s.unlocked(l.file.key)
	l.bump()
	return l.stateid(), nfsv4.NFS4_OK
}

// FreeStateid is FREE_STATEID (RFC 8881, 18.38): it frees a lock stateid that
// holds no locks.
func (s *State) FreeStateid(now time.Time, client ClientID, id Stateid) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	s.tests(client)
	if s.freeRevoked(client, id) {
		return s.effects(eff), nfsv4.NFS4_OK
	}
	h, st := s.lookup(client, id)
	if st != nfsv4.NFS4_OK {
		return s.effects(eff), st
	}
	if o, ok := h.(*open); ok && o.by != nil && len(o.locks) == 0 {
		o.client.spend(o.other)
		s.endOpen(o, &eff, false)
		return s.effects(eff), nfsv4.NFS4_OK
	}
	l, ok := h.(*lockState)
	if !ok || l.file.locks.Holds(l) > 0 {
		return s.effects(eff), nfsv4.NFS4ERR_LOCKS_HELD
	}
	if l.open.kept {
		eff.Unshare = append(eff.Unshare, FileClosing{l.file.key, vfs.Closing{Locks: l.appendEnding(nil), Now: l.unsure}})
	}
	s.endLockState(l)
	return s.effects(eff), nfsv4.NFS4_OK
}

// testLock checks everything about a LOCKT but conflicts.
func (s *State) testLock(client ClientID, owner []byte, t nfsv4.NfsLockType4, offset, length uint64) (vfs.LockOwner, byterange.Range, Status) {
	first, last, okRange := byterange.Of(offset, length)
	write, okType := lockType(t)
	switch {
	case !okRange || !okType || len(owner) > s.cfg.Limits.OwnerBytes:
		return vfs.LockOwner{}, byterange.Range{}, nfsv4.NFS4ERR_INVAL
	case s.grace:
		return vfs.LockOwner{}, byterange.Range{}, nfsv4.NFS4ERR_GRACE
	}
	return vfs.LockOwner{Client: uint64(client), Owner: string(owner)}, byterange.Range{First: first, Last: last, Write: write}, nfsv4.NFS4_OK
}
