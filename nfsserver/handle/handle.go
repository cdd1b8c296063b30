package handle

import (
	"crypto/subtle"
	"encoding/binary"

	"github.com/dchest/siphash"

	"github.com/rackfs/rackfs/vfs"
)

// Size is the length of a handle in bytes; NFSv4 allows 128, NFSv3 64.
const Size = 44

// KeySize is the length of a key's secret in bytes.
const KeySize = 16

const (
	format1 = 1

	offKind    = 1
	offKey     = 2
	offCluster = 4
	offFS      = 20
	offExport  = 24
	offIno     = 28
	offMAC     = 36
)

// Kind says what a handle names.
type Kind uint8

const (
	Inode  Kind = 1 // an inode of an exported file system
	Pseudo Kind = 2 // a directory of the pseudo file system
)

// Handle is a decoded handle.
type Handle struct {
	Kind   Kind
	FS     uint32 // file system id
	Export uint32
	Ino    uint64
}

// Key is a MAC key. ID is unique in a ring and never reused.
type Key struct {
	ID     uint16
	Secret [KeySize]byte
}

type halves struct{ k0, k1 uint64 }

// Ring makes and checks the handles of one cluster. It is immutable; a rotation
// makes a new one.
type Ring struct {
	cluster [16]byte
	active  uint16
	keys    map[uint16]halves
}

// NewRing returns the ring of cluster. Handles are made with the last key and
// accepted under any. It refuses an empty or ambiguous set of keys.
func NewRing(cluster [16]byte, keys []Key) (*Ring, error) {
	const op = "handle.ring"
	if len(keys) == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "no key")
	}
	r := &Ring{cluster: cluster, active: keys[len(keys)-1].ID, keys: make(map[uint16]halves, len(keys))}
	for _, k := range keys {
		if _, ok := r.keys[k.ID]; ok {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "two keys have the id %d", k.ID)
		}
		if k.Secret == [KeySize]byte{} {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "key %d is all zeros", k.ID)
		}
		r.keys[k.ID] = halves{binary.LittleEndian.Uint64(k.Secret[:8]), binary.LittleEndian.Uint64(k.Secret[8:])}
	}
	return r, nil
}

// Append appends the handle of h to dst.
func (r *Ring) Append(dst []byte, h Handle) []byte {
	var b [Size]byte
	b[0] = format1
	b[offKind] = byte(h.Kind)
	binary.BigEndian.PutUint16(b[offKey:], r.active)
	copy(b[offCluster:], r.cluster[:])
	binary.BigEndian.PutUint32(b[offFS:], h.FS)
	binary.BigEndian.PutUint32(b[offExport:], h.Export)
	binary.BigEndian.PutUint64(b[offIno:], h.Ino)
	k := r.keys[r.active]
	binary.BigEndian.PutUint64(b[offMAC:], siphash.Hash(k.k0, k.k1, b[:offMAC]))
	return append(dst, b[:]...)
}

// Decode checks a handle that a client sent.
func (r *Ring) Decode(b []byte) (Handle, error) {
	const op = "handle.decode"
	if len(b) != Size || b[0] != format1 {
		return Handle{}, vfs.KindBadHandle.Err(op)
	}
	h := Handle{
		Kind:   Kind(b[offKind]),
		FS:     binary.BigEndian.Uint32(b[offFS:]),
		Export: binary.BigEndian.Uint32(b[offExport:]),
		Ino:    binary.BigEndian.Uint64(b[offIno:]),
	}
	if h.Kind != Inode && h.Kind != Pseudo {
		return Handle{}, vfs.KindBadHandle.Err(op)
	}
	if [16]byte(b[offCluster:offFS]) != r.cluster {
		return Handle{}, vfs.KindStale.Err(op)
	}
	k, ok := r.keys[binary.BigEndian.Uint16(b[offKey:])]
	if !ok {
		return Handle{}, vfs.KindStale.Err(op)
	}
	var mac [8]byte
	binary.BigEndian.PutUint64(mac[:], siphash.Hash(k.k0, k.k1, b[:offMAC]))
	if subtle.ConstantTimeCompare(mac[:], b[offMAC:]) != 1 {
		return Handle{}, vfs.KindBadHandle.Err(op)
	}
	return h, nil
}
