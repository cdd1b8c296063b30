package devcluster

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// FormatVersion of the data directory as a whole. Parts have versions of
// their own.
const FormatVersion = 1

const (
	shapeFile = "rackfs.json"
	maxShape  = 64 << 10
	lockFile  = "lock"
)

// shape is what rackfs.json holds: everything that cannot change between
// starts.
type shape struct {
	Format      int    `json:"format"`
	Cluster     string `json:"cluster"` // 16 random bytes, hex
	Voters      int    `json:"voters"`
	BlockStores int    `json:"block_stores"`
	Profile     string `json:"profile"`
	LogStore    string `json:"raft_log"`
	// Formed says that all parts were made. From then on a missing part was lost.
	Formed bool `json:"formed"`
}

func (s *shape) clusterID() []byte {
	id, _ := hex.DecodeString(s.Cluster) // checked by openDataDir
	return id
}

// dataDir is an open, locked data directory.
type dataDir struct {
	files vfile.FS
	path  string
	shape shape
	lock  *os.File
	fresh bool // made by this start
}

// openDataDir locks dir of files and reads its shape, or makes both. want is the shape
// that was asked for; zero fields mean "what is there, or the default".
func openDataDir(files vfile.FS, dir string, want shape, defaults shape) (*dataDir, error) {
	const op = "open data directory"
	if err := vfile.MkdirAllSync(files, dir); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	if err := refuseForeign(files, dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	// It holds keys, and the socket that administrates the cluster.
	if err := os.Chmod(dir, 0o700); err != nil {
		lock.Close()
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	d := &dataDir{files: files, path: dir, lock: lock}
	if err := d.loadShape(want, defaults); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

func (d *dataDir) close() error { return d.lock.Close() }

func (d *dataDir) sub(name string) string { return filepath.Join(d.path, name) }

// refuseForeign protects a directory that holds somebody's files.
func refuseForeign(files vfile.FS, dir string) error {
	if _, err := files.Stat(filepath.Join(dir, shapeFile)); err == nil {
		return nil
	}
	names, err := files.List(dir)
	if err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	for _, n := range names {
		if n == lockFile || n == "lost+found" || strings.HasPrefix(n, shapeFile) {
			continue
		}
		return vfs.Errorf(vfs.KindIncompatible, "open data directory",
			"%s holds %q but no %s: it is not a rackfs data directory; choose an empty one", dir, n, shapeFile)
	}
	return nil
}

func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		f.Close()
		return nil, vfs.Errorf(vfs.KindBusy, "open data directory",
			"%s is in use by another process (%s): stop that one first", dir, strings.TrimSpace(string(holder)))
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "pid %d\n", os.Getpid())
	}
	return f, nil
}

func (d *dataDir) loadShape(want, defaults shape) error {
	const op = "open data directory"
	path := filepath.Join(d.path, shapeFile)
	raw, err := vfile.ReadFile(d.files, path, maxShape)
	if errors.Is(err, os.ErrNotExist) {
		return d.makeShape(want, defaults)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(raw, &version); err != nil {
		return vfs.Errorf(vfs.KindCorrupt, op, "%s is not valid JSON: %w", path, err)
	}
	if version.Format != FormatVersion {
		return vfs.Errorf(vfs.KindIncompatible, op,
			"%s has format version %d, this program knows %d: use the rackfs version that wrote it, or another --data directory",
			d.path, version.Format, FormatVersion)
	}
	if err := json.Unmarshal(raw, &d.shape); err != nil {
		return vfs.Errorf(vfs.KindCorrupt, op, "%s: %w", path, err)
	}
	if id, err := hex.DecodeString(d.shape.Cluster); err != nil || len(id) != 16 {
		return vfs.Errorf(vfs.KindCorrupt, op, "%s: cluster id %q is not 32 hex digits", path, d.shape.Cluster)
	}
	differ := func(what string, have, asked any) error {
		return vfs.Errorf(vfs.KindInvalid, op,
			"%s was made with %s %v, not %v: leave the option out, or choose another --data directory", d.path, what, have, asked)
	}
	switch {
	case want.Voters != 0 && want.Voters != d.shape.Voters:
		return differ("--meta", d.shape.Voters, want.Voters)
	case want.BlockStores != 0 && want.BlockStores != d.shape.BlockStores:
		return differ("--block-stores", d.shape.BlockStores, want.BlockStores)
	case want.Profile != "" && want.Profile != d.shape.Profile:
		return differ("--profile", d.shape.Profile, want.Profile)
	case want.LogStore != "" && want.LogStore != d.shape.LogStore:
		return differ("--raft-log", d.shape.LogStore, want.LogStore)
	}
	return nil
}

func (d *dataDir) makeShape(want, defaults shape) error {
	s := want
	s.Format = FormatVersion
	if s.Voters == 0 {
		s.Voters = defaults.Voters
	}
	if s.BlockStores == 0 {
		s.BlockStores = defaults.BlockStores
	}
	if s.Profile == "" {
		s.Profile = defaults.Profile
	}
	if s.LogStore == "" {
		s.LogStore = defaults.LogStore
	}
	var id [16]byte
	rand.Read(id[:])
	s.Cluster = hex.EncodeToString(id[:])
	d.shape, d.fresh = s, true
	if err := d.saveShape(); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	return nil
}

func (d *dataDir) saveShape() error {
	raw, err := json.MarshalIndent(&d.shape, "", "  ")
	if err != nil {
		return err
	}
	return vfile.WriteFileAtomic(d.files, d.path, shapeFile, append(raw, '\n'))
}

// markFormed records durably that all parts were made.
func (d *dataDir) markFormed() error {
	d.shape.Formed = true
	return vfs.Wrap("make data directory", d.saveShape())
}
