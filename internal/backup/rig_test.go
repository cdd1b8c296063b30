package backup

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A future that is on its way to the state machine when Raft is shut down is never answered (hashicorp/raft 1.8.0, runFSM).
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/hashicorp/raft.(*deferError).Error"))
}

// patience is how long a test waits for what must happen. It decides nothing but when a hanging test ends.
const patience = 5 * time.Minute

var (
	clusterID = []byte("0123456789abcdef")
	shards    = []uint16{0, 1}
	quiet     = slog.New(slog.NewTextHandler(io.Discard, nil))
)

// cluster is some voters in this process.
type cluster struct {
	t       *testing.T
	dir     string
	names   []string
	mu      sync.Mutex // guards addrs
	addrs   map[string]string
	servers []*raftmeta.Server
}

func insecure(name, role string) wire.Security {
	return wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: name, Roles: []string{role}}}
}

func newCluster(t *testing.T, nodes int) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), addrs: map[string]string{}}
	for i := range nodes {
		c.names = append(c.names, fmt.Sprintf("m%d", i))
	}
	t.Cleanup(c.close)
	return c
}

func (c *cluster) path(i int) string { return filepath.Join(c.dir, c.names[i]) }

// form makes new metadata on all nodes.
func (c *cluster) form() {
	c.t.Helper()
	all := map[uint16][]raftmeta.Replica{}
	for i, name := range c.names {
		rs, err := raftmeta.Format(raftmeta.FormatOptions{Dir: c.path(i), Cluster: clusterID, Node: name, Shards: shards})
		c.must(err)
		for _, r := range rs {
			all[r.Shard] = append(all[r.Shard], r)
		}
	}
	for _, s := range shards {
		c.must(raftmeta.Bootstrap(nil, c.path(0), s, all[s]))
	}
	for i := range c.names {
		c.start(i)
	}
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// Resolve implements raftmeta.Resolver.
func (c *cluster) Resolve(_ context.Context, node string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.addrs[node]; a != "" {
		return a, nil
	}
	return "", fmt.Errorf("node %s is down", node)
}

func (c *cluster) start(i int) {
	c.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	c.must(err)
	name := c.names[i]
	s, err := raftmeta.Open(raftmeta.Options{
		Dir: c.path(i), Listener: ln, Resolver: c, Logger: quiet, Security: insecure(name, "meta"),
		ClientSecurity: func(string) wire.Security { return insecure(name, "meta") }, Shards: shards, Nodes: c.names,
		WALSegmentBytes: 4 << 20, BlockCacheBytes: 8 << 20, MemTableBytes: 4 << 20,
	})
	c.must(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers = append(c.servers, s)
	c.addrs[name] = ln.Addr().String()
}

func (c *cluster) close() {
	var wg sync.WaitGroup
	for _, s := range c.servers {
		wg.Go(func() {
			if err := s.Close(); err != nil {
				c.t.Errorf("close: %v", err)
			}
		})
	}
	wg.Wait()
	c.servers = nil
}

func (c *cluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c.t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func (c *cluster) eventually(what string, cond func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); !cond(); {
		if time.Now().After(end) {
			c.t.Fatalf("waited %v for %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *cluster) client() *raftmeta.Client {
	c.t.Helper()
	cl, err := raftmeta.NewClient(raftmeta.ClientOptions{
		Nodes: c.names, Resolver: c, Logger: quiet, AttemptTimeout: time.Second,
		Security: func(string) wire.Security { return insecure("gw", "gateway") },
	})
	c.must(err)
	c.t.Cleanup(cl.Close)
	return cl
}

// raise brings the shards to the newest level.
func (c *cluster) raise() {
	c.t.Helper()
	for _, shard := range shards {
		c.eventually("the newest level", func() bool {
			for _, s := range c.servers {
				if s.RaiseLevel(c.ctx(), shard, raftmeta.NewestLevel) == nil {
					return true
				}
			}
			return false
		})
	}
}

// gateway is a client that is registered at shard 1, in which file system 1 is.
func (c *cluster) gateway(name string) *raftmeta.Client {
	c.t.Helper()
	cl := c.client()
	c.must(provision.Key(c.ctx(), cl))
	c.must(provision.Pool(c.ctx(), cl, func() (*metapb.Pool, error) {
		return &metapb.Pool{Id: provision.DefaultPool, Name: "p", K: 2, M: 1}, nil
	}))
	c.must(provision.FS(c.ctx(), cl))
	_, err := cl.Register(c.ctx(), 1, metapb.OriginKind_ORIGIN_GATEWAY, name, fmt.Appendf(nil, "%016x", time.Now().UnixNano()))
	c.must(err)
	return cl
}

func create(name string, open uint32) *metapb.Command {
	mode := uint32(0o644)
	return &metapb.Command{Fs: 1, Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: uint64(vfs.RootIno), Name: []byte(name), Type: uint32(vfs.TypeFile), Exclusive: uint32(vfs.Guarded), Open: open,
		Attr: &metapb.AttrSet{Mode: &mode},
	}}}
}

func has(ctx context.Context, cl *raftmeta.Client, name string) (bool, error) {
	_, err := cl.Query(ctx, 1, &metapb.Query{Fs: 1, Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: uint64(vfs.RootIno), Name: []byte(name)}}})
	if vfs.KindOf(err) == vfs.KindNotFound {
		return false, nil
	}
	return err == nil, err
}

func info(ctx context.Context, cl *raftmeta.Client, shard uint16) (*metapb.ShardInfoR, error) {
	r, err := cl.Query(ctx, shard, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}})
	return r.GetShardInfo(), err
}

// options back up by the replicas of one server.
func (c *cluster) options(cl *raftmeta.Client, server int) Options {
	return Options{Meta: cl, Source: c.servers[server], Shards: shards, Release: "test", Grace: time.Hour, Now: time.Now}
}
