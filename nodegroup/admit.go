package nodegroup

import (
	"bytes"
	"slices"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Admission is what a disk is to the cluster.
type Admission struct {
	ID       uint32 // its store id
	Record   *metapb.Store
	Replaces uint32 // the store whose place it takes, by ReplaceStore; 0: none
	Version  uint64 // of the map that the replacement was decided on: ReplaceStore expects it
}

// Admit decides about a disk with this uuid that a node found in the place of its only store: it is the one that the map
// has, or a new one. A new one takes the place of what the node had before, under an id that was never used, if it is empty
// and the cluster can spare that; whether what was there before is really gone is for the caller to know. first is the id of the node's first store.
//
// KindIncompatible: the disk must not be used. KindUnavailable: it cannot take the place now, because of data that would be given up.
func Admit(m *metapb.ClusterMapR, node string, uuid []byte, empty bool, first uint32) (Admission, error) {
	const op = "admit store"
	var old *metapb.Store
	last, taken := first, false
	for _, s := range m.GetStores() {
		last = max(last, s.Id)
		taken = taken || s.Id == first
		switch {
		case bytes.Equal(s.Uuid, uuid):
			switch {
			case s.Gone || s.State == metapb.StoreState_STORE_LOST && s.ReplacedBy == 0:
				return Admission{}, vfs.Errorf(vfs.KindIncompatible, op,
					"this disk was store %d of node %s, which was removed from the cluster: what it holds is out of date; empty it to use it", s.Id, s.Node)
			case s.State == metapb.StoreState_STORE_LOST:
				return Admission{}, vfs.Errorf(vfs.KindIncompatible, op,
					"this disk was store %d, which was given up and replaced by store %d: what it holds is out of date; remove it to begin with an empty one", s.Id, s.ReplacedBy)
			case s.Node != node:
				return Admission{}, vfs.Errorf(vfs.KindIncompatible, op, "this disk is store %d of node %s, not of %s: put it back there", s.Id, s.Node, node)
			}
			return Admission{ID: s.Id, Record: s}, nil
		case s.Node == node && s.State != metapb.StoreState_STORE_LOST && !s.Gone:
			old = s
		}
	}
	if old == nil && !taken {
		return Admission{ID: first}, nil // the cluster is being formed
	}
	if old == nil {
		return Admission{}, vfs.Errorf(vfs.KindIncompatible, op, "the cluster does not know this disk, and node %s has none that it could replace", node)
	}
	if !empty {
		return Admission{}, vfs.Errorf(vfs.KindIncompatible, op,
			"the cluster does not know this disk, and it holds data: it is left untouched; bring back the disk that is store %d, or an empty one", old.Id)
	}
	if err := Survives(m, old.Id); err != nil {
		return Admission{}, vfs.Wrap(op, err)
	}
	return Admission{ID: last + 1, Replaces: old.Id, Version: m.Version}, nil
}

// AdmitDisk decides about one of several disks of a node: it has this uuid and is in the place where store was is known to have been last, 0 if
// there never was one. A new one that is empty is added under the next id, or takes the place of that store as with Admit. Two nodes may
// be given the same id at once: PutStore refuses the second, which asks again with a new map.
func AdmitDisk(m *metapb.ClusterMapR, node string, uuid []byte, empty bool, was uint32) (Admission, error) {
	const op = "admit disk"
	last := uint32(0)
	for _, s := range m.GetStores() {
		if last = max(last, s.Id); bytes.Equal(s.Uuid, uuid) {
			return Admit(m, node, uuid, empty, s.Id)
		}
	}
	if !empty {
		return Admission{}, vfs.Errorf(vfs.KindIncompatible, op,
			"the cluster does not know this disk, and it holds data: it is left untouched; bring back the disk that belongs here, or an empty one")
	}
	for _, s := range m.GetStores() {
		if s.Id != was || s.Node != node || s.State == metapb.StoreState_STORE_LOST {
			continue
		}
		if err := Survives(m, was); err != nil {
			return Admission{}, vfs.Wrap(op, err)
		}
		return Admission{ID: last + 1, Replaces: was, Version: m.Version}, nil
	}
	return Admission{ID: last + 1}, nil
}

// Survives refuses the loss of stores without which blocks of some group could not be rebuilt from the others.
// Stores that are only silent count as being there; those of a node that was removed are lost, though slots still name them.
func Survives(m *metapb.ClusterMapR, lost ...uint32) error {
	var states []placement.StoreState
	for _, s := range m.GetStores() {
		st := placement.StoreState{ID: s.Id, Condition: placement.Up, Readable: true}
		if s.State == metapb.StoreState_STORE_LOST || s.Gone {
			st = placement.StoreState{ID: s.Id}
		}
		for _, l := range lost {
			if s.Id == l {
				st = placement.StoreState{ID: s.Id}
			}
		}
		states = append(states, st)
	}
	named := func(x placement.Member) bool {
		return slices.Contains(lost, x.Store) || slices.Contains(lost, x.Previous)
	}
	for _, p := range m.GetPools() {
		of := poolState(p, 0) // groups that cannot be read without that loss either are no reason against it
		of.Groups = slices.DeleteFunc(of.Groups, func(g placement.Group) bool { return !slices.ContainsFunc(g.Members, named) })
		if r := placement.Assess(of, states); r.Margin < 0 {
			return vfs.Errorf(vfs.KindUnavailable, "nodegroup.survives",
				"without stores %v, blocks of %d groups of pool %s could not be rebuilt (slots that are being filled count as missing): bring the old disks back, or wait until those slots are filled",
				lost, r.AtRisk, p.Name)
		}
	}
	return nil
}
