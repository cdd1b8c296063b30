package stripe

import (
	"context"
	"slices"
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
	a := c.attempt()
	defer a.release()
	var scratch *wire.Buf
	a.shards, scratch, err = c.encode(s, w.Data, a.shards)
	defer scratch.Release()
	if err != nil {
		return err
	}
	a.begin(ctx, m, pg, w, s)
	return a.run(patience)
}

// encode returns the k+m shards of a block, in the space of shards if that is enough. Data shards lie in data, the last
// one perhaps in scratch, parity in scratch, zero shards in c.zeros.
func (c *Client) encode(s blockstore.Shape, data []byte, shards [][]byte) (_ [][]byte, scratch *wire.Buf, err error) {
	enc, err := c.encoder(placement.Profile{K: s.K, M: s.M})
	if err != nil {
		return shards, nil, err
	}
	n := s.M * s.ShardLen
	padded := cap(data) >= s.PaddedLen()
	if !padded {
		n += s.ShardLen
	}
	scratch = wire.GetBuf(n)
	shards = slices.Grow(shards[:0], s.K+s.M)[:s.K+s.M]
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
			return shards, scratch, vfs.Errorf(vfs.KindInternal, "stripe.encode", "%w", err)
		}
	}
	return shards, scratch, nil
}
