package stripe

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
)

// Defaults of Options.
const (
	DefaultWriteAttempts  = 4
	DefaultAttemptTimeout = 10 * time.Second
	DefaultFetchTimeout   = 10 * time.Second
	DefaultBackoffMin     = 250 * time.Millisecond
	DefaultBackoffMax     = 15 * time.Second
	DefaultHedgeMin       = 20 * time.Millisecond
	DefaultHedgeMax       = 2 * time.Second
	DefaultProbeTimeout   = 2 * time.Second
	DefaultPatienceMin    = 500 * time.Millisecond
	// DefaultPatienceAlone is longer than it takes the cluster's leader to notice that a store does not
	// answer (1 s), and to open groups without it.
	DefaultPatienceAlone = 3 * time.Second
)

// Caller makes calls to one node. *wire.Client is one. It uses neither its context nor its arguments after it returned: they are
// used again.
type Caller interface {
	Call(ctx context.Context, op wire.Op, meta []byte, payload net.Buffers, into []byte) (*wire.Reply, error)
}

// Map is what a client knows of the cluster. What it returns is not modified by anybody.
type Map interface {
	// PG returns a placement group in its newest known epoch.
	PG(id uint32) (*placement.PG, bool)
	// Writable returns the groups of a pool that take new blocks, those with most data shards first.
	Writable(pool uint32) []*placement.PG
	// Caller returns the way to a node.
	Caller(node string) (Caller, error)
}

// Block says where a block is.
type Block struct {
	PG  uint32
	ID  uint64
	Len uint32
}

// BadShard is a shard that a read found damaged, or missing (Err is KindNotFound) although it could make it good.
type BadShard struct {
	Block  Block
	Shard  int
	Target placement.Target
	Err    error
}

// Options configures a Client. Zero values mean the defaults.
type Options struct {
	WriteAttempts  int           // placement groups tried for a block
	AttemptTimeout time.Duration // for all shards of one attempt
	FetchTimeout   time.Duration // for one shard's part of a read
	// PatienceMin is the least time that an attempt to write waits for a slow target before another group is
	// tried, PatienceAlone that when there is no other one.
	PatienceMin, PatienceAlone time.Duration
	// BackoffMin and BackoffMax bound how long a target is avoided after a failure.
	BackoffMin, BackoffMax time.Duration
	// HedgeMin and HedgeMax bound how long a read waits for a shard before
	// it is rebuilt on the side.
	HedgeMin, HedgeMax time.Duration
	// Probed says that Probe is called regularly. Writes then leave a target that failed alone
	// until it answered a probe; otherwise one write at a time tries it.
	Probed       bool
	ProbeTimeout time.Duration

	// Background says that reads are background work: stores let clients go first.
	Background bool

	// OnBad is told of damaged and missing shards. It must not block.
	OnBad   func(BadShard)
	Logger  *slog.Logger
	Metrics *Metrics
}

func (o Options) withDefaults() Options {
	if o.WriteAttempts <= 0 {
		o.WriteAttempts = DefaultWriteAttempts
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.AttemptTimeout, DefaultAttemptTimeout}, {&o.FetchTimeout, DefaultFetchTimeout},
		{&o.BackoffMin, DefaultBackoffMin}, {&o.BackoffMax, DefaultBackoffMax},
		{&o.HedgeMin, DefaultHedgeMin}, {&o.HedgeMax, DefaultHedgeMax},
		{&o.ProbeTimeout, DefaultProbeTimeout}, {&o.PatienceMin, DefaultPatienceMin}, {&o.PatienceAlone, DefaultPatienceAlone},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if o.OnBad == nil {
		o.OnBad = func(BadShard) {}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return o
}

// Metrics are the collectors of a Client.
type Metrics struct {
	Writes, WriteBytes, WriteRetries, WritesFailed prometheus.Counter
	WritesSlow                                     prometheus.Counter
	Reads, ReadBytes                               prometheus.Counter
	Rebuilds, Hedges, HedgesWon, BadShards, Nearer prometheus.Counter
}

// NewMetrics makes the collectors and registers them unless r is nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	var all []prometheus.Collector
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "rackfs_stripe_" + name, Help: help})
		all = append(all, c)
		return c
	}
	m := &Metrics{
		Writes:       counter("writes_total", "Blocks written."),
		WriteBytes:   counter("write_bytes_total", "Bytes of blocks written, without parity."),
		WriteRetries: counter("write_retries_total", "Attempts abandoned for another placement group."),
		WritesSlow:   counter("writes_slow_total", "Attempts abandoned because a block server was much slower than usual."),
		WritesFailed: counter("writes_failed_total", "Blocks that no attempt could write."),
		Reads:        counter("reads_total", "Ranges of blocks read."),
		ReadBytes:    counter("read_bytes_total", "Bytes read."),
		Rebuilds:     counter("rebuilds_total", "Parts of shards rebuilt for a reader."),
		Hedges:       counter("hedges_total", "Rebuilds begun because a shard was slow."),
		HedgesWon:    counter("hedges_won_total", "Those that were ready before the shard."),
		Nearer:       counter("nearer_total", "Parts of data shards computed with a parity shard on a nearer node instead of fetched from a farther one."),
		BadShards:    counter("bad_shards_total", "Damaged shards met by reads."),
	}
	if r != nil {
		r.MustRegister(all...)
	}
	return m
}

// Write is a block to be written.
type Write struct {
	Pool  uint32
	Block uint64 // its id, never used before
	Owner blockstore.Owner
	// MinK is the least number of data shards of the group it goes to.
	MinK int
	// Data is the block's content. With a capacity of at least len(Data) +
	// blockstore.MaxPadding nothing of it is copied: zeros are then
	// written behind its end, up to the capacity.
	Data []byte
}
