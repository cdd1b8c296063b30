package state

import (
	"container/list"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
)

// How delegations end that are in somebody's way: recalls, and what may be done while there are some.

const (
	// calmAfterBreak is how long a file is not given after its first recall; it doubles with each up to maxCalm.
	calmAfterBreak = 10 * time.Second
	maxCalm        = time.Hour
	// maxContended bounds the files whose recalls are remembered.
	maxContended = 1 << 15
)

// contention is how often a file's delegations were recalled for a change, and when it may be given again.
type contention struct {
	breaks int
	until  time.Time
}

// Recall is a CB_RECALL to make.
type Recall struct {
	Client  ClientID
	Stateid Stateid
	Handle  []byte
	Until   time.Time // revoked then
}

func (s *State) recallOldest(now time.Time, order *list.List, eff *Effects) {
	if e := order.Front(); e != nil {
		s.recall(now, e.Value.(*delegation), eff)
	}
}

// recall asks for d once.
func (s *State) recall(now time.Time, d *delegation, eff *Effects) {
	if !d.recalled.IsZero() {
		return
	}
	d.recalled = now
	s.delegs.recalled[d] = struct{}{}
	s.unlist(d)
	s.st.Recalls++
	until := now.Add(s.cfg.Lease)
	if d.client.quiet { // its time begins when it is back, see hear; should it not come, its lease ends
		until = until.Add(s.cfg.Lease)
	}
	eff.Recall = append(eff.Recall, Recall{Client: d.client.id, Stateid: d.stateid(), Handle: d.handle, Until: until})
}

// conflict is what somebody is about to do with a file.
type conflict int

const (
	conflictRead   conflict = iota // to look at it: in the way are delegations for writing
	conflictChange                 // in the way are all
)

// breakDelegations is NFS4ERR_DELAY while clients other than c have f in a way that is in conflict with what.
func (s *State) breakDelegations(now time.Time, c *client, f File, what conflict, eff *Effects) Status {
	if what == conflictChange && s.otherLost(now, c) { // only delegations for reading are ever lost
		return nfsv4.NFS4ERR_DELAY
	}
	fl := s.delegs.files[f]
	if fl == nil {
		return nfsv4.NFS4_OK
	}
	others := 0
	for holder, d := range fl.holders {
		switch {
		case holder == c, what == conflictRead && d.write == nil:
		case s.expired(holder, now) || s.overdue(d, now):
			s.revoke(d, eff)
			s.contend(now, f)
		default:
			others++
			if d.recalled.IsZero() {
				s.contend(now, f)
			}
			s.recall(now, d, eff)
		}
	}
	if others > 0 {
		return nfsv4.NFS4ERR_DELAY
	}
	return nfsv4.NFS4_OK
}

// overdue reports whether d was recalled and may be revoked: a lease after that (RFC 8881, 10.4.6). A client that cannot be called, although it is alive, does not keep
// others waiting for a lease at each file: when it was told so for a lease (SEQ4_STATUS_CB_PATH_DOWN), in which it could have bound
// a backchannel or returned what it has, each of its delegations is revoked when the attempt to recall it has failed.
func (s *State) overdue(d *delegation, now time.Time) bool {
	if d.recalled.IsZero() || s.stoodStill(now) { // what the client returned waits to be read
		return false
	}
	c := &d.client.delegs
	return now.Sub(d.recalled) >= s.cfg.Lease ||
		c.pathDown && !c.failed.Before(d.recalled) && now.Sub(c.unheard) >= s.cfg.Lease
}

// contend notes that f was taken from a client for a change. Several at once count as one.
func (s *State) contend(now time.Time, f File) {
	ct := s.delegs.contended[f]
	if ct.breaks > 0 && now.Before(ct.until) {
		return
	}
	if ct.breaks == 0 && len(s.delegs.contended) >= maxContended {
		for old := range s.delegs.contended { // any one
			delete(s.delegs.contended, old)
			break
		}
	}
	calm := min(calmAfterBreak<<min(ct.breaks, 16), maxCalm)
	s.delegs.contended[f] = contention{ct.breaks + 1, now.Add(calm)}
}

// BeginChange asks whether client may change files, which have been found by their handle. With NFS4_OK the caller makes the change and
// then calls EndChange.
func (s *State) BeginChange(now time.Time, client ClientID, files ...File) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	st := s.mayChange(now, client, files, &eff)
	if st == nfsv4.NFS4_OK {
		for _, f := range files {
			s.delegs.file(f).changing++
		}
		s.delegs.changes++
	}
	return s.effects(eff), st
}

func (s *State) mayChange(now time.Time, client ClientID, files []File, eff *Effects) Status {
	if s.grace { // a delegation of it may be about to be reclaimed
		return nfsv4.NFS4ERR_GRACE
	}
	st := Status(nfsv4.NFS4_OK)
	for _, f := range files {
		if s.breakDelegations(now, s.clients[client], f, conflictChange, eff) != nfsv4.NFS4_OK {
			st = nfsv4.NFS4ERR_DELAY
		}
	}
	return st
}

// EndChange ends what BeginChange began.
func (s *State) EndChange(files ...File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delegs.changes++
	for _, f := range files {
		s.delegs.files[f].changing--
		s.delegs.tidy(f)
	}
}

// BeginNaming begins a change of names in a file system. It must be ended by EndNaming. If delegations is true, then some file there is
// delegated: the caller looks up which files lose or change a name and asks BreakDelegations.
func (s *State) BeginNaming(fs uint64) (delegations bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delegs.changes++
	s.delegs.naming[fs]++
	return s.delegs.perFS[fs] > 0 || len(s.delegs.untold) > 0
}

// EndNaming ends what BeginNaming began.
func (s *State) EndNaming(fs uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delegs.changes++
	if s.delegs.naming[fs]--; s.delegs.naming[fs] == 0 {
		delete(s.delegs.naming, fs)
	}
}

// BreakDelegations is BeginChange between BeginNaming and EndNaming, which keep the files from being given.
func (s *State) BreakDelegations(now time.Time, client ClientID, files ...File) (Effects, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	st := s.mayChange(now, client, files, &eff)
	return s.effects(eff), st
}

// Disclaimed revokes a delegation that is recalled and of which its client says that it does not have it: the reply that gave it may
// be on its way still, so the client has to be told.
func (s *State) Disclaimed(client ClientID, id Stateid) Effects {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	if h, st := s.lookup(client, id); st == nfsv4.NFS4_OK {
		if d, ok := h.(*delegation); ok && !d.recalled.IsZero() {
			s.revoke(d, &eff)
		}
	}
	return s.effects(eff)
}

// tickDelegations revokes those that were not returned in time.
func (s *State) tickDelegations(now time.Time, eff *Effects) {
	for d := range s.delegs.recalled {
		if s.overdue(d, now) || s.expired(d.client, now) {
			s.revoke(d, eff)
		}
	}
	for f, ct := range s.delegs.contended {
		if now.Sub(ct.until) > maxCalm {
			delete(s.delegs.contended, f)
		}
	}
}

// Recalled reports whether a delegation is recalled and neither returned nor revoked yet.
func (s *State) Recalled(client ClientID, id Stateid) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.stateids[id.Other].(*delegation)
	return ok && d.client.id == client && !d.revoked && !d.recalled.IsZero()
}
