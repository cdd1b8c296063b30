package fsm

import (
	"bytes"
	"crypto/sha256"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// How a node leaves: it is drained, its slots move away, and it is retired; one that is lost is retired at once, and its stores are gone
// until no slot names them. All of this is of levelCluster.

const retiredPrefix = "j/x/"

// maxRetired bounds the nodes that were removed and are remembered.
const maxRetired = 4096

func appendRetired(id []byte) []byte { return append([]byte(retiredPrefix), id...) }

// ofLevel is n with what the level knows, as the record old (nil: none) allows: the state is not the node's to change, and its key never changes.
func (x *call) ofLevel(n, old *metapb.Node, op string) (*metapb.Node, error) {
	n = n.CloneVT()
	if x.level < levelGateways {
		n.Several = false
	}
	if x.level < levelService {
		n.Local, n.LocalVolumes = "", nil
	} else if err := checkLocal(n, op); err != nil {
		return nil, err
	}
	if x.level < levelCluster {
		n.State, n.Key = metapb.NodeState_NODE_IN, nil
		return n, nil
	}
	n.State = old.GetState()
	switch {
	case len(n.Key) == 0:
		n.Key = old.GetKey()
	case len(n.Key) != sha256.Size:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "the hash of a key of %d bytes", len(n.Key))
	case len(old.GetKey()) > 0 && !bytes.Equal(n.Key, old.Key):
		return nil, vfs.Errorf(vfs.KindPerm, op, "node %s joined with another key", n.Name)
	}
	return n, nil
}

// notRetired refuses the id of a node that was removed.
func (x *call) notRetired(n *metapb.Node, op string) error {
	if x.level < levelCluster {
		return nil
	}
	if _, had, err := x.get(appendRetired(n.Id)); err != nil {
		return err
	} else if had {
		return vfs.Errorf(vfs.KindAccess, op, "this data directory is that of a node that was removed from the cluster: empty it, and let the machine join anew")
	}
	return nil
}

// noneLeft refuses to let a node take the name of one that is gone while its stores are being rebuilt: they are known by it.
func (x *call) noneLeft(name, op string) error {
	if x.level < levelCluster {
		return nil
	}
	stores, err := x.storesOf(name)
	if err == nil && len(stores) > 0 {
		return vfs.Errorf(vfs.KindBusy, op, "what store %d of the removed node %s held is still being rebuilt elsewhere: choose another name, or wait until that is done", stores[0].Id, name)
	}
	return err
}

// storesOf are the stores of a node that are not lost, by id.
func (x *call) storesOf(node string) ([]*metapb.Store, error) {
	var out []*metapb.Store
	var bad error
	err := x.scan([]byte("t/"), prefixEnd([]byte("t/")), func(k, v []byte) bool {
		s := new(metapb.Store)
		if err := s.UnmarshalVT(v); err != nil {
			bad = corrupt("store %q: %w", k, err)
			return false
		}
		if s.Node == node && s.State != metapb.StoreState_STORE_LOST {
			out = append(out, s)
		}
		return true
	})
	if bad != nil {
		err = bad
	}
	return out, err
}

// storeOfNode makes s, which is put in the place of old, what its node is: out while that is draining. A store that is gone does not come back.
func (x *call) storeOfNode(old, s *metapb.Store, op string) error {
	if x.level < levelCluster {
		s.Gone = false
		return nil
	}
	if old.Gone {
		return vfs.Errorf(vfs.KindPerm, op, "store %d was of node %s, which was removed: it does not come back", s.Id, old.Node)
	}
	s.Gone = false
	var n metapb.Node
	had, err := x.getRecord(appendNode(s.Node), &n)
	if err == nil && had && n.State == metapb.NodeState_NODE_DRAINING && s.State == metapb.StoreState_STORE_IN {
		s.State = metapb.StoreState_STORE_OUT
	}
	return err
}

func (x *call) setStore(s *metapb.Store) error {
	return x.setMapRecord(appendID32(nil, "t/", s.Id), s)
}

func (x *call) setNodeState(c *metapb.SetNodeState) (*metapb.Result, error) {
	const op = "node.state"
	if err := checkRecordName(op, "name", c.Name); err != nil {
		return nil, err
	}
	var n metapb.Node
	had, err := x.getRecord(appendNode(c.Name), &n)
	switch {
	case err != nil:
		return nil, err
	case c.State < metapb.NodeState_NODE_IN || c.State > metapb.NodeState_NODE_DRAINING:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "state %d", int32(c.State))
	case !had:
		return nil, vfs.Errorf(vfs.KindNotFound, op, "there is no node %s", c.Name)
	case !bytes.Equal(n.Id, c.Id):
		return nil, vfs.Errorf(vfs.KindChanged, op, "node %s is another one now", c.Name)
	case n.State == c.State:
		return nodeResult(&n), nil
	case n.Version != c.Version:
		return nil, vfs.Errorf(vfs.KindChanged, op, "the record of node %s is at version %d, not %d", n.Name, n.Version, c.Version)
	}
	stores, err := x.storesOf(n.Name)
	if err != nil {
		return nil, err
	}
	for _, s := range stores {
		if s.State = metapb.StoreState_STORE_IN; c.State == metapb.NodeState_NODE_DRAINING {
			s.State = metapb.StoreState_STORE_OUT
		}
		if err := x.setStore(s); err != nil {
			return nil, err
		}
	}
	n.State = c.State
	n.Version++
	return nodeResult(&n), x.setRecord(appendNode(n.Name), &n)
}

// pools are all pools, by id.
func (x *call) pools(op string) ([]*metapb.Pool, error) {
	keys, more, err := x.firstKeys([]byte("p/"), x.opts.limits.keys/2)
	if err != nil {
		return nil, err
	}
	if more {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "more than %d pools", len(keys))
	}
	out := make([]*metapb.Pool, len(keys))
	for i, k := range keys {
		out[i] = new(metapb.Pool)
		if _, err := x.getRecord(k, out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// naming counts the slots of pools that name each of these stores.
func naming(pools []*metapb.Pool, stores []*metapb.Store) map[uint32]int {
	n := make(map[uint32]int, len(stores))
	for _, s := range stores {
		n[s.Id] = 0
	}
	for _, p := range pools {
		for _, g := range p.Pgs {
			for _, s := range g.Slots {
				for _, id := range [...]uint32{s.Store, s.Previous} {
					if c, ok := n[id]; ok {
						n[id] = c + 1
					}
				}
			}
		}
	}
	return n
}

// checkWithout refuses the loss of stores without which blocks of some group could not be rebuilt.
func checkWithout(pools []*metapb.Pool, named map[uint32]int, op string) error {
	lost := func(id uint32) bool { _, ok := named[id]; return ok }
	for _, p := range pools {
		for _, g := range p.Pgs {
			touched, whole := false, uint32(0)
			for _, s := range g.Slots {
				touched = touched || lost(s.Store) || lost(s.Previous)
				if !lost(s.Store) && (!s.Filling || s.Previous != 0 && !lost(s.Previous)) {
					whole++
				}
			}
			if need := dataSlots(p, g); touched && whole < need {
				return vfs.Errorf(vfs.KindInvalid, op, "without it placement group %d of pool %s has %d whole members, and its blocks need %d: bring the node back, or wait until slots that are being filled are filled",
					g.Id, p.Name, whole, need)
			}
		}
	}
	return nil
}

func (x *call) retireNode(cmd *metapb.Command, c *metapb.RetireNode) (*metapb.Result, error) {
	const op = "node.remove"
	if err := checkRecordName(op, "name", c.Name); err != nil {
		return nil, err
	}
	if len(c.Id) != nodeIDLen || len(c.Forget) > maxRetired {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a node is removed by its name and id")
	}
	var n metapb.Node
	had, err := x.getRecord(appendNode(c.Name), &n)
	if err != nil {
		return nil, err
	}
	if !had || !bytes.Equal(n.Id, c.Id) {
		if _, gone, err := x.get(appendRetired(c.Id)); err != nil || gone {
			return &metapb.Result{}, err // a repeated command
		}
		if had {
			return nil, vfs.Errorf(vfs.KindChanged, op, "node %s is another one now", c.Name)
		}
		return nil, vfs.Errorf(vfs.KindNotFound, op, "there is no node %s", c.Name)
	}
	stores, err := x.storesOf(n.Name)
	if err != nil {
		return nil, err
	}
	pools, err := x.pools(op)
	if err != nil {
		return nil, err
	}
	named := naming(pools, stores)
	total := 0
	for _, k := range named {
		total += k
	}
	switch {
	case c.Lost && !c.Force:
		if err := checkWithout(pools, named, op); err != nil {
			return nil, err
		}
	case !c.Lost && n.State != metapb.NodeState_NODE_DRAINING:
		return nil, vfs.Errorf(vfs.KindBusy, op, "node %s is in use: drain it first, and wait until it is drained; if the machine is lost, say so with --lost", n.Name)
	case !c.Lost && total > 0:
		return nil, vfs.Errorf(vfs.KindBusy, op, "node %s is not drained: %d slots of placement groups still name its stores; wait until they have moved", n.Name, total)
	}
	for _, s := range stores {
		if s.State, s.Gone = metapb.StoreState_STORE_LOST, false; named[s.Id] > 0 {
			s.State, s.Gone = metapb.StoreState_STORE_OUT, true
		}
		if err := x.setStore(s); err != nil {
			return nil, err
		}
	}
	for _, id := range c.Forget {
		if _, had, err := x.get(appendRetired(id)); err != nil {
			return nil, err
		} else if had {
			x.del(appendRetired(id))
		}
	}
	count := 0
	if err := x.scan([]byte(retiredPrefix), prefixEnd([]byte(retiredPrefix)), func(_, _ []byte) bool { count++; return true }); err != nil {
		return nil, err
	}
	if count >= maxRetired {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d nodes were removed whose certificates have not expired", count)
	}
	key, err := x.keyOf(&n)
	if err != nil {
		return nil, err
	}
	x.del(appendNode(n.Name))
	return &metapb.Result{}, x.setRecord(appendRetired(n.Id), &metapb.RetiredNode{Name: n.Name, Id: n.Id, Key: key, Removed: cmd.Time})
}

// keyOf is the hash of a node's key, from its record or the token that it joined with; nil: not known.
func (x *call) keyOf(n *metapb.Node) ([]byte, error) {
	key := n.Key
	if len(key) > 0 {
		return key, nil
	}
	var bad error
	err := x.scan([]byte(tokenPrefix), prefixEnd([]byte(tokenPrefix)), func(k, v []byte) bool {
		var t metapb.Token
		if err := t.UnmarshalVT(v); err != nil {
			bad = corrupt("token %q: %w", k, err)
			return false
		}
		if bytes.Equal(t.UsedBy, n.Id) {
			key = t.Key
		}
		return len(key) == 0
	})
	if bad != nil {
		err = bad
	}
	return key, err
}

func (x *call) retireStores(c *metapb.RetireStores) error {
	const op = "store.retire"
	if len(c.Ids) == 0 || len(c.Ids) > x.opts.limits.keys/2 {
		return vfs.Errorf(vfs.KindInvalid, op, "%d stores", len(c.Ids))
	}
	pools, err := x.pools(op)
	if err != nil {
		return err
	}
	for _, id := range c.Ids {
		var s metapb.Store
		had, err := x.getRecord(appendID32(nil, "t/", id), &s)
		switch {
		case err != nil:
			return err
		case !had:
			return vfs.Errorf(vfs.KindNotFound, op, "store %d", id)
		case s.State == metapb.StoreState_STORE_LOST:
			continue
		case !s.Gone:
			return vfs.Errorf(vfs.KindInvalid, op, "the node of store %d was not removed", id)
		}
		if n := naming(pools, []*metapb.Store{&s})[id]; n > 0 {
			return vfs.Errorf(vfs.KindBusy, op, "%d slots name store %d", n, id)
		}
		s.State, s.Gone = metapb.StoreState_STORE_LOST, false
		if err := x.setStore(&s); err != nil {
			return err
		}
		if err := x.endGroup(s.Group); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) retiredNodes() (*metapb.QueryResult, error) {
	list, err := all(r, []byte(retiredPrefix), func() *metapb.RetiredNode { return new(metapb.RetiredNode) })
	return &metapb.QueryResult{R: &metapb.QueryResult_RetiredNodes{RetiredNodes: &metapb.RetiredNodesR{Nodes: list}}}, err
}
