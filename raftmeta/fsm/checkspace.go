package fsm

import "github.com/rackfs/rackfs/raftmeta/metapb"

// A file system that was deleted goes piece by piece: what its records say of each other is not checked then, but what they say of blocks,
// clients and origins is. In the end nothing is left.

func (c *checker) deletedSpace(fs uint32, v []byte) {
	var d metapb.DeletedNamespace
	if err := d.UnmarshalVT(v); err != nil {
		c.fail("deleted file system %d: %v", fs, err)
	}
	if c.level < levelCluster {
		c.fail("file system %d was deleted at level %d", fs, c.level)
	}
	c.deleted[fs] = d.Purging
}

// mayBeLeft fails if k, a record of fs, should be gone.
func (c *checker) mayBeLeft(fs uint32, k []byte) {
	purging, was := c.deleted[fs]
	if was && (!purging || k[0] == 'n') {
		c.fail("file system %d was deleted, and %q is left", fs, k)
	}
}

// deletedSpaces takes the inodes of deleted file systems out of what is checked.
func (c *checker) deletedSpaces() {
	if c.first() {
		c.try(c.endedSpaces)
	}
	for k := range c.inodes {
		if c.deleted[k.fs] {
			delete(c.inodes, k)
		}
	}
}

// endedSpaces fails if what is being purged is not in the queue, or the other way round.
func (c *checker) endedSpaces() {
	for fs, purging := range c.deleted {
		if want := map[bool]int{true: 1}[purging]; c.ended[fs] != want {
			c.fail("file system %d was deleted and is %d times in the queue, want %d", fs, c.ended[fs], want)
		}
	}
	for fs := range c.ended {
		if _, was := c.deleted[fs]; !was {
			c.fail("file system %d is in the queue and was not deleted", fs)
		}
	}
}
