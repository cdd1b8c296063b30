package stripe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memNode is a block server in memory, with faults.
type memNode struct {
	mu     sync.Mutex
	shards map[blockstore.Key][]byte
	epochs map[uint32]uint32
	puts   int
	gets   int
	bytes  int // read
	// fault, if set, is asked before each operation; an error is its answer.
	fault func(ctx context.Context, op wire.Op, k blockstore.Key) error
}

func newMemNode() *memNode {
	return &memNode{shards: map[blockstore.Key][]byte{}, epochs: map[uint32]uint32{}}
}

func (n *memNode) setFault(f func(ctx context.Context, op wire.Op, k blockstore.Key) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = f
}

func (n *memNode) Call(ctx context.Context, op wire.Op, meta []byte, payload net.Buffers, into []byte) (*wire.Reply, error) {
	var put blockstore.PutRequest
	var get blockstore.GetRequest
	var key blockstore.Key
	var err error
	if op == blockstore.OpPut {
		err = put.Decode(meta)
		key = put.Key
	} else {
		err = get.Decode(meta)
		key = get.Key
	}
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	fault := n.fault
	n.mu.Unlock()
	if fault != nil {
		if err := fault(ctx, op, key); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, vfs.Wrap("call", ctx.Err())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if op == blockstore.OpPut {
		n.puts++
		if put.Epoch < n.epochs[key.PG] {
			return nil, vfs.KindFenced.Err("put")
		}
		var data []byte
		for _, b := range payload {
			data = append(data, b...)
		}
		n.shards[key] = data
		return &wire.Reply{}, nil
	}
	n.gets++
	data, ok := n.shards[key]
	if !ok {
		return nil, vfs.KindNotFound.Err("get")
	}
	if int(get.Offset)+int(get.Length) > len(data) {
		return nil, vfs.KindInvalid.Err("get")
	}
	n.bytes += int(get.Length)
	return &wire.Reply{Payload: into[:copy(into, data[get.Offset:][:get.Length])]}, nil
}

// cluster is a map over memNodes, one target each.
type cluster struct {
	*Static
	nodes   map[string]*memNode
	targets []placement.Target
	bad     []BadShard
	badMu   sync.Mutex
	client  *Client
}

const pool = 1

// unhurried gives a test the durations that it does not set. On a machine that is slow none of them may decide what happens.
func unhurried(o Options) Options {
	for _, d := range []*time.Duration{&o.PatienceMin, &o.PatienceAlone, &o.AttemptTimeout, &o.FetchTimeout} {
		if *d == 0 {
			*d = time.Hour
		}
	}
	if o.ProbeTimeout == 0 {
		o.ProbeTimeout = time.Minute
	}
	return o
}

// newCluster has n nodes and pgs groups of profile k+m.
func newCluster(t interface{ Fatal(...any) }, n, k, m, pgs int, o Options) *cluster {
	c := &cluster{nodes: map[string]*memNode{}}
	callers := map[string]Caller{}
	for i := range n {
		name := fmt.Sprintf("n%d", i)
		c.nodes[name] = newMemNode()
		callers[name] = c.nodes[name]
		c.targets = append(c.targets, placement.Target{Node: name})
	}
	groups, err := placement.Static(c.targets, k, m, pgs)
	if err != nil {
		t.Fatal(err)
	}
	if c.Static, err = NewStatic(map[uint32][]placement.PG{pool: groups}, callers); err != nil {
		t.Fatal(err)
	}
	o.OnBad = func(b BadShard) {
		c.badMu.Lock()
		defer c.badMu.Unlock()
		c.bad = append(c.bad, b)
	}
	o.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	c.client = New(unhurried(o))
	return c
}

func (c *cluster) slot(pg uint32, i int) *memNode {
	g, _ := c.PG(pg)
	return c.nodes[g.Slots[i].Target.Node]
}

func randomBytes(seed uint64, n, capacity int) []byte {
	p := make([]byte, n, max(n, capacity))
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := 0; i+8 <= n; i += 8 {
		x := rng.Uint64()
		for j := range 8 {
			p[i+j] = byte(x >> (8 * j))
		}
	}
	for i := n / 8 * 8; i < n; i++ {
		p[i] = byte(rng.Uint32())
	}
	return p
}

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func wantKind(t testing.TB, err error, k vfs.Kind) {
	t.Helper()
	if vfs.KindOf(err) != k {
		t.Fatalf("error %v, want kind %v", err, k)
	}
}
