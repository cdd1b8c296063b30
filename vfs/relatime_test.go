package vfs

import (
	"testing"
	"time"
)

func TestReadAt(t *testing.T) {
	day := func(d float64) time.Time {
		return time.Unix(1_000_000_000, 0).Add(time.Duration(d * 24 * float64(time.Hour)))
	}
	for _, c := range []struct {
		what                    string
		atime, mtime, ctime, at float64
		moves                   bool
	}{
		{"never read", 0, 0, 0, 0.1, true},
		{"read since", 0.1, 0, 0, 0.2, false},
		{"read a day ago", 0.1, 0, 0, 1.1, true},
		{"written since", 0.1, 0.2, 0.2, 0.3, true},
		{"changed since", 0.1, 0, 0.2, 0.3, true},
		{"read before the change", 0.1, 0.3, 0.3, 0.2, false},
		{"mtime in the future", 0.1, 9, 0, 0.2, true},
		{"atime in the future", 9, 0, 0, 0.2, false},
		{"the same read again", 0.1, 0, 0.05, 0.1, false},
	} {
		a := Attr{Atime: day(c.atime), Mtime: day(c.mtime), Ctime: day(c.ctime)}
		if got := a.ReadAt(day(c.at)); got != c.moves {
			t.Errorf("%s: moves %v, want %v", c.what, got, c.moves)
		}
	}
}
