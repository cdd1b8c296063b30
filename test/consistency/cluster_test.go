package consistency

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rackfs/rackfs/internal/faultproxy"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
	"github.com/rackfs/rackfs/volume/rewrite"
)

const (
	voterEnv = "RACKFS_TEST_VOTER" // NODE:DIR: be that voter

	testShard = 1
	testFS    = 7

	// patience is how long a test waits for what must happen; it decides only when a hanging test ends.
	patience = 5 * time.Minute
	// The voters' heartbeat. Pauses are measured in it.
	heartbeat = 200 * time.Millisecond
	// How long a gateway waits for one voter before it asks another. One that is hasty soon finds
	// a new leader, and one that is patient asks the old one, who may be paused, for as long as a
	// fault lasts: together they see whether a leader answers that was deposed.
	hasty   = heartbeat
	patient = 30 * time.Second

	foldRate = 64 << 20 // bytes per second
)

func TestMain(m *testing.M) {
	if v := os.Getenv(voterEnv); v != "" {
		if err := runVoter(v); err != nil {
			fmt.Fprintln(os.Stderr, "voter:", err)
			os.Exit(1)
		}
		return
	}
	if v := os.Getenv(storeEnv); v != "" {
		if err := runStore(v); err != nil {
			fmt.Fprintln(os.Stderr, "store:", err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func insecure(name string, roles ...string) wire.Security {
	return wire.Security{Mode: wire.ModeInsecure, Self: wire.Peer{Name: name, Roles: roles}}
}

// resolver finds a node's proxy for who asks. The test writes them before anybody starts.
func resolver(dir, who string) raftmeta.Resolver {
	return raftmeta.ResolverFunc(func(_ context.Context, node string) (string, error) {
		b, err := os.ReadFile(filepath.Join(dir, who+"-to-"+node))
		return string(b), err
	})
}

// runVoter is a voter's process. It ends when its standard input does, so with the test.
func runVoter(spec string) error {
	node, dir, _ := strings.Cut(spec, ":")
	rpc, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ask, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s, err := raftmeta.Open(raftmeta.Options{
		Dir: filepath.Join(dir, node), Listener: rpc, Resolver: resolver(dir, node), Logger: slog.New(slog.DiscardHandler),
		Security:        insecure(node, "meta"),
		ClientSecurity:  func(string) wire.Security { return insecure(node, "meta") },
		Timing:          raftmeta.Timing{Heartbeat: heartbeat, LeaderLease: heartbeat, Commit: heartbeat / 10},
		WALSegmentBytes: 1 << 20, MemTableBytes: 1 << 20, BlockCacheBytes: 4 << 20,
		// Snapshots are part of every run.
		SnapshotThreshold: 200, SnapshotInterval: 500 * time.Millisecond, TrailingLogs: 50,
	})
	if err != nil {
		return err
	}
	// Answers "leads" or "follows" to every line, but "raised" or "not raised" to the line "raise".
	go func() {
		for {
			nc, err := ask.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				for in := bufio.NewScanner(nc); in.Scan(); {
					answer := "follows"
					if in.Text() == "raise" {
						answer = "not raised"
						if s.RaiseLevel(context.Background(), testShard, raftmeta.NewestLevel) == nil {
							answer = "raised"
						}
					} else if st := s.Status()[0]; st.Serving {
						answer = "leads"
					}
					fmt.Fprintln(nc, answer)
				}
			}()
		}
	}()
	for name, ln := range map[string]net.Listener{"ask": ask, "rpc": rpc} {
		if err := publish(filepath.Join(dir, node+"."+name), ln.Addr().String()); err != nil {
			return err
		}
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// publish writes a file that others read at any time.
func publish(path, text string) error {
	if err := os.WriteFile(path+".tmp", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// cluster is three voter processes, five store processes, and the links to them.
type cluster struct {
	t        *testing.T
	dir      string
	binary   string   // of the processes
	names    []string // of voters
	gateways []string
	proxies  map[[2]string]*faultproxy.Proxy // by who dials whom

	mu        sync.Mutex // guards processes
	processes map[string]*process
}

// process is a voter or a store.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

func newCluster(t *testing.T, binary string, gateways ...string) *cluster {
	t.Helper()
	c := &cluster{
		t: t, dir: t.TempDir(), binary: binary, names: []string{"m0", "m1", "m2"}, gateways: gateways,
		proxies: map[[2]string]*faultproxy.Proxy{}, processes: map[string]*process{},
	}
	var replicas []raftmeta.Replica
	for _, n := range c.names {
		rs, err := raftmeta.Format(raftmeta.FormatOptions{Dir: filepath.Join(c.dir, n), Cluster: []byte("consistency"), Node: n, Shards: []uint16{testShard}})
		if err != nil {
			t.Fatal(err)
		}
		replicas = append(replicas, rs...)
	}
	if err := raftmeta.Bootstrap(nil, filepath.Join(c.dir, "m0"), testShard, replicas); err != nil {
		t.Fatal(err)
	}
	for _, from := range append(append([]string{}, c.names...), gateways...) {
		for _, to := range append(storeNames(), c.names...) {
			if from == to || from[0] == 'm' && to[0] == 's' {
				continue
			}
			p, err := faultproxy.Listen(func(context.Context) (string, error) {
				b, err := os.ReadFile(filepath.Join(c.dir, to+".rpc"))
				return string(b), err
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Close)
			c.proxies[[2]string{from, to}] = p
			if err := publish(filepath.Join(c.dir, from+"-to-"+to), p.Addr()); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := append(storeNames(), c.names...)
	t.Cleanup(func() {
		for _, n := range all {
			c.kill(n)
		}
	})
	for _, n := range all {
		c.start(n)
	}
	for end := time.Now().Add(patience); c.leader() == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no leader")
		}
	}
	for end := time.Now().Add(patience); c.ask(c.leader(), "raise") != "raised"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the feature level cannot be raised")
		}
	}
	return c
}

func (c *cluster) start(name string) {
	cmd := exec.Command(c.binary)
	env := voterEnv
	if name[0] == 's' {
		env = storeEnv
	}
	cmd.Env = append(os.Environ(), env+"="+name+":"+c.dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		c.t.Errorf("start %s: %v", name, err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.processes[name] = &process{cmd, stdin}
}

// kill is SIGKILL, and the wait for the end.
func (c *cluster) kill(name string) {
	c.mu.Lock()
	v := c.processes[name]
	delete(c.processes, name)
	c.mu.Unlock()
	if v == nil {
		return
	}
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
	_ = v.stdin.Close()
	for _, f := range []string{".rpc", ".ask"} {
		_ = os.Remove(filepath.Join(c.dir, name+f))
	}
}

func (c *cluster) signal(name string, s syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v := c.processes[name]; v != nil {
		_ = v.cmd.Process.Signal(s)
	}
}

// leader asks the voters who leads; "" if none says so now.
func (c *cluster) leader() string {
	for _, n := range c.names {
		if c.ask(n, "") == "leads" {
			return n
		}
	}
	return ""
}

// ask puts a question to a voter; "" if it does not answer.
func (c *cluster) ask(name, question string) string {
	addr, err := os.ReadFile(filepath.Join(c.dir, name+".ask"))
	if err != nil {
		return ""
	}
	nc, err := net.DialTimeout("tcp", string(addr), time.Second)
	if err != nil {
		return ""
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprintln(nc, question)
	in := bufio.NewScanner(nc)
	if !in.Scan() {
		return ""
	}
	return in.Text()
}

// links are those between voters that name is an end of.
func (c *cluster) links(name string) (ps []*faultproxy.Proxy) {
	for ends, p := range c.proxies {
		if (ends[0] == name || ends[1] == name) && strings.HasPrefix(ends[0], "m") {
			ps = append(ps, p)
		}
	}
	return ps
}

// gateway is a volume with a metadata client of its own.
type gateway struct {
	vol  *volume.Volume
	blks *stored
	meta *raftmeta.Client
	nfs  *nfsGateway
	fold *rewrite.Rewriter
	stop context.CancelFunc // of fold
	wg   sync.WaitGroup     // of fold
	dead atomic.Bool
}

// die is what the end of the gateway's process does: nothing more is sent, and what is in memory is gone.
func (g *gateway) die() {
	if g.dead.CompareAndSwap(false, true) {
		g.meta.Close()
		g.stop()
		g.wg.Wait()
		if g.nfs != nil {
			g.nfs.die()
		}
		g.vol.Abandon()
		g.blks.close()
	}
}

func (c *cluster) gateway(name string, attempt time.Duration) *gateway {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := raftmeta.NewClient(raftmeta.ClientOptions{
		Nodes: c.names, Resolver: resolver(c.dir, name), Logger: slog.New(slog.DiscardHandler), AttemptTimeout: attempt, Calls: 16,
		Security: func(string) wire.Security { return insecure(name, raftmeta.RoleGateway) },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	var incarnation [16]byte
	rand.Read(incarnation[:])
	if _, err := cl.Register(ctx, testShard, metapb.OriginKind_ORIGIN_GATEWAY, name, incarnation[:]); err != nil {
		c.t.Fatal(err)
	}
	// The first one makes the file system.
	_, err = cl.Apply(ctx, testShard, &metapb.Command{Fs: testFS, Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{
		RootMode: 0o777, HashKey: []byte("0123456789abcdef"),
	}}})
	if err != nil && vfs.KindOf(err) != vfs.KindExists {
		c.t.Fatal(err)
	}
	blks, err := c.stored(name)
	if err != nil {
		c.t.Fatal(err)
	}
	g := &gateway{meta: cl, blks: blks, vol: volume.New(volume.Config{
		FS: testFS, Shard: testShard, Meta: cl, Blocks: blks, Incarnation: incarnation, Logger: slog.New(slog.DiscardHandler),
	})}
	// Files are folded all the time, also what is written just then.
	g.fold = rewrite.New(rewrite.Config{
		Name: "fold", Meta: cl, BytesPerSecond: foldRate, Interval: heartbeat / 4, IdleMax: heartbeat / 4, Logger: slog.New(slog.DiscardHandler),
		Source: &rewrite.Folding{Age: heartbeat / 8, Logger: slog.New(slog.DiscardHandler), Volumes: func() []rewrite.Folded {
			return []rewrite.Folded{{Volume: g.vol, Shard: testShard, FS: testFS, Blocks: blks}}
		}},
	})
	folding, stop := context.WithCancel(context.Background())
	g.stop = stop
	g.wg.Go(func() { g.fold.Run(folding) })
	c.t.Cleanup(g.die)
	if g.nfs, err = startNFS(ctx, name, g.vol); err != nil {
		c.t.Fatal(err)
	}
	return g
}
