package memfs

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/byterange"
)

// Kept is an FS that also keeps opens and locks of clients, and the outcome of the newest call of each slot: the
// reference vfs.Keeper.
type Kept struct {
	*FS

	mu       sync.Mutex // guards everything below; held over every operation that has to do with it
	shares   map[shareKey]*keptShare
	opened   map[opened]int // by this front end, and not closed
	locks    map[vfs.Ino]*byterange.Table[vfs.LockOwner]
	states   map[lockKey]vfs.LockState
	calls    map[slotKey]*keptCalls
	released map[uint64]bool
	commands int
}

var _ vfs.Keeper = (*Kept)(nil)

type (
	shareKey struct {
		ino    vfs.Ino
		client uint64
		state  vfs.StateID
	}
	opened struct {
		ino vfs.Ino
		f   vfs.OpenFlags
	}
	lockKey struct {
		ino   vfs.Ino
		owner vfs.LockOwner
	}
	slotKey struct {
		session [16]byte
		slot    uint32
	}
)

// keptShare is a share. A lasting one holds its file.
type keptShare struct {
	vfs.Share
	holds bool
}

// keptCalls are the outcomes of a slot's newest call.
type keptCalls struct {
	client   uint64
	seq      uint64
	outcomes map[uint32]any
	filled   [2]uint64 // of a call of its own: what range it wrote; see fill.go
}

// Keep makes fs keep.
func Keep(fs *FS) *Kept {
	return &Kept{
		FS:       fs,
		shares:   make(map[shareKey]*keptShare),
		opened:   make(map[opened]int),
		locks:    make(map[vfs.Ino]*byterange.Table[vfs.LockOwner]),
		states:   make(map[lockKey]vfs.LockState),
		calls:    make(map[slotKey]*keptCalls),
		released: make(map[uint64]bool),
	}
}

// Keeps implements vfs.Keeper.
func (k *Kept) Keeps() bool { return true }

// Commands counts what would be commands of a cluster besides those of vfs.FS: changes of what is kept that did not come with an open.
func (k *Kept) Commands() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.commands
}

// Holding counts what is kept: opens, and lock-owners.
func (k *Kept) Holding() (opens, owners int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.shares), len(k.states)
}

// Restart ends the front end as a crash does: what it had open, and shares that do not last, unless they are of a file without links.
func (k *Kept) Restart() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, s := range k.shares {
		if s.holds {
			continue
		}
		if a, err := k.FS.GetAttr(context.Background(), key.ino); err == nil && a.Nlink == 0 {
			k.hold(key.ino, s)
			continue
		}
		delete(k.shares, key)
	}
	for o, n := range k.opened {
		for range n {
			_ = k.FS.Close(context.Background(), o.ino, o.f)
		}
	}
	clear(k.opened)
}

// Release ends a client: everything that is kept for it.
func (k *Kept) Release(client uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.released[client] = true
	for key := range k.shares {
		if key.client == client {
			k.unshare(key)
		}
	}
	for key := range k.states {
		if key.owner.Client == client {
			k.endLocks(key)
		}
	}
	maps.DeleteFunc(k.calls, func(_ slotKey, c *keptCalls) bool { return c.client == client })
}

// hold keeps s's file. k.mu is held.
func (k *Kept) hold(ino vfs.Ino, s *keptShare) {
	if s.holds {
		return
	}
	k.FS.mu.Lock()
	defer k.FS.mu.Unlock()
	if n := k.FS.inodes[ino]; n != nil {
		n.opens++
		s.holds = true
	}
}

func (k *Kept) unshare(key shareKey) {
	s := k.shares[key]
	if s == nil {
		return
	}
	delete(k.shares, key)
	if s.holds {
		_ = k.FS.Close(context.Background(), key.ino, vfs.OpenRead)
	}
}

func (k *Kept) endLocks(key lockKey) {
	delete(k.states, key)
	if t := k.locks[key.ino]; t != nil {
		t.Clear(key.owner, 0, 1<<64-1)
	}
}

// check fails if s may not be kept. k.mu is held.
func (k *Kept) check(ino vfs.Ino, s *vfs.Share, op string) error {
	if k.released[s.Client] {
		return vfs.KindExpired.Err(op)
	}
	for key, o := range k.shares {
		if key.ino != ino || key.client == s.Client && string(o.Owner) == string(s.Owner) {
			continue
		}
		if o.Deny&s.Access != 0 || o.Access&s.Deny != 0 {
			return &vfs.Error{Kind: vfs.KindShareDenied, Op: op, Err: &vfs.DeniedBy{Client: key.client}}
		}
	}
	return nil
}

func (k *Kept) put(ino vfs.Ino, s vfs.Share) {
	key := shareKey{ino, s.Client, s.State}
	s.Owner = slices.Clone(s.Owner)
	old := k.shares[key]
	now := &keptShare{Share: s}
	if s.Lasting() {
		k.hold(ino, now)
	}
	if old != nil {
		k.unshare(key)
	}
	k.shares[key] = now
}

// Open implements vfs.FS.
func (k *Kept) Open(ctx context.Context, c *vfs.Cred, ino vfs.Ino, f vfs.OpenFlags, override bool) (vfs.Attr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, err := k.FS.Open(ctx, c, ino, f, override)
	if err == nil {
		k.opened[opened{ino, f}]++
	}
	return a, err
}

// Close implements vfs.FS.
func (k *Kept) Close(ctx context.Context, ino vfs.Ino, f vfs.OpenFlags) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.opened[opened{ino, f}] == 0 {
		return vfs.Errorf(vfs.KindInvalid, "close", "inode %d is not open", ino)
	}
	k.opened[opened{ino, f}]--
	return k.FS.Close(ctx, ino, f)
}

// OpenShared implements vfs.Keeper, as do the methods that follow.
func (k *Kept) OpenShared(ctx context.Context, c *vfs.Cred, ino vfs.Ino, f vfs.OpenFlags, override bool, s vfs.Share) (vfs.Attr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	open := func() (vfs.Attr, error) {
		if err := k.check(ino, &s, "open"); err != nil {
			return vfs.Attr{}, err
		}
		return k.FS.Open(ctx, c, ino, f, override)
	}
	var a vfs.Attr
	var err error
	if s.Lasting() {
		a, err = k.recorded(ctx, ino, s, open)
	} else if a, err = open(); err == nil {
		k.put(ino, s)
	}
	if err == nil {
		k.opened[opened{ino, f}]++
	}
	return a, err
}

// recorded records a share that do has checked, which returns what it has opened. What was done before is done once more: since then it may have been ended, or it is of another file. k.mu is held.
func (k *Kept) recorded(ctx context.Context, ino vfs.Ino, s vfs.Share, do func() (vfs.Attr, error)) (vfs.Attr, error) {
	type made struct {
		ino   vfs.Ino
		state vfs.StateID
	}
	var a vfs.Attr
	for tried := false; ; tried = true {
		m, again, err := once(ctx, k, "open", func() (m made, err error) {
			if a, err = do(); err == nil {
				k.put(ino, s)
			}
			return made{ino, s.State}, err
		})
		switch {
		case !again:
			return a, err
		case err == nil:
			// One of another owner is a delegation, which came with the open that the call recorded first.
			if key := (shareKey{m.ino, s.Client, m.state}); m != (made{ino, s.State}) && k.shares[key] != nil && bytes.Equal(k.shares[key].Owner, s.Owner) {
				k.unshare(key)
			}
			if a, err = do(); err == nil {
				k.put(ino, s)
			}
			return a, err
		case tried || vfs.KindOf(err) != vfs.KindShareDenied:
			return a, err
		}
	}
}

func (k *Kept) Share(ctx context.Context, ino vfs.Ino, s vfs.Share) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.commands++
	_, err := k.recorded(vfs.WithCall(ctx, vfs.CallOf(ctx).Beside()), ino, s, func() (vfs.Attr, error) {
		return vfs.Attr{}, k.check(ino, &s, "share")
	})
	return err
}

func (k *Kept) Unshare(_ context.Context, ino vfs.Ino, e vfs.Closing) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e.Released { // what lasts is gone, or another front end's now
		if key := (shareKey{ino, e.Share.Client, e.Share.State}); k.shares[key] != nil && !k.shares[key].holds {
			k.unshare(key)
		}
		return nil
	}
	k.commands++
	if e.Share.State != (vfs.StateID{}) {
		k.unshare(shareKey{ino, e.Share.Client, e.Share.State})
	}
	for _, l := range e.Locks {
		if key := (lockKey{ino, l.Owner}); k.states[key].State == l.State {
			k.endLocks(key)
		}
	}
	return nil
}

func (k *Kept) Lock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, s vfs.LockState, r byterange.Range) (*vfs.LockConflict, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.commands++
	if k.released[o.Client] {
		return nil, vfs.KindExpired.Err("lock")
	}
	c, again, err := once(ctx, k, "lock", func() (*vfs.LockConflict, error) {
		if c := k.conflict(ino, o, r); c != nil {
			return c, nil
		}
		t := k.locks[ino]
		if t == nil {
			t = new(byterange.Table[vfs.LockOwner])
			k.locks[ino] = t
		}
		t.Set(o, r.First, r.Last, r.Write)
		return nil, nil
	})
	if key := (lockKey{ino, o}); c == nil && err == nil && (!again || k.states[key] != vfs.LockState{}) {
		k.states[key] = s
	}
	return c, err
}

func (k *Kept) conflict(ino vfs.Ino, o vfs.LockOwner, r byterange.Range) (found *vfs.LockConflict) {
	if t := k.locks[ino]; t != nil {
		t.Conflicts(o, r.First, r.Last, r.Write, func(other vfs.LockOwner, r byterange.Range) bool {
			found = &vfs.LockConflict{Owner: other, Range: r}
			return false
		})
	}
	return found
}

func (k *Kept) TestLock(_ context.Context, ino vfs.Ino, o vfs.LockOwner, r byterange.Range) (*vfs.LockConflict, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.conflict(ino, o, r), nil
}

func (k *Kept) Unlock(ctx context.Context, ino vfs.Ino, o vfs.LockOwner, first, last uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.commands++
	_, _, err := once(ctx, k, "unlock", func() (none struct{}, _ error) {
		if t := k.locks[ino]; t != nil {
			t.Clear(o, first, last)
		}
		return none, nil
	})
	return err
}

func (k *Kept) Resume(ctx context.Context, client uint64) (opens []vfs.HeldOpen, locks []vfs.HeldLocks, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.released[client] {
		return nil, nil, vfs.KindExpired.Err("resume")
	}
	for key, s := range k.shares {
		if key.client != client {
			continue
		}
		if _, err := k.FS.Open(ctx, &vfs.Root, key.ino, s.Access, true); err != nil {
			return opens, locks, err
		}
		k.opened[opened{key.ino, s.Access}]++
		opens = append(opens, vfs.HeldOpen{Ino: key.ino, Share: s.Share})
	}
	for key, s := range k.states {
		if key.owner.Client == client {
			locks = append(locks, vfs.HeldLocks{Ino: key.ino, Owner: key.owner, LockState: s, Ranges: slices.Clone(k.locks[key.ino].Ranges(key.owner))})
		}
	}
	return opens, locks, nil
}

// Settle implements vfs.Keeper: everything is done at once.
func (k *Kept) Settle(context.Context) error { return nil }

func (k *Kept) Slots(_ context.Context, session [16]byte) (out []vfs.SlotSeq, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, c := range k.calls {
		if key.session == session {
			out = append(out, vfs.SlotSeq{Slot: key.slot, Seq: c.seq})
		}
	}
	return out, nil
}

// ReleaseSlots forgets the outcomes of a session's slots from first on, but those of sequences of below and above.
func (k *Kept) ReleaseSlots(session [16]byte, first uint32, below uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.calls, func(key slotKey, c *keptCalls) bool {
		return key.session == session && key.slot >= first && c.seq < below
	})
}
