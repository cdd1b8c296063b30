package fsm

import (
	"bytes"
	"encoding/binary"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// lockRow is what one lock-owner has locked of one file: a LockRecord with its key.
type lockRow struct {
	client  uint64
	owner   []byte
	stateid []byte
	state   []byte
	ranges  byterange.Set
}

// rangeLen is the length of an encoded range.
const rangeLen = 8 + 8 + 1

func (l *lockRow) record() *metapb.LockRecord {
	b := make([]byte, 0, len(l.ranges)*rangeLen)
	for _, r := range l.ranges {
		b = binary.BigEndian.AppendUint64(b, r.First)
		b = binary.BigEndian.AppendUint64(b, r.Last)
		if r.Write {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	return &metapb.LockRecord{Stateid: l.stateid, State: l.state, Ranges: b}
}

func decodeLocks(k, v []byte) (*lockRow, error) {
	if len(k) < ofClientLen {
		return nil, corrupt("key %q", k)
	}
	var r metapb.LockRecord
	if err := r.UnmarshalVT(v); err != nil {
		return nil, corrupt("locks: %w", err)
	}
	if len(r.Ranges)%rangeLen != 0 {
		return nil, corrupt("locks of %d bytes", len(r.Ranges))
	}
	l := &lockRow{client: binary.BigEndian.Uint64(k[ofClientLen-8:]), owner: bytes.Clone(k[ofClientLen:]), stateid: r.Stateid, state: r.State}
	for b := r.Ranges; len(b) > 0; b = b[rangeLen:] {
		l.ranges = append(l.ranges, byterange.Range{First: binary.BigEndian.Uint64(b), Last: binary.BigEndian.Uint64(b[8:]), Write: b[16] != 0})
	}
	if !l.ranges.Valid() {
		return nil, corrupt("ranges %v", l.ranges)
	}
	return l, nil
}

func (x *call) lockKey(ino, client uint64, owner []byte) []byte {
	return append(appendLocks(nil, x.fs, ino, client), owner...)
}

// getLocks returns what an owner has on a file, nil if it has no record.
func (x *call) getLocks(ino, client uint64, owner []byte) (*lockRow, error) {
	key := x.lockKey(ino, client, owner)
	b, ok, err := x.get(key)
	if err != nil || !ok {
		return nil, err
	}
	return decodeLocks(key, b)
}

// lockWant is a lock that is asked for or tested.
type lockWant struct {
	client      uint64
	owner       []byte
	first, last uint64
	write       bool
}

func newLockWant(client uint64, owner []byte, t metapb.LockType, offset, length uint64, op string) (*lockWant, error) {
	first, last, ok := byterange.Of(offset, length)
	switch {
	case !ok:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "offset %d, length %d", offset, length)
	case t < metapb.LockType_LOCK_NONE || t > metapb.LockType_LOCK_WRITE:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "type %d", int32(t))
	case len(owner) > maxStateOwner:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "lock-owner of %d bytes", len(owner))
	}
	return &lockWant{client: client, owner: owner, first: first, last: last, write: t == metapb.LockType_LOCK_WRITE}, nil
}

// against returns the lock of l that is in the way of w, nil if there is none.
func (w *lockWant) against(l *lockRow) *metapb.LockDenied {
	if l.client == w.client && bytes.Equal(l.owner, w.owner) {
		return nil
	}
	r, ok := l.ranges.Conflict(w.first, w.last, w.write)
	if !ok {
		return nil
	}
	d := &metapb.LockDenied{Client: l.client, Owner: l.owner, Type: metapb.LockType_LOCK_READ, Offset: r.First, Length: r.Length()}
	if r.Write {
		d.Type = metapb.LockType_LOCK_WRITE
	}
	return d
}

// survey looks at all locks of a file through scan: those in the way of w, in the order of their keys, and how many
// ranges there are in all.
func (w *lockWant) survey(scan scanFunc, fs uint32, ino uint64) (against []*metapb.LockDenied, ranges int, err error) {
	var bad error
	prefix := appendIno(nil, "L/", fs, ino)
	err = scan(prefix, prefixEnd(prefix), func(k, v []byte) bool {
		l, err := decodeLocks(k, v)
		if err != nil {
			bad = err
			return false
		}
		ranges += len(l.ranges)
		if d := w.against(l); d != nil {
			against = append(against, d)
		}
		return true
	})
	if err == nil {
		err = bad
	}
	return against, ranges, err
}

func lockResult(r *metapb.LockResult) *metapb.Result {
	return &metapb.Result{Of: &metapb.Result_Lock{Lock: r}}
}

func (x *call) setLock(c *metapb.SetLock) (*metapb.Result, error) {
	const op = "lock"
	w, err := newLockWant(c.Client, c.Owner, c.Type, c.Offset, c.Length, op)
	if err != nil {
		return nil, err
	}
	unlock := c.Type == metapb.LockType_LOCK_NONE
	if len(c.State) > maxClientState || len(c.Stateid) != stateidLen && (!unlock || len(c.Stateid) != 0) {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "stateid of %d bytes, state of %d", len(c.Stateid), len(c.State))
	}
	if err := x.mayKnow(c.Client, op); err != nil {
		return nil, err
	}
	n, err := x.file(c.Ino, op)
	if err != nil {
		return nil, err
	}
	l, err := x.getLocks(c.Ino, c.Client, c.Owner)
	if err != nil {
		return nil, err
	}
	if unlock && l == nil {
		return lockResult(&metapb.LockResult{}), nil // there is nothing to unlock
	}
	present := 0 // ranges on the file
	if n.locks > 0 {
		against, ranges, err := w.survey(x.scan, x.fs, c.Ino)
		if err != nil {
			return nil, err
		}
		for _, d := range against {
			if unlock {
				break
			}
			if k, err := x.client(d.Client); err != nil {
				return nil, err
			} else if k != nil { // those of released clients are void
				return lockResult(&metapb.LockResult{Denied: d}), nil
			}
		}
		present = ranges
	}
	if !unlock { // what the holder has buffered is to be seen by who has a lock
		if err := x.notHeld(n, op); err != nil {
			return nil, err
		}
	}
	k, err := x.know(c.Client, op)
	if err != nil {
		return nil, err
	}
	k2 := *k
	if l == nil {
		if int(n.locks) >= x.opts.limits.opens || int(k.owners) >= x.opts.limits.clientOpens {
			return nil, vfs.Errorf(vfs.KindTooMany, op, "%d lock-owners on the file, %d of client %d", n.locks, k.owners, c.Client)
		}
		l = &lockRow{client: c.Client, owner: c.Owner}
		if err := x.hasFile(c.Client, n); err != nil {
			return nil, err
		}
		n = n.clone()
		n.locks++
		k2.owners++
		x.setInode(x.fs, n)
	}
	before := len(l.ranges)
	if unlock {
		l.ranges = l.ranges.Clear(w.first, w.last)
	} else {
		l.ranges = l.ranges.Set(w.first, w.last, w.write)
	}
	grown := len(l.ranges) - before
	k2.ranges = uint32(int(k.ranges) + grown)
	// An unlock that splits a range counts too (fcntl: ENOLCK).
	if grown > 0 && (len(l.ranges) > x.opts.limits.ownerRanges || present+grown > x.opts.limits.opens || int(k2.ranges) > x.opts.limits.clientOpens) {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d ranges of the owner, %d of the file, %d of client %d", len(l.ranges), present+grown, k2.ranges, c.Client)
	}
	if len(c.Stateid) != 0 {
		l.stateid = c.Stateid
	}
	if len(c.State) != 0 {
		l.state = c.State
	}
	if k2 != *k {
		x.clients.set(x.entry, c.Client, &k2)
	}
	if err := x.setRecord(x.lockKey(c.Ino, c.Client, c.Owner), l.record()); err != nil {
		return nil, err
	}
	return lockResult(&metapb.LockResult{Stateid: l.stateid}), nil
}
