package node

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/backup"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/nodegroup/gossip"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

// Restored is what Restore made.
type Restored struct {
	backup.Restored
	Others []string // the other meta nodes, whose metadata is that of the cluster before
}

// Restore forms the metadata of the cluster that this node belongs to anew from a backup, with this node as its only voter. Neither this node nor
// another meta node may run, and this node's metadata be gone; its identity, certificates and disks stay. The cluster's other meta nodes join
// again when they start.
func Restore(ctx context.Context, c *Config, file *os.File, log *slog.Logger) (Restored, error) {
	const op = "restore"
	d, err := openDataDir(vfile.OS{}, c)
	if err != nil {
		return Restored{}, err
	}
	defer d.close()
	switch {
	case !d.state.Ready:
		return Restored{}, vfs.Errorf(vfs.KindInvalid, op, "%s belongs to no cluster: a backup is restored on a meta node of the cluster that it was made of, whose identity and certificates are kept; if no meta node has its data directory any more, --with-ca makes this one that of the node that the backup was made at", c.Data)
	case !c.Has(RoleMeta):
		return Restored{}, vfs.Errorf(vfs.KindInvalid, op, "node %s does not have the role meta", c.Name)
	}
	var out Restored
	if out.Others, err = othersStopped(ctx, d, c, log); err != nil {
		return Restored{}, vfs.Wrap(op, err)
	}
	out.Restored, err = backup.Restore(backup.RestoreOptions{
		Targets: []backup.Target{{Dir: d.sub(metaDir), Node: c.Name}}, Cluster: d.state.Settings.ID(), Log: raftmeta.Backend(d.state.RaftLog),
		Files: d.files, Now: time.Now(), Logger: log,
	}, file)
	return out, err
}

// othersStopped lists the other meta nodes that this one knows, and refuses if one of them runs.
func othersStopped(ctx context.Context, d *dataDir, c *Config, log *slog.Logger) ([]string, error) {
	id, err := pki.LoadIdentity(d.files, d.sub(pkiDir))
	if err != nil {
		return nil, err
	}
	x, err := openDirectory(d, c.peer(d.state.id()), func([]pki.Revocation) {}, func(string) (gossip.Member, bool) { return gossip.Member{}, false }, log)
	if err != nil {
		return nil, err
	}
	r := &renewer{dir: d, id: pki.NewHolder(id), peers: x, now: time.Now}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var others []string
	for _, p := range x.controls() {
		if p.Name == c.Name {
			continue
		}
		if err := r.call(ctx, p, http.MethodGet, pathLocal, nil, new(api.Local)); err == nil {
			return nil, vfs.Errorf(vfs.KindBusy, "", "node %s runs: stop rackfs on all nodes first; if its metadata is whole, this node gets a copy of it when it starts, without a backup", p.Name)
		}
		others = append(others, p.Name)
	}
	return others, nil
}
