package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/vfile/crashtest"
)

// bolt are the files that bbolt writes, past the file layer.
var bolt = crashtest.Library{Names: []string{"stable.db", "wal-meta.db"}, SyncsName: []string{"wal-meta.db"}}

// begun is what `cluster init` has promised when it ends.
type begun struct{ cluster, ca string }

// A power cut at any moment of `cluster init` leaves a directory in which it can be repeated, and when it had said that the cluster
// exists, that cluster; and each sync is needed for that.
func TestEverySync(t *testing.T) {
	tmp, err := os.MkdirTemp(crashtest.Memory(), "crash")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	root := filepath.Join(tmp, "host", "root")
	const again = "each directory that is made in DATA later syncs it again, and before that there is nothing to lose"
	config := func(dir string) *Config {
		return &Config{Name: "n1", Data: filepath.Join(dir, "data"), Roles: []string{RoleMeta, RoleBlock}, Disks: []string{"/d"}, RaftLog: "raft-wal"}
	}
	found := func(files vfile.FS, c *Config) (begun, error) {
		id, err := pki.LoadIdentity(files, filepath.Join(c.Data, pkiDir))
		if err != nil {
			return begun{}, err
		}
		d, err := openDataDir(files, c)
		if err != nil {
			return begun{}, err
		}
		defer d.close()
		if !d.state.Ready {
			return begun{}, errors.New("not ready")
		}
		return begun{d.state.Settings.Cluster, id.CAFingerprint()}, nil
	}
	crashtest.Test[begun]{
		Only: "node.",
		Run: func(d *crashtest.Disk[begun]) error {
			if err := errors.Join(os.RemoveAll(root), os.MkdirAll(root, 0o700)); err != nil {
				return err
			}
			files, err := d.On(root, bolt)
			if err != nil {
				return err
			}
			c := config(root)
			if _, _, err := initOn(files, c, InitOptions{}, time.Now()); err != nil {
				return err
			}
			now, err := found(files, c)
			if err != nil {
				return err
			}
			d.Ack(func(b *begun) { *b = now })
			return nil
		},
		Check: func(left *vfile.Mem, b begun) error {
			tmp, err := os.MkdirTemp(crashtest.Memory(), "crash")
			if err != nil {
				return err
			}
			defer os.RemoveAll(tmp)
			if err := crashtest.Export(left, root, tmp); err != nil {
				return err
			}
			c := config(tmp)
			if b != (begun{}) {
				now, err := found(vfile.OS{}, c)
				if err != nil || now != b {
					return fmt.Errorf("the cluster was %+v, and is %+v: %v", b, now, err)
				}
				for _, name := range []string{"shard-00000", "shard-00001"} {
					if _, err := os.Stat(filepath.Join(c.Data, metaDir, name)); err != nil {
						return err
					}
				}
				return nil
			}
			if _, _, err := initOn(vfile.OS{}, c, InitOptions{}, time.Now()); err != nil {
				if now, found := found(vfile.OS{}, c); found == nil && now.cluster != "" {
					return nil // all of it was done, but not said
				}
				return fmt.Errorf("init is not repeated: %w", err)
			}
			_, err = found(vfile.OS{}, c)
			return err
		},
	}.Prove(t, []crashtest.Site{
		{Call: "node.openDataDir > MkdirAllSync: dir host", Nothing: "it is durable; needed where it is not, as package replica shows"},
		{Call: "node.openDataDir > MkdirAllSync: dir root", Nothing: again},
		{Call: "node.openDataDir > MkdirAllSync: dir data", Nothing: "saveJSON syncs it again"},
		{Call: "node.dataDir.saveJSON > WriteFileAtomic: file"},
		{Call: "node.dataDir.saveJSON > WriteFileAtomic: dir data"},
	})
}
