package node

import (
	"bytes"
	"slices"
	"time"
)

// gossipTiming is how a node follows the keys of gossip. Shard 0 has them; the newest one is to encrypt. Nodes do not learn of it at the same time, so a
// node first only understands it, and encrypts with it when the others have had the time to learn of it too; the former ones it understands for a
// while longer.
type gossipTiming struct {
	every  time.Duration // how often shard 0 is asked
	use    time.Duration // how long a node has had a key until it encrypts with it
	retire time.Duration // how long it has encrypted with it until it does not understand others any more
}

const (
	gossipKeysEvery  = 30 * time.Second
	gossipKeysUse    = 2 * time.Minute
	gossipKeysRetire = 10 * time.Minute
	// gossipKeysMost bounds the keys of a node: some may be made while one is not in use everywhere yet.
	gossipKeysMost = 4
)

// gossipRing is the keys that a node has.
type gossipRing struct {
	Keys  [][]byte  `json:"keys"` // the first one encrypts, all decrypt
	since time.Time // when the newest key of shard 0 came, or took the first place; not over a restart, which begins to count anew
}

func (r gossipRing) has(key []byte) int {
	return slices.IndexFunc(r.Keys, func(k []byte) bool { return bytes.Equal(k, key) })
}

func (r gossipRing) equal(o gossipRing) bool { return slices.EqualFunc(r.Keys, o.Keys, bytes.Equal) }

// next is what the keys are at a time when shard 0 says which there are, the newest first.
func (r gossipRing) next(told [][]byte, t gossipTiming, now time.Time) gossipRing {
	if len(told) == 0 {
		return r
	}
	newest := told[0]
	if len(r.Keys) == 0 { // a new node: the others have it, or understand it soon
		return gossipRing{Keys: told[:min(len(told), 2)], since: now}
	}
	if r.since.IsZero() {
		r.since = now
	}
	switch i := r.has(newest); {
	case i < 0:
		keep := r.Keys[:min(len(r.Keys), gossipKeysMost-1)]
		return gossipRing{Keys: append(slices.Clone(keep), newest), since: now}
	case i > 0 && now.Sub(r.since) >= t.use:
		rest := slices.Delete(slices.Clone(r.Keys), i, i+1)
		return gossipRing{Keys: append([][]byte{newest}, rest...), since: now}
	case i == 0 && len(r.Keys) > 1 && now.Sub(r.since) >= t.retire:
		return gossipRing{Keys: [][]byte{newest}, since: now}
	}
	return r
}
