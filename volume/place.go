package volume

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rackfs/rackfs/vfs"
)

// leastWritten is what a block that is written counts as, if it is less: 128 small ones are under way where 16 large ones are. Those are
// bounded for the memory that their shards need. A small one waits for fdatasyncs, which it shares with those that are there by then.
const leastWritten = 512 << 10

// place writes pieces as blocks of at most maxBlock bytes, or makes inline
// pages of them.
func (v *Volume) place(e *inode, ps pieces, inline bool, maxBlock uint64) ([]newExtent, error) {
	var out []newExtent
	step := maxBlock
	if inline {
		step = pageSize
	}
	for _, p := range ps {
		for off := p.off; off < p.end(); {
			end := min(p.end(), off-off%step+step)
			s := segment{off: off, end: end}
			if inline {
				// The buffer is reused one day; inline bytes stay in the extent map.
				s.inline = slices.Clone(p.data()[off-p.off : end-p.off])
			}
			out = append(out, newExtent{seg: s, src: p})
			off = end
		}
	}
	if inline {
		return out, nil
	}
	if err := v.writeBlocks(e, out); err != nil {
		v.settleIDs(out)
		return nil, err
	}
	return out, nil
}

// settleIDs ends the holding of the ids of blocks that were written: no command that brings them is under way.
func (v *Volume) settleIDs(exts []newExtent) {
	for i := range exts {
		if id := exts[i].seg.block.ID; id != 0 {
			v.ids.settle(v, id)
		}
	}
}

// writeBlocks gives every extent a block, several at a time.
func (v *Volume) writeBlocks(e *inode, exts []newExtent) error {
	if len(exts) == 1 {
		return v.writeBlock(v.ctx, e, &exts[0])
	}
	var (
		wg    sync.WaitGroup
		next  atomic.Int64
		once  sync.Once
		first error
	)
	for range min(len(exts), v.cfg.BlockWriters) {
		wg.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= len(exts) {
					return
				}
				if err := v.writeBlock(v.ctx, e, &exts[i]); err != nil {
					once.Do(func() { first = err })
					next.Store(int64(len(exts)))
					return
				}
			}
		})
	}
	wg.Wait()
	return first
}

// forWhom is ctx about the request that waits for what e has buffered, if it is about none itself.
func forWhom(ctx context.Context, e *inode) context.Context {
	if vfs.RequestOf(ctx) != 0 {
		return ctx
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return vfs.WithRequest(ctx, e.request)
}

// writeBlock stores the bytes of x in a new block, however long ctx lasts; who has x then settles its id. The
// block's id stays the same over tries that fail for now: the bytes do not change while they
// are flushed, and writing the same bytes again is idempotent, whatever a failed
// try left behind. So an outage uses up no ids.
func (v *Volume) writeBlock(ctx context.Context, e *inode, x *newExtent) error {
	data := x.src.data()[x.seg.off-x.src.off : x.seg.end-x.src.off]
	if x.seg.end != x.src.end() {
		data = slices.Clip(data) // what follows belongs to the next block
	}
	weight := int64(max(len(data), leastWritten))
	owner := Owner{FS: v.cfg.FS, Ino: uint64(e.ino), Offset: x.seg.off}
	var id uint64 // 0: none yet, as no block has it
	err := v.retryIn(ctx, "flush", func() error {
		if err := e.gone(); err != nil {
			return err
		}
		if err := v.writing.Acquire(ctx, weight); err != nil {
			return err
		}
		defer v.writing.Release(weight)
		if id == 0 {
			var err error
			if id, err = v.ids.take(ctx, v); err != nil {
				return err
			}
		}
		b, err := v.cfg.Blocks.Write(forWhom(ctx, e), id, owner, data)
		switch k := vfs.KindOf(err); {
		case err == nil:
			x.seg.block = b
			v.fullness.wrote()
		case k.Retryable() || k == vfs.KindCanceled:
		case k == vfs.KindNoSpace:
			if !v.fullness.refused(v.cfg.Now(), v.cfg.FullTimeout) {
				err = vfs.Errorf(vfs.KindUnavailable, "flush", "waiting for space: %w", err)
			}
		case k == vfs.KindExists || k == vfs.KindFenced:
			// The id is of no use, the bytes may go under another one.
			err = vfs.Errorf(vfs.KindInternal, "flush", "block %#x cannot be written: %w", id, err)
			fallthrough
		default:
			v.ids.settle(v, id)
			id = 0 // the error may be about the block
		}
		return err
	})
	if err != nil && id != 0 {
		v.ids.settle(v, id)
	}
	return err
}

func (e *inode) gone() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead {
		return vfs.KindStale.Err("flush")
	}
	return nil
}
