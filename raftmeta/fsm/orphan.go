package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// hold keeps an inode without links for an origin that has it open.
func (x *call) hold(fs uint32, ino, origin uint64) {
	x.set(appendHold(x.key[:0], fs, ino, origin), nil)
	x.set(appendHoldOf(x.key[:0], origin, fs, ino), nil)
}

func (x *call) releaseOrphan(c *metapb.ReleaseOrphan) (*metapb.Result, error) {
	_, held, err := x.get(appendHold(x.key[:0], x.fs, c.Ino, x.origin))
	if err != nil {
		return nil, err
	}
	if held {
		if err := x.dropHold(c.Ino, x.origin); err != nil {
			return nil, err
		}
	}
	return &metapb.Result{}, nil
}

// dropHold removes a hold that is there; the inode goes with the last one.
func (x *call) dropHold(ino, origin uint64) error {
	x.del(appendHold(x.key[:0], x.fs, ino, origin))
	x.del(appendHoldOf(x.key[:0], origin, x.fs, ino))
	keys, _, err := x.firstKeys(appendIno(nil, "o/", x.fs, ino), 1)
	if err != nil || len(keys) > 0 {
		return err
	}
	n, err := x.inode(x.fs, ino)
	if err != nil {
		return err
	}
	if n == nil || n.attr.Nlink > 0 {
		return corrupt("inode %d was held as an orphan and is none", ino)
	}
	if n.opened() {
		return nil // clients keep it
	}
	return x.deleteInode(n)
}
