package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// xattrCookie is a place in a listing of extended attributes.
type xattrCookie struct {
	k      inoKey
	cookie uint64
}

func (c *checker) xattr(k inoKey, name string, a *metapb.XattrRecord) {
	if c.deleted[k.fs] {
		return
	}
	if err := vfs.CheckXattrName(name, "fsm.check"); err != nil {
		c.fail("inode %d: extended attribute: %v", k.ino, err)
	}
	if c.level < levelPOSIX {
		c.fail("inode %d has an extended attribute at level %d", k.ino, c.level)
	}
	at := xattrCookie{k, a.Cookie}
	if a.Cookie == 0 || c.cookies[at] {
		c.fail("inode %d: cookie %d of extended attribute %q is another one's", k.ino, a.Cookie, name)
	}
	c.cookies[at] = true
	t := c.xattrs[k]
	then := t.Replace(name, -1, len(a.Value))
	err := vfs.CheckXattrSet(then, false, vfs.XattrCreate, "fsm.check")
	if err == nil {
		err = vfs.CheckXattrValue(a.Value, vfs.XattrCreate, "fsm.check")
	}
	if err != nil && c.inodes[k] != nil {
		c.fail("inode %d: %v", k.ino, err)
	}
	c.xattrs[k] = xattrs{then, max(t.lastCookie, a.Cookie)}
}

// checkXattrs compares what inodes count with what there is. What deleted ones left is in the queue.
func (c *checker) checkXattrs() {
	for k, n := range c.inodes {
		c.try(func() {
			has := c.xattrs[k]
			if n.xattrs.XattrTotals != has.XattrTotals || n.xattrs.lastCookie < has.lastCookie {
				c.fail("inode %d has extended attributes %+v, counts %+v", k.ino, has, n.xattrs)
			}
			if n.xattrs != (xattrs{}) && vfs.CheckXattr(&vfs.Root, &n.attr, vfs.AccessRead, "fsm.check") != nil {
				c.fail("inode %d, a %s, has extended attributes", k.ino, n.attr.Type)
			}
		})
	}
	for k := range c.xattrs {
		c.try(func() {
			if c.inodes[k] == nil && c.queue[k] == 0 {
				c.fail("extended attributes of inode %d, which does not exist and is not in the queue", k.ino)
			}
		})
	}
}
