package volume

import (
	"context"
	"sync"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// blockIDRange is how many block ids are leased at once (16 GiB of full blocks):
// the unit in which the state machine gives them out. Of a smaller range the
// rest of the unit is never used.
const blockIDRange = 4096

// blockIDs gives out ids from ranges that the namespace shard leased to this
// gateway.
type blockIDs struct {
	mu          sync.Mutex // guards the fields below
	first, last uint64     // [first, last) is left
	asking      chan struct{}
	err         error // of the last asking
}

// next returns an id that was never used.
func (b *blockIDs) next(ctx context.Context, v *Volume) (uint64, error) {
	for {
		b.mu.Lock()
		if b.first < b.last {
			id := b.first
			b.first++
			b.mu.Unlock()
			return id, nil
		}
		if b.asking == nil {
			b.asking = make(chan struct{})
			b.mu.Unlock()
			if err := b.ask(ctx, v); err != nil {
				return 0, err
			}
			continue
		}
		wait := b.asking
		b.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		b.mu.Lock()
		err, empty := b.err, b.first >= b.last
		b.mu.Unlock()
		if empty && err != nil {
			return 0, err
		}
	}
}

// ask leases a range and lets those who wait go on.
func (b *blockIDs) ask(ctx context.Context, v *Volume) error {
	r, err := v.apply(ctx, "blocks.alloc", nil, &metapb.Command{
		Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: blockIDRange}},
	})
	if err == nil && r.GetBlocks().GetCount() == 0 {
		err = vfs.Errorf(vfs.KindInternal, "blocks.alloc", "an empty range")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.first = r.GetBlocks().First
		b.last = b.first + uint64(r.GetBlocks().Count)
	}
	b.err = err
	close(b.asking)
	b.asking = nil
	return err
}
