package wire

import (
	"crypto/cipher"
	"crypto/subtle"
	"hash/crc32"

	"github.com/rackfs/rackfs/vfs"
)

const (
	headerLen     = 64
	headerCRCAt   = 44
	macAt         = 48
	macLen        = 16
	frameMagic    = 0x57464b52 // "RKFW"
	frameVersion  = 1
	macChunkBytes = 64 << 10
)

const (
	typeRequest = iota + 1
	typeResponse
	typeCancel
)

const (
	flagCRC = 1 << iota
	flagMAC
)

// header is a decoded frame header, less what only protects it.
type header struct {
	typ        uint8
	op         Op
	flags      uint16
	kind       uint16
	deadlineMS uint32
	id         uint64
	metaLen    int
	payloadLen int
	bodyCRC    uint32
	user       vfs.RequestID
}

// put writes h to b[:headerLen] without header CRC and MAC, which a guard adds last.
func (h *header) put(b []byte) {
	b = b[:headerLen]
	clear(b)
	le.PutUint32(b[0:], frameMagic)
	b[4], b[5] = frameVersion, h.typ
	le.PutUint16(b[6:], uint16(h.op))
	le.PutUint16(b[8:], h.flags)
	le.PutUint16(b[10:], h.kind)
	le.PutUint32(b[12:], h.deadlineMS)
	le.PutUint64(b[16:], h.id)
	le.PutUint32(b[24:], uint32(h.metaLen))
	le.PutUint32(b[28:], uint32(h.payloadLen))
	le.PutUint32(b[32:], h.bodyCRC)
	le.PutUint64(b[36:], uint64(h.user))
}

// parse decodes b[:headerLen] and checks all that can be checked without the
// body: after it the lengths are within the limits and nothing unknown is set.
func (h *header) parse(b []byte, flags uint16, maxMeta, maxPayload int) error {
	b = b[:headerLen]
	if m := le.Uint32(b); m != frameMagic {
		return protocolErrorf("bad magic %#08x", m)
	}
	// The CRC comes before the version so that a flipped bit is not reported as a newer release.
	if got, want := crcOf(b[:headerCRCAt]), le.Uint32(b[headerCRCAt:]); got != want {
		return protocolErrorf("header checksum %#08x, header says %#08x", got, want)
	}
	if b[4] != frameVersion {
		return protocolErrorf("frame version %d, this release speaks %d", b[4], frameVersion)
	}
	*h = header{
		typ:        b[5],
		op:         Op(le.Uint16(b[6:])),
		flags:      le.Uint16(b[8:]),
		kind:       le.Uint16(b[10:]),
		deadlineMS: le.Uint32(b[12:]),
		id:         le.Uint64(b[16:]),
		bodyCRC:    le.Uint32(b[32:]),
		user:       vfs.RequestID(le.Uint64(b[36:])),
	}
	if h.typ < typeRequest || h.typ > typeCancel {
		return protocolErrorf("unknown frame type %d", h.typ)
	}
	if h.flags != flags {
		return protocolErrorf("flags %#x, this connection uses %#x", h.flags, flags)
	}
	if h.user != 0 && h.typ != typeRequest {
		return protocolErrorf("a user's request in a frame of type %d", h.typ)
	}
	meta, payload := le.Uint32(b[24:]), le.Uint32(b[28:])
	if uint64(meta) > uint64(maxMeta) {
		return protocolErrorf("meta of %d bytes, limit %d", meta, maxMeta)
	}
	if uint64(payload) > uint64(maxPayload) {
		return protocolErrorf("payload of %d bytes, limit %d", payload, maxPayload)
	}
	if h.typ == typeCancel && (meta != 0 || payload != 0) {
		return protocolErrorf("cancel frame with a body")
	}
	h.metaLen, h.payloadLen = int(meta), int(payload)
	return nil
}

func crcOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli()) }

// MakeTable returns the one table the runtime keeps for this polynomial.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// guard protects the frames of one direction of one connection: it counts
// them and adds or checks CRCs or MACs. The order of calls is the order of
// frames; callers serialise.
type guard struct {
	flags uint16
	frame cipher.AEAD // both nil without MAC
	body  cipher.AEAD
	count uint64

	nonce [12]byte
	tag   [macLen]byte
	sum   []byte // header, meta, chunk tags
	chunk []byte // a payload chunk that arrived in pieces
}

// maxKeptSum is how much of the scratch space a guard keeps between frames.
const maxKeptSum = 64 << 10

// seal finishes a frame whose header (MAC and CRCs zero) and meta are in head.
func (g *guard) seal(head []byte, payload [][]byte) {
	le.PutUint16(head[8:], g.flags)
	if g.flags&flagCRC != 0 {
		c := crc32.Update(0, castagnoli(), head[headerLen:])
		for _, p := range payload {
			c = crc32.Update(c, castagnoli(), p)
		}
		le.PutUint32(head[32:], c)
	}
	le.PutUint32(head[headerCRCAt:], crcOf(head[:headerCRCAt]))
	if g.flags&flagMAC != 0 {
		g.begin(head[:headerLen], head[headerLen:])
		g.addPieces(payload)
		copy(head[macAt:], g.end())
	}
}

// open checks a whole frame. raw is its header as it was read.
func (g *guard) open(h *header, raw, meta, payload []byte) error {
	if g.flags&flagCRC != 0 {
		c := crc32.Update(crc32.Update(0, castagnoli(), meta), castagnoli(), payload)
		if c != h.bodyCRC {
			return protocolErrorf("body checksum %#08x, header says %#08x", c, h.bodyCRC)
		}
	} else if h.bodyCRC != 0 {
		return protocolErrorf("body checksum on a connection without one")
	}
	var got [macLen]byte
	copy(got[:], raw[macAt:headerLen])
	if g.flags&flagMAC == 0 {
		if got != [macLen]byte{} {
			return protocolErrorf("MAC on a connection without one")
		}
		return nil
	}
	clear(raw[macAt:headerLen])
	g.begin(raw[:headerLen], meta)
	for i := 0; len(payload) > 0; i++ {
		n := min(len(payload), macChunkBytes)
		g.add(i, payload[:n])
		payload = payload[n:]
	}
	if subtle.ConstantTimeCompare(g.end(), got[:]) != 1 {
		return protocolErrorf("frame %d fails authentication: changed, reordered or replayed", g.count-1)
	}
	return nil
}

func (g *guard) begin(head, meta []byte) {
	g.sum = append(append(g.sum[:0], head...), meta...)
	le.PutUint64(g.nonce[:], g.count)
	g.count++
}

// addPieces adds the chunk tags of a payload in pieces. Only a chunk that
// spans pieces is copied together.
func (g *guard) addPieces(payload [][]byte) {
	i, part := 0, g.chunk[:0]
	for _, p := range payload {
		for len(p) > 0 {
			n := min(len(p), macChunkBytes-len(part))
			if len(part) == 0 && n == macChunkBytes {
				g.add(i, p[:n])
				i++
			} else if part = append(part, p[:n]...); len(part) == macChunkBytes {
				g.add(i, part)
				i++
				part = part[:0]
			}
			p = p[n:]
		}
	}
	if len(part) > 0 {
		g.add(i, part)
	}
	g.chunk = part
}

func (g *guard) add(i int, chunk []byte) {
	le.PutUint32(g.nonce[8:], uint32(i)+1)
	g.sum = append(g.sum, g.body.Seal(g.tag[:0], g.nonce[:], nil, chunk)...)
}

// end returns the MAC, valid until the next call of any method.
func (g *guard) end() []byte {
	le.PutUint32(g.nonce[8:], 0)
	t := g.frame.Seal(g.tag[:0], g.nonce[:], nil, g.sum)
	if cap(g.sum) > maxKeptSum {
		g.sum = nil
	}
	return t
}
