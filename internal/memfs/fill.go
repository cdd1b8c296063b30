package memfs

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Filler = (*Kept)(nil)

// Fence implements vfs.Filler, as do Fill and EndCall. All is done at once, so the range is that of the newest piece and of those before it.
func (k *Kept) Fence(_ context.Context, _ vfs.Ino, call *vfs.Call, off uint64) (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, err := k.own(call, "fence")
	if err != nil {
		return 0, err
	}
	if c.filled[0] <= off && off < c.filled[1] {
		return c.filled[1], nil
	}
	return off, nil
}

// own is what is known of a call of its own. k.mu is held.
func (k *Kept) own(call *vfs.Call, op string) (*keptCalls, error) {
	if k.released[call.Client] {
		return nil, vfs.KindExpired.Err(op)
	}
	key := slotKey{call.Session, call.Slot}
	c := k.calls[key]
	switch {
	case c == nil:
		c = &keptCalls{client: call.Client, outcomes: map[uint32]any{}}
		k.calls[key] = c
	case c.seq > call.Seq:
		return nil, vfs.KindSuperseded.Err(op)
	}
	c.seq = call.Seq
	return c, nil
}

func (k *Kept) Fill(_ context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, call *vfs.Call) (vfs.Filling, error) {
	return &keptFilling{k: k, cred: *c, ino: ino, start: off, call: call}, nil
}

func (k *Kept) EndCall(_ context.Context, call *vfs.Call) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.calls, slotKey{call.Session, call.Slot})
	return nil
}

// OwnCalls counts the calls of their own that are remembered.
func (k *Kept) OwnCalls() (n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range k.calls {
		if len(c.outcomes) == 0 {
			n++
		}
	}
	return n
}

// keptFilling is a vfs.Filling.
type keptFilling struct {
	k     *Kept
	cred  vfs.Cred
	ino   vfs.Ino
	start uint64
	done  uint64
	call  *vfs.Call
}

func (f *keptFilling) Put(ctx context.Context, p []byte) error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	c, err := f.k.own(f.call, "fill")
	if err != nil {
		return err
	}
	at := f.start + f.done
	if c.filled[1] == 0 {
		c.filled = [2]uint64{at, at}
	} else if c.filled[1] != at {
		return vfs.Errorf(vfs.KindChanged, "fill", "from %d on, after %d", at, c.filled[1])
	}
	if _, _, err := f.k.FS.Write(ctx, &f.cred, f.ino, at, p, vfs.FileSync); err != nil {
		return err
	}
	f.done += uint64(len(p))
	c.filled[1] = f.start + f.done
	return nil
}

func (f *keptFilling) Done() uint64 { return f.done }

func (f *keptFilling) End(context.Context) (uint64, error) { return f.done, nil }
