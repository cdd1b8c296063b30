//go:build linux

package kernel

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
)

const (
	// pauseDeadline is how long the writer may take to finish the calls it was in when the server went away: the server
	// starts, the client finds it again, sessions and opens are recovered.
	pauseDeadline  = 10 * time.Minute
	verifyDeadline = 10 * time.Minute
	alarmDeadline  = 10 * time.Minute
)

// journalWriter is a running writer of test/journal in a guest.
type journalWriter struct {
	t       *testing.T
	g       *kclient.Running
	task    *kclient.Task
	dir     string
	journal string
	answers chan string
}

// startWriter starts a writer in dir, a new directory on a mount of the guest; its journal is a file of the host.
func startWriter(t *testing.T, g *kclient.Running, dir, hostDir string, seed uint64, args ...string) *journalWriter {
	t.Helper()
	g.MustRun(t, time.Minute, kclient.Command("mkdir", dir))
	w := &journalWriter{t: t, g: g, dir: dir, journal: filepath.Join(hostDir, "journal"), answers: make(chan string, 16)}
	c := kclient.Program("journal", append([]string{"write", "-dir", dir, "-journal", w.journal, "-seed", strconv.FormatUint(seed, 10)}, args...)...)
	if os.Getenv(envExactlyOnce) == "1" {
		c.Args = append(c.Args, "-exactly-once")
	}
	c.Stdout = &lines{each: func(line string) { w.answers <- line }}
	w.task = g.Start(t, c)
	return w
}

func (w *journalWriter) say(format string, args ...any) {
	w.t.Helper()
	if _, err := fmt.Fprintf(w.task, format+"\n", args...); err != nil {
		w.t.Fatalf("writer: %v", err)
	}
}

// expect waits for an answer; anything else the writer says is its failure.
func (w *journalWriter) expect(format string, deadline time.Duration, args ...any) {
	w.t.Helper()
	timeout := time.NewTimer(deadline)
	defer timeout.Stop()
	for {
		select {
		case line := <-w.answers:
			if _, err := fmt.Sscanf(line, format, args...); err == nil || line == format {
				return
			}
			w.failed(line)
		case <-w.task.Ended():
			select {
			case line := <-w.answers:
				w.failed(line)
			default:
				w.t.Fatalf("the writer ended")
			}
		case <-timeout.C:
			w.t.Fatalf("the writer does not say %q within %v", format, deadline)
		}
	}
}

// failed reports a writer whose call failed: most likely on something that was acknowledged and is gone, so say what is.
func (w *journalWriter) failed(line string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), verifyDeadline)
	defer cancel()
	if _, err := w.task.Wait(ctx); err == nil { // the journal is complete
		_, err = w.g.Run(ctx, w.t, kclient.Program("journal", "verify", "-dir", w.dir, "-journal", w.journal, "-drop-caches"))
		if err != nil {
			w.t.Logf("verification: %v", err)
		}
	}
	w.t.Fatalf("the writer says %q", line)
}

// runUntilAlarm lets the writer go on and returns right after its n-th acknowledgement from now.
func (w *journalWriter) runUntilAlarm(n int) {
	w.t.Helper()
	w.say("alarm %d", n)
	w.say("resume")
	w.expect("alarm", alarmDeadline)
}

// pause returns how many changes were acknowledged so far. None is under way then.
func (w *journalWriter) pause() int {
	w.t.Helper()
	var acked, repeats int
	w.say("pause")
	w.expect("paused %d %d", pauseDeadline, &acked, &repeats)
	if repeats > 0 {
		w.t.Logf("%d calls so far were repeated after a crash and answered as already done", repeats)
	}
	return acked
}

// verify compares the directory, as a mount of the guest shows it, with the journal. The writer is paused.
func (w *journalWriter) verify(dir string) {
	w.t.Helper()
	w.g.MustRun(w.t, verifyDeadline, kclient.Program("journal", "verify", "-dir", dir, "-journal", w.journal, "-drop-caches"))
}

// verifyBoth verifies through the writer's mount, which went through the crash, and through one that knows nothing.
func (w *journalWriter) verifyBoth(fresh kclient.Mount) {
	w.t.Helper()
	w.verify(w.dir)
	w.g.Mount(w.t, fresh)
	w.verify(filepath.Join(fresh.Target, filepath.Base(w.dir)))
	w.g.Unmount(w.t, fresh.Target)
}

// quit ends the writer, which closes the files it held open across everything.
func (w *journalWriter) quit() {
	w.t.Helper()
	w.say("quit")
	ctx, cancel := context.WithTimeout(context.Background(), pauseDeadline)
	defer cancel()
	if status, err := w.task.Wait(ctx); err != nil || status != 0 {
		w.t.Fatalf("writer: status %d, %v", status, err)
	}
}

// acknowledgements is a random number of changes to let pass before a crash: often few, so that crashes also hit a server
// that just started.
func acknowledgements(rng *rand.Rand, most int) int {
	return 1 + rng.IntN(1+rng.IntN(most))
}

// TestServerKilled kills the server process under a writer again and again. The page cache of its machine survives, so
// this is about what the process kept in memory, and about recovery; TestPowerCut is about the disk.
func TestServerKilled(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	seed, rng := newSeed(t)
	rounds := 4
	if long() {
		rounds = 30
	}
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	data, host := dataDir(t), t.TempDir()
	p := srv.start(t, n, data)
	g := n.Boot(t, kclient.Guest{Name: "writer", MemoryMiB: 1024, Writable: []string{host}})
	g.Mount(t, srv.mount(n.Addr(), mountpoint, "4.2"))
	w := startWriter(t, g, mountpoint+"/work", host, seed)
	fresh := srv.mount(n.Addr(), freshMount, "4.1", "nosharecache")
	for round := range rounds {
		w.runUntilAlarm(acknowledgements(rng, 800))
		p.Kill(t)
		w.say("crashed")
		begin := time.Now()
		p = srv.start(t, n, data)
		restarted := time.Since(begin)
		acked := w.pause()
		t.Logf("round %d: killed around acknowledgement %d; served after %.1f s, all calls done after %.1f s",
			round, acked, restarted.Seconds(), time.Since(begin).Seconds())
		w.verifyBoth(fresh)
	}
	w.quit()
	g.Unmount(t, mountpoint)
}
