package node

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/api"
)

// What may be wrong with a node by itself. docs/operations.md says what to do about each.
const (
	alarmDiskAway       = "disk_away"       // a disk of the configuration does not run
	alarmDiskFull       = "disk_full"       // it takes no new blocks until there is room
	alarmDiskReadOnly   = "disk_read_only"  // it takes no writes until it is started again: a write failed, or its file system is read-only
	alarmReplicaStopped = "replica_stopped" // of a shard of the metadata
	alarmCertificate    = "certificate"     // it was not renewed for long
	alarmLocalVolumes   = "local_volumes"   // their disk took no writes when the node started: it serves none
)

func alarmKinds() []string {
	return []string{alarmDiskAway, alarmDiskFull, alarmDiskReadOnly, alarmReplicaStopped, alarmCertificate, alarmLocalVolumes}
}

const (
	// certificateLeft is the part of its validity below which a certificate should have been renewed long ago: that is begun with a third left.
	certificateLeft = 4
	// clockTold is how far two clocks are apart when that is said. Nodes join up to maxSkew.
	clockTold = time.Minute
)

// alarmsOf are what is wrong with a node that says this of itself.
func alarmsOf(l *api.Local, issued, now time.Time) (all []api.Alarm) {
	add := func(kind, format string, args ...any) {
		all = append(all, api.Alarm{Kind: kind, Text: fmt.Sprintf(format, args...)})
	}
	for _, d := range l.Disks {
		switch {
		case d.Err != "":
			add(alarmDiskAway, "disk %s does not run: %s", d.Path, d.Err)
		case d.Info != nil && d.Info.Full:
			add(alarmDiskFull, "disk %s is full", d.Path)
		case d.Info != nil && !d.Info.Writable:
			add(alarmDiskReadOnly, "disk %s takes no writes: %s", d.Path, d.Info.Failure)
		}
	}
	for _, s := range l.Shards {
		if s.Err != "" {
			add(alarmReplicaStopped, "its replica of shard %d has stopped: %s", s.Shard, s.Err)
		}
	}
	if l.NoVolumes != "" {
		add(alarmLocalVolumes, "it serves no local volumes until it is started again: %s", l.NoVolumes)
	}
	if left := l.Certificate.Sub(now); left < l.Certificate.Sub(issued)/certificateLeft {
		add(alarmCertificate, "its certificate is valid until %s and was not renewed: no meta node does it", l.Certificate.Format(time.RFC3339))
	}
	return all
}

// clockTrouble says that a clock differs from ours, which showed asked and answered around the moment when it was read; "" if it does not by much.
func clockTrouble(theirs, asked, answered time.Time) string {
	var apart time.Duration
	switch {
	case theirs.IsZero(): // an earlier release does not say
	case theirs.Before(asked):
		apart = theirs.Sub(asked)
	case theirs.After(answered):
		apart = theirs.Sub(answered)
	}
	if apart.Abs() < clockTold {
		return ""
	}
	return fmt.Sprintf("its clock differs by %v from that of the node that was asked: synchronise them (NTP)", apart.Round(time.Second))
}

// alarms collects how many of each kind there are, 0 among them.
type alarms struct {
	n    *Node
	desc *prometheus.Desc
}

func newAlarms(n *Node) *alarms {
	return &alarms{n, prometheus.NewDesc("rackfs_node_alarms", "What is wrong with this node by itself, by kind; /healthz says it in words.", []string{"kind"}, nil)}
}

// Describe implements prometheus.Collector.
func (a *alarms) Describe(out chan<- *prometheus.Desc) { out <- a.desc }

// Collect implements prometheus.Collector.
func (a *alarms) Collect(out chan<- prometheus.Metric) {
	count := map[string]int{}
	for _, x := range a.n.local().Alarms {
		count[x.Kind]++
	}
	for _, kind := range alarmKinds() {
		out <- prometheus.MustNewConstMetric(a.desc, prometheus.GaugeValue, float64(count[kind]), kind)
	}
}
