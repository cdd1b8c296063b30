//go:build linux

package kernel

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/internal/kclient"
)

const (
	twoClientsDeadline = 10 * time.Minute
	// waitedFor is long enough that a client which asks by itself, after 1 s, 2 s, 4 s, would ask next in seconds.
	waitedFor = 4 * time.Second
)

// client is a guest with the export mounted.
type client struct {
	t *testing.T
	g *kclient.Running
}

// sh runs a shell command in the mount and returns what it printed.
func (c client) sh(command string) string {
	c.t.Helper()
	var out bytes.Buffer
	cmd := kclient.Command("sh", "-c", command)
	cmd.Dir, cmd.Stdout = mountpoint, &out
	ctx, cancel := context.WithTimeout(context.Background(), twoClientsDeadline)
	defer cancel()
	if status, err := c.g.Run(ctx, c.t, cmd); err != nil || status != 0 {
		c.t.Fatalf("%s: status %d, %v", command, status, err)
	}
	return out.String()
}

// lock is a process that holds a lock of a file until it is released, or tried to.
type lock struct {
	task *kclient.Task
	said chan string
}

func (c client) lock(args ...string) *lock {
	c.t.Helper()
	l := &lock{said: make(chan string, 8)}
	cmd := kclient.Program("posix", append([]string{"hold", "-file", mountpoint + "/lock"}, args...)...)
	cmd.Stdout = &lines{each: func(line string) { l.said <- line }}
	l.task = c.g.Start(c.t, cmd)
	return l
}

// next is what the process says next: "waiting", "held", or an error.
func (l *lock) next(t *testing.T) string {
	t.Helper()
	select {
	case s := <-l.said:
		return s
	case <-time.After(twoClientsDeadline):
		t.Fatal("the process with the lock says nothing")
		return ""
	}
}

func (l *lock) release(t *testing.T) {
	t.Helper()
	if err := l.task.CloseInput(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), twoClientsDeadline)
	defer cancel()
	if _, err := l.task.Wait(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestTwoClients(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	// A guest on a busy machine stands still for some seconds now and then: it must not lose its locks for it.
	srv.start(t, n, dataDir(t), srv.lease(15*time.Second)...)
	boot := func(name, version string) client {
		g := n.Boot(t, kclient.Guest{Name: name, MemoryMiB: 384})
		g.Mount(t, srv.mount(n.Addr(), mountpoint, version))
		return client{t, g}
	}
	a, b := boot("a", "4.1"), boot("b", "4.2")
	a.sh("echo 0 >lock")

	t.Run("close to open", func(t *testing.T) {
		for i, from := range []client{a, b, a, b} {
			text := strings.Repeat(string(rune('a'+i)), 10_000*(i+1))
			from.sh("printf %s " + text + " >shared")
			for _, reader := range []client{a, b} {
				if got := reader.sh("cat shared"); got != text {
					t.Fatalf("round %d: a client reads %d bytes, begins %.20q, want %d", i, len(got), got, len(text))
				}
			}
		}
	})
	t.Run("exclusive create", func(t *testing.T) {
		// mkdir and noclobber fail on what the other client made, even where this one has not looked yet.
		a.sh("mkdir made; set -C; : >excl")
		if got := b.sh("mkdir made 2>/dev/null || echo exists; set -C; (: >excl) 2>/dev/null || echo exists"); got != "exists\nexists\n" {
			t.Fatalf("the second client says %q", got)
		}
	})
	t.Run("unlinked while open elsewhere", func(t *testing.T) {
		a.sh("echo still here >open")
		reader := kclient.Command("sh", "-c", "exec 3<open; echo opened; read x; cat <&3")
		reader.Dir = mountpoint
		said := make(chan string, 8)
		reader.Stdout = &lines{each: func(line string) { said <- line }}
		task := a.g.Start(t, reader)
		if s := <-said; s != "opened" {
			t.Fatal(s)
		}
		b.sh("rm open; ! test -e open")
		a.sh("echo 3 >/proc/sys/vm/drop_caches")
		if _, err := task.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), twoClientsDeadline)
		defer cancel()
		status, err := task.Wait(ctx)
		select {
		case s := <-said:
			if s != "still here" || status != 0 || err != nil {
				t.Fatalf("%q, status %d, %v", s, status, err)
			}
		default:
			t.Fatalf("nothing read from the unlinked file: status %d, %v", status, err)
		}
	})
	for _, kind := range []string{"fcntl", "flock"} {
		t.Run(kind, func(t *testing.T) {
			busy := unix.EAGAIN.Error()
			held := a.lock("-kind", kind)
			if s := held.next(t); s != "held" {
				t.Fatalf("first client: %s", s)
			}
			refused := b.lock("-kind", kind)
			if s := refused.next(t); s != busy {
				t.Fatalf("second client: %q, want %q", s, busy)
			}
			waiting := b.lock("-kind", kind, "-wait")
			if s := waiting.next(t); s != "waiting" {
				t.Fatal(s)
			}
			held.release(t)
			if s := waiting.next(t); s != "held" {
				t.Fatalf("second client after the release: %s", s)
			}
			waiting.release(t)

			// The lock goes from hand to hand: who waits is told, and does not find it by asking in ever longer intervals.
			const rounds = 5
			var worst time.Duration
			slow := 0 // a guest may be held up once or twice; a waiter that asks in intervals is late each time
			holder, next := a, b
			held = holder.lock("-kind", kind)
			if s := held.next(t); s != "held" {
				t.Fatal(s)
			}
			for range rounds {
				waiting := next.lock("-kind", kind, "-wait")
				if s := waiting.next(t); s != "waiting" {
					t.Fatal(s)
				}
				time.Sleep(waitedFor)
				held.release(t)
				released := time.Now()
				if s := waiting.next(t); s != "held" {
					t.Fatal(s)
				}
				took := time.Since(released)
				if worst = max(worst, took); took > waitedFor/2 {
					slow++
				}
				held, holder, next = waiting, next, holder
			}
			held.release(t)
			if t.Logf("%d times from hand to hand after a wait of %v: %.3f s at worst", rounds, waitedFor, worst.Seconds()); os.Getenv(envServer) == "" && slow > rounds/2 {
				t.Errorf("a waiter is not told that the lock is free")
			}
			for i, c := range []client{a, b} { // shared locks are shared between clients
				l := c.lock("-kind", kind, "-shared")
				if s := l.next(t); s != "held" {
					t.Fatalf("client %d: shared lock: %s", i, s)
				}
				defer l.release(t)
			}
		})
	}
	t.Run("lock of a dead client", func(t *testing.T) {
		if s := a.lock().next(t); s != "held" {
			t.Fatal(s)
		}
		refused := b.lock()
		if s := refused.next(t); s == "held" {
			t.Fatal("the lock is held twice")
		}
		a.g.Kill(t)
		deadline := time.Now().Add(twoClientsDeadline)
		for {
			l := b.lock()
			if s := l.next(t); s == "held" {
				l.release(t)
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the lock of a client without power is never free again")
			}
			time.Sleep(500 * time.Millisecond)
		}
	})
}
