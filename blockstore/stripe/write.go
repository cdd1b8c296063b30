package stripe

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// Write stores a block and returns the placement group it is in, as it was when the block was written.
// All its shards are durable then. w.Data is not used after Write returns.
//
// KindNoSpace means that every group has targets that are full, and that this is all that is wrong with them;
// KindUnavailable that no group could take the block now for other reasons, too.
func (c *Client) Write(ctx context.Context, m Map, w *Write) (*placement.PG, error) {
	const op = "stripe.write"
	var tried []pgEpoch
	var last error
	var pgs []*placement.PG
	onlyFull := true // every attempt failed for want of space
	for len(tried) < c.o.WriteAttempts {
		pgs = m.Writable(w.Pool)
		pg := c.choose(pgs, w.MinK, tried)
		if pg == nil {
			break
		}
		err := c.writeTo(ctx, m, pg, w, c.patience(pgs, pg, w, tried))
		if err == nil {
			c.o.Metrics.Writes.Inc()
			c.o.Metrics.WriteBytes.Add(float64(len(w.Data)))
			return pg, nil
		}
		if ctx.Err() != nil {
			return nil, ended(ctx, op)
		}
		switch vfs.KindOf(err) {
		case vfs.KindInvalid, vfs.KindExists, vfs.KindInternal:
			// Another group would say the same.
			return nil, vfs.Wrap(op, err)
		}
		last = err
		onlyFull = onlyFull && vfs.KindOf(err) == vfs.KindNoSpace
		tried = append(tried, pgEpoch{pg.ID, pg.Epoch})
		c.o.Metrics.WriteRetries.Inc()
	}
	c.o.Metrics.WritesFailed.Inc()
	if onlyFull && c.allFull(pgs, w.MinK) {
		return nil, vfs.Errorf(vfs.KindNoSpace, op, "every placement group of pool %d has block servers that are full; delete data or add stores", w.Pool)
	}
	if last == nil {
		return nil, vfs.Errorf(vfs.KindUnavailable, op, "no placement group of pool %d has all its block servers", w.Pool)
	}
	return nil, vfs.Errorf(vfs.KindUnavailable, op, "block %d, after %d attempts: %w", w.Block, len(tried), last)
}

// writeTo makes one attempt. It returns when all its calls have ended, for
// they refer to w.Data. Targets that did not answer after patience make it fail, and are avoided.
func (c *Client) writeTo(ctx context.Context, m Map, pg *placement.PG, w *Write, patience time.Duration) error {
	s, err := shapeIn(pg, len(w.Data))
	if err != nil {
		return err
	}
	shards, scratch, err := c.encode(s, w.Data)
	defer scratch.Release()
	if err != nil {
		return err
	}
	timed, stop := context.WithTimeout(ctx, c.o.AttemptTimeout)
	defer stop()
	cctx, cancel := context.WithCancelCause(timed)
	defer cancel(nil)
	var wg, watch sync.WaitGroup
	waiting := &waitingFor{began: time.Now(), targets: map[placement.Target]int{}}
	for i := range shards {
		if s.Stored(i) {
			waiting.targets[pg.Slots[i].Target] = c.load.begin(pg.Slots[i].Target)
		}
	}
	ended := make(chan struct{})
	watch.Go(func() { c.watch(cctx, cancel, waiting, s.ShardLen, patience, ended) })
	for i := range shards {
		if !s.Stored(i) {
			continue
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			t := pg.Slots[i].Target
			err := c.put(cctx, m, t, pg, i, s, w, shards[i])
			depth := waiting.answered(t)
			c.load.end(t)
			switch {
			case err == nil:
				c.putLatency(s.ShardLen).add(time.Since(waiting.began) / time.Duration(depth))
				c.worked(t)
				return
			case cctx.Err() != nil && timed.Err() == nil:
				return // cancelled because another failed before
			case ctx.Err() == nil && vfs.KindOf(err) != vfs.KindFenced && vfs.KindOf(err) != vfs.KindExists && vfs.KindOf(err) != vfs.KindInvalid:
				c.failed(t, err)
			}
			cancel(vfs.Errorf(vfs.KindOf(err), "stripe.put", "shard %d on %v: %w", i, t, err))
		}()
	}
	wg.Wait()
	close(ended)
	watch.Wait()
	if timed.Err() != nil {
		return vfs.Errorf(vfs.KindUnavailable, "stripe.put", "pg %d: %w", pg.ID, timed.Err())
	}
	return context.Cause(cctx)
}

var errNoCaller = errors.New("no way to the node")

func (c *Client) put(ctx context.Context, m Map, t placement.Target, pg *placement.PG, i int, s blockstore.Shape, w *Write, shard []byte) error {
	caller, err := m.Caller(t.Node)
	if err != nil {
		return errors.Join(errNoCaller, err)
	}
	r := blockstore.PutRequest{
		Disk: t.Disk, Key: blockstore.Key{PG: pg.ID, Block: w.Block, Shard: uint8(i)}, Epoch: pg.Epoch,
		K: uint8(s.K), M: uint8(s.M), BlockLen: uint32(s.BlockLen), Owner: w.Owner,
	}
	var meta [64]byte
	reply, err := caller.Call(ctx, blockstore.OpPut, r.Append(meta[:0]), net.Buffers{shard}, nil)
	reply.Release()
	return err
}

// encode returns the k+m shards of a block. Data shards lie in data, the last
// one perhaps in scratch, parity in scratch, zero shards in c.zeros.
func (c *Client) encode(s blockstore.Shape, data []byte) (shards [][]byte, scratch *wire.Buf, err error) {
	enc, err := c.encoder(placement.Profile{K: s.K, M: s.M})
	if err != nil {
		return nil, nil, err
	}
	n := s.M * s.ShardLen
	padded := cap(data) >= s.PaddedLen()
	if !padded {
		n += s.ShardLen
	}
	scratch = wire.GetBuf(n)
	shards = make([][]byte, s.K+s.M)
	for i := range s.M {
		shards[s.K+i] = scratch.B[i*s.ShardLen:][:s.ShardLen:s.ShardLen]
	}
	if padded {
		data = data[:s.PaddedLen()]
		clear(data[s.BlockLen:])
	}
	for i := range s.K {
		switch {
		case i >= s.Data:
			shards[i] = c.zeros[:s.ShardLen]
		case i == s.Data-1 && !padded:
			last := scratch.B[s.M*s.ShardLen:]
			clear(last[copy(last, data[i*s.ShardLen:]):])
			shards[i] = last
		default:
			shards[i] = data[i*s.ShardLen:][:s.ShardLen:s.ShardLen]
		}
	}
	if s.M > 0 {
		if err := enc.Encode(shards); err != nil {
			return nil, scratch, vfs.Errorf(vfs.KindInternal, "stripe.encode", "%w", err)
		}
	}
	return shards, scratch, nil
}
