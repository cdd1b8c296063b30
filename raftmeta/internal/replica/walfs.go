package replica

import (
	"fmt"
	"math"
	"slices"

	"github.com/hashicorp/raft-wal/types"
	"github.com/rackfs/rackfs/internal/vfile"
)

// walFS is raft-wal's file layer on ours. Differences from raft-wal's own: a
// file's name is durable when it is created, not when it is first synced, and a
// sync is an fdatasync, for a segment has its size from the start.
type walFS struct{ fs vfile.FS }

func (w walFS) ListDir(dir string) ([]string, error) {
	names, err := w.fs.List(dir)
	slices.Sort(names)
	return names, err
}

func (w walFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	if size > math.MaxInt32 {
		return nil, fmt.Errorf("segment of %d bytes: the limit is %d", size, math.MaxInt32)
	}
	f, err := w.fs.Create(dir + "/" + name)
	if err != nil {
		return nil, err
	}
	if size > 0 {
		if err = f.Allocate(int64(size)); err == nil {
			err = f.Sync()
		}
	}
	if err == nil {
		err = w.fs.SyncDir(dir)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return walFile{f}, nil
}

func (w walFS) Delete(dir, name string) error {
	if err := w.fs.Remove(dir + "/" + name); err != nil {
		return err
	}
	return w.fs.SyncDir(dir)
}

func (w walFS) OpenReader(dir, name string) (types.ReadableFile, error) { return w.open(dir, name) }

func (w walFS) OpenWriter(dir, name string) (types.WritableFile, error) { return w.open(dir, name) }

func (w walFS) open(dir, name string) (walFile, error) {
	f, err := w.fs.Open(dir + "/" + name)
	return walFile{f}, err
}

type walFile struct{ vfile.File }

func (f walFile) Sync() error { return f.SyncData() }
