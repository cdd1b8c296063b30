package rewrite

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rackfs/rackfs/background"
	"github.com/rackfs/rackfs/volume"
)

// retryMax is how rarely it is tried again after failures.
const retryMax = 2 * time.Minute

// Source finds what to move.
type Source interface {
	// Pending says what there is to do: "" nothing, else another string whenever that changed. It is cheap.
	Pending() string
	// Pass moves what there is now. It ends at the first error that is not about one file.
	Pass(ctx context.Context, m *Mover) error
}

// Config of a Rewriter.
type Config struct {
	Name           string // of the source: metrics are rackfs_NAME_*
	Source         Source
	Meta           volume.Meta
	BytesPerSecond float64
	Interval       time.Duration // between passes
	// Desk asks the leader of a shard for permission; nil: nobody is asked.
	Desk func(shard uint16) *background.Desk
	// IdleMax is how rarely a pass is made when passes find nothing although there is something pending.
	IdleMax    time.Duration
	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger
}

// Rewriter works on one source.
type Rewriter struct {
	cfg   Config
	mover Mover
	stats counters
}

// Stats is what was done since the start.
type Stats struct {
	Files        uint64 `json:"files"`         // a file that was come back to later counts again
	Blocks       uint64 `json:"blocks"`        // new ones that files use
	Bytes        uint64 `json:"bytes"`         // of files in them
	RefusedParts uint64 `json:"refused_parts"` // that were written meanwhile, whole or in part
	Failures     uint64 `json:"failures"`      // passes that ended early
	UnitsKept    uint64 `json:"units_kept"`    // ranges of ids whose return was not answered
}

type counters struct{ files, blocks, bytes, refused, failures, unreturned atomic.Uint64 }

// New makes a rewriter; Run it.
func New(cfg Config) *Rewriter {
	r := &Rewriter{cfg: cfg}
	r.mover = Mover{meta: cfg.Meta, rate: cfg.BytesPerSecond, stats: &r.stats, units: make(map[uint16]*unit), desk: cfg.Desk}
	if cfg.Registerer != nil {
		for _, c := range []struct {
			name, help string
			v          *atomic.Uint64
		}{
			{"files_total", "Files of which something was moved; one that was come back to later counts again.", &r.stats.files},
			{"blocks_total", "New blocks that files use.", &r.stats.blocks},
			{"bytes_total", "Bytes of files that were moved to new blocks.", &r.stats.bytes},
			{"refused_parts_total", "Extents that were written while they were moved: the write won.", &r.stats.refused},
			{"failures_total", "Passes that ended early.", &r.stats.failures},
		} {
			cfg.Registerer.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "rackfs_" + cfg.Name + "_" + c.name, Help: c.help},
				func() float64 { return float64(c.v.Load()) }))
		}
	}
	return r
}

// Stats is what was done until now.
func (r *Rewriter) Stats() Stats {
	s := &r.stats
	return Stats{
		Files: s.files.Load(), Blocks: s.blocks.Load(), Bytes: s.bytes.Load(), RefusedParts: s.refused.Load(),
		Failures: s.failures.Load(), UnitsKept: s.unreturned.Load(),
	}
}

// Run works until ctx ends.
func (r *Rewriter) Run(ctx context.Context) {
	wait, last := r.cfg.Interval, ""
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		pending := r.cfg.Source.Pending()
		if pending == "" {
			wait, last = r.cfg.Interval, ""
			continue
		}
		n, err := r.Pass(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.cfg.Logger.Warn("rewriting waits", "what", r.cfg.Name, "blocks", n, "err", err)
			wait = min(2*wait, retryMax)
		case n > 0 || pending != last:
			wait = r.cfg.Interval
		default:
			wait = min(2*wait, r.cfg.IdleMax)
		}
		if n > 0 {
			r.cfg.Logger.Debug("files were rewritten", "what", r.cfg.Name, "blocks", n)
		}
		last = pending
	}
}

// Pass does what there is to do once and returns how many new blocks there are. Run calls it; it is not for use beside that.
func (r *Rewriter) Pass(ctx context.Context) (blocks uint64, err error) {
	before := r.stats.blocks.Load()
	err = r.cfg.Source.Pass(ctx, &r.mover)
	if err != nil && ctx.Err() == nil {
		r.stats.failures.Add(1)
	}
	for shard := range r.mover.units {
		r.mover.giveBack(ctx, shard)
	}
	return r.stats.blocks.Load() - before, err
}
