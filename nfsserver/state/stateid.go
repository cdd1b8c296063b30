package state

import (
	"encoding/binary"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
)

// Special stateids (RFC 8881, 8.2.3). The caller puts its current stateid in the
// place of Current; Invalid is the current stateid where there is none, and
// the result of CLOSE.
var (
	Anonymous Stateid
	Bypass    = Stateid{Seqid: 0xffffffff, Other: [12]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	Current   = Stateid{Seqid: 1}
	Invalid   = Stateid{Seqid: 0xffffffff}
)

// stateidHolder is an open or a lock state.
type stateidHolder interface {
	holder() *stateidState
	openState() *open // the open that gives access
}

// stateidState is what opens and lock states have in common.
//
// The field "other" of a stateid is the server instance, the number of the
// client and random bits, so that a stateid of an earlier instance
// (NFS4ERR_STALE_STATEID) and of a client that has ended (NFS4ERR_EXPIRED) are
// told apart from one that never was.
type stateidState struct {
	other  [12]byte
	seqid  uint32
	client *client
	file   *file
}

func (h *stateidState) holder() *stateidState { return h }

func (h *stateidState) stateid() Stateid { return Stateid{Seqid: h.seqid, Other: h.other} }

// bump gives the state its next seqid, which is never 0 (RFC 8881, 8.2.2).
func (h *stateidState) bump() {
	if h.seqid++; h.seqid == 0 {
		h.seqid = 1
	}
}

// register gives h its other.
func (s *State) register(h stateidHolder) {
	st := h.holder()
	binary.BigEndian.PutUint32(st.other[0:], s.cfg.Boot)
	binary.BigEndian.PutUint32(st.other[4:], uint32(st.client.id))
	for {
		s.cfg.Rand(st.other[8:])
		if _, taken := s.stateids[st.other]; !taken {
			break
		}
	}
	s.stateids[st.other] = h
}

// lookup finds the state that id of client names (RFC 8881, 8.2.4).
func (s *State) lookup(client ClientID, id Stateid) (stateidHolder, Status) {
	h, ok := s.stateids[id.Other]
	if !ok {
		return nil, s.whyUnknown(client, id)
	}
	st := h.holder()
	if st.client.id != client {
		return nil, nfsv4.NFS4ERR_BAD_STATEID
	}
	// A seqid of 0 means the most recent one; the difference wraps around.
	switch d := int32(id.Seqid - st.seqid); {
	case id.Seqid == 0, d == 0:
		return h, nfsv4.NFS4_OK
	case d > 0:
		return nil, nfsv4.NFS4ERR_BAD_STATEID
	default:
		return nil, nfsv4.NFS4ERR_OLD_STATEID
	}
}

func (s *State) whyUnknown(client ClientID, id Stateid) Status {
	if id.Other == Anonymous.Other || id.Other == Bypass.Other {
		return nfsv4.NFS4ERR_BAD_STATEID
	}
	number := binary.BigEndian.Uint32(id.Other[4:])
	owner := ClientID(s.cfg.Boot)<<32 | ClientID(number)
	switch {
	case binary.BigEndian.Uint32(id.Other[:]) != s.cfg.Boot:
		return nfsv4.NFS4ERR_STALE_STATEID
	case s.clients[owner] == nil && number >= 1 && number <= s.nextClient:
		return nfsv4.NFS4ERR_EXPIRED
	}
	return nfsv4.NFS4ERR_BAD_STATEID
}

// lookupOpen is lookup of an open's stateid on file f.
func (s *State) lookupOpen(client ClientID, f File, id Stateid) (*open, Status) {
	h, st := s.lookup(client, id)
	if st != nfsv4.NFS4_OK {
		return nil, st
	}
	o, ok := h.(*open)
	if !ok || o.file.key != f {
		return nil, nfsv4.NFS4ERR_BAD_STATEID
	}
	return o, nfsv4.NFS4_OK
}

// lookupLock is lookup of a lock stateid on file f.
func (s *State) lookupLock(client ClientID, f File, id Stateid) (*lockState, Status) {
	h, st := s.lookup(client, id)
	if st != nfsv4.NFS4_OK {
		return nil, st
	}
	l, ok := h.(*lockState)
	if !ok || l.file.key != f {
		return nil, nfsv4.NFS4ERR_BAD_STATEID
	}
	return l, nfsv4.NFS4_OK
}

// TestStateid is the status of one stateid of TEST_STATEID (RFC 8881, 18.48).
func (s *State) TestStateid(client ClientID, id Stateid) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, st := s.lookup(client, id)
	return st
}
