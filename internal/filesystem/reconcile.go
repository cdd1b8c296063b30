package filesystem

import (
	"context"
	"log/slog"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// defaultEvery is how often the reconciler looks.
	defaultEvery = time.Second
	// stepTimeout bounds the steps of one file system.
	stepTimeout = 10 * time.Second
	// maxNoteEvery is how much of the time that a deleted file system was watched a change of leaders may lose, at most; noteParts
	// is into how many parts the time is divided if that is less.
	maxNoteEvery = time.Hour
	noteParts    = 16
)

// Options of a Reconciler. Leads and Meta are required.
type Options struct {
	Leads  func() bool // whether this process leads shard 0 and serves
	Meta   Meta
	Every  time.Duration        // between looks; default 1 s
	Mono   func() time.Duration // a monotonic clock; default: since the start
	Now    func() time.Time     // the wall clock; default time.Now
	Logger *slog.Logger
}

// Reconciler takes the steps that file systems need, while this process leads shard 0.
type Reconciler struct {
	o Options

	// Of one leadership.
	version uint64               // of the list that settled is about
	list    []*metapb.FileSystem // the newest list
	settled map[uint32]uint64    // versions of records that need nothing
	vigils  map[uint32]*vigil    // of deleted ones
	failed  map[uint32]string    // what was logged of one
}

// vigil is how long this and earlier leaders have seen a file system deleted.
type vigil struct {
	deleted time.Time     // when: another time is another deletion
	seen    time.Duration // in all
	noted   time.Duration // of it, in the record
	last    time.Duration // when the leader looked, by its monotonic clock
}

// New makes a reconciler; Run it.
func New(o Options) *Reconciler {
	if o.Every <= 0 {
		o.Every = defaultEvery
	}
	if o.Mono == nil {
		began := time.Now()
		o.Mono = func() time.Duration { return time.Since(began) }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Reconciler{o: o}
	r.reset()
	return r
}

func (r *Reconciler) reset() {
	r.version, r.list = 0, nil
	r.settled, r.vigils, r.failed = map[uint32]uint64{}, map[uint32]*vigil{}, map[uint32]string{}
}

// Run works until ctx ends.
func (r *Reconciler) Run(ctx context.Context) {
	tick := time.NewTicker(r.o.Every)
	defer tick.Stop()
	for {
		if r.o.Leads() {
			r.Pass(ctx)
		} else {
			r.reset()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Pass looks once at all file systems and does what is due. Run calls it; it is not for use beside that.
func (r *Reconciler) Pass(ctx context.Context) {
	lctx, cancel := context.WithTimeout(ctx, stepTimeout)
	q := &metapb.FileSystemsQ{KnownVersion: r.version}
	res, err := r.o.Meta.Query(lctx, clusterShard, &metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: q}})
	cancel()
	r.complain(ctx, 0, err)
	if err != nil {
		return
	}
	if l := res.GetFileSystems(); !l.GetUnchanged() {
		r.version, r.list = l.GetVersion(), l.GetFileSystems()
		r.forget()
	}
	for _, fs := range r.list {
		if r.settled[fs.Id] == fs.Version+1 || ctx.Err() != nil || !r.o.Leads() {
			continue
		}
		sctx, cancel := context.WithTimeout(ctx, stepTimeout)
		err := r.look(sctx, fs)
		cancel()
		if vfs.KindOf(err) == vfs.KindChanged {
			err = nil // the next look is at what it is then
			r.version = 0
		}
		r.complain(ctx, fs.Id, err)
	}
}

// forget drops what is remembered of file systems that are gone.
func (r *Reconciler) forget() {
	there := map[uint32]bool{0: true}
	for _, fs := range r.list {
		there[fs.Id] = true
	}
	for id := range r.settled {
		if !there[id] {
			delete(r.settled, id)
		}
	}
	for id := range r.failed {
		if !there[id] {
			delete(r.failed, id)
		}
	}
	for id := range r.vigils {
		if !there[id] {
			delete(r.vigils, id)
		}
	}
}

// complain logs an error that is not the one logged last.
func (r *Reconciler) complain(ctx context.Context, fs uint32, err error) {
	text := ""
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		text = err.Error()
	}
	if text != r.failed[fs] && text != "" {
		r.o.Logger.Warn("a file system is not looked after; it will be tried again", "fs", fs, "err", err)
	}
	r.failed[fs] = text
}

// look does what is due of one file system.
func (r *Reconciler) look(ctx context.Context, fs *metapb.FileSystem) error {
	if fs.State != metapb.FileSystemState_FS_DELETED {
		delete(r.vigils, fs.Id)
	}
	switch fs.State {
	case metapb.FileSystemState_FS_CREATING:
		r.version = 0 // it is active soon
		return step(ctx, r.o.Meta, fs)
	case metapb.FileSystemState_FS_ACTIVE:
		if fs.Version == 0 || fs.Kind == Local {
			break
		}
		ns, err := namespace(ctx, r.o.Meta, fs)
		if err != nil {
			return err
		}
		if ns.GetLimitsVersion() < fs.Version {
			if err := limit(ctx, r.o.Meta, fs); err != nil {
				return err
			}
		}
	case metapb.FileSystemState_FS_DELETED:
		return r.watch(ctx, fs)
	case metapb.FileSystemState_FS_PURGING:
		done, err := purge(ctx, r.o.Meta, fs)
		if done {
			r.o.Logger.Info("a file system is gone", "fs", fs.Id, "name", fs.Name)
			r.version = 0
		}
		return err
	}
	r.settled[fs.Id] = fs.Version + 1
	return nil
}

// watch counts how long a file system has been deleted, and ends it when that is long enough.
func (r *Reconciler) watch(ctx context.Context, fs *metapb.FileSystem) error {
	now := r.o.Mono()
	v := r.vigils[fs.Id]
	if at := timeOf(fs.Deleted); v == nil || !v.deleted.Equal(at) {
		noted := time.Duration(fs.WaitedSeconds) * time.Second
		v = &vigil{deleted: at, seen: noted, noted: noted, last: now}
		r.vigils[fs.Id] = v
	}
	v.seen, v.last = v.seen+now-v.last, now
	keep := time.Duration(fs.KeepSeconds) * time.Second
	next := fs.CloneVT()
	next.WaitedSeconds = uint64(v.seen / time.Second)
	switch {
	case v.seen >= keep && !r.o.Now().Before(timeOf(fs.PurgeAfter)):
		next.State = metapb.FileSystemState_FS_PURGING
		next.Deleted, next.PurgeAfter, next.KeepSeconds, next.WaitedSeconds = nil, nil, 0, 0
		r.o.Logger.Warn("a deleted file system was kept long enough and ends", "fs", fs.Id, "name", fs.Name, "kept", v.seen)
	case v.seen < keep && v.seen-v.noted >= min(max(keep/noteParts, r.o.Every), maxNoteEvery) && next.WaitedSeconds > fs.WaitedSeconds:
		v.noted = v.seen
	default:
		return nil
	}
	r.version = 0
	return vfs.Wrap("keep deleted file system", put(ctx, r.o.Meta, next, fs.State, fs.Version))
}
