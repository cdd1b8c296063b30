package snapstore

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
)

// Sink takes one snapshot: either Checkpoint is called, by this replica's own
// state machine, or the bytes of another replica's stream are written. Close
// makes it durable and visible.
type Sink struct {
	store *Store
	id    string
	dir   string
	rec   Record
	done  bool

	unpack chan error // result of the goroutine that reads pw; nil: none
	pw     *io.PipeWriter
}

var _ raft.SnapshotSink = (*Sink)(nil)

// ID implements raft.SnapshotSink.
func (s *Sink) ID() string { return s.id }

// Checkpoint makes the content of the snapshot by calling make with the name
// of a directory that does not exist yet. applied is a lower bound of
// the applied index of the state it leaves there, durably.
func (s *Sink) Checkpoint(applied uint64, make func(dir string) error) error {
	if s.done || s.pw != nil || len(s.rec.Files) > 0 {
		return errors.New("snapshot has content already")
	}
	dir := filepath.Join(s.dir, dbDir)
	if err := make(dir); err != nil {
		return err
	}
	list, err := filesIn(s.store.files, dir)
	if err != nil {
		return err
	}
	s.rec.Files, s.rec.Applied = list, applied
	return nil
}

// filesIn lists the files of a checkpoint, by name.
func filesIn(files vfile.FS, dir string) ([]File, error) {
	names, err := files.List(dir)
	if err != nil {
		return nil, err
	}
	var list []File
	for _, name := range names {
		fi, err := files.Stat(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		if !fi.Mode().IsRegular() {
			return nil, fmt.Errorf("checkpoint contains %s, which is not a file", name)
		}
		list = append(list, File{name, fi.Size()})
	}
	slices.SortFunc(list, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// Write takes the next bytes of a stream.
func (s *Sink) Write(p []byte) (int, error) {
	if s.done || (s.pw == nil && len(s.rec.Files) > 0) {
		return 0, errors.New("snapshot is closed")
	}
	if s.pw == nil {
		pr, pw := io.Pipe()
		s.pw, s.unpack = pw, make(chan error, 1)
		go func() {
			applied, files, err := unpack(s.store.files, pr, filepath.Join(s.dir, dbDir))
			if err == nil {
				s.rec.Applied, s.rec.Files = applied, files
			}
			pr.CloseWithError(cmp.Or(err, io.ErrClosedPipe))
			s.unpack <- err
		}()
	}
	return s.pw.Write(p)
}

// finish ends the unpacking and waits for it.
func (s *Sink) finish(cause error) error {
	if s.pw == nil {
		return nil
	}
	s.pw.CloseWithError(cause)
	return <-s.unpack
}

// Close implements raft.SnapshotSink.
func (s *Sink) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	err := s.finish(nil)
	if err == nil && len(s.rec.Files) == 0 {
		err = errors.New("snapshot is empty")
	}
	if err == nil {
		err = writeRecord(s.store.files, s.dir, s.rec)
	}
	if err == nil {
		err = s.store.files.Rename(s.dir, filepath.Join(s.store.dir, s.id))
	}
	if err == nil {
		err = s.store.files.SyncDir(s.store.dir)
	}
	if err != nil {
		return errors.Join(err, s.store.files.RemoveAll(s.dir))
	}
	s.store.reap()
	return nil
}

// Cancel implements raft.SnapshotSink.
func (s *Sink) Cancel() error {
	if s.done {
		return nil
	}
	s.done = true
	s.finish(errors.New("snapshot cancelled"))
	return s.store.files.RemoveAll(s.dir)
}
