//go:build linux

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
)

const (
	// watchPause is between two reads of a watch, watchReads how many may be without an answer: as many as are sent while a gateway stands still.
	watchPause = 300 * time.Millisecond
	watchReads = 32
	// unstableMax is how much a worker buffers at a gateway before another client changes the file.
	unstableMax = 20 << 10
	// sharedOwner opens what stays open while others of the same client open and close it.
	sharedOwner = "shared"
)

// watch reads registers through one gateway, whatever becomes of that, and asks again before it is answered: so a gateway that stood
// still finds reads that began when what it knows of the registers was not true any more.
type watch struct {
	w     *work
	at    *roamer
	r     *rand.Rand
	files []*nfsclient.File // by worker
}

func (w *work) startWatches(ctx context.Context, seed uint64) error {
	for i, m := range w.f.gateways {
		c, err := w.f.roamWith(ctx, fmt.Sprintf("watch of %s-%d", m.name, seed), "", m, watchReads, nil)
		if err != nil {
			return err
		}
		c.stays = true
		w.f.roamers = append(w.f.roamers, c)
		x := &watch{w: w, at: c, r: rand.New(rand.NewPCG(seed, 3000+uint64(i)))}
		for id := range w.workers {
			f, err := c.Open(ctx, w.dir, nfsclient.OpenArgs{Name: registerName(id), Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
			if err != nil {
				return err
			}
			x.files = append(x.files, f)
		}
		w.watches = append(w.watches, x)
	}
	for _, x := range w.watches {
		w.done.Go(x.run)
	}
	return nil
}

func (x *watch) run() {
	w := x.w
	waiting := make(chan struct{}, watchReads)
	defer func() {
		for range watchReads {
			waiting <- struct{}{} // the last ones have ended
		}
	}()
	for {
		select {
		case <-w.stop:
			return
		case <-w.ctx.Done():
			return
		case <-time.After(watchPause):
		}
		id := x.r.IntN(len(x.files))
		select {
		case waiting <- struct{}{}:
		default:
			continue
		}
		if !w.turn.TryRLock() { // all rest
			<-waiting
			continue
		}
		go func() {
			defer func() {
				w.turn.RUnlock()
				<-waiting
			}()
			if err := x.read(id); err != nil {
				w.fail(fmt.Errorf("%s, %s: register %d: %w", x.at.name, time.Now().Format("15:04:05.000"), id, err))
			}
		}()
	}
}

func (x *watch) read(id int) error {
	ctx, cancel := context.WithTimeout(x.w.ctx, 2*patience)
	defer cancel()
	of := &x.w.workers[id].own
	low := of.acknowledged.Load()
	got := make([]byte, registerSizes[id%len(registerSizes)])
	n, _, err := x.at.Read(ctx, x.files[id], 0, got)
	if err != nil {
		return err
	}
	x.w.ops.Add(1)
	return of.check(got[:n], low, len(got))
}

// both is a file that two clients use.
type both struct {
	h            *hand
	name, second string // second: another name, if linked
	linked       bool
	did          []string
	fh           nfsclient.FH
	data         []byte // what is stable
	mode         uint32
}

// shared has a file open through two clients. One has bytes in it that are not stable when the other one changes something: its size, times, mode, names, or other bytes. The
// first one is told what it is now, makes its bytes stable, and both read what they have made of it.
func (h *hand) shared(ctx context.Context, by, other *roamer) error {
	h.next++
	b := &both{h: h, name: fmt.Sprint("s", h.next), mode: 0o600}
	f, err := by.Open(ctx, h.dir, nfsclient.OpenArgs{Owner: sharedOwner, Name: b.name, Create: nfsclient.Guarded, Attr: *attr.Mode(b.mode)})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	h.answered()
	b.fh, b.data = f.FH, h.bytesOf(h.size())
	if err := h.put(ctx, by, f, 0, b.data); err != nil {
		return err
	}
	// Who has it open for writing at both sides writes through.
	access := []uint32{nfsv4.OPEN4_SHARE_ACCESS_READ, nfsv4.OPEN4_SHARE_ACCESS_BOTH}[h.r.IntN(2)]
	g, err := other.Open(ctx, h.dir, nfsclient.OpenArgs{Owner: sharedOwner, Name: b.name, Access: access})
	if err != nil {
		return fmt.Errorf("open by the other one: %w", err)
	}
	h.answered()
	for range 2 {
		if err := b.round(ctx, by, other, f, g, access == nfsv4.OPEN4_SHARE_ACCESS_BOTH); err != nil {
			return err
		}
	}
	for _, x := range []struct {
		c *roamer
		f *nfsclient.File
	}{{by, f}, {other, g}} {
		if err := x.c.CloseFile(ctx, x.f); err != nil {
			return fmt.Errorf("close: %w", err)
		}
		h.answered()
	}
	names := []string{b.name}
	if b.linked {
		names = append(names, b.second)
	}
	for _, name := range names {
		if err := other.Remove(ctx, h.dir, name); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		h.answered()
	}
	return h.gone(ctx, by, h.dir, b.name)
}

func (b *both) round(ctx context.Context, by, other *roamer, f, g *nfsclient.File, writes bool) error {
	h := b.h
	off := h.r.IntN(len(b.data) + 1)
	part := h.bytesOf(1 + h.r.IntN(unstableMax))
	end := off + len(part)
	w, err := by.Write(ctx, f, uint64(off), nfsv4.UNSTABLE4, part)
	if err != nil {
		return fmt.Errorf("write of %s through %s, after %q: %w", b.name, by.name, b.did, err)
	}
	if int(w.Count) != len(part) {
		return fmt.Errorf("write: %d of %d bytes", w.Count, len(part))
	}
	h.answered()
	now := append([]byte(nil), b.data...)
	if len(now) < end {
		now = append(now, make([]byte, end-len(now))...)
	}
	copy(now[off:], part)
	var mtime time.Time
	what := ""
	switch k := h.r.IntN(6); {
	case k == 0 && writes:
		more := h.bytesOf(1 + h.r.IntN(unstableMax))
		what = fmt.Sprintf("write %d bytes at %d", len(more), end)
		err = h.put(ctx, other, g, end, more)
		now = append(now[:end], append(more, now[min(len(now), end+len(more)):]...)...)
	case k <= 1: // what is cut off is not what may have to be sent again
		size := end + h.r.IntN(len(now)+1)
		what = fmt.Sprintf("set the size to %d", size)
		err = other.Setattr(ctx, b.fh, nfsclient.Stateid{}, attr.Size(uint64(size)))
		now = append(now, make([]byte, max(0, size-len(now)))...)[:size]
	case k == 2:
		mtime = time.Unix(1e9+h.r.Int64N(1e8), h.r.Int64N(1e9))
		what = fmt.Sprintf("set mtime to %v", mtime)
		err = other.Setattr(ctx, b.fh, nfsclient.Stateid{}, &attr.Set{Mtime: &mtime})
	case k == 3:
		b.mode = 0o600 + uint32(h.r.IntN(0o100))
		what = fmt.Sprintf("set the mode to %o", b.mode)
		err = other.Setattr(ctx, b.fh, nfsclient.Stateid{}, attr.Mode(b.mode))
	case k == 4 && b.linked:
		what, b.linked = "remove a name", false
		err = other.Remove(ctx, h.dir, b.second)
	case k == 4:
		h.next++
		b.second, b.linked = fmt.Sprint("l", h.next), true
		what = "make a name"
		err = other.Link(ctx, b.fh, h.dir, b.second)
	default:
		h.next++
		to := fmt.Sprint("t", h.next)
		what = "rename"
		err = other.Rename(ctx, h.dir, b.name, h.dir, to)
		b.name = to
	}
	b.did = append(b.did, time.Now().Format("05.000 ")+what)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	h.answered()
	a, err := by.Getattr(ctx, b.fh)
	if err != nil {
		return fmt.Errorf("attributes: %w", err)
	}
	h.answered()
	if err := b.attributes(a); err != nil || !mtime.IsZero() && !a.Mtime.Equal(mtime) {
		return fmt.Errorf("after the other one was told that it has done this (%s), mtime is %v: %w", what, a.Mtime, cmpErr(err))
	}
	if w.Stable == nfsv4.UNSTABLE4 {
		v, err := by.Commit(ctx, b.fh, 0, 0)
		if err != nil {
			return fmt.Errorf("commit: %w", err)
		}
		h.answered()
		if v != w.Verifier {
			if err := h.put(ctx, by, f, off, part); err != nil {
				return err
			}
		}
	}
	b.data = now
	for _, c := range []*roamer{other, by} {
		if err := b.verify(ctx, c); err != nil {
			return fmt.Errorf("%d bytes at %d by %s, and by %s: %s: through %s: %w", len(part), off, by.name, other.name, what, c.name, err)
		}
	}
	return nil
}

// attributes compares those that are known.
func (b *both) attributes(a attr.Attr) error {
	links := uint32(1)
	if b.linked {
		links++
	}
	if a.Mode != b.mode || a.Nlink != links {
		return fmt.Errorf("mode %o and %d names, want %o and %d", a.Mode, a.Nlink, b.mode, links)
	}
	return nil
}

func (b *both) verify(ctx context.Context, c *roamer) error {
	got, err := readAll(ctx, c, b.h.dir, b.name)
	if err != nil {
		return err
	}
	b.h.answered()
	if !bytes.Equal(got, b.data) {
		return fmt.Errorf("%d bytes that differ from the %d that were acknowledged, first at %d", len(got), len(b.data), differs(got, b.data))
	}
	a, err := c.Getattr(ctx, b.fh)
	if err != nil {
		return err
	}
	b.h.answered()
	if a.Size != uint64(len(b.data)) {
		err = fmt.Errorf("the size is %d, want %d", a.Size, len(b.data))
	}
	return errors.Join(err, b.attributes(a))
}
