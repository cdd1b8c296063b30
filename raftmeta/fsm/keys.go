package fsm

import (
	"encoding/binary"
	"math"
)

// Every key begins with two bytes that name its kind; numbers are big-endian,
// so that keys sort as their numbers. See the package comment for the layout.
var (
	keyFormat = []byte("m/format")
	keyState  = []byte("m/state")
)

// Limits of block ids: the shard in the top 16 bits, then a range unit, then
// the number within the unit. A range is leased as a whole unit, so that the
// range of an id is found by one point read.
const (
	blockShardShift = 48
	blockUnitShift  = 12
	blockUnit       = 1 << blockUnitShift
	blockUnitsMax   = 1 << (blockShardShift - blockUnitShift)
)

func appendFS(b []byte, prefix string, fs uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, prefix...), fs)
}

func appendIno(b []byte, prefix string, fs uint32, ino uint64) []byte {
	return binary.BigEndian.AppendUint64(appendFS(b, prefix, fs), ino)
}

func appendID(b []byte, prefix string, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, prefix...), id)
}

func appendInode(b []byte, fs uint32, ino uint64) []byte { return appendIno(b, "i/", fs, ino) }

// appendBack is the key of the back reference of block to where inode ino has its byte 0.
func appendBack(b []byte, block, ino, place uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(appendID(b, "b/", block), ino), place)
}

func appendDirent(b []byte, fs uint32, dir, cookie uint64) []byte {
	return binary.BigEndian.AppendUint64(appendIno(b, "d/", fs, dir), cookie)
}

func appendExtent(b []byte, fs uint32, ino, end uint64) []byte {
	return binary.BigEndian.AppendUint64(appendIno(b, "e/", fs, ino), end)
}

func appendXattr(b []byte, fs uint32, ino uint64, name string) []byte {
	return append(appendIno(b, "a/", fs, ino), name...)
}

func appendHold(b []byte, fs uint32, ino, origin uint64) []byte {
	return binary.BigEndian.AppendUint64(appendIno(b, "o/", fs, ino), origin)
}

func appendHoldOf(b []byte, origin uint64, fs uint32, ino uint64) []byte {
	b = binary.BigEndian.AppendUint32(appendID(b, "h/", origin), fs)
	return binary.BigEndian.AppendUint64(b, ino)
}

func appendSlot(b []byte, origin uint64, slot uint32) []byte {
	return binary.BigEndian.AppendUint32(appendID(b, "s/", origin), slot)
}

func appendRangeOf(b []byte, origin, unit uint64) []byte {
	return binary.BigEndian.AppendUint64(appendID(b, "l/", origin), unit)
}

func appendKnown(b []byte, client uint64) []byte { return appendID(b, "w/", client) }

func appendClientFile(b []byte, client uint64, fs uint32, ino uint64) []byte {
	b = binary.BigEndian.AppendUint32(appendKnown(b, client), fs)
	return binary.BigEndian.AppendUint64(b, ino)
}

func appendClientSession(b []byte, client uint64, s sessionID) []byte {
	return append(appendKnown(b, client), s[:]...)
}

// Lengths of the keys below w/.
const (
	knownLen         = 2 + 8
	clientFileLen    = knownLen + 4 + 8
	clientSessionLen = knownLen + sessionLen
)

// appendOpens is the prefix of a client's opens of a file, appendLocks that of its locks.
func appendOpens(b []byte, fs uint32, ino, client uint64) []byte {
	return binary.BigEndian.AppendUint64(appendIno(b, "O/", fs, ino), client)
}

func appendLocks(b []byte, fs uint32, ino, client uint64) []byte {
	return binary.BigEndian.AppendUint64(appendIno(b, "L/", fs, ino), client)
}

// ofClientLen is the length of both.
const ofClientLen = 2 + 4 + 8 + 8

func appendCall(b []byte, k callKey) []byte {
	return binary.BigEndian.AppendUint32(append(append(b, "z/"...), k.session[:]...), k.slot)
}

func appendOriginName(b []byte, kind uint32, name string) []byte {
	return append(binary.BigEndian.AppendUint32(append(b, "G/"...), kind), name...)
}

func appendNamed(b []byte, prefix, first string, second []byte) []byte {
	b = append(append(b, prefix...), first...)
	return append(append(b, 0), second...)
}

// prefixEnd is the end of the keys that begin with p, which ends in a number
// or a letter of a kind.
func prefixEnd(p []byte) []byte {
	end := append([]byte(nil), p...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != math.MaxUint8 {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{math.MaxUint8, math.MaxUint8, math.MaxUint8}
}

// tail64 is the number that ends key k.
func tail64(k []byte) uint64 { return binary.BigEndian.Uint64(k[len(k)-8:]) }

// Kinds of counters, each one number under its key.
type counter uint8

const (
	counterOrigin   counter = iota // next origin id
	counterUnit                    // next unit of block ids
	counterQueue                   // next number in the purge queue
	counterQueueLen                // items in the purge queue
	counterIno                     // next inode number of a file system
	counterDying                   // next number in the queue of dying blocks
	counterDyingLen                // blocks in that queue
	counterMap                     // version of the cluster map
	counterClient                  // next id of an NFS client (shard 0)
	counterClients                 // NFS clients that have a record (shard 0), or are known here
	counterGroup                   // next id of a node group (shard 0)
	counterPG                      // highest id of a placement group that any pool has had, from level 4 on (shard 0)
	counterFS                      // lowest file system id that was never given (shard 0); 0: above the highest there is
	counterFSMap                   // version of the list of file systems (shard 0)
	counterJob                     // next id of a job (shard 0)

	// collectCounters is how many kinds level 2 has: part of what it does.
	collectCounters = int(counterMap) + 1
)

type counterKey struct {
	what counter
	fs   uint32 // of counterIno
}

// first is the value of a counter that was never written.
func (c counter) first() uint64 {
	switch c {
	case counterQueueLen, counterDyingLen, counterMap, counterClients, counterPG, counterFS, counterFSMap:
		return 0
	}
	return 1
}

func (k counterKey) append(b []byte) []byte {
	switch k.what {
	case counterOrigin:
		return append(b, "m/next/origin"...)
	case counterUnit:
		return append(b, "m/next/blocks"...)
	case counterQueue:
		return append(b, "m/next/queue"...)
	case counterQueueLen:
		return append(b, "m/queue"...)
	case counterDying:
		return append(b, "m/next/dying"...)
	case counterDyingLen:
		return append(b, "m/dying"...)
	case counterMap:
		return append(b, "m/map"...)
	case counterClient:
		return append(b, "m/next/client"...)
	case counterClients:
		return append(b, "m/clients"...)
	case counterGroup:
		return append(b, "m/next/group"...)
	case counterPG:
		return append(b, "m/last/pg"...)
	case counterFS:
		return append(b, "m/next/fs"...)
	case counterFSMap:
		return append(b, "m/fs"...)
	case counterJob:
		return append(b, "m/next/job"...)
	}
	return appendFS(b, "c/", k.fs)
}

type usageKey struct {
	fs      uint32
	project uint32 // 0: the whole file system
}

func (k usageKey) append(b []byte) []byte {
	b = appendFS(b, "u/", k.fs)
	if k.project != 0 {
		b = binary.BigEndian.AppendUint32(b, k.project)
	}
	return b
}

type inoKey struct {
	fs  uint32
	ino uint64
}

type slotKey struct {
	origin uint64
	slot   uint32
}

const sessionLen = 16

type sessionID [sessionLen]byte

// callKey is a slot of a session.
type callKey struct {
	session sessionID
	slot    uint32
}
