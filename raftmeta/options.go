package raftmeta

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"slices"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/internal/replica"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// RPC operations on the metadata port. Bodies are messages of package metapb in
// the call's meta, answers of queries are in the payload.
const (
	OpPropose wire.Op = iota + 1 // ProposeRequest -> ProposeReply
	OpQuery                      // QueryRequest -> QueryReply (payload)
	OpTerm                       // TermRequest -> TermReply
	OpLeader                     // LeaderRequest -> LeaderReply
	OpInfo                       // LeaderRequest -> ShardInfoR of this replica, which may be behind
	OpRenew                      // RenewRequest -> RenewReply: a gateway lives
	OpReplica                    // LeaderRequest -> ReplicaReply: how this replica is
	OpMember                     // MemberRequest -> MemberReply: who votes; of the leader
	OpDiffer                     // DifferRequest -> DifferReply: the state of most voters is another
	OpWork                       // WorkRequest -> WorkReply: what a worker may do in the background; of the leader
	OpLevel                      // LevelRequest -> LevelReply: the feature level, and raising it; of the leader
	OpWish                       // WishRequest -> WishReply: have a file given back by who has it to itself; of the leader
	OpRecalls                    // RecallsRequest -> RecallsReply: what a gateway is to give back; of the leader
	OpPeers                      // PeersRequest -> PeersReply: who is connected at an address that moves; of the leader of shard 0
	OpUnlocks                    // UnlocksRequest -> UnlocksReply: which files have fewer locks; of the leader
	OpOpens                      // OpensRequest -> OpensReply: whether other gateways have a file open for reading; of the leader
)

// Backend names a log store.
type Backend = replica.Backend

// Log stores.
const (
	WAL  = replica.WAL
	Bolt = replica.Bolt
)

// DefaultOriginLease is how long a gateway that is not heard of keeps its leases.
const DefaultOriginLease = time.Minute

// DefaultGrace is how long a block stays readable after its end.
const DefaultGrace = 10 * time.Minute

// Resolver finds the network address of a node's metadata port.
type Resolver interface {
	Resolve(ctx context.Context, node string) (hostport string, err error)
}

// ResolverFunc is a Resolver.
type ResolverFunc func(ctx context.Context, node string) (string, error)

// Resolve implements Resolver.
func (f ResolverFunc) Resolve(ctx context.Context, node string) (string, error) { return f(ctx, node) }

// Timing is Raft's. Followers call an election when they hear nothing for
// between one and two heartbeat timeouts.
type Timing struct {
	Heartbeat   time.Duration // also the election timeout
	LeaderLease time.Duration // a leader that reaches no majority for so long steps down
	Commit      time.Duration // how long a follower may not know of a commit when nothing else is sent
}

// LAN is for voters in one data centre, and for voters on one busy machine.
var LAN = Timing{Heartbeat: time.Second, LeaderLease: 500 * time.Millisecond, Commit: 50 * time.Millisecond}

// Options configures a Server.
type Options struct {
	Dir      string       // made by Format
	Cluster  []byte       // the cluster that Dir has to be of; nil: any
	Listener net.Listener // the metadata port; the Server closes it
	Resolver Resolver

	// Security protects this server's port, and ClientSecurity connections to other voters.
	Security       wire.Security
	ClientSecurity func(node string) wire.Security

	// Shards are those of which this node has to have a replica; empty: those in Dir. One that Dir lacks
	// counts as lost.
	Shards []uint16
	// Nodes are all nodes with voters. If given, a replica that is lost, damaged or removed is replaced by a new one; see
	// the package comment. If empty, it stays as it is.
	Nodes []string
	// NodesFunc, if given, is asked for them instead, for they may change.
	NodesFunc func() []string
	// Voters is up to how many voters a shard gets from nodes that have none; the replicas of further nodes stay non-voters. It is
	// odd. 0: as many as there are Nodes.
	Voters int
	// Fates, if given, says which nodes leave or are gone, as a linearizable read of shard 0 has it; nodes that are not named stay. The leaders take
	// the votes away from them; see package members.
	Fates func(context.Context) (map[string]Fate, error)

	Clock      func() time.Time      // stamps commands that the server itself proposes; default time.Now
	Monotonic  func() time.Duration  // time that only runs forward, by which graces end; default: since the process began
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // default slog.Default()

	Log             Backend // refuse replicas with another; "": any
	WALSegmentBytes int     // raft-wal segments, preallocated per replica; default 64 MiB, at least 1 MiB
	Timing          Timing  // default LAN
	MaxLevel        uint32  // newest feature level to apply; 0: all this release knows
	Level           uint32  // to which leaders raise their shards by themselves, once every voter can; 0: only RaiseLevel does

	TrailingLogs      uint64        // entries kept behind a snapshot; default 100,000
	SnapshotThreshold uint64        // entries since the last snapshot that make a new one due; default 32,768
	SnapshotInterval  time.Duration // how often that is looked at; default 30 s
	RetainSnapshots   int           // default 1

	BlockCacheBytes  int64 // Pebble's blocks, for all replicas of the process; default 64 MiB
	RecordCacheBytes int64 // inodes and entries of directories, per replica; default 32 MiB
	MemTableBytes    int   // per replica; default 16 MiB

	// PurgeInterval is how often an idle leader looks for something to purge or to reap; default 1 s.
	PurgeInterval time.Duration
	// Grace is how long a block stays readable that no file uses any more: longer than any reader keeps extents, and than the
	// backup interval; default 10 min.
	Grace time.Duration
	// Lease is how long an origin keeps what it has without renewing; default 1 min. A gateway serves for two thirds of it.
	Lease time.Duration
	// Linger is how long files without names stay for a gateway that was ended and has not told which its clients have open for reading; default
	// twice ClientCourtesy: until that they come to another gateway, which makes what they use known.
	Linger time.Duration
	// ClientCourtesy is how long NFS clients keep what they have after the end of their gateway, for another one to take them over; default
	// Lease.
	ClientCourtesy time.Duration
	// PurgeKeysPerSecond and ReapBlocksPerSecond bound background work; defaults 100,000 and 10,000.
	PurgeKeysPerSecond  int
	ReapBlocksPerSecond int
	// Work are the limits of background work that leaders let others do; see package background/ledger.
	Work ledger.Limits
	// PieceAge is how long a chunk of a file must be unchanged before a leader hands it out to be folded; default 5 min: gateways do
	// that themselves after a minute. PiecePause is between pages of the scan that finds them; default 100 ms.
	PieceAge   time.Duration
	PiecePause time.Duration

	// OnDead, if set, is told of the blocks that a leader on this server reaped. It does not block.
	OnDead func([]*metapb.DeadBlock)
	// CheckInterval is how often a leader compares the voters' digests; default 10 s.
	CheckInterval time.Duration

	files vfile.FS // nil: the operating system's; what bbolt and Pebble write is there in any case

	// Layers that fail below what does not go through files; nil: none.
	pebbleFS   pvfs.FS
	wrapStable func(raft.StableStore) raft.StableStore

	raftProtocol mux.Protocol // the newest of Raft streams; 0: all that this release knows
}

func orDefault[T int | int64 | uint64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

func (o Options) withDefaults() Options {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Monotonic == nil {
		began := time.Now()
		o.Monotonic = func() time.Duration { return time.Since(began) }
	}
	o.files = orOS(o.files)
	o.raftProtocol = cmp.Or(o.raftProtocol, mux.Newest)
	if o.NodesFunc == nil {
		nodes := slices.Clone(o.Nodes)
		o.NodesFunc = func() []string { return nodes }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.MaxLevel == 0 {
		o.MaxLevel = fsm.Level
	}
	o.WALSegmentBytes = orDefault(o.WALSegmentBytes, replica.DefaultSegmentBytes)
	o.Timing.Heartbeat = orDefault(o.Timing.Heartbeat, LAN.Heartbeat)
	o.Timing.LeaderLease = min(orDefault(o.Timing.LeaderLease, LAN.LeaderLease), o.Timing.Heartbeat)
	o.Timing.Commit = orDefault(o.Timing.Commit, LAN.Commit)
	o.TrailingLogs = orDefault(o.TrailingLogs, 100_000)
	o.SnapshotThreshold = orDefault(o.SnapshotThreshold, 32_768)
	o.SnapshotInterval = orDefault(o.SnapshotInterval, 30*time.Second)
	o.RetainSnapshots = orDefault(o.RetainSnapshots, 1)
	o.BlockCacheBytes = orDefault(o.BlockCacheBytes, 64<<20)
	o.RecordCacheBytes = orDefault(o.RecordCacheBytes, 32<<20)
	o.PurgeInterval = orDefault(o.PurgeInterval, time.Second)
	o.Lease = orDefault(o.Lease, DefaultOriginLease)
	o.ClientCourtesy = orDefault(o.ClientCourtesy, o.Lease)
	o.Linger = orDefault(o.Linger, 2*o.ClientCourtesy)
	o.Grace = orDefault(o.Grace, DefaultGrace)
	o.PurgeKeysPerSecond = orDefault(o.PurgeKeysPerSecond, 100_000)
	o.ReapBlocksPerSecond = orDefault(o.ReapBlocksPerSecond, 10_000)
	o.Work = o.Work.WithDefaults()
	o.PieceAge = orDefault(o.PieceAge, 5*time.Minute)
	o.PiecePause = orDefault(o.PiecePause, 100*time.Millisecond)
	o.CheckInterval = orDefault(o.CheckInterval, 10*time.Second)
	return o
}
