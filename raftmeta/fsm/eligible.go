package fsm

import (
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// storesFollow makes the group of a node's stores that of the node.
func (x *call) storesFollow(n *metapb.Node, op string) error {
	if x.level < levelCluster {
		return nil
	}
	stores, err := records(x, "t/", func(s *metapb.Store) bool { return s.Node == n.Name && s.Group != n.Group })
	if err != nil {
		return err
	}
	if limit := x.opts.limits.keys / 2; x.touched()+len(stores) > limit {
		return vfs.Errorf(vfs.KindTooMany, op, "more than %d stores in one command: name fewer nodes", limit)
	}
	for _, s := range stores {
		s.Group = n.Group
		if err := x.setMapRecord(appendID32(nil, "t/", s.Id), s); err != nil {
			return err
		}
	}
	return nil
}

// groupOfStore sets the group of a store that is put: that of its node, and of a node that has no record what the store had before.
func (x *call) groupOfStore(s *metapb.Store, before, op string) error {
	if x.level < levelCluster {
		if s.Group != "" {
			return vfs.Errorf(vfs.KindNotSupported, op, "groups of stores need feature level %d", levelCluster)
		}
		return nil
	}
	var n metapb.Node
	had, err := x.getRecord(appendNode(s.Node), &n)
	if s.Group = before; had {
		s.Group = n.Group
	}
	return err
}

// eligible reports whether a store may be given data of a pool: package placement has the same rule, with its reasons.
func (x *call) eligible(p *metapb.Pool, s *metapb.Store) (bool, error) {
	if p.Group != s.Group {
		return false, nil
	}
	if s.Rack == "" {
		return true, nil
	}
	var r metapb.RackReservation
	had, err := x.getRecord(appendRack(s.Rack), &r)
	return !had || r.Group == p.Group, err
}

// mayHold refuses a store of a placement group that may not hold its pool's data. Stores that the group had are not given anything.
func (x *call) mayHold(p *metapb.Pool, old, g *metapb.PlacementGroup, s *metapb.Store, op string) error {
	if x.level < levelCluster || slices.ContainsFunc(old.GetSlots(), func(t *metapb.Slot) bool { return t.Store == s.Id }) {
		return nil
	}
	ok, err := x.eligible(p, s)
	if err == nil && !ok {
		err = vfs.Errorf(vfs.KindChanged, op, "placement group %d: store %d of group %q in rack %q may not hold data of pool %s of group %q",
			g.Id, s.Id, s.Group, s.Rack, p.Name, p.Group)
	}
	return err
}
