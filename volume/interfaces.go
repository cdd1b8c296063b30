package volume

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Meta is the metadata client. Errors are of kind vfs.Kind.
type Meta interface {
	// Apply runs one command in shard, exactly once, and returns its result when
	// it is committed. It stamps the identity and the time, retries until the
	// outcome is known or ctx ends (KindUnknown), and joins concurrent commands.
	// A result with a kind becomes an error.
	Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error)

	// Query is a linearizable read of shard.
	Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error)
}

// Block names an immutable block and the placement group that holds it.
type Block struct {
	ID   uint64
	PG   uint32
	K, M uint8  // of the placement group
	Len  uint32 // bytes of the whole block
}

// Owner is what a block's shards say they belong to.
type Owner struct {
	FS     uint32
	Ino    uint64
	Offset uint64 // of the block's first byte in the file
}

// Blocks writes and reads erasure-coded blocks.
type Blocks interface {
	// Write stores data as block id and returns where, once every shard is durable.
	// data may be up to 4 MiB; the bytes between len and cap may be overwritten.
	// KindUnavailable: not now.
	Write(ctx context.Context, id uint64, o Owner, data []byte) (Block, error)

	// Read fills p from offset off of the block. KindNotFound: the block is gone.
	Read(ctx context.Context, b Block, off uint32, p []byte) error
}
