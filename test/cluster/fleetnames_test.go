//go:build linux

package cluster

import (
	"context"
	encoding "encoding/binary"
	"fmt"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
)

// contended is a name that several workers want to make, and then to remove.
type contended struct {
	trying           int // calls under way
	maker, remover   int // 1 + worker; 0: nobody yet
	absent, existing bool
}

func contendedName(k int) string { return fmt.Sprint("x", k) }

// make tries to make a name exclusively, which others may try too.
func (h *hand) make(ctx context.Context, by *roamer) error {
	w := h.w
	w.mu.Lock()
	k := w.making
	c := w.names[k]
	if c == nil {
		c = new(contended)
		w.names[k] = c
	}
	c.trying++
	w.mu.Unlock()
	args := nfsclient.OpenArgs{Name: contendedName(k), Create: nfsclient.Guarded}
	if h.r.IntN(2) == 0 {
		args.Create = nfsclient.Exclusive41
		encoding.BigEndian.PutUint64(args.Verifier[:], h.r.Uint64())
	}
	f, err := by.Open(ctx, w.dir, args)
	w.mu.Lock()
	c.trying--
	w.making = max(w.making, k+1)
	maker := c.maker
	switch {
	case err == nil:
		c.maker = h.id + 1
	case nfsclient.StatusOf(err) == nfsv4.NFS4ERR_EXIST:
		c.existing, err = true, nil
	}
	w.mu.Unlock()
	if err != nil {
		return err
	}
	h.answered()
	if f == nil {
		return nil
	}
	if maker != 0 {
		return fmt.Errorf("name %d was made by worker %d", k, maker-1)
	}
	if err := by.CloseFile(ctx, f); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	h.answered()
	return nil
}

// unmake tries to remove a name that nobody wants to make any more, which others may try too.
func (h *hand) unmake(ctx context.Context, by *roamer) error {
	w := h.w
	w.mu.Lock()
	k := w.ending
	c := w.names[k]
	if k+1 >= w.making || c == nil || c.maker == 0 {
		w.mu.Unlock()
		return nil
	}
	if c.remover == 0 && c.trying > 0 && !c.absent { // somebody may still make it
		w.mu.Unlock()
		return nil
	}
	c.absent = true // from here on those who try remove it
	c.trying++
	w.mu.Unlock()
	err := by.Remove(ctx, w.dir, contendedName(k))
	w.mu.Lock()
	defer w.mu.Unlock()
	c.trying--
	remover := c.remover
	switch {
	case err == nil && remover != 0:
		return fmt.Errorf("name %d was removed by worker %d", k, remover-1)
	case err == nil:
		c.remover = h.id + 1
		w.removed++
	case nfsclient.StatusOf(err) != nfsv4.NFS4ERR_NOENT:
		return err
	}
	w.ending = max(w.ending, k+1)
	w.ops.Add(1)
	return nil
}
