package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// fenceCall makes a call the newest of its slot and tells how far the one before came.
func (x *call) fenceCall(c *metapb.FenceCall) (*metapb.Result, error) {
	const op = "call.fence"
	if c.Offset >= vfs.MaxSize {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "from %d on", c.Offset)
	}
	k, w, err := x.dataCall(c.Ino, &metapb.DataCall{Call: c.Call, Offset: c.Offset, End: vfs.MaxSize}, op)
	if err != nil {
		return nil, err
	}
	id := c.Call
	if err := x.mayKnow(id.Client, op); err != nil {
		return nil, err
	}
	row, err := x.call(k)
	switch {
	case err != nil:
		return nil, err
	case row == nil:
		if err := x.knowSession(id.Client, k.session, op); err != nil {
			return nil, err
		}
		row = newSlotRow(id.Seq, id.Client)
		x.calls.set(x.entry, k, row)
	case row.client != id.Client:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "the session is of client %d, not %d", row.client, id.Client)
	case id.Seq < row.seq:
		return nil, vfs.Errorf(vfs.KindSuperseded, op, "seq %d of slot %d came after %d", id.Seq, id.Slot, row.seq)
	case len(row.ops) > 0:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "slot %d has outcomes of commands", id.Slot)
	case id.Seq > row.seq:
		n := newSlotRow(id.Seq, id.Client)
		n.written = row.written
		x.calls.set(x.entry, k, n)
	}
	done, _ := row.upTo(&w)
	return &metapb.Result{Of: &metapb.Result_Range{Range: &metapb.RangeResult{Done: done}}}, nil
}

// newSlotRow is a row of a seq for which nothing was done yet.
func newSlotRow(seq, client uint64) *slotRow {
	return &slotRow{seq: seq, client: client, enc: appendRowHead(nil, seq, client)}
}
