package memfs_test

import (
	"testing"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/vfstest"
)

func TestConformance(t *testing.T) {
	fs := memfs.New(memfs.Options{RootMode: 0o777})
	vfstest.Run(t, func(*testing.T) vfs.FS { return fs })
}

// TestModel compares the reference with itself, which checks the comparison:
// rapid draws operations that both sides can do, and the rules hold.
func TestModel(t *testing.T) {
	vfstest.Model(t, memfs.New(memfs.Options{RootMode: 0o777}))
}

func TestLong(t *testing.T) {
	vfstest.RunLong(t, memfs.New(memfs.Options{RootMode: 0o777}))
}

func TestKeeper(t *testing.T) {
	vfstest.RunKeeper(t, func(*testing.T) vfstest.Kept {
		k := memfs.Keep(memfs.New(memfs.Options{RootMode: 0o777}))
		return vfstest.Kept{FS: func() vfs.Keeper { return k }, Restart: k.Restart, Release: k.Release}
	})
}

// TestKeptConformance shows that keeping changes nothing else.
func TestKeptConformance(t *testing.T) {
	fs := memfs.Keep(memfs.New(memfs.Options{RootMode: 0o777}))
	vfstest.Run(t, func(*testing.T) vfs.FS { return fs })
}
