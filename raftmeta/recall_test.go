package raftmeta

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A wish is told to who has the file while somebody waits, and a moment longer; who waits is woken when it was given back or its holder ended.
func TestRecalls(t *testing.T) {
	r := newRecalls(7)
	f, g := Wished{FS: 1, Ino: 10}, Wished{FS: 1, Ino: 11}
	now := time.Hour
	isClosed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	told := func(origin uint64, want ...Wished) (uint64, <-chan struct{}) {
		t.Helper()
		files, version, changed := r.list(origin, now)
		slices.SortFunc(files, func(a, b Wished) int { return int(a.Ino) - int(b.Ino) })
		if !slices.Equal(files, want) {
			t.Fatalf("origin %d is told %v, want %v", origin, files, want)
		}
		return version, changed
	}
	wait := func(origin uint64, f Wished) (<-chan struct{}, func()) {
		t.Helper()
		gone, end, ok := r.wait(origin, f, now)
		if !ok {
			t.Fatal("too many wishes")
		}
		return gone, func() { end(now) }
	}
	v0, changed := told(1)
	gone1, end1 := wait(1, f)
	if !isClosed(changed) {
		t.Fatal("the holder was not woken")
	}
	v1, changed := told(1, f)
	if v1 == v0 {
		t.Fatal("another list has the same version")
	}
	gone2, end2 := wait(1, f)
	if isClosed(changed) {
		t.Fatal("a second waiter for the same file woke the holder")
	}
	wait(1, g)
	told(1, f, g)
	told(2)
	end1()
	now += wishLinger
	told(1, f, g)
	if isClosed(gone1) || isClosed(gone2) {
		t.Fatal("woken before it was given back")
	}
	r.gaveBack(2, []Wished{f}) // not its own
	told(1, f, g)
	r.gaveBack(1, []Wished{f})
	if !isClosed(gone2) {
		t.Fatal("given back, and who waits sleeps")
	}
	told(1, g)
	end2()
	// The next holder of the same file, which gives up nothing; who waited ends, and begins again soon.
	_, end3 := wait(2, f)
	told(2, f)
	end3()
	now += wishLinger - 1
	told(2, f)
	gone3, end3 := wait(2, f)
	end3()
	now += wishLinger
	if r.overdue(2, now, wishLinger) {
		t.Fatal("overdue, and nobody wishes any more")
	}
	told(2)
	if !isClosed(gone3) {
		t.Fatal("a wish without waiters stands")
	}
	// From one holder to another while somebody waits for the first one.
	gone4, end4 := wait(2, f)
	gone5, end5 := wait(1, f)
	if !isClosed(gone4) || isClosed(gone5) {
		t.Fatal("who waits for a former holder sleeps")
	}
	end4()
	told(1, f, g)
	told(2)
	// One that does not hear.
	now += time.Minute
	if r.overdue(1, now, time.Hour) || !r.overdue(1, now, time.Minute) || r.overdue(2, now, time.Minute) {
		t.Fatal("overdue at another time than after a minute")
	}
	// Where it takes calls is known as long as it is registered.
	at := Place{"gateway", "10.0.0.1:7075"}
	r.at(1, at)
	if r.where(1) != at || r.where(2) != (Place{}) {
		t.Fatalf("places %v and %v", r.where(1), r.where(2))
	}
	// The holder ends.
	_, changed = told(1, f, g)
	r.keep([]uint64{2}, now)
	if !isClosed(gone5) || !isClosed(changed) {
		t.Fatal("the holder ended, and who waits sleeps")
	}
	end5()
	if told(1); r.where(1) != (Place{}) {
		t.Fatal("the place of an origin that ended is known")
	}
	if r2 := newRecalls(8); func() bool { _, v, _ := r2.list(1, now); return v <= r.version }() {
		t.Fatal("the lists of the next leader are not told apart from those of this one")
	}
}

// A gateway that has a file to itself hears that another one wants it, and gives it back, whoever leads.
func TestWish(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, nil)
	raiseLevel(t, c, 1)
	c.gateway(1, "makes the namespace")
	ctx := testContext(t)
	gateway := func(name string) (*Client, *Lease) {
		cl := c.client()
		l, err := cl.RegisterLeased(ctx, 1, name, fmt.Appendf(nil, "%16s", name), LeaseOptions{Several: true})
		if err != nil {
			t.Fatal(err)
		}
		return cl, l
	}
	has, lease := gateway("has")
	wants, _ := gateway("wants")
	apply := func(cl *Client, cmd *metapb.Command) *metapb.Result {
		t.Helper()
		cmd.Fs = testFS
		r, err := cl.Apply(ctx, 1, cmd)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	made := apply(has, &metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: 1, Name: []byte("f"), Type: uint32(vfs.TypeFile), Attr: &metapb.AttrSet{}, Open: uint32(vfs.OpenWrite),
	}}}).GetCreate()
	ino := made.Attr.Ino
	acquire := func(cl *Client) *metapb.Result {
		return apply(cl, &metapb.Command{Op: &metapb.Command_AcquireLease{AcquireLease: &metapb.AcquireLease{Ino: ino}}})
	}
	release := func(cl *Client, epoch uint64) {
		cmd := &metapb.Command{Fs: testFS, Op: &metapb.Command_ReleaseLease{ReleaseLease: &metapb.ReleaseLease{Ino: ino, Epoch: epoch}}}
		if _, err := cl.Apply(ctx, 1, cmd); err != nil {
			t.Error(err)
		}
	}
	given := make(chan uint64, 1) // the epoch that has has
	given <- made.Lease.Epoch
	hear, stop := context.WithCancel(ctx)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		has.Recalls(hear, 1, lease.Origin, "", func(_ context.Context, w Wished) error {
			if w != (Wished{FS: testFS, Ino: ino}) {
				t.Errorf("asked for %+v", w)
			}
			select {
			case epoch := <-given:
				release(has, epoch)
			default: // it has it no more
			}
			return nil
		})
	}()
	for round := range 6 {
		if round == 3 {
			if err := c.server(c.leader(1)).TransferLeadership(1, ""); err != nil {
				t.Log("the leader stays:", err)
			}
		}
		r := acquire(wants)
		if round == 0 && r.GetHeld().GetOrigin() != lease.Origin() {
			t.Fatalf("%v, and the other one has the file", r)
		}
		for ; r.GetHeld() != nil; r = acquire(wants) {
			if err := wants.Wish(ctx, 1, testFS, ino); err != nil {
				t.Fatal(err)
			}
		}
		release(wants, r.GetLease().Lease.Epoch)
		given <- acquire(has).GetLease().Lease.Epoch
	}
	stop()
	<-heard
	wants.Close()
	if err := wants.Wish(ctx, 1, testFS, ino); vfs.KindOf(err) != vfs.KindCanceled {
		t.Errorf("a client that was closed wishes: %v", err)
	}
}
