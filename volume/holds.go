package volume

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

// AnswerHold answers for a file that lost its last name by another gateway, and that the shard holds for this one because it does not know
// whether it is open here. If it is, the hold stays until the last Close, and what is not recorded of its opens is; else it goes.
func (v *Volume) AnswerHold(ctx context.Context, ino vfs.Ino) {
	// An open that is not counted yet waits for the answer, as for a removal of this gateway.
	rm := v.removals.begin()
	defer v.removals.end(rm)
	e := v.acquire(ino)
	defer v.release(e)
	e.mu.Lock()
	answered := e.orphan
	e.orphan = true
	e.mu.Unlock()
	if v.isOpen(e) {
		if !answered {
			v.keepLoose(ctx, e, nil)
		}
		return
	}
	v.endOrphan(ctx, e)
	rm.killed = ino
}
