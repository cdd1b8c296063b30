package replica

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"github.com/rackfs/rackfs/internal/vfile"
)

// cutMeta calls before when the list of segments is about to change.
type cutMeta struct {
	*memMeta
	before func()
}

func (m *cutMeta) CommitState(s types.PersistentState) error {
	m.before()
	return m.memMeta.CommitState(s)
}

// endFiler notes when a segment was given its end.
type endFiler struct {
	types.SegmentFiler
	ended *bool // guarded by who stores entries
}

func (f endFiler) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	w, err := f.SegmentFiler.Create(info)
	return endWriter{w, f.ended}, err
}

type endWriter struct {
	types.SegmentWriter
	ended *bool
}

func (w endWriter) Sealed() (bool, uint64, error) {
	ended, start, err := w.SegmentWriter.Sealed()
	*w.ended = *w.ended || ended
	return ended, start, err
}

// A log whose last segment has its end, because the process ended before raft-wal noted that, or half of it, because the power
// failed while it was written, has all entries that were acknowledged and goes on.
func TestLogGoesOnBehindTheEndOfASegment(t *testing.T) {
	whole, torn := 0, 0
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			left, after, acked, batch := endOfASegment(t, rng)
			w, err := memWAL(t, left, after)
			if err != nil {
				t.Fatal(err)
			}
			last, err := w.LastIndex()
			if err != nil {
				t.Fatal(err)
			}
			switch last {
			case uint64(len(acked) + len(batch)):
				whole++
				acked = append(acked, batch...)
			case uint64(len(acked)):
				torn++
			default:
				t.Fatalf("the last entry is %d, %d were acknowledged", last, len(acked))
			}
			// More than another segment, and a start in between.
			for range 100 {
				last++
				if err := w.StoreLog(entry(last)); err != nil {
					t.Fatalf("append of %d behind %d acknowledged and a batch of %d: %v", last, len(acked), len(batch), err)
				}
				acked = append(acked, entry(last))
			}
			check(t, w, acked)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if w, err = memWAL(t, left, after); err != nil {
				t.Fatal(err)
			}
			check(t, w, acked)
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
	if whole == 0 || torn == 0 {
		t.Fatalf("%d batches were whole and %d torn: the test is void", whole, torn)
	}
	t.Logf("%d batches were whole and %d torn", whole, torn)
}

// endOfASegment fills one segment in batches and cuts the power between the write of its last batch, with its end, and the sync of that.
// It returns what is left, the list of segments, the entries before that batch, and the batch.
func endOfASegment(t *testing.T, rng *rand.Rand) (left *vfile.Mem, after *memMeta, acked, batch []*raft.Log) {
	t.Helper()
	disk := vfile.NewMem(-1)
	fs := &syncFS{FS: disk}
	begun := make(chan struct{})
	meta := &cutMeta{memMeta: &memMeta{}}
	meta.before = func() {
		if s, _ := meta.Load(""); len(s.Segments) == 1 {
			after = &memMeta{state: s}
			left = disk.CrashClone(rng, 0.7, nil)
			close(begun)
		}
	}
	if err := vfile.MkdirAllSync(fs, "w"); err != nil {
		t.Fatal(err)
	}
	ended := false
	w, err := wal.Open("w", wal.WithSegmentSize(4096), wal.WithMetaStore(meta), wal.WithLogger(hclog.NewNullLogger()),
		wal.WithSegmentFiler(endFiler{segment.NewFiler("w", walFS{fs, new(fault)}), &ended}))
	if err != nil {
		t.Fatal(err)
	}
	fs.noSync.Store(true)
	size := 1 + rng.IntN(60)
	for next := uint64(1); ; {
		acked = append(acked, batch...)
		// All before this batch is durable.
		if next > 1 {
			f, err := disk.Open("w/00000000000000000001-0000000000000000.wal")
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		batch = nil
		for range size {
			e := entry(next)
			e.Data = append(e.Data, make([]byte, rng.IntN(30))...)
			batch = append(batch, e)
			next++
		}
		if err := w.StoreLogs(batch); err != nil {
			t.Fatal(err)
		}
		if ended {
			<-begun
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			return left, after, acked, batch
		}
	}
}

// check fails unless w has the entries.
func check(t *testing.T, w raft.LogStore, entries []*raft.Log) {
	t.Helper()
	for _, e := range entries {
		var l raft.Log
		if err := w.GetLog(e.Index, &l); err != nil || string(l.Data) != string(e.Data) {
			t.Fatalf("entry %d: %v", e.Index, err)
		}
	}
}
