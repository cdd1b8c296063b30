package raftmeta

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are a server's Prometheus collectors. A nil *metrics counts nothing.
type metrics struct {
	s *Server

	calls    *prometheus.HistogramVec // shard, op
	items    *prometheus.CounterVec   // shard, op
	entries  *prometheus.CounterVec   // shard
	commands *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	differ   *prometheus.CounterVec

	all []prometheus.Collector
}

func newMetrics(s *Server) *metrics {
	m := &metrics{s: s}
	labels := prometheus.Labels{"node": s.node.Name}
	counter := func(name, help string, by ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "rackfs", Subsystem: "meta", Name: name, Help: help, ConstLabels: labels}, by)
		m.all = append(m.all, c)
		return c
	}
	m.calls = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "rackfs", Subsystem: "meta", Name: "call_seconds", Help: "Duration of calls at the metadata port.",
		ConstLabels: labels, Buckets: prometheus.ExponentialBuckets(100e-6, 2.5, 12),
	}, []string{"shard", "op"})
	m.all = append(m.all, m.calls)
	m.items = counter("call_items_total", "Commands or queries in calls at the metadata port.", "shard", "op")
	m.entries = counter("entries_total", "Raft log entries proposed.", "shard")
	m.commands = counter("commands_total", "Commands in proposed entries.", "shard")
	m.bytes = counter("entry_bytes_total", "Bytes of proposed entries.", "shard")
	m.differ = counter("digest_mismatch_total", "Comparisons in which a voter's state differed from the leader's.", "shard")
	m.all = append(m.all, &shardCollector{s: s, descs: map[string]*prometheus.Desc{
		"term":      desc(labels, "term", "Raft term."),
		"commit":    desc(labels, "commit_index", "Raft commit index."),
		"applied":   desc(labels, "applied_index", "Raft index up to which the state machine has everything."),
		"level":     desc(labels, "feature_level", "The shard's feature level."),
		"leader":    desc(labels, "leader", "1 if this replica leads and serves."),
		"rounds":    desc(labels, "read_rounds", "Term-confirm rounds in the current leadership."),
		"purge":     desc(labels, "purge_queue", "Items of the purge queue, at the leader."),
		"purged":    desc(labels, "purged_keys", "Keys removed by Purge in the current leadership."),
		"dying":     desc(labels, "dying_blocks", "Blocks that wait for the end of their grace, at the leader."),
		"reaped":    desc(labels, "reaped_blocks", "Blocks whose grace ended in the current leadership."),
		"lingering": desc(labels, "lingering_gateways", "Gateways that were ended, for which files without names are held, at the leader."),
		"failures":  desc(labels, "failed", "1 if the replica has stopped because its state machine or its log failed."),
	}}, newWorkCollector(s, labels))
	return m
}

func desc(labels prometheus.Labels, name, help string) *prometheus.Desc {
	return prometheus.NewDesc("rackfs_meta_"+name, help, []string{"shard"}, labels)
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range m.all {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if r == nil {
		return
	}
	for _, c := range m.all {
		r.Unregister(c)
	}
}

func shardLabel(id uint16) string { return strconv.Itoa(int(id)) }

// time begins a call; the result ends it.
func (m *metrics) time(shard uint16, op string, items int) func() {
	l := shardLabel(shard)
	m.items.WithLabelValues(l, op).Add(float64(items))
	start := time.Now()
	return func() { m.calls.WithLabelValues(l, op).Observe(time.Since(start).Seconds()) }
}

func (m *metrics) entry(shard uint16, commands, bytes int) {
	l := shardLabel(shard)
	m.entries.WithLabelValues(l).Inc()
	m.commands.WithLabelValues(l).Add(float64(commands))
	m.bytes.WithLabelValues(l).Add(float64(bytes))
}

// begin has a shard's counts begin at zero: one that is not there before its first event never seems to rise.
func (m *metrics) begin(shard uint16) { m.differ.WithLabelValues(shardLabel(shard)) }

func (m *metrics) digestMismatch(shard uint16) { m.differ.WithLabelValues(shardLabel(shard)).Inc() }

// shardCollector reports the state of the replicas at the moment of the scrape.
type shardCollector struct {
	s     *Server
	descs map[string]*prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *shardCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *shardCollector) Collect(ch chan<- prometheus.Metric) {
	for _, st := range c.s.Status() {
		put := func(name string, v float64) {
			ch <- prometheus.MustNewConstMetric(c.descs[name], prometheus.GaugeValue, v, shardLabel(st.Shard))
		}
		put("term", float64(st.Term))
		put("commit", float64(st.Commit))
		put("applied", float64(st.Applied))
		put("level", float64(st.Level))
		put("leader", b2f(st.Serving))
		put("rounds", float64(st.ReadRounds))
		if st.Serving {
			put("purge", float64(st.Purge.Queue))
			put("purged", float64(st.Purge.Done))
			put("dying", float64(st.Reap.Queue))
			put("reaped", float64(st.Reap.Done))
			put("lingering", float64(st.Lingering))
		}
		put("failures", b2f(st.Err != ""))
	}
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
