package placement

import (
	"cmp"
	"slices"
)

// maxGrowth bounds the groups that Plan makes for stores that have none.
const maxGrowth = 512

// labelled reports whether any store that takes writes shares a domain with others, or may.
func (p *planner) labelled() bool {
	return slices.ContainsFunc(p.up, func(s uint32) bool { return p.states[s].Domain != "" || p.states[s].Wider != "" })
}

// together reports whether two stores are in one failure domain.
func (p *planner) together(a, b uint32) bool {
	return a == b || p.states[a].Domain != "" && p.states[a].Domain == p.states[b].Domain
}

// taken reports whether a slot of g other than slot j is in the domain of store s.
func (p *planner) taken(g *Group, j int, s uint32) bool {
	for i, m := range g.Members {
		if i != j && (p.together(m.Store, s) || m.Previous != 0 && p.together(m.Previous, s)) {
			return true
		}
	}
	return false
}

// domains is how many failure domains have a store that takes writes.
func (p *planner) domains() int {
	n := 0
	seen := map[string]bool{}
	for _, s := range p.up {
		if d := p.states[s].Domain; d == "" {
			n++
		} else if !seen[d] {
			seen[d] = true
			n++
		}
	}
	return n
}

// grow makes groups of the full profile for stores that are in none.
func (p *planner) grow(perStore int) {
	if perStore < 1 || p.domains() < p.profile.Width() {
		return
	}
	has := map[uint32]bool{}
	for i := range p.groups {
		if g := &p.groups[i]; g.K == p.profile.K {
			for _, m := range g.Members {
				has[m.Store] = true
			}
		}
	}
	fresh := 0
	for _, s := range p.up {
		if !has[s] {
			fresh++
		}
	}
	p.spread(p.profile.K, min(perStore*fresh, maxGrowth))
}

// spread adds n groups of k data shards. Every slot goes to the store that is in no domain of the group's other slots and, in this
// order, is in the wider domain with the fewest of them, has the fewest slots of the role, of this very slot, and at all. So stores that have
// nothing come first, and all are equally full in the end.
func (p *planner) spread(k, n int) {
	width := k + p.profile.M
	if p.domains() < width {
		return
	}
	load := newLoad(width)
	for i := range p.groups {
		if g := &p.groups[i]; g.K == k {
			for j, m := range g.Members {
				load.add(k, j, m.Store)
			}
		}
	}
	for i := range n {
		g := Group{ID: p.nextID, Epoch: 1, K: k, Members: make([]Member, width)}
		p.nextID++
		for _, j := range slotOrder(k, width) {
			s := p.choose(&g, j, i, load)
			g.Members[j].Store = s
			load.add(k, j, s)
		}
		p.groups = append(p.groups, g)
	}
}

// slotOrder has the slots that hold most first: parity and slot 0, then the rest.
func slotOrder(k, width int) []int {
	var out []int
	for j := k; j < width; j++ {
		out = append(out, j)
	}
	for j := range k {
		out = append(out, j)
	}
	return out
}

// choose is the store for slot j of g; turn breaks ties, so that groups do not all pair the same stores. There is one: there are
// as many domains as slots, and each slot that is filled takes one.
func (p *planner) choose(g *Group, j, turn int, load *load) uint32 {
	wider := map[string]int{}
	for _, m := range g.Members {
		if m.Store != 0 {
			wider[p.states[m.Store].Wider]++
		}
	}
	best := uint32(0)
	for i := range p.up {
		s := p.up[(i+turn)%len(p.up)]
		if p.taken(g, j, s) {
			continue
		}
		if best == 0 || cmp.Or(
			cmp.Compare(wider[p.states[s].Wider], wider[p.states[best].Wider]),
			cmp.Compare(load.role(g.K, j)[s], load.role(g.K, j)[best]),
			cmp.Compare(load.slot[j][s], load.slot[j][best]),
			cmp.Compare(load.all[s], load.all[best])) < 0 {
			best = s
		}
	}
	return best
}

// load counts slots by store.
type load struct {
	data, parity, all map[uint32]int
	slot              []map[uint32]int
}

func newLoad(width int) *load {
	l := &load{data: map[uint32]int{}, parity: map[uint32]int{}, all: map[uint32]int{}, slot: make([]map[uint32]int, width)}
	for j := range l.slot {
		l.slot[j] = map[uint32]int{}
	}
	return l
}

func (l *load) role(k, j int) map[uint32]int {
	if j < k {
		return l.data
	}
	return l.parity
}

func (l *load) add(k, j int, s uint32) {
	l.role(k, j)[s]++
	l.slot[j][s]++
	l.all[s]++
}
