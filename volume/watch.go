package volume

import (
	"slices"
	"sync"

	"github.com/rackfs/rackfs/vfs"
)

// watches tell a call to the metadata which inodes gave up their lease while
// it was under way. What the metadata said of such an inode may be from before its
// last flush, and what this gateway knew of it is gone: it must be asked again.
type watches struct {
	mu   sync.Mutex // guards the field below, and gone of live watches
	live map[*watch]struct{}
}

type watch struct{ gone []vfs.Ino }

func (w *watches) begin() *watch {
	x := &watch{}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.live == nil {
		w.live = make(map[*watch]struct{})
	}
	w.live[x] = struct{}{}
	return x
}

// lost is called before the lease of ino goes.
func (w *watches) lost(ino vfs.Ino) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for x := range w.live {
		x.gone = append(x.gone, ino)
	}
}

func (w *watches) saw(x *watch, ino vfs.Ino) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(x.gone, ino)
}

// gone lists what x saw.
func (w *watches) gone(x *watch) []vfs.Ino {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clip(x.gone) // others append to it
}

func (w *watches) end(x *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.live, x)
}
