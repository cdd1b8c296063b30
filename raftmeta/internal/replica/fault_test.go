package replica

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// badFS fails one operation with EIO, once, and notes all of them.
type badFS struct {
	vfile.FS
	mu   sync.Mutex
	fail string
	ops  []string
}

func (b *badFS) do(op string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ops = append(b.ops, op)
	if b.fail == op {
		b.fail = ""
		return syscall.EIO
	}
	return nil
}

// next makes the next op fail and forgets what was noted.
func (b *badFS) next(op string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail, b.ops = op, nil
}

func (b *badFS) noted() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.ops...)
}

func (b *badFS) Create(name string) (vfile.File, error) {
	if err := b.do("create"); err != nil {
		return nil, err
	}
	f, err := b.FS.Create(name)
	return &badFile{f, b}, err
}

func (b *badFS) Open(name string) (vfile.File, error) {
	f, err := b.FS.Open(name)
	return &badFile{f, b}, err
}

type badFile struct {
	vfile.File
	b *badFS
}

func (f *badFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.b.do("read"); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *badFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.b.do("write"); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *badFile) Sync() error {
	if err := f.b.do("sync"); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *badFile) SyncData() error {
	if err := f.b.do("sync"); err != nil {
		return err
	}
	return f.File.SyncData()
}

func (f *badFile) DropCache() error {
	if err := f.b.do("drop"); err != nil {
		return err
	}
	return f.File.DropCache()
}

// After a write, a sync or the creation of a segment failed, a log takes nothing more, although the device works
// again, until it is opened again; and then it has what was acknowledged.
func TestFailedLogStaysFailed(t *testing.T) {
	for _, op := range []string{"write", "sync", "create"} {
		t.Run(op, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "meta")
			info := format(t, dir, WAL, 1)[0]
			disk := &badFS{FS: vfile.OS{}}
			var failures []error
			var mu sync.Mutex
			reported := func() int {
				mu.Lock()
				defer mu.Unlock()
				return len(failures)
			}
			o := LogOptions{WALSegmentBytes: minSegmentBytes, Files: disk, OnFail: func(err error) {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, err)
			}}
			shard := filepath.Join(dir, shardName(1))
			l, err := OpenLogs(shard, info, o)
			if err != nil {
				t.Fatal(err)
			}
			big := func(i uint64) *raft.Log {
				e := entry(i)
				e.Data = append(e.Data, make([]byte, 100<<10)...)
				return e
			}
			acked := uint64(0)
			for acked < 3 {
				if err := l.StoreLog(big(acked + 1)); err != nil {
					t.Fatal(err)
				}
				acked++
			}
			disk.next(op)
			// Creation is due when the segment is full.
			for ; err == nil && acked < 100; acked++ {
				err = l.StoreLog(big(acked + 1))
			}
			acked--
			if err == nil {
				t.Fatal("the injected error was not seen")
			}
			if op != "create" && !strings.Contains(err.Error(), syscall.EIO.Error()) { // raft.LogCache does not wrap
				t.Fatalf("first error: %v", err)
			}
			before := len(disk.noted())
			for range 3 {
				err := l.StoreLog(entry(acked + 1))
				if vfs.KindOf(err) != vfs.KindUnavailable || !errors.Is(err, syscall.EIO) {
					t.Fatalf("a later append: %v", err)
				}
				if err := l.DeleteRange(1, 1); vfs.KindOf(err) != vfs.KindUnavailable {
					t.Fatalf("a later truncation: %v", err)
				}
			}
			if n := len(disk.noted()); n != before {
				t.Fatalf("the files were touched: %q", disk.noted()[before:])
			}
			if reported() != 1 || !errors.Is(failures[0], syscall.EIO) {
				t.Fatalf("reported: %v", failures)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if l, err = OpenLogs(shard, info, o); err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for i := uint64(1); i <= acked; i++ {
				var e raft.Log
				if err := l.GetLog(i, &e); err != nil || string(e.Data) != string(big(i).Data) {
					t.Fatalf("entry %d of %d: %v", i, acked, err)
				}
			}
			last, err := l.LastIndex()
			if err != nil {
				t.Fatal(err)
			}
			if err := l.StoreLog(entry(last + 1)); err != nil {
				t.Fatalf("after it was opened again: %v", err)
			}
		})
	}
}

// What recovery reads from the tail is on the device: it was synced and dropped from the cache first, and a sync that fails
// then keeps the log closed.
func TestRecoveryReadsTheDevice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "meta")
	info := format(t, dir, WAL, 1)[0]
	shard := filepath.Join(dir, shardName(1))
	disk := &badFS{FS: vfile.OS{}}
	l, err := OpenLogs(shard, info, LogOptions{Files: disk})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ops := disk.noted()
	if len(ops) < 3 || ops[0] != "sync" || ops[1] != "drop" || ops[2] != "read" {
		t.Fatalf("operations on the tail: %q", ops)
	}
	for _, op := range []string{"sync", "drop"} {
		disk.next(op)
		called := false
		if _, err := OpenLogs(shard, info, LogOptions{Files: disk, OnFail: func(error) { called = true }}); !errors.Is(err, syscall.EIO) || called {
			t.Fatalf("opened with a failing %s: %v, reported: %v", op, err, called)
		}
	}
}
