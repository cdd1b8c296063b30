package fsm

import (
	"bytes"
	"encoding/binary"

	"github.com/rackfs/rackfs/vfs"
)

// Chunk is an aligned part of a file.
type Chunk struct {
	FS     uint32
	Ino    uint64
	Offset uint64
}

// Fragmented lists the chunks of size bytes in which two or more extents end, of at most max extents after the key cursor (nil:
// from the beginning). next is the cursor to go on with, nil at the end. A chunk may be listed again by the next page. What was
// truncated and not purged yet, and what is only reserved, counts: it is a hint where to look.
func Fragmented(v View, cursor []byte, size uint64, max int) (list []Chunk, next []byte, err error) {
	const op = "fsm.fragmented"
	const keyLen = 2 + 4 + 8 + 8
	prefix := []byte("e/")
	lo := prefix
	if cursor != nil {
		lo = append(bytes.Clone(cursor), 0)
	}
	var at Chunk
	var last, before []byte // keys: of the last extent, and of the last one of another chunk
	looked, n := 0, 0
	var bad error
	err = v.Scan(lo, prefixEnd(prefix), func(k, _ []byte) bool {
		if looked == max {
			next = last
			if n == 1 && before != nil {
				next = before // so that the next page sees both of two
			}
			return false
		}
		looked++
		if len(k) != keyLen {
			bad = corrupt("extent key %q", k)
			return false
		}
		end := tail64(k)
		c := Chunk{FS: binary.BigEndian.Uint32(k[2:]), Ino: binary.BigEndian.Uint64(k[6:])}
		if end > 0 {
			c.Offset = (end - 1) / size * size
		}
		if c != at {
			before = append(before[:0], last...)
			if last == nil {
				before = nil
			}
			at, n = c, 0
		}
		last = append(last[:0], k...)
		if n++; n == 2 {
			list = append(list, c)
		}
		return true
	})
	if bad != nil {
		err = bad
	}
	return list, bytes.Clone(next), vfs.Wrap(op, err)
}
