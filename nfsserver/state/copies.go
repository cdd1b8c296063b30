package state

import (
	"slices"

	"github.com/rackfs/rackfs/vfs"
)

// Copies that go on in the background are the caller's, and memory. With a SessionStore the client's record names them from before
// their COPY is answered until the client has answered CB_OFFLOAD and cannot send the COPY again. What an adopted record names has ended with its server: its client is owed a
// CB_OFFLOAD that tells how far it came, as is one that did not answer in time.

// CopyRecord is a copy whose client waits for CB_OFFLOAD.
type CopyRecord struct {
	ID     vfs.StateID // of its stateid, whose seqid is 1
	Handle []byte      // of the destination
	CopyTarget
	CopyRequest
}

// CopyTarget is what a copy writes. Of one that a release recorded that did not name it nothing is known: Count is 0.
type CopyTarget struct {
	FS     uint64
	Ino    vfs.Ino
	Off    uint64 // where the copy begins
	Before uint64 // how many bytes were copied before it went on in the background: durable, and under the call of the request
	Count  uint64 // how many there are to be in all
}

// CopyRequest is the operation that began a copy.
type CopyRequest struct {
	Session SessionID
	Slot    uint32
	Seq     uint64 // long, as Call.Sequence
	Op      uint32 // of the request's operations
}

// copySession is what the ids of sessions begin with that are none of a client's: those of copies (CopyRecord.Call).
const copySession = "copy"

// isCopySession reports whether id is one of those.
func isCopySession(id SessionID) bool { return string(id[:len(copySession)]) == copySession }

// Call is the call of its own under which the copy writes in the background; seq 1 copies, a higher one ends that.
func (r *CopyRecord) Call(client ClientID, seq uint64) *vfs.Call {
	c := &vfs.Call{Client: uint64(client), Seq: seq, InParts: true}
	copy(c.Session[copy(c.Session[:], copySession):], r.ID[:])
	return c
}

// maxCopyRecords bounds those of a client.
const maxCopyRecords = 16

// copyState is a CopyRecord here.
type copyState struct {
	CopyRecord
	owed bool // its end is to be told
	told bool // it was; but the client may send the COPY again
	all  bool // nothing of it is under way, or ever will be: its call may be forgotten
}

// clientCopies are those of a client. The store has them as of stored.
type clientCopies struct {
	list            []copyState
	version, stored uint64
}

func (c *clientCopies) records() []CopyRecord {
	var out []CopyRecord
	for i := range c.list {
		out = append(out, c.list[i].CopyRecord)
	}
	return out
}

func (c *clientCopies) find(id vfs.StateID) int {
	return slices.IndexFunc(c.list, func(cp copyState) bool { return cp.ID == id })
}

// AddCopy names a copy in the client's record. The client may be told of it when the effects are applied; EndCopy takes it back if they
// cannot be. false: there is no such client, or it waits for too many.
func (s *State) AddCopy(client ClientID, r CopyRecord) (Effects, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	c := s.clients[client]
	switch {
	case c == nil || len(c.copies.list) >= maxCopyRecords:
		return s.effects(eff), false
	case !s.cfg.Kept:
		return s.effects(eff), true
	}
	r.Handle = slices.Clone(r.Handle)
	c.copies.list = append(c.copies.list, copyState{CopyRecord: r})
	c.copies.version++
	s.mustRecord(c, &eff)
	return s.effects(eff), true
}

// EndCopy takes a copy out of the client's record: nothing is owed for it any more. What is not there has ended.
func (s *State) EndCopy(client ClientID, id vfs.StateID) Effects {
	s.mu.Lock()
	defer s.mu.Unlock()
	var eff Effects
	c := s.clients[client]
	if c == nil {
		return s.effects(eff)
	}
	if i := c.copies.find(id); i >= 0 {
		c.copies.list = slices.Delete(c.copies.list, i, i+1)
		c.copies.version++
	}
	s.mustRecord(c, &eff)
	return s.effects(eff)
}

// CopyTold notes that the client knows the end of a copy. It stays recorded until the client cannot send the COPY again that began it (SettleCopies). all: nothing of it is under way.
func (s *State) CopyTold(client ClientID, id vfs.StateID, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[client]; c != nil {
		if i := c.copies.find(id); i >= 0 {
			c.copies.list[i].told, c.copies.list[i].all = true, all
		}
	}
}

// SettledCopy is a copy whose call is to be forgotten.
type SettledCopy struct {
	Client ClientID
	CopyRecord
}

// SettleCopies takes those copies out of records whose clients know their end and have the answer of the COPY: they have used its slot again. Calls of forget may be forgotten when the effects are applied.
func (s *State) SettleCopies() (eff Effects, forget []SettledCopy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.clients {
		kept := slices.DeleteFunc(slices.Clone(c.copies.list), func(cp copyState) bool {
			if !cp.told || s.mayRepeat(&cp.CopyRequest) {
				return false
			}
			if cp.all {
				forget = append(forget, SettledCopy{id, cp.CopyRecord})
			}
			return true
		})
		if len(kept) < len(c.copies.list) {
			c.copies.list = kept
			c.copies.version++
			s.mustRecord(c, &eff)
		}
	}
	return s.effects(eff), forget
}

// mayRepeat reports whether a request may come again.
func (s *State) mayRepeat(r *CopyRequest) bool {
	ss := s.sessions[r.Session]
	return ss != nil && r.Slot < uint32(len(ss.slots)) && ss.slots[r.Slot].wide <= r.Seq
}

// CopyOf is the copy that a request has begun before, in the background.
func (s *State) CopyOf(client ClientID, r CopyRequest) (CopyRecord, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[client]; c != nil {
		for i := range c.copies.list {
			if cp := &c.copies.list[i]; cp.CopyRequest == r {
				return cp.CopyRecord, true
			}
		}
	}
	return CopyRecord{}, false
}

// OweCopy notes that the client could not be told the end of a copy.
func (s *State) OweCopy(client ClientID, id vfs.StateID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[client]; c != nil {
		if i := c.copies.find(id); i >= 0 {
			c.copies.list[i].owed = true
		}
	}
}

// OwedCopy is a copy whose end the client is owed, or was told by another server than the one that began it.
func (s *State) OwedCopy(client ClientID, id vfs.StateID) (CopyRecord, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[client]; c != nil {
		if i := c.copies.find(id); i >= 0 && c.copies.list[i].owed {
			return c.copies.list[i].CopyRecord, true
		}
	}
	return CopyRecord{}, false
}

// OwedCopies lists the copies whose clients are owed their end.
func (s *State) OwedCopies() map[ClientID][]CopyRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out map[ClientID][]CopyRecord
	for id, c := range s.clients {
		for i := range c.copies.list {
			if cp := &c.copies.list[i]; !cp.owed || cp.told {
				continue
			}
			if out == nil {
				out = make(map[ClientID][]CopyRecord)
			}
			out[id] = append(out[id], c.copies.list[i].CopyRecord)
		}
	}
	return out
}

// adoptCopies takes over what a record names.
func (c *client) adoptCopies(list []CopyRecord) {
	for _, r := range list[:min(len(list), maxCopyRecords)] {
		c.copies.list = append(c.copies.list, copyState{CopyRecord: r, owed: true})
	}
}

// recordCopies owes the records that the store did not take when the copies of their clients ended.
func (s *State) recordCopies(eff *Effects) {
	for _, c := range s.clients {
		if c.confirmed && c.copies.stored != c.copies.version {
			s.mustRecord(c, eff)
		}
	}
}
