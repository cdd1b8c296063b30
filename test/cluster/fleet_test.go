//go:build linux

package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/internal/node"
)

// fleetLease is that of gateways in a fleet: what a gateway has is somebody else's so long after it died, was cut off or stood still.
const fleetLease = 4 * time.Second

// fleetLinger is how long a fleet keeps a removed file for a gateway that died: longer than clients are without an answer. At the end of a run nothing is left of any, also if
// the leader changes meanwhile, which begins to count anew.
const fleetLinger = 90 * time.Second

// fleet is three nodes with a voter and a store each, the first of which is a gateway too, and two gateways on nodes of their own. All
// serve one file system of profile 2+1. Each node is a host of its own network, and each gateway has an address that moves.
type fleet struct {
	t         *testing.T
	net       *kclient.Net
	all       []*machine
	stores    []*machine
	gateways  []*machine
	addresses []string  // by gateway whose own it is
	roamers   []*roamer // that stay until the end
}

// newFleet runs a program, "" for the one that is tested, with what is added to its environment.
func newFleet(t *testing.T, program string, env ...string) *fleet {
	t.Helper()
	kclient.RequireNet(t)
	began := time.Now()
	f := &fleet{t: t, net: kclient.NewNet(t)}
	rack := f.net.NewRack(t)
	dir := t.TempDir()
	for i, roles := range []string{"meta, block, gateway", "meta, block", "meta, block", "gateway", "gateway"} {
		h := rack.NewHost(t)
		m := &machine{t: t, name: fmt.Sprintf("n%d", i+1), dir: dir, host: h.Addr(), base: 7000, at: h, runs: program, env: env}
		m.conf = configuration{roles: roles, disks: 1, block: "  collect_every: 2s\n", meta: fmt.Sprintf(", gateway_lease: %v, gateway_linger: %v", fleetLease, fleetLinger), anywhere: true}
		m.log = filepath.Join(t.ArtifactDir(), m.name+".log")
		f.all = append(f.all, m)
		if strings.Contains(roles, "block") {
			f.stores = append(f.stores, m)
		}
		if strings.Contains(roles, "gateway") {
			f.addresses = append(f.addresses, fmt.Sprintf("10.77.0.%d", 240+len(f.gateways)))
			f.gateways = append(f.gateways, m)
		}
	}
	for i, m := range f.gateways {
		var as []string
		for j := range f.addresses {
			as = append(as, f.addresses[(i+j)%len(f.addresses)]+"/24")
		}
		// Clients are silent for as long as faults last, which on a slow machine is not to end them.
		m.conf.nfs = fmt.Sprintf(", several: true, lease: 30m, addresses: [%s]", strings.Join(as, ", "))
	}
	for _, m := range f.all {
		m.configure()
	}
	t.Cleanup(func() { end(t, f.all) })
	first := f.all[0]
	first.must("cluster", "init", "--profile", "2+1", "--domain", "node", "--nodes", fmt.Sprint(len(f.all)))
	first.start()
	for _, m := range f.all[1:] {
		m.must("node", "join", "--token", first.must("cluster", "token", "--roles", strings.ReplaceAll(m.conf.roles, " ", "")))
		m.begin()
	}
	for _, m := range f.all[1:] {
		m.ready()
	}
	f.healthy()
	t.Logf("%d nodes, %d of them gateways, serve after %v", len(f.all), len(f.gateways), time.Since(began).Round(100*time.Millisecond))
	return f
}

// healthy waits until every shard has its voters and every block its redundancy.
func (f *fleet) healthy() {
	f.t.Helper()
	f.all[0].sees("the cluster is healthy", func(st *api.ClusterStatus) string {
		switch {
		case st.Health != "ok":
			return st.Health
		case len(st.Nodes) != len(f.all) || len(st.Shards) != 2 || st.Placement == nil || len(st.Placement.Pools) != 1:
			return fmt.Sprintf("%d nodes, %d shards", len(st.Nodes), len(st.Shards))
		}
		for _, s := range st.Shards {
			if len(s.Voters) != node.DefaultVoters {
				return fmt.Sprintf("shard %d has the voters %v", s.Shard, s.Voters)
			}
		}
		if p := st.Placement.Pools[0]; p.Writes != p.Profile || p.Filling > 0 || p.Groups == 0 {
			return fmt.Sprintf("%d groups, new blocks are %q, %d slots are being filled", p.Groups, p.Writes, p.Filling)
		}
		return ""
	})
}

// leads is the node that leads a shard, as one of them says; nil if none answers.
func (f *fleet) leads(shard uint16, by *machine) *machine {
	st, err := by.seen()
	if err != nil {
		return nil
	}
	for _, s := range st.Shards {
		for _, m := range f.all {
			if s.Shard == shard && s.Leader == m.name {
				return m
			}
		}
	}
	return nil
}

// isReady reports whether a node that has begun says that it is ready.
func (m *machine) isReady() bool {
	b, _ := os.ReadFile(m.out())
	return strings.HasPrefix(string(b), "rackfs ready\n")
}

// gone reports whether the node's process has.
func (m *machine) gone() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

// roamerSlots is how many requests of a client are under way at once.
const roamerSlots = 8

// dialTimeout bounds an attempt to connect to a machine that may be cut off.
const dialTimeout = time.Second

// roamer is an NFS client that reaches the file system through one gateway after another: through the address that it was given, or, without one,
// the gateway that it was sent to, as by a load balancer.
type roamer struct {
	*nfsclient.Client
	f       *fleet
	name    string
	address string
	stays   bool // whatever becomes of its gateway
	at      atomic.Pointer[machine]
	second  *machine // where its other connection leads; nil: it has one
	root    nfsclient.FH
	cfg     nfsclient.Config
}

// roam makes a client.
func (f *fleet) roam(ctx context.Context, name, address string, at *machine) (*roamer, error) {
	return f.roamWith(ctx, name, address, at, roamerSlots, nil)
}

// after is the gateway that follows another one.
func (f *fleet) after(m *machine) *machine {
	return f.gateways[(slices.Index(f.gateways, m)+1)%len(f.gateways)]
}

// roamWith is roam for a client that has so many requests under way, and takes connections to two gateways by turns if second is not nil.
func (f *fleet) roamWith(ctx context.Context, name, address string, at *machine, slots uint32, second *machine) (*roamer, error) {
	r := &roamer{f: f, name: name, address: address, second: second}
	r.at.Store(at)
	r.cfg = nfsclient.Config{Owner: name, Patient: true, Slots: slots, Conns: 1, DialConn: func(ctx context.Context, conn int) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		to := r.where()
		if conn > 0 {
			to = second.host
		}
		c, err := f.net.Dial(ctx, to+":2049")
		if tcp, ok := c.(*net.TCPConn); ok { // an address that moved is noticed by who only waits, too
			err = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 100})
		}
		return c, err
	}}
	if second != nil {
		r.cfg.Conns = 2
	}
	var err error
	if r.Client, err = dialPatiently(ctx, r.cfg); err != nil {
		return nil, err
	}
	f.t.Cleanup(r.Disconnect)
	r.root, _, err = r.Walk(ctx, "/default")
	return r, err
}

// where is the address at which the client looks for a server.
func (r *roamer) where() string {
	if r.address != "" {
		return r.address
	}
	return r.at.Load().host
}

// dialPatiently is as patient as a mount.
func dialPatiently(ctx context.Context, cfg nfsclient.Config) (*nfsclient.Client, error) {
	for {
		c, err := nfsclient.Dial(ctx, cfg)
		if err == nil || !strings.Contains(err.Error(), "NFS4ERR_DELAY") {
			return c, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// leave ends the client as a reboot of its machine does: all that it had ends with it, also what the cluster has of it without the client's knowing.
func (r *roamer) leave(ctx context.Context) error {
	r.Disconnect()
	cfg := r.cfg
	cfg.Verifier = [8]byte{1}
	c, err := dialPatiently(ctx, cfg)
	if err != nil {
		return fmt.Errorf("the next life of %s: %w", r.name, err)
	}
	if err := c.Close(ctx); err != nil {
		return fmt.Errorf("end of %s: %w", r.name, err)
	}
	return nil
}

// to sends the client to another gateway. What it has sent already it sends there again.
func (r *roamer) to(at *machine) {
	r.at.Store(at)
	r.Session(0).BreakConnection()
}
