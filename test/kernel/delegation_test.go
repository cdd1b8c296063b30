//go:build linux

package kernel

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
)

// opens is how many OPENs a client has sent for its mount, by its own count.
func (c client) opens() int {
	c.t.Helper()
	total := 0
	for _, line := range strings.Split(c.sh("cat /proc/self/mountstats"), "\n") {
		name, counts, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || (name != "OPEN" && name != "OPEN_NOATTR") {
			continue
		}
		n, err := strconv.Atoi(strings.Fields(counts)[0])
		if err != nil {
			c.t.Fatal(err)
		}
		total += n
	}
	return total
}

// TestDelegations reads small files again and again on one machine and changes them on another.
func TestDelegations(t *testing.T) {
	if os.Getenv(envServer) != "" {
		t.Skip("the other server gives no delegations as it is set up")
	}
	kclient.Require(t)
	t.Parallel()
	const (
		files = 50
		lease = 20 * time.Second // a guest on a busy machine stands still for some seconds now and then
	)
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	data := dataDir(t)
	p := srv.start(t, n, data, append(srv.lease(lease), "--delegations", "read")...)
	boot := func(name, version string) client {
		g := n.Boot(t, kclient.Guest{Name: name, MemoryMiB: 384})
		g.Mount(t, srv.mount(n.Addr(), mountpoint, version))
		return client{t, g}
	}
	a, b := boot("a", "4.1"), boot("b", "4.2")
	b.sh(fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo first $i >small-$i; i=$((i+1)); done", files))

	// pass reads all files and reports the OPENs it took.
	pass := func(c client) int {
		t.Helper()
		before := c.opens()
		if got := strings.Count(c.sh("cat small-*"), "first"); got != files {
			t.Fatalf("%d of %d files read", got, files)
		}
		return c.opens() - before
	}
	began := time.Now()
	first := pass(a)
	last, shown := kept(began, lease, func() int { return pass(a) })
	if t.Logf("%d files: %d OPENs for the first pass, %d for the last", files, first, last); first < files || last != 0 && shown {
		t.Errorf("want at least %d and none", files)
	}
	began = time.Now()
	if again := pass(b); again < files {
		t.Errorf("another client: %d OPENs", again)
	}
	if again, shown := kept(began, lease, func() int { return pass(a) + pass(b) }); again != 0 && shown {
		t.Errorf("both again: %d OPENs", again)
	}

	// What the other does is seen at once, whatever it is.
	began = time.Now()
	for i := range 10 {
		a.sh(fmt.Sprintf("echo second %d >small-%d", i, i))
		if got := strings.TrimSpace(b.sh(fmt.Sprintf("cat small-%d", i))); got != fmt.Sprintf("second %d", i) {
			t.Fatalf("file %d: %q", i, got)
		}
	}
	t.Logf("10 changes in %.2f s", time.Since(began).Seconds())
	// An open asks for the attributes; what stat says without one may be some seconds old, as ever with NFS.
	for _, x := range []struct{ change, look, want string }{
		{"chmod 640 small-20", ": <small-20; stat -c %a small-20", "640"},
		{"rm small-21", "cat small-21 2>/dev/null || echo gone", "gone"},
		{"mv small-22 moved", "cat small-22 2>/dev/null || cat moved", "first 22"},
		{"mv small-23 small-24", "cat small-24", "first 23"},
		{"ln small-25 linked", ": <small-25; stat -c %h small-25", "2"},
		{": >small-26", ": <small-26; stat -c %s small-26", "0"},
		{"echo more >>small-27", "cat small-27", "first 27\nmore"},
	} {
		a.sh(x.change)
		if got := strings.TrimSpace(b.sh(x.look)); got != x.want {
			t.Errorf("after %q: %q says %q, want %q", x.change, x.look, got, x.want)
		}
	}

	// A server that is killed forgets who has what. The clients go on, and still nobody reads what is old.
	for round := range 3 {
		a.sh("cat small-4* linked >/dev/null")
		b.sh("cat small-4* linked >/dev/null")
		p.Kill(t)
		p = srv.start(t, n, data, append(srv.lease(lease), "--delegations", "read")...)
		text := fmt.Sprintf("round %d", round)
		began = time.Now()
		a.sh("echo " + text + " >small-40")
		took := time.Since(began)
		if got := strings.TrimSpace(b.sh("cat small-40")); got != text {
			t.Errorf("after a restart of the server and %q: the other machine reads %q", text, got)
		}
		if t.Logf("a write after a restart of the server: %.1f s (lease %v)", took.Seconds(), lease); took > 4*lease {
			t.Errorf("that took too long")
		}
	}

	// A machine that is dead keeps nobody waiting for longer than its lease; the writer asks in intervals that double.
	b.sh("cat small-30")
	b.g.Kill(t)
	began = time.Now()
	a.sh("echo third >small-30")
	took := time.Since(began)
	if t.Logf("a write after the death of a client that had the file: %.1f s (lease %v)", took.Seconds(), lease); took > 3*lease {
		t.Errorf("that took too long")
	}
}

// kept runs pass, which reports its OPENs, after one that began then, until it takes none or two in a row were quick. Linux gives back what it did not use between two
// renewals of its lease, each two thirds of one: of a guest that was held up for longer, each time, nothing is shown.
func kept(began time.Time, lease time.Duration, pass func() int) (opens int, shown bool) {
	for range 5 {
		here := time.Now()
		if opens = pass(); opens == 0 || time.Since(began) < lease/2 {
			return opens, true
		}
		began = here
	}
	return opens, false
}
