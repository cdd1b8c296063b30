package stripe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// Read reads len(p) bytes at off of a block into p. After an error the content
// of p is undefined. See the package comment for the kinds of errors.
func (c *Client) Read(ctx context.Context, m Map, b Block, off int, p []byte) error {
	const op = "stripe.read"
	if off < 0 || off > int(b.Len) || len(p) > int(b.Len)-off {
		return vfs.Errorf(vfs.KindInvalid, op, "bytes %d+%d of a block of %d", off, len(p), b.Len)
	}
	if len(p) == 0 {
		return nil
	}
	pg, ok := m.PG(b.PG)
	if !ok {
		return vfs.Errorf(vfs.KindUnavailable, op, "placement group %d is not in the map", b.PG)
	}
	s, err := shapeIn(pg, int(b.Len))
	if err != nil {
		return err
	}
	r := c.reader(ctx, m, pg, b, s)
	defer r.release()
	err = r.read(off, p)
	r.end()
	if err != nil {
		if ctx.Err() != nil {
			return ended(ctx, op)
		}
		return vfs.Wrap(op, err)
	}
	c.o.Metrics.Reads.Inc()
	c.o.Metrics.ReadBytes.Add(float64(len(p)))
	r.reportMissing()
	return nil
}

// reportMissing tells of shards that were not there although the block is. A slot that is being moved may lack them.
func (r *reader) reportMissing() {
	for i, st := range r.state {
		if st.outcome == gone && r.pg.Slots[i].Previous == nil {
			r.c.o.OnBad(BadShard{Block: r.block, Shard: i, Target: r.pg.Slots[i].Target, Err: st.err})
		}
	}
}

// shardState is what a Read learnt of a shard.
type shardState struct {
	outcome outcome
	err     error
}

type outcome uint8

const (
	unknown outcome = iota
	good
	gone        // every target said that it has no such shard
	unfilled    // the same of a slot that is being filled, which need not have it
	bad         // damaged
	unreachable // no answer, or none that says anything about the shard
)

// read gets all parts of the range.
func (r *reader) read(off int, p []byte) error {
	for l := r.shape.ShardLen; len(p) > 0; {
		in := off % l
		n := min(l-in, len(p))
		r.wants = append(r.wants, want{part: part{off / l, in, in + n}, dst: p[:n:n]})
		off, p = off+n, p[n:]
	}
	r.nearer()
	// All are on their way before the first can find that it needs the others.
	wait := r.c.o.FetchTimeout
	for i := range r.wants {
		w := &r.wants[i]
		if !w.computed && !r.c.avoids(r.pg.Slots[w.part.shard].Target) {
			w.direct = r.fetch(w.part, w.dst)
		}
		wait = min(wait, r.c.hedgeAfter(w.part.len()))
	}
	r.timer.Reset(wait)
	for late := false; !late; {
		all, failed := r.arrived()
		if all {
			return nil
		}
		if failed {
			break
		}
		select {
		case <-r.wake:
		case <-r.timer.C:
			late = true
		case <-r.ctx.Done():
			return r.ctx.Err()
		}
	}
	// Something is missing or slow: from here on each part has a goroutine that gets it in other ways, too.
	results := make(chan error, len(r.wants))
	for i := range r.wants {
		r.wg.Add(1)
		go func() {
			defer r.wg.Done()
			results <- r.get(&r.wants[i])
		}()
	}
	return r.oversee(results, len(r.wants))
}

// get makes w.dst hold a part of a data shard: as its target has it, or rebuilt.
func (r *reader) get(w *want) error {
	pt, dst, direct := w.part, w.dst, w.direct
	if w.computed {
		return r.compute(pt, dst)
	}
	if direct == nil { // its target is avoided: the others are asked first
		if err := r.rebuild(pt, dst); err == nil {
			return nil
		}
		direct = r.fetch(pt, dst)
		<-r.done(direct)
		if direct.err == nil {
			direct.land(dst)
			return nil
		}
		return r.verdict(direct.err)
	}
	done := r.done(direct)
	hedge := time.NewTimer(r.c.hedgeAfter(pt.len()) - time.Since(r.began))
	defer hedge.Stop()
	select {
	case <-done:
	case <-hedge.C:
	}
	select {
	case <-done: // perhaps since long
		if direct.err == nil {
			return nil
		}
		if r.over() {
			return direct.err
		}
		if err := r.rebuild(pt, dst); err != nil {
			return r.verdict(direct.err)
		}
		return nil
	default:
	}
	if r.shape.M == 0 {
		<-done
		if direct.err != nil {
			return r.verdict(direct.err)
		}
		return nil
	}
	r.c.o.Metrics.Hedges.Inc()
	side := r.buffer(pt.len())
	err := r.first(dst, direct, side, r.aside(func() error { return r.rebuild(pt, side) }))
	if err == errSide {
		r.c.o.Metrics.HedgesWon.Inc()
		return nil
	}
	return err
}

// errSide says that what was computed was there first.
var errSide = errors.New("computed")

// aside runs f beside the caller.
func (r *reader) aside(f func() error) <-chan error {
	result := make(chan error, 1)
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		result <- f()
	}()
	return result
}

// first makes dst hold what is there first: what direct, which may be written to dst at any time, gets from the part's own target, or what is
// computed, beside it, into side. In the latter case it returns errSide.
func (r *reader) first(dst []byte, direct *fetch, side []byte, computed <-chan error) error {
	done := r.done(direct)
	select {
	case <-done:
		if direct.err == nil {
			direct.land(dst)
			return nil
		}
		if err := <-computed; err != nil {
			return r.verdict(direct.err)
		}
	case err := <-computed:
		if err != nil {
			if <-done; direct.err != nil {
				return r.verdict(direct.err)
			}
			direct.land(dst)
			return nil
		}
		if !direct.lands(dst) { // another part is rebuilt from it
			break
		}
		direct.ctx.end(context.Canceled, nil)
		if <-done; direct.err == nil {
			return nil
		}
	}
	copy(dst, side)
	return errSide
}

// compute makes dst hold a part made of nearer shards, or fetched from its own target if that fails or takes long.
func (r *reader) compute(pt part, dst []byte) error {
	side := r.buffer(pt.len())
	computed := r.aside(func() error { return r.combine(pt, side) })
	hedge := time.NewTimer(r.c.hedgeAfter(pt.len()) - time.Since(r.began))
	defer hedge.Stop()
	select {
	case err := <-computed:
		if err == nil {
			r.c.o.Metrics.Nearer.Inc()
			copy(dst, side)
			return nil
		}
		direct := r.fetch(pt, dst)
		if <-r.done(direct); direct.err != nil {
			return r.verdict(direct.err)
		}
		direct.land(dst)
		return nil
	case <-hedge.C:
	}
	if err := r.first(dst, r.fetch(pt, dst), side, computed); err != errSide {
		return err
	}
	return nil
}

// ask gets a part from the slot's target or, while the slot moves, its previous one.
func (r *reader) ask(f *fetch) error {
	pt := f.part
	slot := &r.pg.Slots[pt.shard]
	start := time.Now()
	out, err := r.askTarget(&f.ctx, slot.Target, pt, f.buf, &f.meta)
	if err != nil && slot.Previous != nil && f.ctx.Err() == nil {
		prev, perr := r.askTarget(&f.ctx, *slot.Previous, pt, f.buf, &f.meta)
		switch {
		case perr == nil:
			out, err = good, nil
		case out == gone:
			out, err = prev, perr // the new target need not have it yet
		}
	}
	if out == gone && slot.Filling {
		out = unfilled
	}
	if err == nil {
		r.c.latencyOf(pt.len()).add(time.Since(start))
	}
	r.mu.Lock()
	if out != unknown && r.state[pt.shard].outcome != good {
		r.state[pt.shard] = shardState{out, err}
	}
	r.mu.Unlock()
	return err
}

func (r *reader) askTarget(ctx context.Context, t placement.Target, pt part, into []byte, meta *[32]byte) (outcome, error) {
	caller, err := r.m.Caller(t.Node)
	if err == nil {
		req := blockstore.GetRequest{
			Disk: t.Disk, Key: blockstore.Key{PG: r.pg.ID, Block: r.block.ID, Shard: uint8(pt.shard)},
			Offset: uint32(pt.from), Length: uint32(pt.len()), Background: r.c.o.Background,
		}
		var reply *wire.Reply
		pull := r.c.pulls.begin(t)
		began := time.Now()
		reply, err = caller.Call(ctx, blockstore.OpGet, req.Append(meta[:0]), nil, into)
		took := time.Since(began)
		r.c.pulls.end(pull, len(into), took, err == nil)
		if err != nil && ctx.Err() != nil && took > r.c.usual(len(into)) {
			r.c.pulls.slower(t, len(into), took)
		}
		if err == nil {
			defer reply.Release()
			if len(reply.Payload) != len(into) {
				err = vfs.Errorf(vfs.KindCorrupt, "stripe.get", "%d bytes answered, %d asked", len(reply.Payload), len(into))
			} else {
				if &reply.Payload[0] != &into[0] {
					copy(into, reply.Payload)
				}
				r.c.worked(t)
				r.learn(reply.Meta)
				return good, nil
			}
		}
	}
	err = vfs.Errorf(vfs.KindOf(err), "stripe.get", "shard %d on %v: %w", pt.shard, t, err)
	switch vfs.KindOf(err) {
	case vfs.KindNotFound:
		r.c.worked(t)
		return gone, err
	case vfs.KindCorrupt, vfs.KindInvalid: // invalid: it is shorter than the block's shape says
		r.c.worked(t)
		r.c.o.Metrics.BadShards.Inc()
		r.c.o.OnBad(BadShard{Block: r.block, Shard: pt.shard, Target: t, Err: err})
		return bad, err
	}
	if r.over() || ctx.Err() == context.Canceled {
		return unknown, err // given up, which says nothing about the target
	}
	r.c.failed(t, err)
	return unreachable, err
}

// rebuild computes a part of a shard, which its target does not deliver, from the same part of others into out.
func (r *reader) rebuild(pt part, out []byte) error {
	err := r.combine(pt, out)
	if err == nil {
		r.c.o.Metrics.Rebuilds.Inc()
	}
	return err
}

// combine computes a part of a shard from the same part of others into out.
func (r *reader) combine(pt part, out []byte) error {
	s := r.shape
	if s.M == 0 {
		return vfs.Errorf(vfs.KindUnavailable, "stripe.rebuild", "profile %d+0 has no parity", s.K)
	}
	candidates := r.sources(pt)
	arrived := make(chan int, len(candidates))
	got := make([][]byte, s.K+s.M)
	need, started, pending := s.Data, 0, 0
	more := func() bool {
		if started == len(candidates) {
			return false
		}
		i := candidates[started]
		started++
		pending++
		f := r.fetch(part{i, pt.from, pt.to}, nil)
		r.wg.Add(1)
		go func() {
			defer r.wg.Done()
			<-r.done(f)
			if f.err != nil {
				i = -1 - i
			}
			arrived <- i
		}()
		return true
	}
	for range need {
		more()
	}
	wait := r.c.hedgeAfter(pt.len())
	hedge := time.NewTimer(wait)
	defer hedge.Stop()
	for have := 0; have < need; {
		if have+pending < need && !more() {
			return vfs.Errorf(vfs.KindUnavailable, "stripe.rebuild", "%d of %d shards answered", have, need)
		}
		select {
		case i := <-arrived:
			pending--
			if i >= 0 {
				got[i] = r.fetch(part{i, pt.from, pt.to}, nil).buf
				have++
			}
		case <-hedge.C:
			more() // one more, in case one of those asked is slow
			hedge.Reset(wait)
		}
	}
	for i := s.Data; i < s.K; i++ {
		got[i] = r.c.zeros[:pt.len()]
	}
	required := make([]bool, s.K+s.M)
	required[pt.shard] = true
	got[pt.shard] = out[:0:pt.len()]
	enc, err := r.c.encoder(placement.Profile{K: s.K, M: s.M})
	if err != nil {
		return err
	}
	if err := enc.ReconstructSome(got, required); err != nil {
		return vfs.Errorf(vfs.KindInternal, "stripe.rebuild", "%w", err)
	}
	return nil
}

// sources lists the stored shards other than pt's in the order in which to ask
// for the same part of them: those that are on their way anyway, then those of
// targets that work, near ones with little to do first, then the rest. What is known to fail is left out.
func (r *reader) sources(pt part) []int {
	var first, second, third []int
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.state {
		if i == pt.shard || !r.shape.Stored(i) || r.state[i].outcome > good {
			continue
		}
		switch {
		case r.find(part{i, pt.from, pt.to}) != nil:
			first = append(first, i)
		case !r.c.avoids(r.pg.Slots[i].Target):
			second = append(second, i)
		default:
			third = append(third, i)
		}
	}
	r.byCost(second, pt.len())
	return append(append(first, second...), third...)
}

// verdict is the error of a read that found too few shards.
func (r *reader) verdict(cause error) error {
	if r.over() {
		return cause
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var n [unreachable + 1]int
	var texts []string
	for i, st := range r.state {
		if !r.shape.Stored(i) {
			continue
		}
		n[st.outcome]++
		if st.outcome > good {
			texts = append(texts, fmt.Sprintf("shard %d: %v", i, st.err))
		}
	}
	why := strings.Join(texts, "; ")
	kind, what := vfs.KindUnavailable, "too few block servers answer"
	switch lost := n[gone] + n[unfilled] + n[bad]; {
	case lost > r.shape.M && (n[gone] > 0 || n[bad] == 0):
		kind, what = vfs.KindNotFound, "it is gone"
	case lost > r.shape.M:
		kind, what = vfs.KindCorrupt, "more shards are damaged than the code makes good"
	}
	return vfs.Errorf(kind, "stripe.read", "block %d in pg %d: %s (%s)", r.block.ID, r.pg.ID, what, why)
}
