package state

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// Locks of files whose file system is a vfs.Keeper: it decides about conflicts, this package knows stateids and clients. A
// LOCK is BeginLock, Keeper.Lock, EndLock; LOCKU and LOCKT alike. Of what the file system granted a copy is kept here, for
// FREE_STATEID, limits and numbers; it decides nothing. While one is under way of a lock-owner's locks on a file, others get NFS4ERR_DELAY: clients
// send them one by one.

// LockPlan is a LOCK under way.
type LockPlan struct {
	Owner vfs.LockOwner
	State vfs.LockState
	Range byterange.Range

	// Share, if not nil, has to be kept first: of an open that did not have to be, until now.
	Share *vfs.Share

	open  *open
	locks *lockState // nil: the owner's first on this file
	key   lockOwnerKey
}

// BeginLock checks a LOCK before the Keeper is asked. If it succeeds, EndLock must be called.
func (s *State) BeginLock(now time.Time, a LockArgs) (*LockPlan, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, st := s.planLock(&a)
	if st != nfsv4.NFS4_OK {
		return nil, st
	}
	p.key = lockOwnerKey{p.open.client, p.Owner.Owner}
	there := p.open.file.owners[p.key]
	switch {
	case there != nil && there.busy, p.open.file.locking[p.key]:
		return nil, nfsv4.NFS4ERR_DELAY
	case p.locks != nil:
		p.locks.busy = true
	default:
		if p.open.file.locking == nil {
			p.open.file.locking = make(map[lockOwnerKey]bool)
		}
		p.open.file.locking[p.key] = true
	}
	if sh := p.open.share(); !sh.Lasting() {
		sh.Locks = true
		p.Share = &sh
	}
	return p, nfsv4.NFS4_OK
}

// EndLock takes the Keeper's answer to a LOCK: a lock in the way, an error (failed), or neither. With NFS4ERR_DENIED comes a
// LockDenied, unless the one in the way is of a client whose lease is over: that was ended, and the caller carries out the
// effects and begins again.
func (s *State) EndLock(now time.Time, p *LockPlan, inTheWay *vfs.LockConflict, failed bool) (Stateid, *LockDenied, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	if p.locks != nil {
		p.locks.busy = false
	} else {
		delete(p.open.file.locking, p.key)
	}
	gone := s.stateids[p.open.other] != stateidHolder(p.open) || p.locks != nil && s.stateids[p.locks.other] != stateidHolder(p.locks)
	switch {
	case failed && !gone:
		// It may have been granted: CLOSE has to know of the owner.
		if p.locks == nil {
			p.locks = s.newLockState(p.open, p.Owner.Owner, p.State.State)
		}
		p.locks.unsure = true
		return Stateid{}, nil, s.effects(eff), nfsv4.NFS4ERR_DELAY
	case inTheWay != nil:
		denied := s.denied(now, inTheWay, &eff)
		return Stateid{}, denied, s.effects(eff), nfsv4.NFS4ERR_DENIED
	case gone && s.clients[p.open.client.id] != p.open.client:
		// As abandon: the lock ended with the client's record, or is another server's.
		return Stateid{}, nil, s.effects(eff), nfsv4.NFS4ERR_BAD_STATEID
	case gone:
		// It was closed meanwhile: nobody is left who would unlock.
		eff.Unshare = append(eff.Unshare, FileClosing{p.open.file.key, vfs.Closing{
			Locks: []vfs.HeldLocks{{Ino: p.open.file.key.Ino, Owner: p.Owner, LockState: p.State}}, Now: true,
		}})
		return Stateid{}, nil, s.effects(eff), nfsv4.NFS4ERR_BAD_STATEID
	}
	if p.locks == nil {
		p.locks = s.newLockState(p.open, p.Owner.Owner, p.State.State)
	}
	s.granted(p)
	p.open.version++
	s.mustRecord(p.open.client, &eff)
	return p.locks.stateid(), nil, s.effects(eff), nfsv4.NFS4_OK
}

// denied is what c means to a client: nil if the one in the way is a client here whose lease is over, which is ended.
func (s *State) denied(now time.Time, c *vfs.LockConflict, eff *Effects) *LockDenied {
	if other := s.clients[ClientID(c.Owner.Client)]; other != nil && s.expired(other, now) {
		s.expire(other, eff)
		return nil
	}
	if _, ended := s.unforgotten[ClientID(c.Owner.Client)]; ended {
		return nil // its end goes with the effects
	}
	s.st.LockConflicts++
	return lockDenied(c)
}

// EndExpired takes the Keeper's answer to an OPEN that a client's open is in the way of, and ends that client if its lease is over.
// known is false if no such client is served here: it may have ended.
func (s *State) EndExpired(now time.Time, id ClientID) (eff Effects, ended, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if eff, ended, known = s.endExpired(now, id); !ended {
		s.st.ShareConflicts++
	}
	return eff, ended, known
}

// InTheWay ends a client that is in the way of another server's, if it is served here and its lease is over.
func (s *State) InTheWay(now time.Time, id ClientID) Effects {
	s.mu.Lock()
	defer s.mu.Unlock()
	eff, _, _ := s.endExpired(now, id)
	return eff
}

func (s *State) endExpired(now time.Time, id ClientID) (eff Effects, ended, known bool) {
	other := s.clients[id]
	if ended = other != nil && s.expired(other, now); ended {
		s.expire(other, &eff)
	}
	return s.effects(eff), ended, other != nil
}

// BeginTestLock checks a LOCKT before the Keeper is asked.
func (s *State) BeginTestLock(client ClientID, owner []byte, t nfsv4.NfsLockType4, offset, length uint64) (vfs.LockOwner, byterange.Range, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.clients[client] == nil {
		return vfs.LockOwner{}, byterange.Range{}, nfsv4.NFS4ERR_STALE_CLIENTID
	}
	return s.testLock(client, owner, t, offset, length)
}

// EndTestLock takes the Keeper's answer to a LOCKT: what was in the way. With NFS4ERR_DENIED comes a LockDenied, or it is
// as with EndLock.
func (s *State) EndTestLock(now time.Time, inTheWay *vfs.LockConflict) (*LockDenied, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	if inTheWay == nil {
		return nil, s.effects(eff), nfsv4.NFS4_OK
	}
	denied := s.denied(now, inTheWay, &eff)
	return denied, s.effects(eff), nfsv4.NFS4ERR_DENIED
}

// UnlockPlan is a LOCKU under way.
type UnlockPlan struct {
	Owner       vfs.LockOwner
	First, Last uint64

	locks *lockState
}

// BeginUnlock checks a LOCKU before the Keeper is told. If it succeeds, EndUnlock must be called.
func (s *State) BeginUnlock(client ClientID, f File, id Stateid, offset, length uint64) (*UnlockPlan, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first, last, ok := byterange.Of(offset, length)
	if !ok {
		return nil, nfsv4.NFS4ERR_INVAL
	}
	l, st := s.lookupLock(client, f, id)
	if st != nfsv4.NFS4_OK {
		return nil, st
	}
	if l.busy || l.file.locking[l.key] {
		return nil, nfsv4.NFS4ERR_DELAY
	}
	l.busy = true
	return &UnlockPlan{Owner: l.owner(), First: first, Last: last, locks: l}, nfsv4.NFS4_OK
}

// EndUnlock takes the Keeper's answer to a LOCKU.
func (s *State) EndUnlock(p *UnlockPlan, failed bool) (Stateid, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := p.locks
	l.busy = false
	switch {
	case failed:
		l.unsure = true
		return Stateid{}, nfsv4.NFS4ERR_DELAY
	case s.stateids[l.other] != stateidHolder(l):
		return Stateid{}, nfsv4.NFS4ERR_BAD_STATEID
	}
	s.countLocks(l.client, l.file.locks.Clear(l, p.First, p.Last))
	s.unlocked(l.file.key)
	l.bump()
	return l.stateid(), nfsv4.NFS4_OK
}
