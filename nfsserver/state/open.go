package state

import (
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
}

// openKey names an open state of a client.
type openKey struct {
	owner string
	file  File
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
}

const (
	shareBoth = nfsv4.OPEN4_SHARE_ACCESS_BOTH // all bits of access and of deny
	heldKinds = int(vfs.OpenRead|vfs.OpenWrite) + 1
)

func (o *open) openState() *open { return o }

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
	own := c.opens[openKey{string(a.Owner), a.File}]
	if own == nil && len(c.opens) >= s.cfg.Limits.OpensPerClient {
		return nil, nfsv4.NFS4ERR_DELAY
	}
	return c, s.shareConflict(now, s.files[a.File], own, a.Access, a.Deny, nfsv4.NFS4ERR_SHARE_DENIED, eff)
}

// shareConflict returns refusal if an open other than own denies access or has
// an access in deny. Clients whose lease is over do not count: they are ended.
func (s *State) shareConflict(now time.Time, f *file, own *open, access, deny uint32, refusal Status, eff *Effects) Status {
	if f == nil || f.deniers == 0 && deny == 0 {
		return nfsv4.NFS4_OK
	}
	var over []*client
	for o := range f.opens {
		if o == own || o.deny&access == 0 && o.access&deny == 0 {
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
		if a.Held != 0 {
			eff.Close = append(eff.Close, FileClose{a.File, a.Held})
		}
		return Stateid{}, s.effects(eff), st
	}
	key := openKey{string(a.Owner), a.File}
	o := c.opens[key]
	if o == nil {
		o = s.newOpen(c, key)
	}
	o.bump()
	o.accessSeen |= 1 << a.Access
	o.denySeen |= 1 << a.Deny
	o.setShare(o.access|a.Access, o.deny|a.Deny)
	if a.Held != 0 {
		if o.held[a.Held] {
			eff.Close = append(eff.Close, FileClose{a.File, a.Held})
		}
		o.held[a.Held] = true
	}
	s.mustRecord(c, &eff)
	return o.stateid(), s.effects(eff), nfsv4.NFS4_OK
}

func (s *State) newOpen(c *client, key openKey) *open {
	f := s.files[key.file]
	if f == nil {
		f = &file{key: key.file, opens: make(map[*open]struct{}), owners: make(map[lockOwnerKey]*lockState)}
		s.files[key.file] = f
	}
	o := &open{
		stateidState: stateidState{client: c, file: f},
		key:          key,
		locks:        make(map[*lockState]struct{}),
	}
	s.register(o)
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

// endOpen takes away o with its locks, and owes the closes.
func (s *State) endOpen(o *open, eff *Effects) {
	for l := range o.locks {
		s.endLockState(l)
	}
	for flags, held := range o.held {
		if held {
			eff.Close = append(eff.Close, FileClose{o.file.key, vfs.OpenFlags(flags)})
		}
	}
	o.setShare(0, 0)
	delete(s.stateids, o.other)
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
	o.setShare(access, deny)
	o.accessSeen = onlyWithin(o.accessSeen, access)
	o.denySeen = onlyWithin(o.denySeen, deny)
	o.releaseSurplus(&eff)
	o.bump()
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
func (o *open) releaseSurplus(eff *Effects) {
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
			eff.Close = append(eff.Close, FileClose{o.file.key, vfs.OpenFlags(flags)})
		}
	}
}

// Close is CLOSE (RFC 8881, 18.2). It releases the byte-range locks taken
// through the open.
func (s *State) Close(now time.Time, client ClientID, f File, id Stateid) (Stateid, Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	o, st := s.lookupOpen(client, f, id)
	if st != nfsv4.NFS4_OK {
		return Stateid{}, s.effects(eff), st
	}
	s.endOpen(o, &eff)
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
		return IO{}, s.effects(eff), st
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
	return s.shareConflict(now, s.files[f], nil, access, 0, nfsv4.NFS4ERR_LOCKED, eff)
}
