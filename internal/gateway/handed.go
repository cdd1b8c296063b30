package gateway

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// What a gateway says of a client that it gives up (metapb ClientRecord.handed): a byte of format; how many stateids there are, and for each its 12 bytes and 4 of
// seqid; then replies: 16 bytes of session, slot, sequence, 8 bytes of digest, length, and the reply. Numbers without a size are uvarint, others big-endian. It may be
// missing, or be of a format that is not known here: then clients wait for seqids, and requests that they send again are executed again, see state.Handed.

const (
	// seqidsFormat has no replies, and no number of stateids.
	seqidsFormat = 1
	handedFormat = 2
	seqidLen     = len(vfs.StateID{}) + 4
	// maxHanded is how many bytes the metadata takes.
	maxHanded = 16 << 10
	// maxReplyHead bounds what is said of a reply besides its bytes.
	maxReplyHead = len(state.SessionID{}) + 3*binary.MaxVarintLen64 + 8
)

func encodeHanded(h *state.Handed) []byte {
	if len(h.Seqids)+len(h.Replies) == 0 {
		return nil
	}
	room := maxHanded - 1 - binary.MaxVarintLen64
	replies := 0 // that there is room for
	for ; replies < len(h.Replies) && maxReplyHead+len(h.Replies[replies].Reply) <= room; replies++ {
		room -= maxReplyHead + len(h.Replies[replies].Reply)
	}
	seqids := h.Seqids[:min(len(h.Seqids), room/seqidLen)]
	b := binary.AppendUvarint([]byte{handedFormat}, uint64(len(seqids)))
	for _, q := range seqids {
		b = binary.BigEndian.AppendUint32(append(b, q.State[:]...), q.Seqid)
	}
	for _, r := range h.Replies[:replies] {
		b = append(b, r.Session[:]...)
		b = binary.AppendUvarint(b, uint64(r.Slot))
		b = binary.AppendUvarint(b, r.Seq)
		b = binary.BigEndian.AppendUint64(b, r.Digest)
		b = append(binary.AppendUvarint(b, uint64(len(r.Reply))), r.Reply...)
	}
	return b
}

// handedOf takes what it understands.
func handedOf(b []byte) (seqids []state.StateSeqid, replies []state.SlotReply) {
	if len(b) == 0 {
		return nil, nil
	}
	format, b := b[0], b[1:]
	n := uint64(len(b) / seqidLen)
	switch format {
	case seqidsFormat:
	case handedFormat:
		var ok bool
		if n, b, ok = uvarint(b); !ok {
			return nil, nil
		}
	default:
		return nil, nil
	}
	for ; n > 0 && len(b) >= seqidLen; n-- {
		seqids = append(seqids, state.StateSeqid{State: vfs.StateID(b[:seqidLen-4]), Seqid: binary.BigEndian.Uint32(b[seqidLen-4:])})
		b = b[seqidLen:]
	}
	if n > 0 || format == seqidsFormat {
		return seqids, nil
	}
	for len(b) > 0 {
		r, rest, ok := replyOf(b)
		if !ok {
			break
		}
		replies, b = append(replies, r), rest
	}
	return seqids, replies
}

func replyOf(b []byte) (r state.SlotReply, rest []byte, ok bool) {
	if len(b) < len(r.Session) {
		return r, nil, false
	}
	r.Session, b = state.SessionID(b[:len(r.Session)]), b[len(r.Session):]
	slot, b, ok := uvarint(b)
	if !ok || slot > math.MaxUint32 {
		return r, nil, false
	}
	r.Slot = uint32(slot)
	if r.Seq, b, ok = uvarint(b); !ok || len(b) < 8 {
		return r, nil, false
	}
	r.Digest = binary.BigEndian.Uint64(b)
	n, b, ok := uvarint(b[8:])
	if !ok || n > uint64(len(b)) {
		return r, nil, false
	}
	r.Reply = slices.Clone(b[:n])
	return r, b[n:], true
}

func uvarint(b []byte) (v uint64, rest []byte, ok bool) {
	v, n := binary.Uvarint(b)
	return v, b[max(n, 0):], n > 0
}
