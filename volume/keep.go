package volume

import (
	"context"
	"errors"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// Opens and locks of clients (vfs.Keeper). Those that have to outlive the gateway are records at the shard; a copy of
// what is recorded stands beside the open in the table, so that an open which is recorded already costs nothing, and the read-only opens
// that are not recorded can be when they have lived for a while (loose.go), or their file loses its last name.

var _ vfs.Keeper = (*Volume)(nil)

// shareKey names a share of an inode.
type shareKey struct {
	client uint64
	state  vfs.StateID
}

// keptShare is a share of an open inode.
type keptShare struct {
	vfs.Share
	recorded bool // at the shard, as it is
	unsure   bool // perhaps, because an answer did not come

	// Of one that is not recorded; see loose.go.
	ino        vfs.Ino
	in         *looseRing
	prev, next *keptShare
	since      uint64 // loose.ticks when it came
}

func keyOf(s *vfs.Share) shareKey { return shareKey{s.Client, s.State} }

// Keeps implements vfs.Keeper.
func (v *Volume) Keeps() bool { return v.cfg.Keep }

// pbShare is s for the metadata.
func pbShare(ino vfs.Ino, s *vfs.Share) *metapb.ClientOpen {
	return &metapb.ClientOpen{Client: s.Client, Stateid: s.State[:], Owner: s.Owner, Access: uint32(s.Access), Deny: uint32(s.Deny), Ino: uint64(ino)}
}

// deniedError is the answer to an open that another one is in the way of.
func deniedError(op string, d *metapb.ShareDenied) error {
	return &vfs.Error{Kind: vfs.KindShareDenied, Op: op, Err: &vfs.DeniedBy{Client: d.Client}}
}

// setShare notes a share of e, which is open.
func (v *Volume) setShare(e *inode, s *vfs.Share, recorded bool) {
	k := &keptShare{Share: *s, recorded: recorded, ino: e.ino}
	k.Owner = slices.Clone(s.Owner)
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	if e.shares == nil {
		e.shares = make(map[shareKey]*keptShare)
	}
	v.table.loose.drop(e.shares[keyOf(s)])
	e.shares[keyOf(s)] = k
	if !recorded {
		v.table.loose.add(k)
	}
}

// share is what is noted of a share of e now, nil if nothing is.
func (v *Volume) share(e *inode, key shareKey) *keptShare {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	k := e.shares[key]
	if k == nil {
		return nil
	}
	now := *k
	return &now
}

// dropShare forgets a share of e and returns what it was.
func (v *Volume) dropShare(e *inode, key shareKey) *keptShare {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	k := e.shares[key]
	v.table.loose.drop(k)
	delete(e.shares, key)
	return k
}

// doubt notes that a share of e may be recorded otherwise than it is.
func (v *Volume) doubt(e *inode, key shareKey) {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	if k := e.shares[key]; k != nil {
		k.unsure = true
	}
}

// maxKeepOpens is how many opens that are not recorded a command brings which may take a file's last name. With more, those
// of the file it hit are recorded afterwards.
const maxKeepOpens = 16

func (v *Volume) keepOpens() []*metapb.ClientOpen {
	if !v.cfg.Keep {
		return nil
	}
	list, _ := v.table.looseShares(maxKeepOpens)
	return slices.DeleteFunc(list, func(o *metapb.ClientOpen) bool { return v.elsewhere(o.Client) })
}

// elsewhere reports whether a client is known to be another gateway's, which may know that what it had open here has ended.
func (v *Volume) elsewhere(client uint64) bool {
	if v.cfg.Serves == nil {
		return false
	}
	served, err := v.cfg.Serves(client)
	return err == nil && !served
}

// looseOf lists the shares of e that are not recorded.
func (v *Volume) looseOf(e *inode) (out []vfs.Share) {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	for _, k := range e.shares {
		if !k.recorded {
			out = append(out, k.Share)
		}
	}
	return out
}

// OpenUnrecorded reports whether a file is open, or being opened, by clients of this gateway whose opens are not recorded.
func (v *Volume) OpenUnrecorded(ino vfs.Ino) bool {
	v.table.mu.Lock()
	defer v.table.mu.Unlock()
	e := v.table.open[ino]
	if e == nil {
		return false
	}
	for _, k := range e.shares {
		if !k.recorded {
			return true
		}
	}
	return false
}

// isRecorded reports whether s is recorded as it is.
func (k *keptShare) isRecorded(s *vfs.Share) bool {
	return k != nil && k.recorded && !k.unsure && k.Access == s.Access && k.Deny == s.Deny
}

// OpenShared implements vfs.Keeper, as do the methods that follow.
func (v *Volume) OpenShared(ctx context.Context, c *vfs.Cred, ino vfs.Ino, f vfs.OpenFlags, override bool, s vfs.Share) (vfs.Attr, error) {
	e := v.acquire(ino)
	old := v.share(e, keyOf(&s))
	v.release(e)
	if !s.Lasting() || old.isRecorded(&s) {
		a, err := v.openShared(ctx, c, ino, f, override, &s, false)
		if !errors.Is(err, errRecord) {
			return a, err
		}
	}
	return detached(ctx, v, "open", func(ctx context.Context) (vfs.Attr, error) {
		return v.openShared(ctx, c, ino, f, override, &s, true)
	}, func(vfs.Attr) {
		if old == nil { // else it is an upgrade of what goes on
			_ = v.Unshare(v.ctx, ino, vfs.Closing{Share: s})
		}
		_ = v.Close(v.ctx, ino, f)
	})
}

// errRecord says of an open that has no record that whether it can be made only the command tells that makes one: opens of the file deny something, or
// it has lost its name and is kept for nobody but those who had it open at a gateway that was ended.
var errRecord = errors.New("to be decided by a record")

// openShared is Open with a share that is recorded with it, or needs not to be.
func (v *Volume) openShared(ctx context.Context, c *vfs.Cred, ino vfs.Ino, f vfs.OpenFlags, override bool, s *vfs.Share, record bool) (vfs.Attr, error) {
	const op = "open"
	e := v.acquire(ino)
	defer v.release(e)
	v.addOpen(e, f)
	old := v.share(e, keyOf(s))
	if old == nil && !record {
		// Before anything else: a removal that is asked for from now on knows of it.
		v.setShare(e, s, false)
	}
	rms, _ := v.removals.underway(nil, ino)
	var a vfs.Attr
	var err error
	if record {
		a, err = v.openRecorded(ctx, c, e, f, override, s)
	} else {
		var denies bool
		if a, denies, err = v.checkOpen(ctx, c, e, f, override); err == nil {
			err = passed(ctx, rms, ino, op) // a record keeps its file
			if (err == nil && (denies || a.Nlink == 0) || vfs.KindOf(err) == vfs.KindStale) && !old.isRecorded(s) {
				err = errRecord
			}
		}
	}
	if err != nil {
		switch maybe := record && vfs.KindOf(err) != vfs.KindShareDenied; {
		case old != nil && maybe:
			v.doubt(e, keyOf(s))
		case old == nil:
			v.dropShare(e, keyOf(s))
			if maybe {
				v.closings.add(v, fileClose(ino, s, nil))
			}
		}
		v.undoOpen(ctx, e, f)
		return vfs.Attr{}, err
	}
	return a, nil
}

// openRecorded opens e and records it, in one command, which takes the write lease too if it is needed.
func (v *Volume) openRecorded(ctx context.Context, c *vfs.Cred, e *inode, f vfs.OpenFlags, override bool, s *vfs.Share) (vfs.Attr, error) {
	const op = "open"
	ask := &metapb.OpenFile{Ino: uint64(e.ino), Flags: uint32(f), Override: override, Share: pbShare(e.ino, s)}
	if err := e.leasing.Acquire(ctx, 1); err != nil {
		return vfs.Attr{}, vfs.Wrap(op, err)
	}
	defer e.leasing.Release(1)
	if f&vfs.OpenWrite != 0 {
		e.mu.Lock()
		ask.Lease = !e.leased() || !e.known
		e.mu.Unlock()
	}
	x := v.watches.begin()
	defer v.watches.end(x)
	o, err := v.applyOpen(ctx, op, c, ask)
	if err != nil {
		return vfs.Attr{}, err
	}
	v.setShare(e, s, true)
	if o.GetLease() != nil {
		return v.granted(e, o.Lease, attrOf(o.GetAttr())), nil
	}
	return v.overlaid(ctx, x, attrOf(o.GetAttr()), op)
}

// record records a share of e, whose file is open.
func (v *Volume) record(ctx context.Context, e *inode, s *vfs.Share) error {
	const op = "share"
	if err := e.leasing.Acquire(ctx, 1); err != nil {
		return vfs.Wrap(op, err)
	}
	defer e.leasing.Release(1)
	_, err := v.applyOpen(ctx, op, nil, &metapb.OpenFile{Ino: uint64(e.ino), Share: pbShare(e.ino, s)})
	if err == nil {
		v.setShare(e, s, true)
	}
	return err
}

func (v *Volume) Share(ctx context.Context, ino vfs.Ino, s vfs.Share) error {
	e := v.find(ino)
	if e == nil {
		return vfs.Errorf(vfs.KindInvalid, "share", "inode %d is not open", ino)
	}
	defer v.release(e)
	old := v.share(e, keyOf(&s))
	switch {
	case old.isRecorded(&s):
		return nil
	case s.Lasting(), old != nil && (old.recorded || old.unsure): // the latter needs not to last any more, but it has a record
		return v.record(vfs.WithCall(ctx, vfs.CallOf(ctx).Beside()), e, &s) // whether a record has to be made depends on what this gateway knows
	}
	v.setShare(e, &s, false)
	return nil
}

func (v *Volume) Unshare(ctx context.Context, ino vfs.Ino, c vfs.Closing) error {
	var k *keptShare
	if e := v.find(ino); e != nil {
		k = v.dropShare(e, keyOf(&c.Share))
		v.release(e)
	}
	if c.Released {
		return nil
	}
	named := c.Share.State != (vfs.StateID{})
	recorded := k != nil && (k.recorded || k.unsure) || k == nil && named && c.Share.Lasting()
	if !recorded && len(c.Locks) == 0 {
		return nil
	}
	var s *vfs.Share
	if recorded {
		s = &c.Share
	}
	f := fileClose(ino, s, c.Locks)
	if !c.Now {
		v.closings.add(v, f)
		return nil
	}
	err := v.closings.run(ctx, v, []*metapb.FileClose{f})
	if err != nil {
		v.closings.add(v, f)
	}
	return err
}

// fileClose is the end of a share (nil: none) and of lock-owners, of one client.
func fileClose(ino vfs.Ino, s *vfs.Share, locks []vfs.HeldLocks) *metapb.FileClose {
	f := &metapb.FileClose{Ino: uint64(ino)}
	if s != nil {
		f.Client, f.Stateid = s.Client, slices.Clone(s.State[:])
	}
	for _, l := range locks {
		f.Client = l.Owner.Client
		f.Locks = append(f.Locks, &metapb.LockOwner{Owner: []byte(l.Owner.Owner), Stateid: l.State[:]})
	}
	return f
}

func (v *Volume) Lock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, s vfs.LockState, r byterange.Range) (*vfs.LockConflict, error) {
	const op = "lock"
	t := metapb.LockType_LOCK_READ
	if r.Write {
		t = metapb.LockType_LOCK_WRITE
	}
	res, err := v.setLock(ctx, op, &metapb.SetLock{
		Ino: uint64(ino), Client: o.Client, Owner: []byte(o.Owner), Stateid: s.State[:], State: s.Open[:],
		Type: t, Offset: r.First, Length: r.Length(),
	})
	if err != nil {
		return nil, err
	}
	return conflictOf(op, res.GetDenied())
}

func (v *Volume) TestLock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, r byterange.Range) (*vfs.LockConflict, error) {
	const op = "test lock"
	t := metapb.LockType_LOCK_READ
	if r.Write {
		t = metapb.LockType_LOCK_WRITE
	}
	res, err := v.query(ctx, op, nil, &metapb.Query{Q: &metapb.Query_TestLock{TestLock: &metapb.TestLockQ{
		Ino: uint64(ino), Client: o.Client, Owner: []byte(o.Owner), Type: t, Offset: r.First, Length: r.Length(),
	}}})
	if err != nil {
		return nil, err
	}
	return conflictOf(op, res.GetLock().GetDenied())
}

func conflictOf(op string, d *metapb.LockDenied) (*vfs.LockConflict, error) {
	if d == nil {
		return nil, nil
	}
	first, last, ok := byterange.Of(d.Offset, d.Length)
	if !ok {
		return nil, vfs.Errorf(vfs.KindCorrupt, op, "the metadata told of a lock at %d of %d bytes", d.Offset, d.Length)
	}
	return &vfs.LockConflict{
		Owner: vfs.LockOwner{Client: d.Client, Owner: string(d.Owner)},
		Range: byterange.Range{First: first, Last: last, Write: d.Type == metapb.LockType_LOCK_WRITE},
	}, nil
}

func (v *Volume) Unlock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, first, last uint64) error {
	r := byterange.Range{First: first, Last: last}
	_, err := v.setLock(ctx, "unlock", &metapb.SetLock{
		Ino: uint64(ino), Client: o.Client, Owner: []byte(o.Owner), Type: metapb.LockType_LOCK_NONE, Offset: first, Length: r.Length(),
	})
	return err
}
