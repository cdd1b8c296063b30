package node

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// FormatVersion of node.json.
const FormatVersion = 1

const (
	stateFile  = "node.json"
	disksFile  = "disks.json"
	lockFile   = "lock"
	adminFile  = api.SocketName
	pkiDir     = "pki"
	metaDir    = "meta"
	maxState   = 1 << 20
	clusterLen = 16
)

// Settings are the same on all nodes of a cluster, and never change.
type Settings struct {
	Cluster string `json:"cluster"` // 16 random bytes, hex
	Encrypt bool   `json:"encrypt"` // block data; it is always authenticated
	Voters  int    `json:"voters"`  // that each shard is to have
}

// ID is the cluster's id.
func (s *Settings) ID() []byte {
	id, _ := hex.DecodeString(s.Cluster) // checked when it was read
	return id
}

func (s *Settings) check() error {
	if id, err := hex.DecodeString(s.Cluster); err != nil || len(id) != clusterLen {
		return vfs.Errorf(vfs.KindCorrupt, "", "cluster id %q is not %d hex digits", s.Cluster, 2*clusterLen)
	}
	if s.Voters < 1 || s.Voters%2 == 0 || s.Voters > 7 {
		return vfs.Errorf(vfs.KindCorrupt, "", "%d voters", s.Voters)
	}
	return nil
}

// first is what only the first node knows, until shard 0 does.
type first struct {
	Pool        string `json:"profile"`
	Domain      string `json:"domain"`
	Provisioned bool   `json:"provisioned"` // shard 0 has it
}

// state is node.json.
type state struct {
	Format   int      `json:"format"`
	Name     string   `json:"name"`
	ID       string   `json:"id"` // 16 random bytes, hex: tells this directory from another one of the same name
	RaftLog  string   `json:"raft_log"`
	Ready    bool     `json:"ready"` // init or join came to its end
	Settings Settings `json:"settings"`
	First    *first   `json:"first,omitempty"`
}

func (s *state) id() []byte {
	id, _ := hex.DecodeString(s.ID)
	return id
}

// dataDir is an open, locked data directory.
type dataDir struct {
	files vfile.FS
	path  string
	lock  *os.File
	state state
	made  bool // there is a node.json
}

func (d *dataDir) sub(name string) string { return filepath.Join(d.path, name) }

// openDataDir locks the directory of a configuration and reads its state, if it has one.
func openDataDir(files vfile.FS, c *Config) (_ *dataDir, err error) {
	const op = "open data directory"
	d := &dataDir{files: files, path: c.Data}
	if err := vfile.MkdirAllSync(d.files, c.Data); err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	names, err := d.files.List(c.Data)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	if !slices.Contains(names, stateFile) {
		for _, n := range names {
			if n != lockFile && n != "lost+found" && !strings.HasPrefix(n, stateFile) {
				return nil, vfs.Errorf(vfs.KindIncompatible, op, "%s holds %q but no %s: it is not a node's data directory; choose an empty one", c.Data, n, stateFile)
			}
		}
	}
	if err := os.Chmod(c.Data, 0o700); err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	if d.lock, err = lock(d.sub(lockFile)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	raw, err := vfile.ReadFile(d.files, d.sub(stateFile), maxState)
	if errors.Is(err, os.ErrNotExist) {
		var id [16]byte
		rand.Read(id[:])
		d.state = state{Format: FormatVersion, Name: c.Name, ID: hex.EncodeToString(id[:]), RaftLog: c.RaftLog}
		return d, nil
	}
	if err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	d.made = true
	return d, d.decode(raw, c)
}

func (d *dataDir) decode(raw []byte, c *Config) error {
	const op = "open data directory"
	var version struct {
		Format int `json:"format"`
	}
	path := d.sub(stateFile)
	if err := json.Unmarshal(raw, &version); err != nil {
		return vfs.Errorf(vfs.KindCorrupt, op, "%s is not valid JSON: %w", path, err)
	}
	if version.Format != FormatVersion {
		return vfs.Errorf(vfs.KindIncompatible, op, "%s has format version %d, this program knows %d: use the rackfs version that wrote it", path, version.Format, FormatVersion)
	}
	if err := json.Unmarshal(raw, &d.state); err != nil {
		return vfs.Errorf(vfs.KindCorrupt, op, "%s: %w", path, err)
	}
	if id, err := hex.DecodeString(d.state.ID); err != nil || len(id) != 16 {
		return vfs.Errorf(vfs.KindCorrupt, op, "%s: id %q is not 32 hex digits", path, d.state.ID)
	}
	if d.state.Ready {
		if err := d.state.Settings.check(); err != nil {
			return vfs.Errorf(vfs.KindCorrupt, op, "%s: %w", path, err)
		}
	}
	switch {
	case d.state.Name != c.Name:
		return vfs.Errorf(vfs.KindInvalid, op, "%s is that of node %s, the configuration says name: %s: a node never changes its name", d.path, d.state.Name, c.Name)
	case d.state.RaftLog != c.RaftLog:
		return vfs.Errorf(vfs.KindInvalid, op, "%s was made with meta.raft_log: %s, not %s", d.path, d.state.RaftLog, c.RaftLog)
	}
	return nil
}

func (d *dataDir) save() error {
	if err := d.saveJSON(stateFile, &d.state); err != nil {
		return err
	}
	d.made = true
	return nil
}

func (d *dataDir) saveJSON(name string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return vfs.Wrap("write "+name, vfile.WriteFileAtomic(d.files, d.path, name, append(raw, '\n')))
}

// loadJSON reads what saveJSON wrote; false if there is nothing.
func (d *dataDir) loadJSON(name string, v any) (bool, error) {
	raw, err := vfile.ReadFile(d.files, d.sub(name), maxState)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, vfs.Wrap("read "+name, err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return false, vfs.Errorf(vfs.KindCorrupt, "read "+name, "%s: %w", d.sub(name), err)
	}
	return true, nil
}

func (d *dataDir) close() {
	if d != nil && d.lock != nil {
		d.lock.Close()
	}
}

func lock(path string) (*os.File, error) {
	const op = "open data directory"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		f.Close()
		return nil, vfs.Errorf(vfs.KindBusy, op, "%s is in use by another process (%s): stop that one first", filepath.Dir(path), strings.TrimSpace(string(holder)))
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "pid %d\n", os.Getpid())
	}
	return f, nil
}
