package fsm

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

const (
	level1Digests = "testdata/level1-digests.txt"
	level3Digests = "testdata/level3-digests.txt" // of levels 2 and 3
	level4Digests = "testdata/level4-digests.txt"
)

// TestLevel1 replays scripts and long random histories at level 1 and compares the digests with those that the first
// release of level 1 computed: what a command does at a level never changes. The file is never written anew.
//
// The histories hold commands of later levels too: level 1 refuses them.
func TestLevel1(t *testing.T) {
	want := recordedDigests(t, level1Digests)
	same := func(name string, r *rig) {
		t.Helper()
		if r.m.Level() != 1 {
			return
		}
		if got := hex.EncodeToString(r.m.Digest()); got != want[name] {
			t.Errorf("%s %s\n\twas %q", name, got, want[name])
		}
	}
	eachScript(t, func(name string, r *rig) {
		if name < "level2" || name >= "level9" {
			same(name, r)
		}
	})
	for seed := range uint64(24) {
		h := seededHistory(seed)
		h.begin()
		for range 300 {
			h.step()
		}
		o := Options{}
		if seed%2 == 1 {
			o.limits = tiny
		}
		cut := rand.New(rand.NewPCG(seed, 1))
		r, _ := h.play(t, o, func() bool { return cut.IntN(4) == 0 }, func() bool { return cut.IntN(2) == 0 }, func() bool { return cut.IntN(50) == 0 })
		same(fmt.Sprintf("namespace/%d", seed), r)

		c := clusterHistory{draw: seededDraw(seed)}
		z := newRig(t, Options{})
		z.register("a", 1)
		for range 300 {
			z.apply(c.op())
		}
		same(fmt.Sprintf("cluster/%d", seed), z)
	}
}

// TestRecorded does the same for the scripts that end at level 2, 3 or 4. A script that is new when there are later levels is not recorded, and
// one that is recorded is not changed any more.
func TestRecorded(t *testing.T) {
	want := recordedDigests(t, level3Digests)
	maps.Copy(want, recordedDigests(t, level4Digests))
	seen := 0
	eachScript(t, func(name string, r *rig) {
		digest, ok := want[name]
		if !ok {
			return
		}
		seen++
		if got := fmt.Sprintf("%d:%x", r.m.Level(), r.m.Digest()); got != digest {
			t.Errorf("%s %s\n\twas %q", name, got, digest)
		}
	})
	if seen != len(want) {
		t.Errorf("%d machines of scripts, %d were recorded", seen, len(want))
	}
}

// recordedDigests reads lines of a name and a digest.
func recordedDigests(t *testing.T, path string) map[string]string {
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	for line := range strings.Lines(string(golden)) {
		name, digest, _ := strings.Cut(strings.TrimSpace(line), " ")
		want[name] = digest
	}
	return want
}

// eachScript runs all scripts; visit gets each machine at its end, named FILE/NUMBER.
func eachScript(t *testing.T, visit func(name string, r *rig)) {
	scripts, err := filepath.Glob("testdata/scripts/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range scripts {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		machines := 0
		scriptMachines(t, string(text), func(r *rig) {
			machines++
			visit(fmt.Sprintf("%s/%d", filepath.Base(f), machines), r)
		})
	}
}

func seededDraw(seed uint64) func(string, int, int) int {
	r := rand.New(rand.NewPCG(seed, 0))
	return func(_ string, lo, hi int) int { return lo + r.IntN(hi-lo+1) }
}

func seededHistory(seed uint64) *history {
	return &history{draw: seededDraw(seed), seqs: make(map[slotKey]uint64)}
}

// clusterHistory draws commands of shard 0 on few stores, pools and groups.
type clusterHistory struct {
	draw    func(label string, lo, hi int) int
	present *metapb.ClusterMapR // if set, most changes begin from it
	// The number of the last version of each node's record that was put.
	nodes map[string]uint64
}

func (h *clusterHistory) num(label string, lo, hi int) uint32 { return uint32(h.draw(label, lo, hi)) }

func (h *clusterHistory) store() *metapb.Store {
	s := &metapb.Store{Id: h.num("store", 1, 9), Node: "n", State: metapb.StoreState(h.num("state", 0, 9) / 5)}
	s.Uuid = []byte{byte(s.Id), byte(h.num("disk", 0, 7) / 7)}
	if h.present != nil {
		s.Node, s.Rack = h.node(), h.rack()
	}
	return s
}

func (h *clusterHistory) pg(id, slots uint32) *metapb.PlacementGroup {
	g := &metapb.PlacementGroup{Id: id, Epoch: h.num("epoch", 1, 4), State: metapb.PGState(h.num("pg state", 0, 1))}
	if h.num("narrow", 0, 5) == 0 {
		g.K, slots = 1, slots-1
	}
	first := h.num("first", 1, 9)
	for i := range slots {
		s := &metapb.Slot{Store: 1 + (first+i)%9}
		if h.num("filling", 0, 3) == 0 {
			s.Filling = true
			s.Previous = h.num("previous", 0, 9)
		}
		g.Slots = append(g.Slots, s)
	}
	return g
}

// edit changes g in one way.
func (h *clusterHistory) edit(g *metapb.PlacementGroup) *metapb.PGChange {
	c := &metapb.PGChange{ExpectEpoch: g.Epoch, Pg: g}
	s := g.Slots[h.num("slot", 0, len(g.Slots)-1)]
	switch h.num("edit", 0, 4) {
	case 0, 1:
		s.Previous, s.Store, s.Filling = s.Store, h.num("store", 1, 9), true
		g.Epoch++
	case 2:
		s.Previous, s.Filling = 0, false
	case 3:
		g.State ^= 1
	case 4:
		c.Remove = true
	}
	return c
}

func (h *clusterHistory) op() *metapb.Command {
	if h.present != nil && h.num("of groups", 0, 4) == 0 { // else as when the digests of level 1 were recorded
		return h.groupOp()
	}
	last := 9
	if h.present != nil {
		last = 11
	}
	switch h.num("op", 0, last) {
	case 0, 1, 2:
		return &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: h.store()}}}
	case 3:
		p := &metapb.Pool{Id: h.num("pool", 1, 2), Name: "p", K: 2, M: 1}
		first := uint32(1)
		if h.present != nil {
			p.Name, p.Group = "p"+string('0'+rune(p.Id)), h.group("pool group")
			first += h.num("on top", 0, 3) / 3 * h.present.LastPg
		}
		for i := range h.num("groups", 0, 4) {
			p.Pgs = append(p.Pgs, h.pg(first+i, 3))
		}
		return &metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: p}}}
	case 4, 10, 11:
		c := &metapb.ReplaceStore{Old: h.num("old", 1, 9), New: h.store()}
		if h.present != nil { // else as when the digests of level 1 were recorded
			c.New.Id, c.New.State = h.num("new", 5, 20), metapb.StoreState_STORE_IN
			for _, p := range h.present.Pools { // one that is needed, if there is
				if n := len(p.Pgs); n > 0 && h.num("of a group", 0, 2) > 0 {
					slots := p.Pgs[h.num("group", 0, n-1)].Slots
					c.Old = slots[h.num("slot", 0, len(slots)-1)].Store
				}
			}
			c.ExpectMapVersion = uint64(h.num("expects", 0, 2)/2) * (h.present.Version + uint64(h.num("newer", 0, 3)/3))
		}
		return &metapb.Command{Op: &metapb.Command_ReplaceStore{ReplaceStore: c}}
	case 5:
		return &metapb.Command{Op: &metapb.Command_PutKey{PutKey: &metapb.PutKey{Key: &metapb.Key{Kind: "handle", Id: h.num("key", 1, 3), Secret: []byte{byte(h.num("secret", 0, 3))}}}}}
	}
	c := &metapb.ChangePGs{Pool: h.num("pool", 1, 2)}
	if h.present != nil && len(h.present.Pools) > 0 && h.num("from the present", 0, 3) > 0 {
		p := h.present.Pools[h.num("pool", 0, len(h.present.Pools)-1)]
		c.Pool = p.Id
		if len(p.Pgs) == 0 || h.num("new", 0, 2) == 0 {
			g := h.pg(h.present.LastPg+1-h.num("taken id", 0, 5)/5, 3)
			g.Epoch = 1
			c.Changes = append(c.Changes, &metapb.PGChange{Pg: g})
			return &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: c}}
		}
		old := p.Pgs[h.num("group", 0, len(p.Pgs)-1)]
		c.Changes = append(c.Changes, h.edit(old.CloneVT()))
		return &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: c}}
	}
	for range h.num("changes", 1, 3) {
		g := &metapb.PGChange{ExpectEpoch: h.num("expect", 0, 3), Pg: h.pg(h.num("pg", 1, 9), 3), Remove: h.num("remove", 0, 5) == 0}
		if h.num("fits", 0, 1) == 0 {
			g.Pg.Epoch = g.ExpectEpoch + 1
		}
		c.Changes = append(c.Changes, g)
	}
	return &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: c}}
}

func (h *clusterHistory) node() string { return []string{"n", "n1", "n2"}[h.num("node", 0, 2)] }
func (h *clusterHistory) rack() string { return []string{"", "r1", "r2"}[h.num("rack", 0, 2)] }
func (h *clusterHistory) group(label string) string {
	return []string{"", "", "g", "h"}[h.num(label, 0, 3)]
}

// groupOp is a command about nodes and groups.
func (h *clusterHistory) groupOp() *metapb.Command {
	expect := h.present.Version - uint64(h.num("expects", 0, 4)/4)
	switch h.num("group op", 0, 9) {
	case 0, 1:
		return &metapb.Command{Op: &metapb.Command_PutGroup{PutGroup: &metapb.PutGroup{Name: h.group("made")}}}
	case 2:
		c := &metapb.RemoveGroup{Name: "g", Id: h.num("id", 1, 3)}
		for _, g := range h.present.Groups {
			if h.num("present", 0, 2) > 0 {
				c.Name, c.Id = g.Name, g.Id
			}
		}
		return &metapb.Command{Op: &metapb.Command_RemoveGroup{RemoveGroup: c}}
	case 3, 4:
		c := &metapb.ReserveRacks{Group: h.group("for"), Racks: []string{"r1", "r2"}[:h.num("racks", 1, 2)], ExpectMapVersion: expect}
		return &metapb.Command{Op: &metapb.Command_ReserveRacks{ReserveRacks: c}}
	case 5, 6:
		c := &metapb.SetNodeGroup{Group: h.group("into"), Nodes: []string{h.node()}, ExpectMapVersion: expect}
		return &metapb.Command{Op: &metapb.Command_SetNodeGroup{SetNodeGroup: c}}
	case 7:
		return &metapb.Command{Op: &metapb.Command_RemovePool{RemovePool: &metapb.RemovePool{Id: h.num("pool", 1, 2), ExpectMapVersion: expect}}}
	case 8:
		name := h.node()
		return &metapb.Command{Op: &metapb.Command_RemoveNode{RemoveNode: &metapb.RemoveNode{Name: name, Id: nodeID(name)}}}
	}
	name := h.node()
	if h.nodes == nil {
		h.nodes = map[string]uint64{}
	}
	h.nodes[name]++
	n := &metapb.Node{Name: name, Id: nodeID(name), Roles: []string{"block"}, Group: h.group("of the node"), Version: uint64(h.num("version", 0, 2)/2)*h.nodes[name] + 1}
	return &metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: n}}}
}

func nodeID(name string) []byte { return []byte((name + "................")[:nodeIDLen]) }
