package store

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/blockstore/budget"
)

// Metrics are the collectors of one store.
type Metrics struct {
	Puts, Gets, Deletes    prometheus.Counter
	PutBytes, GetBytes     prometheus.Counter
	Refused                *prometheus.CounterVec // Puts by reason
	BadShards              prometheus.Counter
	Syncs                  prometheus.Counter
	SyncSeconds            prometheus.Histogram
	GroupSize              prometheus.Histogram // records per fdatasync group
	Segments               prometheus.Gauge
	LostSegments           prometheus.Gauge // without an intact header
	FreeSegments           prometheus.Gauge
	LiveBytes, DeadBytes   prometheus.Gauge
	BadNow                 prometheus.Gauge // shards marked bad
	Recycled               prometheus.Counter
	CompactedBytes         prometheus.Counter
	Replayed, ReplayedTorn prometheus.Counter
	IndexRebuilds          prometheus.Counter
	IndexRebuilding        prometheus.Gauge // 1 while one is, and the store serves
	WriteFailed            prometheus.Gauge // 1 while the store refuses writes
	ReadOnly               prometheus.Gauge // 1 if that is because it was opened on what cannot be written

	register func(prometheus.Collector) // those of what is made later
	labels   prometheus.Labels
}

// budget shows a budget.
func (m *Metrics) budget(b *budget.Budget) {
	if b == nil || m.register == nil {
		return
	}
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Name: "rackfs_store_" + name, Help: help, ConstLabels: m.labels}
	}
	m.register(prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("budget_bytes_per_second", "What clients and background work may move together.")),
		func() float64 { return float64(b.Limit()) }))
	m.register(prometheus.NewCounterFunc(prometheus.CounterOpts(opts("background_bytes_total", "Bytes moved by background work within the budget: repair, moves, scrub, compaction, new indexes.")),
		func() float64 { n, _ := b.Totals(); return float64(n) }))
	m.register(prometheus.NewCounterFunc(prometheus.CounterOpts(opts("client_bytes_total", "Bytes of shards that clients asked to read or write.")),
		func() float64 { _, n := b.Totals(); return float64(n) }))
}

// NewMetrics makes the collectors, with labels on each of them, and registers
// them unless r is nil.
func NewMetrics(r prometheus.Registerer, labels prometheus.Labels) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "rackfs_store_" + name, Help: help, ConstLabels: labels})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "rackfs_store_" + name, Help: help, ConstLabels: labels})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "rackfs_store_" + name, Help: help, ConstLabels: labels, Buckets: buckets})
	}
	m := &Metrics{
		Puts:     counter("puts_total", "Shards written and acknowledged."),
		Gets:     counter("gets_total", "Ranges of shards read."),
		Deletes:  counter("deletes_total", "Shards deleted."),
		PutBytes: counter("put_bytes_total", "Bytes of shards written and acknowledged."),
		GetBytes: counter("get_bytes_total", "Bytes of shards read."),
		Refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rackfs_store_puts_refused_total",
			Help: "Puts refused, by kind of error.", ConstLabels: labels}, []string{"kind"}),
		BadShards:       counter("bad_shards_total", "Shards found to fail their checks."),
		Syncs:           counter("syncs_total", "fdatasync calls for groups of records."),
		SyncSeconds:     histogram("sync_seconds", "Duration of an fdatasync.", prometheus.ExponentialBuckets(50e-6, 2, 16)),
		GroupSize:       histogram("group_records", "Records covered by one group's fdatasync.", prometheus.ExponentialBuckets(1, 2, 11)),
		Segments:        gauge("segments", "Segment files."),
		LostSegments:    gauge("lost_segments", "Segment files without an intact header."),
		FreeSegments:    gauge("free_segments", "Segment files without records."),
		DeadBytes:       gauge("dead_bytes", "Bytes of records in segments in use that nothing refers to, at the last compaction."),
		BadNow:          gauge("bad_shards", "Shards found bad and neither replaced nor deleted since."),
		Recycled:        counter("segments_recycled_total", "Segments emptied and made free."),
		CompactedBytes:  counter("compacted_bytes_total", "Bytes of records moved out of segments that were mostly dead."),
		LiveBytes:       gauge("live_bytes", "Bytes of records that the index refers to."),
		Replayed:        counter("replayed_records_total", "Records entered into the index from the log when the store was opened."),
		ReplayedTorn:    counter("replayed_torn_total", "Incomplete records met then."),
		IndexRebuilds:   counter("index_rebuilds_total", "Indexes made anew from all segments."),
		IndexRebuilding: gauge("index_rebuilding", "1 while an index is made anew."),
		WriteFailed:     gauge("write_failed", "1 while writes are refused, after a failed one or because the file system is read-only."),
		ReadOnly:        gauge("read_only", "1 if the store was opened on a file system that is read-only."),
	}
	m.labels = labels
	if r != nil {
		m.register = func(c prometheus.Collector) { r.MustRegister(c) }
		r.MustRegister(m.Puts, m.Gets, m.Deletes, m.PutBytes, m.GetBytes, m.Refused, m.BadShards, m.Syncs, m.SyncSeconds,
			m.GroupSize, m.Segments, m.LostSegments, m.FreeSegments, m.LiveBytes, m.DeadBytes, m.BadNow, m.Recycled, m.CompactedBytes, m.Replayed, m.ReplayedTorn, m.IndexRebuilds, m.IndexRebuilding, m.WriteFailed, m.ReadOnly)
	}
	return m
}
