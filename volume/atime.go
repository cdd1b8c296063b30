package volume

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// touchesKept bounds the reads that the metadata was not told of; further ones are forgotten.
	touchesKept = 16384
	// touchesPerCommand is how many are told in one command.
	touchesPerCommand = 256
	// touchAgain is how long a read of contents that did not change is not noted again. The metadata decides by the rule of
	// relatime, of which this is only the part that it need not be asked for.
	touchAgain = time.Hour
)

// touches are times of access of which the metadata was not told yet. They are told together, some seconds later: a read
// must not cost a command. So they are shown at once here, and lost with the gateway.
type touches struct {
	mu sync.Mutex // guards the field below
	at map[vfs.Ino]time.Time
}

func (t *touches) note(ino vfs.Ino, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.at == nil {
		t.at = map[vfs.Ino]time.Time{}
	}
	if _, ok := t.at[ino]; ok || len(t.at) < touchesKept {
		t.at[ino] = at
	}
}

// overlay is a with the time of access that the metadata will be told of.
func (t *touches) overlay(a vfs.Attr) vfs.Attr {
	t.mu.Lock()
	at, ok := t.at[a.Ino]
	t.mu.Unlock()
	if ok && a.ReadAt(at) {
		a.Atime = at
	}
	return a
}

// overlayAll is overlay for many.
func (t *touches) overlayAll(as []vfs.Attr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.at) == 0 {
		return
	}
	for i := range as {
		if at, ok := t.at[as[i].Ino]; ok && as[i].ReadAt(at) {
			as[i].Atime = at
		}
	}
}

// take is one command's worth of what is to be told; it stays in the overlay until told.
func (t *touches) take() map[vfs.Ino]time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[vfs.Ino]time.Time, min(len(t.at), touchesPerCommand))
	for ino, at := range t.at {
		if len(out) == touchesPerCommand {
			break
		}
		out[ino] = at
	}
	return out
}

// told drops what was told, unless it was read again since.
func (t *touches) told(done map[vfs.Ino]time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for ino, at := range done {
		if t.at[ino].Equal(at) {
			delete(t.at, ino)
		}
	}
}

// wasRead notes a read of a file at the change value that it had.
func (v *Volume) wasRead(e *inode, change uint64) {
	if v.cfg.NoAtime {
		return
	}
	now := v.cfg.Now()
	e.mu.Lock()
	known := e.readChange == change && now.Sub(e.readAt) < touchAgain
	e.readChange, e.readAt = change, now
	e.mu.Unlock()
	if !known {
		v.touches.note(e.ino, now)
	}
}

// wasListed notes that a directory was read, whose attributes are a. It reports whether that moves its time of access.
func (v *Volume) wasListed(a *vfs.Attr) bool {
	now := v.cfg.Now()
	moves := !v.cfg.NoAtime && a.ReadAt(now)
	if moves {
		v.touches.note(a.Ino, now)
	}
	return moves
}

// toucher tells the metadata what was read, until the volume is closed.
func (v *Volume) toucher() {
	tick := time.NewTicker(v.cfg.AtimeInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			v.tellTouches(v.ctx)
		case <-v.ctx.Done():
			return
		}
	}
}

// tellTouches tells all that was noted, or what can be told now: at a level of the shard that does not have the command,
// times of access stay as they are.
func (v *Volume) tellTouches(ctx context.Context) {
	for {
		some := v.touches.take()
		if len(some) == 0 {
			return
		}
		cmd := &metapb.Touch{}
		for ino, at := range some {
			cmd.Touched = append(cmd.Touched, &metapb.Touched{Ino: uint64(ino), Atime: pbTime(at)})
		}
		if _, err := v.apply(ctx, "touch", nil, &metapb.Command{Op: &metapb.Command_Touch{Touch: cmd}}); err != nil && vfs.KindOf(err) != vfs.KindNotSupported {
			return // tried again at the next tick
		}
		for ino := range some { // what is cached with a lease does not show it
			if e := v.find(ino); e != nil {
				e.mu.Lock()
				e.forget()
				e.mu.Unlock()
				v.release(e)
			}
		}
		v.touches.told(some)
	}
}
