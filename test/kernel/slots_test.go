//go:build linux

package kernel

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/kclient"
)

// slotsDeadline is how long anything of this test is waited for.
const slotsDeadline = 5 * time.Minute

// TestSlots: the slots of a machine's session grow when it uses them all, shrink when others need memory, and grow again, also over a server that is killed in
// between; the machine is never refused anything about them.
func TestSlots(t *testing.T) {
	if os.Getenv(envServer) != "" {
		t.Skip("the other server has no such metrics")
	}
	if !long() {
		t.Skip("only with RACKFS_TEST_LONG=1; internal/devcluster has TestSlotsAfterKill, without the kernel's client")
	}
	kclient.Require(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*slotsDeadline)
	defer cancel()
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	data := dataDir(t)
	start := func() *kclient.Proc { return srv.start(t, n, data, "--reply-cache", "1MiB") }
	p := start()
	g := n.Boot(t, kclient.Guest{Name: "slots", MemoryMiB: 384})
	g.Mount(t, srv.mount(n.Addr(), mountpoint, "4.2"))
	c := client{t, g}

	dial := func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = n.Do(func() (err error) {
			var d net.Dialer
			conn, err = d.DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
	web := &http.Client{Transport: &http.Transport{DialContext: dial}}
	// metric is the sum of the server's metrics whose line begins with a name.
	metric := func(name string) (sum float64) {
		t.Helper()
		r, err := web.Get("http://127.0.0.1:7070/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		for s := bufio.NewScanner(r.Body); s.Scan(); {
			if line := s.Text(); strings.HasPrefix(line, "rackfs_nfs_"+name) {
				v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
				if err != nil {
					t.Fatal(err)
				}
				sum += v
			}
		}
		return sum
	}
	// refused counts answers to SEQUENCE that this machine must not get.
	refused := func() (n float64) {
		for _, st := range []string{"BADSLOT", "BAD_HIGH_SLOT", "SEQ_MISORDERED", "SEQ_FALSE_RETRY", "BADSESSION", "DEADSESSION"} {
			n += metric(fmt.Sprintf("operations_total{op=%q,status=%q}", "SEQUENCE", st))
		}
		return n
	}
	work := func() {
		c.sh("for i in 1 2 3; do dd if=/dev/zero of=big-$i bs=1M count=24 conv=fsync 2>/dev/null & done; wait; echo done >mark; cat mark; rm big-*")
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for limit := time.Now().Add(slotsDeadline); !ok(); work() {
			if time.Now().After(limit) {
				t.Fatalf("%s: slots %v, grown %v, freed %v, asked back %v", what, metric("slots "), metric("slots_grown_total"), metric("slots_freed_total"), metric("slots_asked"))
			}
		}
	}
	began := metric("slots ")
	t.Logf("the machine began with %.0f slots of %.0f bytes", began, metric("slot_bytes")/began)
	until("growth", func() bool { return metric("slots_grown_total") > 0 && metric("slots ") > began })
	grown := metric("slots ")

	// Others need memory.
	var others []*nfsclient.Client
	for i := range 3 {
		o, err := nfsclient.Dial(ctx, nfsclient.Config{Owner: "other " + strconv.Itoa(i), Slots: 1, DialFunc: func(ctx context.Context) (net.Conn, error) {
			return dial(ctx, "tcp", fmt.Sprintf("%s:%d", n.Addr(), nfsPort))
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Disconnect()
		others = append(others, o)
	}
	sessions := make([][]nfsclient.SessionID, len(others))
	chans := nfsclient.ChannelAttrs{MaxRequest: 1 << 16, MaxResponse: 1 << 16, MaxCachedResponse: 8 << 10, MaxOps: 16, MaxSlots: 64}
	for i := 0; i < 36 && metric("slots_asked") == 0; i++ {
		o := i % len(others)
		r, err := others[o].Raw(ctx, nfsclient.NewRaw().CreateSession(others[o].ID(), uint32(2+len(sessions[o])), 0, chans, chans, 0))
		if err != nil {
			t.Fatal(err)
		}
		id, _, _, err := r.CreateSession()
		if r.Release(); err == nil {
			sessions[o] = append(sessions[o], id)
		} else if nfsclient.StatusOf(err) != nfsv4.NFS4ERR_DELAY {
			t.Fatal(err)
		}
	}
	until("shrinking", func() bool { return metric("slots_freed_total") > 0 })
	t.Logf("%.0f slots were grown to, %.0f were given back", grown, metric("slots_freed_total"))
	if n := refused(); n != 0 {
		t.Errorf("%v requests were refused", n)
	}

	// The server is killed, and there is memory again.
	p.Kill(t)
	start()
	work()
	for i, o := range others {
		for _, id := range sessions[i] {
			r, err := o.Raw(ctx, nfsclient.NewRaw().DestroySession(id))
			if err != nil {
				t.Fatal(err)
			}
			r.Release()
		}
	}
	until("growth after a restart", func() bool { return metric("slots_grown_total") > 0 })
	work()
	if n := refused(); n != 0 {
		t.Errorf("after a restart %v requests were refused", n)
	}
	if n := metric(`operations_total{op="CREATE_SESSION",status="OK"`); n != 0 {
		t.Errorf("after a restart %v sessions were made", n)
	}
	if got := strings.TrimSpace(c.sh("cat mark")); got != "done" {
		t.Errorf("mark: %q", got)
	}
}
