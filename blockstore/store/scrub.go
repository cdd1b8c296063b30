package store

import (
	"context"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

// scrubPage is how many entries of the index a scrub looks at together. It holds no iterator
// while it reads, which would keep the index from forgetting anything.
const scrubPage = 512

// Limiter holds a scrub to a rate. WaitN returns when n more bytes may be read, or an error
// when ctx ends.
type Limiter interface {
	WaitN(ctx context.Context, n int) error
}

// Bad is a shard that fails its checks.
type Bad struct {
	Key segment.Key
	Err error
}

// ScrubResult says how far a scrub came.
type ScrubResult struct {
	// Next is where to continue: behind this shard. Nil when the scrub is complete.
	Next   *segment.Key
	Shards int64 // checked
	Bytes  int64 // read
	Bad    int64
}

// Scrub reads every shard behind after (all, if it is nil) in the order of keys, from the
// disk rather than from the page cache, and checks all of it. A shard that is bad, which includes
// one that the index has and no segment, is marked so as by Get, and reported. It ends
// when all are checked or ctx ends; the result then says where to go on. limit and report may be nil.
func (s *Store) Scrub(ctx context.Context, after *segment.Key, limit Limiter, report func(Bad)) (ScrubResult, error) {
	const op = "store.scrub"
	res := ScrubResult{Next: after}
	for {
		keys, err := s.scrubKeys(ctx, res.Next)
		if err != nil {
			return res, vfs.Wrap(op, err)
		}
		if len(keys) == 0 {
			res.Next = nil
			return res, nil
		}
		for i := range keys {
			if err := s.scrubShard(ctx, keys[i], limit, report, &res); err != nil {
				return res, vfs.Wrap(op, err)
			}
			res.Next = &keys[i]
			res.Shards++
		}
	}
}

func (s *Store) scrubKeys(ctx context.Context, after *segment.Key) ([]segment.Key, error) {
	if err := s.enter("store.scrub"); err != nil {
		return nil, err
	}
	defer s.leave()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	lower := []byte{prefixShard}
	if after != nil {
		lower = append(shardKey(*after), 0)
	}
	keys := make([]segment.Key, 0, scrubPage)
	err := s.each(ctx, lower, []byte{prefixShard + 1}, func(key, _ []byte) (bool, error) {
		k, err := decodeKey(prefixShard, key)
		keys = append(keys, k)
		return len(keys) < scrubPage, err
	})
	return keys, err
}

func (s *Store) scrubShard(ctx context.Context, k segment.Key, limit Limiter, report func(Bad), res *ScrubResult) error {
	if err := s.enter("store.scrub"); err != nil {
		return err
	}
	defer s.leave()
	var last location
	for try := 0; ; try++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		l, ok, err := s.lookup(k)
		if err != nil || !ok {
			return err // deleted, or found bad by somebody else
		}
		if limit != nil {
			if err := limit.WaitN(ctx, int(l.size())); err != nil {
				return err
			}
		}
		if g, _, ok := s.headerOf(l.file); ok {
			if err := g.f.DropRange(l.offset(), l.size()); err != nil {
				s.log.Debug("page cache not dropped", "err", err)
			}
		}
		res.Bytes += l.size()
		_, _, _, buf, err := s.readRecord(k, l, 0, int(l.length))
		buf.Release()
		if err == nil {
			return nil
		}
		if try == 0 || l != last {
			last = l // the record may have moved meanwhile
			continue
		}
		bad, moved, cerr := s.checkBad(ctx, k, l)
		switch {
		case cerr != nil:
			return cerr
		case bad != nil:
			res.Bad++
			if report != nil {
				report(Bad{k, bad})
			}
			return nil
		case !moved && try > maxReadTries:
			return nil // sound now
		}
	}
}
