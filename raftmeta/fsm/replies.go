package fsm

import (
	"encoding/binary"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// maxCallSlots bounds the slots of a session.
const maxCallSlots = 1024

// called is attempt behind the second exactly-once check: that of the NFS client's call which c is an operation of.
func (m *Machine) called(c *metapb.Command) (*metapb.Result, error) {
	const op = "call"
	if c.Call == nil || m.level < levelPOSIX || m.opts.Shard == 0 || idempotent(c) {
		return m.attempt(c)
	}
	id := c.Call
	if len(id.Session) != sessionLen || id.Slot >= maxCallSlots || id.Client == 0 || id.Client > maxClientID {
		return refusal(vfs.Errorf(vfs.KindInvalid, op, "session of %d bytes, slot %d, client %d", len(id.Session), id.Slot, id.Client)), nil
	}
	k := callKey{sessionID(id.Session), id.Slot}
	row, err := m.call(k)
	if err != nil {
		return nil, err
	}
	if err := m.mayKnow(id.Client, op); err != nil {
		return refuse(err)
	}
	kind := opNumber(c)
	byPlace := m.level >= levelCalledRanges && rangeCall(c) != nil // then it tells what came before that level
	if row == nil && !byPlace {
		if err := m.knowSession(id.Client, k.session, op); err != nil {
			m.rollback()
			return refuse(err)
		}
		m.accept()
	} else if row != nil {
		switch {
		case row.client != id.Client:
			return refusal(vfs.Errorf(vfs.KindInvalid, op, "the session is of client %d, not %d", row.client, id.Client)), nil
		case id.Seq < row.seq:
			return refusal(vfs.Errorf(vfs.KindSuperseded, op, "seq %d of slot %d came after %d", id.Seq, id.Slot, row.seq)), nil
		case id.Seq > row.seq:
			row = nil
		default:
			v, err := row.stored(id.OpIndex)
			switch {
			case err != nil:
				return nil, err
			case v == nil:
			case v.Op != kind:
				return refusal(vfs.Errorf(vfs.KindChanged, op, "operation %d of seq %d was another command", id.OpIndex, id.Seq)), nil
			default:
				r := replayed(v, c.Id.GetOrigin())
				if done := r.GetRange(); done != nil {
					done.Before = m.level >= levelCalledRanges
				}
				return r, nil
			}
			if len(row.ops) >= maxSlotResults && !byPlace {
				return refusal(vfs.Errorf(vfs.KindTooMany, op, "more than %d commands under one seq", maxSlotResults)), nil
			}
		}
	}
	r, err := m.attempt(c)
	if err != nil || byPlace {
		return r, err
	}
	kept := r
	if r.Kind != 0 {
		kept = &metapb.Result{Kind: r.Kind} // as slotRow.with
	}
	if row, err = row.add(id.Seq, id.Client, &metapb.SlotResult{OpIndex: id.OpIndex, Result: kept, Op: kind, Origin: c.Id.GetOrigin()}); err != nil {
		return nil, err
	}
	m.calls.set(m.entry, k, row)
	m.calls.accept()
	return r, nil
}

// refuse makes an answer of an error that is not fatal.
func refuse(err error) (*metapb.Result, error) {
	if isFatal(err) {
		return nil, err
	}
	return refusal(err), nil
}

// opNumber is the field number of c's operation, 0 if it has none.
func opNumber(c *metapb.Command) uint32 {
	m := c.ProtoReflect()
	if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("op")); f != nil {
		return uint32(f.Number())
	}
	return 0
}

// replayed is a stored result as another command of the same call gets it. A lease that the first one got may have been given back
// since; what else its origin has by it, no other origin has.
func replayed(v *metapb.SlotResult, origin uint64) *metapb.Result {
	r := v.Result
	switch of := r.Of.(type) {
	case *metapb.Result_Create:
		of.Create.Lease = nil
	case *metapb.Result_Open:
		of.Open.Lease = nil
	case *metapb.Result_Lease:
		of.Lease.Lease = nil
	case *metapb.Result_Attr:
		of.Attr.Lease = nil
	case *metapb.Result_Commit:
		of.Commit.Lease = nil
	case *metapb.Result_Range:
		of.Range.Lease = nil
	case *metapb.Result_Remove:
		of.Remove.Orphan = of.Remove.Orphan && v.Origin == origin
	case *metapb.Result_Rename:
		of.Rename.Orphan = of.Rename.Orphan && v.Origin == origin
	}
	return r
}

// call returns the row of a session's slot, nil if nothing is stored.
func (o *overlay) call(k callKey) (*slotRow, error) {
	if s, ok := o.calls.get(k); ok {
		return s, nil
	}
	o.key = appendCall(o.key[:0], k)
	b, ok, err := o.read(o.key)
	if err != nil || !ok {
		return nil, err
	}
	s, err := decodeSlot(b)
	if err != nil {
		return nil, err
	}
	o.calls.keep(k, s)
	return s, nil
}

// knowSession registers a session, and its client, if this shard does not know them.
func (m *Machine) knowSession(client uint64, s sessionID, op string) error {
	_, ok, err := m.get(appendClientSession(m.key[:0], client, s))
	if err != nil || ok {
		return err
	}
	if _, err := m.know(client, op); err != nil {
		return err
	}
	m.set(appendClientSession(m.key[:0], client, s), nil)
	return nil
}

// releaseSession forgets the replies of a session: they are at most maxCallSlots records.
func (x *call) releaseSession(c *metapb.ReleaseSession) (*metapb.Result, error) {
	if len(c.Session) != sessionLen {
		return nil, vfs.Errorf(vfs.KindInvalid, "session.release", "session of %d bytes", len(c.Session))
	}
	key := appendClientSession(nil, c.Client, sessionID(c.Session))
	_, ok, err := x.get(key)
	if err != nil || !ok {
		return &metapb.Result{}, err
	}
	if _, err := x.purgeCalls(sessionID(c.Session), maxCallSlots); err != nil {
		return nil, err
	}
	x.del(key)
	return &metapb.Result{}, nil
}

// releaseSlots forgets the replies of a session's last slots.
func (x *call) releaseSlots(c *metapb.ReleaseSlots) (*metapb.Result, error) {
	const op = "slots.release"
	if len(c.Session) != sessionLen {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "session of %d bytes", len(c.Session))
	}
	slots, err := x.callSlots(sessionID(c.Session), maxCallSlots)
	if err != nil {
		return nil, err
	}
	for _, n := range slots {
		if n < c.First {
			continue
		}
		k := callKey{sessionID(c.Session), n}
		row, err := x.call(k)
		switch {
		case err != nil:
			return nil, err
		case row == nil || row.seq >= c.BelowSeq:
		case row.client != c.Client:
			return nil, vfs.Errorf(vfs.KindInvalid, op, "the session is of client %d, not %d", row.client, c.Client)
		default:
			x.calls.set(x.entry, k, nil)
		}
	}
	return &metapb.Result{}, nil
}

// purgeCalls removes up to limit slots of a session; done says that none is left. See purgeSlots.
func (x *call) purgeCalls(s sessionID, limit int) (done bool, err error) {
	slots, err := x.callSlots(s, limit)
	if err != nil {
		return false, err
	}
	for _, n := range slots[:min(limit, len(slots))] {
		x.calls.set(x.entry, callKey{s, n}, nil)
	}
	return len(slots) <= limit, nil
}

// callSlots are the slots of a session that something is stored of, in order: all if they are at most limit, else more than limit.
func (x *call) callSlots(s sessionID, limit int) (slots []uint32, err error) {
	for k, r := range x.calls.rows {
		if k.session == s && r.v != nil {
			slots = append(slots, k.slot)
		}
	}
	prefix := append([]byte("z/"), s[:]...)
	seen := 0
	err = x.view.Scan(prefix, prefixEnd(prefix), func(k, _ []byte) bool {
		slot := binary.BigEndian.Uint32(k[len(k)-4:])
		if r, ok := x.calls.rows[callKey{s, slot}]; !ok || r.v != nil {
			slots = append(slots, slot)
			seen++
		}
		return seen <= limit
	})
	if err != nil {
		return nil, fatal(err)
	}
	slices.Sort(slots)
	return slices.Compact(slots), nil
}
