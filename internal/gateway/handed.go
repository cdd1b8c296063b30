package gateway

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"sort"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// What a gateway says of a client that it gives up (metapb ClientRecord.handed): a byte of format; how many stateids there are, and for each its 12 bytes and 4 of
// seqid; then replies: 16 bytes of session, slot, sequence, 8 bytes of digest, length, and the reply. Numbers without a size are uvarint, others big-endian. What is too long so is
// packed with DEFLATE (RFC 1951): the last WRITEs of a client are much alike. It may be
// missing, or be of a format that is not known here: then clients wait for seqids, and requests that they send again are executed again, see state.Handed.

const (
	// seqidsFormat has no replies, and no number of stateids. packedFormat is handedFormat, packed.
	seqidsFormat = 1
	handedFormat = 2
	packedFormat = 3
	seqidLen     = len(vfs.StateID{}) + 4
	// maxHanded is how many bytes the metadata takes, maxUnpacked how many they may be unpacked.
	maxHanded   = 16 << 10
	maxUnpacked = 128 << 10
)

func encodeHanded(h *state.Handed) []byte {
	if len(h.Seqids)+len(h.Replies) == 0 {
		return nil
	}
	if b := appendHanded([]byte{handedFormat}, h.Seqids, h.Replies); len(b) <= maxHanded {
		return b
	}
	var best []byte
	// fits has best be the largest that fits. Of two calls the second one is never of less, unless the first one did not fit.
	var p packer
	fits := func(seqids, replies int) bool {
		b := p.pack(appendHanded(nil, h.Seqids[:seqids], h.Replies[:replies]))
		if b == nil {
			return false
		}
		best = b
		return true
	}
	if fits(len(h.Seqids), len(h.Replies)) {
		return best
	}
	// Replies come first: what is not told again may be done again.
	replies := sort.Search(len(h.Replies), func(n int) bool { return !fits(0, n+1) })
	sort.Search(len(h.Seqids), func(n int) bool { return !fits(n+1, replies) })
	return best
}

func appendHanded(b []byte, seqids []state.StateSeqid, replies []state.SlotReply) []byte {
	b = binary.AppendUvarint(b, uint64(len(seqids)))
	for _, q := range seqids {
		b = binary.BigEndian.AppendUint32(append(b, q.State[:]...), q.Seqid)
	}
	for _, r := range replies {
		b = append(b, r.Session[:]...)
		b = binary.AppendUvarint(b, uint64(r.Slot))
		b = binary.AppendUvarint(b, r.Seq)
		b = binary.BigEndian.AppendUint64(b, r.Digest)
		b = append(binary.AppendUvarint(b, uint64(len(r.Reply))), r.Reply...)
	}
	return b
}

// packer packs what appendHanded makes.
type packer struct {
	buf bytes.Buffer
	w   *flate.Writer
}

// pack is nil if there is no room for it.
func (p *packer) pack(b []byte) []byte {
	if len(b) > maxUnpacked {
		return nil
	}
	p.buf.Reset()
	p.buf.WriteByte(packedFormat)
	if p.w == nil {
		p.w, _ = flate.NewWriter(&p.buf, flate.DefaultCompression) // fails for no level that there is
	} else {
		p.w.Reset(&p.buf)
	}
	_, _ = p.w.Write(b) // a buffer takes everything
	_ = p.w.Close()
	if p.buf.Len() > maxHanded {
		return nil
	}
	return bytes.Clone(p.buf.Bytes())
}

// unpack is what was packed, as far as it can be read.
func unpack(b []byte) []byte {
	out, _ := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), maxUnpacked))
	return out
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
	case packedFormat, handedFormat:
		if format == packedFormat {
			b = unpack(b)
		}
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
