package slots

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

const kib = 1 << 10

// 800 KiB of slots of 1 KiB: the marks are 600 and 700.
var budget = Budget{Bytes: 800 * kib, Least: 4, Initial: 64, Most: 256}

func TestGrant(t *testing.T) {
	for _, c := range []struct{ used, cost, want, get int }{
		{0, kib, 64, 64},
		{0, kib, 1000, 64},           // the most that one begins with
		{0, kib, 2, 2},               // less than the least, as asked for
		{0, 4 * kib, 64, 21},         // an eighth of 700 KiB
		{300 * kib, kib, 64, 50},     // an eighth of 400 KiB
		{660 * kib, kib, 64, 5},      // of 40 KiB
		{690 * kib, kib, 64, 4},      // the least
		{700 * kib, kib, 64, 4},      // ... to the end
		{796 * kib, kib, 64, 4},      //
		{797 * kib, kib, 64, 0},      // nothing is left
		{797 * kib, kib, 2, 2},       //
		{1000 * kib, kib, 64, 0},     // there was more before
		{0, 800 * kib, 64, 0},        // one slot would be too large
		{0, 200 * kib, 64, 4},        //
		{1 << 50, 1 << 30, 1024, 0},  //
		{0, 1, 1 << 30, 64},          //
		{699 * kib, 10 * kib, 64, 4}, //
	} {
		if got := budget.Grant(int64(c.used), int64(c.cost), c.want); got != c.get {
			t.Errorf("Grant(used %d KiB, cost %d, want %d) = %d, want %d", c.used/kib, c.cost, c.want, got, c.get)
		}
	}
}

func TestGrow(t *testing.T) {
	for _, c := range []struct{ used, n, get int }{
		{64 * kib, 64, 128},
		{128 * kib, 128, 256},
		{256 * kib, 256, 256}, // the most
		{256 * kib, 200, 256},
		{590 * kib, 64, 74}, // up to the first mark
		{600 * kib, 64, 64},
		{800 * kib, 64, 64},
		{800 * kib, 300, 300}, // never less
		{0, 1, 2},
	} {
		if got := budget.Grow(int64(c.used), kib, c.n); got != c.get {
			t.Errorf("Grow(used %d KiB, %d slots) = %d, want %d", c.used/kib, c.n, got, c.get)
		}
	}
}

func TestPressed(t *testing.T) {
	for _, c := range []struct {
		used      int
		was, want bool
	}{{700, false, false}, {701, false, true}, {601, true, true}, {600, true, false}, {0, true, false}} {
		if got := budget.Pressed(int64(c.used)*kib, c.was); got != c.want {
			t.Errorf("Pressed(%d KiB, %v) = %v", c.used, c.was, got)
		}
	}
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		name string
		all  []Session
		want []int
	}{
		{"none", nil, []int{}},
		{"unused slots go first", []Session{{kib, 256, 200}, {kib, 256, 10}, {kib, 256, 0}}, []int{251, 174, 174}},
		{"where most are unused", []Session{{kib, 256, 200}, {kib, 256, 255}, {kib, 256, 0}}, []int{251, 256, 93}},
		{"what is in use goes only if it must", []Session{{kib, 256, 255}, {kib, 256, 255}, {kib, 256, 255}}, []int{200, 200, 200}},
		{"the least stays", []Session{{100 * kib, 8, 0}, {100 * kib, 8, 8}}, []int{4, 4}},
		{"also of less", []Session{{kib, 2, 0}, {kib, 900, 900}}, []int{2, 598}},
		{"large replies count by their bytes", []Session{{8 * kib, 64, 64}, {kib, 256, 256}}, []int{43, 256}},
	} {
		if got := budget.Targets(c.all); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestTargetsOfAnything: whatever sessions have, what is asked for is enough or all that can be, and nobody is asked for more than others without need.
func TestTargetsOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		num := func(label string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(t, label) }
		b := Budget{Bytes: int64(num("bytes", 1, 1<<20)), Least: num("least", 1, 8), Initial: num("initial", 1, 64), Most: num("most", 1, 1024)}
		var all []Session
		atLeast := true
		total := int64(0)
		for range num("sessions", 0, 20) {
			s := Session{Cost: int64(num("cost", 1, 9000)), Slots: num("slots", 1, 1024)}
			s.Used = num("used", 0, s.Slots)
			all = append(all, s)
			total += s.Cost * int64(s.Slots)
		}
		targets := b.Targets(all)
		sum := int64(0)
		for i, s := range all {
			if targets[i] < min(b.Least, s.Slots) || targets[i] > s.Slots {
				t.Fatalf("session %d of %d slots: %d", i, s.Slots, targets[i])
			}
			atLeast = atLeast && targets[i] == min(b.Least, s.Slots)
			sum += s.Cost * int64(targets[i])
			// Who has to give does not end below others that were left with more, but for part of a slot.
			for j, o := range all {
				lowered := targets[i] < s.Slots && targets[i] < s.Used
				if lowered && targets[j] > min(b.Least, o.Slots) && s.Cost*int64(targets[i]+1) < o.Cost*int64(targets[j]) {
					t.Fatalf("session %d uses %d of %d slots and is left with %d, %d is left with %d: costs %d and %d", i, s.Used, s.Slots, targets[i], j, targets[j], s.Cost, o.Cost)
				}
			}
		}
		if sum > b.growMark() && !atLeast {
			t.Fatalf("%d bytes are left, %d would be right", sum, b.growMark())
		}
		if total <= b.growMark() && sum < total {
			t.Fatalf("%d bytes of %d are asked back without need", total-sum, total)
		}
	})
}

// TestBudgetIsKept plays clients that do what they like: what is given stays within the budget, and while others follow, new ones get something.
func TestBudgetIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		num := func(label string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(t, label) }
		b := Budget{Bytes: int64(num("bytes", 1, 1<<20)), Least: num("least", 1, 8), Initial: num("initial", 1, 64), Most: num("most", 1, 1024)}
		var all []Session
		used, pressed := int64(0), false
		for range num("steps", 1, 60) {
			switch num("step", 0, 4) {
			case 0, 1:
				cost, want := int64(num("cost", 1, 9000)), num("want", 1, 2000)
				n := b.Grant(used, cost, want)
				if n > want || n > max(b.Initial, b.Least) || n < 0 {
					t.Fatalf("granted %d of %d", n, want)
				}
				if n == 0 && used+int64(min(want, b.Least))*cost <= b.Bytes {
					t.Fatalf("refused although there is room: %d of %d", used, b.Bytes)
				}
				if n > 0 {
					all = append(all, Session{Cost: cost, Slots: n, Used: num("used", 0, n)})
					used += cost * int64(n)
				}
			case 2:
				if len(all) == 0 {
					continue
				}
				s := &all[num("which", 0, len(all)-1)]
				n := b.Grow(used, s.Cost, s.Slots)
				if n < s.Slots || n > 2*s.Slots || n > s.Slots && n > b.Most {
					t.Fatalf("from %d to %d slots", s.Slots, n)
				}
				used += s.Cost * int64(n-s.Slots)
				s.Slots = n
			case 3:
				if len(all) == 0 {
					continue
				}
				i := num("which", 0, len(all)-1)
				used -= all[i].Cost * int64(all[i].Slots)
				all = slices.Delete(all, i, i+1)
			case 4:
				if pressed = b.Pressed(used, pressed); !pressed {
					continue
				}
				for i, n := range b.Targets(all) {
					if num("follows", 0, 1) == 1 {
						used -= all[i].Cost * int64(all[i].Slots-n)
						all[i].Slots = n
					}
				}
			}
			if used > b.Bytes || used < 0 {
				t.Fatalf("%d of %d bytes are given", used, b.Bytes)
			}
		}
	})
}
