package store

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/vfile/pebblefs"
	"github.com/rackfs/rackfs/vfs"
	"golang.org/x/sys/unix"
)

// readOnlyDisk fails all that a file system that is mounted read-only does.
func readOnlyDisk(c vfile.Call) *vfile.Fault {
	switch c.Op {
	case vfile.OpCreate, vfile.OpRemove, vfile.OpRename, vfile.OpLink, vfile.OpMkdir, vfile.OpLock, vfile.OpWrite, vfile.OpAllocate, vfile.OpZero:
		return &vfile.Fault{Err: syscall.EROFS}
	}
	return nil
}

// checkReadOnly checks a store that cannot be written: all of keys are there, it says what it is, and takes nothing.
func checkReadOnly(t *testing.T, s *Store, keys []segment.Key) {
	t.Helper()
	ctx := context.Background()
	for _, k := range keys {
		checkShard(t, s, k)
	}
	if n := len(listAll(t, s, 1, 50)); n != len(keys) {
		t.Fatalf("%d shards are listed, want %d", n, len(keys))
	}
	if i := s.Info(); i.Writable || i.Full || !i.ReadOnly || !strings.Contains(i.Failure, syscall.EROFS.Error()) {
		t.Fatalf("%+v", i)
	}
	if gaugeValue(t, s.m.WriteFailed) != 1 || gaugeValue(t, s.m.ReadOnly) != 1 {
		t.Fatal("the metrics do not tell")
	}
	wantKind(t, s.Put(ctx, shardPut(key(1, 1<<40, 0), s.Epoch(1))), vfs.KindReadOnly)
	wantKind(t, s.Put(ctx, shardPut(keys[0], s.Epoch(1))), vfs.KindReadOnly)
	_, err := s.Delete(ctx, keys[:2])
	wantKind(t, err, vfs.KindReadOnly)
	wantKind(t, s.Fence(ctx, []segment.Epoch{{PG: 1, Epoch: 1000}}), vfs.KindReadOnly)
	wantKind(t, s.Compact(ctx), vfs.KindReadOnly)
	if r, err := s.Scrub(ctx, nil, nil, nil); err != nil || r.Bad != 0 || r.Shards != int64(len(keys)) {
		t.Fatalf("%+v %v", r, err)
	}
	for _, k := range keys {
		checkShard(t, s, k)
	}
}

// A store whose disk cannot be written opens and serves what it has, whatever state its index is in, changes nothing, and is as
// before when the disk can be written again.
func TestReadOnlyDisk(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, m *vfile.Mem){
		"stopped": nil,
		"no index": func(t *testing.T, m *vfile.Mem) {
			if err := m.RemoveAll("/s/index"); err != nil {
				t.Fatal(err)
			}
		},
		"damaged index": func(t *testing.T, m *vfile.Mem) {
			names, err := m.List("/s/index")
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				if !strings.HasPrefix(n, "MANIFEST") {
					continue
				}
				f, err := m.Open("/s/index/" + n)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt([]byte("not this"), 20); err != nil {
					t.Fatal(err)
				}
			}
		},
		"to be rebuilt": func(t *testing.T, m *vfile.Mem) {
			if _, err := m.Create("/s/" + rebuildName); err != nil {
				t.Fatal(err)
			}
		},
		"killed": func(*testing.T, *vfile.Mem) {},
	} {
		t.Run(name, func(t *testing.T) {
			o := memOptions(-1)
			mem := o.FS.(*vfile.Mem)
			o.IndexFS = pebblefs.New(mem)
			s := mustOpen(t, o)
			keys := putMany(t, s, 1, 100)
			mustDelete(t, s, keys[:20]...)
			keys = keys[20:]
			if name == "killed" { // what the process leaves, with a log to replay
				all := mem.Crashes(nil)
				mem = all[len(all)-1]
			}
			mustClose(t, s)
			if damage != nil {
				damage(t, mem)
			}
			before := vfile.NewPrints()
			was := before.Of(mem)
			o.FS = vfile.NewFaults(mem, readOnlyDisk)
			o.IndexFS = pebblefs.New(o.FS)
			o.Metrics = NewMetrics(nil, nil)
			s = mustOpen(t, o)
			checkReadOnly(t, s, keys)
			// Damage met now is mended in memory.
			s.indexDamaged(vfs.KindCorrupt.Err("test"))
			for s.Info().Rebuilding || counterValue(t, s.m.IndexRebuilds) == 0 {
			}
			checkReadOnly(t, s, keys)
			mustClose(t, s)
			if before.Of(mem) != was {
				t.Fatal("something was written")
			}
			o.MemoryIndexBytes = 100
			if _, err := Open(context.Background(), o); vfs.KindOf(err) != vfs.KindReadOnly {
				t.Fatalf("opened with an index in 100 bytes of memory: %v", err)
			}
			o.FS, o.IndexFS, o.Metrics = mem, pebblefs.New(mem), NewMetrics(nil, nil)
			s = mustOpen(t, o)
			if i := s.Info(); !i.Writable || i.ReadOnly {
				t.Fatalf("the disk can be written again: %+v", i)
			}
			for _, k := range keys {
				checkShard(t, s, k)
			}
			mustPut(t, s, key(1, 1<<40, 0))
			mustDelete(t, s, keys[0])
			mustClose(t, s)
		})
	}
}

// A directory that never was a store is not made one by being read-only.
func TestReadOnlyIsNoStore(t *testing.T) {
	o := memOptions(-1)
	o.FS = vfile.NewFaults(o.FS, readOnlyDisk)
	if _, err := Open(context.Background(), o); vfs.KindOf(err) != vfs.KindReadOnly {
		t.Fatal(err)
	}
}

// The same with the kernel's own read-only file system.
func TestReadOnlyMount(t *testing.T) {
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("mounting a file system needs root")
		}
		t.Skip("mounting a file system needs root")
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	remount := func(flags uintptr) {
		t.Helper()
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, indexed := range []bool{true, false} {
		o := Options{Dir: dir + "/s", Cluster: testCluster, Create: true, SegmentSize: 4 << 20, ReserveBytes: 1 << 20, Logger: quiet()}
		s := mustOpen(t, o)
		keys := make([]segment.Key, 0, 60)
		for b := range uint64(60) {
			keys = append(keys, key(1, b, 0))
			mustPut(t, s, keys[b])
		}
		mustClose(t, s)
		if !indexed {
			if err := os.RemoveAll(dir + "/s/index"); err != nil {
				t.Fatal(err)
			}
		}
		remount(unix.MS_RDONLY)
		s = mustOpen(t, o)
		if _, err := Open(context.Background(), o); vfs.KindOf(err) == vfs.KindOK {
			t.Fatal("opened twice")
		}
		checkReadOnly(t, s, keys)
		mustClose(t, s)
		remount(0)
		s = mustOpen(t, o)
		if !s.Info().Writable {
			t.Fatal("not writable after the file system is")
		}
		for _, k := range keys {
			checkShard(t, s, k)
		}
		mustPut(t, s, keys[0])
		mustClose(t, s)
	}
}
