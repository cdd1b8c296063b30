package fsm

import "github.com/rackfs/rackfs/raftmeta/metapb"

// reservation counts what an origin has reserved.
func (c *checker) reservation(origin uint64, k usageKey, v []byte) {
	var r metapb.ReservationRecord
	if err := r.UnmarshalVT(v); err != nil {
		c.fail("reservation of origin %d: %v", origin, err)
	}
	if r.Bytes == 0 {
		c.fail("origin %d has reserved nothing in %+v", origin, k)
	}
	if !c.origins[origin] && !c.ending[origin] {
		c.fail("origin %d, which is not registered, has %d bytes reserved in %+v", origin, r.Bytes, k)
	}
	if c.deleted[k.fs] {
		return
	}
	for _, k := range chargedKeys(k.fs, k.project) {
		c.held[k] += r.Bytes
	}
}

// quotas adds the inodes of this part up, and, in the last one, compares what file systems and projects count with the sums.
func (c *checker) quotas() {
	for k, n := range c.inodes {
		if _, hidden := stagingProject(k.ino); hidden {
			continue // it is not charged
		}
		for _, k := range chargedKeys(k.fs, n.attr.Project) {
			u := c.total[k]
			u.bytes += n.attr.Used
			u.inodes++
			c.total[k] = u
		}
	}
	if !c.last() {
		return
	}
	for k := range c.held {
		if _, ok := c.total[k]; !ok {
			c.total[k] = usage{}
		}
	}
	for k := range c.usage {
		if _, ok := c.total[k]; !ok {
			c.total[k] = usage{}
		}
	}
	for k, want := range c.total {
		if c.deleted[k.fs] {
			continue
		}
		c.try(func() {
			got := c.usage[k]
			if got.bytes != want.bytes || got.inodes != want.inodes || got.reserved != c.held[k] {
				c.fail("usage of file system %d, project %d is %d bytes, %d inodes and %d reserved, counted %d, %d and %d",
					k.fs, k.project, want.bytes, want.inodes, c.held[k], got.bytes, got.inodes, got.reserved)
			}
			if c.level < levelPOSIX && (got.reserved != 0 || got.limitBytes != 0 || got.limitInodes != 0 || got.dir != 0) {
				c.fail("%+v has %+v at level %d", k, got, c.level)
			}
		})
	}
}
