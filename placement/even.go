package placement

import (
	"cmp"
	"slices"
)

// evenScan bounds the pairs of a slot and a store that one plan looks at to make groups more even: what it does not come to is the next plan's.
const evenScan = 1 << 22

// evenOut moves slots out of racks and zones in which a group has more of them than it should, to where it has fewer, whatever the loads of the
// stores: a rack that appears after the groups were made would else get its share of slots, and not of every group. It is bounded as the moves
// for balance are, and takes a group's slots one at a time.
//
// Every such move lowers by one how many slots are too many somewhere, over all groups, and no move for balance raises that (even). So these
// moves come to an end, and moves for balance after them.
func (r *rebalancer) evenOut() {
	if r.level+1 >= levels {
		return
	}
	var receivers []int32 // the least loaded first
	scanned := 0
	for i := range r.groups {
		if r.budget <= 0 || scanned > evenScan {
			return
		}
		g := &r.groups[i]
		if !r.settled(i) || !r.unmoved(i) {
			continue
		}
		slots := r.crowded(g)
		if len(slots) == 0 {
			continue
		}
		if receivers == nil {
			if receivers = r.receivers(); len(receivers) == 0 {
				return
			}
		}
		for _, j := range slots {
			a, c := r.at(g.Members[j].Store), classOf(g.K, j)
			at := slices.IndexFunc(receivers, func(b int32) bool {
				scanned++
				return r.filling[b] < maxFillingPerStore && r.free(g, j, b) && r.evener(g, j, a, b)
			})
			if at < 0 {
				continue
			}
			b := receivers[at]
			r.move(place{int32(i), uint8(j)}, a, b, c)
			// It has more now: those behind it may have less.
			for ; at+1 < len(receivers) && r.lighter(receivers[at+1], b) < 0; at++ {
				receivers[at], receivers[at+1] = receivers[at+1], b
			}
			break
		}
	}
}

// receivers are the stores that can be moved to, the least loaded first.
func (r *rebalancer) receivers() (out []int32) {
	for s := range r.stores {
		if r.receiver(int32(s)) {
			out = append(out, int32(s))
		}
	}
	slices.SortStableFunc(out, r.lighter)
	return out
}

// lighter compares what stores have for their weight.
func (r *rebalancer) lighter(a, b int32) int {
	return cmp.Compare((float64(r.loads.all[a])+0.5)/r.loads.weightOf(a), (float64(r.loads.all[b])+0.5)/r.loads.weightOf(b))
}

// crowded are the slots of g in domains above the pool's level that have more of it than they should, those on the fullest stores first.
func (r *rebalancer) crowded(g *Group) (slots []int) {
	var at [MaxData + MaxParity]int32
	for j, m := range g.Members {
		at[j] = r.at(m.Store)
	}
	for l := r.level + 1; l < levels; l++ {
		path := r.tree.path[l]
		for j := range g.Members {
			v, n := path[at[j]], 0
			if v < 0 {
				continue
			}
			for i := range g.Members {
				if path[at[i]] == v {
					n++
				}
			}
			if n > r.tree.nodes[v].cap && !slices.Contains(slots, j) {
				slots = append(slots, j)
			}
		}
	}
	if len(slots) > 1 {
		slices.SortStableFunc(slots, func(x, y int) int { return r.lighter(at[y], at[x]) })
	}
	return slots
}

// evener reports whether slot j of g leaves a domain that has too many for one that has room, and no other level gets worse by that.
func (r *rebalancer) evener(g *Group, j int, a, b int32) bool {
	better := false
	for l := r.level + 1; l < levels; l++ {
		from, to := r.tree.path[l][a], r.tree.path[l][b]
		if from == to {
			continue
		}
		if to < 0 || r.slotsIn(r.tree, g, j, l, to) >= r.tree.nodes[to].cap {
			return false
		}
		better = better || from >= 0 && r.slotsIn(r.tree, g, j, l, from)+1 > r.tree.nodes[from].cap
	}
	return better
}
