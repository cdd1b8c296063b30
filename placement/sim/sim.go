package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// Report is the outcome of a simulation.
type Report struct {
	Config  Config          `json:"config"`
	Level   placement.Level `json:"domain"`
	Why     string          `json:"domain_because,omitempty"`
	Nodes   int             `json:"nodes"`
	Racks   int             `json:"racks"`
	Zones   int             `json:"zones"`
	Groups  int             `json:"groups"`
	Sets    int             `json:"distinct_sets"`
	Scatter Scatter         `json:"scatter_width"`
	Balance Balance         `json:"balance"`
	Changes []Change        `json:"changes"`
	Repairs []Repair        `json:"repairs"`
	Loss    Loss            `json:"loss"`
	Seconds Seconds         `json:"seconds"`
}

// Scatter is with how many others a store shares groups.
type Scatter struct {
	Mean float64 `json:"mean"`
	Min  int     `json:"min"`
}

// Balance is how full stores are over the mean, by capacity.
type Balance struct {
	Max float64 `json:"max_over_mean"`
	Min float64 `json:"min_over_mean"`
	// MaxSmall is the same of slots 0 and parity, where most small data is.
	MaxSmall float64 `json:"max_over_mean_small_data"`
}

// Change is what a change of the cluster moves.
type Change struct {
	What    string  `json:"what"`
	Plans   int     `json:"plans"` // one after the other, each filled before the next
	Slots   int     `json:"slots_moved"`
	Left    int     `json:"slots_left"` // on stores that go, for there is no other that may have them
	Bytes   float64 `json:"bytes_moved"`
	Minimum float64 `json:"bytes_minimum"` // what stores that go have, or the share of those that come
	Ratio   float64 `json:"over_minimum"`
	Balance Balance `json:"balance_after"`
	Seconds float64 `json:"seconds_planning"`
}

// Repair is what the loss of something takes to be made good.
type Repair struct {
	What    string        `json:"what"`
	Slots   int           `json:"slots"`
	Bytes   float64       `json:"bytes_rebuilt"`
	Busiest float64       `json:"bytes_of_busiest_disk"` // that it reads and writes
	Disks   int           `json:"disks_at_work"`
	Time    time.Duration `json:"time_ns"` // with the time until it is given up
}

// Seconds are how long this took, of which planning the first groups, and looking for something to do where there is nothing.
type Seconds struct {
	All    float64 `json:"all"`
	First  float64 `json:"first_plan"`
	AtRest float64 `json:"plan_at_rest"`
}

// world is a cluster and its pool.
type world struct {
	stores []placement.StoreState
	pool   placement.PoolState
	old    uint32  // groups up to this id hold data
	bytes  float64 // of each of their slots
}

func (w *world) clone() *world {
	out := *w
	out.stores, out.pool.Groups = slices.Clone(w.stores), slices.Clone(w.pool.Groups)
	return &out
}

// apply makes the changes of a plan.
func (w *world) apply(changes []placement.Change) {
	at := make(map[uint32]int, len(changes))
	for i := range w.pool.Groups {
		at[w.pool.Groups[i].ID] = i
	}
	for _, c := range changes {
		if i, ok := at[c.Group.ID]; ok {
			w.pool.Groups[i] = c.Group
		} else {
			w.pool.Groups = append(w.pool.Groups, c.Group)
		}
	}
}

// fill ends all filling, and says how much was filled.
func (w *world) fill() (slots int, bytes float64) {
	for i := range w.pool.Groups {
		g := &w.pool.Groups[i]
		own := false
		for j := range g.Members {
			if !g.Members[j].Filling {
				continue
			}
			if !own {
				g.Members, own = slices.Clone(g.Members), true
			}
			slots++
			if g.ID <= w.old {
				bytes += w.bytes
			}
			g.Members[j].Filling, g.Members[j].Previous = false, 0
		}
	}
	return slots, bytes
}

// settle plans and fills until nothing is left to do.
func (w *world) settle(ctx context.Context) (c Change, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return c, vfs.Wrap("sim", err)
		}
		start := time.Now()
		changes := placement.Plan(w.pool, w.stores)
		c.Seconds += time.Since(start).Seconds()
		if len(changes) == 0 {
			return c, nil
		}
		c.Plans++
		w.apply(changes)
		slots, bytes := w.fill()
		c.Slots += slots
		c.Bytes += bytes
	}
}

// there reports whether a store is to hold data.
func there(s *placement.StoreState) bool {
	return s.Condition == placement.Up || s.Condition == placement.Down
}

// balance is how full stores are.
func (w *world) balance() Balance {
	all, small := make([]float64, len(w.stores)+1), make([]float64, len(w.stores)+1)
	for i := range w.pool.Groups {
		g := &w.pool.Groups[i]
		if g.ID > w.old || g.K != w.pool.Profile.K {
			continue
		}
		for j, m := range g.Members {
			all[m.Store]++
			if j == 0 || j >= g.K {
				small[m.Store]++
			}
		}
	}
	over := func(n []float64) (most, least float64) {
		sum, weight := 0.0, 0.0
		for i := range w.stores {
			if there(&w.stores[i]) {
				sum += n[w.stores[i].ID]
				weight += float64(w.stores[i].Weight)
			}
		}
		least = -1
		for i := range w.stores {
			if s := &w.stores[i]; there(s) && sum > 0 {
				x := n[s.ID] / float64(s.Weight) * weight / sum
				if most = max(most, x); least < 0 || x < least {
					least = x
				}
			}
		}
		return most, max(least, 0)
	}
	var b Balance
	b.Max, b.Min = over(all)
	b.MaxSmall, _ = over(small)
	return b
}

// Run simulates.
func Run(ctx context.Context, c Config) (*Report, error) {
	start := time.Now()
	if err := c.validate(); err != nil {
		return nil, err
	}
	r := &Report{Config: c}
	w := &world{stores: c.stores()}
	at := locations(w.stores)
	have := placement.Members(at)
	r.Nodes, r.Racks, r.Zones = have[placement.Node], have[placement.Rack], have[placement.Zone]
	var err error
	if c.Level == "" {
		r.Level, r.Why, err = placement.ChooseLevel(c.Profile, at)
	} else if r.Level, err = placement.ParseLevel(c.Level); err == nil {
		err = placement.CheckLevel(c.Profile, r.Level, at)
	}
	if err != nil {
		return nil, err
	}
	w.pool = placement.PoolState{Profile: c.Profile, Level: r.Level, PerStore: c.PerStore}
	w.old = 1<<32 - 1
	first, err := w.settle(ctx)
	if err != nil {
		return nil, err
	}
	r.Seconds.First = first.Seconds
	again := time.Now()
	placement.Plan(w.pool, w.stores)
	r.Seconds.AtRest = time.Since(again).Seconds()
	w.old = w.pool.Groups[len(w.pool.Groups)-1].ID
	total := 0.0
	for _, s := range w.stores {
		total += float64(s.Weight) * c.Fill
	}
	w.bytes = total / float64(len(w.pool.Groups)*c.Profile.Width())
	r.Groups = len(w.pool.Groups)
	r.Balance = w.balance()
	r.Sets, r.Scatter = w.sets()
	if r.Changes, err = changes(ctx, &c, w); err != nil {
		return nil, err
	}
	r.Repairs = repairs(&c, w)
	if r.Loss, err = loss(ctx, &c, w, r.Repairs); err != nil {
		return nil, err
	}
	r.Seconds.All = time.Since(start).Seconds()
	return r, nil
}

func locations(stores []placement.StoreState) []placement.Location {
	at := make([]placement.Location, len(stores))
	for i := range stores {
		at[i] = stores[i].Location
	}
	return at
}

// sets counts the distinct sets of stores, and with how many others each store is in some.
func (w *world) sets() (int, Scatter) {
	distinct := map[string]bool{}
	with := make([]map[uint32]bool, len(w.stores)+1)
	for i := range with {
		with[i] = map[uint32]bool{}
	}
	for _, g := range w.pool.Groups {
		ids := make([]uint32, len(g.Members))
		for j, m := range g.Members {
			ids[j] = m.Store
		}
		slices.Sort(ids)
		distinct[fmt.Sprint(ids)] = true
		for _, a := range ids {
			for _, b := range ids {
				if a != b {
					with[a][b] = true
				}
			}
		}
	}
	s := Scatter{Min: -1}
	for _, st := range w.stores {
		n := len(with[st.ID])
		s.Mean += float64(n) / float64(len(w.stores))
		if s.Min < 0 || n < s.Min {
			s.Min = n
		}
	}
	return len(distinct), s
}

// changes are what common changes move, each of the same cluster.
func changes(ctx context.Context, c *Config, w *world) ([]Change, error) {
	nodes := (c.Disks + c.DisksPerNode - 1) / c.DisksPerNode
	first := w.stores[0].Location
	add := func(n int, rack string) func(*world) {
		return func(w *world) {
			for i := range n {
				w.stores = c.node(w.stores, nodes+i, placement.Location{Rack: rack, Zone: first.Zone}, c.DisksPerNode)
			}
		}
	}
	out := func(readable bool, is func(s *placement.StoreState) bool) func(*world) {
		return func(w *world) {
			for i := range w.stores {
				if s := &w.stores[i]; is(s) {
					s.Condition, s.Readable = placement.Out, readable
				}
			}
		}
	}
	inNode := func(s *placement.StoreState) bool { return s.Node == first.Node }
	inRack := func(s *placement.StoreState) bool { return s.Rack == first.Rack }
	var list []Change
	try := func(what string, on *world, change func(*world)) (*world, error) {
		after := on.clone()
		change(after)
		old, slots, weight := 0.0, make([]float64, len(after.stores)+1), 0.0
		for i := range on.pool.Groups {
			for _, m := range on.pool.Groups[i].Members {
				slots[m.Store] += on.bytes
				old += on.bytes
			}
		}
		for i := range after.stores {
			if there(&after.stores[i]) {
				weight += float64(after.stores[i].Weight)
			}
		}
		minimum := 0.0
		for i := range after.stores {
			s := &after.stores[i]
			switch was := i < len(on.stores) && there(&on.stores[i]); {
			case was && !there(s):
				minimum += slots[s.ID]
			case !was && there(s):
				minimum += old * float64(s.Weight) / weight
			}
		}
		ch, err := after.settle(ctx)
		if err != nil {
			return nil, err
		}
		ch.What, ch.Minimum, ch.Balance = what, minimum, after.balance()
		for i := range after.pool.Groups {
			for _, m := range after.pool.Groups[i].Members {
				if !there(&after.stores[m.Store-1]) {
					ch.Left++
				}
			}
		}
		if minimum > 0 {
			ch.Ratio = ch.Bytes / minimum
		}
		list = append(list, ch)
		return after, nil
	}
	drained := w
	for _, s := range []struct {
		what   string
		again  bool // beginning with what the former one left
		change func(*world)
	}{
		{"a disk is lost", false, out(false, func(s *placement.StoreState) bool { return s.ID == 1 })},
		{"a node is lost", false, out(false, inNode)},
		{fmt.Sprintf("a node of %d disks is added", c.DisksPerNode), false, add(1, first.Rack)},
		{fmt.Sprintf("a rack of %d nodes is added", c.NodesPerRack), false, add(c.NodesPerRack, "new")},
		{"a rack is drained", false, out(true, inRack)},
		{"... and comes back", true, func(w *world) {
			for i := range w.stores {
				w.stores[i].Condition = placement.Up
			}
		}},
	} {
		on := w
		if s.again {
			on = drained
		}
		after, err := try(s.what, on, s.change)
		if err != nil {
			return nil, err
		}
		drained = after
	}
	return list, nil
}

// repairs are those of a disk and of a node.
func repairs(c *Config, w *world) []Repair {
	var out []Repair
	first := w.stores[0].Location
	for _, x := range []struct {
		what string
		is   func(s *placement.StoreState) bool
	}{
		{"a disk", func(s *placement.StoreState) bool { return s.ID == 1 }},
		{"a node", func(s *placement.StoreState) bool { return s.Node == first.Node }},
	} {
		after := w.clone()
		for i := range after.stores {
			if s := &after.stores[i]; x.is(s) {
				s.Condition, s.Readable = placement.Out, false
			}
		}
		r := Repair{What: x.what}
		work := make([]float64, len(w.stores)+1)
		gone := func(m placement.Member) bool { return m.Filling && x.is(&after.stores[m.Previous-1]) }
		for _, ch := range placement.Plan(after.pool, after.stores) {
			g := &ch.Group
			lost := 0
			for _, m := range g.Members {
				if gone(m) {
					lost++
				}
			}
			if ch.Expect == 0 || lost == 0 {
				continue
			}
			for _, m := range g.Members {
				if gone(m) {
					work[m.Store] += w.bytes
					r.Slots++
					r.Bytes += w.bytes
				} else {
					// The k shards of each lost one are read alike from all that are left.
					work[m.Store] += w.bytes * float64(lost) * float64(g.K) / float64(len(g.Members)-lost)
				}
			}
		}
		for _, b := range work {
			if r.Busiest = max(r.Busiest, b); b > 0 {
				r.Disks++
			}
		}
		r.Time = c.Detect + c.takes(r.Busiest)
		out = append(out, r)
	}
	return out
}
