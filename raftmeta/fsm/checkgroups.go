package fsm

import (
	"bytes"
	"encoding/binary"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// groups checks that what names a group names one that there is, and that stores have the group of their node.
func (c *checker) groups() {
	if c.shard != 0 {
		return
	}
	known := map[string]bool{"": true}
	ids := map[uint32]bool{}
	next := max(c.counts["m/next/group"], 1)
	scan := func(prefix string, fn func(name string, v []byte)) {
		if err := c.view.Scan([]byte(prefix), prefixEnd([]byte(prefix)), func(k, v []byte) bool {
			fn(string(k[len(prefix):]), bytes.Clone(v))
			return true
		}); err != nil {
			c.fail("%q: %v", prefix, err)
		}
	}
	must := func(what string, err error) {
		if err != nil {
			c.fail("%s: %v", what, err)
		}
	}
	scan(groupPrefix, func(name string, v []byte) {
		var g metapb.NodeGroup
		must(name, g.UnmarshalVT(v))
		if g.Name != name || checkGroupName("check", "group", name) != nil || ids[g.Id] || g.Id == 0 || uint64(g.Id) >= next || c.level < levelCluster {
			c.fail("group %q at level %d: %v, the next id is %d", name, c.level, &g, next)
		}
		known[name], ids[g.Id] = true, true
	})
	scan(reservePrefix, func(rack string, v []byte) {
		var r metapb.RackReservation
		must(rack, r.UnmarshalVT(v))
		if r.Rack != rack || rack == "" || r.Group == "" || !known[r.Group] {
			c.fail("reservation of %q: %v", rack, &r)
		}
	})
	if c.level < levelCluster {
		return // a node's group means nothing yet
	}
	nodes := map[string]string{}
	scan(nodePrefix, func(name string, v []byte) {
		var n metapb.Node
		must(name, n.UnmarshalVT(v))
		if !known[n.Group] {
			c.fail("node %s is in group %q, which there is not", name, n.Group)
		}
		nodes[name] = n.Group
	})
	scan("t/", func(id string, v []byte) {
		var s metapb.Store
		must(id, s.UnmarshalVT(v))
		if g, ok := nodes[s.Node]; ok && g != s.Group {
			c.fail("store %d is in group %q, its node %s in %q", s.Id, s.Group, s.Node, g)
		}
		if !known[s.Group] && s.State != metapb.StoreState_STORE_LOST {
			c.fail("store %d is in group %q, which there is not", s.Id, s.Group)
		}
	})
	highest := uint32(0)
	scan("p/", func(id string, v []byte) {
		var p metapb.Pool
		must(id, p.UnmarshalVT(v))
		if !known[p.Group] {
			c.fail("pool %d is of group %q, which there is not", p.Id, p.Group)
		}
		highest = max(highest, lastPG(&p))
	})
	if b := c.get([]byte("m/last/pg")); highest > 0 && (len(b) != 8 || binary.BigEndian.Uint64(b) < uint64(highest)) {
		c.fail("the highest id of a placement group is %d, noted %x", highest, b)
	}
}
