package fsm

import (
	"math"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// truncate sets the size of n, in place. Few extents behind the new end are
// removed here; more are voided by a cut and removed by Purge.
func (x *call) truncate(n *inode, size uint64) error {
	used := n.attr.Used
	if size < n.attr.Size {
		if err := x.cutTail(n, size); err != nil {
			return err
		}
	}
	n.attr.Size = size
	n.reservedEnd = min(n.reservedEnd, size)
	return x.recharge(n, used)
}

func (x *call) cutTail(n *inode, size uint64) error {
	if n.attr.Used == 0 {
		return nil // whatever is left is void
	}
	var tail []extent // live; the first one may begin before size
	few := true
	seen := 0
	err := scanExtents(x.scan, x.fs, n, size, n.attr.Size, func(e extent) (bool, error) {
		seen++
		if few = seen <= x.opts.limits.extents; !few && size == 0 {
			return false, nil // nothing begins before 0
		}
		if seen > x.opts.limits.scan {
			return false, vfs.Errorf(vfs.KindUnavailable, "truncate", "%d records of earlier truncations are in the way", seen)
		}
		if n.void(e.gen, e.end) {
			return few || len(tail) == 0, nil
		}
		if few || len(tail) == 0 {
			tail = append(tail, e)
		}
		return few, nil // of many, all but the first live one are left to Purge
	})
	if err != nil {
		return err
	}
	if few {
		for i := range tail {
			if err := x.cutOut(n, &tail[i], size, math.MaxUint64); err != nil {
				return err
			}
		}
		return nil
	}
	if len(tail) > 0 && tail[0].start < size {
		if err := x.cutOut(n, &tail[0], size, math.MaxUint64); err != nil {
			return err
		}
	}
	return x.addCut(n, size)
}

// addCut voids everything at and above offset, in place.
func (x *call) addCut(n *inode, offset uint64) error {
	if len(n.cuts) == 0 {
		if err := x.enqueue(&metapb.PurgeRecord{Fs: x.fs, Ino: uint64(n.attr.Ino)}); err != nil {
			return err
		}
	}
	n.cutGen++
	cuts := make([]cut, 0, len(n.cuts)+1)
	for _, c := range n.cuts {
		if c.offset < offset {
			cuts = append(cuts, c)
		}
	}
	if len(cuts) >= x.opts.limits.cuts {
		return vfs.Errorf(vfs.KindUnavailable, "truncate", "%d earlier truncations wait to be purged", len(cuts))
	}
	n.cuts = append(cuts, cut{n.cutGen, offset})
	if offset == 0 {
		n.attr.Used = 0
	}
	return nil
}

// deleteInode removes an inode without links; its extents and extended attributes follow at once if
// they are few, else they are left to Purge.
func (x *call) deleteInode(n *inode) error {
	x.delInode(x.fs, n)
	if err := x.charge(x.fs, n.attr.Project, -clampInt(n.attr.Used), -1); err != nil {
		return err
	}
	left, err := x.dropXattrs(n)
	if err != nil {
		return err
	}
	if !n.isFile() || (n.attr.Used == 0 && len(n.cuts) == 0) {
		return x.leave(n, left)
	}
	limit := x.deletions()
	var list []extent
	err = scanExtents(x.scan, x.fs, n, 0, maxEnd, func(e extent) (bool, error) {
		list = append(list, e)
		return len(list) <= limit, nil
	})
	if err != nil {
		return err
	}
	if len(list) > limit {
		return x.leave(n, true)
	}
	for i := range list {
		x.del(x.extentKey(n, list[i].end))
		if err := x.refer(n, &list[i], -1); err != nil {
			return err
		}
	}
	return x.leave(n, left)
}

// leave leaves it to Purge if something is left of an inode that was deleted.
func (x *call) leave(n *inode, left bool) error {
	if !left || len(n.cuts) > 0 { // with cuts it is in the queue
		return nil
	}
	return x.enqueue(&metapb.PurgeRecord{Fs: x.fs, Ino: uint64(n.attr.Ino)})
}

// deletions is how many records of each kind a command removes itself with an inode.
func (x *call) deletions() int {
	if x.level >= levelPOSIX && x.touched() > x.opts.limits.keys/2 {
		return 0 // it deletes many files
	}
	return x.opts.limits.extents
}
