package nfsserver_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

const (
	toEOF     = ^uint64(0)
	leaseTime = 30 * time.Second

	// patience is how long a test waits for what must happen.
	patience = 5 * time.Minute
)

// instance is a server over a memfs and a state store that outlive it.
type instance struct {
	t      testing.TB
	ctx    context.Context
	fs     vfs.FS
	kept   *memfs.Kept // fs, if it keeps opens and locks; the store then keeps sessions
	store  state.StateStore
	limits state.Limits
	deleg  state.Delegating
	srv    *nfsserver.Server
	served chan error
	addr   string

	mu  sync.Mutex
	now time.Time
}

func newInstance(t testing.TB) *instance {
	return startInstance(t, &instance{fs: memfs.New(memfs.Options{RootMode: 0o777}), store: newMemStore()})
}

// newKeptInstance is a server whose clients outlive it.
func newKeptInstance(t testing.TB) *instance {
	k := memfs.Keep(memfs.New(memfs.Options{RootMode: 0o777}))
	return startInstance(t, &instance{fs: k, kept: k, store: newKeptStore(k)})
}

func startInstance(t testing.TB, in *instance) *instance {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	in.t, in.ctx, in.addr, in.now = t, ctx, "127.0.0.1:0", time.Unix(1_700_000_000, 0)
	in.start()
	t.Cleanup(func() {
		in.stop()
		cancel()
	})
	return in
}

func (in *instance) clock() time.Time {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.now
}

func (in *instance) advance(d time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.now = in.now.Add(d)
}

func (in *instance) start() {
	in.t.Helper()
	srv, err := nfsserver.New(in.ctx, nfsserver.Config{
		Cluster: [16]byte{1}, Keys: []handle.Key{{ID: 1, Secret: [16]byte{7}}}, Store: in.store, Name: "protocol",
		Lease: leaseTime, Clock: in.clock, Delegations: in.deleg, Limits: nfsserver.Limits{State: in.limits}, Logger: slog.New(slog.DiscardHandler),
		Exports: []export.Export{{ID: 1, FSID: 1, Path: "/default", FS: in.fs, Rules: export.Everyone(export.ReadWrite, export.SquashNone)}},
	})
	if err != nil {
		in.t.Fatal(err)
	}
	var ln net.Listener
	for { // while it was closed its port may have become somebody's own, for a connection
		if ln, err = net.Listen("tcp", in.addr); err == nil {
			break
		}
		if !errors.Is(err, syscall.EADDRINUSE) || in.ctx.Err() != nil {
			in.t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	in.srv, in.addr, in.served = srv, ln.Addr().String(), make(chan error, 1)
	go func() { in.served <- srv.Serve(ln) }()
}

func (in *instance) stop() {
	in.t.Helper()
	if err := in.srv.Shutdown(in.ctx); err != nil {
		in.t.Error(err)
	}
	if err := <-in.served; err != nil {
		in.t.Error(err)
	}
}

// restart is a new server process: what is memory is gone.
func (in *instance) restart() {
	in.t.Helper()
	in.stop()
	if in.kept != nil {
		in.kept.Restart()
	}
	in.start()
}

// conn is a client with the root of the export.
type conn struct {
	*nfsclient.Client
	in   *instance
	t    testing.TB
	root nfsclient.FH
}

func (in *instance) dial(owner string, change ...func(*nfsclient.Config)) *conn {
	in.t.Helper()
	cfg := nfsclient.Config{Addr: in.addr, Owner: owner, Machine: "test", Slots: 16, Verifier: [8]byte{1}}
	for _, f := range change {
		f(&cfg)
	}
	c, err := nfsclient.Dial(in.ctx, cfg)
	if err != nil {
		in.t.Fatalf("dial as %s: %v", owner, err)
	}
	in.t.Cleanup(c.Disconnect)
	root, _, err := c.Walk(in.ctx, "/default")
	if err != nil {
		in.t.Fatal(err)
	}
	return &conn{c, in, in.t, root}
}

func want(t testing.TB, what string, err error, st nfsclient.Status) {
	t.Helper()
	if got := nfsclient.StatusOf(err); got != st {
		t.Fatalf("%s: %v, want %s", what, err, nfsv4.Nfsstat4_name[st])
	}
}

// file makes and opens a file.
func (c *conn) file(name string) *nfsclient.File {
	c.t.Helper()
	f, err := c.Create(c.in.ctx, c.root, name, 0o644)
	want(c.t, "create "+name, err, nfsv4.NFS4_OK)
	return f
}

// open opens an existing file.
func (c *conn) open(name string, access, deny uint32, st nfsclient.Status) *nfsclient.File {
	c.t.Helper()
	f, err := c.Open(c.in.ctx, c.root, nfsclient.OpenArgs{Name: name, Access: access, Deny: deny})
	want(c.t, "open "+name, err, st)
	return f
}
