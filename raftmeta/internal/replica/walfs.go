package replica

import (
	"fmt"
	"math"
	"slices"

	"github.com/hashicorp/raft-wal/types"
	"github.com/rackfs/rackfs/internal/vfile"
)

// walFS is raft-wal's file layer on ours. Differences from raft-wal's own: a
// file's name is durable when it is created, not when it is first synced; a
// sync is an fdatasync, for a segment has its size from the start; and a
// log with a write or sync that failed is broken: everything later that changes it fails too.
//
// raft-wal takes a failed append back and lets Raft try again. But after a failed sync the
// kernel may have dropped the pages and marked them clean, so that the next sync succeeds
// and proves nothing.
type walFS struct {
	fs     vfile.FS
	broken *fault
}

func (w walFS) ListDir(dir string) ([]string, error) {
	names, err := w.fs.List(dir)
	slices.Sort(names)
	return names, err
}

func (w walFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	if size > math.MaxInt32 {
		return nil, fmt.Errorf("segment of %d bytes: the limit is %d", size, math.MaxInt32)
	}
	var f vfile.File
	err := w.broken.guard(func() (err error) {
		if f, err = w.fs.Create(dir + "/" + name); err != nil {
			return err
		}
		if size > 0 {
			if _, err = f.Allocate(int64(size)); err == nil {
				err = f.Sync()
			}
		}
		if err == nil {
			err = w.fs.SyncDir(dir)
		}
		if err != nil {
			f.Close()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return walFile{f, w.broken}, nil
}

func (w walFS) Delete(dir, name string) error {
	// A file that stays is harmless: raft-wal removes it when it opens the log.
	if err := w.fs.Remove(dir + "/" + name); err != nil {
		return err
	}
	return w.broken.guard(func() error { return w.fs.SyncDir(dir) })
}

func (w walFS) OpenReader(dir, name string) (types.ReadableFile, error) {
	f, err := w.fs.Open(dir + "/" + name)
	if err != nil {
		return nil, err
	}
	return walFile{f, w.broken}, nil
}

// OpenWriter opens the segment whose end raft-wal is going to recover. What it reads there counts as stored from
// then on, so it must not see what only the page cache holds: bytes of a process that was killed before
// its sync, which are synced first, or bytes that a failed sync lost, which are dropped.
func (w walFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := w.fs.Open(dir + "/" + name)
	if err != nil {
		return nil, err
	}
	if err = f.Sync(); err == nil {
		err = f.DropCache()
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return walFile{f, w.broken}, nil
}

type walFile struct {
	vfile.File
	broken *fault
}

func (f walFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.broken.guard(func() error {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f walFile) Sync() error { return f.broken.guard(func() error { return f.File.SyncData() }) }
