package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// maxTouched bounds the inodes of one Touch.
const maxTouched = 1000

func (x *call) touch(c *metapb.Touch) (*metapb.Result, error) {
	const op = "touch"
	if len(c.Touched) > maxTouched {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d inodes, at most %d", len(c.Touched), maxTouched)
	}
	for _, t := range c.Touched {
		if err := checkTime(t.Atime); err != nil {
			return nil, err
		}
		n, err := x.inode(x.fs, t.Ino)
		if err != nil {
			return nil, err
		}
		at := timeOf(t.Atime)
		if n == nil || !n.attr.ReadAt(at) {
			continue
		}
		n = n.clone()
		n.attr.Atime = at
		x.setInode(x.fs, n)
	}
	return &metapb.Result{}, nil
}
