package memfs

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

// outcome is what a mutation returned.
type outcome[T any] struct {
	val T
	err error
}

// once does a mutation of the call of ctx, if there is one, unless it was done before: then it returns what that returned. k.mu is held.
func once[T any](ctx context.Context, k *Kept, op string, do func() (T, error)) (val T, again bool, err error) {
	call := vfs.CallOf(ctx)
	if call == nil {
		val, err = do()
		return val, false, err
	}
	if k.released[call.Client] {
		return val, false, vfs.KindExpired.Err(op)
	}
	key, step := slotKey{call.Session, call.Slot}, call.Next()
	slot := k.calls[key]
	switch {
	case slot == nil || slot.seq < call.Seq:
		slot = &keptCalls{client: call.Client, seq: call.Seq, outcomes: make(map[uint32]any)}
		k.calls[key] = slot
	case slot.seq > call.Seq:
		return val, false, vfs.KindSuperseded.Err(op)
	}
	if was, ok := slot.outcomes[step]; ok {
		o, ok := was.(outcome[T])
		if !ok {
			return val, false, vfs.KindChanged.Err(op)
		}
		return o.val, true, o.err
	}
	val, err = do()
	slot.outcomes[step] = outcome[T]{val, err}
	return val, false, err
}

// Create implements vfs.FS, as do the methods that follow.
func (k *Kept) Create(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	made, again, err := once(ctx, k, "create", func() (vfs.Created, error) {
		if a.Share != nil {
			old, err := k.FS.Lookup(ctx, &vfs.Root, dir, name)
			if err == nil {
				if err := k.check(old.Ino, a.Share, "create"); err != nil {
					return vfs.Created{}, err
				}
			}
		}
		made, err := k.FS.Create(ctx, c, dir, name, a)
		if err == nil && a.Share != nil {
			k.put(made.Attr.Ino, *a.Share)
			made.State = a.Share.State
		}
		return made, err
	})
	if err != nil {
		return made, err
	}
	if a.Open != 0 {
		if again {
			if _, err := k.FS.Open(ctx, &vfs.Root, made.Attr.Ino, a.Open, true); err != nil {
				return vfs.Created{}, err
			}
		}
		k.opened[opened{made.Attr.Ino, a.Open}]++
	}
	return made, nil
}

func (k *Kept) MakeNode(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.NodeArgs) (vfs.Created, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	made, _, err := once(ctx, k, "mknod", func() (vfs.Created, error) { return k.FS.MakeNode(ctx, c, dir, name, a) })
	return made, err
}

func (k *Kept) SetAttr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, s vfs.SetAttr, opened bool) (vfs.Attr, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, _, err := once(ctx, k, "setattr", func() (vfs.Attr, error) { return k.FS.SetAttr(ctx, c, ino, s, opened) })
	return a, err
}

func (k *Kept) Link(ctx context.Context, c *vfs.Cred, ino, dir vfs.Ino, name string) (vfs.Attr, vfs.DirChange, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	type linked struct {
		a vfs.Attr
		d vfs.DirChange
	}
	l, _, err := once(ctx, k, "link", func() (l linked, err error) {
		l.a, l.d, err = k.FS.Link(ctx, c, ino, dir, name)
		return l, err
	})
	return l.a, l.d, err
}

func (k *Kept) Remove(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ch, _, err := once(ctx, k, "remove", func() (vfs.DirChange, error) { return k.FS.Remove(ctx, c, dir, name, what) })
	return ch, err
}

func (k *Kept) Rename(ctx context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (vfs.DirChange, vfs.DirChange, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ch, _, err := once(ctx, k, "rename", func() (ch [2]vfs.DirChange, err error) {
		ch[0], ch[1], err = k.FS.Rename(ctx, c, fromDir, from, toDir, to)
		return ch, err
	})
	return ch[0], ch[1], err
}
