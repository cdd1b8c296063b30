package volume

import (
	"context"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// chunkCalls is how many calls whose clients may not have the answer make a chunk be flushed.
	chunkCalls = 256
	// commitCalls is how many calls make a command long enough, maxCommitCalls how many it names at most.
	commitCalls    = 512
	maxCommitCalls = 4096
	// pruneCalls is at how many calls a chunk looks for those that were answered.
	pruneCalls = 16
)

// errAsk says that what a call has written is to be asked (again), because somebody else may have written for it.
var errAsk = vfs.Errorf(vfs.KindChanged, "write", "what the call has written is not known any more")

// dataCall is a part of a file that a call wrote. A call that was followed by another one of its slot was answered, and needs not be remembered.
type dataCall struct {
	call *vfs.Call
	at   span
}

// unanswered leaves out of list, in place, what was answered.
func unanswered(list []dataCall) []dataCall {
	kept := list[:0]
	for _, d := range list {
		if !d.call.Answered() {
			kept = append(kept, d)
		}
	}
	clear(list[len(kept):])
	return kept
}

// dataCallOf is the call that something is written for, if the shard remembers calls; else nil.
func (v *Volume) dataCallOf(ctx context.Context) *vfs.Call {
	if !v.cfg.Keep {
		return nil
	}
	return vfs.CallOf(ctx)
}

// wrote notes that s, in ch, was written by a call.
func (ch *chunk) wrote(call *vfs.Call, s span) {
	if call == nil {
		return
	}
	if n := len(ch.calls); n >= pruneCalls && n == cap(ch.calls) {
		if ch.calls = unanswered(ch.calls); len(ch.calls) > n/2 {
			ch.calls = slices.Grow(ch.calls, n)
		}
	}
	ch.calls = append(ch.calls, dataCall{call, s})
}

// unansweredFrom reports whether something at or above off is dirty whose writer may not have the answer. e.mu is held.
func (e *inode) unansweredFrom(off uint64) bool {
	for _, ch := range e.in(off, maxOffset) {
		for _, d := range ch.calls {
			if d.at.end > off && !d.call.Answered() {
				return true
			}
		}
	}
	return false
}

// pbDataCalls are the parts of list that lie in exts, which ascend and hold all of list that is to be written there.
func pbDataCalls(list []dataCall, exts []newExtent) (out []*metapb.DataCall) {
	all := span{exts[0].seg.off, exts[len(exts)-1].seg.end}
	for _, d := range list[max(0, len(list)-maxCommitCalls):] {
		if s := (span{max(d.at.off, all.off), min(d.at.end, all.end)}); s.off < s.end {
			out = append(out, pbDataCall(d.call, s))
		}
	}
	return out
}

func pbDataCall(c *vfs.Call, s span) *metapb.DataCall {
	return &metapb.DataCall{Call: pbDataCallID(c), Offset: s.off, End: s.end}
}

// pbDataCallID names an operation by its number in the request: what it writes is told apart by place, not by step.
func pbDataCallID(c *vfs.Call) *metapb.Call {
	return &metapb.Call{Session: c.Session[:], Client: c.Client, Slot: c.Slot, Seq: c.Seq, OpIndex: c.Op}
}

// missing asks which parts of r a call has not written yet, of those that it was to write. Nobody else can write them any more while this gateway has the lease of the epoch
// that is returned; where that is shared, the command that writes them sees to it.
func (v *Volume) missing(ctx context.Context, e *inode, call *vfs.Call, r span, op string) (todo []span, epoch uint64, err error) {
	var shared bool
	var seq uint64
	for epoch == 0 { // without a lease what the answer says is true of no time; it may have gone the moment it was there
		if err := v.ensureLease(ctx, e, op); err != nil {
			return nil, 0, err
		}
		if err := ctx.Err(); err != nil {
			return nil, 0, vfs.Wrap(op, err)
		}
		e.mu.Lock()
		shared, seq, epoch = e.isShared(), e.seq, e.epoch()
		e.mu.Unlock()
	}
	if !shared { // it may be buffered here
		if err := v.sync(ctx, e, r, seq, anyLosses, op); err != nil {
			return nil, 0, err
		}
	}
	q := &metapb.CallWrittenQ{Call: pbDataCallID(call), Ino: uint64(e.ino)}
	res, err := v.query(ctx, op, nil, &metapb.Query{Q: &metapb.Query_CallWritten{CallWritten: q}})
	if vfs.KindOf(err) == vfs.KindNotSupported { // a voter of an older release: nothing was remembered
		return []span{r}, epoch, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if res.GetCallWritten().GetSuperseded() {
		return nil, 0, vfs.Errorf(vfs.KindSuperseded, op, "inode %d: there was a newer request of slot %d than %d", e.ino, call.Slot, call.Seq)
	}
	for _, w := range res.GetCallWritten().GetWritten() { // ascending
		if w.End <= r.off || w.Offset >= r.end {
			continue
		}
		if w.Offset > r.off {
			todo = append(todo, span{r.off, w.Offset})
		}
		r.off = min(w.End, r.end)
	}
	if r.off < r.end {
		todo = append(todo, r)
	}
	return todo, epoch, nil
}
