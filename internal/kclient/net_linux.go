package kclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	hostAddress = "10.77.0.1"
	prefixBits  = 24
	bridgeName  = "br0"
	// bridgeAddress is given, for a bridge without takes that of a port, and another one when that port goes.
	bridgeAddress = "02:00:0a:4d:00:01"
	firstGuest    = 10  // last byte of the first guest's address
	firstFixed    = 100 // last bytes that a test chooses itself (Guest.Host)
	lastFixed     = 250
	killDeadline  = 2 * time.Minute // for the kernel to bury a process that got SIGKILL
)

// Net is a network of the test's own: an anonymous namespace with a bridge. It ends with the test.
type Net struct {
	namespace

	mu     sync.Mutex
	guests int // addresses handed out; protected by mu
	racks  int // racks and hosts made; protected by mu
}

// namespace is an anonymous network namespace.
type namespace struct {
	ns *os.File // it lives as long as this or a process in it
}

// NewNet makes a network whose host side is Addr.
func NewNet(t testing.TB) *Net {
	t.Helper()
	n, err := newNet()
	if err != nil {
		t.Fatalf("kclient: network: %v", err)
	}
	t.Cleanup(func() { n.ns.Close() })
	return n
}

// newNamespace makes one in which nothing is up.
func newNamespace() (namespace, error) {
	type result struct {
		ns  *os.File
		err error
	}
	made := make(chan result)
	go func() {
		// Never unlocked: the thread ends with the goroutine, so no other goroutine finds itself in the namespace.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: fmt.Errorf("new network namespace: %w", err)}
			return
		}
		ns, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		made <- result{ns, err}
	}()
	r := <-made
	return namespace{r.ns}, r.err
}

func newNet() (*Net, error) {
	ns, err := newNamespace()
	if err != nil {
		return nil, err
	}
	n := &Net{namespace: ns}
	err = n.Do(func() error {
		if err := setCongestionControl(); err != nil {
			return err
		}
		return ipBatch(
			"link set lo up",
			"link add "+bridgeName+" address "+bridgeAddress+" type bridge forward_delay 0",
			fmt.Sprintf("addr add %s/%d dev %s", hostAddress, prefixBits, bridgeName),
			"link set "+bridgeName+" up")
	})
	if err != nil {
		n.ns.Close()
		return nil, err
	}
	return n, nil
}

// setCongestionControl replaces the host's choice, which the namespace inherits: with bbr, timings would be noise. A
// namespace may only choose an algorithm of net.ipv4.tcp_allowed_congestion_control (scripts/setup-test.sh adds cubic
// there); reno always is one.
func setCongestionControl() error {
	const file = "/proc/sys/net/ipv4/tcp_congestion_control"
	err := os.WriteFile(file, []byte("cubic"), 0)
	if errors.Is(err, os.ErrPermission) {
		err = os.WriteFile(file, []byte("reno"), 0)
	}
	return err
}

// Addr is the host's address on the network, where servers started with Start listen.
func (n *Net) Addr() string { return hostAddress }

// Do calls f on a thread that is inside the network, for sockets of the test itself: a socket keeps the namespace it was
// made in. Everything f does must stay in its goroutine; dial numeric addresses only.
func (n *namespace) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, as in newNet
		if err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// ipBatch runs iproute2 commands in the caller's namespace.
func ipBatch(lines ...string) error { return ipBatchWith(nil, lines...) }

// ipBatchWith runs commands that may name another namespace, peerNamespace.
func ipBatchWith(peer *os.File, lines ...string) error {
	cmd := exec.Command("ip", "-batch", "-")
	if peer != nil {
		cmd.ExtraFiles = []*os.File{peer}
	}
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// spawn starts cmd inside the network and returns a channel that is closed when the process has ended (cmd.ProcessState
// is set then). The thread that started it waits for it, which makes the parent death signal that of this process: it is
// sent when the starting *thread* ends.
func (n *namespace) spawn(cmd *exec.Cmd) (<-chan struct{}, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		err := n.Do(func() error {
			if err := cmd.Start(); err != nil {
				return err
			}
			started <- nil
			_ = cmd.Wait() // the state tells
			return nil
		})
		if err != nil {
			started <- err
		}
	}()
	return ended, <-started
}

// Process is a program of the host to run inside a network.
type Process struct {
	Args []string
	Env  []string // added to the environment
	Dir  string
	Name string // in the log; default: base name of Args[0]
}

// Proc is a running Process.
type Proc struct {
	cmd   *exec.Cmd
	log   *logTail
	ended <-chan struct{}
	name  string
}

// Start runs a process of the host inside the network, its output in the test's log. It is killed at the end of the test.
func (n *namespace) Start(t testing.TB, p Process) *Proc {
	t.Helper()
	name := p.Name
	if name == "" {
		name = baseName(p.Args[0])
	}
	cmd := exec.Command(p.Args[0], p.Args[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), p.Env...), p.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = outputGrace
	log := newLogTail(t, name)
	cmd.Stdout, cmd.Stderr = log, log
	ended, err := n.spawn(cmd)
	if err != nil {
		t.Fatalf("kclient: start %s: %v", name, err)
	}
	pr := &Proc{cmd: cmd, log: log, ended: ended, name: name}
	t.Cleanup(func() { pr.Kill(t) })
	return pr
}

// Pid of the process.
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the process.
func (p *Proc) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !p.hasEnded() {
		t.Fatalf("kclient: %v to %s: %v", sig, p.name, err)
	}
}

// Kill ends the process and those it started (its process group) with SIGKILL and waits until it is gone.
func (p *Proc) Kill(t testing.TB) {
	t.Helper()
	if !p.hasEnded() {
		_ = unix.Kill(-p.Pid(), unix.SIGKILL)
	}
	select {
	case <-p.ended:
	case <-time.After(killDeadline):
		t.Errorf("kclient: %s (pid %d) survives SIGKILL", p.name, p.Pid())
	}
}

// Wait returns the exit status, 128+signal for one that died of a signal.
func (p *Proc) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.ended:
		return exitStatus(p.cmd.ProcessState), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%s still runs: %w", p.name, ctx.Err())
	}
}

// WaitOutput waits until the process printed a line that contains text, and returns that line. The test fails when
// the process ends before, or takes longer than the deadline.
func (p *Proc) WaitOutput(t testing.TB, text string, deadline time.Duration) string {
	t.Helper()
	line, err := p.log.wait(text, deadline, p.ended)
	if err != nil {
		t.Fatalf("kclient: %s: %v", p.name, err)
	}
	return line
}

func (p *Proc) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func exitStatus(s *os.ProcessState) int {
	if s == nil {
		return -1
	}
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}
