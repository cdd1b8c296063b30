package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// stagingMode lets everybody in: nobody gets there by a name, and the gateways ask only for whom they have let in.
const stagingMode = 0o777

// stagingProject is the project whose hidden directory an inode number is; ok is false for all others.
func stagingProject(ino uint64) (project uint32, ok bool) {
	first := uint64(vfs.StagingIno(0))
	return uint32(ino), ino >= first && ino-first < 1<<32
}

// makeStaging makes the hidden directory of a project. Its parent is the root, which does not count it.
func (x *call) makeStaging(c *metapb.MakeStaging) (*metapb.Result, error) {
	const op = "staging.make"
	ino := vfs.StagingIno(c.Project)
	n, err := x.inode(x.fs, uint64(ino))
	if err != nil || n != nil {
		if err == nil {
			return x.attrResult(n), nil
		}
		return nil, err
	}
	if c.Project != 0 {
		u, err := x.usage(usageKey{x.fs, c.Project})
		if err != nil {
			return nil, err
		}
		if u.dir == 0 {
			return nil, vfs.Errorf(vfs.KindNotFound, op, "there is no project %d", c.Project)
		}
	}
	n = x.newInode(vfs.TypeDir)
	n.attr.Ino, n.attr.Mode, n.attr.Project = ino, stagingMode, c.Project
	n.parent = uint64(vfs.RootIno)
	x.setInode(x.fs, n)
	return x.attrResult(n), nil
}
