package nodegroup

import "github.com/prometheus/client_golang/prometheus"

// collector makes metrics of what the leader's manager knows. Where it does not lead there are none, so that a sum over all nodes is right.
type collector struct {
	status func() *Status

	pools  []poolGauge
	stores *prometheus.Desc
}

type poolGauge struct {
	desc  *prometheus.Desc
	value func(*PoolStatus) int
}

// NewCollector makes metrics of a status, which is nil where nobody knows.
func NewCollector(status func() *Status) prometheus.Collector {
	c := &collector{status: status, stores: prometheus.NewDesc("rackfs_placement_stores", "Stores by what the leader thinks of them.", []string{"state"}, nil)}
	for _, g := range []struct {
		name, help string
		value      func(*PoolStatus) int
	}{
		{"margin", "How many more stores may be lost without losing data; negative: some data cannot be read.", func(p *PoolStatus) int { return p.Margin }},
		{"filling_slots", "Slots of placement groups that are being filled.", func(p *PoolStatus) int { return p.Filling }},
		{"fallback_groups", "Placement groups with fewer data shards than the profile.", func(p *PoolStatus) int { return p.Fallback }},
		{"writable_groups", "Placement groups of the full profile that take new blocks.", func(p *PoolStatus) int { return p.Writable }},
	} {
		c.pools = append(c.pools, poolGauge{prometheus.NewDesc("rackfs_placement_"+g.name, g.help, []string{"pool"}, nil), g.value})
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, g := range c.pools {
		out <- g.desc
	}
	out <- c.stores
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	st := c.status()
	if st == nil || !st.Leading {
		return
	}
	for i := range st.Pools {
		p := &st.Pools[i]
		for _, g := range c.pools {
			out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(g.value(p)), p.Name)
		}
	}
	count := map[State]int{}
	for _, s := range st.Stores {
		count[s.State]++
	}
	for s := Unknown; s <= Out; s++ {
		out <- prometheus.MustNewConstMetric(c.stores, prometheus.GaugeValue, float64(count[s]), s.String())
	}
}
