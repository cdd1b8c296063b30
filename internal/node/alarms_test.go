package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/raftmeta"
)

// Each thing that is wrong is one alarm of its kind, and a healthy node has none.
func TestAlarmsOf(t *testing.T) {
	issued := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	until := issued.Add(400 * 24 * time.Hour)
	healthy := func() *api.Local {
		return &api.Local{Certificate: until, Shards: []raftmeta.ShardStatus{{Shard: 1}}, Disks: []api.DiskStatus{{Path: "/d", Info: &store.Info{Writable: true}}}}
	}
	for _, c := range []struct {
		kind string
		days int // since the certificate was issued
		hurt func(*api.Local)
	}{
		{"", 1, nil},
		{"", 299, nil},
		{alarmCertificate, 301, nil},
		{alarmCertificate, 500, nil},
		{alarmDiskAway, 1, func(l *api.Local) { l.Disks[0] = api.DiskStatus{Path: "/d", Err: "gone"} }},
		{alarmLocalVolumes, 1, func(l *api.Local) { l.NoVolumes = "no space left on device" }},
		{alarmDiskFull, 1, func(l *api.Local) { l.Disks[0].Info.Full = true }},
		{alarmDiskReadOnly, 1, func(l *api.Local) { l.Disks[0].Info = &store.Info{Failure: "EIO"} }},
		{alarmReplicaStopped, 1, func(l *api.Local) { l.Shards[0].Err = "damaged" }},
	} {
		l := healthy()
		if c.hurt != nil {
			c.hurt(l)
		}
		got := alarmsOf(l, issued, issued.Add(time.Duration(c.days)*24*time.Hour))
		if c.kind == "" && len(got) == 0 {
			continue
		}
		if len(got) != 1 || got[0].Kind != c.kind || got[0].Text == "" || !slices.Contains(alarmKinds(), c.kind) {
			t.Errorf("%q after %d days: %+v", c.kind, c.days, got)
		}
	}
}

// A clock is told of when it differs by more than asking it took, and a minute.
func TestClockTrouble(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(1_000_000+int64(s), 0) }
	for _, c := range []struct {
		theirs time.Time
		want   string
	}{{at(0), ""}, {at(3), ""}, {at(-59), ""}, {at(62), ""}, {at(-61), "-1m1s"}, {at(63), "1m0s"}, {time.Time{}, ""}} {
		got := clockTrouble(c.theirs, at(0), at(3))
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%v: %q, want %q", c.theirs, got, c.want)
		}
	}
}
