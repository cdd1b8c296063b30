//go:build linux

package kernel

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/test/balance"
)

// balancerPort is where the balancer of a test listens.
const balancerPort = 3049

// carried is how many requests the first gateway has carried to the second one, or taken from it.
func carried(t *testing.T, n *kclient.Net) int {
	t.Helper()
	cl := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return n.Dial(ctx, addr) }, DisableKeepAlives: true}}
	r, err := cl.Get("http://127.0.0.1:7070/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	total := 0
	for s := bufio.NewScanner(r.Body); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), "{outcome=\"answered\"} "); ok && strings.HasPrefix(name, "rackfs_relay_") {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			total += int(v)
		}
	}
	return total
}

// TestTrunking has a machine use connections to two gateways at once that are one server: by two mounts, whose addresses the kernel finds to be one server's and puts into one session, and by one mount
// through a balancer that spreads its connections. One gateway goes out of use and comes back meanwhile.
func TestTrunking(t *testing.T) {
	if os.Getenv(envServer) != "" {
		t.Skip("the other server has one gateway")
	}
	kclient.Require(t)
	t.Parallel()
	files, ops := 40, 300
	if long() {
		files, ops = 3000, 30_000
	}
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	data := dataDir(t)
	wait := n.Booting(t, kclient.Guest{Name: "a", MemoryMiB: 384})
	other := n.Booting(t, kclient.Guest{Name: "b"})
	srv.start(t, n, data, append(srv.lease(30*time.Second), "--gateways", "2")...)
	g := wait(t)
	a, b := client{t, g}, client{t, other(t)}
	b.g.Mount(t, srv.mount(n.Addr(), mountpoint, "4.2"))
	seed, _ := newSeed(t)

	at := func(port int) string { return net.JoinHostPort(n.Addr(), strconv.Itoa(port)) }
	balancer := balance.New(t, n, at(balancerPort), at(nfsPort), at(nfsPort+1))
	second := mountpoint + "2"
	for _, m := range []struct {
		name    string
		mounts  []kclient.Mount
		xprts   int
		balance bool
	}{
		{"two mounts of one server", []kclient.Mount{
			kclient.NFS(n.Addr(), nfsPort, srv.export, mountpoint, "4.2", "max_connect=4"),
			kclient.NFS(n.Addr(), nfsPort+1, srv.export, second, "4.2", "max_connect=4"),
		}, 2, false},
		{"a balancer", []kclient.Mount{kclient.NFS(n.Addr(), balancerPort, srv.export, mountpoint, "4.2", "nconnect=4")}, 4, true},
	} {
		t.Run(m.name, func(t *testing.T) {
			a, b := client{t, a.g}, client{t, b.g}
			for _, x := range m.mounts {
				a.g.Mount(t, x)
			}
			before := carried(t, n)
			make := fmt.Sprintf("for i in $(seq %d); do echo x$i >f$i.new && mv f$i.new f$i || exit 1; done", files)
			began := time.Now()
			a.sh(make)
			took := time.Since(began)
			if got := strings.TrimSpace(b.sh("cat f* | sort | uniq | wc -l && rm f*")); got != fmt.Sprint(files) {
				t.Errorf("another machine sees %s different files of %d", got, files)
			}
			t.Logf("%d files were made and moved in %v", files, took)
			if long() { // beside what it costs without
				began = time.Now()
				b.sh(make + " && rm f*")
				t.Logf("by a machine with one connection in %v", time.Since(began))
			}
			if c := strings.Count(a.sh("cat /proc/self/mountstats"), "xprt:"); c < m.xprts {
				t.Errorf("%d connections, want %d", c, m.xprts)
			}
			if k := carried(t, n) - before; k < files {
				t.Errorf("%d requests were carried from one gateway to the other: it was not by both", k)
			} else {
				t.Logf("%d requests were carried; connections %v", k, balancer.Spread())
			}
			dir := fmt.Sprintf("%s/random-%d", mountpoint, m.xprts)
			a.sh("mkdir " + dir)
			held := a.g.Start(t, kclient.Command("flock", mountpoint+"/lock", "sh", "-c", "echo locked; cat"))
			held.WaitOutput(t, "locked", time.Minute)
			var out, diag bytes.Buffer
			p := kclient.Program("posix", "random-io", "-dir", dir, "-drop-caches", "-ops", strconv.Itoa(ops), "-seed", strconv.FormatUint(seed, 10))
			p.Stdout, p.Stderr = &out, &diag
			io := a.g.Start(t, p)
			if m.balance {
				for i, port := range []int{nfsPort, nfsPort + 1, nfsPort, nfsPort + 1} {
					balancer.Use(at(port), i%2 == 1)
					f := fmt.Sprint("round", i)
					a.sh("echo " + f + " >" + f)
					if got := b.sh("cat " + f + " && rm " + f); got != f+"\n" {
						t.Fatalf("another machine reads %q", got)
					}
					balancer.Use(at(port), true)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), randomIODeadline)
			defer cancel()
			if status, err := io.Wait(ctx); err != nil || status != 0 {
				t.Fatalf("random I/O: status %d, %v\n%s%s", status, err, out.String(), diag.String())
			}
			t.Log(strings.TrimSpace(out.String()))
			if got := b.sh("flock -n lock true && echo free || echo held"); got != "held\n" {
				t.Errorf("the lock is %s", got)
			}
			if err := held.CloseInput(); err != nil {
				t.Fatal(err)
			}
			if status, err := held.Wait(ctx); err != nil || status != 0 {
				t.Fatalf("who held the lock: %d, %v", status, err)
			}
			if got := b.sh("flock lock echo free"); got != "free\n" {
				t.Errorf("the lock is %s", got)
			}
			for _, x := range m.mounts {
				a.g.Unmount(t, x.Target)
			}
		})
	}
}
