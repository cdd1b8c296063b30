package devcluster

import (
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// DefaultLease is the NFS lease.
	DefaultLease = 30 * time.Second
	// DefaultGCGrace is how long blocks stay that no file uses any more. There is no backup here that could still need
	// them; a reader whose extents are older asks again.
	DefaultGCGrace = time.Minute
)

// Bounds of what one process runs.
const (
	maxVoters   = 7
	maxStores   = 64
	maxGateways = 8
)

// Config of a cluster. DataDir and NFSAddr are required.
type Config struct {
	DataDir  string
	NFSAddr  string // host:port; port 0: any
	NFS3Addr string // of the read-only NFSv3, "" for none
	HTTPAddr string // "" for none
	// APIAddr is where the HTTP API is served to the network; "" for nowhere. It is TLS but on loopback, with the certificate and key in files, if they are given.
	APIAddr, APICert, APIKey string

	// ImportAllow are networks, addresses and names of hosts that imports may come from besides public ones.
	ImportAllow []string

	LocalListen  string         // host:port of local volumes; "": there are none
	LocalClients []netip.Prefix // networks of workloads that may mount them besides this machine

	// The shape; zero means what the directory has, or the default for a new
	// one (3 voters, 6 stores, 4+2, raft-wal).
	Voters      int
	BlockStores int
	Profile     string
	LogStore    string // raft-wal or raft-boltdb

	Gateways    int            // that serve the same file systems; 0: one. The first listens on NFSAddr, the others on the ports after it
	Allow       []netip.Prefix // who may mount besides this machine
	RootSquash  bool
	Delegations string // which are given to NFS clients: read (default), write or none
	ReplyCache  uint64 // bytes of the slots of all NFS sessions; 0: the default
	// NoAtime: reading leaves times of access as they are; else they are kept as relatime does.
	NoAtime bool
	Lease   time.Duration // 0: DefaultLease
	GCGrace time.Duration // how long unused blocks stay; 0: DefaultGCGrace
	Encrypt bool          // block data between gateway and stores
	Quotas  []Quota       // limits to set; what is not named keeps its limits
	Exports []DirExport   // secured exports of directories
	// CollectInterval is between the passes in which a store deletes what is dead; 0: DefaultCollectInterval.
	CollectInterval time.Duration

	Logger *slog.Logger // nil: none

	gatewayGroup     func() string // the node group of the gateway; nil: none
	maxLevel         uint32        // of the metadata; 0: the newest
	metaLease        time.Duration // of the gateway; 0: the default
	linger           time.Duration // that files without names stay for a gateway that was ended; 0: the default
	retireInterval   time.Duration // between looks for groups to remove; 0: the default
	retryInterval    time.Duration // until a store surveys a group again that was not complete; 0: the default
	mapInterval      time.Duration // between a store's looks at the cluster map; 0: the default
	scrubPeriod      time.Duration // of a pass over a store's shards; 0: the default
	reencodeInterval time.Duration // between looks for blocks to re-encode; 0: the default
	pieceAge         time.Duration // after which the leader hands out what nobody folded; 0: the default
	budget           int64         // bytes per second of each store, of clients and background work; 0: the default
	work             ledger.Limits // of background work; zero: the defaults
	foldAge          time.Duration // after the last write of what is folded; 0: the default
	recheck          time.Duration // between looks whether who asked for a job may still do it; 0: the default
	noUpkeep         bool          // stores delete and repair nothing by themselves
}

var defaultShape = shape{Voters: 3, BlockStores: 6, Profile: "4+2", LogStore: string(raftmeta.WAL)}

func (c *Config) check() error {
	const op = "rackfs dev"
	bad := func(format string, args ...any) error { return vfs.Errorf(vfs.KindInvalid, op, format, args...) }
	if c.DataDir == "" {
		return bad("a data directory is required: --data DIR")
	}
	if c.Voters < 0 || c.Voters > maxVoters || (c.Voters != 0 && c.Voters%2 == 0) {
		return bad("--meta %d: use 1, 3, 5 or 7 voters (an even number survives no more failures than one less)", c.Voters)
	}
	if c.BlockStores < 0 || c.BlockStores > maxStores {
		return bad("--block-stores %d: use 1 to %d", c.BlockStores, maxStores)
	}
	if c.Gateways < 0 || c.Gateways > maxGateways {
		return bad("--gateways %d: use 1 to %d", c.Gateways, maxGateways)
	}
	if c.Lease != 0 && (c.Lease < time.Second || c.Lease > time.Hour) {
		return bad("--lease %v: use 1s to 1h", c.Lease)
	}
	if c.GCGrace != 0 && (c.GCGrace < time.Second || c.GCGrace > 30*24*time.Hour) {
		return bad("--gc-grace %v: use 1s to 720h", c.GCGrace)
	}
	if _, err := state.ParseDelegating(c.Delegations); err != nil {
		return err
	}
	if c.ReplyCache != 0 && (c.ReplyCache < state.MinReplyCache || c.ReplyCache > state.MaxReplyCache) {
		return bad("--reply-cache of %d bytes: use %d MiB to %d GiB", c.ReplyCache, state.MinReplyCache>>20, state.MaxReplyCache>>30)
	}
	switch raftmeta.Backend(c.LogStore) {
	case "", raftmeta.WAL, raftmeta.Bolt:
	default:
		return bad("--raft-log %q: use %s or %s", c.LogStore, raftmeta.WAL, raftmeta.Bolt)
	}
	profile, stores := c.Profile, c.BlockStores
	if profile != "" {
		p, err := placement.ParseProfile(profile)
		if err != nil {
			return err
		}
		if stores == 0 {
			stores = defaultShape.BlockStores
		}
		if p.Width() > stores {
			return bad("--profile %s needs %d block stores, one for each shard, but there are %d: add --block-stores %d or choose a smaller profile",
				profile, p.Width(), stores, p.Width())
		}
	}
	if _, _, err := net.SplitHostPort(c.NFSAddr); err != nil {
		return bad("--nfs %q: %w; write host:port", c.NFSAddr, err)
	}
	if _, _, err := net.SplitHostPort(c.NFS3Addr); c.NFS3Addr != "" && err != nil {
		return bad("--nfs3 %q: %w; write host:port", c.NFS3Addr, err)
	}
	return nil
}

func (c *Config) shape() shape {
	return shape{Voters: c.Voters, BlockStores: c.BlockStores, Profile: c.Profile, LogStore: c.LogStore}
}

// allowed are the networks that may mount: this machine by loopback and by the
// address that is listened on, and what was asked for.
func (c *Config) allowed() []netip.Prefix {
	out := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	if host, _, err := net.SplitHostPort(c.NFSAddr); err == nil {
		if ip, err := netip.ParseAddr(host); err == nil && !ip.IsUnspecified() && !ip.IsLoopback() {
			out = append(out, netip.PrefixFrom(ip.WithZone(""), ip.BitLen()))
		}
	}
	return append(out, c.Allow...)
}

func (c *Config) rules() (out []export.Rule) {
	squash := export.SquashNone
	if c.RootSquash {
		squash = export.SquashRoot
	}
	for _, p := range c.allowed() {
		out = append(out, export.Rule{Clients: p, Access: export.ReadWrite, Squash: squash, AnonUID: export.AnonID, AnonGID: export.AnonID})
	}
	return out
}
