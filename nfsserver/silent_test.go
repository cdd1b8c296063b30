package nfsserver_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/vfs"
)

// A Linux client comes again only 15 s after an NFS4ERR_DELAY of SEQUENCE. What it sends waits instead, and if that is in vain its connection ends.

// heldName is a name whose removal is held up until the gate is opened.
const heldName = "held"

type heldRemoval struct {
	arrived, gate chan struct{}
}

func (f unsureFS) Remove(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	if name == heldName {
		f.held.arrived <- struct{}{}
		<-f.held.gate
	}
	return f.Kept.Remove(ctx, c, dir, name, what)
}

// notDelayed: no SEQUENCE was answered with NFS4ERR_DELAY.
func notDelayed(t *testing.T, clients ...*nfsclient.Client) {
	t.Helper()
	for _, c := range clients {
		if n := c.Session(0).Delayed(); n != 0 {
			t.Errorf("%d requests were answered with NFS4ERR_DELAY of SEQUENCE", n)
		}
	}
}

// while is long enough for a request to come to where it waits, mostly.
const while = 100 * time.Millisecond

// hold begins a removal by a client's ith connection, which ends when the gate is opened.
func (w *several) hold(c *spread, i int) (sl *nfsclient.Slot, remove *nfsclient.Compound) {
	w.t.Helper()
	if _, _, err := c.Mkdir(w.ctx, c.root, heldName, 0o755); err != nil {
		w.t.Fatal(err)
	}
	sl, err := c.Session(0).Slot(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	remove = nfsclient.NewCompound().PutFH(c.root).Remove(heldName)
	remove.CacheThis = true
	go func() {
		if r, err := sl.DoBy(w.ctx, i, remove); err == nil { // else its connection was broken
			r.Release()
		}
	}()
	<-w.held.arrived
	return sl, remove
}

// What is sent again by another connection while the first one is still carried out is answered when that has ended, by the server where it runs or by another one that carries it there.
func TestRepeatedWhileItRuns(t *testing.T) {
	for by := range 2 {
		ctx, w := newSeveral(t)
		c := w.spread("c")
		sl, remove := w.hold(c, 0)
		open := sync.OnceFunc(func() { close(w.held.gate) })
		defer open()
		c.Session(0).BreakConn(0)
		type answer struct {
			r   *nfsclient.Reply
			err error
		}
		got := make(chan answer, 1)
		go func() {
			r, err := sl.SendBy(ctx, by, sl.Sequence(), remove)
			got <- answer{r, err}
		}()
		select {
		case a := <-got:
			t.Fatalf("by connection %d: answered with %+v, %v while the first one runs", by, a.r, a.err)
		case <-time.After(while):
		}
		open()
		if a := <-got; a.err != nil || a.r.Status != nfsv4.NFS4_OK {
			t.Fatalf("by connection %d: %+v, %v", by, a.r, a.err)
		}
		if _, err := c.Getattr(ctx, c.root); err != nil {
			t.Fatal(err)
		}
	}
}

// A server that ends says nothing to those whose client another one serves, which has not given it up yet, and does not wait for that one.
func TestStoppingSaysNothing(t *testing.T) {
	ctx, w := newSeveral(t)
	c := w.spread("c")
	w.mu.Lock()
	serves := w.serves[c.ID()]
	w.mu.Unlock()
	other := 0
	if c.at[other].Load() == serves {
		other = 1
	}
	w.hold(c, 1-other) // so it is not given up
	open := sync.OnceFunc(func() { close(w.held.gate) })
	defer open()
	w.carries.broken.Store(1)
	sl, err := c.Session(0).Slot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mkdir := nfsclient.NewCompound().PutFH(c.root).Mkdir("made", nil)
	said := make(chan error, 1)
	go func() {
		r, err := sl.DoBy(ctx, other, mkdir)
		if err == nil {
			t.Errorf("who ends answers %v", nfsv4.Nfsstat4_name[r.Status])
			r.Release()
		}
		said <- err
	}()
	time.Sleep(while)
	began := time.Now()
	c.at[other].Load().stop()
	t.Logf("it has ended in %v", time.Since(began))
	if err := <-said; vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatalf("not the end of the connection: %v", err)
	}
	c.at[other].Store(serves)
	open()
	if r := resendTo(t, ctx, sl, mkdir); r.Status != nfsv4.NFS4_OK {
		t.Fatalf("at the other server: %v", nfsv4.Nfsstat4_name[r.Status])
	}
}
