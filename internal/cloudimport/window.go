package cloudimport

import (
	"crypto/sha256"
	"encoding/json"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// windowMax is how many objects of the listing are under way, or done behind one that is. It bounds the checkpoint.
	windowMax = 256
	// markBytes is how much of the SHA-256 of a key stands for it.
	markBytes = 16

	checkpointFormat = 1
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
	Done   []byte `json:"done,omitempty"`   // marks of those that are done behind it
}

// window keeps what of the listing is done. It is pure.
type window struct {
	cursor string
	queue  []*slot // in the order of the listing
	done   map[mark]bool
	added  int
}

// slot is one object in the window.
type slot struct {
	key  string
	over bool
}

func newWindow(c *checkpoint) (*window, error) {
	w := &window{cursor: string(c.Cursor), done: map[mark]bool{}}
	if len(c.Done)%markBytes != 0 || len(c.Done) > windowMax*markBytes {
		return nil, vfs.Errorf(vfs.KindCorrupt, "import", "the checkpoint has %d bytes of marks", len(c.Done))
	}
	for b := c.Done; len(b) > 0; b = b[markBytes:] {
		w.done[mark(b[:markBytes])] = true
	}
	return w, nil
}

// full reports whether nothing may be added now.
func (w *window) full() bool { return len(w.queue) >= windowMax }

// add puts the next object of the listing into the window, and reports whether it is done already.
func (w *window) add(key string) (s *slot, was bool) {
	s = &slot{key: key}
	m := markOf(key)
	if was = w.done[m]; was {
		delete(w.done, m)
		s.over = true
	}
	w.queue = append(w.queue, s)
	w.advance()
	if w.added++; w.added == 2*windowMax {
		clear(w.done) // what the listing has not come to by now was deleted
	}
	return s, was
}

// finish notes that an object is done.
func (w *window) finish(s *slot) {
	s.over = true
	w.advance()
}

func (w *window) advance() {
	for len(w.queue) > 0 && w.queue[0].over {
		w.cursor = w.queue[0].key
		w.queue = w.queue[1:]
	}
}

// marks are those of what is done behind the cursor: what was added, and what the checkpoint before knew and the listing has not come to.
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
	c := &checkpoint{Format: checkpointFormat}
	if len(b) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, "import", "the checkpoint: %w", err)
	}
	if c.Format != checkpointFormat {
		return nil, vfs.Errorf(vfs.KindIncompatible, "import", "the checkpoint has format %d, which a newer release made: start the import again", c.Format)
	}
	return c, nil
}
