package devcluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/gateway"
	"github.com/rackfs/rackfs/internal/httpgate"
	"github.com/rackfs/rackfs/internal/localnode"
	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

// startTimeout bounds how long the voters may take to elect leaders and
// answer when a cluster starts.
const startTimeout = 2 * time.Minute

// Cluster is a running cluster.
type Cluster struct {
	cfg Config
	dir *dataDir
	log *slog.Logger
	reg *prometheus.Registry
	ca  *pki.CA

	voters voters
	stores []*blockNode
	// indexCache is the stores' own, which they share.
	indexCache *pebble.Cache
	guardians  []*guardian
	meta       *raftmeta.Client
	gateway    *gateway.Gateway
	nfs, nfs3  net.Listener // nfs3 is nil without NFSv3
	more       []*moreGateway
	peers      net.Listener // of the first gateway for the others; nil: it is the only one
	httpLn     net.Listener
	http       *api.Server
	admin      *api.Server
	apiLn      net.Listener
	gate       *httpgate.Gate
	audit      *accounts.Audit
	token      string // of the API, as announced

	localLn net.Listener      // nil: no local volumes
	local   *localnode.Server // nil: none

	serving sync.WaitGroup // NFS accept loops
	failed  chan error     // why serving ended by itself; room for the first
}

// Start brings a cluster up in cfg.DataDir, making it if need be, and returns
// when it serves.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Lease == 0 {
		cfg.Lease = DefaultLease
	}
	if cfg.GCGrace == 0 {
		cfg.GCGrace = DefaultGCGrace
	}
	if cfg.CollectInterval == 0 {
		cfg.CollectInterval = DefaultCollectInterval
	}
	c := &Cluster{cfg: cfg, log: cfg.Logger, reg: prometheus.NewRegistry(), failed: make(chan error, 1)}
	c.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			_ = c.Close(stop)
		}
	}()
	// Addresses first: a port in use is the likeliest reason to fail, and the
	// cheapest to find out.
	if c.nfs, err = net.Listen("tcp", cfg.NFSAddr); err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "listen for NFS", "choose another address with --nfs: %w", err)
	}
	if err := c.listenMore(); err != nil {
		return nil, err
	}
	if cfg.NFS3Addr != "" {
		if c.nfs3, err = net.Listen("tcp", cfg.NFS3Addr); err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, "listen for NFSv3", "choose another address with --nfs3: %w", err)
		}
	}
	if cfg.HTTPAddr != "" {
		if c.httpLn, err = net.Listen("tcp", cfg.HTTPAddr); err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, "listen for HTTP", "choose another address with --http, or --http '' for none: %w", err)
		}
	}
	if err := c.listenLocal(); err != nil {
		return nil, err
	}
	if cfg.APIAddr != "" {
		if c.apiLn, err = net.Listen("tcp", cfg.APIAddr); err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, "listen for the API", "choose another address with --api, or --api '' for none: %w", err)
		}
	}
	if c.dir, err = openDataDir(vfile.OS{}, cfg.DataDir, cfg.shape(), defaultShape); err != nil {
		return nil, err
	}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	c.listens("serve NFS", func() error { return c.gateway.Serve(c.nfs) })
	for _, m := range c.more {
		c.listens("serve NFS", func() error { return m.gateway.Serve(m.nfs) })
	}
	if c.nfs3 != nil {
		c.listens("serve NFSv3", func() error { return c.gateway.ServeV3(c.nfs3) })
	}
	if c.httpLn != nil {
		c.http = serveHTTP(c.httpLn, c.reg, c.health, c.status, c.log)
	}
	if err := c.serveAPI(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	if c.ca, err = pki.LoadOrCreateCA(c.dir.files, c.dir.sub("pki"), "dev-"+c.dir.shape.Cluster[:8], time.Now()); err != nil {
		return err
	}
	if err := c.openStores(ctx); err != nil {
		return err
	}
	if !c.dir.shape.Formed {
		if err := formVoters(c.dir); err != nil {
			return err
		}
		// From here on a directory that is missing was lost: a store is not made anew, a voter
		// is replaced by one with a new identity.
		if err := c.dir.markFormed(); err != nil {
			return err
		}
	}
	if err := c.startVoters(); err != nil {
		return err
	}
	if err := c.awaitLeaders(ctx); err != nil {
		return err
	}
	c.raiseLevels(ctx)
	id, err := c.ca.Issue(gatewayName, []string{blockstore.RoleGateway}, nil, time.Now())
	if err != nil {
		return err
	}
	if c.meta, err = c.metaClient(id); err != nil {
		return err
	}
	if err := c.admitStores(ctx, c.meta); err != nil {
		return err
	}
	if err := c.recordNodes(ctx, c.meta); err != nil {
		return err
	}
	if err := provisionAll(ctx, c.meta, &c.dir.shape); err != nil {
		return err
	}
	if err := c.provisionProjects(ctx); err != nil {
		return err
	}
	gc, err := c.gatewayConfig(gatewayName, c.meta, id, c.peers)
	if err != nil {
		return err
	}
	gc.Registerer = c.reg
	if c.gateway, err = gateway.Start(ctx, gc); err != nil {
		return err
	}
	if err := c.startMore(ctx); err != nil {
		return err
	}
	if err := c.startUpkeep(); err != nil {
		return err
	}
	if err := c.startGuardians(ctx); err != nil {
		return err
	}
	return c.startLocal(ctx)
}

// listens runs an accept loop until it ends. The first error ends the cluster; others, such as those of listeners that Close closes, are of no interest.
func (c *Cluster) listens(op string, run func() error) {
	c.serving.Go(func() {
		if err := run(); err != nil {
			select {
			case c.failed <- vfs.Wrap(op, err):
			default:
			}
		}
	})
}

// Close stops the cluster in reverse order of its start. When ctx ends first,
// the rest is as after a crash: nothing acknowledged is lost.
func (c *Cluster) Close(ctx context.Context) error {
	var errs []error
	errs = append(errs, c.http.Close(ctx), c.gate.Close(ctx), c.admin.Close(ctx), c.audit.Close())
	for _, ln := range []net.Listener{c.httpLn, c.apiLn, c.nfs, c.nfs3} {
		if ln != nil {
			ln.Close()
		}
	}
	errs = append(errs, c.endLocal(ctx))
	errs = append(errs, c.stopMore(ctx))
	if c.gateway != nil {
		errs = append(errs, c.gateway.Stop(ctx))
	}
	if c.peers != nil {
		c.peers.Close()
	}
	c.serving.Wait()
	for _, g := range c.guardians {
		g.close()
	}
	for _, s := range c.stores {
		s.endUpkeep()
	}
	for _, m := range c.more {
		m.closeMeta()
	}
	if c.meta != nil {
		c.meta.Close()
	}
	errs = append(errs, c.voters.close())
	for _, s := range c.stores {
		errs = append(errs, s.close())
	}
	if c.indexCache != nil {
		c.indexCache.Unref()
	}
	if c.dir != nil {
		errs = append(errs, c.dir.close())
	}
	return errors.Join(errs...)
}

// NFSAddr is where NFS is served.
func (c *Cluster) NFSAddr() string { return c.nfs.Addr().String() }

// NFS3Addr is where the read-only NFSv3 is served, "" if nowhere.
func (c *Cluster) NFS3Addr() string {
	if c.nfs3 == nil {
		return ""
	}
	return c.nfs3.Addr().String()
}

// HTTPAddr is where HTTP is served, "" if nowhere.
func (c *Cluster) HTTPAddr() string {
	if c.httpLn == nil {
		return ""
	}
	return c.httpLn.Addr().String()
}

// raw is what stores hold together, and how much they can.
func (c *Cluster) raw(stores []uint32) (used, capacity uint64) {
	var list []blockstore.RoomReply
	for _, s := range c.stores {
		if s.store == nil || !slices.Contains(stores, s.ID) {
			continue
		}
		i := s.store.Info()
		list = append(list, i.Room())
	}
	return blockstore.Together(list)
}

// health says whether the cluster serves, and what it lacks.
func (c *Cluster) health() health {
	if !c.voters.serving() {
		return health{false, "no metadata leader"}
	}
	lacks := c.voters.lacks()
	writable := 0
	for _, n := range c.stores {
		what := " takes no writes"
		if n.serves() {
			i := n.store.Info()
			if i.Writable && !i.Full {
				writable++
				continue
			}
			switch {
			case i.Full:
				what = " is full"
			case i.ReadOnly:
				what = " is read-only: " + i.Failure
			case i.Failure != "":
				what += ": " + i.Failure
			}
		}
		lacks = append(lacks, "block store "+n.name+what)
	}
	if p, err := placement.ParseProfile(c.dir.shape.Profile); err == nil && writable < p.Width() {
		what := "writers wait"
		if k := writable - p.M; k >= 1 {
			what = fmt.Sprintf("until then they are %v", placement.Profile{K: k, M: p.M})
		}
		lacks = append(lacks, fmt.Sprintf("profile %v needs %d stores for new blocks, %d take writes: %s", p, p.Width(), writable, what))
	}
	if st := c.placement(); st != nil {
		for _, p := range st.Pools {
			if p.Filling > 0 {
				lacks = append(lacks, fmt.Sprintf("pool %s: %d slots are being filled; if one more store is lost, %s", p.Name, p.Filling, p.Next))
			}
		}
	}
	if len(lacks) == 0 {
		return health{true, "ok"}
	}
	return health{true, "degraded: " + strings.Join(lacks, "; ")}
}

func (c *Cluster) status() status {
	s := status{Cluster: c.dir.shape.Cluster, Profile: c.dir.shape.Profile, NFSState: c.gateway.NFSState(), Placement: c.placement(), Rewriting: c.gateway.Rewriting()}
	for _, v := range c.voters.all {
		if v.server == nil {
			s.Shards = append(s.Shards, shardStatus{Node: v.name, Status: "not running: " + v.err.Error()})
			continue
		}
		for _, st := range v.server.Status() {
			for _, e := range st.Tasks {
				s.Work = append(s.Work, shardWork{st.Shard, e})
			}
			st.Tasks = nil // they are told of once
			s.Shards = append(s.Shards, shardStatus{Node: v.name, Shard: st.Shard, Status: st})
		}
		if h := v.hinter.Load(); h != nil {
			st := h.Status()
			s.Hints.Queue += st.Queue
			s.Hints.Told += st.Told
			s.Hints.Dropped += st.Dropped
		}
	}
	for _, n := range c.stores {
		if n.store == nil {
			s.Stores = append(s.Stores, storeStatus{Node: n.name, Info: "not running: " + n.err.Error()})
			continue
		}
		st := storeStatus{Node: n.name, ID: n.ID, Info: n.store.Info()}
		if k := n.keeper.Load(); k != nil {
			work := k.Status()
			st.Upkeep = &work
		}
		s.Stores = append(s.Stores, st)
	}
	if c.APIURL() != "" {
		s.API = &apiStatus{URL: c.APIURL(), TLS: strings.HasPrefix(c.APIURL(), "https:")}
	}
	s.Quotas = c.quotas()
	for _, e := range c.gateway.Exports() {
		s.Exports = append(s.Exports, exportStatus{Path: e.Path, FS: e.FSID})
	}
	return s
}

func (c *Config) dataMode() wire.Mode {
	if c.Encrypt {
		return wire.ModeTLS
	}
	return wire.ModeMAC
}

func release() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return "rackfs " + info.Main.Version
	}
	return "rackfs"
}
