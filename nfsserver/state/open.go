package state

import (
	"slices"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// file is what is open or locked of one file.
type file struct {
	key   File
	opens map[*open]struct{}
	// deniers counts opens with a deny mode: most files have none, and then
	// an OPEN without one conflicts with nothing.
	deniers int
	locks   byterange.Table[*lockState]
	owners  map[lockOwnerKey]*lockState
	locking map[lockOwnerKey]bool // first locks that a vfs.Keeper is deciding about
}

// openKey names an open state of a client.
type openKey struct {
	owner   string
	revived vfs.StateID // of an open whose owner is not known: its stateid
	file    File
}

// open is an open state: one open-owner's opens of one file, merged (RFC 8881, 9.1.2).
type open struct {
	stateidState
	key          openKey
	access, deny uint32 // unions
	// accessSeen and denySeen have bit v for each OPEN with value v since the
	// last downgrade: what OPEN_DOWNGRADE may go back to (RFC 8881, 18.18.3).
	accessSeen, denySeen uint8
	held                 [heldKinds]bool // vfs opens held, by flags
	locks                map[*lockState]struct{}
	kept                 bool // by a vfs.Keeper
	version              int  // changes with what has to be kept
	// former are adopted opens of the same owner and file in whose place this one came. They end with it.
	former []*open
	by     *open     // that came in its place, nil: none
	left   time.Time // when
}

const (
	shareBoth = nfsv4.OPEN4_SHARE_ACCESS_BOTH // all bits of access and of deny
	heldKinds = int(vfs.OpenRead|vfs.OpenWrite) + 1
)

func (o *open) openState() *open { return o }

// now is o, or what came in its place.
func (o *open) now() *open {
	for o.by != nil {
		o = o.by
	}
	return o
}

// flagsOf are the vfs flags of a share access; the bits are the same.
func flagsOf(access uint32) vfs.OpenFlags {
	var f vfs.OpenFlags
	if access&nfsv4.OPEN4_SHARE_ACCESS_READ != 0 {
		f |= vfs.OpenRead
	}
	if access&nfsv4.OPEN4_SHARE_ACCESS_WRITE != 0 {
		f |= vfs.OpenWrite
	}
	return f
}

// OpenAllowed asks whether State.Open with the same arguments would succeed, by the
// rules of grace and share reservations, before the vfs is touched: a truncating
// OPEN must not truncate what another client denies. With File.Ino 0, not known yet, only grace counts.
func (s *State) OpenAllowed(now time.Time, a OpenArgs) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	_, st := s.checkOpen(now, &a, &eff)
	return s.effects(eff), st
}

func (s *State) checkOpen(now time.Time, a *OpenArgs, eff *Effects) (*client, Status) {
	c := s.clients[a.Client]
	if c == nil {
		return nil, nfsv4.NFS4ERR_STALE_CLIENTID
	}
	if len(a.Owner) > s.cfg.Limits.OwnerBytes || a.Access&^uint32(shareBoth) != 0 || a.Access == 0 || a.Deny&^uint32(shareBoth) != 0 {
		return nil, nfsv4.NFS4ERR_INVAL
	}
	if st := s.mayAcquire(c, a.Reclaim); st != nfsv4.NFS4_OK {
		return nil, st
	}
	if a.File.Ino == 0 {
		return c, nfsv4.NFS4_OK
	}
	own, unsure := s.ownOpen(c, a)
	if own == nil && len(unsure) == 0 && len(c.opens) >= s.cfg.Limits.OpensPerClient {
		return nil, nfsv4.NFS4ERR_DELAY
	}
	st := s.shareConflict(now, s.files[a.File], own, unsure, a.Access, a.Deny, nfsv4.NFS4ERR_SHARE_DENIED, eff)
	if st == nfsv4.NFS4_OK && !a.Reclaim {
		what := conflictRead
		if a.Access&nfsv4.OPEN4_SHARE_ACCESS_WRITE != 0 || a.Deny&nfsv4.OPEN4_SHARE_DENY_READ != 0 {
			what = conflictChange
		}
		if st = s.breakDelegations(now, c, a.File, what, eff); a.New {
			st = nfsv4.NFS4_OK
		}
	}
	return c, st
}

// share is what a vfs.Keeper has to keep of o.
func (o *open) share() vfs.Share {
	return vfs.Share{Client: uint64(o.client.id), State: o.other, Owner: []byte(o.key.owner),
		Access: flagsOf(o.access), Deny: flagsOf(o.deny), Locks: len(o.locks) > 0}
}

// shareNow is what is to be kept of the open, or delegation, that f is about, when it is carried out: other OPENs may have come after the one that owes it. false: it has ended.
func (s *State) shareNow(f FileShare) (FileShare, bool) {
	if s == nil {
		return f, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.stateids[f.Share.State]
	if o, ok := h.(*open); ok {
		f.Share = o.share()
	}
	return f, h != nil && h.holder().client.id == ClientID(f.Share.Client)
}

// shared notes that f was kept. It is false if that is not how it is any more. An OPEN that is under way, and was recorded before, has to be recorded again.
func (s *State) shared(f FileShare) bool {
	if s == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.stateids[f.Share.State].(*open)
	if !ok || uint64(o.client.id) != f.Share.Client {
		return true
	}
	o.version++
	now := o.share()
	return now.Access == f.Share.Access && now.Deny == f.Share.Deny && now.Locks == f.Share.Locks
}

// HasOpen says whether a client has a file open.
func (s *State) HasOpen(client ClientID, f File) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.files[f]; x != nil {
		for o := range x.opens {
			if o.client.id == client {
				return true
			}
		}
	}
	return false
}

// PlanOpen says what a vfs.Keeper has to keep of the OPEN that a describes, which OpenAllowed has allowed. Should the
// file not be known yet, it is planned as the owner's first open of it.
func (s *State) PlanOpen(a *OpenArgs) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[a.Client]
	if c == nil {
		return nfsv4.NFS4ERR_STALE_CLIENTID
	}
	access, deny := flagsOf(a.Access), flagsOf(a.Deny)
	if a.File.Ino != 0 {
		o, unsure := s.ownOpen(c, a)
		for _, x := range unsure {
			access |= flagsOf(x.access)
			deny |= flagsOf(x.deny)
		}
		if o != nil {
			sh := o.share()
			sh.Owner = a.Owner
			sh.Access |= access
			sh.Deny |= deny
			a.Plan = &Plan{Share: sh, open: o, version: o.version}
			return nfsv4.NFS4_OK
		}
	}
	a.Plan = &Plan{Share: vfs.Share{
		Client: uint64(c.id), State: s.newOther(formOpen, c, string(a.Owner), a.Tail), Owner: a.Owner, Access: access, Deny: deny,
	}}
	return nfsv4.NFS4_OK
}

// shareConflict returns refusal if an open other than own and more, and what those came in place of, denies access or has
// an access in deny. Clients whose lease is over do not count: they are ended.
func (s *State) shareConflict(now time.Time, f *file, own *open, more []*open, access, deny uint32, refusal Status, eff *Effects) Status {
	if f == nil || f.deniers == 0 && deny == 0 {
		return nfsv4.NFS4_OK
	}
	var over []*client
	for o := range f.opens {
		if o.deny&access == 0 && o.access&deny == 0 || o.now() == own || slices.Contains(more, o.now()) {
			continue
		}
		if !s.expired(o.client, now) {
			s.st.ShareConflicts++
			return refusal
		}
		over = append(over, o.client)
	}
	s.expireAll(over, eff)
	return nfsv4.NFS4_OK
}

// expireAll ends clients, which may be named more than once.
func (s *State) expireAll(over []*client, eff *Effects) {
	for _, c := range over {
		if s.clients[c.id] == c {
			s.expire(c, eff)
		}
	}
}

// Open records an OPEN (RFC 8881, 18.16) whose vfs open was made; see the
// package comment.
func (s *State) Open(now time.Time, a OpenArgs) (Stateid, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	c, st := s.checkOpen(now, &a, &eff)
	if st != nfsv4.NFS4_OK {
		s.abandon(&a, &eff)
		return Stateid{}, s.effects(eff), st
	}
	o, unsure := s.ownOpen(c, &a)
	for _, x := range unsure {
		s.rekey(x, openKey{revived: x.other, file: a.File})
	}
	o = s.openFor(c, o, &a, &eff)
	for _, x := range unsure {
		s.setAside(now, x, o, &eff)
	}
	o.named, o.counted = true, true
	o.bump()
	o.accessSeen |= 1 << a.Access
	o.denySeen |= 1 << a.Deny
	s.shareChanges(a.Access)
	o.setShare(o.access|a.Access, o.deny|a.Deny)
	if a.Held != 0 {
		if o.held[a.Held] {
			eff.Close = append(eff.Close, FileClose{a.File, a.Held})
		}
		o.held[a.Held] = true
	}
	// What was planned did not know what it came in place of: the file by its name, or what was made again meanwhile.
	if all := o.share(); a.Plan != nil && len(eff.Share) == 0 && (all.Access&^a.Plan.Share.Access != 0 || all.Deny&^a.Plan.Share.Deny != 0) {
		o.version++
		eff.Share = append(eff.Share, FileShare{File: a.File})
	}
	for i := range eff.Share {
		eff.Share[i].Share = o.share()
	}
	s.mustRecord(c, &eff)
	return o.stateid(), s.effects(eff), nfsv4.NFS4_OK
}

// abandon owes the end of what the caller did for an OPEN that is refused. What was kept for a client that is not here any more is not ended: it
// ended with the client's record, or it is another server's, which may have told the client that the open was made.
func (s *State) abandon(a *OpenArgs, eff *Effects) {
	gone := s.clients[a.Client] == nil
	switch p := a.Plan; {
	case p == nil, p.open == nil && s.stateids[p.Share.State] != nil: // the latter is a client's that repeats its request
	case gone, p.open == nil || s.stateids[p.open.other] != stateidHolder(p.open):
		eff.Unshare = append(eff.Unshare, FileClosing{a.File, vfs.Closing{Share: p.Share, Now: p.Share.Deny != 0, Released: gone}})
	default: // it was kept as an upgrade
		p.open.version++
		eff.Share = append(eff.Share, FileShare{a.File, p.open.share()})
	}
	if a.Held != 0 {
		eff.Close = append(eff.Close, FileClose{a.File, a.Held})
	}
}

// Abandon is what an OPEN owes whose vfs open was made and which is given up before State.Open.
func (s *State) Abandon(a OpenArgs) Effects {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	s.abandon(&a, &eff)
	return s.effects(eff)
}

// openFor is the open state of an OPEN: o, unless that is nil. If what was planned of it is not what came, because others of the
// same owner were under way or the file was not known, eff has a Share to be filled in.
func (s *State) openFor(c *client, o *open, a *OpenArgs, eff *Effects) *open {
	p := a.Plan
	asPlanned := true
	switch {
	case o == nil && p == nil:
		o = s.newOpen(c, openKey{owner: string(a.Owner), file: a.File}, s.newOther(formOpen, c, string(a.Owner), a.Tail))
	case o == nil && p.open == nil && s.stateids[p.Share.State] == nil:
		o = s.newOpen(c, openKey{owner: string(a.Owner), file: a.File}, p.Share.State)
	case o == nil: // it was closed meanwhile, and what is kept under its stateid goes
		if p.open != nil {
			eff.Unshare = append(eff.Unshare, FileClosing{a.File, vfs.Closing{Share: p.Share, Now: p.Share.Deny != 0}})
		}
		o = s.newOpen(c, openKey{owner: string(a.Owner), file: a.File}, s.newOther(formOpen, c, string(a.Owner), 0))
		asPlanned = false
	case p != nil && p.Share.State != o.other:
		if s.stateids[p.Share.State] == nil { // else it is kept for another open
			eff.Unshare = append(eff.Unshare, FileClosing{a.File, vfs.Closing{Share: p.Share, Now: p.Share.Deny != 0}})
		}
		asPlanned = false
	case p != nil:
		asPlanned = p.version == o.version
	}
	if p != nil {
		o.kept = true
		o.version++
	}
	if !asPlanned {
		eff.Share = append(eff.Share, FileShare{File: a.File})
	}
	s.rekey(o, openKey{owner: string(a.Owner), file: a.File}) // now its owner is known
	return o
}

// rekey has o be found by another key.
func (s *State) rekey(o *open, key openKey) {
	if o.key == key {
		return
	}
	c, none := o.client, vfs.StateID{}
	if o.key.revived != none {
		c.revived--
	}
	if key.revived != none {
		c.revived++
	}
	delete(c.opens, o.key)
	o.key = key
	c.opens[key] = o
}

func (s *State) newOpen(c *client, key openKey, other vfs.StateID) *open {
	f := s.files[key.file]
	if f == nil {
		f = &file{key: key.file, opens: make(map[*open]struct{}), owners: make(map[lockOwnerKey]*lockState)}
		s.files[key.file] = f
	}
	o := &open{
		stateidState: stateidState{other: other, client: c, file: f},
		key:          key,
		locks:        make(map[*lockState]struct{}),
	}
	s.stateids[other] = o
	c.opens[key] = o
	f.opens[o] = struct{}{}
	s.st.Opens++
	return o
}

// setShare changes what o shares and denies.
func (o *open) setShare(access, deny uint32) {
	if o.deny != 0 {
		o.file.deniers--
	}
	o.access, o.deny = access, deny
	if o.deny != 0 {
		o.file.deniers++
	}
}

// endOpen takes away o with its locks, and owes the closes. released: the client's end takes with it what is kept.
func (s *State) endOpen(o *open, eff *Effects, released bool) {
	for _, x := range o.former {
		if s.stateids[x.other] == stateidHolder(x) {
			s.endOpen(x, eff, released)
		}
	}
	end := FileClosing{o.file.key, vfs.Closing{Share: o.share(), Now: o.deny != 0, Released: released}}
	for l := range o.locks {
		end.Locks = l.appendEnding(end.Locks)
		end.Now = end.Now || l.unsure || l.file.locks.Holds(l) > 0
		s.endLockState(l)
	}
	if o.kept {
		eff.Unshare = append(eff.Unshare, end)
	}
	for flags, held := range o.held {
		if held && !s.holdByDelegation(o, vfs.OpenFlags(flags)) {
			eff.Close = append(eff.Close, FileClose{o.file.key, vfs.OpenFlags(flags)})
		}
	}
	s.shareChanges(o.access)
	if o.key.revived != (vfs.StateID{}) {
		o.client.revived--
	}
	o.setShare(0, 0)
	delete(s.stateids, o.other)
	delete(s.former, o)
	delete(o.client.opens, o.key)
	delete(o.file.opens, o)
	if len(o.file.opens) == 0 {
		delete(s.files, o.file.key)
	}
	s.st.Opens--
}

// OpenDowngrade is OPEN_DOWNGRADE (RFC 8881, 18.18).
func (s *State) OpenDowngrade(now time.Time, client ClientID, f File, id Stateid, access, deny uint32) (Stateid, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	o, st := s.lookupOpen(client, f, id)
	if st != nfsv4.NFS4_OK {
		return Stateid{}, s.effects(eff), st
	}
	if access == 0 || access&^uint32(shareBoth) != 0 || deny&^uint32(shareBoth) != 0 ||
		access&^o.access != 0 || deny&^o.deny != 0 ||
		!unionOfSome(o.accessSeen, access) || !unionOfSome(o.denySeen, deny) {
		return Stateid{}, s.effects(eff), nfsv4.NFS4ERR_INVAL
	}
	s.shareChanges(o.access)
	o.setShare(access, deny)
	o.accessSeen = onlyWithin(o.accessSeen, access)
	o.denySeen = onlyWithin(o.denySeen, deny)
	s.releaseSurplus(o, &eff)
	o.bump()
	if o.kept {
		o.version++
		eff.Share = append(eff.Share, FileShare{f, o.share()})
	}
	return o.stateid(), s.effects(eff), nfsv4.NFS4_OK
}

// unionOfSome reports whether v is the union of values in seen. 0 is that of none.
func unionOfSome(seen uint8, v uint32) bool {
	var u uint32
	for w := range uint32(shareBoth + 1) {
		if seen&(1<<w) != 0 && w&^v == 0 {
			u |= w
		}
	}
	return u == v
}

// onlyWithin drops the values of seen that have bits outside v.
func onlyWithin(seen uint8, v uint32) uint8 {
	for w := range uint32(shareBoth + 1) {
		if w&^v != 0 {
			seen &^= 1 << w
		}
	}
	return seen
}

// releaseSurplus closes vfs opens that have more access than o, as far as the
// others cover what is left. An open for both that is the only one stays.
func (s *State) releaseSurplus(o *open, eff *Effects) {
	want := flagsOf(o.access)
	var covered vfs.OpenFlags
	for flags, held := range o.held {
		if held && vfs.OpenFlags(flags)&^want == 0 {
			covered |= vfs.OpenFlags(flags)
		}
	}
	if want&^covered != 0 {
		return
	}
	for flags, held := range o.held {
		if held && vfs.OpenFlags(flags)&^want != 0 {
			o.held[flags] = false
			if !s.holdByDelegation(o, vfs.OpenFlags(flags)) {
				eff.Close = append(eff.Close, FileClose{o.file.key, vfs.OpenFlags(flags)})
			}
		}
	}
}

// Close is CLOSE (RFC 8881, 18.2). It releases the byte-range locks taken
// through the open.
func (s *State) Close(now time.Time, client ClientID, f File, id Stateid) (Stateid, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	if s.revivable(client, id) { // nothing of it is left to be closed
		s.clients[client].spend(id.Other)
		return Invalid, s.effects(eff), nfsv4.NFS4_OK
	}
	o, st := s.lookupOpen(client, f, id)
	if st != nfsv4.NFS4_OK {
		return Stateid{}, s.effects(eff), st
	}
	if o.client.adopted {
		if o.client.revived > 0 { // it has closed the file: what else was adopted of the owner it may not know any more
			o.file.ofOwner(o.client, tagOf(o.other), func(x *open) {
				x.counted = x.counted && !x.loose
				for l := range x.locks {
					l.named = l.named && !l.loose
				}
			})
		}
		o.client.spend(o.other)
		for _, x := range o.former {
			o.client.spend(x.other)
		}
	}
	s.endOpen(o, &eff, false)
	return Invalid, s.effects(eff), nfsv4.NFS4_OK
}

// CheckIO decides by its stateid whether a READ (want OpenRead), a WRITE or a
// SETATTR of the size (OpenWrite) may be done (RFC 8881, 8.2.3 and 9.1.2).
func (s *State) CheckIO(now time.Time, client ClientID, f File, id Stateid, want vfs.OpenFlags) (IO, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	if id == Anonymous || id == Bypass {
		st := s.checkSpecialIO(now, f, id, want, &eff)
		return IO{Special: true}, s.effects(eff), st
	}
	h, st := s.lookup(client, id)
	if st != nfsv4.NFS4_OK {
		if s.revivable(client, id) {
			if want&vfs.OpenWrite != 0 {
				// There is a record of each open for writing, but not of this. The client is told so for good: were the open made again for
				// reading, the answer would be NFS4ERR_OPENMODE, and a client that tests the stateid then would come again for ever.
				s.clients[client].spend(id.Other)
				return IO{}, s.effects(eff), nfsv4.NFS4ERR_BAD_STATEID
			}
			return IO{Revive: true}, s.effects(eff), nfsv4.NFS4_OK
		}
		return IO{}, s.effects(eff), st
	}
	if d, ok := h.(*delegation); ok {
		return s.delegatedIO(d, f, want, eff)
	}
	o := h.openState()
	if o.file.key != f {
		return IO{}, s.effects(eff), nfsv4.NFS4ERR_BAD_STATEID
	}
	// Reading through an open for writing is allowed: a client that fills up
	// its page must read it first (RFC 8881, 18.22.3).
	access := flagsOf(o.access)
	if want&vfs.OpenWrite != 0 && access&vfs.OpenWrite == 0 {
		return IO{}, s.effects(eff), nfsv4.NFS4ERR_OPENMODE
	}
	return IO{Access: access}, s.effects(eff), nfsv4.NFS4_OK
}

// checkSpecialIO applies share reservations to I/O without an open. The bypass
// stateid reads whatever is denied, and writes like the anonymous one.
func (s *State) checkSpecialIO(now time.Time, f File, id Stateid, want vfs.OpenFlags, eff *Effects) Status {
	if id == Bypass && want&vfs.OpenWrite == 0 {
		return nfsv4.NFS4_OK
	}
	if s.grace { // an open that denies it may be about to be reclaimed
		return nfsv4.NFS4ERR_GRACE
	}
	var access uint32
	if want&vfs.OpenRead != 0 {
		access |= nfsv4.OPEN4_SHARE_ACCESS_READ
	}
	if want&vfs.OpenWrite != 0 {
		access |= nfsv4.OPEN4_SHARE_ACCESS_WRITE
	}
	return s.shareConflict(now, s.files[f], nil, nil, access, 0, nfsv4.NFS4ERR_LOCKED, eff)
}
