//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/clustercheck"
)

// Faults of a run that takes the time, and of one in make test; eachFaults of them are between two looks at everything.
const (
	manyFaults = 1000
	fewFaults  = 20
	eachFaults = 40
)

// TestThousandFaults has faults happen to a cluster with three gateways, one after another and two at a time, while clients that come through all of them use
// it: gateways, voters and stores are killed, paused, cut off, made mute and stopped, clients are sent from gateway to gateway. After each round, and at the end, all
// that was acknowledged is read back through each gateway, and `cluster check` looks at everything that is stored. In the end everything is removed, and nothing may be left.
//
// A thousand of them with RACKFS_TEST_LONG=1, else few. RACKFS_TEST_SEED repeats the choices of a run that printed its seed; what leads and what answers first are not chosen.
func TestThousandFaults(t *testing.T) {
	if !long { // which has nothing beside it
		t.Parallel()
	}
	total, seed := fewFaults, uint64(1)
	if long {
		total, seed = manyFaults, rand.Uint64()
	}
	if v, err := strconv.ParseUint(os.Getenv("RACKFS_TEST_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("repeat with RACKFS_TEST_SEED=%d", seed)
	f := newFleet(t, "")
	before := f.all[0].checked()
	w, hs := f.use(seed)
	gates, stores := f.lanes(seed)
	began := time.Now()
	for done := 0; done < total; {
		done = min(done+eachFaults, total)
		if err := f.happen(gates, stores, done, w, hs); err != nil {
			t.Fatal(err)
		}
		w.look(done, before)
	}
	took := time.Since(began)
	w.end()
	hs.end()
	if err := errors.Join(w.failed(), hs.failed()); err != nil {
		t.Fatal(err)
	}
	t.Logf("histories: %d operations in %d pieces, of %d of which a WRITE came twice, or may have, %d undecided", hs.ops.Load(), hs.pieces.Load(), hs.twice.Load(), hs.undecided.Load())
	t.Logf("%d faults in %v, %d calls; of gateways: %v; of voters and stores: %v; longest time without an answer by worker: %v", gates.done+stores.done, took.Round(time.Second), w.ops.Load(), gates.kinds, stores.kinds, w.stalls)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := w.clear(ctx); err != nil {
		t.Fatal(err)
	}
	for _, c := range f.roamers {
		if err := c.leave(ctx); err != nil {
			t.Fatal(err)
		}
	}
	f.all[0].await("nothing is left of what was removed", func() (bool, string) {
		now := f.all[0].checked()
		return now.Inodes == before.Inodes && now.Blocks == before.Blocks && left(now) == "", fmt.Sprintf("%d inodes, before: %d; %d blocks, before: %d; %s", now.Inodes, before.Inodes, now.Blocks, before.Blocks, left(now))
	})
	for _, g := range []bool{true, false} { // gateways while there is a majority that takes note of their end
		for _, m := range f.all {
			if slices.Contains(f.gateways, m) == g {
				m.stop()
			}
		}
	}
}

// use has clients work.
func (f *fleet) use(seed uint64) (*work, *histories) {
	t := f.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// Some clients come through addresses that move, others through a load balancer.
	place := func(i int) (string, *machine) {
		if i%4 == 3 {
			return f.addresses[i%len(f.addresses)], nil
		}
		return "", f.gateways[i%len(f.gateways)]
	}
	w, err := f.startWork(ctx, seed, place)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.cancel()
		w.end()
	})
	hs, err := f.startHistories(ctx, seed, w, place)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.cancel()
		hs.end()
	})

	return w, hs
}

// lanes choose faults of gateways and of storage nodes.
func (f *fleet) lanes(seed uint64) (gates, stores *lane) {
	gates, stores = &lane{f: f, name: "gateway", r: rand.New(rand.NewPCG(seed, 1)), kinds: map[string]int{}}, &lane{f: f, name: "storage", r: rand.New(rand.NewPCG(seed, 2)), kinds: map[string]int{}}
	gates.choose = func() *trouble { return f.gatewayFault(gates) }
	stores.choose = func() *trouble { return f.storageFault(stores) }
	return gates, stores
}

// happen has faults happen until there were so many, and are over. An error is what clients have found.
func (f *fleet) happen(gates, stores *lane, target int, w *work, hs *histories) error {
	f.t.Helper()
	type task struct {
		at time.Time
		do func()
	}
	var tasks []task
	for {
		if err := errors.Join(w.failed(), hs.failed()); err != nil {
			return err
		}
		more := gates.done+stores.done < target
		for _, l := range []*lane{gates, stores} {
			l.step(w, more, func(x *trouble) {
				if x.away {
					f.sendAway(l, x.node, func(d time.Duration, do func()) { tasks = append(tasks, task{time.Now().Add(d), do}) })
				}
			})
		}
		tasks = slices.DeleteFunc(tasks, func(x task) bool {
			if time.Now().Before(x.at) {
				return false
			}
			x.do()
			return true
		})
		if !more && gates.phase == resting && stores.phase == resting && len(tasks) == 0 {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// left says what a check found that nobody has.
func left(r *api.Report) string {
	if r.Orphans.Shards > 0 || r.Counts[clustercheck.KindAbandoned] > 0 {
		return fmt.Sprintf("%d shards of dead blocks, %d abandoned shards", r.Orphans.Shards, r.Counts[clustercheck.KindAbandoned])
	}
	return ""
}

// look compares what is there with what was acknowledged, through each gateway, between two steps of the workers, and checks the cluster.
func (w *work) look(faults int, before *api.Report) {
	t := w.f.t
	t.Helper()
	began := time.Now()
	w.rest()
	defer w.turn.Unlock()
	if err := w.failed(); err != nil {
		t.Fatal(err)
	}
	quiet := time.Since(began)
	w.f.healthy()
	healthy := time.Since(began)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, m := range w.f.gateways {
		if err := w.readBack(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	// What a gateway did not get to write down of a CLOSE before it was killed holds a removed file until its client ends.
	r := w.f.all[0].checked()
	if want := before.Inodes + w.inodes(); r.Inodes < want {
		t.Fatalf("%d files and directories, want %d", r.Inodes, want)
	}
	t.Logf("%s after %d faults: %d calls; quiet after %v, healthy after %v, looked through after %v: %d inodes (%d held by clients), %d blocks, notices: %v", time.Now().Format("15:04:05.000"), faults, w.ops.Load(),
		quiet.Round(time.Millisecond), healthy.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), r.Inodes, r.Inodes-before.Inodes-w.inodes(), r.Blocks, r.Counts)
}
