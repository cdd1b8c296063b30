package upkeep

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/background"
	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/blockstore/budget"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/vfs"
)

// Defaults of Options.
const (
	DefaultCollectInterval = time.Hour
	DefaultCheckInterval   = 6 * time.Hour
	DefaultRetry           = time.Minute
	DefaultMapInterval     = 10 * time.Second
	DefaultScrubPeriod     = 14 * 24 * time.Hour
	DefaultWorkers         = 16
	// DefaultPatience is how long surveys and repair wait for metadata that does not answer before they go on by themselves.
	DefaultPatience = background.DefaultPatience
)

const (
	// inFlight bounds the bytes of shards that are read and written for rebuilds at once.
	inFlight = 16 << 20
	// retrySoon is how long after an incomplete survey the next one is made; each further one in a row waits twice as long, up to Options.Retry.
	// What is pending is live or dead in a moment, mostly.
	retrySoon = time.Second
	// Reads for repair wait their turn at other stores. They are given up, and made good by more reads, late: when a peer is gone, not when it is busy.
	repairFetch    = time.Minute
	repairHedgeMin = 5 * time.Second
	repairHedgeMax = 20 * time.Second
)

// queueMax bounds each of the queues of reports and hints.
const queueMax = 1 << 16

// Store is the store that is kept. *store.Store is one.
type Store interface {
	Info() store.Info
	List(ctx context.Context, pg uint32, after *segment.Key, limit int) ([]store.Entry, bool, error)
	Get(ctx context.Context, k segment.Key, off, n int) (store.Range, error)
	Stat(ctx context.Context, k segment.Key) (store.Entry, segment.Owner, error)
	Put(ctx context.Context, p *store.Put) error
	Delete(ctx context.Context, keys []segment.Key) (int, error)
	Fence(ctx context.Context, epochs []segment.Epoch) error
	Adopt(incarnation uint64) error
}

// Options configures a Keeper. Store, ID, Meta and Dial have no default.
type Options struct {
	Store Store
	ID    uint32 // of the store in the cluster map, and its disk number at its block server
	Meta  Metadata
	// Dial makes a way to another block server, as a peer of role block with the name that this store's node has in the map.
	Dial func(node, address string) Conn

	CollectInterval time.Duration // between passes of the collector
	CheckInterval   time.Duration // between surveys of all groups
	Retry           time.Duration // until what was not complete is tried again
	MapInterval     time.Duration // between looks at the map
	Scrub           Scrub         // nil: there is none
	ScrubPeriod     time.Duration // of a pass over all shards

	Workers int // blocks rebuilt at once
	// Budget is the disk's, as the store and its server have it: repair and the scrub take what clients leave. Nil: there is no limit.
	Budget *budget.Budget

	// Leader lets surveys, repair and scrub begin; nil: they need no permission.
	Leader   background.Leader
	Patience time.Duration // without the metadata's leader; 0: DefaultPatience

	Logger  *slog.Logger
	Metrics *Metrics
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.CollectInterval, DefaultCollectInterval}, {&o.CheckInterval, DefaultCheckInterval}, {&o.Retry, DefaultRetry},
		{&o.MapInterval, DefaultMapInterval}, {&o.ScrubPeriod, DefaultScrubPeriod},
	} {
		if *d.v <= 0 {
			*d.v = d.def
		}
	}
	if o.Patience <= 0 {
		o.Patience = DefaultPatience
	}
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil, nil)
	}
	return o
}

// Keeper does the background work of one store.
type Keeper struct {
	o      Options
	log    *slog.Logger
	peers  *peers
	stripe *stripe.Client
	// reporter tells other stores of shards of theirs that a repair found bad.
	reporter *stripe.Reporter
	desk     *background.Desk // nil: nobody is asked

	cmap       atomic.Pointer[clusterMap]
	refreshing sync.Mutex

	// One pass of each kind at a time.
	collecting, healing sync.Mutex

	mu     sync.Mutex           // guards the following
	marked map[uint32]struct{}  // groups to survey
	again  map[uint32]again     // groups to survey later
	left   map[uint32]struct{}  // groups of which this store has left a slot, and has not emptied it; see left.go
	silent map[uint16]time.Time // shards that are not asked before then
	status status               // what StatusJSON shows
	groups map[uint32]*GroupStatus
	heard  time.Time // when the map was read last

	suspects *queue        // shards to check and rebuild
	hints    *queue        // blocks that may be dead
	accepted chan struct{} // the store has accepted another incarnation of the metadata

	cancel context.CancelFunc // of the loops; nil before Start
	wg     sync.WaitGroup
}

var _ server.Upkeep = (*Keeper)(nil)

// New makes a Keeper. It does nothing by itself before Start. Close ends it, started or not.
func New(o Options) (*Keeper, error) {
	if o.Store == nil || o.Meta == nil || o.Dial == nil || o.ID == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, "upkeep.new", "a store, its id, the metadata and a way to other nodes are needed")
	}
	o = o.withDefaults()
	k := &Keeper{
		o: o, log: o.Logger,
		peers:  newPeers(o.Dial),
		marked: map[uint32]struct{}{}, again: map[uint32]again{}, left: map[uint32]struct{}{}, silent: map[uint16]time.Time{}, groups: map[uint32]*GroupStatus{},
		suspects: newQueue(), hints: newQueue(), accepted: make(chan struct{}, 1),
	}
	if o.Leader != nil {
		d := background.Options{Leader: o.Leader, Shard: clusterShard, Part: fmt.Sprintf("store %d", o.ID), Logger: o.Logger}
		d.Patience[ledger.Survey], d.Patience[ledger.Repair], d.Patience[ledger.Scrub] = o.Patience, o.Patience, -1
		k.desk = background.New(d)
	}
	k.reporter = stripe.NewReporter(newest{k}, o.Logger)
	k.stripe = stripe.New(stripe.Options{
		Logger: o.Logger, OnBad: k.reporter.Report, Background: true,
		FetchTimeout: repairFetch, HedgeMin: repairHedgeMin, HedgeMax: repairHedgeMax,
	})
	return k, nil
}

// Start begins the background work. Close ends it.
func (k *Keeper) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	k.cancel = cancel
	if k.desk != nil {
		k.wg.Go(func() { k.desk.Run(ctx) })
	}
	k.wg.Go(func() { k.watch(ctx) })
	k.wg.Go(func() { k.healer(ctx) })
	k.wg.Go(func() { k.collector(ctx) })
	if k.o.Scrub != nil {
		k.wg.Go(func() { k.scrubber(ctx) })
	}
}

// Close ends the work, wherever it is, and the connections.
func (k *Keeper) Close() {
	if k.cancel != nil {
		k.cancel()
	}
	k.wg.Wait()
	k.reporter.Close()
	k.peers.close()
}

// writable is why nothing can be deleted or repaired, because the store takes no writes: its disk failed or is
// read-only. It is read, and scrubbed, all the same.
func (k *Keeper) writable() error {
	if i := k.o.Store.Info(); !i.Writable && i.Failure != "" {
		kind := vfs.KindIO
		if i.ReadOnly {
			kind = vfs.KindReadOnly
		}
		return vfs.Errorf(kind, "upkeep", "nothing is deleted or repaired: %s", i.Failure)
	}
	return nil
}

// complain logs why work stopped: once for each cause, if the store takes no writes.
func (k *Keeper) complain(what string, err error, last *string) {
	if k.writable() != nil {
		if *last == err.Error() {
			return
		}
	}
	*last = err.Error()
	k.log.Warn("upkeep: "+what, "store", k.o.ID, "err", err)
}

// watch follows the map.
func (k *Keeper) watch(ctx context.Context) {
	t := time.NewTicker(k.o.MapInterval)
	defer t.Stop()
	for {
		if _, err := k.refresh(ctx); err != nil && ctx.Err() == nil {
			k.log.Debug("upkeep: the cluster map cannot be read", "err", err)
		} else if err := k.accept(ctx); err != nil && ctx.Err() == nil {
			k.log.Debug("upkeep: whether deletion is allowed is not known", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// healer surveys and repairs what is marked.
func (k *Keeper) healer(ctx context.Context) {
	retry, soon, check := time.NewTicker(k.o.Retry), time.NewTicker(min(retrySoon, k.o.Retry)), time.NewTicker(k.o.CheckInterval)
	defer retry.Stop()
	defer soon.Stop()
	defer check.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.suspects.wake:
		case <-retry.C:
			k.suspects.restore()
		case <-soon.C:
			if !k.repeat(time.Now()) {
				continue
			}
		case <-check.C:
			k.markAll()
		}
		if err := k.Heal(ctx); err != nil && ctx.Err() == nil {
			k.complain("repair stopped, it will be tried again", err, &last)
		}
	}
}

// collector deletes what is dead.
func (k *Keeper) collector(ctx context.Context) {
	t, retry := time.NewTicker(k.o.CollectInterval), time.NewTicker(k.o.Retry)
	defer t.Stop()
	defer retry.Stop()
	last := ""
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-k.hints.wake:
			_, err = k.CollectHinted(ctx)
		case <-retry.C:
			_, err = k.collectLeft(ctx)
		case <-k.accepted:
			_, err = k.Collect(ctx)
		case <-t.C:
			_, err = k.Collect(ctx)
		}
		if err != nil && ctx.Err() == nil {
			k.complain("collection stopped, nothing is lost by that; it will be tried again", err, &last)
		}
	}
}

// mark has a group surveyed.
func (k *Keeper) mark(pg uint32) {
	k.mu.Lock()
	k.marked[pg] = struct{}{}
	k.mu.Unlock()
	k.suspects.ring()
}

func (k *Keeper) markAll() {
	if m := k.clusterMap(); m != nil {
		for id, g := range m.groups {
			if g.slotOf(k.o.ID) >= 0 {
				k.mark(id)
			}
		}
	}
}

// again is a group that was not complete.
type again struct {
	tries int // in a row
	at    time.Time
}

// repeat marks what was put off until now, and reports whether there is any.
func (k *Keeper) repeat(now time.Time) (some bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for pg, a := range k.again {
		if !a.at.IsZero() && !now.Before(a.at) {
			k.marked[pg] = struct{}{}
			some = true
			k.again[pg] = again{tries: a.tries} // remembered until it is complete
		}
	}
	return some
}

func (k *Keeper) putOff(pg uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a := k.again[pg]
	k.again[pg] = again{tries: a.tries + 1, at: time.Now().Add(min(retrySoon<<min(a.tries, 16), k.o.Retry))}
}

// whole forgets that a group was put off.
func (k *Keeper) whole(pg uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.again, pg)
}

// Report implements server.Upkeep: shards that may be bad or missing are checked.
func (k *Keeper) Report(keys []segment.Key) { k.suspects.add(keys) }

// Hint implements server.Upkeep: blocks that may be dead are asked for.
func (k *Keeper) Hint(keys []segment.Key) { k.hints.add(keys) }
