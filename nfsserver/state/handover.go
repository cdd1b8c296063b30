package state

import (
	"cmp"
	"slices"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// A client that this server serves may go to another one. From BeginLeave on none of its requests begins; when those in progress have ended (quiet) nothing of
// it changes any more, and the caller gives it up in the store with the sessions of Leaving, then ends it here (Left). Until then it can stay (Stay). Requests that come
// meanwhile wait for the decision (SequenceResult.Leaving, LeavingClient): whoever answered them with NFS4ERR_DELAY would have a Linux client
// wait for 15 s.

// leaving is a client's hand-over.
type leaving struct {
	quiet chan struct{} // closed when no call is in progress
	over  chan struct{} // closed when it is decided
	still bool          // quiet is closed
}

// settle notes that a call of c has ended. l may be nil.
func (l *leaving) settle(c *client) {
	if l != nil && !l.still && c.running == 0 {
		l.still = true
		close(l.quiet)
	}
}

func (c *client) endLeave() {
	if c.leave != nil {
		close(c.leave.over)
		c.leave = nil
	}
}

// Needs is until when a client should stay that was taken over a moment ago: for least, so that what it came for is done before it goes on. It has passed if the client was heard
// of and has no call in progress, or is not served here.
func (s *State) Needs(id ClientID, least time.Duration) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	if c == nil || c.running == 0 && c.heard {
		return time.Time{}
	}
	return c.since.Add(least)
}

// Served lists the clients that are served here and known to the store.
func (s *State) Served() (list []ClientID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.clients {
		if c.confirmed {
			list = append(list, id)
		}
	}
	return list
}

// ServesOwner reports whether a client is confirmed under an owner.
func (s *State) ServesOwner(owner []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.confirmed[string(owner)] != nil
}

// Going is what has to be durable of a client before it leaves.
type Going struct {
	Loose   []FileShare // opens that only this server knows: to be kept, as they are here
	Written []File      // open for writing: may have unstable data
}

// Going tells it, of a client that may be in use. Clients whose opens are not kept by a vfs.Keeper have nothing there.
func (s *State) Going(id ClientID) (g Going) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	if c == nil {
		return g
	}
	for _, o := range c.opens {
		if !o.kept {
			continue
		}
		share := o.share()
		if share.Access&vfs.OpenWrite != 0 {
			g.Written = append(g.Written, o.file.key)
		}
		if !share.Lasting() {
			share.Locks = true
			g.Loose = append(g.Loose, FileShare{o.file.key, share})
		}
	}
	return g
}

// BeginLeave begins to give a client up. quiet is closed when none of its calls is in progress any more. ok is false if it is not served here, or leaves already.
func (s *State) BeginLeave(id ClientID) (quiet <-chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	if c == nil || c.leave != nil || !c.confirmed {
		return nil, false
	}
	c.leave = &leaving{quiet: make(chan struct{}), over: make(chan struct{})}
	c.leave.settle(c)
	return c.leave.quiet, true
}

// Stay ends the hand-over of a client that goes on to be served here.
func (s *State) Stay(id ClientID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[id]; c != nil {
		c.endLeave()
	}
}

const (
	// maxSeqids bounds Handed.Seqids. A Linux client whose next seqid is another than it expects waits for 5 s.
	maxSeqids = 1024
	// maxReplies bounds all of Handed.Replies together, in bytes, and MaxKept each: the last WRITEs, with attributes, of more slots than a session has by default. A store may have room for less.
	maxReplies = 96 << 10
)

// Leaving is what the next server is to know of a client that leaves.
func (s *State) Leaving(id ClientID) (h Handed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	if c == nil {
		return h
	}
	for ss := range c.sessions {
		h.Sessions = append(h.Sessions, ss.recordFor(true))
	}
	h.Replies = c.lastReplies()
	for _, o := range c.opens {
		if o.by == nil {
			h.add(&o.stateidState)
		}
	}
	for _, o := range c.opens {
		for l := range o.locks {
			h.add(&l.stateidState)
		}
	}
	return h
}

// lastReplies are those of the client's slots that the next server is to give again: first those that nothing else tells, then the newest.
func (c *client) lastReplies() []SlotReply {
	type kept struct {
		alone bool
		ended uint64
		SlotReply
	}
	var all []kept
	for ss := range c.sessions {
		for i, sl := range ss.slots {
			if sl.used && sl.cached && len(sl.reply) <= MaxKept {
				all = append(all, kept{sl.alone, sl.ended, SlotReply{Session: ss.id, Slot: uint32(i), Seq: sl.wide, Digest: sl.digest, Reply: sl.reply}})
				sl.shared = true
			}
		}
	}
	slices.SortFunc(all, func(a, b kept) int {
		if a.alone != b.alone {
			if a.alone {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.ended, a.ended)
	})
	var out []SlotReply
	n := 0
	for _, k := range all {
		if n += len(k.Reply); n > maxReplies {
			break
		}
		out = append(out, k.SlotReply)
	}
	return out
}

func (h *Handed) add(st *stateidState) {
	if st.seqid != firstSeqid && len(h.Seqids) < maxSeqids {
		h.Seqids = append(h.Seqids, StateSeqid{st.other, st.seqid})
	}
}

// Left ends a client here that is another server's now, or may be: nothing of it is removed from the store.
func (s *State) Left(id ClientID) Effects {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	if c := s.clients[id]; c != nil {
		s.endClient(c, &eff)
		delete(s.unforgotten, id)
		for ss, r := range s.unended {
			if r.Client == id {
				delete(s.unended, ss)
			}
		}
	}
	s.removals++ // what was read of it from the store is old
	return s.effects(eff)
}

// LeavingClient is closed when it is decided where a client goes; nil if it stays.
func (s *State) LeavingClient(id ClientID) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[id].leavingOver()
}

// LeavingSession is LeavingClient of the client that has the session.
func (s *State) LeavingSession(id SessionID) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ss := s.sessions[id]; ss != nil {
		return ss.client.leavingOver()
	}
	return nil
}

// LeavingOwner is LeavingClient of the client that is confirmed under an owner.
func (s *State) LeavingOwner(owner []byte) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.confirmed[string(owner)].leavingOver()
}

func (c *client) leavingOver() <-chan struct{} {
	if c == nil || c.leave == nil {
		return nil
	}
	return c.leave.over
}
