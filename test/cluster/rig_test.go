//go:build linux

package cluster

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/test/binary"
	"github.com/rackfs/rackfs/test/journal"
	"github.com/rackfs/rackfs/test/keep"
	"github.com/rackfs/rackfs/test/parallel"
)

// patience is how long a test waits for what must happen; it decides only when a hanging test ends.
const patience = 5 * time.Minute

// rackfs is the path of the program.
var rackfs string

func TestMain(m *testing.M) {
	kclient.Main(suite{m}, kclient.Programs{"journal": journal.Main, "keep": keep.Main})
}

// suite builds the binary once, before the tests.
type suite struct{ m *testing.M }

// atOnce is how many clusters of parallel tests run at once, which have a few nodes each: they wait for elections, leases, probes and guests for most of the time. Those with nine nodes, all of
// which begin or are restarted, have two processors busy: they run one at a time, before the others.
const atOnce = 3

func (s suite) Run() int {
	if err := parallel.AtOnce(atOnce); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "rackfs-cluster")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if rackfs, err = binary.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return s.m.Run()
}

// machine is a node and its process.
type machine struct {
	t    *testing.T
	name string
	dir  string
	host string // its address
	base int    // its ports: base + 71, 72, 73; 2049
	cmd  *exec.Cmd
	done <-chan struct{} // closed when cmd has ended
	log  string
	at   *kclient.Host // where it runs; nil: on this machine
	// mounts is what it sees of file systems; nil: what this process does.
	mounts *mounts
	conf   configuration
	// runs is another program than the one that is tested, with what is added to its environment.
	runs string
	env  []string
}

func (m *machine) program() string { return cmp.Or(m.runs, rackfs) }

// configuration is what differs between nodes.
type configuration struct {
	roles, rack string
	disks       int
	more        string // sections of YAML
	block       string // lines of YAML of the section block
	http        string // address for monitoring; "" for none
	meta, nfs   string // more of these sections, ", key: value"
	anywhere    bool   // NFS is served at all addresses of the machine
	allow       string // more networks that may mount, ", network"
}

// machines makes the configurations of nodes n1, n2, ... with two disks each.
func machines(t *testing.T, roles ...string) []*machine { return machinesFrom(t, 1, roles...) }

// machinesFrom is machines with addresses that end with first, first+1, ..., so that tests run beside each other.
func machinesFrom(t *testing.T, first int, roles ...string) []*machine {
	t.Helper()
	var all []*machine
	dir := t.TempDir()
	for i, r := range roles {
		m := &machine{conf: configuration{roles: r, disks: 2}, t: t, name: fmt.Sprintf("n%d", i+1), dir: dir, base: 7000, host: fmt.Sprintf("127.%d.%d.%d", 64+os.Getpid()>>8&63, os.Getpid()&255, first+i)}
		m.log = filepath.Join(t.ArtifactDir(), m.name+".log")
		m.configure()
		all = append(all, m)
	}
	t.Cleanup(func() { end(t, all) })
	return all
}

// end ends what still runs. If the test failed it shows how the cluster is and what nodes said last; all of it, and what each did, is in their logs, which
// `go test -artifacts` keeps.
func end(t *testing.T, all []*machine) {
	if i := slices.IndexFunc(all, func(m *machine) bool { return m.cmd != nil }); t.Failed() && i >= 0 {
		for _, args := range [][]string{{"cluster", "status"}, {"cluster", "voters"}} {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 20*time.Second)
			out, err := all[i].runFor(ctx, args...)
			cancel()
			t.Logf("rackfs %s at %s: %v\n%s", strings.Join(args, " "), all[i].name, err, out)
		}
	}
	for _, m := range all {
		if t.Failed() {
			b, _ := os.ReadFile(m.log)
			t.Logf("log of %s:\n%s", m.name, excerpt(string(b), 8000))
		}
		if m.cmd == nil {
			continue
		}
		if t.Failed() {
			_ = m.cmd.Process.Signal(syscall.SIGCONT)
			_ = m.cmd.Process.Signal(syscall.SIGQUIT) // prints all goroutines
			select {
			case <-m.done:
			case <-time.After(10 * time.Second):
			}
		}
		_ = m.cmd.Process.Kill()
		<-m.done
	}
}

func (m *machine) config() string { return filepath.Join(m.dir, m.name+".yaml") }

func (m *machine) configure() {
	m.t.Helper()
	if err := binary.Started(rackfs); err != nil {
		m.t.Fatal(err)
	}
	c, served := m.conf, m.host
	if c.anywhere {
		served = ""
	}
	text := fmt.Sprintf(`
name: %[1]s
data: %[2]s/%[1]s
roles: [%[3]s]
advertise: %[4]s
meta: {listen: "%[4]s:%[5]d", gc_grace: 10s%[11]s}
control: {listen: "%[4]s:%[6]d"}
gossip: {listen: "%[4]s:7074"}
http: {listen: "%[9]s"}
api: {listen: "%[4]s:7443"}
nfs: {listen: "%[13]s:2049", peers_listen: "%[4]s:7075", v3_listen: "%[4]s:%[10]s", allow: [%[4]s/8%[14]s]%[12]s}
rack: "%[7]s"
%[8]s
`, m.name, m.dir, c.roles, m.host, m.base+71, m.base+72, c.rack, c.more, c.http, nfs3Port, c.meta, c.nfs, served, c.allow)
	if strings.Contains(c.roles, "block") {
		text += fmt.Sprintf("block:\n  listen: \"%s:%d\"\n  segment: 16MiB\n  map_every: 1s\n  retry_after: 3s\n%s  disks:\n", m.host, m.base+73, c.block)
		for i := range c.disks {
			text += fmt.Sprintf("    - %s/%s-disk%d\n", m.dir, m.name, i+1)
		}
	}
	if err := os.WriteFile(m.config(), []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

// run runs a command on the node's machine to its end.
func (m *machine) run(args ...string) (stdout string, err error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	return m.runFor(ctx, args...)
}

// runFor is run, for as long as ctx lasts.
func (m *machine) runFor(ctx context.Context, args ...string) (stdout string, err error) {
	cmd := exec.CommandContext(ctx, m.program(), append(args, "--config", m.config())...)
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	start := cmd.Run
	if m.at != nil {
		start = func() error { return m.at.Run(cmd) }
	}
	if err := start(); err != nil {
		return out.String(), fmt.Errorf("rackfs %s: %w: %s", args[0], err, bad.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// bare runs a command that has no configuration yet.
func (m *machine) bare(args ...string) string {
	m.t.Helper()
	out, err := exec.CommandContext(m.t.Context(), rackfs, args...).Output()
	if err != nil {
		m.t.Fatal(err)
	}
	return string(out)
}

func (m *machine) must(args ...string) string {
	m.t.Helper()
	out, err := m.run(args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// refused is a command that fails, saying all of that.
func (m *machine) refused(says string, args ...string) {
	m.t.Helper()
	_, err := m.run(args...)
	if err == nil || !strings.Contains(err.Error(), says) {
		m.t.Errorf("%s of %s: %v, want a refusal that says %q", strings.Join(args[:2], " "), m.name, err, says)
	}
}

// start runs the node until it says that it is ready.
func (m *machine) start(args ...string) {
	m.t.Helper()
	m.begin(args...)
	m.ready()
}

// begin runs the node.
func (m *machine) begin(args ...string) {
	m.t.Helper()
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	stdout, err := os.Create(m.out())
	if err != nil {
		m.t.Fatal(err)
	}
	defer stdout.Close()
	m.cmd = exec.Command(m.program(), append([]string{"node", "--config", m.config()}, args...)...)
	m.cmd.Stdout, m.cmd.Stderr = stdout, log
	m.cmd.Env = append(m.cmd.Environ(), m.env...)
	if m.at != nil {
		if m.done, err = m.at.Spawn(m.cmd); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done, started, cmd := make(chan struct{}), make(chan error), m.cmd
	m.done = done
	go func() {
		// The process is killed when the thread that started it ends, as those do that were in a network namespace: this one is kept for it.
		runtime.LockOSThread()
		err := m.mounts.enter()
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(done)
	}()
	if err := <-started; err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) out() string { return filepath.Join(m.dir, m.name+".out") }

// ready waits until the node that has begun says so.
func (m *machine) ready() {
	m.t.Helper()
	m.await("it is ready", func() (bool, string) {
		select {
		case <-m.done:
			m.t.Fatalf("%s ended", m.name)
		default:
		}
		b, _ := os.ReadFile(m.out())
		return strings.HasPrefix(string(b), "rackfs ready\n"), string(b)
	})
}

// signal sends a signal to the process.
func (m *machine) signal(s syscall.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(s); err != nil {
		m.t.Fatalf("%v to %s: %v", s, m.name, err)
	}
}

func (m *machine) kill() {
	m.t.Helper()
	if err := m.cmd.Process.Kill(); err != nil {
		m.t.Fatal(err)
	}
	<-m.done
	m.cmd = nil
}

// stop asks it to end, and it must do so cleanly.
func (m *machine) stop() {
	m.t.Helper()
	m.signal(syscall.SIGTERM)
	m.stopped()
}

// stopped waits for the end of one that was asked to end.
func (m *machine) stopped() {
	m.t.Helper()
	<-m.done
	if code := m.cmd.ProcessState.ExitCode(); code != 0 {
		m.t.Errorf("%s ended with status %d", m.name, code)
	}
	m.cmd = nil
}

// await waits for a condition.
func (m *machine) await(what string, ok func() (bool, string)) {
	m.t.Helper()
	end := time.Now().Add(patience)
	for {
		done, seen := ok()
		if done {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("%s: waited %v until %s: %s", m.name, patience, what, seen)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// ask asks a node by its socket, as its commands do, until it answers or the patience ends. What is asked again and again until it is so needs no process each time, and
// leaves the processors to the cluster under test.
func ask[T any](m *machine, what func(*api.Client, context.Context) (T, error)) (T, error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	c := api.Dial(filepath.Join(m.dir, m.name, api.SocketName))
	defer c.Close()
	return what(c, ctx)
}

// seen is the cluster's status as a node sees it.
func (m *machine) seen() (*api.ClusterStatus, error) { return ask(m, (*api.Client).Status) }

func (m *machine) status() *api.ClusterStatus {
	m.t.Helper()
	st, err := m.seen()
	if err != nil {
		m.t.Fatal(err)
	}
	return st
}

// healthy waits until the cluster is, with so many voters of each shard, and new blocks get the full profile.
func (m *machine) healthy(voters int, profile string) *api.ClusterStatus {
	m.t.Helper()
	var st *api.ClusterStatus
	m.await("the cluster is healthy", func() (bool, string) {
		st = m.status()
		ok := st.Health == "ok" && len(st.Shards) == 2 && st.Placement != nil && len(st.Placement.Pools) == 1 && st.Placement.Pools[0].Writes == profile
		for _, s := range st.Shards {
			ok = ok && len(s.Voters) == voters
		}
		return ok, fmt.Sprintf("%s %+v", st.Health, st.Shards)
	})
	return st
}
