package placement

// shut closes groups with a slot that could not leave a store which is Out: such a store takes what it is sent if it is there, and is to be
// sent nothing, least of all data that it may not hold. Groups of the full profile are opened again when it has left.
func (p *planner) shut() {
	for i := range p.groups {
		g := &p.groups[i]
		stuck := false
		for _, m := range g.Members {
			stuck = stuck || p.condition(m.Store) == Out
		}
		switch {
		case stuck:
			g.Closed = true
		case g.Closed && g.K == p.profile.K:
			g.Closed = false
		}
	}
}
