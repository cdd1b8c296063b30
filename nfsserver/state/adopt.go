package state

import (
	"bytes"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
)

// Adoption is a client that another server instance served, as the SessionStore and the file systems keep it. Each of the opens
// was counted by vfs.Keeper.Resume.
type Adoption struct {
	ClientState
	Removals uint64 // State.Removals before any of it was read

	Slots map[SessionID][]vfs.SlotSeq // the newest mutations of each session's slots
	Opens []AdoptedOpen
	Locks []AdoptedLocks
}

// AdoptedOpen is an open in a file system.
type AdoptedOpen struct {
	FS uint64
	vfs.HeldOpen
}

// AdoptedLocks are an owner's locks in a file system.
type AdoptedLocks struct {
	FS uint64
	vfs.HeldLocks
}

// firstSeqid is that of a new stateid.
const firstSeqid = 1

// Removals counts what the store has confirmed to be removed.
func (s *State) Removals() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removals
}

// Serves reports whether the client is known.
func (s *State) Serves(id ClientID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[id] != nil
}

// Adopt takes a client over: its sessions, opens and locks are served from here on, as if nothing had happened. It has a
// whole lease from now. Nothing is taken of a client that is known already or that has ended; then the effects close what Resume
// opened. again: something was removed meanwhile, and what was read may be old; read it again.
func (s *State) Adopt(now time.Time, a Adoption) (eff Effects, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ended := s.unforgotten[a.Client.ClientID]
	if again = s.removals != a.Removals; again || ended || s.clients[a.Client.ClientID] != nil {
		for _, o := range a.Opens {
			eff.Close = append(eff.Close, FileClose{File{o.FS, o.Ino}, o.Access})
		}
		return s.effects(eff), again
	}
	c := s.adoptClient(now, &a.Client)
	for i := range a.Sessions {
		s.adoptSession(c, &a.Sessions[i], a.Slots[a.Sessions[i].ID])
	}
	for i := range a.Opens {
		s.adoptOpen(c, &a.Opens[i], &eff)
	}
	for i := range a.Locks {
		s.adoptLocks(c, &a.Locks[i], &eff)
	}
	for i := range a.Replies {
		s.adoptReply(c, &a.Replies[len(a.Replies)-1-i]) // the newest is first, also when they go on
	}
	for _, q := range a.Seqids { // of what may have ended since, at a server that did not give the client up
		if h, ok := s.stateids[q.State]; ok && h.holder().client == c {
			h.holder().seqid = q.Seqid
		}
	}
	return s.effects(eff), false
}

// EndExcept ends the clients that this server does not serve any more because another one does, or their end was decided
// elsewhere: nothing of them is removed from the store. Calls of theirs in progress end without a trace. The others have a whole lease from now, as those that are
// adopted: this server was away, so they could not be heard.
func (s *State) EndExcept(now time.Time, served func(ClientID) bool) Effects {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	for id, c := range s.clients {
		if !served(id) {
			s.endClient(c, &eff)
			delete(s.unforgotten, id)
		}
	}
	s.forgive(now, func(time.Time) time.Time { return now })
	s.removals++ // what was read of them from the store is old
	return s.effects(eff)
}

func (s *State) adoptClient(now time.Time, r *ClientRecord) *client {
	c := &client{
		id:          r.ClientID,
		owner:       string(r.Owner),
		key:         string(r.Owner),
		verifier:    r.Verifier,
		principal:   r.Principal,
		confirmed:   true,
		renewed:     now,
		csSequence:  r.Sequence,
		csStatus:    nfsv4.NFS4ERR_SEQ_MISORDERED, // unless the session is there
		csLoose:     true,
		sessions:    make(map[*session]struct{}),
		opens:       make(map[openKey]*open),
		reclaimDone: r.Reclaimed,
		adopted:     true,
		quiet:       true,
		since:       now,
	}
	if s.confirmed[c.key] != nil {
		// The same client of another server: it knows the two as different ids, and this one goes on until its lease ends.
		c.key = string(r.Owner) + "\x00" + string(r.Principal) + "\x00" + string(appendID(nil, r.ClientID))
	}
	if r.Delegated {
		c.delegs.given = true
		s.lose(now, c)
	}
	c.adoptCopies(r.Copies)
	s.clients[c.id] = c
	s.confirmed[c.key] = c
	return c
}

func appendID(b []byte, id ClientID) []byte {
	for shift := 56; shift >= 0; shift -= 8 {
		b = append(b, byte(id>>shift))
	}
	return b
}

func (s *State) adoptSession(c *client, r *SessionRecord, slots []vfs.SlotSeq) {
	if _, ended := s.unended[r.ID]; ended || s.sessions[r.ID] != nil || r.Fore.MaxSlots == 0 {
		return
	}
	ss := &session{
		id:       r.ID,
		client:   c,
		fore:     r.Fore,
		back:     r.Back,
		program:  r.CallbackProgram,
		wantBack: r.Flags&nfsv4.CREATE_SESSION4_FLAG_CONN_BACK_CHAN != 0,
		conns:    make(map[uint64]struct{}),
		sequence: r.Sequence,
		resumed:  true,
	}
	s.adoptSlots(ss, r, slots)
	s.sessions[ss.id] = ss
	c.sessions[ss] = struct{}{}
	if ss.sequence == c.csSequence {
		c.csReply, c.csStatus = ss.reply(), nfsv4.NFS4_OK
	}
}

// adoptReply has a slot answer a request that was answered by another server instance.
func (s *State) adoptReply(c *client, r *SlotReply) {
	ss := s.sessions[r.Session]
	if ss == nil || ss.client != c || r.Slot >= uint32(len(ss.slots)) || uint64(len(r.Reply)) > uint64(replyRoom(ss.fore.MaxCachedResponse)) {
		return
	}
	sl := ss.slots[r.Slot]
	if !sl.used || sl.wide != r.Seq { // there was a later request
		return
	}
	s.ended++
	sl.digest, sl.reply, sl.cached, sl.shared, sl.alone, sl.ended = r.Digest, r.Reply, true, true, true, s.ended
	s.st.CachedBytes += int64(cap(sl.reply))
}

func (s *State) adoptOpen(c *client, a *AdoptedOpen, eff *Effects) {
	file := File{a.FS, a.Ino}
	if a.State[0] == formDelegation {
		s.adoptDelegation(c, a, eff)
		return
	}
	key := openKey{owner: string(a.Owner), file: file}
	if len(a.Owner) == 0 || c.opens[key] != nil {
		// A second record of one open-owner: one of the two is of an OPEN that was never answered, or closed and not yet removed. Nothing
		// tells which, so both are there. The one that the client does not know goes when it has closed the other, opened the file again,
		// which finds it, and closed that; or with the client.
		key = openKey{revived: a.State, file: file}
	}
	if s.stateids[a.State] != nil || a.Access == 0 {
		eff.Unshare = append(eff.Unshare, FileClosing{file, vfs.Closing{Share: a.Share, Now: a.Deny != 0}})
		eff.Close = append(eff.Close, FileClose{file, a.Access})
		return
	}
	o := s.newOpen(c, key, a.State)
	if key.revived != (vfs.StateID{}) {
		c.revived++
	}
	o.seqid, o.loose = firstSeqid, true
	o.kept = true
	o.setShare(shareBits(a.Access), shareBits(a.Deny))
	o.widen()
	// What the unions were made of is not kept: a downgrade to any part is allowed.
	o.accessSeen, o.denySeen = partsOf(o.access), partsOf(o.deny)|1
	o.held[a.Access] = true
}

// widen gives o, and all opens of its owner and file, the access of all of them: to the client they are one, and what it locked through one it may use with the access of another.
func (o *open) widen() {
	if o.client.revived == 0 { // it has no two of one owner and file
		return
	}
	access := uint32(0)
	o.file.ofOwner(o.client, tagOf(o.other), func(x *open) { access |= x.access })
	o.file.ofOwner(o.client, tagOf(o.other), func(x *open) { x.setShare(access, x.deny) })
}

// shareBits are the protocol's bits of f; they are the same.
func shareBits(f vfs.OpenFlags) uint32 { return uint32(f) & shareBoth }

// partsOf has bit v for each v that is part of u.
func partsOf(u uint32) (seen uint8) {
	for v := range uint32(shareBoth + 1) {
		if v != 0 && v&^u == 0 {
			seen |= 1 << v
		}
	}
	return seen
}

func (s *State) adoptLocks(c *client, a *AdoptedLocks, eff *Effects) {
	file := File{a.FS, a.Ino}
	key := lockOwnerKey{c, a.Owner.Owner}
	var o *open
	if h, ok := s.stateids[a.Open].(*open); ok && h.client == c && h.file.key == file {
		o = h
	} else if f := s.files[file]; f != nil { // it ended after another one had come in its place: CLOSE ends both at once
		f.ofOwner(c, tagOf(a.Open), func(x *open) {
			if o == nil || bytes.Compare(x.other[:], o.other[:]) < 0 {
				o = x
			}
		})
	}
	if o == nil || s.stateids[a.State] != nil || o.file.owners[key] != nil {
		// The open was closed: the locks go with it.
		eff.Unshare = append(eff.Unshare, FileClosing{file, vfs.Closing{Locks: []vfs.HeldLocks{a.HeldLocks}, Now: len(a.Ranges) > 0}})
		return
	}
	l := s.newLockState(o, a.Owner.Owner, a.State)
	l.seqid, l.loose = firstSeqid, true
	for _, r := range a.Ranges {
		s.countLocks(c, o.file.locks.Set(l, r.First, r.Last, r.Write))
	}
}

// Revive makes an open for reading again that an earlier server instance made: CheckIO or Revivable said that it is
// one, and the caller has made the vfs open (Held) and given the Keeper the share. Its owner is known when it opens the file again.
func (s *State) Revive(now time.Time, client ClientID, f File, id Stateid, held vfs.OpenFlags) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	c := s.clients[client]
	if c == nil || !s.revivable(client, id) || len(c.opens) >= s.cfg.Limits.OpensPerClient {
		// Another request has revived it, or the limit is reached: it may be tried again.
		eff.Close = append(eff.Close, FileClose{f, held})
		return s.effects(eff), nfsv4.NFS4ERR_DELAY
	}
	o := s.newOpen(c, openKey{revived: id.Other, file: f}, id.Other)
	c.revived++
	o.seqid, o.loose, o.named, o.kept = max(id.Seqid, 1), true, true, true
	o.setShare(nfsv4.OPEN4_SHARE_ACCESS_READ, nfsv4.OPEN4_SHARE_DENY_NONE)
	o.accessSeen, o.denySeen = partsOf(o.access), 1
	o.held[held] = true
	return s.effects(eff), nfsv4.NFS4_OK
}

// Revivable reports whether id names an open for reading of an earlier server instance that is not known here yet.
func (s *State) Revivable(client ClientID, id Stateid) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revivable(client, id)
}

// ReviveShare is what a Keeper has to keep of an open that is revived.
func ReviveShare(client ClientID, id Stateid) vfs.Share {
	return vfs.Share{Client: uint64(client), State: id.Other, Access: vfs.OpenRead}
}
