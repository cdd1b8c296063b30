package vfs

import "context"

// Viewer is an FS that can lend bytes that it has in memory, instead of copying them.
type Viewer interface {
	// View is Read into p. But if the bytes are in memory, and are worth to be sent from there, p is not used, and they are lent.
	View(ctx context.Context, ino Ino, off uint64, p []byte) (View, error)
}

// View is what was read: the first N bytes of p, or those of Lent, one slice after the other.
type View struct {
	N    int
	EOF  bool
	Lent [][]byte // nil: they are in p
	// Release is to be called once when nobody uses what was lent any more; until then it does not change. Nil if nothing was lent.
	Release func()
}

// End ends the use of what was lent, if anything was.
func (v *View) End() {
	if v.Release != nil {
		v.Release()
		v.Release = nil
	}
}
