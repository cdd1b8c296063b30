package devcluster

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

// begun is what a data directory has promised: its cluster, once somebody may have been told of it.
type begun struct {
	cluster string
	ca      string
	formed  bool
}

// bolt are the files that bbolt writes, past the file layer.
var bolt = crashtest.Library{Names: []string{"stable.db", "wal-meta.db"}, SyncsName: []string{"wal-meta.db"}}

// firstStart does what a first start does to the data directory, without the servers.
func firstStart(files vfile.FS, dir string, ack func(begun)) (err error) {
	d, err := openDataDir(files, dir, shape{Voters: 1, BlockStores: 1}, testDefaults)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	ca, err := pki.LoadOrCreateCA(files, d.sub("pki"), "test", time.Now())
	if err != nil {
		return err
	}
	now := begun{d.shape.Cluster, ca.Fingerprint(), d.shape.Formed}
	if !now.formed {
		// What is left of a store here; package store shows the rest.
		if err := vfile.MkdirAllSync(files, d.sub(storeName(0))); err != nil {
			return err
		}
		if err := formVoters(d); err != nil {
			return err
		}
		if err := d.markFormed(); err != nil {
			return err
		}
		now.formed = true
	}
	ack(now)
	return nil
}

// A power cut at any moment of the first start leaves a directory that starts again, and is formed when that was
// said, and each sync is needed for that.
func TestEverySync(t *testing.T) {
	t.Parallel()
	tmp, err := os.MkdirTemp(crashtest.Memory(), "crash")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	root := filepath.Join(tmp, "host", "root")
	const again = "each directory that is made in DIR later syncs it again, and before that there is nothing to lose"
	crashtest.Test[begun]{
		Only: "devcluster.",
		Run: func(d *crashtest.Disk[begun]) error {
			if err := errors.Join(os.RemoveAll(root), os.MkdirAll(root, 0o700)); err != nil {
				return err
			}
			files, err := d.On(root, bolt)
			if err != nil {
				return err
			}
			return firstStart(files, filepath.Join(root, "data"), func(now begun) { d.Ack(func(b *begun) { *b = now }) })
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
			dir := filepath.Join(tmp, "data")
			raw, _ := os.ReadFile(filepath.Join(dir, shapeFile))
			var now begun
			if err := firstStart(vfile.OS{}, dir, func(b begun) { now = b }); err != nil {
				return err
			}
			if b.formed && now != b {
				return fmt.Errorf("it was %+v, and is %+v", b, now)
			}
			// Formed means that all parts are there.
			for _, name := range []string{storeName(0), voterName(0), voterName(0) + "/shard-00000", voterName(0) + "/shard-00001"} {
				if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
					return fmt.Errorf("%s is gone, of a directory with %s", name, raw)
				}
			}
			return nil
		},
	}.Prove(t, []crashtest.Site{
		{Call: "devcluster.openDataDir > MkdirAllSync: dir host", Nothing: "it is durable; needed where it is not, as package replica shows"},
		{Call: "devcluster.openDataDir > MkdirAllSync: dir root", Nothing: again},
		{Call: "devcluster.openDataDir > MkdirAllSync: dir data", Nothing: "saveShape syncs it again"},
		{Call: "devcluster.dataDir.saveShape > WriteFileAtomic: file"},
		{Call: "devcluster.dataDir.saveShape > WriteFileAtomic: dir data"},
	})
}
