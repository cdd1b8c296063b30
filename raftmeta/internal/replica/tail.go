package replica

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"path/filepath"
	"sync"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// tail remembers the index of the last entry that the log acknowledged, in the file tail of the replica's directory.
//
//	0  u64  index, big-endian
//	8  u32  CRC32C of it
//
// raft-wal takes a batch at its end that does not check out for one that was never acknowledged, and drops it, with
// everything behind it. That is right after a power cut, and wrong after a bit flipped: the replica would forget entries that
// it confirmed, and might vote for somebody who never had them. So a log that ends before the tail is damaged.
//
// The tail is written after the log is durable, and is not synced: a killed process leaves it exact, a power cut may
// leave an older one, which never says too much. Before entries at the end are deleted it is lowered, durably.
type tail struct {
	f vfile.File

	mu    sync.Mutex
	index uint64
}

const (
	tailFile  = "tail"
	tailBytes = 12
	tmpSuffix = ".tmp"
)

// openTail opens the tail in dir. One that is not there is made, and says nothing, unless it must be there.
func openTail(fs vfile.FS, dir string, must bool) (*tail, error) {
	path := filepath.Join(dir, tailFile)
	f, err := fs.Open(path)
	switch {
	case vfile.IsNotExist(err) && must:
		return nil, vfs.Errorf(vfs.KindCorrupt, "raftmeta.open", "%s is missing: the replica is damaged", path)
	case vfile.IsNotExist(err):
		return makeTail(fs, path)
	case err != nil:
		return nil, err
	}
	t := &tail{f: f}
	var b [tailBytes]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, f.Close())
	}
	if n != tailBytes || crc32.Checksum(b[:8], castagnoli) != binary.BigEndian.Uint32(b[8:]) {
		return nil, errors.Join(vfs.Errorf(vfs.KindCorrupt, "raftmeta.open", "%s is damaged: wrong checksum", path), f.Close())
	}
	t.index = binary.BigEndian.Uint64(b[:])
	return t, nil
}

// makeTail makes a tail whose only block is on the disk: later it is overwritten in place, within one sector. Its name is durable with the
// new replica; in one of an older release, which can do without, some time later.
func makeTail(fs vfile.FS, path string) (*tail, error) {
	f, err := fs.Create(path + tmpSuffix)
	if err != nil {
		return nil, err
	}
	t := &tail{f: f}
	if err = t.write(0); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = fs.Rename(path+tmpSuffix, path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

// check compares the tail with the last entry of the opened log.
func (t *tail) check(last uint64) error {
	if last < t.index {
		return vfs.Errorf(vfs.KindCorrupt, "raftmeta.open", "the Raft log ends at entry %d, but acknowledged entry %d: entries are lost or damaged", last, t.index)
	}
	return nil
}

func (t *tail) raise(index uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.write(index)
}

func (t *tail) lower(index uint64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if index >= t.index {
		return nil
	}
	if err := t.write(index); err != nil {
		return err
	}
	return t.f.SyncData()
}

func (t *tail) write(index uint64) error {
	var b [tailBytes]byte
	binary.BigEndian.PutUint64(b[:], index)
	binary.BigEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
	if _, err := t.f.WriteAt(b[:], 0); err != nil {
		return err
	}
	t.index = index
	return nil
}

func (t *tail) Close() error { return t.f.Close() }
