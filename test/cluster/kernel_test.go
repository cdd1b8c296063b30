//go:build linux

package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/nodegroup"
)

// A client in a real kernel writes with a journal while two nodes are killed, and while each node is restarted: no call fails, and all that was acknowledged
// is what a mount shows that has nothing in its caches.
func TestKernelClient(t *testing.T) {
	if !long {
		t.Skip("for the long run: the client without a kernel does the same in the other tests")
	}
	kclient.Require(t)
	c := newCluster(t, 3, 3, "health: {suspect_after: 3s, out_after: 6s}")
	dir := t.TempDir()
	g := c.net.Boot(t, kclient.Guest{Name: "client", Writable: []string{dir}})
	g.Mount(t, kclient.NFS(c.gateway().host, 2049, "/default", "/mnt/a", "4.2"))
	g.MustRun(t, patience, kclient.Command("mkdir", "/mnt/a/w"))
	file := filepath.Join(dir, "journal")
	lines, in := io.Pipe()
	defer in.Close()
	cmd := kclient.Program("journal", "write", "-dir", "/mnt/a/w", "-journal", file, "-seed", fmt.Sprint(time.Now().UnixNano()))
	cmd.Stdout = in
	task := g.Start(t, cmd)
	answers := make(chan string, 64)
	go func() {
		for s := bufio.NewScanner(lines); s.Scan(); {
			answers <- s.Text()
		}
	}()
	say := func(line, want string) string {
		t.Helper()
		if _, err := fmt.Fprintln(task, line); err != nil {
			t.Fatal(err)
		}
		if want == "" {
			return ""
		}
		select {
		case a := <-answers:
			if !strings.HasPrefix(a, want) {
				t.Fatalf("the writer answers %q to %q", a, line)
			}
			return a
		case <-task.Ended():
			t.Fatal("the writer ended")
		case <-time.After(2 * patience):
			t.Fatalf("the writer does not answer %q", line)
		}
		return ""
	}
	watch := watchGrowth(file)
	defer watch.end()
	during := func(what string, fault func()) {
		t.Helper()
		say("resume", "")
		say("alarm 200", "alarm")
		watch.mark()
		fault()
		say("alarm 200", "alarm")
		t.Logf("%s: nothing acknowledged for %v", what, watch.mark().Round(10*time.Millisecond))
	}
	i, j := c.victims()
	by := c.other(i, j)
	during(i.name+" and "+j.name+" killed", func() {
		i.kill()
		j.kill()
		by.stores(nodegroup.Out, i, j)
		by.sees("all redundancy is back", redundant)
	})
	i.start()
	j.start()
	c.healthy()
	for _, m := range c.all {
		during(m.name+" restarted", func() {
			m.stop()
			m.start()
			c.healthy()
		})
	}
	t.Log(say("pause", "paused"))
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	code, err := g.Run(ctx, t, kclient.Program("journal", "verify", "-dir", "/mnt/a/w", "-journal", file, "-drop-caches"))
	if err != nil || code != 0 {
		t.Errorf("what was acknowledged is not there: status %d, %v", code, err)
	}
}

// growth measures how long a file does not grow.
type growth struct {
	stop, done chan struct{}
	marks      chan chan time.Duration
}

func watchGrowth(file string) *growth {
	w := &growth{stop: make(chan struct{}), done: make(chan struct{}), marks: make(chan chan time.Duration)}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		var size int64
		last, longest := time.Now(), time.Duration(0)
		for {
			select {
			case <-w.stop:
				return
			case reply := <-w.marks:
				reply <- max(longest, time.Since(last))
				longest = 0
			case <-tick.C:
				if st, err := os.Stat(file); err == nil && st.Size() != size {
					longest, last, size = max(longest, time.Since(last)), time.Now(), st.Size()
				}
			}
		}
	}()
	return w
}

// mark begins anew, and returns the longest time until now.
func (w *growth) mark() time.Duration {
	reply := make(chan time.Duration)
	w.marks <- reply
	return <-reply
}

func (w *growth) end() {
	close(w.stop)
	<-w.done
}
