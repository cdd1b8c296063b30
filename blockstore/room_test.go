package blockstore

import (
	"slices"
	"testing"
)

// TestTogether: what is free on a disk counts once, also if several stores can take it.
func TestTogether(t *testing.T) {
	a, b := [16]byte{1}, [16]byte{2}
	for name, x := range map[string]struct {
		stores         []RoomReply
		used, capacity uint64
	}{
		"none":               {nil, 0, 0},
		"one":                {[]RoomReply{{Device: a, Capacity: 100, Used: 30, Shared: 60}}, 30, 100},
		"two on one disk":    {[]RoomReply{{Device: a, Capacity: 100, Used: 30, Shared: 60}, {Device: a, Capacity: 70, Used: 10, Shared: 60}}, 40, 110},
		"asked at two times": {[]RoomReply{{Device: a, Capacity: 100, Used: 30, Shared: 60}, {Device: a, Capacity: 60, Used: 10, Shared: 50}}, 40, 100},
		"two disks":          {[]RoomReply{{Device: a, Capacity: 100, Used: 30, Shared: 60}, {Device: b, Capacity: 70, Used: 10, Shared: 60}}, 40, 170},
		"not known":          {[]RoomReply{{Capacity: 100, Used: 30}, {Capacity: 70, Used: 10}}, 40, 170},
		"too full":           {[]RoomReply{{Device: a, Capacity: 10, Used: 30}}, 30, 30},
		"nonsense":           {[]RoomReply{{Device: a, Capacity: 10, Shared: 99}}, 0, 99},
	} {
		if used, capacity := Together(x.stores); used != x.used || capacity != x.capacity {
			t.Errorf("%s: %d of %d, want %d of %d", name, used, capacity, x.used, x.capacity)
		}
	}
}

// TestParts: stores on one disk have it in equal parts, whoever has how much of it now.
func TestParts(t *testing.T) {
	a, b := [16]byte{1}, [16]byte{2}
	got := Parts([]RoomReply{{Device: a, Capacity: 100, Used: 30, Shared: 60}, {Device: b, Capacity: 70, Used: 10, Shared: 60}, {Device: a, Capacity: 60, Used: 10, Shared: 60}, {Capacity: 50}, {Capacity: 40}})
	if want := []uint64{50, 70, 50, 50, 40}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
