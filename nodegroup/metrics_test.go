package nodegroup

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/rackfs/rackfs/placement"
)

// The leader has metrics of each pool and of stores by state; who does not lead has none.
func TestMetrics(t *testing.T) {
	st := &Status{Leading: true,
		Stores: []StoreStatus{{State: Up}, {State: Up}, {State: Suspect}},
		Pools:  []PoolStatus{{Name: "a", Report: placement.Report{Margin: -1, Writable: 4}}, {Name: "b", Report: placement.Report{Margin: 2, Filling: 7, Fallback: 3}}},
	}
	c := NewCollector(func() *Status { return st })
	want := `
# HELP rackfs_placement_margin How many more stores may be lost without losing data; negative: some data cannot be read.
# TYPE rackfs_placement_margin gauge
rackfs_placement_margin{pool="a"} -1
rackfs_placement_margin{pool="b"} 2
# HELP rackfs_placement_filling_slots Slots of placement groups that are being filled.
# TYPE rackfs_placement_filling_slots gauge
rackfs_placement_filling_slots{pool="a"} 0
rackfs_placement_filling_slots{pool="b"} 7
# HELP rackfs_placement_stores Stores by what the leader thinks of them.
# TYPE rackfs_placement_stores gauge
rackfs_placement_stores{state="down"} 0
rackfs_placement_stores{state="out"} 0
rackfs_placement_stores{state="suspect"} 1
rackfs_placement_stores{state="unknown"} 0
rackfs_placement_stores{state="up"} 2
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "rackfs_placement_margin", "rackfs_placement_filling_slots", "rackfs_placement_stores"); err != nil {
		t.Error(err)
	}
	st.Leading = false
	if n := testutil.CollectAndCount(c); n != 0 {
		t.Errorf("%d metrics of who does not lead", n)
	}
	st = nil
	if n := testutil.CollectAndCount(c); n != 0 {
		t.Errorf("%d metrics of who knows nothing", n)
	}
}
