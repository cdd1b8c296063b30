//go:build linux

package kernel

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/test/posix"
)

const (
	contentionDeadline = 30 * time.Minute
	randomIODeadline   = 30 * time.Minute
)

// TestRandomIO compares what a file system answers to random I/O with a copy in the client's memory.
func TestRandomIO(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	ops := 2500
	if long() {
		ops = 60_000 // of both versions together more than 100,000 that did something
	}
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	srv.start(t, n, dataDir(t))
	seed, _ := newSeed(t)
	for i, version := range []string{"4.1", "4.2"} {
		t.Run("vers="+version, func(t *testing.T) {
			t.Parallel()
			g := n.Boot(t, kclient.Guest{Name: "random-" + version, MemoryMiB: 512})
			g.Mount(t, srv.mount(n.Addr(), mountpoint, version))
			dir := mountpoint + "/random-" + version
			g.MustRun(t, time.Minute, kclient.Command("mkdir", dir))
			var out, diag bytes.Buffer
			c := kclient.Program("posix", "random-io", "-dir", dir, "-drop-caches", "-ops", strconv.Itoa(ops), "-seed", strconv.FormatUint(seed+uint64(i), 10))
			c.Stdout, c.Stderr = &out, &diag
			ctx, cancel := context.WithTimeout(context.Background(), randomIODeadline)
			defer cancel()
			if status, err := g.Run(ctx, t, c); err != nil || status != 0 {
				t.Fatalf("status %d, %v\n%s%s", status, err, out.String(), diag.String())
			}
			t.Log(strings.TrimSpace(out.String()))
		})
	}
}

// TestContention lets two machines want the same locks, names and files at the same time.
func TestContention(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	locks, names := 100, 100 // of each machine; names of both
	if long() {
		locks, names = 5000, 5000
	}
	const lease = 20 * time.Second
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	srv.start(t, n, dataDir(t), srv.lease(lease)...)
	all := clients{}
	for name, version := range map[string]string{"a": "4.1", "b": "4.2"} {
		g := n.Boot(t, kclient.Guest{Name: name, MemoryMiB: 384})
		g.Mount(t, srv.mount(n.Addr(), mountpoint, version))
		all[name] = client{t, g}
	}
	all.contention(t, locks, names, lease)
}

// clients are machines that work in one file system, by names of one letter.
type clients map[string]client

// together runs a program on each machine until all are done, and returns what each printed.
func (all clients) together(t *testing.T, what string, program func(name string) kclient.Cmd) map[string]string {
	t.Helper()
	type end struct {
		name, out string
		err       error
	}
	ends := make(chan end)
	begin := time.Now()
	for name, c := range all {
		go func() {
			var out, diag bytes.Buffer
			cmd := program(name)
			cmd.Stdout, cmd.Stderr = &out, &diag
			ctx, cancel := context.WithTimeout(context.Background(), contentionDeadline)
			defer cancel()
			status, err := c.g.Run(ctx, t, cmd)
			if err == nil && status != 0 {
				err = fmt.Errorf("status %d: %s", status, diag.String())
			}
			ends <- end{name, out.String(), err}
		}()
	}
	outs := map[string]string{}
	for range all {
		e := <-ends
		if e.err != nil {
			t.Errorf("client %s: %v", e.name, e.err)
		}
		outs[e.name] = e.out
	}
	t.Logf("%s in %.1f s", what, time.Since(begin).Seconds())
	return outs
}

// contention lets machines a and b want the same locks, names and files.
func (all clients) contention(t *testing.T, locks, names int, lease time.Duration) {
	a, b := all["a"], all["b"]
	contend := func(t *testing.T, args ...string) map[string]string {
		t.Helper()
		return all.together(t, strings.Join(args, " "), func(name string) kclient.Cmd {
			return kclient.Program("posix", append([]string{"contend", "-dir", mountpoint, "-name", name}, args...)...)
		})
	}

	for _, kind := range []string{"fcntl", "flock"} {
		for _, wait := range []bool{false, true} {
			t.Run(fmt.Sprintf("counter/%s/wait=%v", kind, wait), func(t *testing.T) {
				rounds := locks
				a.sh("echo 0 >" + posix.CounterFile)
				contend(t, "-for", "count", "-kind", kind, "-n", strconv.Itoa(rounds), "-wait="+strconv.FormatBool(wait))
				if got := strings.TrimSpace(b.sh("cat " + posix.CounterFile)); got != strconv.Itoa(2*rounds) {
					t.Errorf("two clients counted to %d each: the counter says %s", rounds, got)
				}
			})
		}
	}
	t.Run("append", func(t *testing.T) {
		a.sh(": >" + posix.AppendFile)
		contend(t, "-for", "append", "-n", strconv.Itoa(locks))
		next := map[string]int{}
		for i, line := range strings.SplitAfter(b.sh("cat "+posix.AppendFile), "\n") {
			if line == "" {
				continue
			}
			name, _, _ := strings.Cut(line, " ")
			if want := posix.AppendLine(name, next[name]); line != want {
				t.Fatalf("line %d is %.60q, want %.60q", i, line, want)
			}
			next[name]++
		}
		if next["a"] != locks || next["b"] != locks {
			t.Errorf("lines of each: %v, want %d", next, locks)
		}
	})
	// won checks that each of the numbers was won by exactly one, and that both won some.
	won := func(t *testing.T, outs map[string]string, verb string) map[int]string {
		t.Helper()
		by := map[int]string{}
		for name, out := range outs {
			lines := strings.Fields(strings.ReplaceAll(out, verb+" ", ""))
			for _, s := range lines {
				i, err := strconv.Atoi(s)
				if err != nil {
					t.Fatalf("client %s says %q", name, s)
				}
				if by[i] != "" {
					t.Errorf("%s %d: by both clients", verb, i)
				}
				by[i] = name
			}
			t.Logf("client %s %s %d", name, verb, len(lines))
		}
		if len(by) != names {
			t.Errorf("%s %d in all, want %d", verb, len(by), names)
		}
		return by
	}
	t.Run("exclusive create", func(t *testing.T) {
		for i, name := range won(t, contend(t, "-for", "exclusive", "-n", strconv.Itoa(names)), "made") {
			if i%20 == 0 {
				if got := a.sh(fmt.Sprintf("cat exclusive-%d", i)); got != name {
					t.Errorf("file %d was made by %s and says %q", i, name, got)
				}
			}
		}
	})
	t.Run("rename", func(t *testing.T) {
		a.sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do : >source-$i; i=$((i+1)); done", names))
		won(t, contend(t, "-for", "rename", "-n", strconv.Itoa(names)), "took")
		if got := strings.TrimSpace(b.sh("ls | grep -c '^source-' ; ls | grep -c '^taken-'")); got != fmt.Sprintf("0\n%d", names) {
			t.Errorf("sources left, files taken: %q", got)
		}
	})
	t.Run("replace", func(t *testing.T) {
		contend(t, "-for", "replace", "-n", strconv.Itoa(names/2))
	})
	t.Run("lock of a client that is cut off for less than a lease", func(t *testing.T) {
		a.sh(": >lock")
		held := a.lock()
		if s := held.next(t); s != "held" {
			t.Fatal(s)
		}
		a.g.SetLink(t, false)
		away := time.After(lease / 2)
		var said string
		for back := false; !back; {
			try := b.lock()
			select {
			case said = <-try.said:
				time.Sleep(lease / 20)
			case <-away: // it waits for a, whose delegation the file is
				a.g.SetLink(t, true)
				back, said = true, try.next(t)
			}
			if said == "held" {
				t.Fatal("the lock was taken from a client that was away for less than a lease")
			}
		}
		a.sh("echo back >still-here") // the client is whole again
		if s := b.lock().next(t); s == "held" {
			t.Fatal("the lock is held twice")
		}
		held.release(t)
		if s := b.lock("-wait").next(t); s != "waiting" {
			t.Fatal(s)
		}
	})
}
