package bench

import (
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// Options are the sizes of workloads, in bytes where nothing else is said.
type Options struct {
	Seed uint64        `json:"seed"`
	Time time.Duration `json:"time_ns"` // of a phase that has no end of its own, at most
	// Complete: phases that have a number of operations do all of them, whatever time that takes.
	Complete bool `json:"complete,omitempty"`
	Rate     int  `json:"rate,omitempty"` // operations that all workers of a phase begin in a second, at most; 0: as many as they can

	Files          int   `json:"files"`           // of each worker: metadata and small files
	FileSize       int64 `json:"file_size"`       // of a small file
	StreamSize     int64 `json:"stream_size"`     // of each stream
	RandomSize     int64 `json:"random_size"`     // of the file that is read and written at random
	TreeFiles      int   `json:"tree_files"`      // of a tree
	Entries        int   `json:"entries"`         // of a large directory
	Shards         int   `json:"shards"`          // of training
	ShardSize      int64 `json:"shard_size"`      // of each
	RecordSize     int64 `json:"record_size"`     // of a shard
	CheckpointSize int64 `json:"checkpoint_size"` // of each rank
}

// Standard are the sizes for numbers that are compared with those of others.
var Standard = Options{
	Seed: 1, Time: 10 * time.Second,
	Files: 400, FileSize: 16 << 10, StreamSize: 256 << 20, RandomSize: 256 << 20, TreeFiles: 2000, Entries: 100_000,
	Shards: 8, ShardSize: 32 << 20, RecordSize: 128 << 10, CheckpointSize: 128 << 20,
}

// Short are sizes that show within seconds whether something has become slow.
var Short = Options{
	Seed: 1, Time: time.Second / 2,
	Files: 25, FileSize: 16 << 10, StreamSize: 48 << 20, RandomSize: 64 << 20, TreeFiles: 200, Entries: 2_000,
	Shards: 4, ShardSize: 8 << 20, RecordSize: 128 << 10, CheckpointSize: 16 << 20,
}

// Bounds of options: what fits into memory and into names.
const (
	maxFiles = 1 << 20
	maxBytes = 1 << 40
	// MaxWorkers of a phase.
	MaxWorkers = 4096
)

// period is the time between the beginnings of two operations of one of several workers, at least.
func (o *Options) period(workers int) time.Duration {
	if o.Rate == 0 {
		return 0
	}
	return time.Duration(workers) * time.Second / time.Duration(o.Rate)
}

// Check refuses what no workload can do.
func (o *Options) Check() error {
	bad := func(what string, v any, want string) error {
		return vfs.Errorf(vfs.KindInvalid, "bench.options", "%s %v: use %s", what, v, want)
	}
	for _, n := range []struct {
		what string
		v    int
	}{{"files", o.Files}, {"tree files", o.TreeFiles}, {"entries", o.Entries}, {"shards", o.Shards}} {
		if n.v < 1 || n.v > maxFiles {
			return bad(n.what, n.v, "1 to 1048576")
		}
	}
	for _, n := range []struct {
		what string
		v    int64
	}{{"file size", o.FileSize}, {"stream size", o.StreamSize}, {"random size", o.RandomSize}, {"shard size", o.ShardSize}, {"record size", o.RecordSize}, {"checkpoint size", o.CheckpointSize}} {
		if n.v < PageSize || n.v > maxBytes || n.v%PageSize != 0 {
			return bad(n.what, n.v, "a multiple of 4 KiB, up to 1 TiB")
		}
	}
	if o.RecordSize > pieceSize || o.ShardSize%o.RecordSize != 0 {
		return bad("record size", o.RecordSize, "at most 1 MiB, of which a shard is a multiple")
	}
	if o.StreamSize%pieceSize != 0 || o.RandomSize%pieceSize != 0 || o.ShardSize%pieceSize != 0 {
		return bad("stream, random or shard size", o.StreamSize, "multiples of 1 MiB")
	}
	if o.Rate < 0 || o.Rate > maxFiles {
		return bad("rate", o.Rate, "0, which is no limit, to 1048576")
	}
	if o.Time < time.Millisecond || o.Time > 24*time.Hour {
		return bad("time", o.Time, "1ms to 24h")
	}
	return nil
}
