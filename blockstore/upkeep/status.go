package upkeep

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// damageTold is how many damaged blocks of a survey are told of one by one, damageKept of how many is remembered.
	damageTold = 100
	damageKept = 1000
	// groupsShown bounds the groups of a Status, the most interesting ones.
	groupsShown = 1000
)

// State is where a group's check stands.
type State string

// States of a group.
const (
	StateScanning   State = "scanning"
	StateRebuilding State = "rebuilding"
	StateClean      State = "clean"
	StateIncomplete State = "incomplete" // it will be tried again
)

// GroupStatus is the last check of one placement group.
type GroupStatus struct {
	PG      uint32 `json:"pg"`
	Slot    int    `json:"slot"`
	Epoch   uint32 `json:"epoch"`
	Filling bool   `json:"filling,omitempty"`
	State   State  `json:"state"`

	Scanned      uint64    `json:"scanned"` // blocks
	Missing      uint64    `json:"missing"`
	MissingBytes uint64    `json:"missing_bytes"`
	Pending      uint64    `json:"pending"`
	Damaged      uint64    `json:"damaged"`
	Rebuilt      uint64    `json:"rebuilt"` // since the process started
	RebuiltBytes uint64    `json:"rebuilt_bytes"`
	Absent       []string  `json:"absent,omitempty"` // members that did not answer
	Error        string    `json:"error,omitempty"`
	Checked      time.Time `json:"checked,omitzero"`
}

// surveyed takes over the result of a survey.
func (p *GroupStatus) surveyed(s *survey) {
	p.Scanned, p.Missing, p.MissingBytes, p.Pending, p.Damaged = s.scanned, s.missing, s.missingBytes, s.pending, s.damaged
	p.Absent, p.Error, p.Checked = s.absent, "", time.Now()
	switch {
	case s.err != nil:
		p.Error = s.err.Error()
	case !s.vouched && len(s.absent) == 0:
		p.Error = "no other member knows all blocks of the group: its first and all parity slots are being filled"
	}
}

// Damage is a block of which too few shards are left.
type Damage struct {
	PG     uint32 `json:"pg"`
	Block  uint64 `json:"block"`
	FS     uint32 `json:"fs"` // 0: not known
	Inode  uint64 `json:"inode"`
	Offset uint64 `json:"offset"`
	Error  string `json:"error"`
}

// RepairStatus is the repair under way, or the last one.
type RepairStatus struct {
	Running        bool      `json:"running"`
	Since          time.Time `json:"since,omitzero"`
	Bytes          uint64    `json:"bytes"` // to be rebuilt
	Done           uint64    `json:"done"`
	BytesPerSecond uint64    `json:"bytes_per_second"`
	ETASeconds     uint64    `json:"eta_seconds"`
}

// PassStatus is the last pass of the collector.
type PassStatus struct {
	Began   time.Time     `json:"began,omitzero"`
	Took    time.Duration `json:"took_ns"`
	Error   string        `json:"error,omitempty"`
	Deleted Collected     `json:"deleted,omitzero"`
}

// Status is the state of a store's background work.
type Status struct {
	Store        uint32         `json:"store"`
	MapVersion   uint64         `json:"map_version"`
	Groups       int            `json:"groups"` // that this store is a member of and has checked
	Clean        int            `json:"clean"`
	Filling      int            `json:"filling"`
	Missing      uint64         `json:"missing"`
	Pending      uint64         `json:"pending"`
	Damaged      uint64         `json:"damaged"`
	Rebuilt      uint64         `json:"rebuilt"`
	RebuiltBytes uint64         `json:"rebuilt_bytes"`
	Suspects     int            `json:"suspects"` // reported shards that wait for their check
	Repair       RepairStatus   `json:"repair"`
	Error        string         `json:"error,omitempty"` // why nothing is repaired
	Collect      PassStatus     `json:"collect"`
	Scrub        ScrubStatus    `json:"scrub"`
	Damages      []Damage       `json:"damages,omitempty"`
	Unclean      []*GroupStatus `json:"unclean,omitempty"` // groups that are not clean
}

// status is what Status is made from. Guarded by Keeper.mu.
type status struct {
	Repair  RepairStatus
	Error   string
	Collect PassStatus
	Scrub   ScrubStatus
	damages map[damageKey]Damage
}

type damageKey struct {
	pg    uint32
	block uint64
}

// Status is the state of the work now.
func (k *Keeper) Status() Status {
	m := k.clusterMap()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := Status{Store: k.o.ID, Repair: k.status.Repair, Error: k.status.Error, Collect: k.status.Collect, Scrub: k.status.Scrub}
	if m != nil {
		s.MapVersion = m.version
	}
	for _, g := range k.groups {
		s.Groups++
		s.Missing += g.Missing
		s.Pending += g.Pending
		s.Damaged += g.Damaged
		s.Rebuilt += g.Rebuilt
		s.RebuiltBytes += g.RebuiltBytes
		if g.Filling {
			s.Filling++
		}
		if g.State == StateClean {
			s.Clean++
		} else {
			c := *g
			s.Unclean = append(s.Unclean, &c)
		}
	}
	slices.SortFunc(s.Unclean, func(a, b *GroupStatus) int {
		return cmp.Or(cmp.Compare(b.Damaged, a.Damaged), cmp.Compare(b.Missing, a.Missing), cmp.Compare(a.PG, b.PG))
	})
	s.Unclean = s.Unclean[:min(len(s.Unclean), groupsShown)]
	s.Damages = slices.SortedFunc(maps.Values(k.status.damages), func(a, b Damage) int { return cmp.Or(cmp.Compare(a.PG, b.PG), cmp.Compare(a.Block, b.Block)) })
	s.Suspects = k.suspects.len()
	if r := &s.Repair; r.Running && r.Done > 0 {
		elapsed := time.Since(r.Since).Seconds()
		r.BytesPerSecond = uint64(float64(r.Done) / max(elapsed, 1e-3))
		r.ETASeconds = (max(r.Bytes, r.Done) - r.Done) / max(r.BytesPerSecond, 1)
	}
	return s
}

// StatusJSON implements server.Upkeep.
func (k *Keeper) StatusJSON() ([]byte, error) { return json.Marshal(k.Status()) }

// progress changes what is known of a group.
func (k *Keeper) progress(g *group, slot int, change func(*GroupStatus)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.groups[g.pg.Id]
	if p == nil {
		p = &GroupStatus{PG: g.pg.Id}
		k.groups[g.pg.Id] = p
	}
	p.Slot, p.Epoch, p.Filling = slot, g.pg.Epoch, g.unfinished(slot)
	change(p)
	if p.State == StateClean {
		p.Filling = false
		for key := range k.status.damages {
			if key.pg == p.PG {
				delete(k.status.damages, key)
			}
		}
	}
	k.gauge()
}

// gauge brings the gauges up to date. k.mu is held.
func (k *Keeper) gauge() {
	var missing, pending, damaged uint64
	unclean := 0
	for _, g := range k.groups {
		missing, pending, damaged = missing+g.Missing, pending+g.Pending, damaged+g.Damaged
		if g.State != StateClean {
			unclean++
		}
	}
	m := k.o.Metrics
	m.Missing.Set(float64(missing))
	m.Pending.Set(float64(pending))
	m.DamagedNow.Set(float64(damaged))
	m.Unclean.Set(float64(unclean))
}

// forget drops a group that this store is not a member of any more.
func (k *Keeper) forget(pg uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.groups, pg)
	delete(k.again, pg)
	k.gauge()
}

// keepOnly forgets the groups in which this store has no slot by a newer map: groups come and go for as long as
// the store runs, and nobody surveys those that are gone.
func (k *Keeper) keepOnly(m *clusterMap) {
	k.mu.Lock()
	defer k.mu.Unlock()
	gone := func(pg uint32) bool { return m.groups[pg] == nil || m.groups[pg].slotOf(k.o.ID) < 0 }
	for pg := range k.groups {
		if gone(pg) {
			delete(k.groups, pg)
			delete(k.again, pg)
		}
	}
	for key := range k.status.damages {
		if gone(key.pg) {
			delete(k.status.damages, key)
		}
	}
	k.gauge()
}

// repaired counts a rebuilt shard.
func (k *Keeper) repaired(g *group, slot int, n int) {
	if n == 0 {
		return
	}
	k.o.Metrics.Rebuilt.Inc()
	k.o.Metrics.RebuiltBytes.Add(float64(n))
	k.progress(g, slot, func(p *GroupStatus) {
		p.Rebuilt++
		p.RebuiltBytes += uint64(n)
		k.status.Repair.Done += uint64(n)
	})
}

// noteDamage remembers a damaged block and reports whether it was not known.
func (k *Keeper) noteDamage(d Damage) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	key := damageKey{d.PG, d.Block}
	if _, ok := k.status.damages[key]; ok || len(k.status.damages) >= damageKept {
		return false
	}
	if k.status.damages == nil {
		k.status.damages = map[damageKey]Damage{}
	}
	k.status.damages[key] = d
	return true
}

func (k *Keeper) noteHeal(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Error = ""
	if err != nil {
		k.status.Error = err.Error()
	}
}

func (k *Keeper) collected(began time.Time, c Collected, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Collect = PassStatus{Began: began, Took: time.Since(began), Deleted: c}
	if err != nil {
		k.status.Collect.Error = err.Error()
	}
}

// Metrics are the collectors of a Keeper.
type Metrics struct {
	Deleted                               *prometheus.CounterVec // shards, by reason
	DeletedBytes                          prometheus.Counter
	Unanswered                            prometheus.Counter
	Scanned, Rebuilt, RebuiltBytes        prometheus.Counter
	Bad, Damaged, Filled                  prometheus.Counter
	Scrubbed, ScrubbedBytes               prometheus.Counter
	Missing, Pending, DamagedNow, Unclean prometheus.Gauge
}

// NewMetrics makes the collectors, with labels on each of them, and registers them unless r is nil.
func NewMetrics(r prometheus.Registerer, labels prometheus.Labels) *Metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "rackfs_upkeep_" + name, Help: help, ConstLabels: labels})
		all = append(all, c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		c := prometheus.NewGauge(prometheus.GaugeOpts{Name: "rackfs_upkeep_" + name, Help: help, ConstLabels: labels})
		all = append(all, c)
		return c
	}
	m := &Metrics{
		Deleted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rackfs_upkeep_deleted_shards_total",
			Help: "Shards deleted, by reason: dead, elsewhere (the block is live in another group), moved.", ConstLabels: labels}, []string{"reason"}),
		DeletedBytes:  counter("deleted_bytes_total", "Bytes of deleted shards."),
		Unanswered:    counter("unanswered_shards_total", "Shards kept because the metadata did not answer for them, or not this store's metadata."),
		Scanned:       counter("scanned_blocks_total", "Blocks looked at by surveys and repairs."),
		Rebuilt:       counter("rebuilt_shards_total", "Shards rebuilt."),
		RebuiltBytes:  counter("rebuilt_bytes_total", "Bytes of rebuilt shards."),
		Bad:           counter("bad_shards_total", "Reported shards that failed their check here."),
		Damaged:       counter("damaged_blocks_total", "Blocks found with too few shards left."),
		Filled:        counter("filled_slots_total", "Slots declared filled."),
		Scrubbed:      counter("scrubbed_shards_total", "Shards read by the scrub."),
		ScrubbedBytes: counter("scrubbed_bytes_total", "Bytes read by the scrub."),
		Missing:       gauge("missing_shards", "Shards that the last surveys found missing."),
		Pending:       gauge("pending_blocks", "Blocks of the last surveys that are neither live nor dead yet."),
		DamagedNow:    gauge("damaged_blocks", "Blocks of the last surveys with too few shards left."),
		Unclean:       gauge("unclean_groups", "Placement groups that lack something, or may."),
	}
	if r != nil {
		r.MustRegister(append(all, m.Deleted)...)
	}
	return m
}
