package nodegroup

import (
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Timing is the hysteresis of observation.
type Timing struct {
	FailAfter    time.Duration // without taking writes: down
	SuspectAfter time.Duration // the same: suspect
	OutAfter     time.Duration // without an answer: out
	UpAfter      time.Duration // taking writes again: up
}

// DefaultTiming is for a cluster in one place.
var DefaultTiming = Timing{FailAfter: time.Second, SuspectAfter: 10 * time.Second, OutAfter: 10 * time.Minute, UpAfter: 2 * time.Second}

// State is what is thought of a store.
type State uint8

// See the package comment.
const (
	Unknown State = iota
	Up
	Down
	Suspect
	Out
)

func (s State) String() string {
	return [...]string{"unknown", "up", "down", "suspect", "out"}[s]
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *State) UnmarshalText(b []byte) error {
	for x := Unknown; x <= Out; x++ {
		if x.String() == string(b) {
			*s = x
			return nil
		}
	}
	return vfs.Errorf(vfs.KindInvalid, "nodegroup", "state %q of a store", b)
}

// downProbes in a row must fail before a store is down, however long they took.
const downProbes = 2

// health is the state of one store. It is a function of its observations.
type health struct {
	state    State
	since    time.Time
	readable bool
	used     int64 // bytes, as it said last
	capacity int64
	room     blockstore.RoomReply // as it said last
	asked    time.Time            // when it was asked for that; zero: never
	err      error                // of the last failed probe
	errAt    time.Time

	good   time.Time // since when every probe succeeded; zero: the last one failed
	bad    time.Time // since when every probe failed to find a store that takes writes
	silent time.Time // since when no probe was answered
	failed int       // probes in a row
}

// observation is the outcome of a probe.
type observation struct {
	at       time.Time // when it began
	answered bool
	writable bool
	used     int64
	capacity int64
	room     *blockstore.RoomReply // nil: it was not asked, or did not say
	err      error                 // why it is not writable
}

// observe takes a probe that ended at now.
func (h *health) observe(t Timing, o observation, now time.Time) {
	h.readable = o.answered
	if o.answered {
		h.silent = time.Time{}
		h.used, h.capacity = o.used, o.capacity
	} else if h.silent.IsZero() {
		h.silent = o.at
	}
	if o.answered && o.writable {
		if h.good.IsZero() {
			h.good = o.at
		}
		h.bad, h.failed = time.Time{}, 0
		if h.state == Unknown || h.state != Up && now.Sub(h.good) >= t.UpAfter {
			h.become(Up, now)
		}
		return
	}
	if h.bad.IsZero() {
		h.bad = o.at
	}
	h.good = time.Time{}
	h.failed++
	h.err, h.errAt = o.err, now
	to := h.state
	switch d := now.Sub(h.bad); {
	case h.failed < downProbes || d < t.FailAfter:
	case !h.silent.IsZero() && now.Sub(h.silent) >= t.OutAfter:
		to = Out
	case d >= t.SuspectAfter:
		to = Suspect
	default:
		to = Down
	}
	// It gets better only by being up: a store that is out and begins to answer without taking writes stays it.
	if to > h.state {
		h.become(to, now)
	}
}

func (h *health) become(s State, now time.Time) { h.state, h.since = s, now }

// missing reports whether a store that answers nothing may be back: it is silent for less than what makes a store out.
func (h *health) missing(t Timing, now time.Time) bool {
	return !h.readable && !h.silent.IsZero() && now.Sub(h.silent) < t.OutAfter
}

// condition is what placement makes of a store.
func (h *health) condition(rec *metapb.Store) placement.Condition {
	switch {
	case rec.State == metapb.StoreState_STORE_LOST:
		return placement.Lost
	case rec.State == metapb.StoreState_STORE_OUT, h.state == Out:
		return placement.Out
	case h.state == Up:
		return placement.Up
	}
	return placement.Down
}
