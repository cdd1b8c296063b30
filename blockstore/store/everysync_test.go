package store

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/vfile/crashtest"
	"github.com/rackfs/rackfs/internal/vfile/pebblefs"
)

// held is what stores acknowledged: the first blocks in one, and that another one exists.
type held struct {
	blocks  uint64
	second  bool
	adopted uint64 // incarnation of the metadata of the second one
}

// lifeOptions are those of a store in a directory of a directory that a process made which died before it synced it.
func lifeOptions(files vfile.FS, name string) Options {
	o := memOptions(-1)
	index := files
	if d, ok := files.(*crashtest.Dying); ok {
		index = d.FS // Pebble tries for ever to flush what it cannot
	}
	o.Dir, o.FS, o.IndexFS = "/disks/"+name, files, pebblefs.New(index)
	return o
}

// lifePut is a shard of 75 KiB: 13 fill a segment.
func lifePut(block uint64) *Put { return shardPut(key(1, 6*block+5, 0), 1) }

// life is all that happens to a store's directory, with processes that die before a sync.
func life(d *crashtest.Disk[held]) error {
	if err := d.Files.Mkdir("/disks"); err != nil {
		return err
	}
	ctx := context.Background()
	next := uint64(0)
	for i, files := range []vfile.FS{
		d.Files,
		crashtest.DiesAt(d.Files, crashtest.OpSyncDir, "segments", 2), // before a segment's name is synced
		d.Files,
		crashtest.DiesAt(d.Files, crashtest.OpSync, "*.seg", 2), // before a record is, after those of the last one
		d.Files,
	} {
		s, err := Open(ctx, lifeOptions(files, "s"))
		if err != nil {
			return err
		}
		// A shard that a dead process left counts, if it can be read.
		if r, err := s.Get(ctx, lifePut(next).Key, 0, 1); err == nil {
			r.Release()
			next++
		}
		dying, mortal := files.(*crashtest.Dying)
		enough := next + 2
		if mortal {
			enough = next + 2*13 // until it dies
		}
		for ; next < enough && err == nil; next++ {
			d.Ack(func(h *held) { h.blocks = next })
			err = s.Put(ctx, lifePut(next))
		}
		if mortal {
			if err == nil || !dying.Died() {
				return fmt.Errorf("the process did not die: %v", err)
			}
			next--
			s.Close()
			continue
		}
		d.Ack(func(h *held) { h.blocks = next })
		if i == 2 {
			s.indexDamaged(pebble.ErrCorruption)
			for s.Info().Rebuilding || counterOf(s.m.IndexRebuilds) == 0 {
				runtime.Gosched()
			}
		}
		if err := errors.Join(err, s.Close()); err != nil {
			return err
		}
	}
	// A second one, whose maker dies before the superblock's name is synced.
	dying := crashtest.DiesAt(d.Files, crashtest.OpSyncDir, "t", 3)
	if _, err := Open(ctx, lifeOptions(dying, "t")); err == nil || !dying.Died() {
		return fmt.Errorf("the process did not die: %v", err)
	}
	s, err := Open(ctx, lifeOptions(d.Files, "t"))
	if err != nil {
		return err
	}
	d.Ack(func(h *held) { h.second = true })
	if err := s.Adopt(7); err != nil {
		return err
	}
	d.Ack(func(h *held) { h.adopted = 7 })
	return s.Close()
}

func checkLife(left *vfile.Mem, h held) (err error) {
	ctx := context.Background()
	if _, err := left.Stat("/disks/t"); err == nil || h.second {
		o := lifeOptions(left, "t")
		o.Create = !h.second
		s, err := Open(ctx, o)
		if err != nil {
			return err
		}
		is := s.Info().MetadataIncarnation
		if err := s.Close(); err != nil {
			return err
		}
		if is < h.adopted {
			return fmt.Errorf("the store is of incarnation %d, it had adopted %d", is, h.adopted)
		}
	}
	s, err := Open(ctx, lifeOptions(left, "s"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for b := range h.blocks {
		want := lifePut(b)
		r, err := s.Get(ctx, want.Key, 0, len(want.Data))
		if err != nil {
			return fmt.Errorf("block %d: %w", b, err)
		}
		same := string(r.Bytes) == string(want.Data)
		r.Release()
		if !same {
			return fmt.Errorf("block %d has other content", b)
		}
	}
	page, _, err := s.List(ctx, 1, nil, 1000)
	if err != nil {
		return err
	}
	if n := lostSegments(s); n != 0 {
		return fmt.Errorf("%v segments came out of the crash without a header", n)
	}
	for _, e := range page {
		r, err := s.Get(ctx, e.Key, 0, int(e.Length))
		if err != nil {
			return fmt.Errorf("shard %v: %w", e.Key, err)
		}
		r.Release()
	}
	return nil
}

// After a power cut at any moment a store has each shard it acknowledged, and each sync is needed for that.
func TestEverySync(t *testing.T) {
	crashtest.Test[held]{
		Run: life, Check: checkLife,
		// Pebble makes a manifest and the marker that names it durable with one sync.
		Together: func(dir string) bool { return path.Base(dir) == "index" },
	}.Prove(t, []crashtest.Site{
		{Call: "store.Store.open > MkdirAllSync: dir /"},
		{Call: "store.Store.open > MkdirAllSync: dir disks"},
		{Call: "store.Store.open > MkdirAllSync: dir s", Nothing: "create syncs it again"},
		{Call: "store.Store.create: dir segments"},
		{Call: "store.Store.create: dir s"},
		{Call: "store.Store.create > WriteFileAtomic: file"},
		{Call: "store.Store.create > WriteFileAtomic: dir s", Nothing: "adopt syncs it again"},
		{Call: "store.Store.adopt: dir segments"},
		{Call: "store.Store.adopt: dir s", Nothing: "adopt of t shows it: the maker of s lived"},
		{Call: "store.Store.makeSegment: file"},
		{Call: "store.Store.makeSegment: dir segments"},
		{Call: "store.Store.open > MkdirAllSync: dir t", Nothing: "as for s"},
		{Call: "store.Store.create: dir t"},
		{Call: "store.Store.adopt: dir t"},
		{Call: "store.Store.Adopt > WriteFileAtomic: file"},
		{Call: "store.Store.Adopt > WriteFileAtomic: dir t"},
		{Call: "store.Store.syncGroup: file"},
		{Call: "store.Store.replay: file"},
		{Call: "store.Store.switchIndex: dir s", Nothing: "an index of which a part is removed is made anew without the mark too"},
		{Call: "store.Store.replaceIndex: dir s", Nothing: "the old index is as good until a segment was recycled that it refers to, which is not part of this life"},
	})
}

func counterOf(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		return -1
	}
	return m.GetCounter().GetValue()
}

func lostSegments(s *Store) float64 {
	var m dto.Metric
	if err := s.m.LostSegments.Write(&m); err != nil {
		return -1
	}
	return m.GetGauge().GetValue()
}
