// Package slots decides how many slots each NFSv4.1 session has (RFC 8881, 2.10.6.1).
//
// A slot of a session can hold a reply, up to the size that was agreed on with its client, until the client uses the slot again: only the client
// can end that. So memory for the largest reply is set aside for each slot when it is given, and all slots together stay within one [Budget]: nothing
// has to be refused, or forgotten, because replies were larger than expected, and a client that never gives anything back has what it was given and no more.
//
// The budget is given out by three marks:
//
//   - up to 6/8 of it sessions grow: one that uses all its slots at once gets twice as many, at most Budget.Most ([Budget.Grow]);
//   - up to 7/8 new sessions get what they ask for, at most Budget.Initial, but none more than an eighth of what is free ([Budget.Grant]);
//   - the last eighth is for new sessions that get Budget.Least.
//
// Above the second mark slots are asked back, until the first one is reached ([Budget.Targets]): first those that are not used, where most are unused
// first; if that does not suffice, the sessions that have most memory come down to a common level, none below Budget.Least. What is asked back is
// not free before the client has agreed, which is for the caller to see.
//
// Everything here is a pure function.
package slots

import "slices"

// Budget is what all sessions together may cost, and what one may have.
type Budget struct {
	Bytes   int64 // of all sessions
	Least   int   // slots that a session is given, and left with, at least, if it asked for so many
	Initial int   // slots that a new session is given at most
	Most    int   // slots that a session can grow to
}

// growMark and giveMark are the first two marks of the package comment.
func (b *Budget) growMark() int64 { return b.Bytes / 8 * 6 }
func (b *Budget) giveMark() int64 { return b.Bytes / 8 * 7 }

// Grant is how many slots a new session gets that asked for want, at cost bytes each, while used bytes are given: 0 if there is no room even for few.
func (b *Budget) Grant(used, cost int64, want int) int {
	want = min(want, max(b.Initial, b.Least))
	least := min(want, b.Least)
	free := max(0, b.giveMark()-used)
	n := min(int64(want), free/8/cost)
	if n >= int64(least) {
		return int(n)
	}
	if used+int64(least)*cost <= b.Bytes {
		return least
	}
	return 0
}

// Grow is how many slots a session that has n, all of them in use, gets: n if there is no room for more.
func (b *Budget) Grow(used, cost int64, n int) int {
	room := (b.growMark() - used) / cost
	return max(n, int(min(int64(2*n), int64(b.Most), int64(n)+max(0, room))))
}

// Session is what Targets has to know of one.
type Session struct {
	Cost  int64 // bytes of a slot
	Slots int   // that it has
	Used  int   // of them lately, at once
}

// Pressed reports whether slots are to be asked back, if was says whether they were until now.
func (b *Budget) Pressed(used int64, was bool) bool {
	return used > b.giveMark() || was && used > b.growMark()
}

// Targets are how many slots each session is to use, when all together have too many: they then are within the first mark, or at the least.
func (b *Budget) Targets(all []Session) []int {
	floor := make([]int64, len(all)) // what no session goes below: first what it uses, with a quarter to spare
	most := make([]int64, len(all))
	sum := int64(0)
	for i, s := range all {
		least := min(b.Least, s.Slots)
		floor[i] = s.Cost * int64(min(s.Slots, max(least, s.Used+s.Used/4+1)))
		most[i] = s.Cost * int64(s.Slots)
		sum += floor[i]
	}
	if sum > b.growMark() { // what is in use is too much, and the unused goes with it
		copy(most, floor)
		for i, s := range all {
			floor[i] = s.Cost * int64(min(b.Least, s.Slots))
		}
	}
	level := b.level(floor, most)
	targets := make([]int, len(all))
	for i, s := range all {
		targets[i] = int(min(max(floor[i], level), most[i]) / s.Cost)
	}
	return targets
}

// level is the highest to which all can come down, none below its floor, for the sum to be within the first mark; 0 if there is none.
func (b *Budget) level(floor, most []int64) int64 {
	if len(most) == 0 {
		return 0
	}
	lo, hi := int64(0), slices.Max(most)
	for lo < hi {
		at := hi - (hi-lo)/2
		sum := int64(0)
		for i := range floor {
			sum += min(max(floor[i], at), most[i])
		}
		if sum <= b.growMark() {
			lo = at
		} else {
			hi = at - 1
		}
	}
	return lo
}
