package snapstore

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

const (
	recordMagic   = "rackfs-raft-snapshot"
	recordVersion = 1
	recordFile    = "SNAPSHOT"
	recordKind    = "checkpoint"
	dbDir         = "db"
	tmpSuffix     = ".tmp"
	maxRecord     = 16 << 20
)

// Record describes one snapshot.
type Record struct {
	Magic         string             `json:"magic"`
	Version       int                `json:"version"`
	Kind          string             `json:"kind"`
	Index         uint64             `json:"index"`
	Term          uint64             `json:"term"`
	Configuration raft.Configuration `json:"configuration"`
	ConfigIndex   uint64             `json:"configuration_index"`
	Applied       uint64             `json:"applied"` // the state has applied at least this
	Files         []File             `json:"files"`
}

// File is one file of the checkpoint.
type File struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// Store implements raft.SnapshotStore.
type Store struct {
	files  vfile.FS
	dir    string
	retain int
	log    *slog.Logger

	mu     sync.Mutex
	serial int
	open   map[string]int // readers of a snapshot, which therefore stays
}

var _ raft.SnapshotStore = (*Store)(nil)

// Open opens the store in dir of files, creating it if needed, and removes what a crash left half done.
func Open(files vfile.FS, dir string, retain int, log *slog.Logger) (*Store, error) {
	const op = "snapstore.open"
	// The log is dropped because of what is in here: its name must not get lost.
	if err := vfile.MkdirAllSync(files, dir); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	// So must those of the snapshots that are found: a process may have been killed between making
	// one visible and syncing its name.
	if err := files.SyncDir(dir); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	s := &Store{files: files, dir: dir, retain: max(retain, 1), log: log, open: map[string]int{}}
	names, err := files.List(dir)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, tmpSuffix) {
			if err := files.RemoveAll(filepath.Join(dir, name)); err != nil {
				return nil, vfs.Wrap(op, err)
			}
			continue
		}
		var i, t uint64
		var n int
		if _, err := fmt.Sscanf(name, nameFormat, &i, &t, &n); err == nil {
			s.serial = max(s.serial, n)
		}
	}
	return s, nil
}

const nameFormat = "%d-%d-%d"

// Create implements raft.SnapshotStore.
func (s *Store) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("unsupported snapshot version %d", version)
	}
	s.mu.Lock()
	s.serial++
	id := fmt.Sprintf(nameFormat, index, term, s.serial)
	s.mu.Unlock()
	dir := filepath.Join(s.dir, id+tmpSuffix)
	if err := s.files.Mkdir(dir); err != nil {
		return nil, err
	}
	return &Sink{store: s, id: id, dir: dir, rec: Record{
		Magic: recordMagic, Version: recordVersion, Kind: recordKind,
		Index: index, Term: term, Configuration: c, ConfigIndex: ci,
	}}, nil
}

type named struct {
	id     string
	serial int
	rec    Record
}

// load reads all complete snapshots, newest first. An unreadable one is an
// error: Raft must not go on as if it had never existed, because the log before it is gone.
func (s *Store) load() ([]named, error) {
	names, err := s.files.List(s.dir)
	if err != nil {
		return nil, err
	}
	var all []named
	for _, name := range names {
		var i, t uint64
		var n int
		if _, err := fmt.Sscanf(name, nameFormat, &i, &t, &n); err != nil || name != fmt.Sprintf(nameFormat, i, t, n) {
			continue // .tmp, or not ours
		}
		rec, err := readRecord(s.files, filepath.Join(s.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, named{name, n, rec})
	}
	slices.SortFunc(all, func(a, b named) int {
		return -cmp.Or(cmp.Compare(a.rec.Term, b.rec.Term), cmp.Compare(a.rec.Index, b.rec.Index), cmp.Compare(a.serial, b.serial))
	})
	return all, nil
}

// List implements raft.SnapshotStore.
func (s *Store) List() ([]*raft.SnapshotMeta, error) {
	all, err := s.load()
	if err != nil {
		return nil, err
	}
	var ms []*raft.SnapshotMeta
	for _, n := range all {
		ms = append(ms, n.rec.meta(n.id))
	}
	return ms, nil
}

func (r Record) meta(id string) *raft.SnapshotMeta {
	return &raft.SnapshotMeta{
		Version: 1, ID: id, Index: r.Index, Term: r.Term,
		Configuration: r.Configuration, ConfigurationIndex: r.ConfigIndex, Size: streamSize(r.Files),
	}
}

// Newest opens the newest snapshot; nil if there is none.
func (s *Store) Newest() (*Reader, error) {
	all, err := s.load()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return s.reader(all[0].id)
}

// Open implements raft.SnapshotStore. What it returns is a *Reader.
func (s *Store) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	r, err := s.reader(id)
	if err != nil {
		return nil, nil, err
	}
	return r.Record.meta(id), r, nil
}

func (s *Store) reader(id string) (*Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(s.dir, id)
	rec, err := readRecord(s.files, dir)
	if err != nil {
		return nil, vfs.Wrap("snapstore.open", err)
	}
	s.open[id]++
	return &Reader{Record: rec, files: s.files, store: s, id: id, dir: filepath.Join(dir, dbDir)}, nil
}

func (s *Store) release(id string) {
	s.mu.Lock()
	if s.open[id]--; s.open[id] == 0 {
		delete(s.open, id)
	}
	s.mu.Unlock()
	s.reap()
}

// reap removes snapshots beyond the number to keep that nobody reads. It is
// not an error if that fails: they are tried again with the next snapshot.
func (s *Store) reap() {
	all, err := s.load()
	if err != nil {
		s.log.Warn("raftmeta: list snapshots", "err", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range all[min(s.retain, len(all)):] {
		if s.open[n.id] > 0 {
			continue
		}
		dir := filepath.Join(s.dir, n.id)
		// Renamed first, so that a crash leaves a directory that Open removes.
		err := s.files.Rename(dir, dir+tmpSuffix)
		if err == nil {
			err = s.files.RemoveAll(dir + tmpSuffix)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("raftmeta: remove old snapshot", "snapshot", n.id, "err", err)
		}
	}
}

func readRecord(files vfile.FS, dir string) (r Record, err error) {
	path := filepath.Join(dir, recordFile)
	b, err := vfile.ReadFile(files, path, maxRecord)
	if err != nil {
		return r, err
	}
	body, sum, _ := bytes.Cut(b, []byte("\n"))
	if string(bytes.TrimSpace(sum)) != checksum(body) {
		return r, vfs.Errorf(vfs.KindCorrupt, "snapstore.open", "%s: wrong checksum", path)
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, vfs.Errorf(vfs.KindCorrupt, "snapstore.open", "%s: %w", path, err)
	}
	if r.Magic != recordMagic || r.Version != recordVersion || r.Kind != recordKind {
		return r, vfs.Errorf(vfs.KindIncompatible, "snapstore.open", "%s: %s version %d kind %q, this release reads %s version %d kind %q",
			path, r.Magic, r.Version, r.Kind, recordMagic, recordVersion, recordKind)
	}
	return r, nil
}

func writeRecord(files vfile.FS, dir string, r Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return vfile.WriteFileAtomic(files, dir, recordFile, fmt.Appendf(b, "\n%s\n", checksum(b)))
}

func checksum(b []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(b, castagnoli)) }
