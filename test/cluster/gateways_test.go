//go:build linux

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
)

// moving is an NFS client whose server's address moves from one gateway to another.
type moving struct {
	*nfsclient.Client
	t    *testing.T
	root nfsclient.FH
	at   atomic.Pointer[machine]

	mu      sync.Mutex // guards the following
	last    time.Time  // when something was answered
	longest time.Duration
}

func newMoving(t *testing.T, owner string, at *machine) *moving {
	t.Helper()
	m := &moving{t: t}
	m.at.Store(at)
	m.mount(owner, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", m.at.Load().host+":2049")
	})
	return m
}

// mount makes the client, which connects by dial.
func (m *moving) mount(owner string, dial func(context.Context) (net.Conn, error)) {
	t := m.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cfg := nfsclient.Config{Owner: owner, Patient: true, DialFunc: dial}
	var err error
	if m.Client, err = dialPatiently(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Disconnect)
	if m.root, _, err = m.Walk(ctx, "/default"); err != nil {
		t.Fatal(err)
	}
}

// to moves the address: connections to the former gateway end, as with an address that is somewhere else.
func (m *moving) to(at *machine) {
	m.at.Store(at)
	m.Session(0).BreakConnection()
}

func (m *moving) ctx() context.Context {
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	m.t.Cleanup(cancel)
	return ctx
}

// ok takes in that something was answered.
func (m *moving) ok(err error, what string, args ...any) {
	m.t.Helper()
	if err != nil {
		m.t.Errorf("%s: %v", fmt.Sprintf(what, args...), err)
		m.t.FailNow()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if !m.last.IsZero() {
		m.longest = max(m.longest, now.Sub(m.last))
	}
	m.last = now
}

// stall is the longest time in which nothing was answered, from now on.
func (m *moving) stall() (was time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, m.longest, m.last = m.longest, 0, time.Now()
	return was
}

func (m *moving) open(name string) *nfsclient.File {
	m.t.Helper()
	f, err := m.Open(m.ctx(), m.root, nfsclient.OpenArgs{Name: name})
	m.ok(err, "open %s", name)
	return f
}

func (m *moving) create(name string) *nfsclient.File {
	m.t.Helper()
	f, err := m.Create(m.ctx(), m.root, name, 0o644)
	m.ok(err, "create %s", name)
	return f
}

func (m *moving) write(f *nfsclient.File, how nfsv4.StableHow4, p []byte) nfsclient.Written {
	m.t.Helper()
	w, err := m.Write(m.ctx(), f, 0, how, p)
	m.ok(err, "write")
	if int(w.Count) != len(p) {
		m.t.Fatalf("%d of %d bytes were written", w.Count, len(p))
	}
	return w
}

func (m *moving) read(f *nfsclient.File, want []byte) {
	m.t.Helper()
	p := make([]byte, len(want))
	n, _, err := m.Read(m.ctx(), f, 0, p)
	m.ok(err, "read")
	if !bytes.Equal(p[:n], want) {
		m.t.Fatalf("read %q, want %q", head(p[:n]), head(want))
	}
}

func head(p []byte) []byte { return p[:min(len(p), 20)] }

// locks reports whether the client got a lock of a file's first bytes.
func (m *moving) locks(f *nfsclient.File) bool {
	m.t.Helper()
	_, err := m.LockRange(m.ctx(), f, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 10)
	if nfsclient.StatusOf(err) == nfsv4.NFS4ERR_DENIED {
		m.ok(nil, "")
		return false
	}
	m.ok(err, "lock")
	return true
}

// TestGatewaysDie has two gateways, in processes of their own, serve one file system to two clients. One gateway is killed, then, when it is back, the other one
// is paused longer than its lease. The clients of each go on at the other one, with their opens and locks, and every rename is done once; what was
// acknowledged is read; and the one that was paused changes nothing and tells nothing old when it goes on.
func TestGatewaysDie(t *testing.T) {
	t.Parallel()
	ms := machinesFrom(t, 31, "meta, block", "gateway", "gateway")
	n1, n2, n3 := ms[0], ms[1], ms[2]
	n1.conf.disks, n1.conf.meta = 3, ", gateway_lease: 4s, gateway_linger: 30s"
	n1.configure()
	for _, g := range []*machine{n2, n3} { // clients are silent for as long as a gateway is paused, which on a slow machine is not to end them
		g.conf.nfs = ", several: true, lease: 5m"
		g.configure()
	}
	n1.must("cluster", "init", "--profile", "2+1", "--domain", "disk", "--nodes", "1")
	n1.start()
	n2.must("node", "join", "--token", n1.must("cluster", "token", "--roles", "gateway"))
	n3.conf.nfs = ""
	n3.configure()
	token := n1.must("cluster", "token", "--roles", "gateway")
	n3.refused("several need `nfs.several: true`", "node", "join", "--token", token)
	n3.conf.nfs = ", several: true, lease: 5m"
	n3.configure()
	n3.must("node", "join", "--token", token)
	n2.start()
	n3.start()

	a, b := newMoving(t, "a", n2), newMoving(t, "b", n3)
	locked, gone, mine := a.create("locked"), a.create("gone"), a.create("mine")
	lockedAtB := b.open("locked")
	a.write(gone, nfsv4.FILE_SYNC4, []byte("without a name"))
	_, err := a.LockRange(a.ctx(), locked, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 10)
	a.ok(err, "lock")
	b.ok(b.Remove(b.ctx(), b.root, "gone"), "remove")
	a.create("r0")
	var read []*nfsclient.File // what a has open for reading: long since, and since a moment ago when its name goes right before its gateway does, or after
	reading := func(name string) {
		t.Helper()
		f, err := a.Open(a.ctx(), a.root, nfsclient.OpenArgs{Name: name, Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
		a.ok(err, "open %s for reading", name)
		read = append(read, f)
	}
	for _, name := range []string{"idle", "fresh", "later"} {
		f := a.create(name)
		a.write(f, nfsv4.FILE_SYNC4, []byte("of "+name))
		a.ok(a.CloseFile(a.ctx(), f), "close")
	}
	reading("idle")

	// One gateway dies while its client writes, renames and makes files, and the other one's tries to get its lock.
	round := 0
	step := func() {
		t.Helper()
		p := fmt.Appendf(nil, "round %06d", round)
		a.write(mine, nfsv4.FILE_SYNC4, p)
		a.ok(a.Rename(a.ctx(), a.root, fmt.Sprint("r", round), a.root, fmt.Sprint("r", round+1)), "rename %d", round)
		a.read(mine, p)
		a.read(gone, []byte("without a name"))
		round++
	}
	for range 20 {
		step()
	}
	time.Sleep(2 * time.Second) // so that "idle" has been open for a while
	a.stall()
	reading("later")
	reading("fresh")
	b.ok(b.Remove(b.ctx(), b.root, "fresh"), "remove")
	n2.kill()
	time.Sleep(2 * time.Second)
	b.ok(b.Remove(b.ctx(), b.root, "later"), "remove")
	b.ok(b.Remove(b.ctx(), b.root, "idle"), "remove")
	a.to(n3)
	for range 5 {
		if b.locks(lockedAtB) {
			t.Fatal("the lock of a client was lost with its gateway")
		}
		step()
	}
	for i, name := range []string{"idle", "later", "fresh"} {
		a.read(read[i], []byte("of "+name))
	}
	for _, f := range read {
		a.ok(a.CloseFile(a.ctx(), f), "close")
	}
	t.Logf("a gateway was killed: nothing was answered to its client for %v", a.stall())

	for _, f := range read { // when nothing is held for the gateway that died any more
		for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
			_, err := b.Getattr(b.ctx(), f.FH)
			if nfsclient.StatusOf(err) == nfsv4.NFS4ERR_STALE {
				break
			}
			b.ok(err, "getattr")
			if time.Now().After(end) {
				t.Fatal("a file without a name that nobody has open stays")
			}
		}
	}

	// It comes back; its client stays where it is, the other one's goes there when its gateway is paused.
	n2.start()
	if b.locks(lockedAtB) {
		t.Fatal("the lock of a client was lost when a gateway came back")
	}
	shared := b.create("shared")
	buffered := b.write(shared, nfsv4.UNSTABLE4, []byte("buffered at the gateway that is paused"))
	c := newMoving(t, "c", n2)
	a.stall()
	n3.signal(syscall.SIGSTOP)
	a.to(n2)
	sharedAtC := c.open("shared")
	newer := []byte("newer")
	c.write(sharedAtC, nfsv4.FILE_SYNC4, newer)
	for range 5 {
		step()
	}
	t.Logf("a gateway was paused: nothing was answered to its client for %v, a write of a file that it had to itself took %v", a.stall(), c.stall())
	n3.signal(syscall.SIGCONT)
	v, err := b.Commit(b.ctx(), shared.FH, 0, 0)
	b.ok(err, "commit")
	if v == buffered.Verifier {
		t.Error("the gateway that was paused says that what it had buffered is stable")
	}
	b.read(shared, newer)
	c.read(sharedAtC, newer)
	if b.locks(lockedAtB) {
		t.Fatal("the lock of a client was lost when its gateway was paused")
	}
	step()

	// A gateway that is stopped hands its clients over.
	a.stall()
	n2.signal(syscall.SIGTERM)
	a.to(n3)
	for range 5 {
		step()
	}
	t.Logf("a gateway was stopped: nothing was answered to its client for %v", a.stall())
	if b.locks(lockedAtB) {
		t.Fatal("the lock of a client was lost when its gateway was stopped")
	}
	a.ok(a.CloseFile(a.ctx(), gone), "close")
	<-n2.done
	if code := n2.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("n2 ended with status %d", code)
	}
	n2.cmd = nil
	for _, m := range []*machine{n3, n1} {
		m.stop()
	}
}
