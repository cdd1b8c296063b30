package devcluster

import (
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/rackfs/rackfs/internal/backup"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

// Restore forms the voters of a data directory, whose stores are there and whose voters' directories are gone or empty, anew from a backup of its
// metadata. No process may run in it.
func Restore(dir string, file *os.File, log *slog.Logger) (backup.Restored, error) {
	const op = "restore"
	if _, err := os.Stat(filepath.Join(dir, shapeFile)); err != nil {
		return backup.Restored{}, vfs.Errorf(vfs.KindInvalid, op, "%s is not a data directory of `rackfs dev`: %w", dir, err)
	}
	d, err := openDataDir(vfile.OS{}, dir, shape{}, defaultShape)
	if err != nil {
		return backup.Restored{}, err
	}
	defer d.close()
	o := backup.RestoreOptions{Cluster: d.shape.clusterID(), Log: raftmeta.Backend(d.shape.LogStore), Files: d.files, Now: time.Now(), Logger: log}
	for i := range d.shape.Voters {
		o.Targets = append(o.Targets, backup.Target{Dir: d.sub(voterName(i)), Node: voterName(i)})
	}
	return backup.Restore(o, file)
}
