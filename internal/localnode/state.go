package localnode

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

const (
	stateFile   = "node.json"
	clientsFile = "clients.json"
	stateMagic  = "rackfs-local-node"
	format      = 1
	maxState    = 64 << 20 // bytes; 4096 clients of 1 KiB owners are a tenth of it
	handleKeyID = 1
)

// saved is node.json.
type saved struct {
	Magic   string   `json:"magic"`
	Format  int      `json:"format"`
	Cluster []byte   `json:"cluster"`
	Node    string   `json:"node"`
	Boot    uint32   `json:"boot"` // of the newest start
	Key     []byte   `json:"key"`
	Volumes []Volume `json:"volumes"`
}

// Volume is a file system of kind local as it is served here.
type Volume struct {
	FS       uint32 `json:"fs"` // id
	Path     string `json:"path"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

func (s *saved) key() (k handle.Key) {
	k.ID = handleKeyID
	copy(k.Secret[:], s.Key)
	return k
}

// loadState reads node.json, or begins one, and counts the start.
func loadState(files vfile.FS, dir, node string, cluster [16]byte) (*saved, error) {
	const op = "local volumes"
	path := filepath.Join(dir, stateFile)
	raw, err := vfile.ReadFile(files, path, maxState)
	s := &saved{}
	switch {
	case errors.Is(err, os.ErrNotExist):
		s = &saved{Magic: stateMagic, Format: format, Cluster: cluster[:], Node: node, Key: make([]byte, handle.KeySize)}
		rand.Read(s.Key)
	case err != nil:
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	default:
		if err := json.Unmarshal(raw, s); err != nil || s.Magic != stateMagic {
			return nil, vfs.Errorf(vfs.KindCorrupt, op, "%s does not describe a node's local volumes: restore it, or set local.dir to an empty directory", path)
		}
	}
	switch {
	case s.Format != format:
		return nil, vfs.Errorf(vfs.KindIncompatible, op, "%s has format %d, this release knows %d: use a newer release", path, s.Format, format)
	case !bytes.Equal(s.Cluster, cluster[:]) || s.Node != node:
		return nil, vfs.Errorf(vfs.KindIncompatible, op, "%s is of node %s of cluster %x: set local.dir to an empty directory, or give this node its own back", dir, s.Node, s.Cluster)
	case len(s.Key) != handle.KeySize:
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "%s has a key of %d bytes", path, len(s.Key))
	}
	s.Boot++
	return s, saveJSON(files, dir, stateFile, s)
}

func saveJSON(files vfile.FS, dir, name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return vfs.Wrap("local volumes", err)
	}
	return vfs.Wrap("local volumes", vfile.WriteFileAtomic(files, dir, name, append(raw, '\n')))
}

// clients is the state.StateStore of a node: a file with all records, written anew with each change. There are a few for each workload
// that mounts, and they change when it mounts.
type clients struct {
	files vfile.FS
	dir   string

	mu  sync.Mutex
	all map[string]state.ClientRecord // by owner
}

var _ state.StateStore = (*clients)(nil)

// savedClients is clients.json.
type savedClients struct {
	Format  int           `json:"format"`
	Clients []savedClient `json:"clients"`
}

// savedClient is a state.ClientRecord; all of it is bytes, which need not be text.
type savedClient struct {
	Owner     []byte `json:"owner"`
	Verifier  []byte `json:"verifier"`
	Principal []byte `json:"principal"`
	ClientID  uint64 `json:"client_id"`
}

func saveClient(r *state.ClientRecord) savedClient {
	return savedClient{Owner: r.Owner, Verifier: r.Verifier[:], Principal: []byte(r.Principal), ClientID: r.ClientID}
}

func (s *savedClient) record() (r state.ClientRecord, ok bool) {
	r = state.ClientRecord{Owner: s.Owner, Principal: state.Principal(s.Principal), ClientID: s.ClientID}
	return r, copy(r.Verifier[:], s.Verifier) == len(r.Verifier) && len(s.Owner) > 0
}

func loadClients(files vfile.FS, dir string) (*clients, error) {
	const op = "local volumes"
	c := &clients{files: files, dir: dir, all: map[string]state.ClientRecord{}}
	path := filepath.Join(dir, clientsFile)
	raw, err := vfile.ReadFile(files, path, maxState)
	if errors.Is(err, os.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	var s savedClients
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "%s: %w: without it clients mount again; remove it if that is acceptable", path, err)
	}
	if s.Format != format {
		return nil, vfs.Errorf(vfs.KindIncompatible, op, "%s has format %d, this release knows %d: use a newer release", path, s.Format, format)
	}
	for i := range s.Clients {
		r, ok := s.Clients[i].record()
		if !ok {
			return nil, vfs.Errorf(vfs.KindCorrupt, op, "%s names a client without an owner or a verifier: without it clients mount again; remove it if that is acceptable", path)
		}
		c.all[string(r.Owner)] = r
	}
	return c, nil
}

// PutClient implements state.StateStore, as do the methods that follow.
func (c *clients) PutClient(_ context.Context, rec state.ClientRecord) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, had := c.all[string(rec.Owner)]
	c.all[string(rec.Owner)] = rec
	err := c.save()
	if err != nil {
		if delete(c.all, string(rec.Owner)); had {
			c.all[string(rec.Owner)] = old
		}
	}
	return err
}

func (c *clients) RemoveClient(_ context.Context, rec state.ClientRecord) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, had := c.all[string(rec.Owner)]
	if !had || old.ClientID != rec.ClientID {
		return nil
	}
	delete(c.all, string(rec.Owner))
	err := c.save()
	if err != nil {
		c.all[string(rec.Owner)] = old
	}
	return err
}

func (c *clients) Clients(context.Context) (list []state.ClientRecord, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.all {
		list = append(list, r)
	}
	return list, nil
}

func (c *clients) save() error {
	s := savedClients{Format: format}
	for _, r := range c.all {
		s.Clients = append(s.Clients, saveClient(&r))
	}
	return saveJSON(c.files, c.dir, clientsFile, s)
}
