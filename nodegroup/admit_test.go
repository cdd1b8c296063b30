package nodegroup

import (
	"strings"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func TestAdmit(t *testing.T) {
	fresh := func() *metapb.ClusterMapR {
		m := &metapb.ClusterMapR{Version: 5, Pools: []*metapb.Pool{{Id: 1, Name: "default", K: 4, M: 2, Pgs: []*metapb.PlacementGroup{{Id: 1, Epoch: 1}}}}}
		for id := uint32(1); id <= 6; id++ {
			m.Stores = append(m.Stores, &metapb.Store{Id: id, Uuid: []byte{byte(id)}, Node: name(id)})
			m.Pools[0].Pgs[0].Slots = append(m.Pools[0].Pgs[0].Slots, &metapb.Slot{Store: id})
		}
		return m
	}
	replaced := fresh()
	replaced.Stores[1].State, replaced.Stores[1].ReplacedBy = metapb.StoreState_STORE_LOST, 7
	replaced.Stores = append(replaced.Stores, &metapb.Store{Id: 7, Uuid: []byte{7}, Node: name(2)})
	replaced.Pools[0].Pgs[0].Slots[1] = &metapb.Slot{Store: 7, Filling: true}
	filling := fresh()
	filling.Pools[0].Pgs[0].Slots[0].Filling, filling.Pools[0].Pgs[0].Slots[4].Filling = true, true
	removed := fresh() // two nodes were, and nothing could take the place of their stores
	for _, i := range []int{0, 1} {
		removed.Stores[i].State, removed.Stores[i].Gone = metapb.StoreState_STORE_OUT, true
	}
	elsewhere := fresh() // a group without this node's store was given up
	elsewhere.Pools[0].Pgs = append(elsewhere.Pools[0].Pgs, &metapb.PlacementGroup{Id: 2, Epoch: 1})
	for id := uint32(7); id <= 9; id++ {
		elsewhere.Stores = append(elsewhere.Stores, &metapb.Store{Id: id, Uuid: []byte{byte(20 + id)}, Node: name(id), State: metapb.StoreState_STORE_OUT, Gone: true})
	}
	for _, id := range []uint32{1, 2, 4, 7, 8, 9} {
		elsewhere.Pools[0].Pgs[1].Slots = append(elsewhere.Pools[0].Pgs[1].Slots, &metapb.Slot{Store: id})
	}
	for name_, c := range map[string]struct {
		m     *metapb.ClusterMapR
		node  uint32
		uuid  byte
		empty bool
		want  Admission
		kind  vfs.Kind
		says  string
	}{
		"forming":                 {&metapb.ClusterMapR{}, 3, 9, true, Admission{ID: 3}, 0, ""},
		"known":                   {fresh(), 3, 3, false, Admission{ID: 3}, 0, ""},
		"known, empty":            {fresh(), 3, 3, true, Admission{ID: 3}, 0, ""},
		"wiped":                   {fresh(), 3, 9, true, Admission{ID: 7, Replaces: 3, Version: 5}, 0, ""},
		"unknown with data":       {fresh(), 3, 9, false, Admission{}, vfs.KindIncompatible, "holds data"},
		"of another node":         {fresh(), 3, 4, false, Admission{}, vfs.KindIncompatible, "store 4 of node n4"},
		"given up, back":          {replaced, 2, 2, false, Admission{}, vfs.KindIncompatible, "replaced by store 7"},
		"the one that replaced":   {replaced, 2, 7, false, Admission{ID: 7}, 0, ""},
		"wiped again":             {replaced, 2, 9, true, Admission{ID: 8, Replaces: 7, Version: 5}, 0, ""},
		"a second one of the two": {replaced, 5, 9, true, Admission{ID: 8, Replaces: 5, Version: 5}, 0, ""},
		"too much":                {filling, 3, 9, true, Admission{}, vfs.KindUnavailable, "could not be rebuilt"},
		"others were removed":     {removed, 3, 9, true, Admission{}, vfs.KindUnavailable, "could not be rebuilt"},
		"another group is lost":   {elsewhere, 3, 9, true, Admission{ID: 10, Replaces: 3, Version: 5}, 0, ""},
		"one that is filling":     {filling, 1, 9, true, Admission{ID: 7, Replaces: 1, Version: 5}, 0, ""},
	} {
		got, err := Admit(c.m, name(c.node), []byte{c.uuid}, c.empty, c.node)
		got.Record = nil
		if got != c.want || err != nil && (vfs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says)) || (err == nil) != (c.kind == 0) {
			t.Errorf("%s: %+v %v, want %+v kind %v saying %q", name_, got, err, c.want, c.kind, c.says)
		}
	}
}

func TestAdmitDisk(t *testing.T) {
	m := &metapb.ClusterMapR{Pools: []*metapb.Pool{{Id: 1, Name: "default", K: 2, M: 1, Pgs: []*metapb.PlacementGroup{{Id: 1, Epoch: 1,
		Slots: []*metapb.Slot{{Store: 1}, {Store: 3}, {Store: 5}}}}}}}
	for id := uint32(1); id <= 5; id++ {
		m.Stores = append(m.Stores, &metapb.Store{Id: id, Uuid: []byte{byte(id)}, Node: name((id + 1) / 2)})
	}
	m.Stores[3].State, m.Stores[3].ReplacedBy = metapb.StoreState_STORE_LOST, 5
	for what, c := range map[string]struct {
		node  uint32
		uuid  byte
		empty bool
		was   uint32
		want  Admission
		kind  vfs.Kind
		says  string
	}{
		"known":                      {1, 2, false, 2, Admission{ID: 2}, 0, ""},
		"known, in another place":    {1, 2, false, 1, Admission{ID: 2}, 0, ""},
		"a further disk":             {1, 9, true, 0, Admission{ID: 6}, 0, ""},
		"a new node":                 {9, 9, true, 0, Admission{ID: 6}, 0, ""},
		"replaced":                   {1, 9, true, 1, Admission{ID: 6, Replaces: 1}, 0, ""},
		"its place is taken already": {2, 9, true, 4, Admission{ID: 6}, 0, ""},
		"somebody else's place":      {2, 9, true, 1, Admission{ID: 6}, 0, ""},
		"unknown with data":          {1, 9, false, 1, Admission{}, vfs.KindIncompatible, "holds data"},
		"of another node":            {1, 3, true, 0, Admission{}, vfs.KindIncompatible, "store 3 of node n2"},
		"given up and back":          {2, 4, false, 4, Admission{}, vfs.KindIncompatible, "replaced by store 5"},
	} {
		got, err := AdmitDisk(m, name(c.node), []byte{c.uuid}, c.empty, c.was)
		got.Record = nil
		if got != c.want || err != nil && (vfs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says)) || (err == nil) != (c.kind == 0) {
			t.Errorf("%s: %+v %v, want %+v kind %v saying %q", what, got, err, c.want, c.kind, c.says)
		}
	}
}
