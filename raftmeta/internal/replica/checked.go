package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/vfs"
)

// checked is a log store whose entries have a checksum, in their Extensions: raft-wal verifies only the batch at
// its end, and only to tell whether it was written, bbolt verifies nothing. It sits below raft.LogCache, so
// that nobody above sees the checksum, and it turns panics of the store below into errors.
//
//	0  4 B  magic "RKE1"
//	4  u32  CRC32C of index, term, type, extensions, data (big-endian), at the end of Extensions
type checked struct {
	store    raft.LogStore
	all      bool // every entry has a checksum: the replica was made by a release that writes them
	tail     *tail
	damaged  func(error)
	monotone bool
}

const (
	sumMagic = "RKE1"
	sumBytes = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the checksum of an entry, of which ext are the Extensions without it.
func sum(l *raft.Log, ext []byte) uint32 {
	var h [25]byte
	binary.BigEndian.PutUint64(h[0:], l.Index)
	binary.BigEndian.PutUint64(h[8:], l.Term)
	h[16] = byte(l.Type)
	binary.BigEndian.PutUint64(h[17:], uint64(len(ext)))
	c := crc32.Update(0, castagnoli, h[:])
	c = crc32.Update(c, castagnoli, ext)
	return crc32.Update(c, castagnoli, l.Data)
}

// caught calls fn and returns a panic, or a read of a page that is not there, as an error.
func caught(what string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a memory-mapped file that is too short
	defer func() {
		if p := recover(); p != nil {
			err = vfs.Errorf(vfs.KindCorrupt, "raftmeta.log", "%s is damaged: %v", what, p)
		}
	}()
	return fn()
}

// FirstIndex implements raft.LogStore.
func (c *checked) FirstIndex() (i uint64, err error) {
	return i, c.read(caught("the Raft log", func() error { i, err = c.store.FirstIndex(); return err }))
}

// LastIndex implements raft.LogStore.
func (c *checked) LastIndex() (i uint64, err error) {
	return i, c.read(caught("the Raft log", func() error { i, err = c.store.LastIndex(); return err }))
}

// IsMonotonic implements raft.MonotonicLogStore.
func (c *checked) IsMonotonic() bool { return c.monotone }

// read reports an error of reading: a log that cannot be read is damaged.
func (c *checked) read(err error) error {
	if err == nil || errors.Is(err, raft.ErrLogNotFound) {
		return err
	}
	if vfs.KindOf(err) != vfs.KindCorrupt {
		err = vfs.Errorf(vfs.KindCorrupt, "raftmeta.log", "the Raft log cannot be read: %w", err)
	}
	c.damaged(err)
	return err
}

// GetLog implements raft.LogStore.
func (c *checked) GetLog(index uint64, l *raft.Log) error {
	err := caught(fmt.Sprintf("entry %d of the Raft log", index), func() error {
		if err := c.store.GetLog(index, l); err != nil {
			return err
		}
		return c.verify(index, l)
	})
	return c.read(err)
}

// verify checks an entry and takes its checksum off.
func (c *checked) verify(index uint64, l *raft.Log) error {
	bad := func(what string) error {
		return vfs.Errorf(vfs.KindCorrupt, "raftmeta.log", "entry %d of the Raft log is damaged: %s", index, what)
	}
	n := len(l.Extensions) - sumBytes
	if n < 0 || string(l.Extensions[n:n+len(sumMagic)]) != sumMagic {
		if c.all {
			return bad("it has no checksum")
		}
		return nil
	}
	want := binary.BigEndian.Uint32(l.Extensions[n+len(sumMagic):])
	l.Extensions = l.Extensions[:n:n]
	if n == 0 {
		l.Extensions = nil
	}
	if l.Index != index || sum(l, l.Extensions) != want {
		return bad("wrong checksum")
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (c *checked) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. Entries are Raft's and are not changed.
func (c *checked) StoreLogs(ls []*raft.Log) error {
	if len(ls) == 0 {
		return nil
	}
	with := make([]raft.Log, len(ls))
	ptrs := make([]*raft.Log, len(ls))
	for i, l := range ls {
		with[i] = *l
		ext := append(make([]byte, 0, len(l.Extensions)+sumBytes), l.Extensions...)
		with[i].Extensions = binary.BigEndian.AppendUint32(append(ext, sumMagic...), sum(l, l.Extensions))
		ptrs[i] = &with[i]
	}
	if err := caught("the Raft log", func() error { return c.store.StoreLogs(ptrs) }); err != nil {
		c.damaged(err) // Raft's cache above says it without its cause
		return err
	}
	return c.tail.raise(ls[len(ls)-1].Index)
}

// DeleteRange implements raft.LogStore.
func (c *checked) DeleteRange(lo, hi uint64) error {
	last, err := c.LastIndex()
	if err != nil {
		return err
	}
	if hi >= last {
		if err := c.tail.lower(lo - 1); err != nil {
			return err
		}
	}
	return caught("the Raft log", func() error { return c.store.DeleteRange(lo, hi) })
}

// Functions of Raft that end the process when the store they call fails.
const (
	raftApplies = "raft.(*Raft).processLogs"    // reads committed entries
	raftTerm    = "raft.(*Raft).setCurrentTerm" // saves the term
)

// calledBy reports whether function is among the callers.
func calledBy(function string) bool {
	pc := make([]uintptr, 64)
	frames := runtime.CallersFrames(pc[:runtime.Callers(2, pc)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, function) {
			return true
		}
		if !more {
			return false
		}
	}
}

var _ raft.MonotonicLogStore = (*checked)(nil)
