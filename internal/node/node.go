package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/cloudimport"
	"github.com/rackfs/rackfs/internal/floating"
	"github.com/rackfs/rackfs/internal/gateway"
	"github.com/rackfs/rackfs/internal/httpgate"
	"github.com/rackfs/rackfs/internal/localnode"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/nodegroup/gossip"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// attemptTimeout bounds one attempt at a step that others' being away may prevent, and attemptPause is between them.
	attemptTimeout = 10 * time.Second
	attemptPause   = 500 * time.Millisecond
	// indexCacheBytes is the index cache of all disks of a node together.
	indexCacheBytes = 128 << 20
)

// Keys of Node.listeners.
const (
	listenMeta    = "meta.listen"
	listenControl = "control.listen"
	listenBlock   = "block.listen"
	listenNFS     = "nfs.listen"
	listenNFS3    = "nfs.v3_listen"
	listenPeers   = "nfs.peers_listen"
	listenHTTP    = "http.listen"
	listenAPI     = "api.listen"
	listenGossip  = "gossip.listen"
	listenLocal   = "local.listen"
)

// Options of a run that are not configuration.
type Options struct {
	ReplaceDisks []string // directories whose store was lost
	Release      string
	Logger       *slog.Logger // nil: none

	gossip gossipTiming // zero: as always; tests are in a hurry
}

// Node is a running node.
type Node struct {
	cfg *Config
	opt Options
	log *slog.Logger
	reg *prometheus.Registry
	dir *dataDir
	id  *pki.Holder

	listeners map[string]net.Listener
	directory *directory
	renewer   *renewer
	voter     *raftmeta.Server // nil: none
	meta      *raftmeta.Client
	authority *authority
	control   *controlServer
	admin     *api.Server
	http      *api.Server
	guardian  *Guardian
	hinter    atomic.Pointer[nodegroup.Hinter] // of guardian, once it runs
	guarding  atomic.Pointer[Guardian]         // guardian, once it runs
	gossip    atomic.Pointer[gossip.Gossip]    // while it runs

	gossipTiming gossipTiming

	indexCache   *pebble.Cache
	disks        []*disk
	knownDisks   map[string]uint32 // which store was at which place last, as it is written down; while the node starts
	blockServer  *wire.Server
	gateway      *gateway.Gateway
	floating     *floating.Pool                  // nil: no addresses move
	localVolumes *localnode.Server               // nil: none
	noVolumes    error                           // why there are none
	files        atomic.Pointer[gateway.Gateway] // the gateway, for the API
	api          *api.API
	imports      *cloudimport.Engine
	audit        *accounts.Audit
	gate         *httpgate.Gate

	stop       context.CancelFunc
	background sync.WaitGroup
	quiet      context.CancelFunc // ends gossip
	gossiping  sync.WaitGroup
	serving    sync.WaitGroup
	failed     chan error // why serving ended by itself

	mu    sync.Mutex // guards doing, and voter and authority while the node starts and is asked already
	doing string     // what the start waits for; "" when it is done
}

// Start runs the node of a configuration. It returns when all of it serves.
func Start(ctx context.Context, c *Config, o Options) (_ *Node, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Node{cfg: c, opt: o, log: o.Logger.With("node", c.Name), reg: prometheus.NewRegistry(), listeners: map[string]net.Listener{}, failed: make(chan error, 4)}
	if n.gossipTiming = o.gossip; o.gossip == (gossipTiming{}) {
		n.gossipTiming = gossipTiming{gossipKeysEvery, gossipKeysUse, gossipKeysRetire}
	}
	n.registerGossip()
	n.reg.MustRegister(newAlarms(n))
	n.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			_ = n.Close(stop)
		}
	}()
	if err := n.open(); err != nil {
		return nil, err
	}
	return n, n.start(ctx)
}

// open checks everything that is this machine's own affair.
func (n *Node) open() (err error) {
	const op = "start node"
	if n.dir, err = openDataDir(vfile.OS{}, n.cfg); err != nil {
		return err
	}
	if !n.dir.state.Ready {
		return vfs.Errorf(vfs.KindInvalid, op, "%s belongs to no cluster yet: `rackfs cluster init --config FILE` begins one, `rackfs node join --token TOKEN --config FILE` joins one", n.cfg.Data)
	}
	id, err := pki.LoadIdentity(n.dir.files, n.dir.sub(pkiDir))
	if err != nil {
		return err
	}
	if id.Name() != n.cfg.Name {
		return vfs.Errorf(vfs.KindInvalid, op, "the certificate is that of node %s, not %s", id.Name(), n.cfg.Name)
	}
	for _, role := range n.cfg.Roles {
		if !slices.Contains(id.Roles(), role) {
			return vfs.Errorf(vfs.KindPerm, op, "roles: this node joined with the roles %q, %s is not among them", id.Roles(), role)
		}
	}
	if n.dir.state.First == nil || n.dir.state.First.Provisioned {
		if err := validity(id, time.Now()); err != nil {
			return err
		}
	}
	n.id = pki.NewHolder(id)
	for _, l := range n.cfg.listens() {
		if l.path == listenGossip {
			continue // it listens itself
		}
		if n.listeners[l.path], err = net.Listen("tcp", l.addr); err != nil {
			delete(n.listeners, l.path)
			return vfs.Errorf(vfs.KindInvalid, op, "%s: %w: choose another address", l.path, err)
		}
	}
	n.directory, err = openDirectory(n.dir, n.cfg.peer(n.dir.state.id()), n.id.Revoke, n.hint, n.log)
	n.renewer = &renewer{dir: n.dir, id: n.id, peers: n.directory, now: time.Now}
	return err
}

func (n *Node) start(ctx context.Context) (err error) {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.meta, err = raftmeta.NewClient(raftmeta.ClientOptions{
		NodesFunc: n.metaNodes, Resolver: n.directory, Logger: n.log, Security: n.metaSecurity,
	})
	if err != nil {
		return err
	}
	if n.admin, err = serveAdmin(n.dir.sub(adminFile), n); err != nil {
		return err
	}
	if ln := n.listeners[listenHTTP]; ln != nil {
		n.http = serveHTTP(ln, n)
	}
	if n.cfg.GossipListen != "" {
		talk, quiet := context.WithCancel(run)
		n.quiet = quiet
		n.gossiping.Go(func() { n.gossips(talk) })
	}
	if n.cfg.Has(RoleMeta) {
		if err := n.startVoter(); err != nil {
			return err
		}
	}
	if n.cfg.Has(RoleLocal) {
		if err := n.startLocal(ctx); err != nil {
			return err
		}
	}
	n.say("waiting for the metadata")
	if f := n.dir.state.First; f != nil && !f.Provisioned {
		if err := n.patiently(ctx, "make the cluster's first records", n.provision); err != nil {
			return err
		}
		f.Provisioned = true
		if err := n.dir.save(); err != nil {
			return err
		}
	}
	if err := n.patiently(ctx, "record this node", n.register); err != nil {
		return err
	}
	n.background.Go(func() { n.directory.run(run, n.meta, n.watchStanding) })
	n.background.Go(func() { n.keepCertificate(run) })
	if n.localVolumes != nil {
		n.localVolumes.Report(n.meta, n.ownRecord, func(ctx context.Context) error { return n.directory.refresh(ctx, n.meta) })
	}
	if n.cfg.Has(RoleBlock) {
		n.indexCache = pebble.NewCache(indexCacheBytes)
		if err := n.openDisks(ctx); err != nil {
			return err
		}
		if err := n.admitDisks(ctx); err != nil {
			return err
		}
	}
	if n.voter != nil {
		n.guardian = StartGuardian(ctx, GuardianOptions{Server: n.voter, Meta: n.meta, Security: n.blockSecurity, Timing: n.cfg.Timing, ProbeEvery: n.cfg.ProbeEvery, Logger: n.log})
		n.hinter.Store(n.guardian.Hinter)
		n.guarding.Store(n.guardian)
		n.reg.MustRegister(nodegroup.NewCollector(func() *nodegroup.Status {
			st := n.guardian.Status()
			return &st
		}))
	}
	if n.cfg.Has(RoleGateway) {
		if err := n.startGateway(ctx); err != nil {
			return err
		}
	}
	n.say("")
	return nil
}

// metaNodes are the names of nodes with voters; this very node if none is known, where nobody answers then.
func (n *Node) metaNodes() []string {
	if names := n.directory.metaNodes(); len(names) > 0 {
		return names
	}
	return []string{n.cfg.Name}
}

func (n *Node) metaSecurity(node string) wire.Security {
	return wire.Security{Mode: wire.ModeTLS, TLS: n.id.ClientTLS(node)}
}

func (n *Node) blockSecurity(node string) wire.Security {
	return wire.Security{Mode: n.dataMode(), TLS: n.id.ClientTLS(node)}
}

func (n *Node) dataMode() wire.Mode {
	if n.dir.state.Settings.Encrypt {
		return wire.ModeTLS
	}
	return wire.ModeMAC
}

// say notes what the start waits for, for status and log.
func (n *Node) say(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	n.mu.Lock()
	was := n.doing
	n.doing = s
	n.mu.Unlock()
	if s != "" && s != was {
		n.log.Info(s)
	}
}

// dead passes on which blocks died. Stores find by themselves what dies before the guardian runs.
func (n *Node) dead(blocks []*metapb.DeadBlock) {
	if h := n.hinter.Load(); h != nil {
		h.Dead(blocks)
	}
}

// patiently makes a step that others' being away may prevent.
func (n *Node) patiently(ctx context.Context, what string, step func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := step(try)
		late := try.Err() != nil
		cancel()
		switch k := vfs.KindOf(err); {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return vfs.Wrap(what, context.Cause(ctx))
		case k == vfs.KindPerm || !late && k != vfs.KindUnavailable && k != vfs.KindUnknown && k != vfs.KindNotLeader && k != vfs.KindChanged:
			return vfs.Wrap(what, err)
		}
		n.say("waiting to %s: %v", what, err)
		select {
		case <-time.After(attemptPause):
		case <-ctx.Done():
		}
	}
}

func (n *Node) startVoter() error {
	dir := n.dir.sub(metaDir)
	st := &n.dir.state
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		// The node only: its replicas are made by the server, when the others agree.
		if _, err := raftmeta.Format(raftmeta.FormatOptions{Dir: dir, Cluster: st.Settings.ID(), Node: n.cfg.Name, Log: raftmeta.Backend(st.RaftLog)}); err != nil {
			return err
		}
	}
	voter, err := raftmeta.Open(raftmeta.Options{
		Dir: dir, Cluster: st.Settings.ID(), Listener: n.listeners[listenMeta], Resolver: n.directory, Logger: n.log,
		Security: wire.Security{Mode: wire.ModeTLS, TLS: n.id.ServerTLS()}, ClientSecurity: n.metaSecurity,
		Registerer: n.reg, Log: raftmeta.Backend(st.RaftLog),
		Shards: []uint16{clusterShard, namespaceShard}, NodesFunc: n.metaNodes, Voters: st.Settings.Voters, Fates: n.fates,
		Grace: n.cfg.GCGrace, Lease: n.cfg.GatewayLease, Linger: n.cfg.GatewayLinger, ClientCourtesy: max(n.cfg.GatewayLease, minCourtesy), OnDead: n.dead,
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.voter = voter
	n.mu.Unlock()
	ca, err := pki.LoadCA(vfile.OS{}, n.dir.sub(pkiDir))
	if err != nil {
		return err
	}
	a := &authority{ca: ca, settings: st.Settings, meta: n.meta, dir: n.directory, now: time.Now, log: n.log}
	n.mu.Lock()
	n.authority = a
	n.mu.Unlock()
	n.control = serveControl(n.listeners[listenControl], n.id, a, func() any { return n.local() }, n.log)
	return nil
}

// Close stops the node in reverse order of its start. When ctx ends first, the rest is as after a crash: nothing acknowledged is lost.
func (n *Node) Close(ctx context.Context) error {
	var errs []error
	n.floating.Retire()
	if n.voter != nil {
		n.voter.HandOver()
	}
	if n.quiet != nil {
		n.quiet() // first, for then others know that it is no crash
	}
	n.gossiping.Wait()
	n.floating.Close() // clients go to other gateways, and wait there for what this one has yet to flush
	for _, path := range []string{listenNFS, listenNFS3, listenLocal} {
		if ln := n.listeners[path]; ln != nil {
			ln.Close()
		}
	}
	if n.localVolumes != nil {
		errs = append(errs, n.localVolumes.Stop(ctx))
	}
	errs = append(errs, n.gate.Close(ctx))
	if n.gateway != nil {
		errs = append(errs, n.gateway.Stop(ctx))
	}
	_ = n.http.Close(ctx)
	_ = n.admin.Close(ctx)
	n.control.close()
	if n.guardian != nil {
		n.guardian.Close()
	}
	if n.stop != nil {
		n.stop()
	}
	n.background.Wait()
	n.closeKeepers()
	if n.blockServer != nil {
		errs = append(errs, n.blockServer.Close())
	}
	n.serving.Wait()
	if n.meta != nil {
		n.meta.Close()
	}
	if n.voter != nil {
		errs = append(errs, n.voter.Close())
	}
	errs = append(errs, n.closeDisks())
	if n.indexCache != nil {
		n.indexCache.Unref()
	}
	for _, ln := range n.listeners {
		ln.Close()
	}
	errs = append(errs, n.audit.Close())
	n.dir.close()
	return errors.Join(errs...)
}

// Run runs a node until ctx ends, and says on out what it serves.
func Run(ctx context.Context, c *Config, o Options, out interface{ Write([]byte) (int, error) }, stopTimeout time.Duration) error {
	n, err := Start(ctx, c, o)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "rackfs ready")
	fmt.Fprintf(out, "  node       %s, roles %s, cluster %s\n", c.Name, strings.Join(c.Roles, ", "), n.dir.state.Settings.Cluster)
	if n.gateway != nil {
		host, port, _ := net.SplitHostPort(c.advertised(RoleGateway, c.NFSListen))
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		for _, e := range n.gateway.Exports() {
			fmt.Fprintf(out, "  mount      mount -t nfs -o vers=4.2,proto=tcp,port=%s %s:%s /mnt/rackfs\n", port, host, e.Path)
		}
	}
	var failed error
	select {
	case <-ctx.Done():
	case failed = <-n.failed:
	}
	fmt.Fprintln(out, "rackfs stopping")
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := n.Close(stop); failed == nil && err != nil {
		return fmt.Errorf("stop: %w (nothing acknowledged is lost)", err)
	}
	if failed == nil {
		fmt.Fprintln(out, "rackfs stopped")
	}
	return failed
}
