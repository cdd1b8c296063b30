package node

import (
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/rackfs/rackfs/internal/backup"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

// Restored is what Restore made.
type Restored struct {
	backup.Restored
	Others []string // the other meta nodes, whose metadata has to go before they start
}

// Restore forms the metadata of the cluster that this node belongs to anew from a backup, with this node as its only voter. The node must not run,
// and its metadata be gone; its identity, certificates and disks stay. The cluster's other meta nodes join again with directories of metadata
// that are empty.
func Restore(c *Config, file *os.File, log *slog.Logger) (Restored, error) {
	const op = "restore"
	d, err := openDataDir(vfile.OS{}, c)
	if err != nil {
		return Restored{}, err
	}
	defer d.close()
	switch {
	case !d.state.Ready:
		return Restored{}, vfs.Errorf(vfs.KindInvalid, op, "%s belongs to no cluster: a backup is restored on a meta node of the cluster that it was made of, whose identity and certificates are kept", c.Data)
	case !c.Has(RoleMeta):
		return Restored{}, vfs.Errorf(vfs.KindInvalid, op, "node %s does not have the role meta", c.Name)
	}
	r, err := backup.Restore(backup.RestoreOptions{
		Targets: []backup.Target{{Dir: d.sub(metaDir), Node: c.Name}}, Cluster: d.state.Settings.ID(), Log: raftmeta.Backend(d.state.RaftLog),
		Files: d.files, Now: time.Now(), Logger: log,
	}, file)
	if err != nil {
		return Restored{}, err
	}
	out := Restored{Restored: r}
	var peers []peer
	if _, err := d.loadJSON(nodesFile, &peers); err != nil {
		return out, err
	}
	for _, p := range peers {
		if p.Meta != "" && p.Name != c.Name {
			out.Others = append(out.Others, p.Name)
		}
	}
	slices.Sort(out.Others)
	return out, nil
}
