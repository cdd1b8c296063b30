package raftmeta

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/internal/replica"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func TestBootstrap(t *testing.T) {
	base := t.TempDir()
	make := func(node string, shards ...uint16) (string, []Replica) {
		dir := filepath.Join(base, node)
		rs, err := Format(FormatOptions{Dir: dir, Cluster: testClusterID, Node: node, Shards: shards})
		if err != nil {
			t.Fatal(err)
		}
		return dir, rs
	}
	a, ra := make("a", 1, 2)
	_, rb := make("b", 1, 2)
	voters := []Replica{ra[0], rb[0]}
	if err := Bootstrap(nil, a, 1, voters); err != nil {
		t.Fatal(err)
	}
	if err := Bootstrap(nil, a, 1, voters); err != nil {
		t.Fatalf("repeated: %v", err)
	}
	for what, c := range map[string]struct {
		dir    string
		shard  uint16
		voters []Replica
		kind   vfs.Kind
	}{
		"other voters":        {a, 1, []Replica{ra[0]}, vfs.KindExists},
		"not a voter":         {a, 2, []Replica{rb[1]}, vfs.KindInvalid},
		"other shard's":       {a, 2, voters, vfs.KindInvalid},
		"twice on a node":     {a, 2, []Replica{ra[1], {2, ra[1].Node() + ".00"}}, vfs.KindInvalid},
		"no such shard":       {a, 9, []Replica{{9, "a.0"}}, vfs.KindNotFound},
		"not formatted":       {filepath.Join(base, "c"), 1, voters, vfs.KindNotFound},
		"nobody":              {a, 2, nil, vfs.KindInvalid},
		"voter after the log": {a, 1, []Replica{ra[0], rb[0], {1, "c.00"}}, vfs.KindExists},
	} {
		if err := Bootstrap(nil, c.dir, c.shard, c.voters); vfs.KindOf(err) != c.kind {
			t.Errorf("%s: %v, want %v", what, err, c.kind)
		}
	}
	// Killed between the two writes of a bootstrap.
	n, err := replica.OpenNode(vfile.OS{}, a)
	if err != nil {
		t.Fatal(err)
	}
	info, err := replica.ReadInfo(vfile.OS{}, a, 2)
	if err != nil {
		t.Fatal(err)
	}
	logs, err := replica.OpenLogs(n.ShardDir(2), info, replica.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := logs.Stable.SetUint64(keyCurrentTerm, 1); err != nil {
		t.Fatal(err)
	}
	logs.Close()
	n.Close()
	if err := Bootstrap(nil, a, 2, []Replica{ra[1], rb[1]}); err != nil {
		t.Fatalf("after half a bootstrap: %v", err)
	}
}

// A voter that lost its directory and was made anew, under its old name, neither votes nor confirms terms.
func TestWipedVoter(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, nil)
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	w.more(50)
	acked := w.end()
	l := c.leader(1)
	wiped, other := (l+1)%3, (l+2)%3
	c.sameState(1)
	c.stop(wiped)
	if err := os.RemoveAll(c.path(wiped)); err != nil {
		t.Fatal(err)
	}
	if _, err := Format(FormatOptions{Dir: c.path(wiped), Cluster: testClusterID, Node: c.names[wiped], Shards: []uint16{1}}); err != nil {
		t.Fatal(err)
	}
	c.start(wiped)
	// Two of three are left: they go on.
	if _, err := cl.Apply(testContext(t), 1, createCmd("two-are-enough")); err != nil {
		t.Fatal(err)
	}
	acked = append(acked, "two-are-enough")
	// With the wiped one's vote one of the two could lead: it must not.
	c.stop(l)
	fresh, _ := c.status(wiped, 1)
	term := func() uint64 {
		st, _ := c.status(other, 1)
		return st.Term
	}
	before := term()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second) // many elections long
	defer cancel()
	if _, err := cl.Apply(ctx, 1, createCmd("one-is-not")); vfs.KindOf(err) != vfs.KindUnknown {
		t.Fatalf("acknowledged by one of three voters: %v", err)
	}
	if _, err := cl.Query(ctx, 1, lookupQuery("two-are-enough")); err == nil {
		t.Fatal("read from one of three voters")
	}
	if term() != before {
		t.Fatal("the wiped voter answered a pre-vote")
	}
	if st, _ := c.status(wiped, 1); st.Term != fresh.Term || st.State != 0 {
		t.Fatalf("the wiped voter took part: %+v", st)
	}
	c.start(l)
	acked = append(acked, "one-is-not") // the client did not give it up
	c.eventually("the abandoned create", func() bool {
		_, err := cl.Query(testContext(t), 1, lookupQuery("one-is-not"))
		return err == nil
	})
	checkFiles(t, cl, 1, acked)
}

// A replica that was formatted but belongs to no shard does nothing by itself.
func TestNeverBootstrapped(t *testing.T) {
	dir := t.TempDir()
	if _, err := Format(FormatOptions{Dir: dir, Cluster: testClusterID, Node: "m0", Shards: []uint16{1}}); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: filepath.Dir(dir), names: []string{filepath.Base(dir)}, addrs: map[string]string{}, servers: make([]*Server, 1)}
	o := c.options(0)
	o.Dir = dir
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	time.Sleep(5 * o.Timing.Heartbeat) // a wrong election would be missed if it came later, never invented
	if st := s.Status()[0]; st.Term != 0 || st.Role != raft.Follower.String() || st.Serving {
		t.Fatalf("status %+v", st)
	}
	o2 := c.options(0)
	o2.Dir = dir
	if _, err := Open(o2); vfs.KindOf(err) != vfs.KindBusy {
		t.Fatalf("second server on the directory: %v", err)
	}
}

func TestWrongBackend(t *testing.T) {
	c := newCluster(t, 1, []uint16{1}, nil)
	c.stop(0)
	o := c.options(0)
	o.Log = Bolt
	if _, err := Open(o); vfs.KindOf(err) != vfs.KindIncompatible || !strings.Contains(err.Error(), "raft-wal") {
		t.Fatalf("open with another backend: %v", err)
	}
	c.start(0)
}

// pkiCluster makes every connection one of mutual TLS. Without shards there is shard 1.
func pkiCluster(t *testing.T, mode wire.Mode, shards ...uint16) (*cluster, func(name string, roles ...string) func(node string) wire.Security) {
	ca, err := pki.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	issue := func(name string, roles ...string) *pki.Identity {
		id, err := ca.Issue(name, roles, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	as := func(name string, roles ...string) func(string) wire.Security {
		id := issue(name, roles...)
		return func(node string) wire.Security { return wire.Security{Mode: mode, TLS: id.ClientTLS(node)} }
	}
	if len(shards) == 0 {
		shards = []uint16{1}
	}
	c := newCluster(t, 3, shards, func(i int, o *Options) {
		name := []string{"m0", "m1", "m2"}[i]
		o.Security = wire.Security{Mode: mode, TLS: issue(name, "meta").ServerTLS()}
		o.ClientSecurity = as(name, "meta")
	})
	return c, as
}

func TestMutualTLS(t *testing.T) {
	for _, mode := range []wire.Mode{wire.ModeTLS, wire.ModeMAC} {
		t.Run(mode.String(), func(t *testing.T) {
			c, as := pkiCluster(t, mode)
			cl, err := NewClient(ClientOptions{Nodes: c.names, Resolver: c, Logger: quietLog(t), Security: as("gw", "gateway")})
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			ctx := testContext(t)
			if _, err := cl.Register(ctx, 1, metapb.OriginKind_ORIGIN_GATEWAY, "gw", make([]byte, 16)); err != nil {
				t.Fatal(err)
			}
			if _, err := cl.Query(ctx, 1, infoQuery()); err != nil {
				t.Fatal(err)
			}
			// Who has a certificate, but not of a voter, cannot speak Raft, nor can one voter speak for another.
			l := c.leader(1)
			st, _ := c.status(l, 1)
			dial := func(ctx context.Context, node string) (net.Conn, error) { return dialNode(ctx, c, node) }
			for _, who := range []struct {
				node, role, text string
			}{{"gw", "gateway", "may not speak"}, {"m1", "gateway", "may not speak"}, {"mallory", "meta", "may not speak"}} {
				from := st.Voters[(l+1)%3]
				if who.node == "m1" {
					from = "m1.00"
				}
				d := mux.Dialer{Cluster: string(testClusterID), Shard: 1, Self: from, Security: as(who.node, who.role), Dial: dial}
				nc, _, err := d.Raft(ctx, st.Replica, mux.Newest)
				if err == nil {
					nc.Close()
				}
				if err == nil || !strings.Contains(err.Error(), who.text) {
					t.Errorf("raft stream as %s with role %s: %v", who.node, who.role, err)
				}
			}
		})
	}
}

func TestStreamRefusals(t *testing.T) {
	c := newCluster(t, 1, []uint16{1}, nil)
	st, _ := c.status(c.leader(1), 1)
	dial := func(ctx context.Context, node string) (net.Conn, error) { return dialNode(ctx, c, node) }
	sec := func(string) wire.Security { return insecure("m9", "meta") }
	good := mux.Dialer{Cluster: string(testClusterID), Shard: 1, Self: "m9.00", Security: sec, Dial: dial}
	for what, try := range map[string]func(d *mux.Dialer, to *string){
		"":                 func(*mux.Dialer, *string) {},
		"cluster":          func(d *mux.Dialer, _ *string) { d.Cluster = "other" },
		"shard":            func(d *mux.Dialer, _ *string) { d.Shard = 2 },
		"m0.ffff":          func(_ *mux.Dialer, to *string) { *to = "m0.ffff" },
		"longer than 255 ": func(d *mux.Dialer, _ *string) { d.Self = strings.Repeat("x", 300) },
	} {
		d, to := good, st.Replica
		try(&d, &to)
		nc, _, err := d.Raft(testContext(t), to, mux.Newest)
		if err == nil {
			nc.Close()
		}
		if (err == nil) != (what == "") || err != nil && !strings.Contains(err.Error(), what) {
			t.Errorf("%q: %v", what, err)
		}
	}
	for _, garbage := range [][]byte{nil, []byte("GET / HTTP/1.1\r\n\r\n"), []byte("RKMX\x02\x01\x00\x00"), []byte("RKMX\x01\x07\x00\x00"),
		[]byte("RKMX\x01\x02\x00\x01RKMH\x01\x00\x01\xff"), []byte("RKMX\x01\x02\x00\x01XXXXXXXXXXXXXX"), bytes.Repeat([]byte{0xff}, 4096)} {
		nc, err := dial(testContext(t), "m0")
		if err != nil {
			t.Fatal(err)
		}
		nc.Write(garbage)
		nc.(*net.TCPConn).CloseWrite()
		nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, nc); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%q: the connection stayed open: %v", garbage, err)
		}
		nc.Close()
	}
	if st, _ := c.status(0, 1); !st.Serving {
		t.Fatal("garbage ended the leadership")
	}
}

func FuzzSplitRequest(f *testing.F) {
	ok, err := (&metapb.ProposeRequest{Shard: 1, Commands: []*metapb.Command{createCmd("x")}}).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ok)
	f.Add([]byte{0x12, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, items, err := splitRequest(b, 10)
		if err != nil {
			return
		}
		n := 0
		for _, it := range items {
			n += len(it)
			_, _ = checkCommand(it)
		}
		if n > len(b) || len(items) > 10 {
			t.Fatalf("%d items of %d bytes from %d", len(items), n, len(b))
		}
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	c := newCluster(t, 1, []uint16{1}, func(_ int, o *Options) { o.Registerer = reg })
	c.gateway(1, "gw")
	fams, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range fams {
		for _, m := range f.Metric {
			got[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	if got["rackfs_meta_leader"] != 1 || got["rackfs_meta_applied_index"] < 3 || got["rackfs_meta_commands_total"] < 2 || got["rackfs_meta_entries_total"] < 2 {
		t.Fatalf("metrics %v", got)
	}
	c.stop(0)
	c.start(0) // registers again
}
