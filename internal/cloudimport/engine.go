package cloudimport

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/jobs"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// DefaultParallel is how many objects a gateway reads at a time, of all imports together.
	DefaultParallel = 8
	// MaxParallel bounds what an operator may configure: each needs a few MiB.
	MaxParallel = 64
	// Jobs is how many imports a gateway runs at a time.
	Jobs = 2
)

// Options of an Engine.
type Options struct {
	Reach          Reach
	Parallel       int   // objects that are read at a time, of all imports; default DefaultParallel
	BytesPerSecond int64 // of all imports; 0: no limit
	// Key is the key that secrets are sealed with; it may ask another node.
	Key      func(context.Context) ([]byte, error)
	Patience time.Duration // for an endpoint that sends nothing; default DefaultPatience
	Pause    time.Duration // before something is tried again at first; default 200 ms
	Logger   *slog.Logger
}

// Engine imports, for one gateway.
type Engine struct {
	o     Options
	room  chan struct{} // a place for each object that is read
	limit *rate.Limiter
}

// New makes one.
func New(o Options) *Engine {
	o.Pause = cmp.Or(o.Pause, defaultPause)
	o.Parallel, o.Patience = min(cmp.Or(o.Parallel, DefaultParallel), MaxParallel), cmp.Or(o.Patience, DefaultPatience)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Reach.log = o.Logger
	e := &Engine{o: o, room: make(chan struct{}, o.Parallel), limit: rate.NewLimiter(rate.Inf, rateBurst)}
	if o.BytesPerSecond > 0 {
		e.limit.SetLimit(rate.Limit(o.BytesPerSecond))
	}
	return e
}

// Spec is what a job of this kind is to do. It is in the job's record.
type Spec struct {
	Source   Source   `json:"source"`
	Conflict Conflict `json:"conflict"`
	DryRun   bool     `json:"dry_run,omitempty"`
	// NoETagCheck: the endpoint's ETags are not what the content is compared with.
	NoETagCheck bool `json:"no_etag_check,omitempty"`
}

// Prepare checks what somebody asks for, and completes it.
func (e *Engine) Prepare(s Spec, k *Secrets) (Spec, error) {
	var err error
	if s.Source, err = s.Source.Check(); err != nil {
		return Spec{}, err
	}
	if s.Conflict, err = ParseConflict(string(s.Conflict)); err != nil {
		return Spec{}, err
	}
	if err := k.Check(); err != nil {
		return Spec{}, err
	}
	return s, e.o.Reach.Permits(&s.Source)
}

// Seal puts secrets into the record of a job that is about to be made.
func (e *Engine) Seal(ctx context.Context, j *metapb.Job, k Secrets) error {
	key, err := e.o.Key(ctx)
	if err != nil {
		return vfs.Wrap("import", err)
	}
	j.Sealed, err = Seal(key, j, k)
	return err
}

// Report is the beginning of a job's report.
func (s *Spec) Report() *Report {
	return &Report{DryRun: s.DryRun, From: s.Source.Shown(), Conflict: string(s.Conflict)}
}

// encode writes JSON, without the escapes for HTML, which would make names longer.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // what is encoded here can be
	return b.Bytes()
}

// Journal keeps how far an import is. A jobs.Job is one.
type Journal interface {
	Record() *metapb.Job
	Report(jobs.Progress)
	Stand(p jobs.Progress, checkpoint, report []byte)
	Save(context.Context) error
}

// Target is where an import goes.
type Target struct {
	Tree *files.Tree
	// Origin is the gateway's at the file system's shard; 0 while it has none.
	Origin func() uint64
}

// Run does a job, from its checkpoint on.
func (e *Engine) Run(ctx context.Context, j Journal, t Target) error {
	const op = "import"
	rec := j.Record()
	var spec Spec
	if err := json.Unmarshal(rec.Spec, &spec); err != nil {
		return vfs.Errorf(vfs.KindCorrupt, op, "the job's spec: %w", err)
	}
	key, err := e.o.Key(ctx)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	secrets, err := Unseal(key, rec)
	if err != nil {
		return err
	}
	cp, err := readCheckpoint(rec.Checkpoint)
	if err != nil {
		return err
	}
	w, err := newWindow(cp)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	b, err := openBucket(ctx, spec.Source, secrets, &e.o.Reach, e.o.Patience, 2*e.o.Parallel+1)
	if err != nil {
		return err
	}
	defer b.close()
	r := &run{e: e, j: j, t: t, b: b, spec: spec, dest: files.Path(rec.Path), stop: stop, window: w, report: spec.Report(), before: j.Record()}
	if old := ReadReport(rec.Report); old != nil {
		r.report = old
	}
	return r.run(ctx)
}
