//go:build linux

package kclient

import "testing"

func TestSilence(t *testing.T) {
	run := func(s *silence, n int, l look) (last verdict, all map[verdict]int) {
		all = map[verdict]int{}
		for range n {
			last = s.look(l)
			all[last]++
		}
		return last, all
	}
	silent := look{heard: 7, waiting: true}
	t.Run("hangs", func(t *testing.T) {
		s := silence{wakeAfter: wakeAfter, hangsAfter: hangsAfter, heard: 7}
		if _, all := run(&s, hangsAfter-1, silent); all[hangs] != 0 || all[wake] != hangsAfter-wakeAfter || all[quiet] != wakeAfter-1 {
			t.Fatalf("before its time: %v", all)
		}
		if last := s.look(silent); last != hangs {
			t.Fatalf("%v", last)
		}
	})
	t.Run("a beat begins anew", func(t *testing.T) {
		s := silence{wakeAfter: wakeAfter, hangsAfter: hangsAfter, heard: 7}
		run(&s, hangsAfter-1, silent)
		if v := s.look(look{heard: 8, waiting: true}); v != woke {
			t.Fatalf("%v", v)
		}
		if v := s.look(look{heard: 9, waiting: true}); v != alive {
			t.Fatalf("%v", v)
		}
		if _, all := run(&s, hangsAfter-1, look{heard: 9, waiting: true}); all[hangs] != 0 {
			t.Fatalf("%v", all)
		}
	})
	t.Run("starved for hours", func(t *testing.T) {
		s := silence{wakeAfter: wakeAfter, hangsAfter: hangsAfter, heard: 7}
		if _, all := run(&s, 10000, look{heard: 7, waiting: true, starved: true}); all[hangs] != 0 {
			t.Fatalf("%v", all)
		}
	})
	t.Run("starved now and then", func(t *testing.T) {
		s := silence{wakeAfter: wakeAfter, hangsAfter: hangsAfter, heard: 7}
		for range hangsAfter - 1 {
			run(&s, 3, look{heard: 7, waiting: true, starved: true})
			if v := s.look(silent); v == hangs {
				t.Fatal("counted where it was starved")
			}
		}
		if v := s.look(silent); v != hangs {
			t.Fatalf("%v", v)
		}
	})
	t.Run("nobody listens", func(t *testing.T) { // the test's own writer holds the output up
		s := silence{wakeAfter: wakeAfter, hangsAfter: hangsAfter, heard: 7}
		if _, all := run(&s, 10000, look{heard: 7}); all[alive] != 10000 {
			t.Fatalf("%v", all)
		}
	})
}
