package nfsserver_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

func config() nfsserver.Config {
	return nfsserver.Config{
		Cluster: [16]byte{1}, Keys: []handle.Key{{ID: 1, Secret: [16]byte{7}}}, Store: newMemStore(), Name: "test",
		Exports: []export.Export{{
			ID: 1, FSID: 1, Path: "/default", FS: memfs.New(memfs.Options{}), Rules: export.Everyone(export.ReadWrite, export.SquashNone),
		}},
	}
}

// unreadable is a store that cannot tell which clients may reclaim.
type unreadable struct{ *memStore }

func (unreadable) Clients(context.Context) ([]state.ClientRecord, error) {
	return nil, vfs.KindUnavailable.Err("test")
}

func TestConfigIsChecked(t *testing.T) {
	for name, x := range map[string]struct {
		change func(*nfsserver.Config)
		want   vfs.Kind
	}{
		"no store":         {func(c *nfsserver.Config) { c.Store = nil }, vfs.KindInvalid},
		"no name":          {func(c *nfsserver.Config) { c.Name = "" }, vfs.KindInvalid},
		"no key":           {func(c *nfsserver.Config) { c.Keys = nil }, vfs.KindInvalid},
		"a short lease":    {func(c *nfsserver.Config) { c.Lease = time.Millisecond }, vfs.KindInvalid},
		"a relative path":  {func(c *nfsserver.Config) { c.Exports[0].Path = "default" }, vfs.KindInvalid},
		"an unread store":  {func(c *nfsserver.Config) { c.Store = unreadable{newMemStore()} }, vfs.KindUnavailable},
		"metrics in place": {func(c *nfsserver.Config) { c.Registerer = taken() }, vfs.KindInvalid},
	} {
		cfg := config()
		x.change(&cfg)
		if _, err := nfsserver.New(context.Background(), cfg); vfs.KindOf(err) != x.want {
			t.Errorf("%s: %v, want %v", name, err, x.want)
		}
	}
	goleak.VerifyNone(t, goleak.IgnoreCurrent())
}

// taken is a registry in which another server has its metrics already.
func taken() prometheus.Registerer {
	r := prometheus.NewRegistry()
	r.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "rackfs_nfs_clients", Help: "x"}))
	return r
}

func TestShutdownLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	srv, err := nfsserver.New(context.Background(), config())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := srv.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the port is still open")
	}
}

func TestRunTimeChangesAreChecked(t *testing.T) {
	srv, err := nfsserver.New(context.Background(), config())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	bad := config().Exports
	bad[0].Path = "nowhere"
	if err := srv.SetExports(bad); vfs.KindOf(err) != vfs.KindInvalid {
		t.Error(err)
	}
	if err := srv.SetKeys(nil); vfs.KindOf(err) != vfs.KindInvalid {
		t.Error(err)
	}
	if err := errors.Join(srv.SetExports(nil), srv.SetKeys([]handle.Key{{ID: 2, Secret: [16]byte{1}}})); err != nil {
		t.Error(err)
	}
}

// A client's work shows in the metrics.
func TestMetrics(t *testing.T) {
	ctx := context.Background()
	r := prometheus.NewRegistry()
	cfg := config()
	cfg.Registerer = r
	addr := serve(t, cfg)
	c, err := nfsclient.Dial(ctx, nfsclient.Config{Addr: addr, Owner: "metrics", Machine: "test", Slots: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect()
	if _, _, err := c.Walk(ctx, "/default"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Walk(ctx, "/none"); err == nil {
		t.Fatal("found what is not exported")
	}
	value := func(name string, labels ...string) float64 {
		t.Helper()
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != name {
				continue
			}
			for _, m := range f.GetMetric() {
				text := m.String()
				ok := true
				for _, l := range labels {
					ok = ok && strings.Contains(text, `"`+l+`"`)
				}
				switch {
				case !ok:
				case m.GetCounter() != nil:
					return m.GetCounter().GetValue()
				case m.GetHistogram() != nil:
					return float64(m.GetHistogram().GetSampleCount())
				default:
					return m.GetGauge().GetValue()
				}
			}
		}
		t.Fatalf("no metric %s%v", name, labels)
		return 0
	}
	if n := value("rackfs_nfs_operations_total", "SEQUENCE", "OK"); n < 1 {
		t.Errorf("%v SEQUENCEs", n)
	}
	if n := value("rackfs_nfs_operations_total", "LOOKUP", "NOENT"); n != 1 {
		t.Errorf("%v LOOKUPs found nothing", n)
	}
	if n := value("rackfs_nfs_operation_seconds", "EXCHANGE_ID"); n != 1 {
		t.Errorf("%v EXCHANGE_IDs were timed", n)
	}
	for _, gauge := range []string{"rackfs_nfs_clients", "rackfs_nfs_sessions", "rackfs_nfs_connections", "rackfs_nfs_received_bytes_total", "rackfs_nfs_sent_bytes_total", "rackfs_nfs_calls_total"} {
		if n := value(gauge); n < 1 {
			t.Errorf("%s: %v", gauge, n)
		}
	}
}

// serve runs a server until the test ends.
func serve(t *testing.T, cfg nfsserver.Config) (addr string) {
	t.Helper()
	srv, err := nfsserver.New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// Connections from where nothing is exported are closed.
func TestStrangersAreNotServed(t *testing.T) {
	cfg := config()
	cfg.Exports[0].Rules = []export.Rule{{Clients: netip.MustParsePrefix("203.0.113.0/24")}}
	addr := serve(t, cfg)
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// identity is the server owner and scope that a server of cfg shows.
func identity(t *testing.T, cfg nfsserver.Config) (owner, scope string) {
	t.Helper()
	srv, err := nfsserver.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	defer func() {
		if err := errors.Join(srv.Shutdown(context.Background()), <-served); err != nil {
			t.Error(err)
		}
	}()
	c, err := nfsclient.Dial(t.Context(), nfsclient.Config{Addr: ln.Addr().String(), Owner: "c", Machine: "test", Slots: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect()
	r, err := c.Raw(t.Context(), nfsclient.NewRaw().ExchangeID("d", [8]byte{1}, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	if err := r.Next(nfsv4.OP_EXCHANGE_ID); err != nil {
		t.Fatal(err)
	}
	d := r.D()
	d.Skip(8 + 4 + 4 + 4) // client id, sequence, flags, state protection
	d.Uint64()            // minor id
	owner, scope = d.String(1024), d.String(1024)
	if err := d.Err(); err != nil {
		t.Fatal(err)
	}
	return owner, scope
}

// Servers are one to a client only if they are of the same cluster and name
// (RFC 8881, 2.10.5), whatever start of the process.
func TestServersOfClustersDiffer(t *testing.T) {
	one, other, renamed := config(), config(), config()
	other.Cluster[15] = 9
	renamed.Name = "test2"
	owner, scope := identity(t, one)
	if o, s := identity(t, one); o != owner || s != scope {
		t.Errorf("%q, %q after a restart, %q, %q before", o, s, owner, scope)
	}
	for _, cfg := range []nfsserver.Config{other, renamed} {
		if o, s := identity(t, cfg); o == owner || s == scope {
			t.Errorf("%s of cluster %x shows %q, %q as %s of %x does", cfg.Name, cfg.Cluster, o, s, one.Name, one.Cluster)
		}
	}
}
