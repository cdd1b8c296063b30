//go:build linux

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/test/balance"
)

const (
	// carriedEnough is how many requests a gateway carries until it is taken for the one that does not serve the client.
	carriedEnough = 20
	// longTrunked is how often each fault happens in the long run.
	longTrunked = 4
	// soonFree is less than the lease of an address. saidFirst is longer than it takes to tell of an address that came, and shorter than until that is told again.
	soonFree  = 2500 * time.Millisecond
	saidFirst = 200 * time.Millisecond
)

// trunkedGuest is a machine that uses two gateways at once, by one session: one of them serves it, the other one carries its requests there.
type trunkedGuest struct {
	*twoGuests
	own map[*machine]string // which address is whose when both begin
}

func newTrunkedGuest(t *testing.T, mount func(*kclient.Net, *kclient.Running) (peer string)) *trunkedGuest {
	t.Helper()
	const one, other = firstAddress + "/24", thirdAddress + "/24"
	x := &trunkedGuest{twoGuests: newTwoGuests(t, [3]string{one + ", " + other, secondAddress + "/24", other + ", " + one}, mount)}
	x.own = map[*machine]string{x.at: firstAddress, x.spare: thirdAddress}
	return x
}

// carried is how many requests a gateway has carried to another one.
func (m *machine) carried() (n int) {
	m.t.Helper()
	cl := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return m.at.Dial(ctx, addr) }}}
	r, err := cl.Get("http://" + m.conf.http + "/metrics")
	if err != nil {
		m.t.Fatal(err)
	}
	defer r.Body.Close()
	for s := bufio.NewScanner(r.Body); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), `rackfs_relay_sent_total{outcome="answered"} `); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				m.t.Fatal(err)
			}
			return int(v)
		}
	}
	m.t.Fatalf("%s does not say how much it has carried", m.name)
	return 0
}

// has reports whether an address is on the interface of clients.
func (m *machine) has(address string) bool {
	m.t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(m.t.Context(), "ip", "-o", "addr", "show")
	cmd.Stdout = &out
	if err := m.at.Run(cmd); err != nil {
		m.t.Fatal(err)
	}
	return strings.Contains(out.String(), " "+address+"/")
}

// roles tells the gateway that serves the client from the one that only carries what comes to it.
func (x *trunkedGuest) roles() (serves, carries *machine) {
	x.t.Helper()
	before := map[*machine]int{}
	look := func() {
		for m := range x.own {
			before[m] = m.carried()
		}
	}
	look()
	x.meta.await("a gateway carries requests", func() (bool, string) {
		serves, carries = nil, nil
		for m, n := range before {
			if m.carried() >= n+carriedEnough {
				carries = m
			} else {
				serves = m
			}
		}
		if serves == nil { // the client went from one to the other meanwhile
			look()
		}
		return serves != nil && carries != nil, fmt.Sprint(before)
	})
	return serves, carries
}

// apart has each of both gateways have its own address, which it has when both begin at the same time.
func (x *trunkedGuest) apart() {
	t := x.t
	t.Helper()
	own := func() bool {
		for m, address := range x.own {
			if !m.has(address) {
				return false
			}
		}
		return true
	}
	for !own() {
		x.anew()
	}
}

// anew has both gateways stop at the same time, and begin again: no other one may have their addresses meanwhile.
func (x *trunkedGuest) anew() {
	t := x.t
	t.Helper()
	x.during("both gateways begin anew", func() {
		began := time.Now()
		for m := range x.own {
			m.signal(syscall.SIGTERM)
		}
		for m := range x.own {
			m.stopped()
		}
		stopped := time.Now()
		for m := range x.own {
			m.begin()
		}
		for m := range x.own {
			m.ready()
			x.meta.await("an address is somewhere", func() (bool, string) {
				return slices.ContainsFunc([]*machine{x.at, x.spare}, func(at *machine) bool { return at.has(x.own[m]) }), ""
			})
		}
		t.Logf("both stopped in %v and were back in %v", stopped.Sub(began).Round(10*time.Millisecond), time.Since(stopped).Round(10*time.Millisecond))
	})
}

// unheard is f after which the next holder of the address tells the client in vain where it is, the first time.
func (x *trunkedGuest) unheard(f fault) fault {
	begin := f.begin
	f.what += ", and what its successor said first is lost"
	f.begin = func(m *machine) {
		next, address := x.spare, x.own[m]
		begin(m)
		time.Sleep(soonFree)
		x.mute(next, true)
		x.meta.await("the address is at the other gateway", func() (bool, string) { return next.has(address), "" })
		time.Sleep(saidFirst)
		x.mute(next, false)
	}
	return f
}

// A machine uses two gateways at once, which are killed and paused, the one that serves it and the one that only carries its requests, after a moment in which replies are lost, or stop at the same time. The address of
// the one that is gone goes to the other one. As in TestAddressMoves no call fails, none is done twice, a lock that it holds is never free to another machine, open files stay, and all that was acknowledged is there.
func TestTrunkedGuest(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	const balancer = "10.77.0.1:3049"
	for name, mount := range map[string]func(*testing.T, *kclient.Net, *kclient.Running) (peer string){
		"two mounts": func(t *testing.T, _ *kclient.Net, a *kclient.Running) string {
			a.Mount(t, kclient.NFS(firstAddress, 2049, "/default", "/mnt/a", "4.2", "max_connect=4"))
			a.Mount(t, kclient.NFS(thirdAddress, 2049, "/default", "/mnt/other", "4.2", "max_connect=4"))
			return a.Addr()
		},
		"balancer": func(t *testing.T, n *kclient.Net, a *kclient.Running) string {
			balance.New(t, n, balancer, firstAddress+":2049", thirdAddress+":2049")
			a.Mount(t, kclient.NFS(n.Addr(), 3049, "/default", "/mnt/a", "4.2", "nconnect=4"))
			return n.Addr()
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "balancer" && !long {
				t.Skip("for the long run: the other one has the same gateways")
			}
			t.Parallel()
			x := newTrunkedGuest(t, func(n *kclient.Net, a *kclient.Running) string { return mount(t, n, a) })
			all, _ := x.faults()
			of := map[string]fault{}
			for _, f := range all {
				of[f.name] = f
			}
			type step struct {
				name    string // "": both stop
				serves  bool   // the gateway that it happens to
				unheard bool   // the first that the next holder of the address says is lost
			}
			plan := []step{{name: "kill", serves: true}, {}, {name: "pause"}}
			if long {
				plan = slices.Repeat([]step{{name: "kill", serves: true}, {name: "pause"}, {}, {name: "kill"}, {name: "pause", serves: true}, {name: "pause", serves: true, unheard: true}}, longTrunked)
			}
			for _, s := range plan {
				x.apart()
				if s.name == "" {
					x.anew()
					continue
				}
				serves, carries := x.roles()
				f := of[s.name]
				if x.at, x.spare = carries, serves; s.serves {
					x.at, x.spare = serves, carries
					f.what += ", which served the client"
				} else {
					f.what += ", which carried its requests"
				}
				if s.unheard {
					f = x.unheard(f)
				}
				x.happens(f)
			}
			x.ends()
		})
	}
}
