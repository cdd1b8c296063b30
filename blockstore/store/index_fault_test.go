package store

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/vfile/pebblefs"
	"github.com/rackfs/rackfs/vfs"
)

// indexFaults are options of a store whose index fails as plan says, on the files that are returned.
func indexFaults(plan func(vfile.Call) *vfile.Fault) (Options, *vfile.Mem) {
	o := memOptions(-1)
	mem := o.FS.(*vfile.Mem)
	o.IndexFS = pebblefs.New(vfile.NewFaults(mem, plan))
	return o, mem
}

func inIndex(c vfile.Call) bool { return strings.Contains(c.Name, "/index") }

// An operation of Pebble that fails, of whatever kind and on whatever file, ends writes: not reads, not the process,
// and not the store, which is whole after it was opened anew.
func TestIndexCannotBeWritten(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name     string
		op       vfile.Op
		file     string
		manifest int64
	}{
		{"create a table", vfile.OpCreate, "*.sst", 0},
		{"write a table", vfile.OpWrite, "*.sst", 0},
		{"sync a table", vfile.OpSync, "*.sst", 0},
		{"write the manifest", vfile.OpWrite, "MANIFEST-*", 0},
		{"sync the manifest", vfile.OpSync, "MANIFEST-*", 0},
		{"create a manifest", vfile.OpCreate, "MANIFEST-*", 1},
		{"write a new manifest", vfile.OpWrite, "MANIFEST-*", 1},
		{"create a marker", vfile.OpCreate, "marker.manifest.*", 1},
		{"sync the directory", vfile.OpSyncDir, "index", 1},
	} {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.EROFS, syscall.ENOSPC} {
			t.Run(fmt.Sprintf("%s/%v", c.name, errno), func(t *testing.T) {
				var failing atomic.Bool
				var hits atomic.Int32
				o, _ := indexFaults(func(x vfile.Call) *vfile.Fault {
					if ok, _ := filepath.Match(c.file, filepath.Base(x.Name)); ok && x.Op == c.op && inIndex(x) && failing.Load() {
						hits.Add(1)
						return &vfile.Fault{Err: errno}
					}
					return nil
				})
				o.manifestBytes = c.manifest
				s := mustOpen(t, o)
				keys := putMany(t, s, 1, 40)
				failing.Store(true)
				s.flushSoon()
				select {
				case <-s.broken:
				case <-time.After(5 * time.Minute):
					t.Fatal("the operation was not made, or its failure not noticed")
				}
				wantKind(t, s.Put(ctx, shardPut(key(2, 1, 0), 1)), s.failedKind())
				_, err := s.Delete(ctx, keys[:1])
				wantKind(t, err, s.failedKind())
				wantKind(t, s.Compact(ctx), s.failedKind())
				if i := s.Info(); i.Writable || i.Failure == "" {
					t.Fatalf("%+v", i)
				}
				for _, k := range keys {
					checkShard(t, s, k)
				}
				if n := len(listAll(t, s, 1, 7)); n != len(keys) {
					t.Fatalf("%d shards are listed, want %d", n, len(keys))
				}
				if n := hits.Load(); n > 2 { // a flush and a compaction at the same time; Pebble left to itself repeats without end
					t.Fatalf("the operation was tried %d times", n)
				}
				mustClose(t, s)
				failing.Store(false)
				rebuilds := counterValue(t, s.m.IndexRebuilds)
				s = mustOpen(t, o)
				if manifest := strings.HasPrefix(c.file, "MANIFEST") || strings.HasPrefix(c.file, "marker"); manifest != (counterValue(t, s.m.IndexRebuilds) > rebuilds) {
					t.Fatalf("rebuilt: %v", !manifest)
				}
				for _, k := range keys {
					checkShard(t, s, k)
				}
				mustPut(t, s, key(2, 1, 0))
				mustClose(t, s)
			})
		}
	}
}

func (s *Store) failedKind() vfs.Kind {
	s.mu.Lock()
	defer s.mu.Unlock()
	return vfs.KindOf(s.failed)
}

// Each operation on the index fails once while a store is opened. It opens or says why not, and opens the next time.
func TestIndexCannotBeOpened(t *testing.T) {
	var n atomic.Int64
	o, mem := indexFaults(func(vfile.Call) *vfile.Fault { return nil })
	s := mustOpen(t, o)
	keys := putMany(t, s, 1, 20)
	mustClose(t, s)
	saved := mem.Crashes(nil)
	left := saved[len(saved)-1] // all of it
	failed := 0
	for i := int64(0); ; i++ {
		files := left.Crashes(nil)
		o.FS = files[len(files)-1]
		// An open that Pebble gives up because of a read leaves a goroutine of its scheduler: only changes fail.
		o.IndexFS = pebblefs.New(vfile.NewFaults(o.FS, func(c vfile.Call) *vfile.Fault {
			switch c.Op {
			case vfile.OpRead, vfile.OpOpen, vfile.OpList, vfile.OpSize, vfile.OpFree, vfile.OpLock, vfile.OpDropCache:
				return nil
			}
			if inIndex(c) && n.Add(1)-1 == i {
				return &vfile.Fault{Err: syscall.EIO}
			}
			return nil
		}))
		n.Store(0)
		o.Metrics = nil
		s, err := Open(context.Background(), o)
		last := n.Load() <= i
		if err == nil {
			for _, k := range keys {
				checkShard(t, s, k)
			}
			_ = s.Close()
		} else {
			failed++
		}
		n.Store(1 << 40)
		o.Metrics = nil
		s = mustOpen(t, o)
		for _, k := range keys {
			checkShard(t, s, k)
		}
		mustPut(t, s, key(3, 1, 0))
		mustClose(t, s)
		if last {
			t.Logf("%d operations, %d of them end the start", i, failed)
			break
		}
	}
	if failed < 3 {
		t.Fatal("the test is void: hardly any operation failed")
	}
}

// The index of a store that is opened after a power cut cannot be written: the log is not replayed into something
// that hangs.
func TestReplayIntoAFailingIndex(t *testing.T) {
	var failing atomic.Bool
	o, _ := indexFaults(func(c vfile.Call) *vfile.Fault {
		if failing.Load() && inIndex(c) && c.Op == vfile.OpWrite && strings.HasSuffix(c.Name, ".sst") {
			return &vfile.Fault{Err: syscall.ENOSPC}
		}
		return nil
	})
	s := mustOpen(t, o)
	keys := make([]segment.Key, 0, 300)
	for b := range uint64(300) {
		k := key(1, 6*b, 0)
		mustPut(t, s, k)
		keys = append(keys, k)
	}
	mustClose(t, s)
	if err := o.IndexFS.RemoveAll(s.indexDir()); err != nil {
		t.Fatal(err)
	}
	failing.Store(true)
	if _, err := Open(context.Background(), o); err == nil {
		t.Fatal("opened with an index that cannot be written")
	}
	failing.Store(false)
	s = mustOpen(t, o)
	for _, k := range keys {
		checkShard(t, s, k)
	}
	mustClose(t, s)
}
