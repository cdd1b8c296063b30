package machine

import (
	"bytes"
	"errors"

	"github.com/cockroachdb/pebble/v2"
	"github.com/rackfs/rackfs/raftmeta/fsm"
)

// View is the state after some entry. It does not change until Release.
type View struct {
	host    *Host
	snap    *pebble.Snapshot
	applied uint64
	refs    int // guarded by host.mu; one for being current
}

var (
	_ fsm.Versioned = (*View)(nil)
	_ fsm.Sorted    = (*View)(nil)
)

// Applied is the Raft index of the newest entry in the view that wrote state.
func (v *View) Applied() uint64 { return v.applied }

// Get implements fsm.View.
func (v *View) Get(key []byte) ([]byte, bool, error) { return get(v.snap, key) }

// Scan implements fsm.View.
func (v *View) Scan(lo, hi []byte, fn func(k, v []byte) bool) error { return scan(v.snap, lo, hi, fn) }

// GetSorted implements fsm.Sorted. A step from a key to one that is not far behind it is much less than a search.
func (v *View) GetSorted(n int, key func(i int) []byte, fn func(i int, v []byte) bool) error {
	it, err := v.snap.NewIter(nil)
	if err != nil {
		return err
	}
	for i := range n {
		k := key(i)
		var val []byte
		if it.SeekGE(k) && bytes.Equal(it.Key(), k) {
			if val, err = it.ValueAndErr(); err != nil {
				break
			}
			if val == nil {
				val = []byte{}
			}
		}
		if it.Error() != nil || !fn(i, val) {
			break
		}
	}
	return errors.Join(err, it.Error(), it.Close())
}

// Release ends the use of the view, once.
func (v *View) Release() {
	v.host.mu.Lock()
	defer v.host.mu.Unlock()
	v.host.unref(v)
}

// live is the committed state as the machine itself reads it: only its own
// goroutine changes it.
type live struct{ db *pebble.DB }

func (l live) Get(key []byte) ([]byte, bool, error)                { return get(l.db, key) }
func (l live) Scan(lo, hi []byte, fn func(k, v []byte) bool) error { return scan(l.db, lo, hi, fn) }

// get copies the value: the block it lies in may be evicted when its handle is closed.
func get(r pebble.Reader, key []byte) ([]byte, bool, error) {
	b, c, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	val := append(make([]byte, 0, len(b)), b...)
	return val, true, c.Close()
}

func scan(r pebble.Reader, lo, hi []byte, fn func(k, v []byte) bool) error {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return errors.Join(err, it.Close())
		}
		if !fn(it.Key(), v) {
			break
		}
	}
	return errors.Join(it.Error(), it.Close())
}
