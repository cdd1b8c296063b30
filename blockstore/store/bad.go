package store

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/vfs"
)

// anyBad reports whether any shard is marked bad, so that who meets none pays nothing.
func (s *Store) anyBad() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bad > 0
}

// isBad reports whether the shard is marked bad.
func (s *Store) isBad(k segment.Key) (bool, error) {
	db, done, err := s.reading()
	if err != nil {
		return false, err
	}
	defer done()
	bad, err := has(db, badKey(k))
	if err != nil {
		return false, s.indexError(err)
	}
	return bad, nil
}

// badShard is the error of a shard that fails its checks for good: its bytes are there and wrong, or the
// disk says that it cannot read them. Other errors of a read may be gone the next time.
type badShard struct{ err *vfs.Error }

func (b *badShard) Error() string { return b.err.Error() }
func (b *badShard) Unwrap() error { return b.err }

func isBadShard(err error) bool {
	var b *badShard
	return errors.As(err, &b)
}

// damage reports whether the error of a read says that the bytes are lost, as
// against a machine that is short of something.
func damage(err error) bool {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return true
	}
	for _, no := range []syscall.Errno{syscall.EIO, syscall.ENODATA, syscall.EILSEQ, syscall.EREMOTEIO, syscall.EBADMSG} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// checkBad finds out whether the shard, which failed a check at l, is bad, marks
// it so, and returns why. moved means that it is not at l any more.
func (s *Store) checkBad(ctx context.Context, k segment.Key, l location) (bad error, moved bool, err error) {
	o := &op{keys: []segment.Key{k}, olds: []*location{&l}, mark: true, done: make(chan struct{})}
	s.mu.Lock()
	if err := s.claimFor(ctx, o, k); err != nil {
		s.mu.Unlock()
		return nil, false, err
	}
	s.mu.Unlock()
	now, ok, err := s.lookup(k)
	if err != nil || !ok || now != l {
		s.finish([]*op{o}, nil)
		return nil, true, err
	}
	_, _, _, buf, err := s.readRecord(k, l, 0, int(l.length))
	buf.Release()
	if err == nil || !isBadShard(err) {
		s.finish([]*op{o}, nil)
		return nil, false, err
	}
	bad = err
	s.submit(o)
	if err := o.wait(ctx); err != nil {
		// It will be found again.
		vfs.LogRequest(ctx, s.log).Warn("bad shard is not marked", "err", err)
	}
	s.reportBad(ctx, k, bad)
	return bad, false, nil
}

func (s *Store) reportBad(ctx context.Context, k segment.Key, err error) {
	s.m.BadShards.Inc()
	vfs.LogRequest(ctx, s.log).Warn("bad shard", "pg", k.PG, "block", k.Block, "shard", k.Shard, "err", err)
	if s.o.OnBad != nil {
		s.o.OnBad(k, err)
	}
}

// ListBad returns shards that were found bad and are neither replaced nor deleted since, those
// behind after if it is not nil, at most limit of them. List does not have them.
func (s *Store) ListBad(ctx context.Context, after *segment.Key, limit int) (keys []segment.Key, more bool, err error) {
	if err := s.enter("store.listbad"); err != nil {
		return nil, false, err
	}
	defer s.leave()
	lower := []byte{prefixBad}
	if after != nil {
		lower = append(badKey(*after), 0)
	}
	err = s.each(ctx, lower, []byte{prefixBad + 1}, func(key, _ []byte) (bool, error) {
		if more = len(keys) == clampLimit(limit); more {
			return false, nil
		}
		k, err := decodeKey(prefixBad, key)
		keys = append(keys, k)
		return true, err
	})
	return keys, more, err
}

func clampLimit(limit int) int {
	if limit <= 0 || limit > MaxListEntries {
		return MaxListEntries
	}
	return limit
}

// each calls fn for the entries of the index from lower to before upper until it
// returns false or an error, which counts as one of the index.
func (s *Store) each(ctx context.Context, lower, upper []byte, fn func(key, value []byte) (bool, error)) (err error) {
	db, done, err := s.reading()
	if err != nil {
		return err
	}
	defer done()
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return s.indexError(err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = s.indexError(cerr)
		}
	}()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		more, err := fn(it.Key(), it.Value())
		if err != nil {
			return s.indexError(err)
		}
		if !more {
			return nil
		}
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return vfs.Wrap("store.index", ctx.Err())
		}
	}
	return nil
}

// markMissing marks bad what the index has in segments that are lost. Part of Open, at the
// position of the index before anything is replayed.
func (s *Store) markMissing(ctx context.Context, pos position) error {
	lower := []byte{prefixShard}
	for {
		b := s.ix.db.NewBatch()
		c := newChange(b)
		var found []segment.Key
		err := s.each(ctx, lower, []byte{prefixShard + 1}, func(key, value []byte) (bool, error) {
			k, kerr := decodeKey(prefixShard, key)
			l, lerr := decodeLocation(value)
			if err := errors.Join(kerr, lerr); err != nil {
				return false, err
			}
			if g := s.segs[l.file]; g != nil && g.header.State == segment.StateUsed && g.lost == lossNone {
				return true, nil
			}
			found = append(found, k)
			if err := c.retire(k, l, s.incarnationOf(l.file)); err != nil {
				return false, err
			}
			return len(found) < replayBatch, c.markBad(k, l)
		})
		// What is lost was not counted as live.
		clear(c.files)
		if err == nil {
			err = s.commit(c, pos)
		}
		b.Close()
		if err != nil {
			return err
		}
		for _, k := range found {
			s.reportBad(context.Background(), k, vfs.Errorf(vfs.KindCorrupt, "store.open", "its segment is lost"))
		}
		if len(found) < replayBatch {
			return nil
		}
		lower = append(shardKey(found[len(found)-1]), 0)
	}
}
