package placement

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/vfs"
	"pgregory.net/rapid"
)

// Whatever groups and reservations there are: a reserved rack holds only its group's data, a group's data is only on its nodes, shared data
// only where there is no group and no reservation, and a node serves at most one.
func TestReservedRacksAreExclusive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"", "g1", "g2", "g3"})
		rack := rapid.SampledFrom([]string{"", "r1", "r2", "r3"})
		r := Reservations{}
		for range rapid.IntRange(0, 3).Draw(t, "reservations") {
			r[rack.Draw(t, "reserved rack")] = name.Draw(t, "for")
		}
		group, in := name.Draw(t, "group of the node"), rack.Draw(t, "its rack")
		serves := 0
		for _, pool := range []string{"", "g1", "g2", "g3"} {
			if !r.Eligible(pool, group, in) {
				continue
			}
			serves++
			if in != "" && r[in] != "" && r[in] != pool {
				t.Fatalf("rack %q is reserved for %q and holds data of %q", in, r[in], pool)
			}
			if pool != group {
				t.Fatalf("a node of group %q holds data of %q", group, pool)
			}
		}
		if serves > 1 || serves == 0 && (in == "" || r[in] == "" || r[in] == group) {
			t.Fatalf("a node of group %q in rack %q serves %d pools, reservations %v", group, in, serves, r)
		}
	})
}

func TestChooseLevel(t *testing.T) {
	// zones, racks per zone, nodes per rack, disks per node
	locations := func(z, r, n, d int) (out []Location) {
		for i := range z {
			for j := range r {
				for k := range n {
					for range d {
						out = append(out, Location{Node: fmt.Sprint("n", i, j, k), Rack: fmt.Sprint("r", i, j), Zone: fmt.Sprint("z", i)})
					}
				}
			}
		}
		return out
	}
	for _, c := range []struct {
		z, r, n, d int
		p          Profile
		want       Level
		ok         bool
		says       string
	}{
		{3, 1, 1, 1, Profile{2, 1}, Zone, true, "3 zones"},
		{2, 3, 1, 1, Profile{4, 2}, Rack, true, "6 racks, and not 6 in 2 zones"},
		{1, 2, 3, 2, Profile{4, 2}, Node, true, "6 nodes, and not 6 in 2 racks"},
		{1, 1, 3, 2, Profile{4, 2}, Disk, true, "6 disks, and not 6 in 3 nodes"},
		{1, 1, 5, 1, Profile{4, 2}, Disk, false, "needs 6 disks that may hold this pool's data, one for each shard, and there are 5 disks on 5 nodes in 1 rack: add 1, or choose a profile of at most 5 shards, such as 3+2"},
		{1, 1, 1, 1, Profile{4, 2}, Disk, false, "1 disk on 1 node in 1 rack: add 5"},
		{0, 0, 0, 0, Profile{1, 0}, Disk, false, "0 disks on 0 nodes"},
	} {
		l, text, err := ChooseLevel(c.p, locations(c.z, c.r, c.n, c.d))
		if err != nil {
			text = err.Error()
		}
		if (err == nil) != c.ok || l != c.want || !strings.Contains(text, c.says) {
			t.Errorf("%+v: %v, %q", c, l, text)
		}
		if err != nil && vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%+v: kind %v", c, vfs.KindOf(err))
		}
	}
	if err := CheckLevel(Profile{4, 2}, Rack, locations(1, 2, 3, 1)); vfs.KindOf(err) != vfs.KindInvalid || !strings.Contains(err.Error(), "there are 2 racks") {
		t.Errorf("2 racks for 4+2: %v", err)
	}
	if err := CheckLevel(Profile{4, 2}, Node, locations(1, 2, 3, 1)); err != nil {
		t.Error(err)
	}
	if _, err := ParseLevel("row"); vfs.KindOf(err) != vfs.KindInvalid {
		t.Error(err)
	}
	for l := Disk; l < levels; l++ {
		if got, err := ParseLevel(l.String()); got != l || err != nil {
			t.Errorf("%v is parsed as %v, %v", l, got, err)
		}
	}
}
