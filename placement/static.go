package placement

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"github.com/rackfs/rackfs/vfs"
)

// Static lays n placement groups of profile k+m over stores, each of which is
// a failure domain of its own. IDs count from 1, epochs are 1. Over the
// groups every store holds the same number of data slots and of parity
// slots, within one, and slot 0, which holds every small block, is spread nearly
// alike. The result depends on the arguments only.
func Static(stores []Target, k, m, n int) ([]PG, error) {
	p := Profile{K: k, M: m}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if len(stores) < k+m {
		return nil, vfs.Errorf(vfs.KindInvalid, "placement.static",
			"profile %v needs %d block stores, there are %d; add stores or choose a smaller profile", p, k+m, len(stores))
	}
	seen := make(map[Target]bool, len(stores))
	for _, t := range stores {
		if seen[t] {
			return nil, vfs.Errorf(vfs.KindInvalid, "placement.static", "store %v is listed twice", t)
		}
		seen[t] = true
	}
	if n < 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, "placement.static", "%d placement groups", n)
	}

	a := newAssignment(len(stores), k, m, n)
	for i := range n {
		a.fill(i)
	}
	a.level()
	pgs := make([]PG, n)
	taken := make([][]int, k+m) // taken[j][s]: groups in which store s has slot j
	for j := range taken {
		taken[j] = make([]int, len(stores))
	}
	for i := range n {
		pg := PG{ID: uint32(i + 1), Epoch: 1, K: k, M: m, Slots: make([]Slot, 0, k+m)}
		for _, s := range a.order(i, data, taken[:k]) {
			pg.Slots = append(pg.Slots, Slot{Target: stores[s]})
		}
		for _, s := range a.order(i, parity, taken[k:]) {
			pg.Slots = append(pg.Slots, Slot{Target: stores[s]})
		}
		pgs[i] = pg
	}
	return pgs, nil
}

type role uint8

const (
	none role = iota
	data
	parity
)

// assignment says which role each store has in each group.
type assignment struct {
	k, m  int
	roles [][]role // [group][store]
	count [3][]int // [role][store]: groups in which the store has the role
}

func newAssignment(stores, k, m, n int) *assignment {
	a := &assignment{k: k, m: m, roles: make([][]role, n)}
	for i := range a.roles {
		a.roles[i] = make([]role, stores)
	}
	for r := range a.count {
		a.count[r] = make([]int, stores)
	}
	return a
}

// fill gives group i its stores: those with the fewest slots of a role so far.
// Ties go to the store that is next in a rotation, so that the groups do not
// all pair the same stores and a lost store's load spreads over many.
func (a *assignment) fill(i int) {
	n := len(a.roles[i])
	pick := func(r role, want int) {
		cand := make([]int, 0, n)
		for j := range n {
			// The step between candidates changes from round to round.
			if s := (i*(i/n+1) + j*stride(n, i/n)) % n; a.roles[i][s] == none {
				cand = append(cand, s)
			}
		}
		other := data + parity - r
		slices.SortStableFunc(cand, func(x, y int) int {
			return cmp.Or(cmp.Compare(a.count[r][x], a.count[r][y]), cmp.Compare(a.count[other][y], a.count[other][x]))
		})
		for _, s := range cand[:want] {
			a.roles[i][s] = r
			a.count[r][s]++
		}
	}
	pick(parity, a.m)
	pick(data, a.k)
}

// stride is the r-th number, counted cyclically, that has no divisor in common with n.
func stride(n, r int) int {
	var coprime []int
	for x := 1; x <= n; x++ {
		if gcd(x, n) == 1 {
			coprime = append(coprime, x)
		}
	}
	return coprime[r%len(coprime)]
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// level exchanges the roles of two stores within a group as long as that makes
// the counts more even. The sum of squares falls with each exchange, so that
// ends; where it ends early, an exchange that changes nothing opens the way to
// one that does, and a walk along such exchanges finds it. The walk is drawn
// from a fixed seed, so the result stays a function of the arguments.
func (a *assignment) level() {
	a.descend()
	rng := rand.New(rand.NewPCG(0x7261636b, 0x6673))
	for steps := 0; !a.even() && steps < maxWalk; steps++ {
		i, n := rng.IntN(len(a.roles)), len(a.roles[0])
		if u, v := rng.IntN(n), rng.IntN(n); a.gain(i, u, v) >= 0 {
			a.swap(i, u, v)
		}
	}
}

// maxWalk bounds level for arguments it cannot make even.
const maxWalk = 1 << 20

func (a *assignment) even() bool {
	for _, r := range []role{data, parity} {
		if slices.Max(a.count[r])-slices.Min(a.count[r]) > 1 {
			return false
		}
	}
	return true
}

func (a *assignment) descend() {
	for changed := true; changed; {
		changed = false
		for i, g := range a.roles {
			for u := range g {
				for v := range u {
					if a.gain(i, u, v) > 0 {
						a.swap(i, u, v)
						changed = true
					}
				}
			}
		}
	}
}

// gain is by how much the sum of squares of all counts falls if u and v exchange their roles in group i.
func (a *assignment) gain(i, u, v int) int {
	ru, rv := a.roles[i][u], a.roles[i][v]
	if ru == rv {
		return 0
	}
	g := 0
	move := func(r role, from, to int) {
		if r != none {
			g += 2 * (a.count[r][from] - a.count[r][to] - 1)
		}
	}
	move(ru, u, v)
	move(rv, v, u)
	return g
}

func (a *assignment) swap(i, u, v int) {
	ru, rv := a.roles[i][u], a.roles[i][v]
	a.roles[i][u], a.roles[i][v] = rv, ru
	a.count[ru][u]--
	a.count[ru][v]++
	a.count[rv][v]--
	a.count[rv][u]++
}

// order returns the stores that have role r in group i in slot order, each
// slot going to the store that has had it least, and counts them in taken.
func (a *assignment) order(i int, r role, taken [][]int) []int {
	var left, out []int
	for s, x := range a.roles[i] {
		if x == r {
			left = append(left, s)
		}
	}
	for j := range taken {
		best := 0
		for c := range left {
			if taken[j][left[c]] < taken[j][left[best]] {
				best = c
			}
		}
		s := left[best]
		left = slices.Delete(left, best, best+1)
		taken[j][s]++
		out = append(out, s)
	}
	return out
}
