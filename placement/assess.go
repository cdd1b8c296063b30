package placement

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
}

// Assess computes the report of a pool.
func Assess(pool PoolState, stores []StoreState) Report {
	p := newPlanner(pool, stores)
	r := Report{Margin: pool.Profile.M}
	for i := range p.groups {
		g := &p.groups[i]
		missing := 0
		for _, m := range g.Members {
			if m.Filling {
				r.Filling++
			}
			// A slot that is being filled counts as missing unless its shards are where they were.
			if readable := p.states[m.Store].Readable && !m.Filling; !readable && !(m.Previous != 0 && p.states[m.Previous].Readable) {
				missing++
			}
		}
		switch margin := pool.Profile.M - missing; {
		case margin < r.Margin:
			r.Margin, r.AtRisk = margin, 1
		case margin == r.Margin:
			r.AtRisk++
		}
		if g.K < pool.Profile.K {
			r.Fallback++
			if g.Closed {
				r.Closed++
			}
			continue
		}
		r.Groups++
		if !g.Closed && p.writable(g) {
			r.Writable++
		}
	}
	r.Writes = p.writes(r.Writable > 0, p.domains())
	// Whether another full group is left depends on which store is lost: the worst is told.
	survives := r.Writable > 0 && len(p.up) > 0
	for _, lost := range p.up {
		s := p.states[lost]
		p.states[lost] = StoreState{ID: lost, Condition: Down}
		any := false
		for i := range p.groups {
			if g := &p.groups[i]; g.K == pool.Profile.K && !g.Closed && p.writable(g) {
				any = true
				break
			}
		}
		p.states[lost] = s
		survives = survives && any
	}
	r.AfterNext = p.writes(survives, p.domains()-1)
	return r
}

// writes is the profile of new blocks with n domains that take writes.
func (p *planner) writes(full bool, n int) string {
	k := p.profile.K
	if !full {
		k = min(k, n-p.profile.M)
	}
	if k < 1 {
		return ""
	}
	return Profile{K: k, M: p.profile.M}.String()
}
