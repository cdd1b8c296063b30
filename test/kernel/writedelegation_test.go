//go:build linux

package kernel

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
)

// TestWriteDelegations opens files for reading and writing again and again on one machine, with locks and with data that is not written yet, and looks at
// them from another, also after the server was killed.
func TestWriteDelegations(t *testing.T) {
	if os.Getenv(envServer) != "" {
		t.Skip("the other server gives no delegations as it is set up")
	}
	kclient.Require(t)
	t.Parallel()
	const (
		files = 50
		lease = 30 * time.Second // of which a client that says nothing learns late that the server was restarted
	)
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	data := dataDir(t)
	args := append(srv.lease(lease), "--delegations", "write")
	p := srv.start(t, n, data, args...)
	boot := func(name, version string) client {
		g := n.Boot(t, kclient.Guest{Name: name, MemoryMiB: 384})
		g.Mount(t, srv.mount(n.Addr(), mountpoint, version))
		return client{t, g}
	}
	a, b := boot("a", "4.1"), boot("b", "4.2")

	// Each pass opens every file for both, adds a line, and closes it.
	pass := func(c client, text string) int {
		t.Helper()
		before := c.opens()
		c.sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do exec 3<>small-$i; cat <&3 >/dev/null; echo %s $i >&3; exec 3>&-; i=$((i+1)); done", files, text))
		return c.opens() - before
	}
	check := func(c client, lines ...string) {
		t.Helper()
		for _, i := range []int{0, files / 2, files - 1} {
			var want strings.Builder
			for _, l := range lines {
				fmt.Fprintf(&want, "%s %d\n", l, i)
			}
			if got := c.sh(fmt.Sprintf("cat small-%d", i)); got != want.String() {
				t.Fatalf("file %d: %q, want %q", i, got, want.String())
			}
		}
	}
	texts := []string{"one"}
	began := time.Now()
	first := pass(a, "one")
	last, shown := kept(began, lease, func() int {
		texts = append(texts, fmt.Sprint("again", len(texts)))
		return pass(a, texts[len(texts)-1])
	})
	if t.Logf("%d files: %d OPENs for the first pass, %d for the last", files, first, last); first < files || last != 0 && shown {
		t.Errorf("want at least %d and none", files)
	}
	// What was closed is at the server, whoever looks.
	check(b, texts...)
	if pass(b, "three"); pass(a, "four") < files {
		t.Error("b has the files and a opens them on its own")
	}
	check(b, append(texts, "three", "four")...)

	// A file that is open on a and not written yet: b sees its size, and does not take it away.
	writer := kclient.Command("sh", "-c", "exec 3<>big; head -c 100000 /dev/zero >&3; echo written; read x; head -c 100000 /dev/zero >&3; echo again; read x")
	writer.Dir = mountpoint
	said := make(chan string, 8)
	writer.Stdout = &lines{each: func(line string) { said <- line }}
	a.sh(": >big")
	task := a.g.Start(t, writer)
	for i, what := range []string{"written", "again"} {
		if s := <-said; s != what {
			t.Fatal(s)
		}
		want := fmt.Sprint(100000 * (i + 1))
		b.sh("sleep 4") // attributes that b looked at are older than it keeps them
		if got := strings.TrimSpace(b.sh("stat -c %s big")); got != want {
			t.Errorf("size of what is not written yet: %s, want %s", got, want)
		}
		if got := b.sh("ls -l big"); !strings.Contains(got, " "+want+" ") {
			t.Errorf("listed as %q, want %s", got, want)
		}
		if _, err := task.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.TrimSpace(b.sh("cat big | wc -c")); got != "200000" {
		t.Errorf("%s bytes are read of 200000", got)
	}

	// A lock that a took on its own is in b's way after the server was killed and knows nothing but what it kept.
	for round := range 2 {
		name := fmt.Sprint("lock-", round)
		file := []string{"-file", mountpoint + "/" + name}
		a.sh("exec 3<>" + name) // whatever comes next needs no OPEN
		before := a.opens()
		held := a.lock(file...)
		if s := held.next(t); s != "held" {
			t.Fatal(s)
		}
		if n := a.opens() - before; n != 0 {
			t.Fatalf("round %d: a does not have the file: %d OPENs", round, n)
		}
		p.Kill(t)
		p = srv.start(t, n, data, args...)
		began = time.Now()
		if s := b.lock(file...).next(t); s == "held" {
			t.Fatalf("round %d: the lock is held twice", round)
		}
		t.Logf("refused after a restart of the server: %.1f s (lease %v)", time.Since(began).Seconds(), lease)
		a.sh(fmt.Sprintf("echo round %d >after", round))
		if got, want := strings.TrimSpace(b.sh("cat after")), fmt.Sprint("round ", round); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		held.release(t)
		mine := b.lock(append(file, "-wait")...)
		for s := mine.next(t); s != "held"; s = mine.next(t) {
			if s != "waiting" {
				t.Fatalf("round %d: a free lock: %s", round, s)
			}
		}
		mine.release(t)
	}
}
