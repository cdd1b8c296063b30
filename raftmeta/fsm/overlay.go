package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/RaduBerinde/btreemap"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// fatalError is an error that is not a command's answer: the store failed or
// holds what it cannot hold. The replica must stop.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

func fatal(err error) error { return fatalError{vfs.Wrap("fsm", err)} }

func corrupt(format string, args ...any) error {
	return fatalError{vfs.Errorf(vfs.KindCorrupt, "fsm", "%w", fmt.Errorf(format, args...))}
}

func isFatal(err error) bool {
	var f fatalError
	return errors.As(err, &f)
}

// overlay is the state as the machine sees it: what the store holds, and on
// top of it what the commands since the last Flushed wrote. Inodes, slots,
// usage, counters, origins and name spaces are kept decoded and written once
// per entry; all else is keys and values.
type overlay struct {
	view  View
	cache *Cache
	entry uint64 // Raft index of the entry being applied

	kv      table[string, []byte] // nil: deleted
	order   *btreemap.BTreeMap[string, struct{}]
	inodes  table[inoKey, *inode] // nil: deleted
	slots   table[slotKey, *slotRow]
	usages  table[usageKey, usage]
	counts  table[counterKey, uint64]
	origins table[uint64, *metapb.OriginRecord] // nil: not registered
	spaces  table[uint32, *space]               // nil: deleted
	calls   table[callKey, *slotRow]
	clients table[uint64, *knownClient] // nil: not known

	names names
	opens map[string][]byte // records of opens that the store has, as written last: most are removed soon

	codec inodeCodec
	key   []byte // scratch, valid until the next use
	rec   []byte // the same, of the cache
}

// usage is a UsageRecord.
type usage struct {
	bytes, inodes           uint64
	reserved                uint64
	limitBytes, limitInodes uint64
	dir                     uint64
	limitsVersion           uint64
	gone                    bool // the record was removed, with its file system
}

// slotRow is a SlotRecord, its results still encoded.
type slotRow struct {
	seq    uint64
	client uint64   // of calls
	last   uint32   // the highest op index among the results
	ops    []uint32 // the op indexes of the results, in their order
	enc    []byte   // the record up to written

	written []written // of calls: what the seq wrote of files, by operation and file, ascending

	one      [1]uint32 // ops of a row of one result
	extended bool      // another row has the space behind ops and enc
}

func newOverlay(v View, c *Cache) overlay {
	return overlay{
		view: v, cache: c,
		kv:      newTable[string, []byte](),
		order:   btreemap.New[string, struct{}](16, strings.Compare),
		inodes:  newTable[inoKey, *inode](),
		slots:   newTable[slotKey, *slotRow](),
		usages:  newTable[usageKey, usage](),
		counts:  newTable[counterKey, uint64](),
		origins: newTable[uint64, *metapb.OriginRecord](),
		spaces:  newTable[uint32, *space](),
		calls:   newTable[callKey, *slotRow](),
		clients: newTable[uint64, *knownClient](),
		opens:   make(map[string][]byte),
		key:     make([]byte, 0, 64),
	}
}

// touched is how many records the present command wrote, an upper bound where
// it wrote one twice.
func (x *call) touched() int {
	n := x.overlay.touched()
	if counts := len(x.counts.undo); x.level >= levelCollect && counts > collectCounters {
		n -= counts - collectCounters // they are few, however often they were raised
	}
	return n
}

func (o *overlay) touched() int {
	return len(o.kv.undo) + len(o.inodes.undo) + len(o.slots.undo) + len(o.usages.undo) + len(o.counts.undo) + len(o.origins.undo) + len(o.spaces.undo) +
		len(o.calls.undo) + len(o.clients.undo)
}

func (o *overlay) accept() {
	o.kv.accept()
	o.inodes.accept()
	o.slots.accept()
	o.usages.accept()
	o.counts.accept()
	o.origins.accept()
	o.spaces.accept()
	o.calls.accept()
	o.clients.accept()
}

func (o *overlay) rollback() {
	for i := range o.kv.undo {
		if b := &o.kv.undo[i]; !b.had && ordered(b.k) {
			o.order.Delete(b.k)
		}
	}
	o.kv.rollback(o.entry)
	o.inodes.rollback(o.entry)
	o.slots.rollback(o.entry)
	o.usages.rollback(o.entry)
	o.counts.rollback(o.entry)
	o.origins.rollback(o.entry)
	o.spaces.rollback(o.entry)
	o.calls.rollback(o.entry)
	o.clients.rollback(o.entry)
}

// keepRows bounds the rows of the tables that outlive a Flushed.
const keepRows = 1 << 14

// flushed drops what the store has. Slots, usage, counters, origins and name
// spaces are few and hot, so they stay, as clean rows.
func (o *overlay) flushed() {
	o.keepOpens()
	o.kv.forget()
	o.order.Clear(true)
	o.inodes.forget()
	trim(&o.slots)
	trim(&o.usages)
	trim(&o.counts)
	trim(&o.origins)
	trim(&o.spaces)
	trim(&o.calls)
	trim(&o.clients)
}

// keepOpens notes the records of opens that were written.
func (o *overlay) keepOpens() {
	if len(o.opens) > keepRows {
		clear(o.opens)
	}
	for k, r := range o.kv.rows {
		switch {
		case k[0] != 'O':
		case r.v != nil:
			o.opens[k] = r.v
		default:
			delete(o.opens, k)
		}
	}
}

func trim[K comparable, V any](t *table[K, V]) {
	if len(t.rows) > keepRows {
		t.forget()
	}
}

// read is Get of the store, with the error made fatal.
func (o *overlay) read(key []byte) ([]byte, bool, error) {
	v, ok, err := o.view.Get(key)
	if err != nil {
		return nil, false, fatal(err)
	}
	return v, ok, nil
}

// get returns the value of a key that no typed table holds.
func (o *overlay) get(key []byte) ([]byte, bool, error) {
	if r, ok := o.kv.rows[string(key)]; ok {
		return r.v, r.v != nil, nil
	}
	if key[0] == 'O' {
		if v, ok := o.opens[string(key)]; ok {
			return v, true, nil
		}
	}
	return o.read(key)
}

// ordered says which keys scan finds in the overlay without looking at all of
// it: those that commands list.
func ordered(k string) bool {
	switch k[0] {
	case 'a', 'e', 'q', 'o', 'h', 'l', 'x', 'y', 'p', 'O', 'L', 'w', 'W', 'v', 'j', 't', 'f', 'F':
		return true
	}
	return false
}

func (o *overlay) put(key, val []byte) {
	k := string(key)
	if ordered(k) {
		if _, had := o.kv.rows[k]; !had {
			o.order.ReplaceOrInsert(k, struct{}{})
		}
	}
	o.kv.set(o.entry, k, val)
}

// set writes val, which the overlay keeps.
func (o *overlay) set(key, val []byte) {
	if val == nil {
		val = []byte{}
	}
	o.put(key, val)
}

func (o *overlay) del(key []byte) { o.put(key, nil) }

// scan calls fn for the keys of [lo, hi), of kinds that are ordered, until it
// returns false. fn must not write.
func (o *overlay) scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	if o.order.Len() == 0 {
		if err := o.view.Scan(lo, hi, fn); err != nil {
			return fatal(err)
		}
		return nil
	}
	from, stopped := string(lo), false
	// ours lists the overlay's keys from `from` up to but without to.
	ours := func(to string) {
		for k := range o.order.Ascend(btreemap.GE(from), btreemap.LT(to)) {
			if v := o.kv.rows[k].v; v != nil && !fn([]byte(k), v) {
				stopped = true
				return
			}
		}
	}
	err := o.view.Scan(lo, hi, func(k, v []byte) bool {
		key := string(k)
		if ours(key); stopped {
			return false
		}
		from = key + "\x00"
		if r, ok := o.kv.rows[key]; ok {
			if v = r.v; v == nil {
				return true
			}
		}
		stopped = !fn(k, v)
		return !stopped
	})
	if err != nil {
		return fatal(err)
	}
	if !stopped {
		ours(string(hi))
	}
	return nil
}

// inode returns inode ino, nil if there is none.
func (o *overlay) inode(fs uint32, ino uint64) (*inode, error) {
	n, err := o.rawInode(fs, ino)
	if err != nil || n == nil || n.lease.origin == 0 {
		return n, err
	}
	if alive, err := o.registered(n.lease.origin); err != nil || alive {
		return n, err
	}
	return n.settled(), nil
}

func (o *overlay) rawInode(fs uint32, ino uint64) (*inode, error) {
	if n, ok := o.inodes.get(inoKey{fs, ino}); ok {
		return n, nil
	}
	if b, ok := o.cache.peek(inodeCacheKey(fs, ino), o.rec[:0]); ok {
		o.rec = b
		n := new(inode)
		n.setCached(ino, b)
		return n, nil
	}
	o.key = appendInode(o.key[:0], fs, ino)
	b, ok, err := o.read(o.key)
	if err != nil || !ok {
		return nil, err
	}
	return o.codec.decode(ino, b)
}

// setInode writes n, which nobody changes from here on.
func (o *overlay) setInode(fs uint32, n *inode) {
	o.inodes.set(o.entry, inoKey{fs, uint64(n.attr.Ino)}, n)
}

func (o *overlay) delInode(fs uint32, n *inode) {
	o.names.drop(inoKey{fs, uint64(n.attr.Ino)})
	o.inodes.set(o.entry, inoKey{fs, uint64(n.attr.Ino)}, nil)
}

func (o *overlay) count(k counterKey) (uint64, error) {
	if v, ok := o.counts.get(k); ok {
		return v, nil
	}
	o.key = k.append(o.key[:0])
	b, ok, err := o.read(o.key)
	if err != nil {
		return 0, err
	}
	v := k.what.first()
	if ok {
		if len(b) != 8 {
			return 0, corrupt("counter %q of %d bytes", o.key, len(b))
		}
		v = binary.BigEndian.Uint64(b)
	}
	o.counts.keep(k, v)
	return v, nil
}

func (o *overlay) setCount(k counterKey, v uint64) { o.counts.set(o.entry, k, v) }

// next takes the counter's number and advances it.
func (o *overlay) next(k counterKey) (uint64, error) {
	v, err := o.count(k)
	if err == nil {
		o.setCount(k, v+1)
	}
	return v, err
}

func (o *overlay) usage(k usageKey) (usage, error) {
	if u, ok := o.usages.get(k); ok {
		return u, nil
	}
	o.key = k.append(o.key[:0])
	b, ok, err := o.read(o.key)
	if err != nil {
		return usage{}, err
	}
	u, err := decodeUsage(b)
	if err != nil {
		return usage{}, err
	}
	if ok {
		o.usages.keep(k, u)
	}
	return u, nil
}

// charge adds to the usage of the file system and of the project, whatever their limits.
func (o *overlay) charge(fs, project uint32, bytes, inodes int64) error {
	if bytes == 0 && inodes == 0 {
		return nil
	}
	for _, k := range [...]usageKey{{fs, 0}, {fs, project}} {
		u, err := o.usage(k)
		if err != nil {
			return err
		}
		if (bytes < 0 && u.bytes < uint64(-bytes)) || (inodes < 0 && u.inodes < uint64(-inodes)) {
			return corrupt("usage of file system %d would fall below zero", fs)
		}
		u.bytes += uint64(bytes)
		u.inodes += uint64(inodes)
		o.usages.set(o.entry, k, u)
		if project == 0 {
			break
		}
	}
	return nil
}

func decodeUsage(b []byte) (usage, error) {
	var r metapb.UsageRecord
	if err := r.UnmarshalVT(b); err != nil {
		return usage{}, corrupt("usage: %w", err)
	}
	return usage{
		bytes: r.Bytes, inodes: r.Inodes, reserved: r.Reserved,
		limitBytes: r.LimitBytes, limitInodes: r.LimitInodes, dir: r.Dir, limitsVersion: r.LimitsVersion,
	}, nil
}

// origin returns the record of a registered origin, else nil.
func (o *overlay) origin(id uint64) (*metapb.OriginRecord, error) {
	if r, ok := o.origins.get(id); ok {
		return r, nil
	}
	o.key = appendID(o.key[:0], "g/", id)
	b, ok, err := o.read(o.key)
	if err != nil || !ok {
		return nil, err
	}
	r := new(metapb.OriginRecord)
	if err := r.UnmarshalVT(b); err != nil {
		return nil, corrupt("origin %d: %w", id, err)
	}
	o.origins.keep(id, r)
	return r, nil
}

func (o *overlay) registered(id uint64) (bool, error) {
	r, err := o.origin(id)
	return r != nil, err
}

func (o *overlay) space(fs uint32) (*space, error) {
	if s, ok := o.spaces.get(fs); ok {
		return s, nil
	}
	o.key = appendFS(o.key[:0], "n/", fs)
	b, ok, err := o.read(o.key)
	if err != nil || !ok {
		return nil, err
	}
	s, err := decodeSpace(bytes.Clone(b))
	if err != nil {
		return nil, err
	}
	o.spaces.keep(fs, s)
	return s, nil
}
