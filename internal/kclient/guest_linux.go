package kclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	defaultMemoryMiB = 768
	bootDeadline     = 10 * time.Minute // two seconds on an idle machine
	requestDeadline  = 2 * time.Minute  // for mount, umount and the like when the caller gave none
)

// Guest says what to boot. The zero value is a guest with a name and an address of its own and the NFS client loaded.
type Guest struct {
	Name      string            // host name, and the name in the log; unique in its network. Default: guestN
	Host      int               // last byte of its address, 100 to 250, for a guest that comes back under it. Default: one of its own
	MemoryMiB int               // default 768
	Writable  []string          // host folders that the guest can write, at the same path
	Disk      string            // host file that is /dev/ubda in the guest; see NewDisk
	Modules   []string          // loaded at boot besides nfsv4
	Sysctl    map[string]string // such as vm.dirty_expire_centisecs
}

// Running is a booted guest. Its methods may be called concurrently.
type Running struct {
	name    string
	addr    string
	tap     string
	net     *Net
	cmd     *exec.Cmd
	console *logTail
	ended   <-chan struct{}
	out     *lineWriter
	acked   func(bytes int)
	life    life
	notes   *logTail // what the harness says of its kernel
	t       testing.TB

	mu      sync.Mutex
	nextID  uint64               // protected by mu
	pending map[uint64]*callWait // protected by mu; nil once the control line is closed
}

type callWait struct {
	out, err func([]byte)
	done     chan event // buffered; closed without a value when the guest ended
}

// Boot starts a guest and returns when its init serves. The guest is killed at the end of the test.
func (n *Net) Boot(t testing.TB, g Guest) *Running {
	t.Helper()
	r, err := n.boot(t, g)
	if err != nil {
		t.Fatalf("kclient: boot guest: %v", err)
	}
	return r
}

// Booting begins to boot a guest while the test goes on. What it returns waits for the guest, as Boot does, for the same test or one of its subtests.
func (n *Net) Booting(t testing.TB, g Guest) (wait func(testing.TB) *Running) {
	type result struct {
		r   *Running
		err error
	}
	done, booted := make(chan struct{}), result{}
	go func() {
		defer close(done)
		booted.r, booted.err = n.boot(t, g)
	}()
	t.Cleanup(func() { <-done }) // what boot leaves to the end of the test is done after this
	return func(t testing.TB) *Running {
		t.Helper()
		if <-done; booted.err != nil {
			t.Fatalf("kclient: boot guest: %v", booted.err)
		}
		return booted.r
	}
}

func (n *Net) boot(t testing.TB, g Guest) (*Running, error) {
	n.mu.Lock()
	n.guests++
	number := n.guests
	n.mu.Unlock()
	host := firstGuest + number
	switch {
	case g.Host != 0 && (g.Host < firstFixed || g.Host > lastFixed):
		return nil, fmt.Errorf("address 10.77.0.%d is not between %d and %d", g.Host, firstFixed, lastFixed)
	case g.Host != 0:
		host = g.Host
	case host >= firstFixed:
		return nil, errors.New("no address left in the network")
	}
	if g.Name == "" {
		g.Name = fmt.Sprintf("guest%d", number)
	}
	if g.MemoryMiB == 0 {
		g.MemoryMiB = defaultMemoryMiB
	}
	r := &Running{
		name: g.Name, net: n, console: newQuietTail(t, g.Name+" console"),
		addr: fmt.Sprintf("10.77.0.%d", host), tap: fmt.Sprintf("tap%d", number),
		pending: map[uint64]*callWait{}, notes: newLogTail(t, g.Name+" kernel"), t: t,
	}
	r.life.wakeAfter.Store(wakeAfter)
	r.life.hangsAfter.Store(hangsAfter)
	dir := t.TempDir() // boot configuration and the kernel's run files
	config, err := writeBootConfig(dir, g, r.addr)
	if err != nil {
		return nil, err
	}
	err = n.Do(func() error {
		return ipBatch("tuntap add dev "+r.tap+" mode tap", "link set "+r.tap+" master "+bridgeName, "link set "+r.tap+" up")
	})
	if err != nil {
		return nil, err
	}
	control, guestEnd, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer guestEnd.Close()
	self, err := os.Executable()
	if err != nil {
		control.Close()
		return nil, err
	}
	args := []string{
		fmt.Sprintf("mem=%dM", g.MemoryMiB), "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init=" + self,
		envInit + "=" + config, "con=null", "con0=fd:0,fd:1", "ssl=null", "ssl0=fd:3,fd:3",
		// The hardware address belongs to the address, so that neighbours find a guest that comes back.
		fmt.Sprintf("vec0:transport=tap,ifname=%s,depth=128,gro=1,mac=02:00:0a:4d:00:%02x", r.tap, host), "umid=" + g.Name, "uml_dir=" + dir + "/", "quiet", "panic=-1",
	}
	if g.Disk != "" {
		args = append(args, "ubd0="+g.Disk)
	}
	kernel, err := kernelFile(dir, r.console)
	if err != nil {
		control.Close()
		return nil, err
	}
	r.cmd = exec.Command(kernel, args...)
	if r.cmd.Env, err = kernelEnv(t); err != nil {
		control.Close()
		return nil, err
	}
	r.cmd.Stdout, r.cmd.Stderr = r.console, r.console
	r.cmd.ExtraFiles = []*os.File{guestEnd} // fd 3
	r.cmd.WaitDelay = outputGrace
	// Process 1 of a PID namespace: when it goes, the kernel takes every process of the guest with it.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Setpgid: true}
	booted := make(chan event, 1)
	if r.ended, err = n.spawn(r.cmd); err != nil {
		control.Close()
		return nil, err
	}
	window := newWindowWriter(control, r.ended)
	r.out, r.acked = &lineWriter{w: window}, window.ack
	t.Cleanup(func() { r.Kill(t) })
	go r.receive(control, booted)
	go r.watch()
	go func() { // the other end stays open in nobody once the guest is gone, but say so at once
		<-r.ended
		control.Close()
	}()
	select {
	case e := <-booted:
		if e.Err != "" {
			return nil, errors.New(e.Err)
		}
		return r, nil
	case <-r.ended:
		if r.life.hangs.Load() {
			return nil, r.gone()
		}
		return nil, fmt.Errorf("the kernel ended with status %d:\n%s", exitStatus(r.cmd.ProcessState), r.console.tail())
	case <-time.After(bootDeadline):
		return nil, fmt.Errorf("not up after %v:\n%s", bootDeadline, r.console.tail())
	}
}

func writeBootConfig(dir string, g Guest, addr string) (string, error) {
	modules, err := modulesDir()
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(bootConfig{
		Hostname: g.Name, Address: fmt.Sprintf("%s/%d", addr, prefixBits), Modules: modules,
		Load: append([]string{"nfsv4"}, g.Modules...), Writable: g.Writable, Sysctl: g.Sysctl,
	})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "boot.json")
	return path, os.WriteFile(path, b, 0o644)
}

// socketPair returns the harness's end and the guest's.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "serial line")
	defer ours.Close() // FileConn duplicates it
	c, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c, theirs, nil
}

// receive hands events to the calls they belong to until the control line closes, and then ends all calls.
func (r *Running) receive(control net.Conn, booted chan<- event) {
	_ = readLines(lifeReader{control, &r.life}, func(e *event) {
		switch e.Verb {
		case "beat": // it was heard, and has nothing to say
			return
		case "boot":
			booted <- *e
			return
		case "ack":
			r.acked(e.Code)
			return
		}
		r.mu.Lock()
		w := r.pending[e.ID]
		if e.Verb == "done" {
			delete(r.pending, e.ID)
		}
		r.mu.Unlock()
		switch {
		case w == nil:
		case e.Verb == "out":
			w.out(e.Data)
		case e.Verb == "err":
			w.err(e.Data)
		case e.Verb == "done":
			w.done <- *e
		}
	}, func(line []byte) { _, _ = r.console.Write(append(line, '\n')) })
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.pending {
		close(w.done)
	}
	r.pending = nil
}

// ErrGuestGone says that the guest ended, by Kill, Shutdown or a crash of its kernel, while a request was under way.
var ErrGuestGone = errors.New("the guest is gone")

// begin sends a request; its events go to w until done.
func (r *Running) begin(q request, out, err func([]byte)) (uint64, *callWait, error) {
	w := &callWait{out: out, err: err, done: make(chan event, 1)}
	r.mu.Lock()
	if r.pending == nil {
		r.mu.Unlock()
		return 0, nil, r.gone()
	}
	r.nextID++
	q.ID = r.nextID
	r.pending[q.ID] = w
	r.mu.Unlock()
	if e := r.out.send(q); e != nil {
		r.mu.Lock()
		delete(r.pending, q.ID)
		r.mu.Unlock()
		return 0, nil, fmt.Errorf("%w: %w", r.gone(), e)
	}
	return q.ID, w, nil
}

// call is a request without output.
func (r *Running) call(ctx context.Context, q request) error {
	_, w, err := r.begin(q, func([]byte) {}, func([]byte) {})
	if err != nil {
		return err
	}
	select {
	case e, ok := <-w.done:
		switch {
		case !ok:
			return r.gone()
		case e.Err != "":
			return fmt.Errorf("%s: %s", r.name, e.Err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", r.name, q.Verb, ctx.Err())
	}
}

// Addr is the guest's address.
func (r *Running) Addr() string { return r.addr }

// Mount mounts inside the guest; the test fails when that fails.
func (r *Running) Mount(t testing.TB, m Mount) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestDeadline)
	defer cancel()
	if err := r.TryMount(ctx, m); err != nil {
		t.Fatalf("kclient: %v", err)
	}
}

// TryMount is Mount for a mount that may be refused.
func (r *Running) TryMount(ctx context.Context, m Mount) error {
	return r.call(ctx, request{Verb: "mount", Mount: &m})
}

// Unmount unmounts a target inside the guest. What a program still holds open there makes it fail.
func (r *Running) Unmount(t testing.TB, target string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestDeadline)
	defer cancel()
	if err := r.call(ctx, request{Verb: "umount", Args: []string{target}}); err != nil {
		t.Fatalf("kclient: %v", err)
	}
}

// SetLink cuts (false) or restores (true) the guest's network cable.
func (r *Running) SetLink(t testing.TB, up bool) {
	t.Helper()
	// The tap stays up: User Mode Linux gives up a tap that goes down.
	port := " nomaster"
	if up {
		port = " master " + bridgeName
	}
	if err := r.net.Do(func() error { return ipBatch("link set " + r.tap + port) }); err != nil {
		t.Fatalf("kclient: cable of %s: %v", r.name, err)
	}
}

// Kill is a power cut: the guest's kernel and all its processes are gone at once, unwritten pages with them. What its
// kernel handed to the disk file stays. It returns when the guest is gone.
func (r *Running) Kill(t testing.TB) {
	t.Helper()
	_ = r.cmd.Process.Kill() // already gone is as well
	select {
	case <-r.ended:
	case <-time.After(killDeadline):
		t.Errorf("kclient: %s survives SIGKILL", r.name)
	}
	_ = r.net.Do(func() error { return ipBatch("link del " + r.tap) }) // the namespace may go first, with the tap
}

// Shutdown syncs and powers off the guest in order. Programs that still run are not waited for.
func (r *Running) Shutdown(t testing.TB) {
	t.Helper()
	if err := r.out.send(request{Verb: "halt"}); err != nil {
		t.Fatalf("kclient: halt: %v: %v", r.gone(), err)
	}
	select {
	case <-r.ended:
		if r.life.hangs.Load() {
			t.Fatalf("kclient: power off: %v", r.gone())
		}
	case <-time.After(requestDeadline):
		t.Errorf("kclient: %s does not power off:\n%s", r.name, r.console.tail())
	}
	r.Kill(t)
}

// Alive says whether the guest's kernel runs.
func (r *Running) Alive() bool {
	select {
	case <-r.ended:
		return false
	default:
		return true
	}
}
