package raftmeta

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// The leader empties the purge queue without being asked.
func TestLeaderPurges(t *testing.T) {
	interval := time.Hour
	c := newCluster(t, 3, []uint16{1}, func(_ int, o *Options) { o.PurgeInterval = interval })
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	w.more(20)
	acked := w.end()
	queue := func() uint64 {
		q, err := cl.Query(testContext(t), 1, infoQuery())
		if err != nil {
			t.Fatal(err)
		}
		return q.GetShardInfo().GetPurgeQueue()
	}
	// The next incarnation of the gateway leaves the slots of the last one to be purged.
	next := c.client()
	if _, err := next.Register(testContext(t), 1, metapb.OriginKind_ORIGIN_GATEWAY, "gw", make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if queue() == 0 {
		t.Fatal("nothing to purge: the test shows nothing")
	}
	c.close()
	interval = 10 * time.Millisecond
	for i := range c.servers {
		c.start(i)
	}
	c.eventually("an empty purge queue", func() bool { return queue() == 0 })
	checkFiles(t, cl, 1, acked)
	c.sameState(1)
}

// A replica whose state differs is noticed.
func TestDigestsAreCompared(t *testing.T) {
	regs := map[int]*prometheus.Registry{}
	c := newCluster(t, 3, []uint16{1}, func(i int, o *Options) {
		regs[i] = prometheus.NewRegistry()
		o.Registerer = regs[i]
		o.CheckInterval = 20 * time.Millisecond
	})
	mismatches := func() (n float64) {
		for _, r := range regs {
			fams, err := r.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range fams {
				for _, m := range f.Metric {
					if f.GetName() == "rackfs_meta_digest_mismatch_total" {
						n += m.GetCounter().GetValue()
					}
				}
			}
		}
		return n
	}
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	w.more(100)
	if n := mismatches(); n != 0 {
		t.Fatalf("%v mismatches between equal replicas", n)
	}
	bad := (c.leader(1) + 1) % 3
	c.differ(bad)
	c.start(bad)
	c.eventually("the difference to be noticed", func() bool { return mismatches() > 0 })
	c.eventually("the replica that differs to stop", func() bool {
		st, _ := c.status(bad, 1)
		return st.Role == "Shutdown" && st.Member == Lost && strings.Contains(st.Err, "differs from that of most voters")
	})
	w.more(20) // the others go on
	w.end()
}

// differ stops node i and changes its state, so that its digest is another one.
func (c *cluster) differ(i int) {
	c.t.Helper()
	if err := c.server(i).Snapshot(1); err != nil { // its state is on disk
		c.t.Fatal(err)
	}
	c.stop(i)
	db, err := pebble.Open(filepath.Join(c.path(i), "shard-00001", "state", "db-000001"), &pebble.Options{
		DisableWAL: true, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quietPebble{},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	key := []byte("m/state")
	v, closer, err := db.Get(key)
	if err != nil {
		c.t.Fatal(err)
	}
	wrong := append([]byte(nil), v...)
	closer.Close()
	wrong[len(wrong)-1] ^= 1
	if err := db.Set(key, wrong, pebble.NoSync); err != nil {
		c.t.Fatal(err)
	}
	if err := db.Flush(); err != nil {
		c.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		c.t.Fatal(err)
	}
}

type quietPebble struct{}

func (quietPebble) Infof(string, ...any)  {}
func (quietPebble) Errorf(string, ...any) {}
func (quietPebble) Fatalf(format string, args ...any) {
	panic(format)
}
