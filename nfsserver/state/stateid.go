package state

import (
	"encoding/binary"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"github.com/cespare/xxhash/v2"

	"github.com/rackfs/rackfs/vfs"
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

// stateidHolder is an open, a lock state or a delegation.
type stateidHolder interface {
	holder() *stateidState
	openState() *open // the open that gives access; a delegation has none
}

// Forms of a stateid, its first byte. None is that of a special stateid.
const (
	formOpen       = 1
	formLock       = 2
	formDelegation = 3
)

// stateidState is what opens, lock states and delegations have in common.
//
// The field "other" of a stateid is: its form (1 byte), the server instance that made it (3), a hash of the client id (2), a hash of
// the owner (2), and the tail (4), which is random or derived from the request that made it. So a stateid of an
// earlier instance, one of a client that has ended (NFS4ERR_EXPIRED) and one that never was are told apart, and an open
// for reading that is known nowhere any more can be made again from its stateid.
type stateidState struct {
	other   vfs.StateID
	seqid   uint32
	loose   bool // from a store, which does not keep seqid: a higher one may be known to the client
	named   bool // the client has named it, or was told it, since it is known here
	counted bool // with its seqid
	client  *client
	file    *file
}

func (h *stateidState) holder() *stateidState { return h }

func (h *stateidState) stateid() Stateid { return Stateid{Seqid: h.seqid, Other: h.other} }

// bump gives the state its next seqid, which is never 0 (RFC 8881, 8.2.2).
func (h *stateidState) bump() {
	if h.seqid++; h.seqid == 0 {
		h.seqid = 1
	}
}

// Tail is what the stateids that an operation makes have as their tail: the same when the client sends it again.
func Tail(c *vfs.Call) uint32 {
	var b [40]byte
	copy(b[:], c.Session[:])
	binary.BigEndian.PutUint32(b[16:], c.Slot)
	binary.BigEndian.PutUint64(b[20:], c.Seq)
	binary.BigEndian.PutUint32(b[28:], c.Op)
	return uint32(xxhash.Sum64(b[:])) | 1 // 0 means none
}

func clientTag(id ClientID) uint16 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(id))
	return uint16(xxhash.Sum64(b[:]))
}

// tagOf is the ownerTag in other.
func tagOf(other vfs.StateID) uint16 { return binary.BigEndian.Uint16(other[6:]) }

func ownerTag(owner string) uint16 { return uint16(xxhash.Sum64String(owner)) }

// newOther makes the other of a new state.
func (s *State) newOther(form byte, c *client, owner string, tail uint32) (other vfs.StateID) {
	binary.BigEndian.PutUint32(other[0:], s.cfg.Boot&0xffffff)
	other[0] = form
	binary.BigEndian.PutUint16(other[4:], clientTag(c.id))
	binary.BigEndian.PutUint16(other[6:], ownerTag(owner))
	binary.BigEndian.PutUint32(other[8:], tail)
	for tail == 0 || s.stateids[other] != nil {
		s.cfg.Rand(other[8:])
		tail = binary.BigEndian.Uint32(other[8:])
	}
	return other
}

// madeHere reports whether this instance made other.
func (s *State) madeHere(other vfs.StateID) bool {
	return binary.BigEndian.Uint32(other[:])&0xffffff == s.cfg.Boot&0xffffff
}

// madeBy reports whether the operation with this tail made other.
func madeBy(other vfs.StateID, tail uint32) bool {
	return tail != 0 && binary.BigEndian.Uint32(other[8:]) == tail
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
	st.named = true
	if d, ok := h.(*delegation); ok && d.revoked {
		return nil, nfsv4.NFS4ERR_DELEG_REVOKED
	}
	// A seqid of 0 means the most recent one; the difference wraps around.
	switch d := int32(id.Seqid - st.seqid); {
	case id.Seqid == 0:
		return h, nfsv4.NFS4_OK
	case d == 0:
		st.counted = true
		return h, nfsv4.NFS4_OK
	case d > 0 && st.loose:
		st.seqid, st.counted = id.Seqid, true
		return h, nfsv4.NFS4_OK
	case d > 0:
		return nil, nfsv4.NFS4ERR_BAD_STATEID
	default:
		return nil, nfsv4.NFS4ERR_OLD_STATEID
	}
}

func (s *State) whyUnknown(client ClientID, id Stateid) Status {
	form := id.Other[0]
	own := binary.BigEndian.Uint16(id.Other[4:]) == clientTag(client)
	switch {
	case id.Other == Anonymous.Other, id.Other == Bypass.Other:
		return nfsv4.NFS4ERR_BAD_STATEID
	case !s.madeHere(id.Other) && !s.cfg.Kept:
		return nfsv4.NFS4ERR_STALE_STATEID
	case s.lostDelegation(client, id):
		return nfsv4.NFS4ERR_DELEG_REVOKED
	case own, form < formOpen || form > formDelegation: // the latter never was
		return nfsv4.NFS4ERR_BAD_STATEID
	}
	for c := range s.clients {
		if binary.BigEndian.Uint16(id.Other[4:]) == clientTag(c) {
			return nfsv4.NFS4ERR_BAD_STATEID // another's
		}
	}
	return nfsv4.NFS4ERR_EXPIRED
}

// revivable reports whether id is one for reading that another server instance, or this one before the client went to another, gave to client and that left no
// trace. Whether the client had closed it before is not known.
func (s *State) revivable(client ClientID, id Stateid) bool {
	c := s.clients[client]
	if c != nil {
		if _, spent := c.spent[id.Other]; spent {
			return false
		}
	}
	return c != nil && c.adopted && id.Other[0] == formOpen && s.stateids[id.Other] == nil &&
		binary.BigEndian.Uint16(id.Other[4:]) == clientTag(client)
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
	if s.revivable(client, id) {
		return nfsv4.NFS4_OK
	}
	s.tests(client)
	h := s.stateids[id.Other]
	var before stateidState
	if h != nil {
		before = *h.holder()
	}
	_, st := s.lookup(client, id)
	if h != nil { // a client asks of what it has another one in place of, too
		h.holder().named, h.holder().counted = before.named, before.counted
	}
	return st
}
