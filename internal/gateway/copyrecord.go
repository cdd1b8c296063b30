package gateway

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// copyMark stands where a record of before feature level 10 has the length of a copy's handle, which is shorter. Then come, as uvarint, file system, inode, offset, bytes copied before, count, slot, sequence and
// operation; 16 bytes of session; and the length of the handle. Which level that is the copy itself has seen to: below it none goes on in the background.
const copyMark = 255

// copyLen is what a copy's stateid and the byte behind it take.
const copyLen = len(vfs.StateID{}) + 1

func appendCopy(b []byte, c *state.CopyRecord) []byte {
	b = append(b, c.ID[:]...)
	if c.Count > 0 {
		b = append(b, copyMark)
		for _, v := range []uint64{c.FS, uint64(c.Ino), c.Off, c.Before, c.Count, uint64(c.Slot), c.Seq, uint64(c.Op)} {
			b = binary.AppendUvarint(b, v)
		}
		b = append(b, c.Session[:]...)
	}
	return append(append(b, byte(len(c.Handle))), c.Handle...)
}

// copyOf decodes what b begins with.
func copyOf(b []byte) (c state.CopyRecord, rest []byte, ok bool) {
	if len(b) < copyLen {
		return c, nil, false
	}
	copy(c.ID[:], b)
	b = b[len(c.ID):]
	if b[0] == copyMark {
		b = b[1:]
		var v [8]uint64
		for i := range v {
			n := 0
			if v[i], n = binary.Uvarint(b); n <= 0 {
				return c, nil, false
			}
			b = b[n:]
		}
		if v[4] == 0 || v[5] > math.MaxUint32 || v[7] > math.MaxUint32 || len(b) < len(c.Session)+1 {
			return c, nil, false
		}
		c.CopyTarget = state.CopyTarget{FS: v[0], Ino: vfs.Ino(v[1]), Off: v[2], Before: v[3], Count: v[4]}
		c.CopyRequest = state.CopyRequest{Slot: uint32(v[5]), Seq: v[6], Op: uint32(v[7])}
		copy(c.Session[:], b)
		b = b[len(c.Session):]
	}
	n := int(b[0])
	if b = b[1:]; n == copyMark || len(b) < n {
		return c, nil, false
	}
	c.Handle = slices.Clone(b[:n])
	return c, b[n:], true
}
