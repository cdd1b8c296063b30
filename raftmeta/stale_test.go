package raftmeta

import (
	"bufio"
	"context"
	"fmt"
	"io"
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

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/machine"
	"github.com/rackfs/rackfs/vfs"
)

// A paused leader that wakes up must not answer a read that began after a newer
// leader acknowledged a write with the state before it. Voters are processes of their
// own here, so that one can be stopped with SIGSTOP. Each also serves reads on
// a line protocol, as the package reads ("safe") and as one must not ("bare": State()==Leader).

const voterEnv = "RACKFS_TEST_VOTER" // NODE:DIR of the cluster

// TestVoterProcess is not a test but the voter, in a process of its own.
func TestVoterProcess(t *testing.T) {
	node, dir, ok := strings.Cut(os.Getenv(voterEnv), ":")
	if !ok {
		t.Skip("runs in processes that TestPausedLeader starts")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lines, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{
		Dir: filepath.Join(dir, node), Listener: ln, Resolver: fileResolver(dir), Logger: quietLog(t),
		Security:        insecure(node, "meta"),
		ClientSecurity:  func(string) wire.Security { return insecure(node, "meta") },
		Timing:          Timing{Heartbeat: 200 * time.Millisecond, LeaderLease: 200 * time.Millisecond, Commit: 20 * time.Millisecond},
		WALSegmentBytes: 1 << 20, MemTableBytes: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	go serveLines(lines, s.shards[1])
	for name, l := range map[string]net.Listener{"rpc": ln, "lines": lines} {
		if err := os.WriteFile(filepath.Join(dir, node+"."+name+".tmp"), []byte(l.Addr().String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, node+"."+name+".tmp"), filepath.Join(dir, node+"."+name)); err != nil {
			t.Fatal(err)
		}
	}
	io.Copy(io.Discard, os.Stdin) // until the parent closes it or dies
	os.Exit(0)
}

// fileResolver finds addresses that the voters wrote to files.
func fileResolver(dir string) Resolver {
	return ResolverFunc(func(_ context.Context, node string) (string, error) {
		b, err := os.ReadFile(filepath.Join(dir, node+".rpc"))
		return string(b), err
	})
}

// serveLines answers "MODE NAME" with found, absent, or error.
func serveLines(l net.Listener, sh *shard) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer nc.Close()
			for in := bufio.NewScanner(nc); in.Scan(); {
				mode, name, _ := strings.Cut(in.Text(), " ")
				fmt.Fprintln(nc, readLine(sh, mode, name))
			}
		}()
	}
}

func readLine(sh *shard, mode, name string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	read := sh.read
	if mode == "bare" {
		if sh.raft.State() != raft.Leader {
			return "error"
		}
		read = func(context.Context) (*machine.View, *fsm.Cache, error) { return sh.host.View() }
	}
	v, cache, err := read(ctx)
	if err != nil {
		return "error"
	}
	defer v.Release()
	switch r := fsm.Query(v, cache, lookupQuery(name)); vfs.Kind(r.Kind) {
	case vfs.KindOK:
		return "found"
	case vfs.KindNotFound:
		return "absent"
	}
	return "error"
}

// process is a voter of TestPausedLeader.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

func (p *process) signal(s syscall.Signal) { p.cmd.Process.Signal(s) }

func startVoters(t *testing.T, dir string, names []string) map[string]*process {
	ps := map[string]*process{}
	for _, n := range names {
		cmd := exec.Command(os.Args[0], "-test.run=^TestVoterProcess$")
		cmd.Env = append(os.Environ(), voterEnv+"="+n+":"+dir)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p := &process{cmd, stdin}
		ps[n] = p
		t.Cleanup(func() {
			p.signal(syscall.SIGCONT)
			p.cmd.Process.Kill()
			p.cmd.Wait()
		})
	}
	for _, n := range names {
		eventually(t, n+" to start", func() bool {
			_, err := os.Stat(filepath.Join(dir, n+".lines"))
			_, err2 := os.Stat(filepath.Join(dir, n+".rpc"))
			return err == nil && err2 == nil
		})
	}
	return ps
}

// staleReader reads from one voter, on one connection, again and again.
type staleReader struct {
	mode   string
	newest *atomic.Int64 // number of the newest acknowledged name
	stale  *atomic.Int64
	found  *atomic.Int64
}

func pauseName(i int64) string { return fmt.Sprintf("pause-%d", i) }

func (r staleReader) run(nc net.Conn, stop <-chan struct{}) {
	defer nc.Close()
	in := bufio.NewScanner(nc)
	for {
		select {
		case <-stop:
			return
		default:
		}
		i := r.newest.Load() // acknowledged before this read begins
		if _, err := fmt.Fprintf(nc, "%s %s\n", r.mode, pauseName(i)); err != nil || !in.Scan() {
			return
		}
		switch in.Text() {
		case "absent":
			r.stale.Add(1)
		case "found":
			r.found.Add(1)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestPausedLeader(t *testing.T) {
	const readers, enough = 32, 40
	dir := t.TempDir()
	names := []string{"m0", "m1", "m2"}
	var voters []Replica
	for _, n := range names {
		rs, err := Format(FormatOptions{Dir: filepath.Join(dir, n), Cluster: testClusterID, Node: n, Shards: []uint16{1}})
		if err != nil {
			t.Fatal(err)
		}
		voters = append(voters, rs...)
	}
	if err := Bootstrap(nil, filepath.Join(dir, "m0"), 1, voters); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, names: names, addrs: map[string]string{}}
	ps := startVoters(t, dir, names)
	for _, n := range names {
		a, err := fileResolver(dir).Resolve(context.Background(), n)
		if err != nil {
			t.Fatal(err)
		}
		c.addrs[n] = a
	}
	cl := c.gateway(1, "gw")
	s := cl.shard(1)
	var newest, stale, found atomic.Int64
	write := func() {
		t.Helper()
		i := newest.Load() + 1
		if _, err := cl.Apply(testContext(t), 1, createCmd(pauseName(i))); err != nil {
			t.Fatal(err)
		}
		newest.Store(i)
	}
	// onePause stops the leader while it is being read from, lets another one acknowledge a write, and
	// wakes it up; it returns the number of stale reads.
	onePause := func(mode string) int64 {
		t.Helper()
		write()
		s.mu.Lock()
		leader := s.hint // who acknowledged it
		s.mu.Unlock()
		addr, err := os.ReadFile(filepath.Join(dir, leader+".lines"))
		if err != nil {
			t.Fatal(err)
		}
		stale.Store(0)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range readers {
			nc, err := net.Dial("tcp", string(addr))
			if err != nil {
				t.Fatal(err)
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				staleReader{mode, &newest, &stale, &found}.run(nc, stop)
			}()
		}
		ps[leader].signal(syscall.SIGSTOP)
		write() // by another leader
		// Reads of the newest name now lie in the paused process's sockets: one that was
		// waiting for its answer goes on to the next only after the wake-up.
		for range readers {
			nc, err := net.Dial("tcp", string(addr))
			if err != nil {
				t.Fatal(err)
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				staleReader{mode, &newest, &stale, &found}.run(nc, stop)
			}()
		}
		time.Sleep(20 * time.Millisecond)
		ps[leader].signal(syscall.SIGCONT)
		time.Sleep(300 * time.Millisecond) // more reads; how many decides nothing
		close(stop)
		wg.Wait()
		return stale.Load()
	}
	pauses := 0
	for onePause("bare") == 0 {
		if pauses++; pauses == enough {
			t.Fatalf("%d pauses without a stale read of the wrong kind: this test shows nothing", enough)
		}
	}
	t.Logf("State()==Leader: %d stale reads in pause %d", stale.Load(), pauses+1)
	pauses = max(2*pauses, 6)
	found.Store(0)
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		pauses = 100
	}
	for i := range pauses {
		if n := onePause("safe"); n > 0 {
			t.Fatalf("%d stale reads in pause %d", n, i+1)
		}
	}
	// Who was paused may have answered no read in time, for it leads no more. One who leads answers them.
	eventually(t, "a read to be answered", func() bool {
		write()
		s.mu.Lock()
		leader := s.hint
		s.mu.Unlock()
		addr, err := os.ReadFile(filepath.Join(dir, leader+".lines"))
		if err != nil {
			t.Fatal(err)
		}
		nc, err := net.Dial("tcp", string(addr))
		if err != nil {
			t.Fatal(err)
		}
		stop := make(chan struct{})
		time.AfterFunc(20*time.Millisecond, func() { close(stop) })
		staleReader{"safe", &newest, &stale, &found}.run(nc, stop)
		return found.Load() > 0
	})
	t.Logf("term-confirmed: none in %d pauses", pauses)
}
