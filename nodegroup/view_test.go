package nodegroup

import (
	"testing"
	"time"
)

// A plan that found nothing to do is not made again until something changes; then it is.
func TestPlansAreNotRepeated(t *testing.T) {
	r := newRig(t, 6, 4, 2, 12)
	r.pass(time.Second)
	before := r.m.view(r.m.cmap.Pools[0])
	if !before.atRest || before.report == nil {
		t.Fatalf("a healthy pool: %+v", before)
	}
	r.pass(time.Second)
	if r.m.view(r.m.cmap.Pools[0]) != before {
		t.Error("nothing changed, and it was planned again")
	}
	r.stop(3)
	r.pass(2 * time.Second)
	if open, _ := r.fallback(); open[3] == 0 {
		t.Errorf("a store went, open fallback groups by k: %v", open)
	}
	if v := r.m.view(r.m.cmap.Pools[0]); v == before || v.report.Writes != "3+2" {
		t.Errorf("%+v", v.report)
	}
}
