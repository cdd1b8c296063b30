package localssd

import (
	"github.com/rackfs/rackfs/vfs"
)

// InoOf is the number that a file at a path would have in the volume, whether it is in it or not.
func (fs *FS) InoOf(dir int, path string) (vfs.Ino, error) {
	h, _, err := handleAt(dir, path)
	if err != nil {
		return 0, err
	}
	return fs.codec.ino(&h)
}

// RootAlias is the number that the root would have if it were not the root.
func (fs *FS) RootAlias() (vfs.Ino, error) {
	c := *fs.codec
	c.root.data = [maxKernelHandle]byte{}
	return c.ino(&fs.codec.root)
}

// Syncs is how many there were.
func (fs *FS) Syncs() uint64 { return fs.syncs.Load() }

// As runs f as c does things.
func (fs *FS) As(c *vfs.Cred, f func() error) error { return fs.identity.as(c, 0, f) }
