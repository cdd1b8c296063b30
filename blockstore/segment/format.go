package segment

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/rackfs/rackfs/vfs"
)

// Sizes of the format.
const (
	PageSize   = 4096
	HeaderSize = PageSize // of a segment

	recordFixed = 128

	// MaxData is the longest data of a record: a block of 4 MiB in one shard.
	MaxData = 4 << 20
	// MaxRecordHeader is the longest record header, that of MaxData bytes.
	MaxRecordHeader = (recordFixed + 4*MaxData/PageSize + PageSize - 1) / PageSize * PageSize

	version = 1
)

const (
	segmentMagic = "RKFSSEG\n"
	recordMagic  = 0x43524b52 // "RKRC"
)

// Kind says what a record holds.
type Kind uint8

const (
	KindShard     Kind = 1
	KindDeletions Kind = 2
	KindEpochs    Kind = 3
)

// State of a segment file.
type State uint16

const (
	StateFree State = 1 // zero-filled or recycled, no record in it counts
	StateUsed State = 2
)

// ID is a cluster or store id.
type ID [16]byte

var (
	le   = binary.LittleEndian
	poly = crc32.MakeTable(crc32.Castagnoli)
	// zeros pads a record's data to a page.
	zeros [PageSize]byte
)

// Header is the header of a segment.
type Header struct {
	State       State
	File        uint32
	Size        int64
	Incarnation uint64
	Salt        uint64
	Cluster     ID
	Store       ID
}

// End is where the space for records ends: at the copy of the header.
func (h *Header) End() int64 { return h.Size/PageSize*PageSize - HeaderSize }

// Encode returns the header's page.
func (h *Header) Encode() []byte {
	p := make([]byte, HeaderSize)
	copy(p, segmentMagic)
	le.PutUint16(p[8:], version)
	le.PutUint16(p[10:], uint16(h.State))
	le.PutUint32(p[12:], h.File)
	le.PutUint64(p[16:], uint64(h.Size))
	le.PutUint64(p[24:], h.Incarnation)
	le.PutUint64(p[32:], h.Salt)
	copy(p[40:], h.Cluster[:])
	copy(p[56:], h.Store[:])
	le.PutUint32(p[124:], crc32.Checksum(p[:124], poly))
	return p
}

// DecodeHeader reads a segment's header page. ok is false if the page is none,
// which is how a segment looks whose preparation a crash cut short. A header
// of a newer version is an error.
func DecodeHeader(p []byte) (h Header, ok bool, err error) {
	if len(p) < recordFixed || string(p[:8]) != segmentMagic || le.Uint32(p[124:]) != crc32.Checksum(p[:124], poly) {
		return Header{}, false, nil
	}
	if v := le.Uint16(p[8:]); v != version {
		return Header{}, false, vfs.Errorf(vfs.KindIncompatible, "segment.open",
			"segment format %d was written by a newer release, this one reads format %d", v, version)
	}
	h = Header{
		State: State(le.Uint16(p[10:])), File: le.Uint32(p[12:]), Size: int64(le.Uint64(p[16:])),
		Incarnation: le.Uint64(p[24:]), Salt: le.Uint64(p[32:]), Cluster: ID(p[40:56]), Store: ID(p[56:72]),
	}
	return h, h.State == StateFree || h.State == StateUsed, nil
}

// Owner says which part of which file a block is. It lets a checker find the
// file of a shard without the metadata.
type Owner struct {
	FS     uint32
	Ino    uint64
	Offset uint64 // of the block in the file
}

// Record is the header of a record without its CRCs.
type Record struct {
	Kind     Kind
	Shard    uint8
	K, M     uint8
	PG       uint32
	Epoch    uint32
	Block    uint64
	BlockLen uint32
	Length   uint32 // of the data
	Owner    Owner
	Offset   int64 // in the segment
}

// HeaderLen is the length on disk of the header of a record of n data bytes.
func HeaderLen(n int) int { return roundUp(recordFixed + 4*pages(n)) }

// HeaderSpan is how many bytes of that header are in use.
func HeaderSpan(n int) int { return recordFixed + 4*pages(n) }

// RecordLen is the length on disk of a record of n data bytes.
func RecordLen(n int) int { return HeaderLen(n) + roundUp(n) }

func pages(n int) int   { return (n + PageSize - 1) / PageSize }
func roundUp(n int) int { return pages(n) * PageSize }

// PageCRCs appends the CRC of each page of data to dst. The last one covers
// only the bytes that are there.
func PageCRCs(dst []uint32, data []byte) []uint32 {
	for len(data) > 0 {
		n := min(len(data), PageSize)
		dst = append(dst, crc32.Checksum(data[:n], poly))
		data = data[n:]
	}
	return dst
}

// EncodeRecord writes the record's header, with the CRCs of data, into buf, which has room for
// HeaderLen(len(data)) bytes, and returns it. r.Offset and r.Length are part of it.
func EncodeRecord(buf []byte, h *Header, r *Record, crcs []uint32) []byte {
	n := HeaderLen(int(r.Length))
	p := buf[:n]
	clear(p)
	le.PutUint32(p[0:], recordMagic)
	le.PutUint16(p[4:], version)
	p[6], p[7] = byte(r.Kind), r.Shard
	le.PutUint32(p[12:], r.Length)
	le.PutUint64(p[16:], h.Incarnation)
	le.PutUint64(p[24:], uint64(r.Offset))
	copy(p[32:], h.Cluster[:])
	le.PutUint32(p[48:], r.PG)
	le.PutUint32(p[52:], r.Epoch)
	le.PutUint64(p[56:], r.Block)
	p[64], p[65] = r.K, r.M
	le.PutUint32(p[68:], r.Owner.FS)
	le.PutUint64(p[72:], r.Owner.Ino)
	le.PutUint64(p[80:], r.Owner.Offset)
	le.PutUint32(p[88:], r.BlockLen)
	for i, c := range crcs {
		le.PutUint32(p[recordFixed+4*i:], c)
	}
	le.PutUint32(p[8:], headerCRC(h.Salt, p[:recordFixed+4*len(crcs)]))
	return p
}

// Padding is what follows n data bytes up to the end of their page.
func Padding(n int) []byte { return zeros[:roundUp(n)-n] }

func headerCRC(salt uint64, p []byte) uint32 {
	var s [8]byte
	le.PutUint64(s[:], salt)
	c := crc32.Update(0, poly, s[:])
	c = crc32.Update(c, poly, p[:8])
	c = crc32.Update(c, poly, zeros[:4])
	return crc32.Update(c, poly, p[12:])
}

// headerSpan returns how many bytes of header p, the start of a page at off, claims to have; 0 if p
// does not start a record of h's incarnation.
func headerSpan(p []byte, h *Header, off int64) int {
	if len(p) < recordFixed || le.Uint32(p) != recordMagic || le.Uint16(p[4:]) != version ||
		le.Uint64(p[16:]) != h.Incarnation || le.Uint64(p[24:]) != uint64(off) {
		return 0
	}
	n := le.Uint32(p[12:])
	if n > MaxData || ID(p[32:48]) != h.Cluster || int64(RecordLen(int(n))) > h.End()-off {
		return 0
	}
	return recordFixed + 4*pages(int(n))
}

// DecodeRecord reads a record's header from p, which lies at off of the
// segment h belongs to. CRCs are the checksums of its data pages and point
// into p. ok is false if p does not hold the header of a record of this
// incarnation at this place.
func DecodeRecord(p []byte, h *Header, off int64) (r Record, crcs CRCs, ok bool) {
	n := headerSpan(p, h, off)
	if n == 0 || n > len(p) || headerCRC(h.Salt, p[:n]) != le.Uint32(p[8:]) {
		return Record{}, nil, false
	}
	r = Record{
		Kind: Kind(p[6]), Shard: p[7], K: p[64], M: p[65], PG: le.Uint32(p[48:]), Epoch: le.Uint32(p[52:]),
		Block: le.Uint64(p[56:]), BlockLen: le.Uint32(p[88:]), Length: le.Uint32(p[12:]), Offset: off,
		Owner: Owner{FS: le.Uint32(p[68:]), Ino: le.Uint64(p[72:]), Offset: le.Uint64(p[80:])},
	}
	return r, CRCs(p[recordFixed:n]), r.Kind >= KindShard && r.Kind <= KindEpochs
}

// CRCs is the CRC table of a record as it is on disk.
type CRCs []byte

// Check reports whether data, which starts at page first of the record's data
// and ends at a page boundary or at the end of the data, matches the table.
func (c CRCs) Check(first int, data []byte) bool {
	for i := first; len(data) > 0; i++ {
		n := min(len(data), PageSize)
		if 4*i+4 > len(c) || crc32.Checksum(data[:n], poly) != le.Uint32(c[4*i:]) {
			return false
		}
		data = data[n:]
	}
	return true
}

// Values appends the checksums to dst.
func (c CRCs) Values(dst []uint32) []uint32 {
	for ; len(c) >= 4; c = c[4:] {
		dst = append(dst, le.Uint32(c))
	}
	return dst
}

// Equal reports whether the table is that of data.
func (c CRCs) Equal(crcs []uint32) bool {
	if len(c) != 4*len(crcs) {
		return false
	}
	for i, x := range crcs {
		if le.Uint32(c[4*i:]) != x {
			return false
		}
	}
	return true
}

// Key names a shard in a store.
type Key struct {
	PG    uint32
	Block uint64
	Shard uint8
}

const keyLen = 16

// AppendKeys encodes the data of a deletions record.
func AppendKeys(dst []byte, keys []Key) []byte {
	for _, k := range keys {
		dst = le.AppendUint32(dst, k.PG)
		dst = le.AppendUint64(dst, k.Block)
		dst = le.AppendUint32(dst, uint32(k.Shard))
	}
	return dst
}

// DecodeKeys decodes the data of a deletions record.
func DecodeKeys(p []byte) []Key {
	keys := make([]Key, 0, len(p)/keyLen)
	for ; len(p) >= keyLen; p = p[keyLen:] {
		keys = append(keys, Key{PG: le.Uint32(p), Block: le.Uint64(p[4:]), Shard: uint8(le.Uint32(p[12:]))})
	}
	return keys
}

// Epoch is the newest epoch of a placement group.
type Epoch struct{ PG, Epoch uint32 }

// AppendEpochs encodes the data of an epochs record.
func AppendEpochs(dst []byte, epochs []Epoch) []byte {
	for _, e := range epochs {
		dst = le.AppendUint32(dst, e.PG)
		dst = le.AppendUint32(dst, e.Epoch)
	}
	return dst
}

// DecodeEpochs decodes the data of an epochs record.
func DecodeEpochs(p []byte) []Epoch {
	epochs := make([]Epoch, 0, len(p)/8)
	for ; len(p) >= 8; p = p[8:] {
		epochs = append(epochs, Epoch{le.Uint32(p), le.Uint32(p[4:])})
	}
	return epochs
}
