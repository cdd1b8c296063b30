package placement

import (
	"fmt"
	"slices"
)

// Report says how a pool stands. Margins count whole stores: with margin 1, one more
// store may be lost, whichever it is, and every block can still be read.
type Report struct {
	Groups   int `json:"groups"`   // of the full profile
	Writable int `json:"writable"` // of those, open and with all members up
	Fallback int `json:"fallback"` // with fewer data shards than the profile
	Closed   int `json:"closed"`   // of those, closed
	Filling  int `json:"filling"`  // slots that are being filled
	// Margin is how many further stores every group survives; negative if blocks of
	// some group cannot be read now.
	Margin int `json:"margin"`
	// AtRisk is the groups that have no more than the margin.
	AtRisk int `json:"at_margin"`
	// Writes is the profile that new blocks get now, "" if writers wait, and AfterNext the one
	// that they get if one more store is lost.
	Writes    string `json:"writes"`
	AfterNext string `json:"writes_after_next_loss"`
	// Losses is what losing one disk, node, rack or zone would cost, by level: the worst of each.
	Losses [levels]Loss `json:"losses"`
}

// Loss is what the pool would be without one domain of a level.
type Loss struct {
	Level Level  `json:"level"`
	Name  string `json:"name"` // the one whose loss costs most; of a disk the number of its store
	// Unreadable is how many groups have blocks that could not be read.
	Unreadable int    `json:"unreadable_groups"`
	Margin     int    `json:"margin"`
	Writes     string `json:"writes"` // profile of new blocks; "": writers would wait
}

// String says it in words.
func (l Loss) String() string {
	what := fmt.Sprintf("%s %s", l.Level, l.Name)
	if l.Level == Disk {
		what = "store " + l.Name
	} else if l.Name == "" {
		what = fmt.Sprintf("the one %s", l.Level)
	}
	s := "without " + what + ": "
	switch {
	case l.Unreadable > 0:
		s += fmt.Sprintf("blocks of %d groups could not be read", l.Unreadable)
	case l.Margin == 0:
		s += "everything can be read, and one more lost store would lose data"
	case l.Margin == 1:
		s += "everything can be read, and any one more store may be lost"
	default:
		s += fmt.Sprintf("everything can be read, and any %d more stores may be lost", l.Margin)
	}
	if l.Writes == "" {
		return s + "; writers would wait"
	}
	return s + "; new blocks would be " + l.Writes
}

// Assess computes the report of a pool.
func Assess(pool PoolState, stores []StoreState) Report {
	a := newAssessment(pool, stores)
	r := a.Report
	r.Writes = a.writes(r.Writable, a.upDomains())
	for l := Disk; l < levels; l++ {
		r.Losses[l] = a.worst(l)
	}
	r.AfterNext = r.Losses[Disk].Writes
	return r
}

// assessment is a planner that knows how many members of each group are missing.
type assessment struct {
	*planner
	Report
	missing []int8 // of each group
	plain   []bool // of each group: no slot is being filled
	usable  []bool // of each group: of the full profile, open and writable
}

func newAssessment(pool PoolState, stores []StoreState) *assessment {
	a := &assessment{planner: newPlanner(pool, stores)}
	a.Margin = pool.Profile.M
	a.missing, a.plain, a.usable = make([]int8, len(a.groups)), make([]bool, len(a.groups)), make([]bool, len(a.groups))
	for i := range a.groups {
		g := &a.groups[i]
		a.plain[i] = true
		for _, m := range g.Members {
			if m.Filling {
				a.Filling++
			}
			a.plain[i] = a.plain[i] && !m.Filling && m.Previous == 0
			if a.lacks(m, Disk, -1) {
				a.missing[i]++
			}
		}
		switch margin := pool.Profile.M - int(a.missing[i]); {
		case margin < a.Margin:
			a.Margin, a.AtRisk = margin, 1
		case margin == a.Margin:
			a.AtRisk++
		}
		if g.K < pool.Profile.K {
			a.Fallback++
			if g.Closed {
				a.Closed++
			}
			continue
		}
		a.Groups++
		if !g.Closed && a.writable(g) {
			a.usable[i] = true
			a.Writable++
		}
	}
	return a
}

// lacks reports whether shards of a slot cannot be read, if stores with a label (-1: none) are lost in addition. A slot that is
// being filled counts as missing unless its shards are where they were; those that were written since are at its store.
func (a *assessment) lacks(m Member, level Level, label int32) bool {
	lost := func(s int32) bool { return label >= 0 && s >= 0 && a.label[level][s] == label }
	gone := func(id uint32) bool {
		s := a.at(id)
		return s < 0 || !a.stores[s].Readable || lost(s)
	}
	if !m.Filling {
		return gone(m.Store) && (m.Previous == 0 || gone(m.Previous))
	}
	return m.Previous == 0 || gone(m.Previous) || lost(a.at(m.Store))
}

// cost is what the loss of one domain of a level takes away.
type cost struct {
	there      bool // it has stores that are there
	unreadable int  // groups that can be read now
	margin     int
	uses       int // groups to write to
	domains    int // failure domains with a store that is Up
}

// add counts a group of which so many members would be missing.
func (c *cost) add(m, missing int, use bool) {
	c.margin = min(c.margin, m-missing)
	if missing > m {
		c.unreadable++
	}
	if use {
		c.uses++
	}
}

// worst is the loss of the domain of a level that costs most: in this order groups that cannot be read, the margin, what is left for writes.
func (a *assessment) worst(level Level) Loss {
	costs := a.costs(level)
	unreadable := 0 // now
	for i := range a.groups {
		if int(a.missing[i]) > a.profile.M {
			unreadable++
		}
	}
	up := a.upDomains()
	rank := func(c *cost) [3]int {
		return [3]int{c.unreadable, -c.margin, -a.writesK(a.Writable-c.uses, up-c.domains)}
	}
	worst := -1
	for i := range costs {
		if !costs[i].there {
			continue
		}
		if worst < 0 {
			worst = i
		} else if x, y := rank(&costs[i]), rank(&costs[worst]); slices.Compare(x[:], y[:]) > 0 {
			worst = i
		}
	}
	if worst < 0 {
		return Loss{Level: level, Unreadable: unreadable, Margin: a.Margin, Writes: a.writes(a.Writable, up)}
	}
	c := &costs[worst]
	loss := Loss{Level: level, Unreadable: unreadable + c.unreadable, Margin: c.margin, Writes: a.writes(a.Writable-c.uses, up-c.domains)}
	if level == Disk {
		loss.Name = fmt.Sprint(a.stores[worst].ID)
	} else {
		loss.Name = a.names[level][worst]
	}
	return loss
}

// costs are those of all domains of a level.
func (a *assessment) costs(level Level) []cost {
	n := len(a.stores)
	if level != Disk {
		n = len(a.names[level])
	}
	costs := make([]cost, n)
	upIn, gone := make([]int, a.domains()), make(map[[2]int32]int)
	for s := range a.stores {
		c := &costs[a.label[level][s]]
		c.margin = a.Margin
		c.there = c.there || a.stores[s].in() || a.stores[s].Readable
		if a.stores[s].Condition == Up {
			upIn[a.domain(int32(s))]++
		}
	}
	for s := range a.stores {
		if x := [2]int32{a.label[level][s], a.domain(int32(s))}; a.stores[s].Condition == Up {
			if gone[x]++; gone[x] == upIn[x[1]] {
				costs[x[0]].domains++
			}
		}
	}
	var in []int32 // labels of a group's stores
	for i := range a.groups {
		in = in[:0]
		if a.missing[i] == 0 && a.plain[i] {
			// Almost always: every member counts once.
			for _, m := range a.groups[i].Members {
				in = append(in, a.label[level][a.at(m.Store)])
			}
			for j, l := range in {
				n, first := 0, true
				for x, o := range in {
					if o == l {
						n++
						first = first && x >= j
					}
				}
				if first {
					costs[l].add(a.profile.M, n, a.usable[i])
				}
			}
			continue
		}
		for _, m := range a.groups[i].Members {
			for _, id := range [...]uint32{m.Store, m.Previous} {
				if s := a.at(id); s >= 0 && !slices.Contains(in, a.label[level][s]) {
					in = append(in, a.label[level][s])
				}
			}
		}
		for _, l := range in {
			c, missing, member := &costs[l], 0, false
			for _, m := range a.groups[i].Members {
				if a.lacks(m, level, l) {
					missing++
				}
				s := a.at(m.Store)
				member = member || s >= 0 && a.label[level][s] == l
			}
			before := c.unreadable
			c.add(a.profile.M, missing, a.usable[i] && member)
			if int(a.missing[i]) > a.profile.M {
				c.unreadable = before
			}
		}
	}
	return costs
}

// writes is the profile of new blocks with some groups of the full one to write to, and so many domains that take writes.
func (a *assessment) writes(full, domains int) string {
	k := a.writesK(full, domains)
	if k < 1 {
		return ""
	}
	return Profile{K: k, M: a.profile.M}.String()
}

func (a *assessment) writesK(full, domains int) int {
	if full > 0 {
		return a.profile.K
	}
	return max(0, min(a.profile.K, domains-a.profile.M))
}
