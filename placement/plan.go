package placement

import (
	"cmp"
	"maps"
	"slices"
)

// Bounds of what Plan makes.
const (
	// fallbackPerStore smaller groups for each store that takes writes spread new
	// blocks while the pool's profile does not fit.
	fallbackPerStore = 2
	// maxNewGroups bounds the groups of one Plan.
	maxNewGroups = 64
	// MaxFallback bounds the smaller groups of a pool. Each set of stores that takes writes
	// may need groups of its own; when there are this many, no more are made.
	MaxFallback = 512
)

// Condition is what a store is good for now. It comes from observation with
// hysteresis: Plan itself knows no time.
type Condition uint8

const (
	// Lost is a store that was replaced, or that nobody has heard of. Nothing may name it.
	Lost Condition = iota
	// Out is a store that is given up: it takes no new blocks, and what it has is moved elsewhere.
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
	// Domain is its failure domain: no two slots of a group are in one. "": a domain of its own. Wider is the
	// next wider one, over which the slots of a group are spread as evenly as that goes; "": unknown.
	Domain, Wider string
}

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
	Groups  []Group
	NextID  uint32 // above the id of every group that was ever made
	// PerStore is how many groups of the full profile are made for each store that takes writes and is in none; 0: none are made.
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
//   - A slot on a store that is Out moves to the store that is Up, is not in the
//     group yet, and has the fewest slots; without such a store it stays.
//
//   - While the pool has an open group of the full profile all members of which
//     are Up, open fallback groups are closed.
//
//   - While it has none, groups with the same m and the largest k that the Up stores allow are
//     opened, those that exist first, each at a new epoch, else new ones; open ones with a smaller k are closed. With fewer
//     than m+1 stores Up nothing is opened: writers wait.
//
//   - While the profile fits, stores that are Up and in no group of the full profile get groups (PoolState.PerStore): those
//     of a pool that has none yet, and those that were added.
//
// A group that cannot take writes now for the state of its members is not closed for that: who
// writes avoids it, and it is of use again when they are back.
func Plan(pool PoolState, stores []StoreState) []Change {
	p := newPlanner(pool, stores)
	p.move()
	p.grow(pool.PerStore)
	p.fallback()
	return p.changes()
}

// planner works on a copy of the pool.
type planner struct {
	profile Profile
	old     map[uint32]*Group
	groups  []Group // by id
	nextID  uint32
	states  map[uint32]StoreState
	up      []uint32 // ascending
}

func newPlanner(pool PoolState, stores []StoreState) *planner {
	p := &planner{profile: pool.Profile, old: make(map[uint32]*Group), states: make(map[uint32]StoreState), nextID: max(pool.NextID, 1)}
	for i := range pool.Groups {
		g := &pool.Groups[i]
		p.old[g.ID] = g
		p.groups = append(p.groups, g.clone())
		p.nextID = max(p.nextID, g.ID+1)
	}
	slices.SortFunc(p.groups, func(a, b Group) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range stores {
		p.states[s.ID] = s
		if s.Condition == Up {
			p.up = append(p.up, s.ID)
		}
	}
	slices.Sort(p.up)
	p.up = slices.Compact(p.up)
	return p
}

// writable reports whether every member of g takes writes.
func (p *planner) writable(g *Group) bool {
	for _, m := range g.Members {
		if p.states[m.Store].Condition != Up {
			return false
		}
	}
	return true
}

// move gives the slots of stores that are Out to stores that are Up.
func (p *planner) move() {
	if !slices.ContainsFunc(slices.Collect(maps.Values(p.states)), func(s StoreState) bool { return s.Condition == Out }) {
		return
	}
	var count [3]map[uint32]int // by role and store
	for r := range count {
		count[r] = make(map[uint32]int)
	}
	roleOf := func(g *Group, slot int) role {
		if slot < g.K {
			return data
		}
		return parity
	}
	for i := range p.groups {
		for j, m := range p.groups[i].Members {
			count[roleOf(&p.groups[i], j)][m.Store]++
		}
	}
	for i := range p.groups {
		g := &p.groups[i]
		for j := range g.Members {
			from := g.Members[j].Store
			if p.states[from].Condition != Out || p.between(g.Members[j]) {
				continue
			}
			r := roleOf(g, j)
			to := p.spare(g, j, count[r], count[data+parity-r])
			if to == 0 {
				continue
			}
			count[r][from]--
			count[r][to]++
			g.Members[j] = Member{Store: to, Previous: p.source(g.Members[j]), Filling: true}
			g.Epoch = p.old[g.ID].Epoch + 1
		}
	}
}

// spare is the store that takes slot j of g: of those that are Up, have nothing of g and are in no domain
// of its other slots, the one with the fewest slots of the role, then the fewest at all; 0 if there is none.
func (p *planner) spare(g *Group, j int, same, other map[uint32]int) uint32 {
	best := uint32(0)
	for _, s := range p.up {
		if slices.ContainsFunc(g.Members, func(m Member) bool { return m.Store == s || m.Previous == s }) {
			continue
		}
		if p.taken(g, j, s) {
			continue
		}
		if best == 0 || cmp.Or(cmp.Compare(same[s], same[best]), cmp.Compare(other[s], other[best])) < 0 {
			best = s
		}
	}
	return best
}

// between reports whether a slot's shards are at two stores that both serve them: newer ones at its
// store, older ones at the previous one. It moves on when it is filled, for a slot has one previous store.
func (p *planner) between(m Member) bool {
	return m.Filling && m.Previous != 0 && p.states[m.Store].Readable && p.states[m.Previous].Readable
}

// source is where the shards of a slot are read until its new store has them: its store or, if it
// does not answer and was itself being filled from one that does, that one.
func (p *planner) source(m Member) uint32 {
	if m.Previous != 0 && p.states[m.Previous].Readable && !p.states[m.Store].Readable {
		return m.Previous
	}
	return m.Store
}

// fallback opens and closes groups so that writers have some to write to.
func (p *planner) fallback() {
	best := p.profile.K
	if !slices.ContainsFunc(p.groups, func(g Group) bool { return g.K == best && !g.Closed && p.writable(&g) }) {
		best = min(best, p.domains()-p.profile.M)
		if best < 1 {
			return
		}
		fits := func(g *Group) bool { return g.K == best && p.writable(g) }
		found := false
		for i := range p.groups {
			if g := &p.groups[i]; fits(g) {
				if g.Closed {
					// Its members may have been fenced already for its removal, which never came.
					g.Closed, g.Epoch = false, p.old[g.ID].Epoch+1
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
	room := MaxFallback
	for i := range p.groups {
		if p.groups[i].K < p.profile.K {
			room--
		}
	}
	n := min(fallbackPerStore*len(p.up), maxNewGroups, room)
	if n < 1 {
		return false
	}
	if p.labelled() {
		p.spread(k, n)
		return true
	}
	targets := make([]Target, len(p.up))
	for i, s := range p.up {
		targets[i] = Target{Disk: s}
	}
	made, err := Static(targets, k, p.profile.M, n)
	if err != nil {
		return false // the pool's profile is not a valid one
	}
	for i := range made {
		g := Group{ID: p.nextID, Epoch: 1, K: k}
		p.nextID++
		for _, s := range made[i].Slots {
			g.Members = append(g.Members, Member{Store: s.Target.Disk})
		}
		p.groups = append(p.groups, g)
	}
	return true
}

// changes is what differs from the pool as it was, by group id.
func (p *planner) changes() []Change {
	var out []Change
	for _, g := range p.groups {
		old := p.old[g.ID]
		switch {
		case old == nil:
			out = append(out, Change{Group: g})
		case old.Epoch != g.Epoch || old.Closed != g.Closed:
			out = append(out, Change{Expect: old.Epoch, Group: g})
		}
	}
	return out
}
