package raftmeta

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// flip changes one bit of the newest file that matches pattern in the directory of node i's replica: in a log at part of its entries, elsewhere at the
// beginning.
func (c *cluster) flip(i int, pattern string, part float64) {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.path(i), "shard-00001", pattern))
	if err != nil || len(files) == 0 {
		c.t.Fatalf("no file %s: %v", pattern, err)
	}
	b, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		c.t.Fatal(err)
	}
	// In a log: in the name of a file, for the bytes between entries mean nothing.
	at := []int{0}
	if strings.HasSuffix(pattern, ".wal") {
		at = nil
		for _, m := range regexp.MustCompile(`f[0-9]{6}`).FindAllIndex(b, -1) {
			at = append(at, m[0])
		}
	}
	b[at[int(part*float64(len(at)-1))]] ^= 0x10
	if err := os.WriteFile(files[len(files)-1], b, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// A voter of which one bit flipped, in its log, vote or state, does not start with it: it says so, is replaced, its directory is set aside, and the
// cluster serves on. Each acknowledged command took effect once.
func TestDamagedVoterIsReplaced(t *testing.T) {
	for _, log := range []Backend{WAL, Bolt} {
		t.Run(string(log), func(t *testing.T) {
			var mu sync.Mutex
			var reasons []string
			c := newClusterLog(t, 3, []uint16{1}, log, func(i int, o *Options) {
				keepers(i, o)
				o.Log, o.TrailingLogs, o.WALSegmentBytes = log, 0, 8<<20 // all entries are in the log, and read at a start
				o.Logger = slog.New(onMessage{o.Logger.Handler(), "raftmeta: a replica is damaged and does not run", func(r slog.Record) {
					r.Attrs(func(a slog.Attr) bool {
						if a.Key == "err" {
							mu.Lock()
							defer mu.Unlock()
							reasons = append(reasons, a.Value.String())
						}
						return true
					})
				}})
			})
			cl := c.gateway(1, "gw")
			w := startCreators(t, cl, 1, 2)
			w.more(100)
			type place struct {
				file string
				part float64
				says string
			}
			places := []place{
				{"wal/*.wal", 0.5, "entry"}, {"wal/*.wal", 0.02, "entry"}, {"wal/*.wal", 1, "entry"},
				{"stable.db", 0, "stable.db is damaged"}, {"state/CURRENT", 0, "CURRENT"},
			}
			if log == Bolt {
				places = []place{{"log.db", 0, "log.db is damaged"}, {"stable.db", 0, "stable.db is damaged"}}
			}
			for _, p := range places {
				l := c.leader(1)
				victim := (l + 1) % 3
				old := c.replicaOf(victim)
				mu.Lock()
				reasons = nil
				mu.Unlock()
				c.stop(victim)
				c.flip(victim, p.file, p.part)
				w.more(10)
				c.start(victim)
				c.votes(victim, old)
				mu.Lock()
				if len(reasons) != 1 || !strings.Contains(reasons[0], p.says) {
					t.Errorf("%s at %v: reasons %q do not say %q", p.file, p.part, reasons, p.says)
				} else {
					t.Logf("%s at %v: %s", p.file, p.part, reasons[0])
				}
				mu.Unlock()
				if aside := c.aside(victim); len(aside) != 1 {
					t.Errorf("%s at %v: set aside %q", p.file, p.part, aside)
				}
			}
			c.needed((c.leader(1)+1)%3, w)
			acked := w.end()
			c.sameState(1)
			checkFiles(t, cl, 1, acked)
		})
	}
}

// A replica whose state differs from that of the others stops, and is replaced while its process runs.
func TestDifferingVoterIsReplaced(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, keepers)
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 2)
	w.more(50)
	bad := (c.leader(1) + 1) % 3
	old := c.replicaOf(bad)
	c.differ(bad)
	s := c.start(bad)
	c.votes(bad, old)
	if c.server(bad) != s {
		t.Fatal("the server was restarted")
	}
	c.needed(bad, w)
	acked := w.end()
	c.sameState(1)
	checkFiles(t, cl, 1, acked)
}
