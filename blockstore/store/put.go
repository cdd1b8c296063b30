package store

import (
	"bytes"
	"context"
	"slices"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

// Put is one shard to store.
type Put struct {
	Key      segment.Key
	Epoch    uint32 // of the PG
	K, M     uint8
	BlockLen uint32
	Owner    segment.Owner
	Data     []byte
}

func (p *Put) validate(segmentSize, reserve int64) error {
	s, err := blockstore.ShapeOf(int(p.BlockLen), int(p.K), int(p.M))
	if err != nil {
		return err
	}
	if !s.Stored(int(p.Key.Shard)) || len(p.Data) != s.ShardLen {
		return vfs.Errorf(vfs.KindInvalid, "store.put", "shard %d of %d bytes does not belong to a block of %d bytes in %d+%d",
			p.Key.Shard, len(p.Data), p.BlockLen, p.K, p.M)
	}
	if int64(segment.RecordLen(len(p.Data))) > segmentSize-2*segment.HeaderSize-reserve {
		return vfs.Errorf(vfs.KindInvalid, "store.put", "shard of %d bytes does not fit a segment of %d", len(p.Data), segmentSize)
	}
	return nil
}

// Put stores a shard and returns when it is durable. Putting the same shard
// with the same content again succeeds; with other content it is
// KindExists. An epoch older than the newest known of the PG is KindFenced, a full disk
// KindNoSpace. When ctx ends first, the shard may or may not be stored.
func (s *Store) Put(ctx context.Context, p *Put) error {
	err := s.put(ctx, p)
	if err != nil {
		s.m.Refused.WithLabelValues(vfs.KindOf(err).String()).Inc()
		return err
	}
	s.m.Puts.Inc()
	s.m.PutBytes.Add(float64(len(p.Data)))
	return nil
}

func (s *Store) put(ctx context.Context, p *Put) error {
	if err := p.validate(s.o.SegmentSize, s.controlReserve()); err != nil {
		return err
	}
	if err := s.enter("store.put"); err != nil {
		return err
	}
	defer s.leave()
	crcs := segment.PageCRCs(make([]uint32, 0, 256), p.Data)
	for waited := false; ; waited = true {
		o, err := s.tryPut(ctx, p, crcs, waited)
		if err != errWait {
			return err
		}
		if err := s.awaitSpace(ctx, o.space); err != nil {
			return err
		}
	}
}

// tryPut is a Put that does not wait for space: its error is then errWait, and the op says for what.
func (s *Store) tryPut(ctx context.Context, p *Put, crcs []uint32, waited bool) (*op, error) {
	o := &op{
		rec: segment.Record{
			Kind: segment.KindShard, Shard: p.Key.Shard, K: p.K, M: p.M, PG: p.Key.PG, Epoch: p.Epoch,
			Block: p.Key.Block, BlockLen: p.BlockLen, Owner: p.Owner,
		},
		keys: []segment.Key{p.Key}, olds: []*location{nil}, purpose: forPut, waited: waited, epoch: p.Epoch, done: make(chan struct{}),
	}
	s.mu.Lock()
	if err := s.claimFor(ctx, o, p.Key); err != nil {
		s.mu.Unlock()
		return nil, err
	}
	st := s.pg(p.Key.PG)
	st.running[p.Epoch]++
	var err error
	if p.Epoch < st.known {
		err = vfs.Errorf(vfs.KindFenced, "store.put", "epoch %d of pg %d is over, the store knows %d; refresh the map", p.Epoch, p.Key.PG, st.known)
	} else {
		st.known = p.Epoch
	}
	newer := p.Epoch > st.durable
	if err == nil && s.failed != nil {
		// Not even if the index has it: the log may hold a deletion that failed.
		err = s.failed
	}
	s.mu.Unlock()
	var stored bool
	if err == nil {
		o.olds[0], stored, err = s.compare(p, crcs)
		if err == nil && s.anyBad() {
			var bad bool
			bad, err = s.isBad(p.Key)
			o.wasBad = []bool{bad}
		}
	}
	if err != nil || stored {
		s.finish([]*op{o}, err)
		if err == nil && newer {
			// No record of the shard will carry the epoch.
			err = s.appendEpochs(ctx, []segment.Epoch{{PG: p.Key.PG, Epoch: p.Epoch}})
		}
		return o, err
	}
	return o, s.append(ctx, o, p.Data, crcs)
}

// compare looks for the shard in the store. stored means that it is there,
// whole, and the same. A damaged one is returned in old, to be replaced.
func (s *Store) compare(p *Put, crcs []uint32) (old *location, stored bool, err error) {
	l, ok, err := s.lookup(p.Key)
	if err != nil || !ok {
		return nil, false, err
	}
	r, table, data, buf, err := s.readRecord(p.Key, l, 0, int(l.length))
	defer buf.Release()
	switch {
	case err != nil:
		return &l, false, nil
	case table.Equal(crcs) && bytes.Equal(data, p.Data) && r.BlockLen == p.BlockLen && r.K == p.K && r.M == p.M:
		// It is in the index, so it is durable.
		return nil, true, nil
	}
	return nil, false, vfs.Errorf(vfs.KindExists, "store.put", "shard %v of block %d in pg %d exists with other content", p.Key.Shard, p.Key.Block, p.Key.PG)
}

// Delete removes shards and returns when that is durable. Shards that are not
// there are passed over. It returns how many were.
//
// Delete does as it is told: that the blocks are dead is for the caller to know.
func (s *Store) Delete(ctx context.Context, keys []segment.Key) (int, error) {
	const op_ = "store.delete"
	if len(keys) > MaxDeleteKeys {
		return 0, vfs.Errorf(vfs.KindInvalid, op_, "%d keys in one call, at most %d", len(keys), MaxDeleteKeys)
	}
	if err := s.enter(op_); err != nil {
		return 0, err
	}
	defer s.leave()
	keys = slices.Clone(keys)
	slices.SortFunc(keys, compareKeys) // one order for all, so that two calls cannot wait for each other
	keys = slices.Compact(keys)
	for waited := false; ; waited = true {
		o, err := s.tryDelete(ctx, keys, waited)
		if err == nil {
			s.m.Deletes.Add(float64(len(o.keys)))
			return len(o.keys), nil
		}
		if err != errWait {
			return 0, err
		}
		if err := s.awaitSpace(ctx, o.space); err != nil {
			return 0, err
		}
	}
}

// tryDelete is a Delete that does not wait for space, as tryPut.
func (s *Store) tryDelete(ctx context.Context, keys []segment.Key, waited bool) (*op, error) {
	o := deletionsOp(forControl)
	o.waited = waited
	s.mu.Lock()
	err := s.admit(ctx, o)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		s.mu.Lock()
		err = s.claim(ctx, k)
		s.mu.Unlock()
		if err != nil {
			break
		}
		l, ok, lerr := s.lookup(k)
		bad := false
		if lerr == nil && !ok && s.anyBad() {
			bad, lerr = s.isBad(k)
		}
		if lerr != nil || !ok && !bad {
			s.mu.Lock()
			s.unclaim(k)
			s.mu.Unlock()
			if err = lerr; err != nil {
				break
			}
			continue
		}
		// A shard that is marked bad needs a record too: a new index would know nothing
		// of the mark and may find the shard sound.
		old := &l
		if bad {
			old = nil
		}
		o.add(k, old, bad)
	}
	if err != nil {
		s.finish([]*op{o}, err)
		return nil, err
	}
	if len(o.keys) == 0 {
		s.finish([]*op{o}, nil)
		return o, nil
	}
	return o, s.appendDeletions(ctx, o)
}

func deletionsOp(why purpose) *op {
	return &op{rec: segment.Record{Kind: segment.KindDeletions}, purpose: why, done: make(chan struct{})}
}

// add adds a claimed key to a deletions record: where it is in the index, nil
// if it is not, and whether it is marked bad.
func (o *op) add(k segment.Key, old *location, bad bool) {
	o.keys, o.olds, o.wasBad = append(o.keys, k), append(o.olds, old), append(o.wasBad, bad)
}

// appendDeletions writes a deletions record of o's keys, if it has any.
func (s *Store) appendDeletions(ctx context.Context, o *op) error {
	if len(o.keys) == 0 {
		return nil
	}
	o.data = segment.AppendKeys(nil, o.keys)
	return s.append(ctx, o, o.data, segment.PageCRCs(nil, o.data))
}

func compareKeys(a, b segment.Key) int { return bytes.Compare(shardKey(a), shardKey(b)) }

// Fence makes the given epochs the oldest that Puts may carry. It returns when
// that is durable and every Put admitted under an older epoch has ended.
func (s *Store) Fence(ctx context.Context, epochs []segment.Epoch) error {
	const op_ = "store.fence"
	if len(epochs) > MaxFenceEpochs {
		return vfs.Errorf(vfs.KindInvalid, op_, "%d epochs in one call, at most %d", len(epochs), MaxFenceEpochs)
	}
	if err := s.enter(op_); err != nil {
		return err
	}
	defer s.leave()
	var raise []segment.Epoch
	s.mu.Lock()
	for _, e := range epochs {
		st := s.pg(e.PG)
		if e.Epoch < st.known {
			s.mu.Unlock()
			return vfs.Errorf(vfs.KindFenced, op_, "epoch %d of pg %d is over, the store knows %d; refresh the map", e.Epoch, e.PG, st.known)
		}
		st.known = e.Epoch
		if st.durable < e.Epoch {
			raise = append(raise, e)
		}
	}
	s.mu.Unlock()
	if len(raise) > 0 {
		if err := s.appendEpochs(ctx, raise); err != nil {
			return err
		}
	}
	for _, e := range epochs {
		if err := s.awaitOlder(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) appendEpochs(ctx context.Context, epochs []segment.Epoch) error {
	o := epochsOp(forControl, epochs)
	return s.append(ctx, o, o.data, segment.PageCRCs(nil, o.data))
}

func epochsOp(why purpose, epochs []segment.Epoch) *op {
	return &op{rec: segment.Record{Kind: segment.KindEpochs}, purpose: why, data: segment.AppendEpochs(nil, epochs), done: make(chan struct{})}
}

// awaitOlder waits until no Put of the PG with an older epoch is running.
func (s *Store) awaitOlder(ctx context.Context, e segment.Epoch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.pg(e.PG)
	older := func() bool {
		for r := range st.running {
			if r < e.Epoch {
				return true
			}
		}
		return false
	}
	for older() {
		if st.drained == nil {
			st.drained = make(chan struct{})
		}
		ch := st.drained
		s.mu.Unlock()
		var err error
		select {
		case <-ch:
		case <-ctx.Done():
			err = vfs.Wrap("store.fence", ctx.Err())
		}
		s.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// Epoch is the oldest epoch that Puts to the PG may carry.
func (s *Store) Epoch(pg uint32) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.epochs[pg]; st != nil {
		return st.known
	}
	return 0
}
