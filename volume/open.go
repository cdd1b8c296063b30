package volume

import (
	"context"
	"slices"
	"sync"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// maxKeepInodes is how many open inodes a Remove or Rename names; with more it asks to
// keep whatever it hits, and gives back what was not open.
const maxKeepInodes = 256

// removals are the commands under way that may take an inode's last link. An
// inode that is opened while some are under way may be missing in what they asked to
// keep: the open waits for them, and fails if one of them hit it.
type removals struct {
	mu       sync.Mutex // guards the fields below, and killed of openings
	live     map[*removal]struct{}
	openings map[*opening]struct{}
}

// removal is one command under way.
type removal struct {
	done   chan struct{}
	at     uint64  // when it asked which inodes are open, see table.openInodes
	killed vfs.Ino // what it deleted, or took the last name of without keeping it for this gateway; 0: nothing. Set before done is closed
}

// opening is an open of an inode that is not known before it is open. It
// collects what was deleted meanwhile.
type opening struct{ killed []vfs.Ino }

func (r *removals) begin() *removal {
	rm := &removal{done: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live == nil {
		r.live = make(map[*removal]struct{})
	}
	r.live[rm] = struct{}{}
	return rm
}

func (r *removals) end(rm *removal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, rm)
	if rm.killed != 0 {
		for o := range r.openings {
			o.killed = append(o.killed, rm.killed)
		}
	}
	close(rm.done)
}

func (r *removals) beginOpening() *opening {
	o := &opening{}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.openings == nil {
		r.openings = make(map[*opening]struct{})
	}
	r.openings[o] = struct{}{}
	return o
}

func (r *removals) endOpening(o *opening) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.openings, o)
}

// underway lists the removals that may not know about an open counted just now,
// and whether o saw ino deleted.
func (r *removals) underway(o *opening, ino vfs.Ino) (rms []*removal, killed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rm := range r.live {
		rms = append(rms, rm)
	}
	return rms, o != nil && slices.Contains(o.killed, ino)
}

// passed waits for the removals and fails if one of them deleted ino.
func passed(ctx context.Context, rms []*removal, ino vfs.Ino, op string) error {
	for _, rm := range rms {
		select {
		case <-rm.done:
			if rm.killed == ino {
				return vfs.Errorf(vfs.KindStale, op, "inode %d", ino)
			}
		case <-ctx.Done():
			return vfs.Wrap(op, ctx.Err())
		}
	}
	return nil
}

// left says what is left of an inode that lost a name.
type left struct {
	nlink  uint32
	orphan bool // without links, it is held for this gateway
	opened bool // without links, opens or locks of clients keep it
}

// unlinked takes the result of a command that dropped a link of ino.
func (v *Volume) unlinked(ctx context.Context, rm *removal, ino uint64, l left, told []*metapb.ClientOpen, op string) {
	if l.nlink == 0 {
		v.endTold(ino, told)
	}
	switch {
	case l.nlink > 0:
		v.changedElsewhere(ctx, ino, op)
	case l.orphan:
		e := v.acquire(vfs.Ino(ino))
		defer v.release(e)
		e.mu.Lock()
		e.orphan = true
		e.mu.Unlock()
		if v.isOpen(e) {
			v.keepLoose(ctx, e, told)
			v.changedElsewhere(ctx, ino, op)
			return
		}
		v.endOrphan(ctx, e)
		rm.killed = vfs.Ino(ino)
	case l.opened:
		v.changedElsewhere(ctx, ino, op)
		if e := v.find(vfs.Ino(ino)); e != nil {
			defer v.release(e)
			if v.openSince(e, rm.at) {
				return // told again, as below
			}
		}
		rm.killed = vfs.Ino(ino)
	default:
		if e := v.find(vfs.Ino(ino)); e != nil {
			defer v.release(e)
			if v.cfg.Keep && v.openSince(e, rm.at) {
				return // told again to a client that repeats its request: the file was kept then
			}
			// Whoever opened it since did not know that it is about to go, and is told by rm. If that makes a record the shard decides, which may keep
			// the file for those who had it open at another gateway.
			undecided := v.cfg.Keep && v.isOpen(e)
			e.mu.Lock()
			if undecided {
				e.forget()
			} else {
				v.kill(e)
			}
			e.mu.Unlock()
		}
		rm.killed = vfs.Ino(ino)
	}
}

// endTold ends what the command that took ino's last name recorded of opens (told) that were closed while it was under way.
func (v *Volume) endTold(ino uint64, told []*metapb.ClientOpen) {
	for _, o := range told {
		if o.Ino != ino {
			continue
		}
		s := vfs.Share{Client: o.Client, State: vfs.StateID(o.Stateid)}
		if e := v.find(vfs.Ino(ino)); e != nil {
			k := v.share(e, keyOf(&s))
			v.release(e)
			if k != nil {
				continue
			}
		}
		v.closings.add(v, fileClose(vfs.Ino(ino), &s, nil))
	}
}

// keepLoose records what was not recorded of the opens of e, which has lost its last name, and notes those that the command that took
// it brought (told). Until then this gateway's hold keeps the file.
func (v *Volume) keepLoose(ctx context.Context, e *inode, told []*metapb.ClientOpen) {
	if !v.cfg.Keep {
		return
	}
	for _, s := range v.looseOf(e) {
		if slices.ContainsFunc(told, func(o *metapb.ClientOpen) bool {
			return o.Ino == uint64(e.ino) && o.Client == s.Client && string(o.Stateid) == string(s.State[:])
		}) {
			v.setShare(e, &s, true)
			continue
		}
		if v.elsewhere(s.Client) {
			continue
		}
		if err := v.record(vfs.WithCall(ctx, nil), e, &s); err != nil && vfs.KindOf(err) != vfs.KindExpired {
			v.cfg.Logger.Warn("an unlinked file that is open will not outlive this gateway", "inode", uint64(e.ino), "err", err)
		}
	}
}

// endOrphan gives back the hold on an inode without links that nobody has open here:
// unless a client has it open elsewhere it is deleted, and so is what was buffered for it.
func (v *Volume) endOrphan(ctx context.Context, e *inode) {
	e.mu.Lock()
	if !e.orphan {
		e.mu.Unlock()
		return
	}
	e.orphan = false
	if !v.cfg.Keep {
		v.kill(e)
	}
	e.mu.Unlock()
	drop := func(ctx context.Context) error {
		if err := v.closings.flush(ctx, v); err != nil {
			return err
		}
		if _, err := v.apply(ctx, "orphan.release", nil, &metapb.Command{
			Op: &metapb.Command_ReleaseOrphan{ReleaseOrphan: &metapb.ReleaseOrphan{Ino: uint64(e.ino)}},
		}); err != nil || !v.cfg.Keep {
			return err
		}
		if _, err := v.queryAttr(ctx, "orphan.release", e.ino); vfs.KindOf(err) == vfs.KindStale {
			e.mu.Lock()
			v.kill(e)
			e.mu.Unlock()
		}
		return nil
	}
	if drop(ctx) == nil {
		return
	}
	// It must not stay because the caller had no time.
	v.spawn(func() {
		if err := v.retry("orphan.release", func() error { return drop(v.ctx) }); err != nil {
			v.cfg.Logger.Warn("an unlinked inode stays until this gateway's leases end", "inode", uint64(e.ino), "err", err)
		}
	})
}

// Create implements vfs.FS.
func (v *Volume) Create(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	const op = "create"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Created{}, err
	}
	return detached(ctx, v, op, func(ctx context.Context) (vfs.Created, error) {
		return v.create(ctx, c, dir, name, a)
	}, func(made vfs.Created) {
		if a.Share != nil && made.State == a.Share.State { // else it was made before
			_ = v.Unshare(v.ctx, made.Attr.Ino, vfs.Closing{Share: *a.Share})
		}
		if a.Open != 0 {
			_ = v.Close(v.ctx, made.Attr.Ino, a.Open)
		}
	})
}

func (v *Volume) create(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	const op = "create"
	// Truncating what exists is a command of its own, which is ordered with what
	// is buffered. Whether it is needed is known only after.
	cut := a.Attr.Size != nil && *a.Attr.Size == 0
	set := a.Attr
	if cut {
		set.Size = nil
	}
	x := v.watches.begin()
	defer v.watches.end(x)
	opening := v.removals.beginOpening()
	defer v.removals.endOpening(opening)
	ask := &metapb.Create{
		Parent: uint64(dir), Name: []byte(name), Type: uint32(vfs.TypeFile),
		Exclusive: uint32(a.Exclusive), Verifier: a.Verifier[:], Attr: pbSetAttr(&set), Open: uint32(a.Open),
	}
	share := a.Share
	if share != nil && share.Lasting() {
		ask.Share = pbShare(0, share)
	}
	again := ask.Share != nil && vfs.CallOf(ctx).Repeated()
	if again { // as applyOpen
		if err := v.closings.flush(ctx, v); err != nil {
			return vfs.Created{}, err
		}
	}
	cr, err := v.applyCreate(ctx, op, c, ask)
	if err != nil {
		return vfs.Created{}, err
	}
	out := vfs.Created{Attr: attrOf(cr.GetAttr()), Dir: dirChangeOf(cr.GetDir()), New: cr.GetCreated()}
	e := v.acquire(out.Attr.Ino)
	defer v.release(e)
	if a.Open != 0 {
		v.addOpen(e, a.Open)
	}
	kept := v.keepCreated(e, share, cr.GetStateid(), &out)
	undo := func() {
		if kept != nil && kept.State == share.State { // else it was made before
			_ = v.Unshare(v.ctx, e.ino, vfs.Closing{Share: *kept})
		}
		if a.Open != 0 {
			v.undoOpen(ctx, e, a.Open)
		}
	}
	if again && cr.GetLease() == nil && vfs.CallOf(ctx).Serving() { // as openOnce: what is told may have been given up since
		if err := v.record(vfs.WithCall(ctx, nil), e, kept); err != nil {
			undo()
			return vfs.Created{}, err
		}
	}
	if a.Open != 0 && (kept == nil || !kept.Lasting()) {
		// Counted only now, since the inode was not known. (What was recorded in the command keeps its file.)
		rms, killed := v.removals.underway(opening, e.ino)
		if killed {
			err = vfs.Errorf(vfs.KindStale, op, "inode %d", e.ino)
		} else {
			err = passed(ctx, rms, e.ino, op)
		}
		if err != nil {
			undo()
			return vfs.Created{}, err
		}
	}
	if cr.GetLease() != nil && v.cfg.Want != nil && v.watches.saw(x, out.Attr.Ino) {
		cr.Lease = nil // it was given back to another gateway meanwhile
	}
	if cr.GetLease() != nil {
		at := v.granted(e, cr.GetLease(), out.Attr)
		if out.New {
			e.mu.Lock()
			if e.leased() && e.meta.Change == out.Attr.Change {
				e.ext, e.extChange = extentMapOf(segment{off: 0, end: maxOffset}), out.Attr.Change
			}
			e.mu.Unlock()
		} else {
			out.Attr = at
		}
	} else if out.Attr, err = v.overlaid(ctx, x, out.Attr, op); err != nil {
		undo()
		return vfs.Created{}, err
	}
	if cut && !out.New && a.Exclusive == vfs.Unchecked {
		opened := a.Open&vfs.OpenWrite != 0 // then the permission to write was checked
		at, err := v.setAttr(ctx, c, e.ino, vfs.SetAttr{Size: a.Attr.Size}, opened)
		if err != nil {
			undo()
			return vfs.Created{}, err
		}
		out.Attr = at
	}
	return out, nil
}

// applyCreate runs a Create, as applyOpen an OpenFile.
func (v *Volume) applyCreate(ctx context.Context, op string, c *vfs.Cred, ask *metapb.Create) (*metapb.CreateResult, error) {
	for again := false; ; again = true {
		r, err := v.apply(ctx, op, c, &metapb.Command{Op: &metapb.Command_Create{Create: ask}})
		if err != nil {
			return nil, err
		}
		cr := r.GetCreate()
		if cr.GetDenied() == nil {
			return cr, nil
		}
		if again || !v.closings.again(ctx, v) && !vfs.CallOf(ctx).Repeated() {
			return nil, deniedError(op, cr.Denied)
		}
	}
}

// keepCreated notes the share of a Create, whose command recorded it under stateid if it has to last.
func (v *Volume) keepCreated(e *inode, s *vfs.Share, stateid []byte, out *vfs.Created) *vfs.Share {
	if s == nil {
		return nil
	}
	kept := *s
	if len(stateid) == len(kept.State) {
		kept.State = vfs.StateID(stateid)
	}
	out.State = kept.State
	if old := v.share(e, keyOf(&kept)); old == nil || kept.Lasting() {
		v.setShare(e, &kept, kept.Lasting())
	}
	return &kept
}

// Open implements vfs.FS.
func (v *Volume) Open(ctx context.Context, c *vfs.Cred, ino vfs.Ino, f vfs.OpenFlags, override bool) (vfs.Attr, error) {
	const op = "open"
	e := v.acquire(ino)
	defer v.release(e)
	v.addOpen(e, f)
	rms, _ := v.removals.underway(nil, ino)
	a, _, err := v.checkOpen(ctx, c, e, f, override)
	if err == nil {
		err = passed(ctx, rms, ino, op)
	}
	if err != nil {
		v.undoOpen(ctx, e, f)
		return vfs.Attr{}, err
	}
	return v.touches.overlay(a), nil
}

// checkOpen checks the permission to open e and takes the write lease if it is
// needed. denies: there are records of opens that deny something, of other gateways' clients.
func (v *Volume) checkOpen(ctx context.Context, c *vfs.Cred, e *inode, f vfs.OpenFlags, override bool) (a vfs.Attr, denies bool, err error) {
	const op = "open"
	e.mu.Lock()
	leased := e.leased() && e.known && !e.dead
	e.mu.Unlock()
	if leased {
		a, err := v.fileAttr(ctx, e, op)
		if err != nil || override && c.UID == a.UID {
			return a, false, err
		}
		var want vfs.Access
		if f&vfs.OpenRead != 0 {
			want |= vfs.AccessRead
		}
		if f&vfs.OpenWrite != 0 {
			want |= vfs.AccessWrite
		}
		return a, false, a.CheckAccess(c, want, op)
	}
	if f&vfs.OpenWrite != 0 {
		if err := e.leasing.Acquire(ctx, 1); err != nil {
			return vfs.Attr{}, false, vfs.Wrap(op, err)
		}
		defer e.leasing.Release(1)
		a, err = v.acquireLease(ctx, e, op, c, &metapb.AcquireLease{Flags: uint32(f), Override: override})
		return a, false, err
	}
	x := v.watches.begin()
	defer v.watches.end(x)
	r, err := v.query(ctx, op, c, &metapb.Query{Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{
		Ino: uint64(e.ino), Open: uint32(f), Override: override,
	}}})
	if err != nil {
		return vfs.Attr{}, false, err
	}
	a, err = v.overlaid(ctx, x, attrOf(r.GetAttr().GetAttr()), op)
	return a, r.GetAttr().GetDenies(), err
}

// undoOpen takes back an open that failed later.
func (v *Volume) undoOpen(ctx context.Context, e *inode, f vfs.OpenFlags) {
	if last, _ := v.dropOpen(e, f); last {
		v.endOrphan(ctx, e)
	}
}

// Close implements vfs.FS.
func (v *Volume) Close(ctx context.Context, ino vfs.Ino, f vfs.OpenFlags) error {
	e := v.find(ino)
	if e == nil {
		return vfs.Errorf(vfs.KindInvalid, "close", "inode %d is not open", ino)
	}
	defer v.release(e)
	last, ok := v.dropOpen(e, f)
	if !ok {
		return vfs.Errorf(vfs.KindInvalid, "close", "inode %d is not open", ino)
	}
	if last {
		v.endOrphan(ctx, e)
	}
	return nil
}
