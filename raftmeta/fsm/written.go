package fsm

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxDataCalls bounds the calls of one CommitData.
	maxDataCalls = 4096
	// maxWritten bounds the parts of files that are remembered of a slot's newest request.
	maxWritten = 1024
	// slotWritten is a field of a SlotRecord, the last ones of a record.
	slotWritten = 21
)

// written is a part of a file that an operation of a slot's newest request wrote.
type written struct {
	op       uint32
	fs       uint32
	ino      uint64
	off, end uint64
}

// of compares whose part w is.
func (w *written) of(o *written) int {
	return cmp.Or(cmp.Compare(w.op, o.op), cmp.Compare(w.fs, o.fs), cmp.Compare(w.ino, o.ino))
}

// checkWritten refuses a list that no row has.
func checkWritten(list []written) error {
	for i := range list {
		w := &list[i]
		if w.off >= w.end {
			return corrupt("slot: written from %d to %d", w.off, w.end)
		}
		if i > 0 {
			if b := &list[i-1]; b.of(w) > 0 || b.of(w) == 0 && b.end >= w.off {
				return corrupt("slot: what was written is not in order")
			}
		}
	}
	return nil
}

// wrote is how many bytes of w the row says are written.
func (s *slotRow) wrote(w *written) (n uint64) {
	for i := range s.written {
		if o := &s.written[i]; o.of(w) == 0 && o.off < w.end && w.off < o.end {
			n += min(o.end, w.end) - max(o.off, w.off)
		}
	}
	return n
}

// upTo is how far w was written from its beginning, or w.off, and then where it was written next, at most w.end.
func (s *slotRow) upTo(w *written) (done, next uint64) {
	done, next = w.off, w.end
	for i := range s.written {
		switch o := &s.written[i]; {
		case o.of(w) != 0 || o.end <= w.off:
		case o.off <= w.off:
			done = min(o.end, w.end)
		default:
			next = min(next, o.off)
		}
	}
	return done, next
}

// write is s (nil: a new seq) with a further part; nil if that is one too many. s itself if it has it.
func (s *slotRow) write(seq, client uint64, w written) *slotRow {
	var n *slotRow
	if s == nil {
		n = newSlotRow(seq, client)
		n.written = []written{w}
		return n
	}
	if s.wrote(&w) == w.end-w.off {
		return s
	}
	list := make([]written, 0, len(s.written)+1)
	for _, o := range s.written {
		if o.of(&w) == 0 && o.off <= w.end && w.off <= o.end {
			w.off, w.end = min(o.off, w.off), max(o.end, w.end)
		} else {
			list = append(list, o)
		}
	}
	at, _ := slices.BinarySearchFunc(list, w, func(o, w written) int { return cmp.Or(o.of(&w), cmp.Compare(o.off, w.off)) })
	if list = slices.Insert(list, at, w); len(list) > maxWritten {
		return nil
	}
	n = &slotRow{seq: s.seq, client: s.client, last: s.last, ops: s.ops, enc: s.enc, extended: s.extended, written: list}
	s.extended = true // the space behind ops and enc is n's
	return n
}

// record is the row as it is stored.
func (s *slotRow) record() ([]byte, error) {
	if len(s.written) == 0 {
		return s.enc, nil
	}
	b := append(make([]byte, 0, len(s.enc)+len(s.written)*40), s.enc...)
	for i := range s.written {
		w := &s.written[i]
		v, err := (&metapb.Written{OpIndex: w.op, Fs: w.fs, Ino: w.ino, Offset: w.off, End: w.end}).MarshalVT()
		if err != nil {
			return nil, fatal(err)
		}
		b = protowire.AppendBytes(protowire.AppendTag(b, slotWritten, protowire.BytesType), v)
	}
	return b, nil
}

// withoutWritten is an encoded record up to what was written.
func withoutWritten(b []byte) ([]byte, error) {
	for at := 0; at < len(b); {
		num, typ, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			return nil, corrupt("slot: %w", protowire.ParseError(n))
		}
		if num == slotWritten {
			return b[:at], nil
		}
		m := protowire.ConsumeFieldValue(num, typ, b[at+n:])
		if m < 0 {
			return nil, corrupt("slot: %w", protowire.ParseError(m))
		}
		at += n + m
	}
	return b, nil
}

// dataCall is what d says was written, and by whom.
func (x *call) dataCall(ino uint64, d *metapb.DataCall, op string) (callKey, written, error) {
	id := d.GetCall()
	if len(id.GetSession()) != sessionLen || id.Slot >= maxCallSlots || id.Client == 0 || id.Client > maxClientID {
		return callKey{}, written{}, vfs.Errorf(vfs.KindInvalid, op, "session of %d bytes, slot %d, client %d", len(id.GetSession()), id.GetSlot(), id.GetClient())
	}
	if d.Offset >= d.End || d.End > vfs.MaxSize {
		return callKey{}, written{}, vfs.Errorf(vfs.KindInvalid, op, "a call's bytes from %d to %d", d.Offset, d.End)
	}
	return callKey{sessionID(id.Session), id.Slot}, written{op: id.OpIndex, fs: x.fs, ino: ino, off: d.Offset, end: d.End}, nil
}

// checkCalls refuses what makes no sense of a CommitData's calls. If the command is to be carried out once, done says that it was, whoever sent it.
func (x *call) checkCalls(c *metapb.CommitData) (done bool, err error) {
	const op = "data.commit"
	switch {
	case len(c.Calls) > maxDataCalls:
		return false, vfs.Errorf(vfs.KindInvalid, op, "%d calls, at most %d", len(c.Calls), maxDataCalls)
	case c.Once && len(c.Calls) != 1:
		return false, vfs.Errorf(vfs.KindInvalid, op, "once for %d calls", len(c.Calls))
	case !c.Once:
		return false, nil
	}
	_, w, row, err := x.rowOf(c.Ino, c.Calls[0], op)
	if err != nil || row == nil {
		return false, err
	}
	return row.once(&w, op)
}

// rowOf is the row of the seq that a command for d belongs to, which is carried out once; nil if there is nothing of that seq.
func (x *call) rowOf(ino uint64, d *metapb.DataCall, op string) (k callKey, w written, row *slotRow, err error) {
	id := d.GetCall()
	if k, w, err = x.dataCall(ino, d, op); err != nil {
		return k, w, nil, err
	}
	if err := x.mayKnow(id.Client, op); err != nil {
		return k, w, nil, err
	}
	row, err = x.call(k)
	switch {
	case err != nil || row == nil:
		return k, w, nil, err
	case row.client != id.Client:
		return k, w, nil, vfs.Errorf(vfs.KindInvalid, op, "the session is of client %d, not %d", row.client, id.Client)
	case id.Seq < row.seq:
		return k, w, nil, vfs.Errorf(vfs.KindSuperseded, op, "seq %d of slot %d came after %d", id.Seq, id.Slot, row.seq)
	case id.Seq > row.seq:
		row = nil
	}
	return k, w, row, nil
}

// once reports whether all of w was written; some of it must not.
func (s *slotRow) once(w *written, op string) (done bool, err error) {
	switch s.wrote(w) {
	case 0:
		if s.write(s.seq, s.client, *w) == nil {
			return false, vfs.Errorf(vfs.KindInvalid, op, "seq %d has written more than %d parts", s.seq, maxWritten)
		}
		return false, nil
	case w.end - w.off:
		return true, nil
	}
	return false, vfs.Errorf(vfs.KindChanged, op, "a part of the bytes from %d to %d was written by this call before", w.off, w.end)
}

// rangeCall is the call that a command names for its range, nil if it does not.
func rangeCall(c *metapb.Command) *metapb.Call {
	switch op := c.Op.(type) {
	case *metapb.Command_PunchHole:
		return op.PunchHole.GetCall()
	case *metapb.Command_Allocate:
		return op.Allocate.GetCall()
	case *metapb.Command_CloneRange:
		return op.CloneRange.GetCall()
	}
	return nil
}

// rangeOf is what a shard is to look at of the call of a command for a range of a file: nil below its level.
func (x *call) rangeOf(id *metapb.Call, off, length uint64) *metapb.DataCall {
	if id == nil || x.level < levelCalledRanges {
		return nil
	}
	return &metapb.DataCall{Call: id, Offset: off, End: off + length}
}

// rangeBegun looks what of d's range (nil: nobody's) was changed for its call. If its beginning was, before is the result, and the command changes nothing; else it is to go up to end at most.
func (x *call) rangeBegun(n *inode, d *metapb.DataCall, to uint64, op string) (before *metapb.Result, end uint64, err error) {
	if d == nil {
		return nil, to, nil
	}
	_, w, row, err := x.rowOf(uint64(n.attr.Ino), d, op)
	if err != nil || row == nil {
		return nil, to, err
	}
	done, next := row.upTo(&w)
	if done > w.off {
		return changedBefore(n, done), 0, nil
	}
	if w.end = w.off + 1; row.write(row.seq, row.client, w) == nil {
		return nil, 0, vfs.Errorf(vfs.KindInvalid, op, "seq %d has written more than %d parts", row.seq, maxWritten)
	}
	return nil, next, nil
}

// changedBefore is the result of a command for a range that was changed for the same call up to done.
func changedBefore(n *inode, done uint64) *metapb.Result {
	return &metapb.Result{Of: &metapb.Result_Range{Range: &metapb.RangeResult{Attr: toWire(&n.attr), Done: done, Before: true}}}
}

// rememberRange notes that d's range is changed up to done.
func (x *call) rememberRange(ino uint64, d *metapb.DataCall, done uint64, op string) error {
	if d == nil {
		return nil
	}
	d.End = done
	k, w, err := x.dataCall(ino, d, op)
	if err != nil {
		return err
	}
	return x.remembered(k, w, d.Call, op)
}

// remember notes whose bytes a CommitData made part of a file. What was buffered is made durable whatever became of those who wrote it: of a client
// that was released, of a request that was followed by another one, of a session that is another client's, and of what does not fit any more, nothing is noted. The last of these
// would let a repetition write again; but then a request has written more than maxWritten parts of files.
func (x *call) remember(c *metapb.CommitData) error {
	const op = "data.commit"
	for _, d := range c.Calls {
		k, w, err := x.dataCall(c.Ino, d, op)
		if err != nil {
			return err
		}
		if err := x.remembered(k, w, d.Call, op); err != nil && (c.Once || isFatal(err)) {
			return err
		}
	}
	return nil
}

func (x *call) remembered(k callKey, w written, id *metapb.Call, op string) error {
	if err := x.mayKnow(id.Client, op); err != nil {
		return err
	}
	row, err := x.call(k)
	switch {
	case err != nil:
		return err
	case row == nil:
		if err := x.knowSession(id.Client, k.session, op); err != nil {
			return err
		}
	case row.client != id.Client || id.Seq < row.seq:
		return nil
	case id.Seq > row.seq:
		row = nil
	}
	if next := row.write(id.Seq, id.Client, w); next != nil && next != row {
		x.calls.set(x.entry, k, next)
	}
	return nil
}

// callWritten answers what an operation of a client's request has written of a file.
func (r *reader) callWritten(q *metapb.CallWrittenQ) (*metapb.QueryResult, error) {
	const op = "call.written"
	id := q.GetCall()
	if len(id.GetSession()) != sessionLen || id.Slot >= maxCallSlots {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "session of %d bytes, slot %d", len(id.GetSession()), id.GetSlot())
	}
	if err := r.mayKnow(id.Client, op); err != nil {
		return nil, err
	}
	res := &metapb.CallWrittenR{}
	b, ok, err := r.view.Get(appendCall(nil, callKey{sessionID(id.Session), id.Slot}))
	if err != nil {
		return nil, fatal(err)
	}
	if ok {
		row, err := decodeSlot(b)
		if err != nil {
			return nil, err
		}
		if row.client != id.Client {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "the session is of client %d, not %d", row.client, id.Client)
		}
		res.Superseded = row.seq > id.Seq
		of := &written{op: id.OpIndex, fs: r.fs, ino: q.Ino}
		for i := range row.written {
			if w := &row.written[i]; row.seq == id.Seq && w.of(of) == 0 {
				res.Written = append(res.Written, &metapb.Written{Offset: w.off, End: w.end})
			}
		}
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_CallWritten{CallWritten: res}}, nil
}
