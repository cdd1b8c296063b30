package placement

import (
	"cmp"
	"slices"
)

// Bounds of what Plan makes.
const (
	// fallbackPerStore smaller groups for each store that takes writes spread new
	// blocks while the pool's profile does not fit.
	fallbackPerStore = 2
	// maxNewGroups bounds the fallback groups of one Plan.
	maxNewGroups = 64
	// MaxFallback bounds the smaller groups of a pool. Each set of stores that takes writes
	// may need groups of its own; when there are this many, no more are made.
	MaxFallback = 512
	// MaxGroups bounds the groups of the full profile of a pool that Plan makes. The state machine takes 65,536 of all kinds.
	MaxGroups = 1<<16 - 2*MaxFallback
)

// Condition is what a store is good for now. It comes from observation with
// hysteresis: Plan itself knows no time.
type Condition uint8

const (
	// Lost is a store that was replaced, or that nobody has heard of. Nothing may name it.
	Lost Condition = iota
	// Out is a store that is given up, or may not hold data of the pool: it takes no new blocks, and what it has is moved elsewhere.
	Out
	// Down is a store that takes no writes now and may come back.
	Down
	// Up is a store that takes writes.
	Up
)

func (c Condition) String() string {
	return [...]string{"lost", "out", "down", "up"}[min(c, Up)]
}

// StoreState is one store as Plan sees it.
type StoreState struct {
	ID        uint32
	Condition Condition
	Readable  bool // it answers reads
	Missing   bool // it does not, but for so short that it may be back: what it has is not taken for gone
	Location
	Weight uint64 // its share of data is in proportion to it: its capacity in bytes; 0: unknown, the mean of the others
}

// in reports whether a store is to have its share: it is there, or will be.
func (s *StoreState) in() bool { return s.Condition == Up || s.Condition == Down }

// Member is one slot of a Group: ids of stores.
type Member struct {
	Store    uint32
	Previous uint32 // 0: none
	Filling  bool
}

// Group is a placement group as the cluster map records it. A group whose K is
// smaller than its pool's is a fallback group.
type Group struct {
	ID, Epoch uint32
	K         int
	Closed    bool // takes no new blocks
	Members   []Member
}

func (g *Group) clone() Group {
	c := *g
	c.Members = slices.Clone(g.Members)
	return c
}

// PoolState is a pool as the cluster map records it.
type PoolState struct {
	Profile Profile
	Level   Level // no two slots of a group are in one domain of it
	Groups  []Group
	NextID  uint32 // above the id of every group that was ever made
	// PerStore is how many groups of the full profile there are to be for each store that may hold data; 0: none are made.
	PerStore int
}

// Change is one change of a pool's groups: a new group if Expect is 0, else the
// new content of the group that has epoch Expect.
type Change struct {
	Expect uint32
	Group  Group
}

// Plan says which changes a pool needs, given what its stores are good for. It is a
// function of its arguments, and the plan of a pool to which its plan was applied is empty.
//
//   - A slot on a store that is Out moves to a store that is Up and in no domain of the group's other slots: of those where the
//     group has no more slots in one zone, rack or node than it should, the one with the fewest for its weight. Without such a
//     store it goes back where it was moving from, if it is on a store that does not answer, or it stays.
//
//   - While the profile fits, groups are made until there are PoolState.PerStore for each store that is Up or Down.
//
//   - Slots move from stores that have too many for their weight to stores that have too few, see rebalance.
//
//   - While the pool has an open group of the full profile all members of which
//     are Up, open fallback groups are closed.
//
//   - While it has none, groups with the same m and the largest k that the Up stores allow are
//     opened, those that exist first, each at a new epoch, else new ones; open ones with a smaller k are closed. With fewer
//     than m+1 stores Up nothing is opened: writers wait.
//
// A group that cannot take writes now for the state of its members is not closed for that: who
// writes avoids it, and it is of use again when they are back. One is that has a slot which could not leave a store that is Out, see shut.
func Plan(pool PoolState, stores []StoreState) []Change {
	p := newPlanner(pool, stores)
	p.move()
	p.grow(pool.PerStore)
	p.shut()
	p.rebalance()
	had := len(p.groups)
	p.fallback()
	if len(p.groups) > had && p.groups[had].K == p.profile.K {
		p.rebalance() // the new ones count
	}
	return p.changes()
}

// planner works on a copy of the pool, made group by group as they change.
type planner struct {
	profile Profile
	groups  []Group  // by id
	orig    []*Group // of each, as it was; nil: it is new
	edited  []bool   // of each, whether its members are a copy
	nextID  uint32

	stores []StoreState // by id
	*topology
	dense []int32 // by id: the index of a store plus 1
	full  *tree   // for groups of the full profile, of the stores that are Up or Down; see fullTree
}

func newPlanner(pool PoolState, stores []StoreState) *planner {
	p := &planner{profile: pool.Profile, nextID: max(pool.NextID, 1)}
	p.groups = slices.Clone(pool.Groups)
	byID := func(a, b Group) int { return cmp.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(p.groups, byID) {
		slices.SortFunc(p.groups, byID)
	}
	p.orig, p.edited = make([]*Group, len(p.groups)), make([]bool, len(p.groups))
	before := slices.Clone(p.groups)
	for i := range p.groups {
		p.orig[i] = &before[i]
		p.nextID = max(p.nextID, p.groups[i].ID+1)
	}
	p.stores = sortStores(stores)
	last := uint32(0)
	if n := len(p.stores); n > 0 {
		last = p.stores[n-1].ID
	}
	if int(last) < 64*len(p.stores)+1<<12 {
		p.dense = make([]int32, last+1)
		for i := range p.stores {
			p.dense[p.stores[i].ID] = int32(i) + 1
		}
	}
	p.topology = newTopology(pool.Level, p.stores)
	return p
}

// at is the index of a store, -1 if it is not known.
func (p *planner) at(id uint32) int32 {
	if p.dense != nil {
		if int(id) < len(p.dense) {
			return p.dense[id] - 1
		}
		return -1
	}
	i, ok := slices.BinarySearchFunc(p.stores, id, func(s StoreState, id uint32) int { return cmp.Compare(s.ID, id) })
	if !ok {
		return -1
	}
	return int32(i)
}

// condition is that of a store, Lost if it is not known.
func (p *planner) condition(id uint32) Condition {
	if i := p.at(id); i >= 0 {
		return p.stores[i].Condition
	}
	return Lost
}

func (p *planner) readable(id uint32) bool {
	i := p.at(id)
	return i >= 0 && p.stores[i].Readable
}

// fullTree is the tree by which groups of the full profile are spread.
func (p *planner) fullTree() *tree {
	if p.full == nil {
		p.full = newTree(p.topology, p.stores, p.profile.Width(), func(i int) bool { return p.stores[i].in() })
	}
	return p.full
}

// edit is group i, to be changed.
func (p *planner) edit(i int) *Group {
	g := &p.groups[i]
	if !p.edited[i] {
		g.Members, p.edited[i] = slices.Clone(g.Members), true
	}
	return g
}

// append adds a group.
func (p *planner) append(g Group) {
	p.groups, p.orig, p.edited = append(p.groups, g), append(p.orig, nil), append(p.edited, true)
	p.nextID = g.ID + 1
}

// raise gives an existing group the epoch after the one it had.
func (p *planner) raise(i int) { p.groups[i].Epoch = p.orig[i].Epoch + 1 }

// writable reports whether every member of g takes writes.
func (p *planner) writable(g *Group) bool {
	for _, m := range g.Members {
		if p.condition(m.Store) != Up {
			return false
		}
	}
	return true
}

// together reports whether two stores are in one failure domain.
func (p *planner) together(a uint32, b int32) bool {
	i := p.at(a)
	return i >= 0 && p.domain(i) == p.domain(b)
}

// free reports whether slot j of g may be in store s: the group has nothing in it, and no other slot in its domain.
func (p *planner) free(g *Group, j int, s int32) bool { return p.roomFor(g, j, s, false) }

// roomFor is free; with lost, what other slots are moved away from does not take up its domain. That is for a slot whose shards are nowhere: it
// would have to wait for those moves, which end when all members of the group answer, that is, never before it has a new store.
func (p *planner) roomFor(g *Group, j int, s int32, lost bool) bool {
	id := p.stores[s].ID
	for i, m := range g.Members {
		if m.Store == id || m.Previous == id {
			return false
		}
		if i != j && (p.together(m.Store, s) || !lost && m.Previous != 0 && p.together(m.Previous, s)) {
			return false
		}
	}
	return true
}

// slotsIn counts the slots of g, besides slot j, that are in a vertex of some level.
func (p *planner) slotsIn(t *tree, g *Group, j int, l Level, vertex int32) (n int) {
	for i, m := range g.Members {
		if s := p.at(m.Store); i != j && s >= 0 && t.path[l][s] == vertex {
			n++
		}
	}
	return n
}

// uneven is how far g would be from what zones, racks and nodes should have of it if slot j were in s: by how many slots one would have too
// many, and whether another would be left with too few. The widest counts most.
func (p *planner) uneven(t *tree, g *Group, j int, s int32) (n int) {
	for l := Zone; l > p.level; l-- {
		n *= MaxData + MaxParity
		v := t.path[l][s]
		if v < 0 {
			continue
		}
		here := p.slotsIn(t, g, j, l, v)
		n += max(0, here+1-t.nodes[v].cap)
		if here < t.nodes[v].low {
			continue
		}
		for _, u := range t.must[l] {
			if u != v && p.slotsIn(t, g, j, l, u) < t.nodes[u].low {
				n++
				break
			}
		}
	}
	return n
}

// move gives the slots of stores that are Out to stores that are Up.
func (p *planner) move() {
	if !slices.ContainsFunc(p.stores, func(s StoreState) bool { return s.Condition == Out }) {
		return
	}
	var l *loads
	var up [classes]*queue
	for i := range p.groups {
		for j, m := range p.groups[i].Members {
			if p.condition(m.Store) != Out || p.between(m) {
				continue
			}
			if l == nil {
				l = p.loads(p.fullTree())
				for c := range up {
					up[c] = newQueue(len(p.stores), 1, nil)
					for s := range p.stores {
						if p.stores[s].Condition == Up {
							up[c].set(int32(s), l.asReceiver(int32(s), c), turn(p.stores[s].ID, 0))
						}
					}
				}
			}
			c := classOf(p.groups[i].K, j)
			to := p.spare(up[c], &p.groups[i], j, false)
			if to < 0 && !p.readable(m.Store) && (m.Previous == 0 || !p.readable(m.Previous)) {
				to = p.spare(up[c], &p.groups[i], j, true)
			}
			from := p.source(m)
			if to < 0 && p.mayReturn(&p.groups[i], j) {
				to, from = p.at(m.Previous), m.Store
			}
			if to < 0 {
				continue
			}
			l.move(-1, to, c, j)
			for c := range up {
				up[c].set(to, l.asReceiver(to, c), turn(p.stores[to].ID, l.all[to]))
			}
			g := p.edit(i)
			g.Members[j] = Member{Store: p.stores[to].ID, Previous: from, Filling: true}
			p.raise(i)
		}
	}
}

// mayReturn reports whether slot j of g, whose store does not answer before it was filled, can be where it was before. What was
// written since then is rebuilt there.
func (p *planner) mayReturn(g *Group, j int) bool {
	m := g.Members[j]
	if !m.Filling || m.Previous == 0 || p.condition(m.Previous) != Up || p.readable(m.Store) {
		return false
	}
	s := p.at(m.Previous)
	for i, o := range g.Members {
		if i != j && (o.Store == m.Previous || o.Previous == m.Previous || p.together(o.Store, s) || o.Previous != 0 && p.together(o.Previous, s)) {
			return false
		}
	}
	return true
}

// spare is the store that takes slot j of g, -1 if there is none.
func (p *planner) spare(up *queue, g *Group, j int, lost bool) int32 {
	best, least := int32(-1), 0
	var aside []int32
	for s := up.first(0); s >= 0; s = up.first(0) {
		up.remove(s)
		aside = append(aside, s)
		if !p.roomFor(g, j, s, lost) {
			continue
		}
		if u := p.uneven(p.fullTree(), g, j, s); best < 0 || u < least {
			best, least = s, u
		}
		if least == 0 {
			break
		}
	}
	up.put(aside)
	return best
}

// between reports whether a slot's shards are at two stores that both serve them, or will soon again: newer ones at its
// store, older ones at the previous one. It moves on when it is filled, for a slot has one previous store: the other one's shards would be in no map
// any more, and be missing though all are counted as there.
func (p *planner) between(m Member) bool {
	if !m.Filling || m.Previous == 0 {
		return false
	}
	return p.missing(m.Previous) || p.readable(m.Previous) && (p.readable(m.Store) || p.missing(m.Store))
}

func (p *planner) missing(id uint32) bool {
	i := p.at(id)
	return i >= 0 && p.stores[i].Missing
}

// source is where the shards of a slot are read until its new store has them: its store or, if it
// does not answer and was itself being filled from one that does, that one.
func (p *planner) source(m Member) uint32 {
	if m.Previous != 0 && p.readable(m.Previous) && !p.readable(m.Store) {
		return m.Previous
	}
	return m.Store
}

// upDomains is how many failure domains have a store that takes writes.
func (p *planner) upDomains() int {
	n, seen := 0, make([]bool, p.domains())
	for s := range p.stores {
		if d := p.domain(int32(s)); p.stores[s].Condition == Up && !seen[d] {
			seen[d] = true
			n++
		}
	}
	return n
}

// grow makes groups of the full profile.
func (p *planner) grow(perStore int) {
	if perStore < 1 {
		return
	}
	have, in := 0, 0
	for i := range p.groups {
		if p.groups[i].K == p.profile.K {
			have++
		}
	}
	for s := range p.stores {
		if p.stores[s].in() {
			in++
		}
	}
	if n := min(perStore*in, MaxGroups) - have; n > 0 && p.upDomains() >= p.profile.Width() {
		p.spread(p.profile.K, n, p.fullTree())
	}
}

// fallback opens and closes groups so that writers have some to write to. Where every group of the full profile has a member that takes no
// writes, and there are enough other stores, these are such groups too.
func (p *planner) fallback() {
	best := p.profile.K
	if !slices.ContainsFunc(p.groups, func(g Group) bool { return g.K == best && !g.Closed && p.writable(&g) }) {
		best = min(best, p.upDomains()-p.profile.M)
		if best < 1 {
			return
		}
		fits := func(g *Group) bool { return g.K == best && p.writable(g) }
		found := false
		for i := range p.groups {
			if g := &p.groups[i]; fits(g) {
				if g.Closed {
					// Its members may have been fenced already for its removal, which never came.
					g.Closed = false
					p.raise(i)
				}
				found = true
			}
		}
		if !found && !p.make(best) {
			return
		}
	}
	for i := range p.groups {
		if g := &p.groups[i]; g.K < best {
			g.Closed = true
		}
	}
}

// make adds groups of k data shards over all stores that are Up; false if there are too many already.
func (p *planner) make(k int) bool {
	room, up := MaxFallback, 0
	if k == p.profile.K {
		room = MaxGroups + MaxFallback
	}
	for i := range p.groups {
		if (p.groups[i].K == p.profile.K) == (k == p.profile.K) {
			room--
		}
	}
	for s := range p.stores {
		if p.stores[s].Condition == Up {
			up++
		}
	}
	n := min(fallbackPerStore*up, maxNewGroups, room)
	if n < 1 {
		return false
	}
	p.spread(k, n, newTree(p.topology, p.stores, k+p.profile.M, func(i int) bool { return p.stores[i].Condition == Up }))
	return true
}

// changes is what differs from the pool as it was, by group id.
func (p *planner) changes() []Change {
	var out []Change
	for i := range p.groups {
		g, old := &p.groups[i], p.orig[i]
		switch {
		case old == nil:
			out = append(out, Change{Group: *g})
		case old.Epoch != g.Epoch || old.Closed != g.Closed:
			c := g.clone()
			out = append(out, Change{Expect: old.Epoch, Group: c})
		}
	}
	return out
}
