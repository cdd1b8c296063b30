package volume

import "time"

const (
	// gatherFrom is how many callers that wait for one inode make it worth to wait for all of them.
	gatherFrom = 3
	// gatherMax is the longest such wait.
	gatherMax = 2 * time.Millisecond
)

// gathering is what the committer of an inode knows of those who wait for it. Without it, of n callers that write and sync in a loop
// the first that comes after a command has one of its own, the others, who come while that is under way, share the next, and a command, which is a
// round of the metadata's logs, stands for n/2 writes instead of n. So after a command the committer waits a little for as much as there was before, also
// if nothing is ready yet, at most half as long as the command took: those who come are answered a whole command earlier than they would be.
type gathering struct {
	syncing int           // callers of sync. Guarded by inode.mu
	more    chan struct{} // a token: something became ready
}

// changed tells the committer, if it waits, to look again.
func (g *gathering) changed() {
	select {
	case g.more <- struct{}{}:
	default:
	}
}

// gather waits until want pieces are ready, as many as there were when the last command, which took so long, ended, or some time has passed. e.mu is held,
// and released meanwhile.
func (v *Volume) gather(e *inode, want int, took time.Duration) {
	if e.syncing < gatherFrom || piecesIn(e.ready) >= want {
		return
	}
	timer := time.NewTimer(min(took/2, gatherMax))
	defer timer.Stop()
	for late := false; !late && piecesIn(e.ready) < want; {
		e.mu.Unlock()
		select {
		case <-e.more:
		case <-timer.C:
			late = true
		case <-v.ctx.Done():
			late = true
		}
		e.mu.Lock()
	}
}

func piecesIn(list []flushed) (n int) {
	for i := range list {
		n += len(list[i].exts)
	}
	return n
}
