package blockstore

import (
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// Sizes of blocks.
const (
	// MaxBlock is the longest block, in bytes.
	MaxBlock = 4 << 20
	// MinShard is how much data a block must have per data shard before it
	// gets another one.
	MinShard = 32 << 10
	// MaxPadding is how far the data shards of a block can exceed its length.
	MaxPadding = placement.MaxData * coarse

	coarse = 4096 // shards are a multiple of this
	fine   = 512  // or of this, where coarse leaves a shard empty
)

// Owner says which part of which file a block is.
type Owner = segment.Owner

// Key names a shard in a store.
type Key = segment.Key

// Shape is how a block is cut into shards.
type Shape struct {
	K, M     int
	BlockLen int // bytes of data
	Data     int // data shards stored, 1..K; the others are zero
	ShardLen int // bytes of each shard
}

// ShapeOf is the shape of a block of n bytes under profile k+m.
func ShapeOf(n, k, m int) (Shape, error) {
	if err := (placement.Profile{K: k, M: m}).Validate(); err != nil {
		return Shape{}, err
	}
	if n < 1 || n > MaxBlock {
		return Shape{}, vfs.Errorf(vfs.KindInvalid, "blockstore.shape", "block of %d bytes, the bounds are 1 and %d", n, MaxBlock)
	}
	d := min(k, ceilDiv(n, MinShard))
	l := ceilDiv(ceilDiv(n, d), coarse) * coarse
	if (d-1)*l >= n {
		l = ceilDiv(ceilDiv(n, d), fine) * fine
	}
	return Shape{K: k, M: m, BlockLen: n, Data: d, ShardLen: l}, nil
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// Stored reports whether the shard of slot i exists on disk.
func (s Shape) Stored(i int) bool { return i < s.Data || i >= s.K && i < s.K+s.M }

// StoredShards is the number of shards on disk.
func (s Shape) StoredShards() int { return s.Data + s.M }

// PaddedLen is the length of the data shards together: the block and the zeros behind it.
func (s Shape) PaddedLen() int { return s.Data * s.ShardLen }
