package cloudimport

import (
	"crypto/sha256"
	"encoding/json"
	"slices"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// windowMax is how many objects of the listing are under way, or done behind one that is. It bounds the checkpoint.
	windowMax = 256
	// lateMax is how many objects may still be under way of those that the window has left behind: each worker may have one.
	lateMax = MaxParallel
	// markBytes is how much of the SHA-256 of a key stands for it.
	markBytes = 16

	// checkpointFormat is that of a checkpoint that has late objects. Others have the one before, which older releases read.
	checkpointFormat     = 2
	checkpointFormatNone = 1
)

type mark [markBytes]byte

func markOf(key string) (m mark) {
	h := sha256.Sum256([]byte(key))
	copy(m[:], h[:])
	return m
}

// checkpoint is what shard 0 keeps, together with the report, which counts what it says is done.
type checkpoint struct {
	Format int    `json:"format"`
	Cursor []byte `json:"cursor,omitempty"` // all keys up to this one are done
	High   []byte `json:"high,omitempty"`   // all keys up to this one are done, too, but for the late ones; none: there are no late ones
	Late   []byte `json:"late,omitempty"`   // marks of those that are not done before High
	Done   []byte `json:"done,omitempty"`   // marks of those that are done behind both
}

// window keeps what of the listing is done. It is pure.
//
// Objects enter in the order of the listing, and are done in any order. The cursor goes over what is done. An object that takes long would hold it, and
// everything behind it, so when the window is full the objects at its beginning that are not done become late: the window goes on without them, and the
// checkpoint names them. Who goes on from such a checkpoint lists again from the cursor, and passes over all but the late ones.
type window struct {
	cursor string  // all keys up to this one are done
	high   string  // all keys up to this one are done, late or missed; "": it is the cursor
	last   string  // the newest key
	late   []*slot // under way and not in queue, in the order of the listing
	queue  []*slot // behind high, in the order of the listing
	done   map[mark]bool
	added  int // to queue

	// Of the checkpoint: what is listed up to resume is done, but for what was late then. Those that were not listed yet are missed.
	resume string
	missed map[mark]bool
}

// slot is one object in the window.
type slot struct {
	key  string
	prev string // the key before it in the listing
	over bool
}

func newWindow(c *checkpoint) (*window, error) {
	w := &window{cursor: string(c.Cursor), last: string(c.Cursor), high: string(c.High), resume: string(c.High)}
	var err error
	if w.done, err = readMarks(c.Done, windowMax); err != nil {
		return nil, err
	}
	if w.missed, err = readMarks(c.Late, lateMax); err != nil {
		return nil, err
	}
	if (w.high != "") != (len(w.missed) > 0) || w.high != "" && w.high <= w.cursor {
		return nil, vfs.Errorf(vfs.KindCorrupt, "import", "the checkpoint has late objects, but not where they are")
	}
	return w, nil
}

func readMarks(b []byte, most int) (map[mark]bool, error) {
	if len(b)%markBytes != 0 || len(b) > most*markBytes {
		return nil, vfs.Errorf(vfs.KindCorrupt, "import", "the checkpoint has %d bytes of marks", len(b))
	}
	out := map[mark]bool{}
	for m := range slices.Chunk(b, markBytes) {
		out[mark(m)] = true
	}
	return out, nil
}

// full reports whether nothing may be added now.
func (w *window) full() bool { return len(w.queue) >= windowMax }

// add puts the next object of the listing into the window, and reports whether it is done already.
func (w *window) add(key string) (s *slot, was bool) {
	s = &slot{key: key, prev: w.last}
	w.last = key
	m := markOf(key)
	if key <= w.resume {
		if was = !w.missed[m]; !was {
			delete(w.missed, m)
			w.late = append(w.late, s)
		}
		if key == w.resume {
			clear(w.missed) // what the listing has not come to by now was deleted
		}
		w.advance()
		return s, was
	}
	clear(w.missed) // likewise
	if was = w.done[m]; was {
		delete(w.done, m)
		s.over = true
	}
	w.queue = append(w.queue, s)
	w.advance()
	if w.added++; w.added == 2*windowMax {
		clear(w.done) // likewise
	}
	return s, was
}

// finish notes that an object is done.
func (w *window) finish(s *slot) {
	s.over = true
	w.late = slices.DeleteFunc(w.late, func(l *slot) bool { return l == s })
	w.advance()
}

func (w *window) advance() {
	for len(w.queue) > 0 {
		head := w.queue[0]
		if !head.over {
			if !w.full() || len(w.late) >= lateMax {
				break
			}
			w.late = append(w.late, head)
		}
		w.high = head.key
		w.queue = w.queue[1:]
	}
	switch {
	case len(w.late) > 0:
		w.cursor = w.late[0].prev
	case len(w.missed) > 0:
		w.cursor = w.last
	case w.high != "":
		w.cursor, w.high = w.high, ""
	}
}

// checkpoint is where the window stands.
func (w *window) checkpoint() *checkpoint {
	c := &checkpoint{Format: checkpointFormatNone, Cursor: []byte(w.cursor), Done: w.marks()}
	for _, s := range w.late {
		m := markOf(s.key)
		c.Late = append(c.Late, m[:]...)
	}
	for m := range w.missed {
		c.Late = append(c.Late, m[:]...)
	}
	if len(c.Late) > 0 {
		c.Format, c.High = checkpointFormat, []byte(w.high)
	}
	return c
}

// marks are those of what is done behind all that is done: what was added, and what the checkpoint before knew and the listing has not come to.
func (w *window) marks() (b []byte) {
	for m := range w.done {
		b = append(b, m[:]...)
	}
	for _, s := range w.queue {
		if s.over {
			m := markOf(s.key)
			b = append(b, m[:]...)
		}
	}
	return b[:min(len(b), windowMax*markBytes)]
}

func readCheckpoint(b []byte) (*checkpoint, error) {
	c := &checkpoint{Format: checkpointFormatNone}
	if len(b) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, "import", "the checkpoint: %w", err)
	}
	if c.Format != checkpointFormat && c.Format != checkpointFormatNone {
		return nil, vfs.Errorf(vfs.KindIncompatible, "import", "the checkpoint has format %d, which a newer release made: start the import again", c.Format)
	}
	return c, nil
}
