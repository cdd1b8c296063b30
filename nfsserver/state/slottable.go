package state

import (
	"time"

	"github.com/rackfs/rackfs/nfsserver/slots"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// leastSlots are left to each session, and given to a new one when memory is short.
	leastSlots = 4

	// maxSlots bounds what a record can make us allocate, whatever the limits were where it was written. Stores know slots below it.
	maxSlots = 1024

	// slotBytes is what a slot costs besides its reply, pastBytes what one costs that was given up.
	slotBytes = 160
	pastBytes = 8
)

// slotTable is the fore channel's slots of a session (RFC 8881, 2.10.6.1). How many there are to be, package slots decides; here is how it comes to that.
//
// More: when all are in use, and the last that were given up are forgotten by the store. The number is recorded (next), then they are there, and the next
// answer tells sr_highest_slotid and sr_target_highest_slotid.
//
// Less: target is lowered, which every answer tells. Nothing else changes, and requests on slots above it are served, until the client agrees: by a new
// request on a slot whose last answer told the target (State.Slots), so that the client has it, with an sa_highest_slotid below it, which says that
// it waits for no answer from slots above and will not send a request again there. Then the new number is recorded, the slots are dropped with their
// replies, and the store forgets outcomes of their requests, in this order: a server that is restarted in between has no
// slots about which it knows less than the client. A client that never agrees keeps what it has and gets no more.
//
// A slot that comes back after that begins with sequence 1, or, if the client did not drop it, with the next one. Its long sequences are
// above all that it ever had (era): what a file system still remembers of it, and a release that comes late, concern older ones.
//
// CB_RECALL_SLOT is not used. A client that is idle renews its lease by SEQUENCE, and two of those bring slots back; memory is
// bounded without it; and a client that does not listen to the target would not listen to the callback.
type slotTable struct {
	slots  []*slot
	target int // how many of them the client is to use
	next   int // how many there will be once that is recorded, 0: no change is under way

	lowered    uint32     // how often target was lowered
	past       []pastSlot // those that were given up, by their number
	era        uint64     // of long sequences of slots that come back: their upper 32 bits
	unreleased bool       // the store may have outcomes of requests on slots that were given up
	busy       int        // calls at once, the most lately
	resized    bool       // they are not those of CREATE_SESSION any more, or were not once

	cost, reserved int64 // bytes: of a slot, and of all this
}

// pastSlot is a slot that was given up.
type pastSlot struct {
	sequence uint32 // the last
	resumed  bool   // it is not known: it was another server instance's
}

func (t *slotTable) highest() uint32       { return uint32(len(t.slots)) - 1 }
func (t *slotTable) targetHighest() uint32 { return uint32(t.target) - 1 }

// everHighest is one more than what sa_highest_slotid may be: a request that was sent before slots were given up may come after that.
func (ss *session) everHighest() uint32 {
	if ss.resumed && ss.resized {
		return maxSlots // how many it had is not known
	}
	return uint32(max(len(ss.slots), len(ss.past)))
}

// recorded is what SessionRecord.Slots says: how many slots there are, or will be.
func (t *slotTable) recorded() uint32 {
	switch {
	case !t.resized:
		return 0
	case t.next > 0:
		return uint32(t.next)
	}
	return uint32(len(t.slots))
}

// last is what SessionRecord.Last says. Of a slot that came back and was not used since it says nothing: any sequence is accepted then. Final are requests whose replies go with the
// client, and those that were before: of others a server that crashes leaves no reply, and to refuse one would have its client make another call of it.
func (t *slotTable) last(leaving bool) (out []SlotRecord) {
	for i, sl := range t.slots {
		if sl.used {
			out = append(out, SlotRecord{Slot: uint32(i), Seq: sl.wide, Final: sl.final && (leaving || sl.resumed)})
		}
	}
	return out
}

func (s *State) budget() slots.Budget {
	l := &s.cfg.Limits
	return slots.Budget{Bytes: l.ReplyCache, Least: leastSlots, Initial: l.Slots, Most: l.MaxSlots}
}

// replyRoom is how long a reply may be that a slot keeps, of a session whose client may ask for so many bytes.
func replyRoom(cached uint32) uint32 { return max(cached, MaxKept) }

// slotCost is what is set aside for a slot.
func slotCost(cached uint32) int64 { return slotBytes + int64(replyRoom(cached)) }

func (s *State) cachedResponse(a *CreateSessionArgs) uint32 {
	return min(a.Fore.MaxCachedResponse, s.cfg.Limits.MaxCachedResponse)
}

// grant is how many slots a new session of c gets, 0 if there is no memory for it. Clients whose lease is over go first.
func (s *State) grant(now time.Time, c *client, a *CreateSessionArgs, eff *Effects) int {
	b, cost := s.budget(), slotCost(s.cachedResponse(a))
	for {
		used := s.st.SlotBytes
		if old := s.replaced(c); old != nil { // it goes when this one comes
			for ss := range old.sessions {
				used -= ss.reserved
			}
		}
		if n := b.Grant(used, cost, int(min(a.Fore.MaxSlots, maxSlots))); n > 0 {
			return n
		}
		c.renewed = now
		if !s.evict(now, eff) {
			s.st.SessionsRefused++
			s.pressed = true
			return 0
		}
	}
}

// Slots are sr_highest_slotid and sr_target_highest_slotid of the answer to c, which is about to be sent. They are those of now and not of when the
// request came: answers then tell numbers in the order in which they are sent.
func (s *State) Slots(c *Call) (highest, target uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss := c.session
	if ss.ended {
		return c.Slot, c.Slot
	}
	c.slot.told = ss.lowered
	return ss.highest(), ss.targetHighest()
}

// reserve accounts for what ss has.
func (s *State) reserve(ss *session) {
	n := max(len(ss.slots), ss.next)
	bytes := int64(n)*ss.cost + int64(len(ss.past))*pastBytes
	s.st.SlotBytes += bytes - ss.reserved
	ss.reserved = bytes
}

// makeSlots makes the first slots of a session.
func (s *State) makeSlots(ss *session, n int) {
	ss.cost = slotCost(ss.fore.MaxCachedResponse)
	ss.slots = make([]*slot, 0, n)
	s.growTo(ss, n)
}

// growTo adds slots up to n.
func (s *State) growTo(ss *session, n int) {
	s.st.Slots += n - len(ss.slots)
	for i := len(ss.slots); i < n; i++ {
		sl := &slot{wide: ss.era << 32}
		switch {
		case i >= len(ss.past):
			sl.resumed = ss.resumed // whether it ever was, is not known
		case ss.past[i].resumed:
			sl.resumed = true
		default:
			sl.returned, sl.sequence = true, ss.past[i].sequence
			sl.wide |= uint64(sl.sequence)
		}
		ss.slots = append(ss.slots, sl)
	}
	ss.target = n
	s.reserve(ss)
}

// shrinkTo drops the slots from n on, which the client has given up.
func (s *State) shrinkTo(ss *session, n int) {
	gone := ss.slots[n:]
	s.st.Slots -= len(gone)
	s.st.SlotsFreed += uint64(len(gone))
	for len(ss.past) < len(ss.slots) {
		ss.past = append(ss.past, pastSlot{})
	}
	for i, sl := range gone {
		s.st.CachedBytes -= int64(cap(sl.reply))
		ss.past[n+i] = pastSlot{sl.sequence, sl.resumed}
		ss.era = max(ss.era, sl.wide>>32)
		gone[i] = nil
	}
	ss.era++
	ss.slots = ss.slots[:n:n]
	ss.target = n
	ss.unreleased = s.cfg.Kept
	s.reserve(ss)
}

func (s *State) endSlots(ss *session) {
	for _, sl := range ss.slots {
		s.st.CachedBytes -= int64(cap(sl.reply))
	}
	s.st.Slots -= len(ss.slots)
	s.st.SlotBytes -= ss.reserved
	delete(s.resizing, ss)
	ss.slotTable = slotTable{}
}

// adoptSlots makes the slots of a session of another server instance, with what file systems remember of them.
func (s *State) adoptSlots(ss *session, r *SessionRecord, known []vfs.SlotSeq) {
	n := r.Slots
	ss.resized = n != 0
	if n == 0 {
		n = r.Fore.MaxSlots
	}
	s.makeSlots(ss, int(min(n, maxSlots)))
	for _, l := range r.Last {
		if l.Slot >= uint32(len(ss.slots)) {
			continue
		}
		sl := ss.slots[l.Slot]
		sl.wide, sl.sequence = l.Seq, uint32(l.Seq)
		sl.used, sl.final = true, l.Final
		ss.era = max(ss.era, l.Seq>>32)
	}
	for _, q := range known {
		if q.Slot >= uint32(len(ss.slots)) { // it was given up; the server ended before that was forgotten
			ss.unreleased = true
			ss.era = max(ss.era, q.Seq>>32+1)
			continue
		}
		if sl := ss.slots[q.Slot]; !sl.used || q.Seq > sl.wide {
			sl.used, sl.wide, sl.sequence = true, q.Seq, uint32(q.Seq)
			sl.final = false
		}
	}
	s.stillResizing(ss)
}

// resize looks at a new request of ss: does it say that slots are given up, or do those that there are not suffice. knows: its client has
// the answer that told the target.
func (s *State) resize(ss *session, a *SequenceArgs, knows bool) {
	ss.busy = max(ss.busy, ss.running)
	if ss.next > 0 {
		return
	}
	n := len(ss.slots)
	switch {
	case ss.target < n && knows && max(a.Slot, a.HighestSlot) < uint32(ss.target) && ss.idleFrom(ss.target):
		ss.next = ss.target
	case ss.target == n && ss.running == n && !ss.unreleased:
		b := s.budget()
		if more := b.Grow(s.st.SlotBytes, ss.cost, n); more > n {
			ss.next = more
			s.st.SlotsGrown += uint64(more - n)
			s.reserve(ss)
		}
	}
	if ss.next == 0 {
		return
	}
	ss.resized = true
	s.changed(ss)
	if s.cfg.Kept {
		s.resizing[ss] = struct{}{}
		return
	}
	s.settle(ss)
}

// idleFrom reports whether no request is in progress on slots from n on.
func (t *slotTable) idleFrom(n int) bool {
	for _, sl := range t.slots[n:] {
		if sl.call != nil {
			return false
		}
	}
	return true
}

// settle makes a change of the number of slots that is recorded, if one is under way.
func (s *State) settle(ss *session) {
	n := ss.next
	if n == 0 {
		return
	}
	ss.next = 0
	if n > len(ss.slots) {
		s.growTo(ss, n)
	} else {
		s.shrinkTo(ss, n)
	}
	s.stillResizing(ss)
}

// stillResizing notes whether the store has something to do about slots of ss.
func (s *State) stillResizing(ss *session) {
	if ss.next > 0 || ss.unreleased {
		s.resizing[ss] = struct{}{}
	} else {
		delete(s.resizing, ss)
	}
}

// tickSlots decides how many slots each session is to use, and has recorded what is decided.
func (s *State) tickSlots(eff *Effects) {
	b := s.budget()
	s.pressed = b.Pressed(s.st.SlotBytes, s.pressed)
	var all []slots.Session
	var of []*session
	s.st.SlotsAsked = 0
	for _, ss := range s.sessions {
		if ss.next == 0 { // else it is about to change
			all = append(all, slots.Session{Cost: ss.cost, Slots: len(ss.slots), Used: ss.busy})
			of = append(of, ss)
		}
		ss.busy = max(ss.running, ss.busy-ss.busy/8-1)
	}
	if s.pressed {
		for i, n := range b.Targets(all) {
			of[i].aim(n)
			s.st.SlotsAsked += len(of[i].slots) - n
		}
	} else {
		for _, ss := range of {
			ss.aim(len(ss.slots))
		}
	}
	for ss := range s.resizing {
		if ss.next > 0 {
			eff.Sessions = append(eff.Sessions, SessionPut{ss.client.record(), ss.record()})
		}
		if ss.unreleased {
			eff.Slots = append(eff.Slots, SlotsGone{Session: ss.id, Client: ss.client.id, First: uint32(len(ss.slots)), Below: ss.era << 32})
		}
	}
}

// aim sets the target.
func (t *slotTable) aim(n int) {
	if n < t.target {
		t.lowered++
	}
	t.target = n
}
