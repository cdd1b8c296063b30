//go:build linux

package cluster

import (
	"bufio"
	"bytes"
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

// talker is a program of a guest that obeys lines and answers with lines. If it ends, the test does.
type talker struct {
	t       *testing.T
	g       *kclient.Running
	task    *kclient.Task
	answers chan string
}

func talk(t *testing.T, g *kclient.Running, cmd kclient.Cmd) *talker {
	t.Helper()
	k := &talker{t: t, g: g, answers: make(chan string, 64)}
	lines, in := io.Pipe()
	cmd.Stdout = in
	k.task = g.Start(t, cmd)
	go func() {
		for s := bufio.NewScanner(lines); s.Scan(); {
			k.answers <- s.Text()
		}
	}()
	t.Cleanup(func() { in.Close() })
	return k
}

// say tells the program something and waits for its answer, if one is wanted.
func (k *talker) say(line, want string) string {
	k.t.Helper()
	if _, err := fmt.Fprintln(k.task, line); err != nil {
		k.t.Fatal(err)
	}
	if want == "" {
		return ""
	}
	return k.says(want)
}

// says waits for what the program says next, which has to begin so.
func (k *talker) says(want string) string {
	t := k.t
	t.Helper()
	check := func(a string) string {
		if !strings.HasPrefix(a, want) {
			t.Fatalf("the program says %q, want %q", a, want)
		}
		return a
	}
	select {
	case a := <-k.answers:
		return check(a)
	case <-k.task.Ended():
		select { // what it said last
		case a := <-k.answers:
			return check(a)
		case <-time.After(time.Second):
			t.Fatal("the program ended")
		}
	case <-time.After(patience):
		t.Fatalf("the program does not say %q; processes of its machine:\n%s", want, k.waits())
	}
	return ""
}

// waits is what the processes of the guest wait for.
func (k *talker) waits() string {
	var out bytes.Buffer
	cmd := kclient.Command("sh", "-c", `for p in /proc/[0-9]*/task/*; do echo "$p $(cat $p/comm) $(grep ^State $p/status)"; cat $p/stack; done 2>/dev/null | grep -v kworker`)
	cmd.Stdout = &out
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := k.g.Run(ctx, k.t, cmd); err != nil {
		fmt.Fprintf(&out, "the machine does not say more: %v", err)
	}
	return out.String()
}

// alarm waits until n more things were done.
func (k *talker) alarm(n int) {
	k.t.Helper()
	k.say(fmt.Sprintf("alarm %d", n), "alarm")
}

// mark returns how long things took since it was called last.
func (k *talker) mark() (m journal.Measured) {
	k.t.Helper()
	line, _ := strings.CutPrefix(k.say("mark", "times "), "times ")
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		k.t.Fatalf("the program says %q: %v", line, err)
	}
	return m
}

// kernelWriter is a client in a real kernel that writes with a journal. A call that fails ends it, and the test.
type kernelWriter struct {
	*talker
	file string // the journal
}

// writerPause of each worker between two changes leaves the processors to the cluster under test.
const writerPause = 30 * time.Millisecond

// kernelWriter boots a kernel and mounts through the gateway.
func (c *cluster) kernelWriter() *kernelWriter {
	t := c.t
	t.Helper()
	dir := t.TempDir()
	g := c.net.Boot(t, kclient.Guest{Name: "client", Writable: []string{dir}})
	g.Mount(t, kclient.NFS(c.gateway().host, 2049, "/default", "/mnt/a", "4.2"))
	return kernelWriterIn(t, g, dir)
}

// kernelWriterIn writes in the guest's mount, with the journal in a directory that the guest can write.
func kernelWriterIn(t *testing.T, g *kclient.Running, dir string) *kernelWriter {
	t.Helper()
	g.MustRun(t, patience, kclient.Command("mkdir", "/mnt/a/w"))
	file := filepath.Join(dir, "journal")
	return &kernelWriter{talk(t, g, kclient.Program("journal", "write", "-dir", "/mnt/a/w", "-journal", file, "-seed", fmt.Sprint(time.Now().UnixNano()), "-pause", writerPause.String())), file}
}

// goesOn waits until n more changes were acknowledged.
func (w *kernelWriter) goesOn(n int) {
	w.t.Helper()
	w.say("resume", "")
	w.alarm(n)
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
