package raftmeta

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"go.uber.org/goleak"
)

// A future that is on its way to the state machine when Raft is shut down is never answered (hashicorp/raft 1.8.0, runFSM).
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*deferError).Error"))
}

// patience is how long a test waits for what must happen. It decides nothing but when a hanging test ends.
const patience = 5 * time.Minute

var testClusterID = []byte("cluster-of-tests")

// cluster is a number of servers in this process, on loopback and real files.
type cluster struct {
	t      testing.TB
	dir    string
	shards []uint16
	opt    func(node int, o *Options)

	mu      sync.Mutex
	addrs   map[string]string
	servers []*Server
	names   []string
}

func insecure(name string, roles ...string) wire.Security {
	return wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: name, Roles: roles}}
}

func quietLog(t testing.TB) *slog.Logger {
	if os.Getenv("RACKFS_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

// newCluster formats and bootstraps n nodes and starts them.
func newCluster(t testing.TB, n int, shards []uint16, opt func(node int, o *Options)) *cluster {
	t.Helper()
	return newClusterLog(t, n, shards, WAL, opt)
}

func newClusterLog(t testing.TB, n int, shards []uint16, log Backend, opt func(node int, o *Options)) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir(), shards: shards, opt: opt, addrs: map[string]string{}, servers: make([]*Server, n)}
	all := map[uint16][]Replica{}
	for i := range n {
		name := fmt.Sprintf("m%d", i)
		c.names = append(c.names, name)
		rs, err := Format(FormatOptions{Dir: c.path(i), Cluster: testClusterID, Node: name, Shards: shards, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			all[r.Shard] = append(all[r.Shard], r)
		}
	}
	for _, s := range shards {
		if err := Bootstrap(nil, c.path(0), s, all[s]); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(c.close)
	for i := range n {
		c.start(i)
	}
	return c
}

func (c *cluster) path(i int) string { return filepath.Join(c.dir, fmt.Sprintf("m%d", i)) }

// Resolve implements Resolver.
func (c *cluster) Resolve(_ context.Context, node string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.addrs[node]; a != "" {
		return a, nil
	}
	return "", fmt.Errorf("node %s is down", node)
}

func (c *cluster) options(i int) Options {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	name := c.names[i]
	o := Options{
		Dir: c.path(i), Listener: ln, Resolver: c, Logger: quietLog(c.t).With("node", name),
		Security:        insecure(name, "meta"),
		ClientSecurity:  func(string) wire.Security { return insecure(name, "meta") },
		Timing:          Timing{Heartbeat: 400 * time.Millisecond, LeaderLease: 300 * time.Millisecond, Commit: 20 * time.Millisecond},
		WALSegmentBytes: 4 << 20, BlockCacheBytes: 8 << 20, MemTableBytes: 4 << 20,
		PurgeInterval: 50 * time.Millisecond, CheckInterval: 200 * time.Millisecond,
	}
	if c.opt != nil {
		c.opt(i, &o)
	}
	return o
}

func (c *cluster) start(i int) *Server {
	c.t.Helper()
	o := c.options(i)
	s, err := Open(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.servers[i] = s
	c.addrs[c.names[i]] = o.Listener.Addr().String()
	c.mu.Unlock()
	return s
}

func (c *cluster) stop(i int) {
	c.t.Helper()
	c.mu.Lock()
	s := c.servers[i]
	c.servers[i] = nil
	delete(c.addrs, c.names[i])
	c.mu.Unlock()
	if s == nil {
		return
	}
	if err := s.Close(); err != nil {
		c.t.Errorf("close %s: %v", c.names[i], err)
	}
}

func (c *cluster) close() {
	var wg sync.WaitGroup
	for i := range c.servers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c.stop(i)
		}()
	}
	wg.Wait()
}

func (c *cluster) server(i int) *Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.servers[i]
}

// status is the state of shard at node i; false if that is down.
func (c *cluster) status(i int, shard uint16) (ShardStatus, bool) {
	s := c.server(i)
	if s == nil {
		return ShardStatus{}, false
	}
	for _, st := range s.Status() {
		if st.Shard == shard {
			return st, true
		}
	}
	return ShardStatus{}, false
}

// leader waits until a node serves shard and returns its number.
func (c *cluster) leader(shard uint16) int {
	c.t.Helper()
	found := -1
	c.eventually("a leader", func() bool {
		for i := range c.servers {
			if st, ok := c.status(i, shard); ok && st.Serving {
				found = i
				return true
			}
		}
		return false
	})
	return found
}

func (c *cluster) eventually(what string, cond func() bool) {
	c.t.Helper()
	eventually(c.t, what, cond)
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *cluster) client() *Client {
	c.t.Helper()
	return c.clientWith(func(*ClientOptions) {})
}

func (c *cluster) clientWith(opt func(*ClientOptions)) *Client {
	c.t.Helper()
	o := ClientOptions{
		Nodes: c.names, Resolver: c, Logger: quietLog(c.t),
		Security: func(string) wire.Security { return insecure("gw", "gateway") }, AttemptTimeout: time.Second,
	}
	opt(&o)
	cl, err := NewClient(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

const testFS = 7

// gateway is a client that is registered with shard, in which the test's file system exists.
func (c *cluster) gateway(shard uint16, name string) *Client {
	c.t.Helper()
	cl := c.client()
	ctx := testContext(c.t)
	if _, err := cl.Register(ctx, shard, metapb.OriginKind_ORIGIN_GATEWAY, name, fmt.Appendf(nil, "%016x", time.Now().UnixNano())); err != nil {
		c.t.Fatal(err)
	}
	_, err := cl.Apply(ctx, shard, &metapb.Command{Fs: testFS, Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{
		RootMode: 0o755, HashKey: []byte("0123456789abcdef"),
	}}})
	if err != nil {
		c.t.Fatal(err)
	}
	return cl
}

func createCmd(name string) *metapb.Command {
	mode := uint32(0o644)
	return &metapb.Command{Fs: testFS, Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: uint64(vfs.RootIno), Name: []byte(name), Type: uint32(vfs.TypeFile), Exclusive: uint32(vfs.Guarded),
		Attr: &metapb.AttrSet{Mode: &mode},
	}}}
}

func lookupQuery(name string) *metapb.Query {
	return &metapb.Query{Fs: testFS, Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: uint64(vfs.RootIno), Name: []byte(name)}}}
}

func infoQuery() *metapb.Query {
	return &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}}
}
