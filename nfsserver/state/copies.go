package state

import (
	"slices"

	"github.com/rackfs/rackfs/vfs"
)

// Copies that go on in the background are the caller's, and memory. With a SessionStore the client's record names them from before
// their COPY is answered until the client has answered CB_OFFLOAD. What an adopted record names is lost: its client is owed a
// CB_OFFLOAD that makes it begin again, as is one that did not answer in time.

// CopyRecord is a copy whose client waits for CB_OFFLOAD.
type CopyRecord struct {
	ID     vfs.StateID // of its stateid, whose seqid is 1
	Handle []byte      // of the destination
}

// maxCopyRecords bounds those of a client.
const maxCopyRecords = 16

// copyState is a CopyRecord here.
type copyState struct {
	CopyRecord
	owed bool // its end is lost
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

// Owes reports whether the end of a copy of the client is owed.
func (s *State) Owes(client ClientID, id vfs.StateID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[client]; c != nil {
		i := c.copies.find(id)
		return i >= 0 && c.copies.list[i].owed
	}
	return false
}

// OwedCopies lists the copies whose clients are owed their end.
func (s *State) OwedCopies() map[ClientID][]CopyRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out map[ClientID][]CopyRecord
	for id, c := range s.clients {
		for i := range c.copies.list {
			if !c.copies.list[i].owed {
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
