package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/background"
	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/internal/relay"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nfsserver"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
	"github.com/rackfs/rackfs/volume/rewrite"
)

const (
	defaultFoldAge  = time.Minute
	defaultFoldRate = 32 << 20 // bytes per second
	// foldInterval is how often it is looked for something to fold.
	foldInterval = 5 * time.Second
	// firstNamespace is the namespace shard that every cluster has.
	firstNamespace = 1
)

// Config of a Gateway. All fields but the last group are required.
type Config struct {
	Name    string   // node name, unique in the cluster
	Cluster [16]byte // cluster id

	Meta          *raftmeta.Client                // the caller closes it after the gateway
	BlockSecurity func(node string) wire.Security // of connections to block servers
	Rules         []export.Rule                   // who may use the exports

	// Group is the node group that the gateway is in now, "" the shared part of the cluster; nil: always that. It serves the group's file
	// systems, in the shared part the shared ones.
	Group func() string
	// Several: other gateways may serve the same file systems, all of them with this. Files are given back when another one wants them, those that many write are written
	// through, and clients get no delegations. Needs feature level 6.
	Several bool
	// Peers, if not nil, is how gateways of several carry requests to each other that came to another one than serves the client, from feature level 7 on; else such clients are handed over each time.
	Peers *Peers
	// Zone and Rack are those of the gateway's node, "" or nil: not known. Stores of its own node, rack and zone are read first where there is a choice.
	Zone, Rack func() string

	Lease time.Duration // NFS lease, default 30 s
	// OriginLease is how long what the gateway has is kept for it when nothing is heard of it, 0: as meta nodes are configured. From feature level 7 on.
	OriginLease time.Duration
	// MapInterval is how often the cluster map is asked for, default 1 s.
	MapInterval time.Duration
	// ReencodeInterval is how often it is looked for blocks of fallback groups that can be rewritten to
	// the pool's profile, default 5 s; ReencodeRate bounds that, in bytes per second, default 64 MiB.
	ReencodeInterval time.Duration
	ReencodeRate     float64
	// FoldAge is how long parts of files are not written before what small flushes left of them in the metadata and in many
	// pieces is put into blocks, default 1 min; FoldRate bounds that, in bytes per second, default 32 MiB.
	FoldAge     time.Duration
	Delegations state.Delegating // of files to NFS clients
	ReplyCache  int64            // bytes of the slots of all NFS sessions, 0: the default of package state
	NoAtime     bool             // reading leaves times of access as they are; else as relatime, see mount(8)
	FoldRate    float64
	Release     string // of the software
	// Raw is what stores hold together and how much they can, in bytes of shards; nil: they are asked now and then.
	Raw        func(stores []uint32) (used, capacity uint64)
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()
}

// Gateway serves the cluster's file systems over NFS.
type Gateway struct {
	cfg  Config
	cmap *liveMap
	// reporter tells stores of their bad shards; nil before the map is known.
	reporter *stripe.Reporter
	members  memberships
	stripes  *stripe.Client
	files    *fileSet // nil while it is not known which there are
	nfs      *nfsserver.Server
	sessions *sessionStore // nil below feature level 3
	// handsOver: clients go from this gateway to others and back while all live
	handsOver bool
	relay     *relay.Relay // nil: requests are not carried to others

	room capacities

	reencoder, folder *rewrite.Rewriter
	desks             map[uint16]*background.Desk // by namespace shard

	stop       context.CancelFunc // ends background
	background sync.WaitGroup
}

// Start brings a gateway up; it does not listen yet (see Serve).
func Start(ctx context.Context, cfg Config) (g *Gateway, err error) {
	const op = "gateway.start"
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Group == nil {
		cfg.Group = func() string { return "" }
	}
	cfg.MapInterval = cmp.Or(cfg.MapInterval, defaultMapInterval)
	cfg.ReencodeInterval = cmp.Or(cfg.ReencodeInterval, defaultReencodeInterval)
	cfg.ReencodeRate = cmp.Or(cfg.ReencodeRate, defaultReencodeRate)
	cfg.FoldAge = cmp.Or(cfg.FoldAge, defaultFoldAge)
	cfg.FoldRate = cmp.Or(cfg.FoldRate, defaultFoldRate)
	undo := func() {}
	if cfg.Registerer != nil {
		r := &registered{Registerer: cfg.Registerer}
		cfg.Registerer, undo = r, r.undo
	}
	g = &Gateway{cfg: cfg}
	bg, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.stop = stop
	defer func() {
		if err != nil {
			g.abandon()
			undo()
			g = nil
		}
	}()

	var incarnation [16]byte
	rand.Read(incarnation[:])
	g.members.all = map[uint16]*membership{}
	options := raftmeta.LeaseOptions{Several: cfg.Several, Length: cfg.OriginLease}
	register := func(shard uint16) error {
		if err := g.mayShare(ctx, shard); err != nil {
			return err
		}
		l, err := cfg.Meta.RegisterLeased(ctx, shard, cfg.Name, incarnation[:], options)
		if err != nil {
			return err
		}
		m := &membership{meta: cfg.Meta, shard: shard, name: cfg.Name, options: options, log: cfg.Logger, volumes: map[uint32]*volume.Volume{}}
		m.lease.Store(l)
		g.members.all[shard] = m
		return nil
	}
	if err := register(clusterShard); err != nil {
		return g, vfs.Wrap(op, err)
	}
	keys, err := g.handleKeys(ctx)
	if err != nil {
		return g, vfs.Wrap(op, err)
	}
	g.cmap, err = newLiveMap(ctx, g.clusterMap, func(node, addr string) *wire.Client {
		return wire.NewClient(wire.Dialer("tcp", addr), wire.ClientOptions{Security: cfg.BlockSecurity(node), Logger: cfg.Logger})
	}, cfg.Logger, newTraffic(cfg.Name, cfg.Zone, cfg.Rack, cfg.Registerer))
	if err != nil {
		return g, vfs.Wrap(op, err)
	}
	g.reporter = stripe.NewReporter(newest{g.cmap}, cfg.Logger)
	client := stripe.New(stripe.Options{Probed: true, Logger: cfg.Logger, Metrics: stripe.NewMetrics(cfg.Registerer), OnBad: func(b stripe.BadShard) {
		g.reporter.Report(b)
		cfg.Logger.Warn("damaged or missing shard served by reconstruction, its store is told", "block", b.Block.ID, "pg", b.Block.PG, "shard", b.Shard, "target", b.Target, "err", b.Err)
	}})
	g.stripes = client
	g.background.Go(func() { g.cmap.run(bg, cfg.MapInterval, client) })

	g.background.Go(func() { g.watchCapacity(bg) })

	list, err := filesystem.List(ctx, cfg.Meta)
	if err != nil {
		return g, vfs.Wrap(op, err)
	}
	// The first namespace shard is used in any case: a file system may be made in it at any time.
	namespaces := []uint16{firstNamespace}
	for _, fs := range list.GetFileSystems() {
		if shard := uint16(fs.Shard); fs.State == metapb.FileSystemState_FS_ACTIVE && !slices.Contains(namespaces, shard) {
			namespaces = append(namespaces, shard)
		}
	}
	for _, shard := range namespaces {
		if err := register(shard); err != nil {
			return g, vfs.Wrap(op, err)
		}
	}
	keep, err := keeping(ctx, cfg.Meta, namespaces)
	if err != nil {
		return g, vfs.Wrap(op, err)
	}
	g.files = &fileSet{g: g, keep: keep, all: map[uint32]*served{}, version: list.GetVersion()}
	g.files.update(ctx, list)
	folding := &rewrite.Folding{Age: cfg.FoldAge, Volumes: g.files.folded, Logger: cfg.Logger}
	g.desks = make(map[uint16]*background.Desk)
	for _, shard := range namespaces {
		o := background.Options{
			Leader: cfg.Meta, Shard: shard, Logger: cfg.Logger,
			Pieces: func(list []*metapb.WorkPiece) { folding.Found(shard, list) },
			Room:   func() int { return folding.Room(shard) },
		}
		// Without a leader there is no metadata to rewrite.
		o.Patience[ledger.Rewrite] = background.Forever
		d := background.New(o)
		g.desks[shard] = d
		g.background.Go(func() { d.Run(bg) })
	}
	desk := func(shard uint16) *background.Desk { return g.desks[shard] }
	g.reencoder = rewrite.New(rewrite.Config{
		Name: "reencode", Meta: cfg.Meta, BytesPerSecond: cfg.ReencodeRate, Interval: cfg.ReencodeInterval, IdleMax: reencodeIdleMax,
		Source: &reencoding{
			cmap: g.cmap, places: g.files.places,
			blocks: func(pool uint32) *blocks { return &blocks{client: client, cmap: g.cmap, pool: pool} },
		},
		Desk: desk, Registerer: cfg.Registerer, Logger: cfg.Logger,
	})
	interval := min(foldInterval, cfg.FoldAge)
	g.folder = rewrite.New(rewrite.Config{
		Name: "fold", Meta: cfg.Meta, BytesPerSecond: cfg.FoldRate, Interval: interval, IdleMax: interval,
		Source: folding, Desk: desk, Registerer: cfg.Registerer, Logger: cfg.Logger,
	})
	for _, r := range []*rewrite.Rewriter{g.reencoder, g.folder} {
		g.background.Go(func() { r.Run(bg) })
	}
	if cfg.Several && !keep {
		return g, vfs.Errorf(vfs.KindNotSupported, op, "several gateways need clients that outlive one")
	}
	if cfg.Several {
		cfg.Delegations = state.DelegateNone // nobody else is told to recall them
	}
	var store state.StateStore = newClientStore(cfg.Meta, cfg.Name)
	if keep {
		g.sessions = newSessionStore(cfg.Meta, cfg.Name, namespaces, cfg.Logger)
		store = g.sessions
	}
	group, err := g.oneServer(ctx)
	if err != nil {
		return g, vfs.Wrap(op, err)
	}
	var othersOpen func(context.Context, uint32, vfs.Ino) (bool, error)
	var refresh func(context.Context) error
	if cfg.Several {
		othersOpen, refresh = g.othersOpen, g.files.refresh
	}
	g.handsOver = group != nil
	peers, err := g.newRelay()
	if err != nil {
		return g, vfs.Wrap(op, err)
	}
	g.nfs, err = nfsserver.New(ctx, nfsserver.Config{
		Cluster: cfg.Cluster, Keys: keys, Exports: g.files.exports, Store: store,
		Delegations: cfg.Delegations, Limits: nfsserver.Limits{State: state.Limits{ReplyCache: cfg.ReplyCache}},
		Lease: cfg.Lease, Name: cfg.Name, Group: group, Release: cfg.Release, Logger: cfg.Logger, Registerer: cfg.Registerer,
		Valid:  func(fsid uint32) bool { return g.members.valid(g.files.shardOf(fsid)) },
		Others: cfg.Several, OthersOpen: othersOpen, Refresh: refresh, Peers: peers,
	})
	if err != nil {
		return g, vfs.Wrap(op, err)
	}
	if keep {
		g.members.all[clusterShard].retake = g.retake
		g.members.all[clusterShard].giveUp = g.nfs.GiveUp
	}
	g.serveRelay()
	g.members.watch()
	if cfg.Several {
		for _, shard := range namespaces {
			g.background.Go(func() { g.hearUnlocks(bg, shard) })
		}
	}
	g.files.begin(bg, cfg.MapInterval)
	return g, nil
}

// retake goes on with the clients that the gateway's new origin could take after the former one ended. The others ended meanwhile, or
// have gone to another gateway.
func (g *Gateway) retake(ctx context.Context) error {
	served, err := g.sessions.Retake(ctx)
	if err != nil {
		return err
	}
	return g.nfs.Serves(ctx, func(id state.ClientID) bool { return served[id] })
}

// serves reports whether this gateway serves an NFS client, whose sessions it keeps in the shards; an error while it has no valid registration: others may have taken its clients.
func (g *Gateway) serves(client uint64) (bool, error) {
	if !g.members.all[clusterShard].valid() {
		return false, vfs.Errorf(vfs.KindUnavailable, "gateway.serves", "this gateway's lease is over: whom it serves is not known")
	}
	return g.sessions.serves(state.ClientID(client)), nil
}

// clusterMap asks for the cluster map, unless it is still the version that is known.
func (g *Gateway) clusterMap(ctx context.Context, known uint64) (*metapb.ClusterMapR, error) {
	r, err := g.cfg.Meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{KnownVersion: known}}})
	if err != nil {
		return nil, err
	}
	return r.GetClusterMap(), nil
}

func (g *Gateway) handleKeys(ctx context.Context) ([]handle.Key, error) {
	r, err := g.cfg.Meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Keys{Keys: &metapb.KeysQ{Kind: "handle"}}})
	if err != nil {
		return nil, err
	}
	var keys []handle.Key
	for _, k := range r.GetKeys().GetKeys() {
		if len(k.Secret) != handle.KeySize || k.Id > 0xffff {
			return nil, vfs.Errorf(vfs.KindCorrupt, "handle key", "key %d has %d bytes, want %d", k.Id, len(k.Secret), handle.KeySize)
		}
		key := handle.Key{ID: uint16(k.Id)}
		copy(key.Secret[:], k.Secret)
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, vfs.Errorf(vfs.KindNotFound, "handle key", "the cluster has none")
	}
	return keys, nil
}

// Serve answers NFS clients on ln until Stop; then it returns nil.
func (g *Gateway) Serve(ln net.Listener) error { return g.nfs.Serve(ln) }

// ServeV3 is Serve for the read-only NFSv3.
func (g *Gateway) ServeV3(ln net.Listener) error { return g.nfs.ServeV3(ln) }

// Exports are what it serves now.
func (g *Gateway) Exports() []export.Export {
	g.files.mu.Lock()
	defer g.files.mu.Unlock()
	return g.files.exports
}

// NFSState are the gauges of NFS client state.
func (g *Gateway) NFSState() state.Stats { return g.nfs.State() }

// Rewriting is what the background rewriters did, by name.
func (g *Gateway) Rewriting() map[string]rewrite.Stats {
	return map[string]rewrite.Stats{"reencode": g.reencoder.Stats(), "fold": g.folder.Stats()}
}

// Stop ends the gateway cleanly. When ctx ends first the rest is as after a
// crash: nothing acknowledged is lost.
func (g *Gateway) Stop(ctx context.Context) error {
	g.files.end()
	g.nfs.Prepare(ctx)
	err := g.nfs.Shutdown(ctx)
	told := false
	if g.handsOver { // they need not wait for what is to be flushed
		told = g.nfs.GiveUpAll(ctx)
	}
	g.relay.Close()
	for _, sv := range g.files.volumes() {
		err = errors.Join(err, sv.volume.Shutdown(ctx))
	}
	g.members.close()
	if g.cfg.Several {
		err = errors.Join(err, g.members.leave(ctx, told))
	}
	g.close()
	return err
}

// close ends what serves the volumes.
func (g *Gateway) close() {
	g.members.close()
	if g.reporter != nil {
		g.reporter.Close()
	}
	g.stop()
	g.background.Wait()
	g.cmap.close()
}

// abandon ends what a failed start has begun.
func (g *Gateway) abandon() {
	if g.files != nil {
		g.files.end()
		for _, sv := range g.files.volumes() {
			sv.volume.Abandon()
		}
	}
	g.relay.Close()
	g.close()
}
