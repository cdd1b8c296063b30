package placement

import "math"

// Bounds of what rebalancing does at once.
const (
	// A pool has no more than minFilling slots that are being filled, or one for fillingShare stores, when more are moved for balance.
	minFilling   = 16
	fillingShare = 16
	// maxFillingPerStore slots of a store are being filled, when more are moved to it for balance.
	maxFillingPerStore = 8
)

// rebalance moves slots from stores that have too many for their weight to stores that have too few, until no move is of use.
// It takes only slots of groups in which nothing is amiss: every member is there and answers, and none is being filled. So a group has one
// slot at most that moves for balance, its shards stay where they were until the new store has them, and no redundancy is given for it. The
// group's slots stay in different domains, and as even over wider ones as they were, or should be.
//
// What a store that is Down has counts, so that its coming back moves nothing. Groups that are made in this plan hold nothing:
// their slots are not moved but changed.
func (p *planner) rebalance() {
	t := p.fullTree()
	if !t.fits() {
		return
	}
	r := &rebalancer{planner: p, tree: t, loads: p.loads(t), filling: make([]int, len(p.stores))}
	r.budget = max(minFilling, t.count/fillingShare)
	for i := range p.groups {
		for _, m := range p.groups[i].Members {
			if m.Filling {
				r.budget--
				if s := p.at(m.Store); s >= 0 {
					r.filling[s]++
				}
			}
		}
	}
	// A change of a new group may make another one possible, so it ends when a whole pass finds none.
	for r.budget > 0 && r.useful() {
		if !r.pass() {
			return
		}
	}
}

type rebalancer struct {
	*planner
	tree    *tree
	loads   *loads
	filling []int // of each store: slots of it that are being filled
	budget  int   // slots that may begin to be filled
}

// donor reports whether a store's slots may be moved, receiver whether it may be moved to.
func (r *rebalancer) donor(s int32) bool { return r.stores[s].in() && r.stores[s].Readable }
func (r *rebalancer) receiver(s int32) bool {
	return r.stores[s].Condition == Up && r.tree.leaf[s] >= 0
}

// useful reports whether any move would be of use, possible or not.
func (r *rebalancer) useful() bool {
	for c := range classes {
		most, least := math.Inf(-1), math.Inf(1)
		for i := range r.stores {
			s := int32(i)
			if r.donor(s) && r.loads.class[c][s] > 0 {
				most = max(most, r.loads.asDonor(s, c))
			}
			if r.receiver(s) {
				least = min(least, r.loads.asReceiver(s, c))
			}
		}
		if most > least {
			return true
		}
	}
	return false
}

// settled reports whether slots of group i may be moved.
func (r *rebalancer) settled(i int) bool {
	g := &r.groups[i]
	if g.K != r.profile.K || g.Closed {
		return false
	}
	for _, m := range g.Members {
		if s := r.at(m.Store); s < 0 || m.Filling || m.Previous != 0 || !r.donor(s) {
			return false
		}
	}
	return true
}

// place is one slot.
type place struct {
	group int32
	slot  uint8
}

// pass moves what can be moved, and reports whether there was anything. A store and class for which nothing is found is not asked
// for again: as the pass goes on, donors have less, receivers more, and fewer groups are settled.
func (r *rebalancer) pass() (moved bool) {
	n := len(r.stores)
	places := make([][]place, n)
	for i := range r.groups {
		if r.settled(i) {
			for j, m := range r.groups[i].Members {
				s := r.at(m.Store)
				places[s] = append(places[s], place{int32(i), uint8(j)})
			}
		}
	}
	inDomain := make([][]int32, r.domains())
	for s := range r.stores {
		if d := r.domain(int32(s)); len(places[s]) > 0 {
			inDomain[d] = append(inDomain[d], int32(s))
		}
	}
	// Of each class and domain: what a store of it has at least for which no other domain had a slot.
	var hopeless [classes][]float64
	home := make([]int32, n*classes)
	for i := range home {
		home[i] = int32(i % classes)
	}
	from, to := newQueue(n*classes, classes, home), newQueue(n*classes, 1, nil)
	rank := func(s int32) {
		for c := range classes {
			x := s*classes + int32(c)
			if len(places[s]) > 0 {
				from.set(x, -r.loads.asDonor(s, c), turn(r.stores[s].ID, r.loads.all[s]))
			}
			if to.has(x) {
				to.set(x, r.loads.asReceiver(s, c), turn(r.stores[s].ID, r.loads.all[s]))
			}
		}
	}
	for c := range hopeless {
		hopeless[c] = make([]float64, r.domains())
		for d := range hopeless[c] {
			hopeless[c][d] = math.Inf(1)
		}
	}
	for s := range int32(n) {
		for c := range int32(classes) {
			if r.receiver(s) {
				to.set(s*classes+c, 0, 0)
			}
		}
		rank(s)
	}
	for x := to.first(0); x >= 0; x = to.first(0) {
		b, c := x/classes, int(x%classes)
		need := r.loads.asReceiver(b, c)
		if first := from.first(int32(c)); first < 0 || -from.key[first] <= need {
			to.remove(x)
			continue
		}
		d := r.domain(b)
		if r.budget <= 0 {
			break
		}
		if r.filling[b] >= maxFillingPerStore {
			to.remove(x)
			continue
		}
		a, at := int32(-1), place{}
		if hopeless[c][d] <= need {
			for _, s := range inDomain[d] {
				if r.loads.asDonor(s, c) > need && (a < 0 || r.loads.asDonor(s, c) > r.loads.asDonor(a, c)) {
					if p, ok := r.find(places[s], s, b, c); ok {
						a, at = s, p
					}
				}
			}
		} else {
			var aside []int32
			for y := from.first(int32(c)); y >= 0 && -from.key[y] > need; y = from.first(int32(c)) {
				from.remove(y)
				aside = append(aside, y)
				if p, ok := r.find(places[y/classes], y/classes, b, c); ok {
					a, at = y/classes, p
					break
				}
			}
			from.put(aside)
			if a < 0 {
				hopeless[c][d] = min(hopeless[c][d], need)
			}
		}
		if a < 0 {
			to.remove(x)
			continue
		}
		moved = true
		r.move(at, a, b, c)
		rank(a)
		rank(b)
	}
	return moved
}

// find is a slot of class c that can move from a to b: of those that can, one of the position that b has the fewest of, compared to a.
func (r *rebalancer) find(places []place, a, b int32, c int) (best place, ok bool) {
	id, least := r.stores[a].ID, 0
	for _, p := range places {
		i, j := int(p.group), int(p.slot)
		g := &r.groups[i]
		if classOf(g.K, j) != c || g.Members[j].Store != id {
			continue
		}
		if gap := r.loads.slot[j][b] - r.loads.slot[j][a]; (!ok || gap < least) && r.unmoved(i) && r.free(g, j, b) && r.even(g, j, a, b) {
			best, ok, least = p, true, gap
		}
	}
	return best, ok
}

// unmoved reports whether a group that was settled at the begin of the pass still is.
func (r *rebalancer) unmoved(i int) bool {
	return r.orig[i] == nil || r.groups[i].Epoch == r.orig[i].Epoch
}

// even reports whether g is as even over wider domains, or as even as it should be, when slot j moves from a to b.
func (r *rebalancer) even(g *Group, j int, a, b int32) bool {
	for l := r.level + 1; l < levels; l++ {
		from, to := r.tree.path[l][a], r.tree.path[l][b]
		if from == to {
			continue
		}
		left, there := 0, r.slotsIn(r.tree, g, j, l, to)
		if from >= 0 {
			left = r.slotsIn(r.tree, g, j, l, from)
		}
		asItShould := there < r.tree.nodes[to].cap && (from < 0 || left >= r.tree.nodes[from].low)
		if !asItShould && there > left {
			return false
		}
	}
	return true
}

func (r *rebalancer) move(at place, a, b int32, c int) {
	i, j := int(at.group), int(at.slot)
	g := r.edit(i)
	r.loads.move(a, b, c, j)
	if r.orig[i] == nil {
		g.Members[j] = Member{Store: r.stores[b].ID}
		return
	}
	g.Members[j] = Member{Store: r.stores[b].ID, Previous: r.stores[a].ID, Filling: true}
	r.raise(i)
	r.budget--
	r.filling[b]++
}
