package volume

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// ctimesKept bounds the inodes whose ctime the metadata was not told of; a SetAttr of a further one is a command at once.
const ctimesKept = 16384

// lateCtimes are inodes for which somebody set owner, group and mode to what they are, as tar, cp and rsync do for each file when root runs them. Nothing
// changes by that but ctime and the change value, and these are shown at once here and told to the metadata with the next command for the inode, which is
// under way soon as a rule, before the lease is given back, or some seconds later. Should the gateway die before, they are as those of an unstable write: lost,
// and the next change continues above all change values that were shown. What was asked for is durable, as it was before.
type lateCtimes struct {
	mu   sync.Mutex // guards the field below
	inos map[vfs.Ino]struct{}
}

// note reports false if there are too many.
func (l *lateCtimes) note(ino vfs.Ino) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.inos[ino]; !ok && len(l.inos) >= ctimesKept {
		return false
	}
	if l.inos == nil {
		l.inos = map[vfs.Ino]struct{}{}
	}
	l.inos[ino] = struct{}{}
	return true
}

func (l *lateCtimes) take() map[vfs.Ino]struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.inos
	l.inos = nil
	return out
}

// keeps reports whether s, which c may do, leaves everything in a as it is but ctime.
func keeps(c *vfs.Cred, a *vfs.Attr, s *vfs.SetAttr) bool {
	switch {
	case s.Size != nil, s.AtimeSet != vfs.TimeKeep, s.MtimeSet != vfs.TimeKeep, s.Btime != nil:
		return false
	case s.UID != nil && *s.UID != a.UID, s.GID != nil && *s.GID != a.GID:
		return false
	case (s.UID != nil || s.GID != nil) && vfs.ModeAfterChown(a) != a.Mode:
		return false
	}
	return s.Mode == nil || vfs.ModeAfterChmod(c, a, *s.Mode) == a.Mode
}

// touchCtime is a SetAttr of e, which is leased, that keeps what there is; false: there is no room for it.
func (v *Volume) touchCtime(e *inode) (vfs.Attr, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead || !e.mayWrite() || !v.lateCtimes.note(e.ino) {
		return vfs.Attr{}, false
	}
	e.shown = e.top() + changeStep
	e.ctime = v.cfg.Now()
	return e.attr(), true
}

// owesCtime reports whether the metadata has to be told of e's ctime. e.mu is held.
func (e *inode) owesCtime() bool {
	return !e.dead && e.leased() && e.known && e.ctime.After(e.meta.Ctime)
}

// tellCtime tells the metadata of e's ctime, if that is owed and no bytes are on their way, which bring a later one. The caller holds e's gate exclusively.
func (v *Volume) tellCtime(ctx context.Context, e *inode) error {
	const op = "setattr"
	e.mu.Lock()
	if !e.owesCtime() || len(e.chunks) > 0 {
		e.mu.Unlock()
		return nil
	}
	uid := e.meta.UID
	cmd := &metapb.Command{Time: pbTime(e.ctime), Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{
		Ino: uint64(e.ino), Set: pbSetAttr(&vfs.SetAttr{UID: &uid}), LeaseEpoch: e.lease.Epoch, Change: e.top(),
	}}}
	e.mu.Unlock()
	r, err := v.apply(ctx, op, &vfs.Root, cmd)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch kindOfCommand(err) {
	case vfs.KindOK:
		e.learn(attrOf(r.GetAttr().GetAttr()))
		e.extend(r.GetAttr().GetLease())
		e.extChange = e.meta.Change
	case vfs.KindFenced, vfs.KindUnknownOrigin:
		v.loseLease(e, err)
	}
	return err
}

// tellCtimes tells the metadata what is owed to it, unless it is in use now.
func (v *Volume) tellCtimes(ctx context.Context) {
	for ino := range v.lateCtimes.take() {
		e := v.find(ino)
		if e == nil {
			continue // it was given back, and told before that
		}
		if e.gate.TryAcquire(gateWide) {
			_ = v.tellCtime(ctx, e)
			e.gate.Release(gateWide)
		}
		e.mu.Lock()
		if e.owesCtime() {
			v.lateCtimes.note(ino) // the next time
		}
		e.mu.Unlock()
		v.release(e)
	}
}

// ctimeOf is the ctime of a leased inode of which the metadata knows at. e.mu is held.
func (e *inode) ctimeOf(at time.Time) time.Time {
	if e.ctime.After(at) {
		return e.ctime
	}
	return at
}
