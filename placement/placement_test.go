package placement

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/rackfs/rackfs/vfs"
	"pgregory.net/rapid"
)

func TestParseProfile(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Profile
		ok   bool
	}{
		{"4+2", Profile{4, 2}, true}, {"1+0", Profile{1, 0}, true}, {"16+8", Profile{16, 8}, true},
		{"0+2", Profile{}, false}, {"17+2", Profile{}, false}, {"4+9", Profile{}, false},
		{"", Profile{}, false}, {"4", Profile{}, false}, {"4+", Profile{}, false}, {"+2", Profile{}, false}, {"4+2+1", Profile{}, false},
		{"4+-2", Profile{}, false}, {"04+2", Profile{}, false}, {" 4+2", Profile{}, false}, {"260+2", Profile{}, false},
	} {
		p, err := ParseProfile(c.in)
		if (err == nil) != c.ok {
			t.Errorf("%q: error %v", c.in, err)
		}
		if c.ok && p != c.want {
			t.Errorf("%q: %v, want %v", c.in, p, c.want)
		}
		if !c.ok && vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%q: kind %v", c.in, vfs.KindOf(err))
		}
		if c.ok && p.String() != c.in {
			t.Errorf("%q prints as %q", c.in, p.String())
		}
	}
}

func stores(n int) []Target {
	s := make([]Target, n)
	for i := range s {
		s[i] = Target{Node: fmt.Sprintf("n%d", i/2), Disk: uint32(i % 2)}
	}
	return s
}

func spread(c map[Target]int, all []Target) int {
	lo, hi := c[all[0]], c[all[0]]
	for _, t := range all {
		lo, hi = min(lo, c[t]), max(hi, c[t])
	}
	return hi - lo
}

func TestStatic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.IntRange(1, MaxData).Draw(t, "k")
		m := rapid.IntRange(0, MaxParity).Draw(t, "m")
		all := stores(k + m + rapid.IntRange(0, 20).Draw(t, "more"))
		n := rapid.IntRange(0, 200).Draw(t, "n")
		pgs, err := Static(all, k, m, n)
		if err != nil {
			t.Fatal(err)
		}
		if len(pgs) != n {
			t.Fatalf("%d groups, want %d", len(pgs), n)
		}
		nd, np, slot0 := map[Target]int{}, map[Target]int{}, map[Target]int{}
		for i, pg := range pgs {
			if err := pg.Validate(); err != nil {
				t.Fatal(err)
			}
			if pg.ID != uint32(i+1) || pg.Epoch != 1 {
				t.Fatalf("group %d has id %d, epoch %d", i, pg.ID, pg.Epoch)
			}
			for j, s := range pg.Slots {
				if !slices.Contains(all, s.Target) || s.Previous != nil {
					t.Fatalf("slot %+v", s)
				}
				switch {
				case j == 0:
					slot0[s.Target]++
					fallthrough
				case j < k:
					nd[s.Target]++
				default:
					np[s.Target]++
				}
			}
		}
		if d := spread(nd, all); d > 1 {
			t.Fatalf("data slots differ by %d: %v", d, nd)
		}
		if d := spread(np, all); d > 1 {
			t.Fatalf("parity slots differ by %d: %v", d, np)
		}
		if d := spread(slot0, all); d > 4 {
			t.Fatalf("first slots differ by %d: %v", d, slot0)
		}
		again, _ := Static(all, k, m, n)
		if !reflect.DeepEqual(pgs, again) {
			t.Fatal("the same arguments gave another layout")
		}
	})
}

// Small blocks sit in slot 0 and the parity slots: on the dev cluster no store may be left out of either.
func TestStaticDevCluster(t *testing.T) {
	all := stores(6)
	pgs, err := Static(all, 4, 2, 24)
	if err != nil {
		t.Fatal(err)
	}
	perSlot := make([]map[Target]int, 6)
	for j := range perSlot {
		perSlot[j] = map[Target]int{}
		for _, pg := range pgs {
			perSlot[j][pg.Slots[j].Target]++
		}
		limit := 3
		if j == 0 || j >= 4 {
			limit = 1
		}
		if d := spread(perSlot[j], all); d > limit {
			t.Errorf("slot %d is uneven: %v", j, perSlot[j])
		}
	}
}

// A lost store's load must fall on all others: with more stores than slots, every pair shares some group.
func TestStaticMixesStores(t *testing.T) {
	all := stores(12)
	pgs, err := Static(all, 4, 2, 128)
	if err != nil {
		t.Fatal(err)
	}
	pairs := map[[2]Target]bool{}
	for _, pg := range pgs {
		for _, a := range pg.Slots {
			for _, b := range pg.Slots {
				pairs[[2]Target{a.Target, b.Target}] = true
			}
		}
	}
	if len(pairs) != 12*12 {
		t.Fatalf("%d of %d pairs of stores share a group", len(pairs), 12*12)
	}
}

func TestStaticRefuses(t *testing.T) {
	twice := append(stores(6), stores(1)...)
	for name, f := range map[string]func() ([]PG, error){
		"too few stores": func() ([]PG, error) { return Static(stores(5), 4, 2, 1) },
		"bad profile":    func() ([]PG, error) { return Static(stores(40), 17, 2, 1) },
		"store twice":    func() ([]PG, error) { return Static(twice, 4, 2, 1) },
		"negative":       func() ([]PG, error) { return Static(stores(6), 4, 2, -1) },
	} {
		if _, err := f(); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
