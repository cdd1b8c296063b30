package stripe

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/placement"
)

const (
	// reportQueue bounds the reports that wait; more are dropped, for the next read of the block makes another.
	reportQueue = 1024
	// reportMemory bounds the reports that are remembered, reportAgain is how soon the same one is sent again.
	reportMemory = 4096
	reportAgain  = time.Minute
	// reportBatch is how many shards are reported in one call.
	reportBatch   = 256
	reportTimeout = 5 * time.Second
)

// Reporter tells stores which of their shards a read found bad or missing. They check for themselves and
// repair what really is. Its Report is what Options.OnBad wants.
type Reporter struct {
	m   Map
	log *slog.Logger
	in  chan BadShard

	stop context.CancelFunc
	done chan struct{}
	// sent is when a shard was reported. It belongs to the goroutine.
	sent map[reported]time.Time

	mu     sync.Mutex
	closed bool
}

type reported struct {
	target placement.Target
	key    segment.Key
}

// NewReporter makes a Reporter that finds nodes by m. Close ends it.
func NewReporter(m Map, log *slog.Logger) *Reporter {
	ctx, stop := context.WithCancel(context.Background())
	r := &Reporter{m: m, log: log, in: make(chan BadShard, reportQueue), stop: stop, done: make(chan struct{}), sent: map[reported]time.Time{}}
	go func() {
		defer close(r.done)
		r.run(ctx)
	}()
	return r
}

// Report passes on a report. It does not block.
func (r *Reporter) Report(b BadShard) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	select {
	case r.in <- b:
	default:
	}
}

// Close ends the Reporter; what waits is dropped.
func (r *Reporter) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	<-r.done
}

func (r *Reporter) run(ctx context.Context) {
	for {
		var first BadShard
		select {
		case <-ctx.Done():
			return
		case first = <-r.in:
		}
		batch := map[placement.Target][]segment.Key{}
		r.add(batch, first)
		for n := 1; n < reportBatch; n++ {
			select {
			case b := <-r.in:
				r.add(batch, b)
				continue
			default:
			}
			break
		}
		for t, keys := range batch {
			if err := r.send(ctx, t, keys); err != nil && ctx.Err() == nil {
				r.log.Debug("bad shards could not be reported", "target", t, "err", err)
			}
		}
	}
}

func (r *Reporter) add(batch map[placement.Target][]segment.Key, b BadShard) {
	is := reported{b.Target, segment.Key{PG: b.Block.PG, Block: b.Block.ID, Shard: uint8(b.Shard)}}
	now := time.Now()
	if at, ok := r.sent[is]; ok && now.Sub(at) < reportAgain {
		return
	}
	if len(r.sent) >= reportMemory {
		clear(r.sent)
	}
	r.sent[is] = now
	batch[b.Target] = append(batch[b.Target], is.key)
}

func (r *Reporter) send(ctx context.Context, t placement.Target, keys []segment.Key) error {
	c, err := r.m.Caller(t.Node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	req := blockstore.DiskRequest{Disk: t.Disk}
	reply, err := c.Call(ctx, blockstore.OpReport, req.Append(nil), net.Buffers{segment.AppendKeys(nil, keys)}, nil)
	reply.Release()
	return err
}
