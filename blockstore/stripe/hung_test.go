package stripe

import (
	"bytes"
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/faultproxy"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// hung is a cluster whose node 0 is reached through a proxy, which can make it hang.
type hung struct {
	*realCluster
	proxy  *faultproxy.Proxy
	target placement.Target
	tried  atomic.Int32 // shards that were sent to node 0
}

// counted is the way to node 0.
type counted struct {
	Caller
	h *hung
}

func (c counted) Call(ctx context.Context, op wire.Op, meta []byte, payload net.Buffers, into []byte) (*wire.Reply, error) {
	if op == blockstore.OpPut {
		c.h.tried.Add(1)
	}
	return c.Caller.Call(ctx, op, meta, payload, into)
}

func startHung(t testing.TB, n, pgs int, o Options) *hung {
	t.Helper()
	c := startCluster(t, n, 4, 2, pgs, wire.ModeInsecure, o)
	callers := map[string]Caller{}
	var targets []placement.Target
	for i, node := range c.nodes {
		targets = append(targets, placement.Target{Node: node.name, Disk: uint32(i)})
		callers[node.name] = c.wires[i]
	}
	p, err := faultproxy.Listen(faultproxy.To(c.nodes[0].addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	w := wire.NewClient(wire.Dialer("tcp", p.Addr()), wire.ClientOptions{
		Security: wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: "gw", Roles: []string{blockstore.RoleGateway}}}, Logger: quiet(),
	})
	t.Cleanup(func() { w.Close() })
	h := &hung{realCluster: c, proxy: p, target: targets[0]}
	callers["n0"] = counted{w, h}
	groups, err := placement.Static(targets, 4, 2, pgs)
	if err != nil {
		t.Fatal(err)
	}
	if c.Static, err = NewStatic(map[uint32][]placement.PG{pool: groups}, callers); err != nil {
		t.Fatal(err)
	}
	return h
}

func counter(t testing.TB, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func (h *hung) hold(on bool) { h.proxy.Set(faultproxy.Conditions{Hold: on}, faultproxy.Both...) }

// mustWrite writes a block as a gateway does: one that fails because others are slow is tried again when they have answered.
func (h *hung) mustWrite(ctx context.Context, t *testing.T, id uint64) *placement.PG {
	t.Helper()
	for {
		pg, err := h.write(ctx, id)
		if err == nil {
			return pg
		}
		if vfs.KindOf(err) != vfs.KindUnavailable || ctx.Err() != nil {
			t.Fatal(err)
		}
		h.client.Probe(ctx, h)
	}
}

func (h *hung) write(ctx context.Context, id uint64) (*placement.PG, error) {
	return h.client.Write(ctx, h, &Write{Pool: pool, Block: id, Data: randomBytes(id, 256<<10, 0)})
}

// A store that takes connections and does not answer holds no write up for the time that an attempt has, which is here
// longer than the test may run: the block goes to a group without it, whole, and so do all later ones until it answers.
func TestHungStore(t *testing.T) {
	ctx := background(t)
	h := startHung(t, 8, 16, Options{PatienceMin: 500 * time.Millisecond, PatienceAlone: 500 * time.Millisecond, BackoffMin: 1, BackoffMax: 1, Probed: true, ProbeTimeout: 100 * time.Millisecond})
	for id := range uint64(20) {
		h.mustWrite(ctx, t, id)
	}
	for h.client.avoidsWrite(h.target) { // the machine was slow
		h.client.Probe(ctx, h)
	}
	h.tried.Store(0)
	h.hold(true)
	written := map[uint64]*placement.PG{}
	for id := uint64(100); id < 150; id++ {
		written[id] = h.mustWrite(ctx, t, id)
	}
	// It is not tried again by writes, and probes see that it does not answer.
	if n := h.tried.Load(); n != 1 {
		t.Fatalf("%v attempts met the store that hangs, want one", n)
	}
	if counter(t, h.client.o.Metrics.WritesSlow) == 0 {
		t.Fatal("no attempt counts as cut short")
	}
	h.client.Probe(ctx, h)
	if !h.client.avoidsWrite(h.target) {
		t.Fatal("a store that hangs is not avoided")
	}
	for id, pg := range written {
		for _, s := range pg.Slots {
			if s.Target == h.target {
				t.Fatalf("block %d counts as written in a group of the store that hangs", id)
			}
		}
		want, got := randomBytes(id, 256<<10, 0), make([]byte, 256<<10)
		if err := h.client.Read(ctx, h, Block{pg.ID, id, uint32(len(want))}, 0, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("block %d: %v", id, err)
		}
	}
	h.hold(false)
	for h.client.avoidsWrite(h.target) {
		if ctx.Err() != nil {
			t.Fatal("the store answers and is not used")
		}
		h.client.Probe(ctx, h)
	}
}

// When every group has the store that hangs, the write says so in time for the newest map to be asked, which has
// groups without it soon.
func TestHungStoreInEveryGroup(t *testing.T) {
	ctx := background(t)
	h := startHung(t, 6, 8, Options{PatienceMin: time.Second, PatienceAlone: time.Second, Probed: true, ProbeTimeout: time.Second})
	h.mustWrite(ctx, t, 1)
	for h.client.avoidsWrite(h.target) { // the machine was slow
		h.client.Probe(ctx, h)
	}
	h.hold(true)
	_, err := h.write(ctx, 2)
	wantKind(t, err, vfs.KindUnavailable)
	if !h.client.avoidsWrite(h.target) {
		t.Fatal("a store that hangs is not avoided")
	}
}

// Patience follows the time that shards take and the number under way. Attempts that are cut short make it grow until it is all
// the time there is; and the last attempt has that anyway.
func TestPatience(t *testing.T) {
	defaults := Options{AttemptTimeout: DefaultAttemptTimeout, PatienceMin: DefaultPatienceMin, PatienceAlone: DefaultPatienceAlone}
	c := newCluster(t, 8, 4, 2, 16, defaults)
	w := &Write{Pool: pool, Data: make([]byte, 1<<20)}
	pgs := c.Writable(pool)
	patience := func(tried ...pgEpoch) time.Duration { return c.client.patience(pgs, pgs[0], w, tried) }
	if d := patience(); d != DefaultPatienceMin {
		t.Fatalf("%v before anything is known", d)
	}
	for range 100 {
		c.client.puts[1].add(200 * time.Millisecond)
	}
	one := patience()
	if one != DefaultPatienceMin {
		t.Fatalf("%v though shards take 200 ms", one)
	}
	for range 19 {
		c.client.load.begin(pgs[0].Slots[3].Target)
	}
	if d := patience(); d < 20*200*time.Millisecond || d >= DefaultAttemptTimeout {
		t.Fatalf("%v with twenty shards of 200 ms at one target", d)
	}
	for range 19 {
		c.client.load.end(pgs[0].Slots[3].Target)
	}
	if len(c.client.load.n) != 0 {
		t.Fatalf("%v are under way", c.client.load.n)
	}
	if d := patience(pgEpoch{90, 1}, pgEpoch{91, 1}, pgEpoch{92, 1}); d != DefaultAttemptTimeout {
		t.Fatalf("%v for the last attempt", d)
	}
	for n := 0; patience() < DefaultAttemptTimeout; n++ {
		if n == 20 {
			t.Fatalf("patience is %v after %d attempts that were cut short", patience(), n)
		}
		c.client.puts[1].add(patience())
	}
	six := newCluster(t, 6, 4, 2, 8, defaults)
	all := six.Writable(pool)
	if d := six.client.patience(all, all[0], w, nil); d != DefaultPatienceAlone {
		t.Fatalf("%v though all groups have the same stores", d)
	}
}

// BenchmarkHungStore says how long the longest of 50 writes takes of which the first ones meet a store that stops answering: with a
// bound that follows the latencies, and with that of an attempt alone.
func BenchmarkHungStore(b *testing.B) {
	for name, least := range map[string]time.Duration{"adaptive": DefaultPatienceMin, "attempt": DefaultAttemptTimeout} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				h := startHung(b, 8, 16, Options{AttemptTimeout: DefaultAttemptTimeout, PatienceMin: least, PatienceAlone: DefaultPatienceAlone, Probed: true})
				longest := time.Duration(0)
				for id := range uint64(70) {
					if id == 20 {
						h.hold(true)
					}
					began := time.Now()
					if _, err := h.write(context.Background(), id); err != nil {
						b.Fatal(err)
					}
					longest = max(longest, time.Since(began))
				}
				b.ReportMetric(float64(longest.Milliseconds()), "ms-longest")
				h.hold(false)
			}
		})
	}
}
