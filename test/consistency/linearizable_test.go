package consistency

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/rackfs/rackfs/internal/faultproxy"
)

// checkTimeout bounds the check of one piece, which takes milliseconds, but with many lost answers at
// one time may take exponentially long: then nothing is known of the piece.
const checkTimeout = 20 * time.Second

// clientPieces is how many pieces an NFS client is used for: by then it has given up some of its slots.
const clientPieces = 16

// fault is something bad that happens to the cluster while a piece runs, and
// ends.
type fault struct {
	name   string
	pauses bool // a leader may come back that does not know that it was deposed
	do     func(c *cluster, rng *rand.Rand, pause func())
	// nfs also resets the connections of NFS clients again and again; what they had sent is answered once.
	nfs bool
	// gateway also ends the first gateway. Its successor registers under the same name.
	gateway bool
}

func (c *cluster) follower(rng *rand.Rand, leader string) string {
	for {
		if n := c.names[rng.IntN(len(c.names))]; n != leader {
			return n
		}
	}
}

func (c *cluster) store(rng *rand.Rand) string { return storeNames()[rng.IntN(stores)] }

// cutOff holds back what goes over the links between name and the other voters.
func (c *cluster) cutOff(name string, pause func(), ds ...faultproxy.Direction) {
	for _, p := range c.links(name) {
		p.Set(faultproxy.Conditions{Hold: true}, ds...)
	}
	pause()
	for _, p := range c.links(name) {
		p.Set(faultproxy.Conditions{}, ds...)
	}
}

var faults = []fault{
	{name: "the leader is killed", do: func(c *cluster, _ *rand.Rand, pause func()) {
		l := c.leader()
		c.kill(l)
		pause()
		c.start(l)
	}},
	{name: "the leader is paused", pauses: true, do: func(c *cluster, _ *rand.Rand, pause func()) {
		l := c.leader()
		c.signal(l, syscall.SIGSTOP)
		pause()
		c.signal(l, syscall.SIGCONT)
	}},
	{name: "the leader is cut off from the voters", pauses: true, do: func(c *cluster, _ *rand.Rand, pause func()) {
		c.cutOff(c.leader(), pause, faultproxy.Both...)
	}},
	{name: "the leader is paused and woken up behind a cut", pauses: true, do: func(c *cluster, _ *rand.Rand, pause func()) {
		l := c.leader()
		c.signal(l, syscall.SIGSTOP)
		pause()
		c.cutOff(l, func() {
			c.signal(l, syscall.SIGCONT)
			pause()
		}, faultproxy.Both...)
	}},
	{name: "one way to and from the leader is cut off", do: func(c *cluster, rng *rand.Rand, pause func()) {
		c.cutOff(c.leader(), pause, faultproxy.Direction(rng.IntN(2)))
	}},
	{name: "all connections of the leader are reset", do: func(c *cluster, _ *rand.Rand, pause func()) {
		l := c.leader()
		for ends, p := range c.proxies {
			if ends[0] == l || ends[1] == l {
				p.Cut()
			}
		}
		pause()
	}},
	{name: "a follower is killed, then the leader is paused", pauses: true, do: func(c *cluster, rng *rand.Rand, pause func()) {
		l := c.leader()
		f := c.follower(rng, l)
		c.kill(f)
		pause()
		c.signal(l, syscall.SIGSTOP)
		c.start(f)
		pause()
		c.signal(l, syscall.SIGCONT)
	}},
	{name: "a gateway does not reach the leader", do: func(c *cluster, rng *rand.Rand, pause func()) {
		p := c.proxies[[2]string{c.gateways[rng.IntN(len(c.gateways))], c.leader()}]
		p.Refuse(true)
		p.Cut()
		pause()
		p.Refuse(false)
	}},
	{name: "connections of NFS clients are reset", nfs: true, do: func(_ *cluster, _ *rand.Rand, pause func()) { pause() }},
	{name: "a gateway dies", gateway: true, do: func(_ *cluster, _ *rand.Rand, pause func()) { pause() }},
	{name: "a gateway dies while the leader is killed", gateway: true, do: func(c *cluster, _ *rand.Rand, pause func()) {
		l := c.leader()
		c.kill(l)
		pause()
		c.start(l)
	}},
	{name: "a store is killed", do: func(c *cluster, rng *rand.Rand, pause func()) {
		s := c.store(rng)
		c.kill(s)
		pause()
		c.start(s)
	}},
	{name: "a store hangs", do: func(c *cluster, rng *rand.Rand, pause func()) {
		s := c.store(rng)
		c.signal(s, syscall.SIGSTOP)
		pause()
		c.signal(s, syscall.SIGCONT)
	}},
	{name: "a store is killed while the leader is paused", pauses: true, do: func(c *cluster, rng *rand.Rand, pause func()) {
		s, l := c.store(rng), c.leader()
		c.signal(l, syscall.SIGSTOP)
		c.kill(s)
		pause()
		c.start(s)
		c.signal(l, syscall.SIGCONT)
	}},
	{name: "a gateway does not reach a store, all others are slow", do: func(c *cluster, rng *rand.Rand, pause func()) {
		g, lost := c.gateways[rng.IntN(len(c.gateways))], c.store(rng)
		for _, s := range storeNames() {
			p := c.proxies[[2]string{g, s}]
			p.Set(faultproxy.Conditions{Hold: s == lost, Delay: time.Duration(rng.IntN(50)) * time.Millisecond}, faultproxy.Both...)
			defer p.Set(faultproxy.Conditions{}, faultproxy.Both...)
		}
		pause()
	}},
	{name: "a gateway dies while a store hangs", gateway: true, do: func(c *cluster, rng *rand.Rand, pause func()) {
		s := c.store(rng)
		c.signal(s, syscall.SIGSTOP)
		pause()
		c.signal(s, syscall.SIGCONT)
	}},
	{name: "all links are slow", do: func(c *cluster, rng *rand.Rand, pause func()) {
		for _, p := range c.proxies {
			p.Set(faultproxy.Conditions{Delay: time.Duration(rng.IntN(30)) * time.Millisecond}, faultproxy.Both...)
		}
		pause()
		for _, p := range c.proxies {
			p.Set(faultproxy.Conditions{}, faultproxy.Both...)
		}
	}},
}

// run is a cluster with two gateways, used piece by piece.
type run struct {
	t      *testing.T
	c      *cluster
	a, b   *gateway
	rng    *rand.Rand
	tags   atomic.Uint32
	pieces int
	ops    int
	// undecided pieces are those whose check did not end.
	undecided int
	lost      map[string]int

	blocks, folded int64 // of gateways that are dead
}

func newRun(t *testing.T, binary string) *run {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := &run{t: t, rng: rand.New(rand.NewPCG(seed, 0)), lost: map[string]int{}}
	r.c = newCluster(t, binary, "gw0", "gw1")
	r.a, r.b = r.c.gateway("gw0", hasty), r.c.gateway("gw1", patient)
	return r
}

// piece runs one piece under a fault; false if it is not linearizable.
func (r *run) piece(f fault) bool {
	t := r.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if r.pieces%clientPieces == clientPieces-1 {
		for _, g := range []*gateway{r.a, r.b} {
			if err := g.nfs.connect(ctx); err != nil {
				t.Fatalf("connect: %v", err)
			}
		}
	}
	p, err := prepare(ctx, r.a, r.b, r.pieces, r.rng.Uint64(), &r.tags)
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	r.pieces++
	var wg sync.WaitGroup
	for _, run := range p.clients(r.a, r.b) {
		wg.Go(run)
	}
	for end := time.Now().Add(patience); r.c.leader() == ""; time.Sleep(heartbeat / 10) {
		if time.Now().After(end) {
			t.Fatal("no leader")
		}
	}
	if f.nfs {
		wg.Go(func() {
			for {
				select {
				case <-p.quiet:
					return
				case <-time.After(heartbeat / 4):
					r.a.nfs.proxy.Cut()
					r.b.nfs.proxy.Cut()
				}
			}
		})
	}
	f.do(r.c, r.rng, func() { time.Sleep(2*heartbeat + time.Duration(r.rng.Int64N(int64(4*heartbeat)))) })
	time.Sleep(heartbeat)
	if f.gateway {
		r.a.die()
	}
	close(p.quiet)
	wg.Wait()
	if err := p.close(ctx, r.a, r.b); err != nil {
		t.Fatalf("close: %v", err)
	}
	if f.gateway {
		r.count(r.a)
		r.a = r.c.gateway(r.c.gateways[0], hasty)
	}
	if err := p.finish(ctx, r.a, r.b, f.gateway); err != nil {
		t.Fatalf("finish: %v", err)
	}
	r.ops += len(p.dirOps) + len(p.fileOps)
	for k, n := range p.errs {
		r.lost[k] += n
	}
	if p.torn != "" {
		t.Errorf("piece %d, %s: %s", r.pieces, f.name, p.torn)
	}
	return r.check("directory", directoryModel, p.dirOps, f) && r.check("files", fileModel, p.fileOps, f)
}

// count adds up what a gateway did that is not used any more.
func (r *run) count(g *gateway) {
	r.blocks += g.blks.writes.Load()
	r.folded += int64(g.fold.Stats().Blocks)
}

func (r *run) check(what string, m porcupine.Model, ops []porcupine.Operation, f fault) bool {
	result, info := porcupine.CheckOperationsVerbose(m, ops, checkTimeout)
	switch result {
	case porcupine.Ok:
		return true
	case porcupine.Unknown:
		r.undecided++
		r.t.Logf("piece %d (%d operations): the check did not end in %v", r.pieces, len(ops), checkTimeout)
		return true
	}
	r.t.Log(longest(m, ops, info))
	path := filepath.Join(r.t.ArtifactDir(), fmt.Sprintf("%s-%d.html", what, r.pieces))
	if err := porcupine.VisualizePath(m, info, path); err != nil {
		r.t.Log(err)
	}
	r.t.Logf("piece %d, %s: the history of %d operations on the %s is not linearizable; it is drawn in %s (kept with -artifacts)", r.pieces, f.name, len(ops), what, path)
	return false
}

// longest is the longest order that was found legal, and what was then left of its part of the history.
func longest(m porcupine.Model, ops []porcupine.Operation, info porcupine.LinearizationInfo) string {
	var best []porcupine.Operation
	for _, part := range info.PartialLinearizationsOperations() {
		for _, l := range part {
			if len(l) > len(best) {
				best = l
			}
		}
	}
	var b strings.Builder
	line := func(o porcupine.Operation) {
		fmt.Fprintf(&b, "  client %d, %.3f to %.3f ms: %s\n", o.ClientId, float64(o.Call)/1e6, float64(o.Return)/1e6, m.DescribeOperation(o.Input, o.Output))
	}
	done := map[[2]int64]bool{}
	b.WriteString("in order:\n")
	for _, o := range best {
		done[[2]int64{o.Call, int64(o.ClientId)}] = true
		line(o)
	}
	b.WriteString("then none of these fits first:\n")
	for _, o := range ops {
		if !done[[2]int64{o.Call, int64(o.ClientId)}] {
			line(o)
		}
	}
	return b.String()
}

// Whatever happens to voters, stores, gateways and links, what clients of two gateways see of names, and of the
// content of files, could have happened one after the other.
func TestLinearizable(t *testing.T) {
	rounds := 1
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		rounds = 60
	}
	r := newRun(t, os.Args[0])
	// A slow machine does less in a piece: it gets more of them.
	for want := rounds * len(faults); r.pieces < want || !r.enough(want) && r.pieces < 6*want; {
		for _, i := range r.rng.Perm(len(faults)) {
			if !r.piece(faults[i]) {
				t.Fatal("not linearizable")
			}
		}
	}
	blocks, folded := r.work()
	t.Logf("%d operations in %d pieces, %d undecided; not answered: %v; %d blocks, %d of them by folding", r.ops, r.pieces, r.undecided, r.lost, blocks, folded)
	if !r.enough(rounds * len(faults)) {
		t.Fatalf("%d operations in %d pieces show little", r.ops, r.pieces)
	}
}

// work is how many blocks were written and how many of them by folding.
func (r *run) work() (blocks, folded int64) {
	return r.blocks + r.a.blks.writes.Load(), r.folded + int64(r.a.fold.Stats().Blocks)
}

// enough reports whether what was done is worth that many pieces, of which a quarter may be undecided.
func (r *run) enough(pieces int) bool {
	blocks, folded := r.work()
	return r.ops >= 60*pieces && r.undecided <= r.pieces-pieces*3/4 && len(r.lost) > 0 && blocks >= int64(pieces) && folded > 0
}
