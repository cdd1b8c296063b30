package store

import (
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// Defaults and bounds of Options.
const (
	DefaultSegmentSize   = 256 << 20
	MinSegmentSize       = 1 << 20
	MaxSegmentSize       = 1 << 30
	DefaultReserveBytes  = 64 << 20
	DefaultMemTableBytes = 4 << 20
	DefaultCacheBytes    = 8 << 20

	// DefaultMemoryIndexBytes is enough for some ten million shards.
	DefaultMemoryIndexBytes = 1 << 30

	// DefaultCompactPercent is how much of a segment may be live for it to be compacted,
	// DefaultCompactBytesPerSecond how fast.
	DefaultCompactPercent        = 50
	DefaultCompactBytesPerSecond = 64 << 20

	// MaxListEntries bounds one answer of List, MaxDeleteKeys and MaxFenceEpochs one call.
	MaxListEntries = 8192
	MaxDeleteKeys  = 4096
	MaxFenceEpochs = 16384
)

// Options says how a store is opened. Dir and Cluster have no default.
type Options struct {
	Dir     string
	Cluster segment.ID
	// Create makes a new store if Dir has none. Without it an empty
	// directory, such as the mount point of a disk that is not mounted, is refused.
	Create bool
	// MetadataIncarnation is stored when the store is created.
	MetadataIncarnation uint64

	// SegmentSize is fixed when the store is created.
	SegmentSize int64
	// Capacity bounds the bytes in segments; 0 means the disk does.
	Capacity int64
	// ReserveBytes is what new segments leave free on the disk, for the
	// index among others.
	ReserveBytes int64

	// CompactPercent: a segment of which no more than this is live is emptied and recycled.
	// Negative: only when Compact is called. When writes need space, fuller ones are.
	CompactPercent int
	// CompactBytesPerSecond bounds what compaction writes while no write needs space. Negative: unbounded.
	CompactBytesPerSecond int64
	// OnBad is told of each shard that is found bad, also before Open returns. It must not block, nor call the store.
	OnBad func(segment.Key, error)

	// MemTableBytes is the size of one memtable of the index.
	MemTableBytes uint64
	// MemoryIndexBytes bounds what a store that is read-only keeps of its index in memory, because it cannot
	// be written, see readonly.go; 0: DefaultMemoryIndexBytes.
	MemoryIndexBytes int64
	// IndexCache is the block cache of the index. Stores of a process may share it.
	IndexCache *pebble.Cache

	fillBelow int64 // see ahead.go; negative: no segment whose space is reserved is filled with zeros; 0: the constant
	// manifestBytes is how large the list of the index's tables may get before another one is begun; 0: as Pebble has it.
	manifestBytes int64

	// Budget holds compaction, while no write needs space, and the making of a new index to what clients leave of the disk. Whoever serves the store
	// and has its shards repaired uses it too; nil: there is no limit.
	Budget *budget.Budget

	FS      vfile.FS
	IndexFS pvfs.FS
	Logger  *slog.Logger
	Metrics *Metrics
}

func (o Options) withDefaults() (Options, error) {
	const op = "store.open"
	if o.Dir == "" {
		return o, vfs.Errorf(vfs.KindInvalid, op, "no directory given")
	}
	if o.Cluster == (segment.ID{}) {
		return o, vfs.Errorf(vfs.KindInvalid, op, "no cluster id given")
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if o.SegmentSize < MinSegmentSize || o.SegmentSize > MaxSegmentSize || o.SegmentSize%segment.PageSize != 0 {
		return o, vfs.Errorf(vfs.KindInvalid, op, "segment size %d is not a multiple of %d between %d and %d",
			o.SegmentSize, segment.PageSize, MinSegmentSize, MaxSegmentSize)
	}
	if o.fillBelow == 0 {
		o.fillBelow = fillBelow
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = DefaultReserveBytes
	}
	if o.CompactPercent == 0 {
		o.CompactPercent = DefaultCompactPercent
	}
	if o.CompactPercent >= urgentPercent {
		return o, vfs.Errorf(vfs.KindInvalid, op, "segments cannot be compacted at %d%% live, at most %d%%", o.CompactPercent, urgentPercent-1)
	}
	if o.CompactBytesPerSecond == 0 {
		o.CompactBytesPerSecond = DefaultCompactBytesPerSecond
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = DefaultMemTableBytes
	}
	if o.MemoryIndexBytes == 0 {
		o.MemoryIndexBytes = DefaultMemoryIndexBytes
	}
	if o.FS == nil {
		o.FS = vfile.OS{}
	}
	if o.IndexFS == nil {
		o.IndexFS = pvfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Logger = o.Logger.With("store", o.Dir)
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil, nil)
	}
	return o, nil
}
