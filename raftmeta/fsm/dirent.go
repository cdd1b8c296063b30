package fsm

import (
	"encoding/binary"

	"github.com/dchest/siphash"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// hashFunc is the keyed hash of a name; only its low 55 bits are used.
type hashFunc func(k0, k1 uint64, name []byte) uint64

func nameHash(k0, k1 uint64, name []byte) uint64 { return siphash.Hash(k0, k1, name) }

const (
	hashBits     = 55
	slotBits     = 8 // of a cookie: entries whose names have the same hash
	firstSlotOf0 = 3 // cookies 0, 1 and 2 mean other things to NFS
	slotsMax     = 1 << slotBits

	// typeGap marks a removed entry that has others of the same hash behind it:
	// a search goes on, an insert may take the place.
	typeGap = 255
)

// space is a NamespaceRecord decoded.
type space struct {
	k0, k1 uint64
	enc    []byte
}

func decodeSpace(b []byte) (*space, error) {
	var r metapb.NamespaceRecord
	if err := r.UnmarshalVT(b); err != nil {
		return nil, corrupt("name space: %w", err)
	}
	if len(r.HashKey) != hashKeyLen {
		return nil, corrupt("hash key of %d bytes", len(r.HashKey))
	}
	return &space{
		k0: binary.LittleEndian.Uint64(r.HashKey), k1: binary.LittleEndian.Uint64(r.HashKey[8:]),
		enc: b,
	}, nil
}

const hashKeyLen = 16

// places are the cookies that name may have: first to last.
func (s *space) places(hash hashFunc, name []byte) (first, last uint64) {
	h := hash(s.k0, s.k1, name) & (1<<hashBits - 1)
	first = h << slotBits
	last = first | (slotsMax - 1)
	if h == 0 {
		first = firstSlotOf0
	}
	return first, last
}

// dirent is a DirentRecord decoded.
type dirent struct {
	name string
	ino  uint64
	typ  vfs.Type
}

func decodeDirent(b []byte) (*dirent, error) {
	var r metapb.DirentRecord
	if err := r.UnmarshalVT(b); err != nil {
		return nil, corrupt("directory entry: %w", err)
	}
	return &dirent{name: string(r.Name), ino: r.Ino, typ: vfs.Type(r.Type)}, nil
}

func encodeDirent(d *dirent) ([]byte, error) {
	b, err := (&metapb.DirentRecord{Name: []byte(d.name), Ino: d.ino, Type: uint32(d.typ)}).MarshalVT()
	if err != nil {
		return nil, fatal(err)
	}
	return b, nil
}

// spot is where a name is in a directory, or where it would be put.
type spot struct {
	dir    uint64
	name   string
	cookie uint64  // 0: no room
	entry  *dirent // nil: the name is not there
}

// find looks for name. Entries of one hash have no holes before them that are
// not marked, so a search ends at the first missing key, and for nearly every
// name reads one.
func (x *call) find(sp *space, dir uint64, name []byte) (spot, error) {
	at := spot{dir: dir, name: string(name)}
	first, last := sp.places(x.opts.hash, name)
	for c := first; c <= last; c++ {
		b, ok, err := x.getEntry(dir, c)
		if err != nil {
			return at, err
		}
		if !ok {
			if at.cookie == 0 {
				at.cookie = c
			}
			return at, nil
		}
		d, err := decodeDirent(b)
		if err != nil {
			return at, err
		}
		if d.typ == typeGap {
			if at.cookie == 0 {
				at.cookie = c
			}
		} else if d.name == at.name {
			at.cookie, at.entry = c, d
			return at, nil
		}
	}
	return at, nil
}

// getEntry returns the record at a cookie. It is valid until the next call.
func (x *call) getEntry(dir, cookie uint64) ([]byte, bool, error) {
	if x.names.lacks(inoKey{x.fs, dir}, cookie) {
		return nil, false, nil
	}
	key := x.direntKey(dir, cookie)
	if r, ok := x.kv.rows[string(key)]; ok {
		return r.v, r.v != nil, nil
	}
	if b, ok := x.cache.peek(direntCacheKey(x.fs, dir, cookie), x.rec[:0]); ok {
		x.rec = b
		return b, true, nil
	}
	return x.read(key)
}

// setEntry writes the record at a cookie.
func (x *call) setEntry(dir, cookie uint64, rec []byte) {
	x.names.add(inoKey{x.fs, dir}, cookie)
	x.set(x.direntKey(dir, cookie), rec)
}

func (x *call) direntKey(dir, cookie uint64) []byte {
	x.key = appendDirent(x.key[:0], x.fs, dir, cookie)
	return x.key
}

// setName makes the name at the spot point to n. A name that was there keeps its
// cookie.
func (x *call) setName(at *spot, n *inode) error {
	if at.cookie == 0 {
		return vfs.Errorf(vfs.KindNoSpace, "fsm", "%d names of this directory have the same hash", slotsMax)
	}
	b, err := encodeDirent(&dirent{name: at.name, ino: uint64(n.attr.Ino), typ: n.attr.Type})
	if err != nil {
		return err
	}
	x.setEntry(at.dir, at.cookie, b)
	return nil
}

// dropName takes the entry at the spot away.
func (x *call) dropName(at *spot) error {
	here := at.cookie
	if here&(slotsMax-1) != slotsMax-1 {
		_, behind, err := x.getEntry(at.dir, here+1)
		if err != nil {
			return err
		}
		if behind {
			b, err := encodeDirent(&dirent{typ: typeGap})
			if err != nil {
				return err
			}
			x.setEntry(at.dir, here, b)
			return nil
		}
	}
	x.del(x.direntKey(at.dir, here))
	// Gaps that have nothing behind them now go too.
	first := here &^ (slotsMax - 1)
	if first == 0 {
		first = firstSlotOf0
	}
	for c := here; c > first; c-- {
		b, ok, err := x.getEntry(at.dir, c-1)
		if err != nil {
			return err
		}
		if !ok {
			return corrupt("hole at cookie %d of directory %d", c-1, at.dir)
		}
		d, err := decodeDirent(b)
		if err != nil || d.typ != typeGap {
			return err
		}
		x.del(x.direntKey(at.dir, c-1))
	}
	return nil
}
