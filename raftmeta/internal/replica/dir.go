package replica

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

const (
	nodeMagic     = "rackfs-meta-node"
	replicaMagic  = "rackfs-meta-replica"
	formatVersion = 1

	nodeFile    = "rackfs-meta.json"
	replicaFile = "replica.json"
	lockFile    = "LOCK"
	stableFile  = "stable.db"
	walDir      = "wal"
	boltLogFile = "log.db"

	maxMarker = 64 << 10
)

// Backend names a log store.
type Backend string

const (
	WAL  Backend = "raft-wal"
	Bolt Backend = "raft-boltdb"
)

// nodeMarker is the content of rackfs-meta.json.
type nodeMarker struct {
	Magic   string `json:"magic"`
	Version int    `json:"version"`
	Cluster string `json:"cluster"` // hex
	Node    string `json:"node"`
}

// Info is the identity of one replica, the content of its replica.json.
type Info struct {
	Magic   string  `json:"magic"`
	Version int     `json:"version"`
	Cluster string  `json:"cluster"`
	Shard   uint16  `json:"shard"`
	ID      string  `json:"id"`
	Log     Backend `json:"log"`

	// Checked says that every log entry and every value of the stable store has a checksum. Replicas that an older release
	// made have some without.
	Checked bool `json:"checked,omitempty"`
}

var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Format makes dir a metadata node's directory, or adds shards to one of the
// same cluster and node. It returns the identities of the replicas of shards,
// old and new. log is the backend of new replicas. All of it is durable when Format returns, also what an
// earlier call made that was killed before it synced.
func Format(files vfile.FS, dir string, cluster []byte, node string, shards []uint16, log Backend) ([]Info, error) {
	const op = "raftmeta.format"
	if len(cluster) == 0 || len(cluster) > 64 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a cluster id has 1 to 64 bytes, not %d", len(cluster))
	}
	if !nodeName.MatchString(node) {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "node name %q: use 1 to 63 of a-z, 0-9 and '-'", node)
	}
	if log != WAL && log != Bolt {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "log backend %q: use %s or %s", log, WAL, Bolt)
	}
	if err := vfile.MkdirAllSync(files, dir); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	lock, err := files.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, inUse(op, dir, err)
	}
	defer lock.Close()
	want := nodeMarker{nodeMagic, formatVersion, hex.EncodeToString(cluster), node}
	have, err := readNode(files, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := requireEmpty(files, dir); err != nil {
			return nil, err
		}
		if err := writeJSON(files, dir, nodeFile, want); err != nil {
			return nil, vfs.Wrap(op, err)
		}
	case err != nil:
		return nil, err
	case have != want:
		return nil, vfs.Errorf(vfs.KindIncompatible, op, "%s belongs to node %s of cluster %s, not to node %s of cluster %s", dir, have.Node, have.Cluster, node, want.Cluster)
	}
	var infos []Info
	for _, s := range shards {
		i, err := ReadInfo(files, dir, s)
		if errors.Is(err, fs.ErrNotExist) {
			i, err = create(files, dir, want, s, log)
		}
		if err != nil {
			return nil, vfs.Wrap(op, err)
		}
		infos = append(infos, i)
	}
	if err := files.SyncDir(dir); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	return infos, nil
}

func requireEmpty(files vfile.FS, dir string) error {
	names, err := files.List(dir)
	if err != nil {
		return vfs.Wrap("raftmeta.format", err)
	}
	for _, name := range names {
		if name != lockFile && name != nodeFile+".tmp" {
			return vfs.Errorf(vfs.KindIncompatible, "raftmeta.format", "%s has no %s but holds %s: not an empty directory", dir, nodeFile, name)
		}
	}
	return nil
}

func shardName(s uint16) string { return fmt.Sprintf("shard-%05d", s) }

// create makes the directory of a new replica under a temporary name, complete,
// and renames it. The caller makes the name durable.
func create(files vfile.FS, dir string, n nodeMarker, shard uint16, log Backend) (Info, error) {
	var random [16]byte
	rand.Read(random[:])
	info := Info{replicaMagic, formatVersion, n.Cluster, shard, n.Node + "." + hex.EncodeToString(random[:]), log, true}
	final := filepath.Join(dir, shardName(shard))
	tmp := final + ".tmp"
	if err := files.RemoveAll(tmp); err != nil {
		return info, err
	}
	if err := files.Mkdir(tmp); err != nil {
		return info, err
	}
	if err := writeJSON(files, tmp, replicaFile, info); err != nil {
		return info, err
	}
	if log == WAL {
		if err := files.Mkdir(filepath.Join(tmp, walDir)); err != nil {
			return info, err
		}
	}
	// A small first segment: the log replaces it when its size is configured otherwise.
	logs, err := openLogs(tmp, info, LogOptions{WALSegmentBytes: minSegmentBytes, Files: files}, true)
	if err != nil {
		return info, err
	}
	if err := logs.Close(); err != nil {
		return info, err
	}
	if err := files.SyncDir(tmp); err != nil {
		return info, err
	}
	return info, files.Rename(tmp, final)
}

// Node is an opened and locked directory of a metadata node.
type Node struct {
	Dir     string
	Cluster []byte
	Name    string
	Shards  []uint16 // that have a replica here, ascending
	files   vfile.FS
	lock    io.Closer
}

// OpenNode opens a directory that Format made, for this process alone.
func OpenNode(files vfile.FS, dir string) (*Node, error) {
	const op = "raftmeta.open"
	m, err := readNode(files, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "%s is not a metadata directory: no %s", dir, nodeFile)
	}
	if err != nil {
		return nil, err
	}
	cluster, err := hex.DecodeString(m.Cluster)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "%s: cluster id: %w", filepath.Join(dir, nodeFile), err)
	}
	lock, err := files.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, inUse(op, dir, err)
	}
	n := &Node{Dir: dir, Cluster: cluster, Name: m.Node, files: files, lock: lock}
	names, err := files.List(dir)
	if err != nil {
		lock.Close()
		return nil, vfs.Wrap(op, err)
	}
	slices.Sort(names)
	for _, name := range names {
		num, ok := strings.CutPrefix(name, "shard-")
		if s, err := strconv.ParseUint(num, 10, 16); ok && err == nil {
			n.Shards = append(n.Shards, uint16(s))
		}
	}
	return n, nil
}

// ShardDir is the directory of the replica of shard.
func (n *Node) ShardDir(shard uint16) string { return filepath.Join(n.Dir, shardName(shard)) }

// Close unlocks the directory.
func (n *Node) Close() error { return n.lock.Close() }

func inUse(op, dir string, err error) error {
	return vfs.Errorf(vfs.KindBusy, op, "%s is in use by another process: stop it first: %w", dir, err)
}

func readNode(files vfile.FS, dir string) (m nodeMarker, err error) {
	path := filepath.Join(dir, nodeFile)
	if err := readJSON(files, path, &m); err != nil {
		return m, err
	}
	return m, checkFormat(path, m.Magic, nodeMagic, m.Version)
}

// ReadInfo reads the identity of the replica of shard below dir.
func ReadInfo(files vfile.FS, dir string, shard uint16) (i Info, err error) {
	path := filepath.Join(dir, shardName(shard), replicaFile)
	if err := readJSON(files, path, &i); err != nil {
		if _, serr := files.Stat(filepath.Dir(path)); serr == nil && errors.Is(err, fs.ErrNotExist) {
			return i, vfs.Errorf(vfs.KindCorrupt, "raftmeta.open", "%s is missing: the replica is damaged; remove its directory and let a new replica join", path)
		}
		return i, err
	}
	if err := checkFormat(path, i.Magic, replicaMagic, i.Version); err != nil {
		return i, err
	}
	if i.Shard != shard {
		return i, vfs.Errorf(vfs.KindIncompatible, "raftmeta.open", "%s is of shard %d", path, i.Shard)
	}
	return i, nil
}

func checkFormat(path, magic, want string, version int) error {
	const op = "raftmeta.open"
	if magic != want {
		return vfs.Errorf(vfs.KindIncompatible, op, "%s: magic %q, want %q", path, magic, want)
	}
	if version != formatVersion {
		return vfs.Errorf(vfs.KindIncompatible, op, "%s: format version %d, this release reads version %d: use the release that wrote it, or a newer one", path, version, formatVersion)
	}
	return nil
}

func readJSON(files vfile.FS, path string, v any) error {
	b, err := vfile.ReadFile(files, path, maxMarker)
	if err != nil {
		return err
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(v); err != nil {
		return vfs.Errorf(vfs.KindCorrupt, "raftmeta.open", "%s: %w", path, err)
	}
	return nil
}

func writeJSON(files vfile.FS, dir, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return vfile.WriteFileAtomic(files, dir, name, append(b, '\n'))
}

// Replace sets the directory of shard's replica aside, if there is one, and makes a new replica, with a new id. The newest
// directory that was set aside is kept, for whoever wants to know what happened to it; older ones are removed.
// A crash in between leaves no replica of the shard, and the next call goes on.
func (n *Node) Replace(shard uint16, log Backend, now time.Time) (_ Info, aside string, err error) {
	const op = "raftmeta.replace"
	name := shardName(shard)
	if _, err := n.files.Stat(n.ShardDir(shard)); err == nil {
		aside = name + damagedInfix + now.UTC().Format("20060102T150405.000000000Z")
		if err := n.files.Rename(n.ShardDir(shard), filepath.Join(n.Dir, aside)); err != nil {
			return Info{}, "", vfs.Wrap(op, err)
		}
		if err := n.files.SyncDir(n.Dir); err != nil {
			return Info{}, "", vfs.Wrap(op, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Info{}, "", vfs.Wrap(op, err)
	}
	info, err := create(n.files, n.Dir, nodeMarker{nodeMagic, formatVersion, hex.EncodeToString(n.Cluster), n.Name}, shard, log)
	if err != nil {
		return Info{}, aside, vfs.Wrap(op, err)
	}
	if err := n.files.SyncDir(n.Dir); err != nil {
		return Info{}, aside, vfs.Wrap(op, err)
	}
	es, err := n.files.List(n.Dir)
	if err != nil {
		return Info{}, aside, vfs.Wrap(op, err)
	}
	var old []string
	slices.Sort(es) // by time
	for _, e := range es {
		if strings.HasPrefix(e, name+damagedInfix) && e != aside {
			old = append(old, e)
		}
	}
	if aside == "" && len(old) > 0 { // of a run that was killed before it made the new one
		aside, old = old[len(old)-1], old[:len(old)-1]
	}
	for _, o := range old {
		if err := n.files.RemoveAll(filepath.Join(n.Dir, o)); err != nil {
			return Info{}, aside, vfs.Wrap(op, err)
		}
	}
	return info, aside, nil
}

// damagedInfix is between the name of a replica's directory and the time at which it was set aside.
const damagedInfix = ".damaged-"
