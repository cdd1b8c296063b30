package placement

import (
	"cmp"
	"slices"
)

// spread adds n groups of k data shards over the stores of a tree that are Up. Each slot goes down the tree, to the child that has the fewest
// slots for its share, of those that the group has not used up. Among equals a turn decides that is another one in each round,
// as the permutations of copyset replication do. New groups are alike over all stores, whatever these have of older ones: those of a store
// that was added are brought to it by rebalance, and so all have alike of old data and of new.
func (p *planner) spread(k, n int, t *tree) {
	s := newSpreader(p, k, t)
	if s.up[0] < t.width {
		return
	}
	for range n {
		g := Group{ID: p.nextID, Epoch: 1, K: k, Members: make([]Member, t.width)}
		for slot, store := range s.assign(k, s.group()) {
			g.Members[slot].Store = p.stores[store].ID
		}
		p.append(g)
	}
}

// spreader is a tree with the loads that are counted while groups are made.
type spreader struct {
	*tree
	ids  []StoreState
	up   []int     // of each vertex: its domains with a store that is Up
	load []float64 // of each vertex: slots in it
	turn []int     // of each vertex: slots that it was given here
	need [][]int32 // of each vertex: children in which every group should have slots
	used [][]int32 // of each vertex: children in which the group has slots
	own  []int     // of each vertex: slots of the group in it
	q    *queue    // the other children by load, a heap for each parent
	// slot counts the slots of each position by store.
	slot [][]float64
}

func newSpreader(p *planner, k int, t *tree) *spreader {
	n := len(t.nodes)
	s := &spreader{tree: t, ids: p.stores, up: make([]int, n), load: make([]float64, n), turn: make([]int, n), need: make([][]int32, n),
		used: make([][]int32, n), own: make([]int, n), slot: make([][]float64, t.width)}
	for j := range s.slot {
		s.slot[j] = make([]float64, len(p.stores))
	}
	count, groups := make([]int, len(p.stores)), 0
	for i := range p.groups {
		if g := &p.groups[i]; g.K == k {
			groups++
			for j, m := range g.Members {
				if x := p.at(m.Store); x >= 0 {
					count[x]++
					s.slot[j][x]++
				}
			}
		}
	}
	home := make([]int32, n)
	for i := n - 1; i >= 0; i-- {
		v := &t.nodes[i]
		if v.store >= 0 {
			// What is not as it should be is rebalance's: a store counts as if that were done already, within one slot.
			alike := func(have, want float64) float64 { return min(max(have, want-1), want+1) }
			s.load[i] = alike(float64(count[v.store]), v.share*float64(groups))
			for j := range s.slot {
				s.slot[j][v.store] = alike(s.slot[j][v.store], v.share*float64(groups)/float64(t.width))
			}
			if p.stores[v.store].Condition == Up {
				s.up[i] = 1
			}
		}
		if v.level == t.level {
			s.up[i] = min(s.up[i], 1)
		}
		if v.parent >= 0 {
			home[i] = v.parent
			s.load[v.parent] += s.load[i]
			s.up[v.parent] += s.up[i]
		}
	}
	s.q = newQueue(n, n, home)
	for i := 1; i < n; i++ {
		if s.up[i] > 0 {
			s.count(int32(i), 0)
			s.q.set(int32(i), s.q.key[i], s.q.turn[i])
			if t.nodes[i].low > 0 {
				s.need[home[i]] = append(s.need[home[i]], int32(i))
			}
		}
	}
	return s
}

// count counts slots in a vertex, and makes its key.
func (s *spreader) count(v int32, slots int) {
	s.load[v] += float64(slots)
	s.turn[v] += slots
	s.q.key[v] = (s.load[v] + 0.5) / max(s.nodes[v].share, tiny)
	s.q.turn[v] = turn(uint32(v), s.turn[v])
}

// group chooses the stores of a group.
func (s *spreader) group() []int32 {
	out := make([]int32, 0, s.width)
	touched := []int32{0}
	for range s.width {
		v := int32(0)
		for s.nodes[v].level != s.level {
			kid := s.child(v)
			if s.own[kid] == 0 {
				s.q.remove(kid)
				s.used[v] = append(s.used[v], kid)
				touched = append(touched, kid)
			}
			s.own[kid]++
			s.count(kid, 1)
			v = kid
		}
		if s.nodes[v].store < 0 {
			// The domain is used once in a group, so its stores stay in their heap.
			v = s.q.first(v)
			s.count(v, 1)
			s.q.set(v, s.q.key[v], s.q.turn[v])
		}
		out = append(out, s.nodes[v].store)
	}
	for _, v := range touched {
		s.q.put(s.used[v])
		s.used[v], s.own[v] = s.used[v][:0], 0
	}
	return out
}

// child is the child of v that gets the next slot. There is one: v was chosen because it has a domain that the group does not use yet.
func (s *spreader) child(v int32) int32 {
	best := int32(-1)
	better := func(kid int32) {
		if s.own[kid] < s.up[kid] && (best < 0 || s.q.less(kid, best)) {
			best = kid
		}
	}
	for _, kid := range s.need[v] {
		if s.own[kid] < s.nodes[kid].low {
			better(kid)
		}
	}
	if best >= 0 {
		return best
	}
	if first := s.q.first(v); first >= 0 {
		better(first)
	}
	for _, kid := range s.used[v] {
		if s.own[kid] < s.nodes[kid].cap {
			better(kid)
		}
	}
	if best >= 0 {
		return best
	}
	// Domains that take no writes now leave others more than they should have.
	for _, kid := range s.used[v] {
		if s.own[kid] < s.up[kid] && (best < 0 || s.own[kid] < s.own[best]) {
			best = kid
		}
	}
	return best
}

// assign says which slot each store of a group has, so that all stores have alike of every position. The slots that hold most are
// given first: slot 0 and the parity, to the stores that have the fewest of them.
func (s *spreader) assign(k int, stores []int32) []int32 {
	left, out := slices.Clone(stores), make([]int32, s.width)
	give := func(slot int) {
		best := slices.MinFunc(left, func(a, b int32) int {
			return cmp.Compare((s.slot[slot][a]+0.5)/s.weight[a], (s.slot[slot][b]+0.5)/s.weight[b])
		})
		left = slices.DeleteFunc(left, func(x int32) bool { return x == best })
		s.slot[slot][best]++
		out[slot] = best
	}
	heavySlots := func(x int32) (n float64) {
		for j := range s.slot {
			if classOf(k, j) == heavy {
				n += s.slot[j][x]
			}
		}
		return n
	}
	slices.SortStableFunc(left, func(a, b int32) int {
		return cmp.Compare((heavySlots(a)+0.5)/s.weight[a], (heavySlots(b)+0.5)/s.weight[b])
	})
	rest := slices.Clone(left[1+s.width-k:])
	left = left[:1+s.width-k]
	give(0)
	for j := k; j < s.width; j++ {
		give(j)
	}
	left = rest
	for j := 1; j < k; j++ {
		give(j)
	}
	return out
}
