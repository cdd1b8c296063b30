package raftmeta

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// An origin is ended a whole lease after its last renewal or after it was seen first, not earlier; what is decided is not
// taken back; and a leader that was paused gives everybody the time that it missed.
func TestLeases(t *testing.T) {
	const lease = 16 * time.Second
	l := newLeases(lease)
	now := time.Hour
	look := func(step time.Duration, origins []uint64, want ...uint64) {
		registered := make([]fsm.Origin, len(origins))
		for i, o := range origins {
			registered[i] = fsm.Origin{ID: o, Leased: true}
		}
		t.Helper()
		now += step
		if got := l.look(registered, now); !slices.Equal(got, want) {
			t.Fatalf("at %v: ended %v, want %v", now, got, want)
		}
	}
	both := []uint64{1, 2}
	look(0, both)
	for range 15 {
		look(time.Second, both)
		if !l.renew(2, now) {
			t.Fatal("not renewed")
		}
	}
	look(time.Second-1, both)
	look(1, both, 1)
	if l.renew(1, now) {
		t.Fatal("renewed after its end was decided")
	}
	look(time.Second, both, 1) // until it is done
	look(time.Second, []uint64{2})
	// Nobody was heard for ten leases, because the leader stood still.
	look(10*lease, []uint64{2})
	for range 12 {
		look(time.Second, []uint64{2})
	}
	look(time.Second, []uint64{2}, 2) // 3 s before the pause and 13 after it
	// One that registers now has a whole lease.
	look(time.Second, []uint64{3})
	for range 15 {
		look(time.Second, []uint64{3})
	}
	look(time.Second, []uint64{3}, 3)
}

func TestSilentGatewayIsEnded(t *testing.T) {
	const lease = 800 * time.Hour
	var clock atomic.Int64 // of all
	mono := func() time.Duration { return time.Duration(clock.Load()) }
	clock.Store(int64(time.Hour))
	c := newCluster(t, 3, []uint16{1}, func(_ int, o *Options) {
		o.CheckInterval, o.Lease, o.Monotonic = 5*time.Millisecond, lease, mono
	})
	raiseLevel(t, c, 1)
	ctx := testContext(t)
	gateway := func(name string) (*Client, *Lease) {
		t.Helper()
		cl := c.clientWith(func(o *ClientOptions) { o.Monotonic, o.RenewInterval = mono, 5*time.Millisecond })
		l, err := cl.RegisterLeased(ctx, 1, name, []byte("incarnation 0123"), LeaseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return cl, l
	}
	_, alive := gateway("alive")
	silent, lost := gateway("silent")
	other := c.gateway(1, "no lease")
	registered := func(origin uint64) bool {
		t.Helper()
		v, _, err := c.server(c.leader(1)).shards[1].host.View()
		if err != nil {
			t.Fatal(err)
		}
		defer v.Release()
		_, ok, err := fsm.FindOrigin(v, origin)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	// step lets an eighth of a lease pass, in which the leader looks and who lives renews.
	step := func() {
		t.Helper()
		clock.Add(int64(lease / 8))
		var of *leadership
		began := 0
		c.eventually("the leader to look", func() bool {
			l := c.server(c.leader(1)).shards[1].lead.Load()
			if l == nil {
				return false
			}
			l.leases.mu.Lock()
			defer l.leases.mu.Unlock()
			if l != of {
				of, began = l, l.leases.looks
			}
			return l.leases.looks >= began+2
		})
		c.eventually("a renewal", func() bool { return time.Duration(alive.until.Load()) >= mono()+lease-lease/3 })
	}
	silent.Close()
	for range 5 {
		step()
	}
	if !lost.Valid() || !registered(lost.Origin()) {
		t.Fatal("5/8 of a lease, and it is not valid")
	}
	step()
	if lost.Valid() || !alive.Valid() {
		t.Fatalf("after 6/8 of a lease: silent %v, alive %v", lost.Valid(), alive.Valid())
	}
	// The next leader has not heard of anybody and waits a whole lease.
	old := c.leader(1)
	c.eventually("another leader", func() bool {
		_ = c.server(old).TransferLeadership(1, "")
		return c.leader(1) != old
	})
	for range 7 {
		step()
		if !registered(lost.Origin()) {
			t.Fatal("ended before the new leader waited a whole lease")
		}
	}
	for range 2 {
		step()
	}
	c.eventually("the end of the silent one", func() bool { return !registered(lost.Origin()) })
	if !alive.Valid() || !registered(alive.Origin()) {
		t.Fatal("the one that renews was ended")
	}
	if _, err := other.Apply(ctx, 1, createCmd("f")); err != nil {
		t.Fatalf("one without a lease: %v", err)
	}
	// Who is ended is told.
	if _, err := other.Apply(ctx, 1, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: alive.Origin()}}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-alive.Ended():
	case <-ctx.Done():
		t.Fatal("not told")
	}
	if alive.Valid() {
		t.Fatal("ended and valid")
	}
	c.sameState(1)
}

// A gateway that registers with a shard of level 1 has no lease, and is not ended.
func TestNoLeaseAtLevel1(t *testing.T) {
	c := newCluster(t, 1, []uint16{1}, func(_ int, o *Options) { o.Lease, o.CheckInterval = time.Millisecond, time.Millisecond })
	cl := c.client()
	l, err := cl.RegisterLeased(testContext(t), 1, "gw", make([]byte, 16), LeaseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !l.Valid() || time.Duration(l.until.Load()) != forever {
		t.Fatal("not valid for ever")
	}
	raiseLevel(t, c, 1)
	if _, err := cl.Apply(testContext(t), 1, &metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 1}}}); err != nil {
		t.Fatal(vfs.KindOf(err), err)
	}
}

// A gateway that stood still for a lease between its registration and the first renewal is told to try again, not that somebody
// else has its name: it would serve no more until it is started anew.
func TestEndedBeforeTheFirstRenewal(t *testing.T) {
	c := newCluster(t, 1, []uint16{1}, nil)
	raiseLevel(t, c, 1)
	ctx := testContext(t)
	other := c.gateway(1, "other")
	var still atomic.Bool
	cl := c.clientWith(func(o *ClientOptions) {
		o.Monotonic = func() time.Duration { // asked before the renewal is sent
			if still.CompareAndSwap(true, false) {
				v, _, err := c.server(c.leader(1)).shards[1].host.View()
				if err != nil {
					t.Error(err)
					return 0
				}
				all, err := fsm.Origins(v)
				v.Release()
				for _, o := range all {
					if o.Leased && err == nil {
						_, err = other.Apply(ctx, 1, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: o.ID}}})
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
			return time.Hour
		}
	})
	for _, inc := range []string{"incarnation 0123", "incarnation 4567"} {
		still.Store(true)
		register := func() (*Lease, error) { return cl.Reregister(ctx, 1, "gw", []byte(inc), LeaseOptions{}) }
		if _, err := register(); vfs.KindOf(err) != vfs.KindUnavailable {
			t.Fatalf("ended at once: %v", err)
		}
		l, err := register()
		if err != nil || !l.Valid() {
			t.Fatalf("the next try: %v", err)
		}
		if _, err := other.Apply(ctx, 1, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: l.Origin()}}}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLingered shows when the time of a gateway that was ended is over: a whole one after this leader saw it first, and its own pauses do not count.
func TestLingered(t *testing.T) {
	const lease, linger = 16 * time.Second, 40 * time.Second
	l := newLeases(lease)
	now := time.Hour
	look := func(step time.Duration, ids []uint64, want ...uint64) {
		t.Helper()
		now += step
		l.look(nil, now)
		if got := l.lingered(ids, now, linger); !slices.Equal(got, want) {
			t.Fatalf("at %v: over %v, want %v", now, got, want)
		}
	}
	look(0, []uint64{3})
	for range 20 {
		look(time.Second, []uint64{3})
	}
	look(time.Minute, []uint64{3}) // it stood still
	for range 19 {
		look(time.Second, []uint64{3, 5})
	}
	look(time.Second, []uint64{3, 5}, 3)
	look(time.Second, []uint64{3, 5}, 3) // until it is done
	look(time.Second, []uint64{5})
	for range 18 {
		look(time.Second, []uint64{5})
	}
	look(time.Second, []uint64{5}, 5)
}
