package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"os"

	"github.com/rackfs/rackfs/vfs"
)

// What bbolt's files look like (its format version 2), as far as their structure goes.
const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltHeader     = 16 // of a page: id u64, flags u16, count u16, overflow u32
	boltMetaSum    = 56 // offset of the checksum in a meta page, behind the header
	boltMetaBytes  = boltMetaSum + 8
	boltElement    = 16
	boltBranchFlag = 0x01
	boltLeafFlag   = 0x02
	boltMetaFlag   = 0x04
	boltBucketFlag = 0x01
	boltBucketHead = 16 // root u64, sequence u64
	maxBoltPage    = 64 << 10
	maxBoltDepth   = 64
)

// checkBolt verifies the structure of a bbolt file that no process uses. bbolt trusts its pages: for most damage it
// panics, in part on goroutines of its own when it looks for free pages on opening, where nobody can catch it. And of its two meta pages it silently
// takes the older one if the newer one is damaged, which undoes the last transaction; a meta page lies within one sector, so that
// a power cut leaves it old or new, and a damaged one is damage.
//
// Values have checksums of their own (checked, stable); a key is known, or a number. Elements lie in a page without gaps, as
// bbolt writes them, so that none can be missing.
func checkBolt(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	c := &boltCheck{f: f, size: st.Size(), seen: map[uint64]bool{}}
	if err := c.file(); err != nil {
		return vfs.Errorf(vfs.KindCorrupt, "raftmeta.open", "%s is damaged: %w", path, err)
	}
	return nil
}

type boltCheck struct {
	f        *os.File
	size     int64
	pageSize int64
	pages    uint64 // pages in use: ids are below it
	seen     map[uint64]bool
}

var le = binary.LittleEndian

var (
	errBoltMeta = errors.New("a meta page")
	errBoltPage = errors.New("a page")
	errBoltKey  = errors.New("an unknown key")
)

func (c *boltCheck) file() error {
	var head [boltHeader + boltMetaBytes]byte
	if _, err := c.f.ReadAt(head[:], 0); err != nil {
		return err
	}
	root, pages, tx, err := c.meta(head[:], 0)
	if err != nil {
		return err
	}
	if _, err := c.f.ReadAt(head[:], c.pageSize); err != nil {
		return err
	}
	root1, pages1, tx1, err := c.meta(head[:], 1)
	if err != nil {
		return err
	}
	if tx1 > tx {
		root, pages = root1, pages1
	}
	c.pages = pages
	if root < 2 || int64(pages) > c.size/c.pageSize {
		return errBoltMeta
	}
	return c.page(root, 0)
}

func (c *boltCheck) meta(b []byte, id uint64) (root, pages, tx uint64, err error) {
	m := b[boltHeader:]
	h := fnv.New64a()
	h.Write(m[:boltMetaSum])
	if le.Uint64(b) != id || le.Uint16(b[8:])&boltMetaFlag == 0 ||
		le.Uint32(m) != boltMagic || le.Uint32(m[4:]) != boltVersion || le.Uint64(m[boltMetaSum:]) != h.Sum64() {
		return 0, 0, 0, errBoltMeta
	}
	size := int64(le.Uint32(m[8:]))
	if size < 512 || size > maxBoltPage || c.pageSize != 0 && c.pageSize != size {
		return 0, 0, 0, errBoltMeta
	}
	c.pageSize = size
	return le.Uint64(m[16:]), le.Uint64(m[40:]), le.Uint64(m[48:]), nil
}

// knownKey reports whether raft-boltdb or raft-wal's list of segments uses the key: a bucket, Raft's term and vote, the list, or
// the index of an entry.
func knownKey(k []byte) bool {
	switch string(k) {
	case "logs", "conf", "CurrentTerm", "LastVoteTerm", "LastVoteCand", "wal-meta", "stable", "m":
		return true
	}
	return len(k) == 8
}

// page checks a page and what is below it.
func (c *boltCheck) page(id uint64, depth int) error {
	if depth > maxBoltDepth || id < 2 || id >= c.pages {
		return errBoltPage
	}
	var h [boltHeader]byte
	if _, err := c.f.ReadAt(h[:], int64(id)*c.pageSize); err != nil {
		return err
	}
	n := uint64(le.Uint32(h[12:])) + 1
	if le.Uint64(h[:]) != id || n > c.pages-id {
		return errBoltPage
	}
	for i := range n {
		if c.seen[id+i] {
			return errBoltPage
		}
		c.seen[id+i] = true
	}
	b := make([]byte, int64(n)*c.pageSize) // bounded by the file's size
	if _, err := io.ReadFull(io.NewSectionReader(c.f, int64(id)*c.pageSize, int64(len(b))), b); err != nil {
		return err
	}
	return c.elements(b, depth)
}

// elements checks the body of a page, be it of its own or that of a bucket inside a leaf.
func (c *boltCheck) elements(b []byte, depth int) error {
	if len(b) < boltHeader || depth > maxBoltDepth {
		return errBoltPage
	}
	flags, count := le.Uint16(b[8:]), int(le.Uint16(b[10:]))
	if flags != boltBranchFlag && flags != boltLeafFlag || boltHeader+count*boltElement > len(b) || flags == boltBranchFlag && count == 0 {
		return errBoltPage
	}
	var last []byte
	next := uint64(boltHeader + count*boltElement) // where the next element's bytes begin
	for i := range count {
		at := boltHeader + i*boltElement
		e := b[at : at+boltElement]
		var pos, klen, vlen, bucket uint64
		if flags == boltBranchFlag {
			pos, klen = uint64(le.Uint32(e)), uint64(le.Uint32(e[4:]))
		} else {
			bucket = uint64(le.Uint32(e))
			pos, klen, vlen = uint64(le.Uint32(e[4:])), uint64(le.Uint32(e[8:])), uint64(le.Uint32(e[12:]))
		}
		start := uint64(at) + pos
		if start != next || start+klen+vlen > uint64(len(b)) || bucket > boltBucketFlag {
			return errBoltPage
		}
		next = start + klen + vlen
		key, val := b[start:start+klen], b[start+klen:start+klen+vlen]
		if i > 0 && bytes.Compare(last, key) >= 0 {
			return errBoltPage
		}
		last = key
		if flags == boltLeafFlag && !knownKey(key) {
			return errBoltKey
		}
		if flags == boltBranchFlag {
			if err := c.page(le.Uint64(e[8:]), depth+1); err != nil {
				return err
			}
		} else if bucket == boltBucketFlag {
			if len(val) < boltBucketHead {
				return errBoltPage
			}
			err := error(nil)
			if root := le.Uint64(val); root != 0 {
				err = c.page(root, depth+1)
			} else {
				err = c.elements(val[boltBucketHead:], depth+1)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
