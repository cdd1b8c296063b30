package state

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
)

// Delegations for writing (RFC 8881, 10.4). A client that has one is alone with the file: nobody else has it open or delegated, and before
// anybody else opens, reads, changes or tests locks of it, it is recalled. Until then the client also writes, locks and closes on its own, so what it
// did may be known to it alone: also the size. Others who only ask for attributes do not end that: the client is asked by CB_GETATTR (10.4.3).
//
// What a client was promised that way must not be forgotten: its locks and its unwritten data would be in nobody's way. So with a vfs.Keeper the
// delegation is kept, as an open for both under the delegation's stateid (the first byte of which tells that it is none) with the file handle in
// the place of the owner. It goes on after a restart like an open. Its record ends before anybody else may have the file.

// writeDelegation is what a delegation for writing has besides.
type writeDelegation struct {
	kept bool // by a vfs.Keeper

	// As its client knew the file when it was given. Not known if it was given by an earlier server instance.
	known  bool
	change uint64
}

// access is what a client may do by d.
func (d *delegation) access() vfs.OpenFlags {
	if d.write != nil {
		return vfs.OpenRead | vfs.OpenWrite
	}
	return vfs.OpenRead
}

// share is what a vfs.Keeper keeps of d.
func (d *delegation) share() vfs.Share {
	return vfs.Share{Client: uint64(d.client.id), State: d.other, Owner: d.handle, Access: d.access()}
}

// given reports whether d came with the OPEN of a, which is done again.
func (d *delegation) given(a *DelegateArgs) bool {
	return d.loose && a.Write && d.write != nil && madeBy(d.other, a.Tail)
}

// adoptDelegation goes on with one that an earlier server instance gave. If none are given any more, it is recalled.
func (s *State) adoptDelegation(c *client, a *AdoptedOpen, eff *Effects) {
	f := File{a.FS, a.Ino}
	if c.delegs.held[f] != nil || s.stateids[a.State] != nil || a.Access != vfs.OpenRead|vfs.OpenWrite {
		eff.Unshare = append(eff.Unshare, FileClosing{f, vfs.Closing{Share: a.Share}})
		eff.Close = append(eff.Close, FileClose{f, a.Access})
		return
	}
	d := &delegation{
		stateidState: stateidState{other: a.State, client: c, seqid: 1, loose: true},
		key:          f, handle: a.Owner, held: a.Access, write: &writeDelegation{kept: true},
	}
	s.enter(d)
	s.inherited.Store(true)
	if s.cfg.Delegations != DelegateWrite {
		s.recall(c.renewed, d, eff)
	}
}

// Seen notes which change value a client knows a file by that was just given to it for writing.
func (s *State) Seen(client ClientID, id Stateid, change uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.stateids[id.Other].(*delegation); ok && d.client.id == client && d.write != nil {
		d.write.known, d.write.change = true, change
	}
}

// BeginRead asks whether client may look at the content of f without an open, or at its locks. With NFS4_OK nobody is given the file until the
// caller calls EndChange.
func (s *State) BeginRead(now time.Time, client ClientID, f File) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	st := s.breakDelegations(now, s.clients[client], f, conflictRead, &eff)
	if st == nfsv4.NFS4_OK {
		s.delegs.file(f).changing++
	}
	return s.effects(eff), st
}

// BeginCreate begins an OPEN that may make a file in fs, and must be ended by EndCreate, after Open: until then nobody is given a file there for
// writing, because it could be the new one, of which its maker's Open cannot be refused any more.
func (s *State) BeginCreate(fs uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delegs.creating[fs]++
}

// EndCreate ends what BeginCreate began.
func (s *State) EndCreate(fs uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.delegs.creating[fs]--; s.delegs.creating[fs] == 0 {
		delete(s.delegs.creating, fs)
	}
}

// WriteHolder is a client that may have changed a file by a delegation and not told it yet.
type WriteHolder struct {
	Client  ClientID
	Stateid Stateid
	Handle  []byte
	Down    bool // it cannot be called: its last callback was not answered
}

// BeginGetAttr tells whether a client other than the asking one has f for writing: that one is asked for the attributes. Then nobody is
// given the file until the caller calls EndChange.
func (s *State) BeginGetAttr(now time.Time, client ClientID, f File) (h WriteHolder, eff Effects, has bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fl := s.delegs.files[f]
	if fl == nil {
		return h, s.effects(eff), false
	}
	for holder, d := range fl.holders {
		switch {
		case d.write == nil || holder.id == client:
		case s.expired(holder, now) || s.overdue(d, now):
			s.revoke(d, &eff)
			s.contend(now, f)
		default:
			fl.changing++
			return WriteHolder{holder.id, d.stateid(), d.handle, holder.delegs.pathDown}, s.effects(eff), true
		}
	}
	return h, s.effects(eff), false
}

// Told takes the answer of a client that was asked for the attributes of a file that it has for writing: whether it has changed what is not
// written yet (RFC 8881, 10.4.3). held is false if it does not have the file any more: then what the server knows is all there is.
func (s *State) Told(h WriteHolder, change uint64) (modified, held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.stateids[h.Stateid.Other].(*delegation)
	if !ok || d.client.id != h.Client || d.revoked {
		return false, false
	}
	return !d.write.known || d.write.change != change, true
}

// RecallForRead recalls what others have of f for writing.
func (s *State) RecallForRead(now time.Time, client ClientID, f File) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	st := s.breakDelegations(now, s.clients[client], f, conflictRead, &eff)
	return s.effects(eff), st
}
