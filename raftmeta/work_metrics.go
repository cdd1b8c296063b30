package raftmeta

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

const (
	// tasksShown bounds the tasks of a shard that have metrics of their own, running ones first.
	tasksShown = 256

	// States of tasks.
	running = "running"
	waiting = "waiting"
)

// workCollector reports the background work that the shards' leaders on this server know of, at the moment of the scrape.
type workCollector struct {
	s     *Server
	tasks *prometheus.Desc
	each  map[string]*prometheus.Desc
}

func newWorkCollector(s *Server, labels prometheus.Labels) *workCollector {
	c := &workCollector{s: s, each: map[string]*prometheus.Desc{}}
	c.tasks = prometheus.NewDesc("rackfs_work_tasks", "Background work of stores and gateways that runs or waits, at the shard's leader.", []string{"shard", "kind", "state"}, labels)
	for name, help := range map[string]string{
		"blocks_done":      "Blocks that are done of a task.",
		"blocks_total":     "Blocks of a task, if that is known.",
		"bytes_done":       "Bytes that are done of a task.",
		"bytes_total":      "Bytes of a task, if that is known.",
		"bytes_per_second": "Rate of a task over the last seconds.",
		"eta_seconds":      "Seconds that a task will take at its present rate, if that is known.",
		"for_seconds":      "Since when a task runs or waits.",
		"spare":            "How many more shards of a task's worst block may be lost.",
	} {
		c.each[name] = prometheus.NewDesc("rackfs_work_task_"+name, help, []string{"shard", "worker", "kind", "state", "pool", "pg", "slot", "fs"}, labels)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *workCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.tasks
	for _, d := range c.each {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *workCollector) Collect(ch chan<- prometheus.Metric) {
	for _, sh := range c.s.all() {
		l := sh.lead.Load()
		if l == nil {
			continue
		}
		shard := shardLabel(sh.id)
		counts := map[[2]string]int{} // 0 too: of a metric that comes and goes nobody knows whether there is no work or no leader
		for k := range metapb.WorkKind_name {
			if kind := metapb.WorkKind(k); kind != metapb.WorkKind_WORK_NONE {
				counts[[2]string{ledger.KindName(kind), running}], counts[[2]string{ledger.KindName(kind), waiting}] = 0, 0
			}
		}
		for i, e := range l.work.list(c.s.opt.Monotonic()) {
			state := stateOf(e)
			counts[[2]string{e.Kind, state}]++
			if i >= tasksShown {
				continue
			}
			put := func(name string, v float64) {
				ch <- prometheus.MustNewConstMetric(c.each[name], prometheus.GaugeValue, v, shard, e.Worker, e.Kind, state, num(e.Pool), num(e.PG), num(e.Slot), num(e.FS))
			}
			put("for_seconds", e.For.Seconds())
			put("spare", float64(e.Spare))
			put("blocks_done", float64(e.BlocksDone))
			put("bytes_done", float64(e.BytesDone))
			if e.BlocksTotal > 0 {
				put("blocks_total", float64(e.BlocksTotal))
			}
			if e.BytesTotal > 0 {
				put("bytes_total", float64(e.BytesTotal))
			}
			if e.Running {
				put("bytes_per_second", e.BytesPerSecond)
			}
			if e.ETASeconds > 0 {
				put("eta_seconds", e.ETASeconds)
			}
		}
		for k, n := range counts {
			ch <- prometheus.MustNewConstMetric(c.tasks, prometheus.GaugeValue, float64(n), shard, k[0], k[1])
		}
	}
}

func stateOf(e ledger.Entry) string {
	if e.Running {
		return running
	}
	return waiting
}

func num(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
