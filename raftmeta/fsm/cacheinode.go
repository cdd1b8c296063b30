package fsm

import (
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// inodeCacheBytes is about what an inode takes in a Cache, its part of the index included.
const inodeCacheBytes = 80

// cacheNumbers are the numbers of an inode that are 0 for most.
type cacheNumbers [28]uint64

// Bits of a cached inode's mask behind those of its numbers: times that are not that of its change.
const (
	cachedAtime = 1 << (len(cacheNumbers{}) + iota)
	cachedMtime
	cachedBtime
)

func (n *inode) cacheNumbers() cacheNumbers {
	a := &n.attr
	return cacheNumbers{
		uint64(a.Mode), uint64(a.Nlink ^ 1), uint64(a.UID), uint64(a.GID), a.Size, a.Used, uint64(a.Dev.Major), uint64(a.Dev.Minor),
		uint64(a.Project), a.Change, n.parent, n.entries, n.lease.origin, n.lease.epoch, n.lease.limit, n.lastEpoch, uint64(n.cutGen),
		n.reservedEnd, uint64(n.opens), uint64(n.deniers), uint64(n.locks),
		uint64(n.xattrs.Count), uint64(n.xattrs.NameBytes), uint64(n.xattrs.ValueBytes), n.xattrs.lastCookie,
		uint64(len(n.target)), uint64(len(n.verifier)), uint64(len(n.cuts)),
	}
}

// appendCached appends what a Cache holds of n: its type, a mask of 4 bytes, the change time, the numbers and times of the mask's bits, and what has a length
// among the numbers. It is for this process only and may change with any version; the store's records are not decoded as fast and take half as much again.
func (n *inode) appendCached(b []byte) []byte {
	a := &n.attr
	nums := n.cacheNumbers()
	mask := uint32(0)
	for i, v := range nums {
		if v != 0 {
			mask |= 1 << i
		}
	}
	times := [...]struct {
		t   time.Time
		bit uint32
	}{{a.Atime, cachedAtime}, {a.Mtime, cachedMtime}, {a.Btime, cachedBtime}}
	for i := range times {
		if !times[i].t.Equal(a.Ctime) {
			mask |= times[i].bit
		}
	}
	b = append(b, byte(a.Type))
	b = binary.LittleEndian.AppendUint32(b, mask)
	b = appendCachedTime(b, a.Ctime)
	for i := range times {
		if mask&times[i].bit != 0 {
			b = appendCachedTime(b, times[i].t)
		}
	}
	for m := mask & (1<<len(nums) - 1); m != 0; m &= m - 1 {
		b = binary.AppendUvarint(b, nums[bits.TrailingZeros32(m)])
	}
	b = append(b, n.target...)
	b = append(b, n.verifier...)
	for _, c := range n.cuts {
		b = binary.AppendUvarint(b, uint64(c.gen))
		b = binary.AppendUvarint(b, c.offset)
	}
	return b
}

// setCached makes n inode ino as appendCached wrote it.
func (n *inode) setCached(ino uint64, b []byte) {
	typ, mask := vfs.Type(b[0]), binary.LittleEndian.Uint32(b[1:])
	b = b[5:]
	ctime, b := cachedTime(b)
	atime, mtime, btime := ctime, ctime, ctime
	if mask&cachedAtime != 0 {
		atime, b = cachedTime(b)
	}
	if mask&cachedMtime != 0 {
		mtime, b = cachedTime(b)
	}
	if mask&cachedBtime != 0 {
		btime, b = cachedTime(b)
	}
	var v cacheNumbers
	for m := mask & (1<<len(v) - 1); m != 0; m &= m - 1 {
		v[bits.TrailingZeros32(m)], b = cachedNumber(b)
	}
	*n = inode{
		attr: vfs.Attr{
			Ino: vfs.Ino(ino), Type: typ, Mode: uint32(v[0]), Nlink: uint32(v[1]) ^ 1, UID: uint32(v[2]), GID: uint32(v[3]),
			Size: v[4], Used: v[5], Dev: vfs.Dev{Major: uint32(v[6]), Minor: uint32(v[7])}, Project: uint32(v[8]), Change: v[9],
			Atime: atime, Mtime: mtime, Ctime: ctime, Btime: btime,
		},
		parent: v[10], entries: v[11], lease: lease{v[12], v[13], v[14]}, lastEpoch: v[15], cutGen: uint32(v[16]),
		reservedEnd: v[17], opens: uint32(v[18]), deniers: uint32(v[19]), locks: uint32(v[20]),
		xattrs: xattrs{vfs.XattrTotals{Count: int(v[21]), NameBytes: int(v[22]), ValueBytes: int(v[23])}, v[24]},
	}
	n.target, b = string(b[:v[25]]), b[v[25]:]
	n.verifier, b = string(b[:v[26]]), b[v[26]:]
	if v[27] == 0 {
		return
	}
	n.cuts = make([]cut, v[27])
	for i := range n.cuts {
		var gen uint64
		gen, b = cachedNumber(b)
		n.cuts[i].gen = uint32(gen)
		n.cuts[i].offset, b = cachedNumber(b)
	}
}

func cachedNumber(b []byte) (uint64, []byte) {
	v, n := binary.Uvarint(b)
	return v, b[n:]
}

func appendCachedTime(b []byte, t time.Time) []byte {
	return binary.LittleEndian.AppendUint32(binary.AppendVarint(b, t.Unix()), uint32(t.Nanosecond()))
}

func cachedTime(b []byte) (time.Time, []byte) {
	sec, n := binary.Varint(b)
	return time.Unix(sec, int64(binary.LittleEndian.Uint32(b[n:]))), b[n+4:]
}
