package raftmeta

import "time"

// graceMarks bounds what a grace remembers: marks are at least a part of this size of the grace apart, so a
// block may wait longer by as much.
const graceMarks = 64

// grace decides when dying blocks may be reaped: those that were dying when a leader looked, once the leader has seen a
// whole grace pass since. It knows only what this leader saw, so a new one begins anew. Time is that of a
// monotonic clock: a clock that was set forward would end the grace of everything.
type grace struct {
	wait  time.Duration
	marks []graceMark // ascending
	ripe  uint64      // the grace of all blocks up to this number is over
	left  bool        // some of them may not be reaped yet
}

type graceMark struct {
	through uint64 // blocks up to this number were dying
	at      time.Duration
}

// note takes in that next was the number of the next dying block in a state that was read before now.
func (g *grace) note(next uint64, now time.Duration) {
	if next <= 1 {
		return // none yet, or the shard is at level 1
	}
	m := graceMark{through: next - 1, at: now}
	last := graceMark{through: g.ripe, at: now - g.wait}
	if n := len(g.marks); n > 0 {
		last = g.marks[n-1]
	}
	if m.through > last.through && now-last.at >= g.wait/graceMarks {
		g.marks = append(g.marks, m)
	}
}

// due returns the number up to which blocks may be reaped, and whether there may be any.
func (g *grace) due(now time.Duration) (through uint64, some bool) {
	for len(g.marks) > 0 && now-g.marks[0].at >= g.wait {
		g.ripe, g.left = g.marks[0].through, true
		g.marks = g.marks[1:]
	}
	return g.ripe, g.left
}

// reaped says that no block up to the number that due returned is left.
func (g *grace) reaped() { g.left = false }
