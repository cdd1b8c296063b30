package localssd_test

import (
	"os"
	"testing"

	"github.com/rackfs/rackfs/localssd"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/vfstest"
)

// volume opens a volume in dir, with a root that everybody may write to.
func volume(t testing.TB, dir string) *localssd.FS {
	t.Helper()
	needRoot(t)
	fs, err := localssd.Open(dir, localssd.Options{RootMode: 0o777})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fs.Stop(); err != nil {
			t.Error(err)
		}
	})
	return fs
}

// needRoot skips a test that acts as other users, except in CI, where it is a failure not to be able to.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("the tests of local volumes run as root, and this is uid", os.Geteuid())
	}
	t.Skip("acts as other users, so it needs root")
}

// bounded is a volume with the limits of the file system below it.
type bounded struct {
	*localssd.FS
	bounds vfstest.Bounds
}

func (b bounded) Bounds() vfstest.Bounds { return b.bounds }

func ext4(fs *localssd.FS) bounded {
	return bounded{fs, vfstest.Bounds{MaxSize: 16<<40 - 4096, XattrName: 250, XattrValue: 1000, NoBtime: true, NoClone: true, ReadIsData: true, LinuxLinks: true, DirSize: true, SharedSpace: true, TornReads: true}}
}

func TestConformance(t *testing.T) {
	fs := ext4(volume(t, t.TempDir()))
	vfstest.Run(t, func(*testing.T) vfs.FS { return fs })
}

func TestModel(t *testing.T) {
	vfstest.Model(t, ext4(volume(t, t.TempDir())))
}
