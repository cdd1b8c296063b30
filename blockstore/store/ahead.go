package store

import (
	"math"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// aheadAt is after which part of the active segment the next one is begun.
	aheadAt = 1.0 / 4
	// aheadBy is in which part of what is left of the active segment then the next one is filled with zeros.
	aheadBy = 3.0 / 4
	// zeroStep is how much of it is written at a time: what a sync of somebody else may wait for at the disk.
	zeroStep = 256 << 10
	// fillBelow is how many bytes the groups that are synced at once must have on average, for the next segment not to be filled with zeros. Blocks that were never written
	// cost each fdatasync a commit of the file system's journal; to fill them costs as many bytes as the records have. A disk writes about this much in the time of a commit.
	fillBelow = 256 << 10
)

// ahead lets the zeros of a segment that nobody waits for yet go along with the records that are appended meanwhile. As fast as the disk takes them
// they would have all others' syncs wait behind them, for a second where stores share a disk, which fill their segments at the same time.
//
// Fields protected by Store.mu.
type ahead struct {
	written
	last    written       // when the last segment that is there was begun
	hurried bool          // somebody waits for what the preparer does now, or will do next
	at      int64         // the preparer goes on when appended is this; math.MaxInt64: it does not wait
	goOn    chan struct{} // holds a token then
}

func newAhead() ahead { return ahead{at: math.MaxInt64, goOn: make(chan struct{}, 1)} }

// append counts n bytes of records. Called with Store.mu held.
func (a *ahead) append(n int64) {
	if a.appended += n; a.appended >= a.at {
		a.wake()
	}
}

// hurry ends the pacing until the preparer has ended what it does. Called with Store.mu held.
func (a *ahead) hurry() {
	a.hurried = true
	a.wake()
}

func (a *ahead) wake() {
	a.at = math.MaxInt64
	select {
	case a.goOn <- struct{}{}:
	default:
	}
}

// written is what happened since the store was opened.
type written struct {
	appended int64 // bytes of records
	groups   int64 // that were synced
}

// run is how one segment is made.
type run struct {
	last written // when the one before it was begun
	from written // when it was
	over int64   // bytes of records after that, by which it is to be ready
}

// beginRun says how a segment that is begun now is made. Called with mu held.
func (s *Store) beginRun() run {
	r := run{last: s.ahead.last, from: s.ahead.written}
	if s.active != nil {
		r.over = int64(aheadBy * float64(s.active.header.End()-s.next))
	}
	return r
}

// awaitTurn waits until it is time to go on with a segment of which done of size bytes are filled, and says whether the groups that were synced since the one before it was begun are
// so small that it is worth it. Nothing is known before the first.
func (s *Store) awaitTurn(r run, done, size int64) (worth bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := r.from.appended + int64(float64(r.over)*float64(done)/float64(size))
	for !s.ahead.hurried && s.ahead.appended < at {
		s.ahead.at = at
		s.mu.Unlock()
		var err error
		select {
		case <-s.ahead.goOn:
		case <-s.stop:
			err = vfs.Errorf(vfs.KindUnavailable, "store.segment", "%s is closing", s.o.Dir)
		}
		s.mu.Lock()
		if err != nil {
			return false, err
		}
	}
	bytes, groups := s.ahead.appended-r.last.appended, s.ahead.groups-r.last.groups
	return groups == 0 || bytes < s.o.fillBelow*groups, nil
}
