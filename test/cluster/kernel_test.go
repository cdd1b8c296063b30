//go:build linux

package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/test/journal"
)

// kernelWriter is a client in a real kernel that writes with a journal. A call that fails ends it, and the test.
type kernelWriter struct {
	t       *testing.T
	g       *kclient.Running
	file    string // the journal
	task    *kclient.Task
	answers chan string
}

// writerPause of each worker between two changes leaves the processors to the cluster under test.
const writerPause = 30 * time.Millisecond

// kernelWriter boots a kernel and mounts through the gateway.
func (c *cluster) kernelWriter() *kernelWriter { return kernelWriterAt(c.t, c.net, c.gateway().host) }

// kernelWriterAt is kernelWriter through the gateway at an address.
func kernelWriterAt(t *testing.T, n *kclient.Net, addr string) *kernelWriter {
	t.Helper()
	dir := t.TempDir()
	g := n.Boot(t, kclient.Guest{Name: "client", Writable: []string{dir}})
	g.Mount(t, kclient.NFS(addr, 2049, "/default", "/mnt/a", "4.2"))
	g.MustRun(t, patience, kclient.Command("mkdir", "/mnt/a/w"))
	w := &kernelWriter{t: t, g: g, file: filepath.Join(dir, "journal"), answers: make(chan string, 64)}
	lines, in := io.Pipe()
	cmd := kclient.Program("journal", "write", "-dir", "/mnt/a/w", "-journal", w.file, "-seed", fmt.Sprint(time.Now().UnixNano()), "-pause", writerPause.String())
	cmd.Stdout = in
	w.task = g.Start(t, cmd)
	go func() {
		for s := bufio.NewScanner(lines); s.Scan(); {
			w.answers <- s.Text()
		}
	}()
	t.Cleanup(func() { in.Close() })
	return w
}

// say tells the writer something and waits for its answer, if one is wanted.
func (w *kernelWriter) say(line, want string) string {
	t := w.t
	t.Helper()
	if _, err := fmt.Fprintln(w.task, line); err != nil {
		t.Fatal(err)
	}
	if want == "" {
		return ""
	}
	select {
	case a := <-w.answers:
		if !strings.HasPrefix(a, want) {
			t.Fatalf("the writer answers %q to %q", a, line)
		}
		return a
	case <-w.task.Ended():
		t.Fatal("the writer ended")
	case <-time.After(2 * patience):
		t.Fatalf("the writer does not answer %q", line)
	}
	return ""
}

// goesOn waits until n more changes were acknowledged.
func (w *kernelWriter) goesOn(n int) {
	w.t.Helper()
	w.say("resume", "")
	w.say(fmt.Sprintf("alarm %d", n), "alarm")
}

// mark returns how long changes took since it was called last.
func (w *kernelWriter) mark() (m journal.Measured) {
	w.t.Helper()
	line, _ := strings.CutPrefix(w.say("mark", "times "), "times ")
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		w.t.Fatalf("the writer says %q: %v", line, err)
	}
	return m
}

// during makes something happen between two times of n acknowledgements, and reports how long they took.
func (w *kernelWriter) during(what string, n int, fault func()) {
	w.t.Helper()
	w.goesOn(n)
	before := w.mark()
	fault()
	w.goesOn(n)
	w.t.Logf("%s: %v (before: %v)", what, w.mark(), before)
}

// verify pauses the writer and reads all that was acknowledged, with nothing in the kernel's caches.
func (w *kernelWriter) verify() {
	t := w.t
	t.Helper()
	t.Log(w.say("pause", "paused"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	code, err := w.g.Run(ctx, t, kclient.Program("journal", "verify", "-dir", "/mnt/a/w", "-journal", w.file, "-drop-caches"))
	if err != nil || code != 0 {
		t.Errorf("what was acknowledged is not there: status %d, %v", code, err)
	}
}

// A client in a real kernel writes with a journal while two nodes are killed and what they held is made anew: no call fails, and all that was acknowledged is what a
// mount shows that has nothing in its caches. How long its calls take in the meantime is reported.
func TestKernelClient(t *testing.T) {
	if !long {
		t.Skip("for the long run, which measures it: TestTwoNodesAreKilled has such a client, too")
	}
	kclient.Require(t)
	c := newClusterOf(t, 3, 3, forRepair)
	c.fill(512)
	w := c.kernelWriter()
	c.killTwo(w, 2000)
	w.verify()
}

// A client in a real kernel writes with a journal while each node is restarted.
func TestKernelClientAndRestarts(t *testing.T) {
	if !long {
		t.Skip("for the long run: the clients without a kernel do the same in TestRollingRestart")
	}
	kclient.Require(t)
	c := newCluster(t, 3, 3, "")
	w := c.kernelWriter()
	for _, m := range c.all {
		w.during(m.name+" restarted", 200, func() {
			m.stop()
			m.start()
			c.healthy()
		})
	}
	w.verify()
}

// A node is drained until nothing is on it, and stopped, while a client in a real kernel writes and reads. Then others are stopped, as many as the cluster
// says can be, and what it said is so: no call fails, writes go on, and all can be read without them.
func TestKernelClientDrains(t *testing.T) {
	kclient.Require(t)
	c := newCluster(t, 3, 3, "")
	w := c.kernelWriter()
	n := short(t, 100, 1000)
	blocks := slices.DeleteFunc(slices.Clone(c.all), func(m *machine) bool { return m.conf.roles != "block" })
	rand.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
	by := c.all[0]
	drained, rest := blocks[0], blocks[1:]
	// Groups have two slots in each rack, so all have both nodes that stay in the rack of the one that goes, and new blocks need both.
	i := slices.IndexFunc(rest, func(m *machine) bool { return rackOf(m) != rackOf(drained) })
	rest[0], rest[i] = rest[i], rest[0]
	w.during(drained.name+" drained", n, func() {
		by.must("node", "drain", drained.name)
		by.await(drained.name+" is drained", func() (bool, string) {
			d := by.node(drained.name)
			return d.Life == api.LifeDrained && len(d.Waits) == 0, fmt.Sprintf("%s %v, %d slots", d.Life, d.Waits, d.SlotsLeft)
		})
	})
	canStop := func(names ...*machine) (bool, string) {
		args := []string{"cluster", "can-stop"}
		for _, m := range names {
			args = append(args, m.name)
		}
		out, err := by.run(args...)
		return err == nil, out
	}
	if ok, why := canStop(drained); !ok {
		t.Errorf("a drained node cannot be stopped: %s", why)
	}
	w.during(drained.name+" stopped", n, drained.stop)
	stopped := rest[:1]
	by.await(rest[0].name+" can be stopped", func() (bool, string) { return canStop(stopped...) }) // moves for balance may go on a while
	for _, m := range rest[1:] {
		if ok, why := canStop(append(stopped, m)...); !ok {
			t.Logf("with %d stopped, %s cannot be, too: %s", len(stopped), m.name, why)
			break
		}
		stopped = append(stopped, m)
	}
	for _, m := range stopped {
		w.during(m.name+" stopped", n, m.stop)
	}
	w.verify()
	for _, m := range stopped {
		m.begin()
	}
	for _, m := range stopped {
		m.ready()
	}
	w.during("back", n, func() {})
}
