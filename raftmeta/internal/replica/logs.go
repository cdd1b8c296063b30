package replica

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	// DefaultSegmentBytes is the size of a raft-wal segment, preallocated.
	DefaultSegmentBytes = 64 << 20
	minSegmentBytes     = 1 << 20
	// boltLockTimeout bounds the wait for bbolt's own lock, which can only be
	// held by a process that ignores ours. Zero would wait for ever.
	boltLockTimeout = 2 * time.Second
	logCacheEntries = 512
)

// LogOptions configures the log of a replica.
type LogOptions struct {
	Backend         Backend  // what the configuration asks for; must be the directory's; "": whatever it is
	WALSegmentBytes int      // default DefaultSegmentBytes
	Files           vfile.FS // default the operating system's; bbolt's files are there in any case
	Logger          hclog.Logger

	// OnFail is called once, by who changes or reads the log, when a change failed, and all later ones will, or when
	// the log is damaged (KindCorrupt). It must not wait for Raft.
	OnFail func(error)

	// WrapStable, if set, puts a layer that fails between this package and the stable store, whose file is not among Files.
	WrapStable func(raft.StableStore) raft.StableStore
}

// Logs are the opened log and stable store of a replica.
type Logs struct {
	*raft.LogCache // not the interface: Raft has to see that raft-wal is a raft.MonotonicLogStore
	Stable         raft.StableStore
	closers        []io.Closer
	fault          fault
}

var _ raft.MonotonicLogStore = (*Logs)(nil)

// OpenLogs opens the log of the replica info, whose directory is dir.
func OpenLogs(dir string, info Info, o LogOptions) (*Logs, error) {
	return openLogs(dir, info, o, false)
}

// openLogs opens or, if fresh, makes the stores.
func openLogs(dir string, info Info, o LogOptions, fresh bool) (*Logs, error) {
	const op = "raftmeta.open"
	if o.Backend != "" && o.Backend != info.Log {
		return nil, vfs.Errorf(vfs.KindIncompatible, op, "%s holds a %s log, but %s is configured: a replica's backend cannot change; configure %s, or remove the replica and let a new one join", dir, info.Log, o.Backend, info.Log)
	}
	o.WALSegmentBytes = max(o.WALSegmentBytes, minSegmentBytes)
	if o.Files == nil {
		o.Files = vfile.OS{}
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	logFile := filepath.Join(dir, boltLogFile)
	if info.Log == WAL {
		logFile = filepath.Join(dir, walDir, "wal-meta.db")
	}
	stableFile := filepath.Join(dir, stableFile)
	if !fresh {
		for _, f := range []string{stableFile, logFile} {
			if err := settle(f); err != nil {
				return nil, vfs.Wrap(op, err)
			}
			err := checkBolt(f)
			if vfs.KindOf(err) == vfs.KindCorrupt {
				return nil, err
			}
			if err != nil {
				return nil, vfs.Errorf(vfs.KindCorrupt, op, "the replica in %s is damaged: remove its directory and let a new replica join: %w", dir, err)
			}
		}
	}
	l := &Logs{}
	fail := func(err error) (*Logs, error) {
		l.Close()
		return nil, vfs.Wrap(op, err)
	}
	// What a damaged store panics with is an error of opening it.
	opened := func(path string, open func() (closingStore, error)) (s closingStore, err error) {
		err = caught(path, func() error { s, err = open(); return err })
		if err != nil {
			return nil, corrupt(err)
		}
		l.closers = append(l.closers, s)
		return s, nil
	}
	bolt := func(path string) func() (closingStore, error) {
		return func() (closingStore, error) { return openBolt(path) }
	}
	s, err := opened(stableFile, bolt(stableFile))
	if err != nil {
		return fail(err)
	}
	votes := s.(raft.StableStore)
	if o.WrapStable != nil {
		votes = o.WrapStable(votes)
	}
	st := &stable{store: votes, all: info.Checked, fault: &l.fault}
	if err := st.check(); err != nil {
		return fail(err)
	}
	l.Stable = st
	var store raft.LogStore
	switch info.Log {
	case WAL:
		store, err = opened(filepath.Join(dir, walDir), func() (closingStore, error) { return openWAL(filepath.Join(dir, walDir), o, &l.fault) })
	case Bolt:
		store, err = opened(logFile, bolt(logFile))
	default:
		return fail(vfs.Errorf(vfs.KindIncompatible, op, "log backend %q is unknown to this release", info.Log))
	}
	if err != nil {
		return fail(err)
	}
	t, err := openTail(o.Files, dir, info.Checked && !fresh)
	if err != nil {
		return fail(err)
	}
	l.closers = append(l.closers, t)
	c := &checked{store: store, all: info.Checked, tail: t, damaged: l.fault.damaged, monotone: info.Log == WAL}
	last, err := c.LastIndex()
	if err != nil {
		return fail(err)
	}
	if err := t.check(last); err != nil {
		return fail(err)
	}
	if l.LogCache, err = raft.NewLogCache(logCacheEntries, c); err != nil {
		return fail(err)
	}
	l.fault.tell(o.OnFail) // not before: a log that cannot be opened is an error of OpenLogs
	return l, nil
}

// settle makes what is read of a file be what the device has, as walFS.OpenWriter does for the end of the log: what a killed process wrote
// and did not sync is synced, what a failed sync lost is dropped from the page cache. Else a vote that this replica sees, and keeps to, would be
// gone after a power cut. bbolt's files are the operating system's in any case.
func settle(path string) error {
	f, err := (vfile.OS{}).Open(path)
	if vfile.IsNotExist(err) {
		return nil // for whoever reads it to say
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	return f.DropCache()
}

// closingStore is a log store that is closed; bbolt's is a stable store as well.
type closingStore interface {
	raft.LogStore
	io.Closer
}

// corrupt gives an error of opening a store its kind: it is damaged, unless the system says what is wrong, or another process has it.
func corrupt(err error) error {
	var sys syscall.Errno
	if errors.As(err, &sys) && !errors.Is(err, fs.ErrNotExist) || errors.Is(err, bbolterrors.ErrTimeout) || vfs.KindOf(err) == vfs.KindCorrupt {
		return err
	}
	return vfs.Errorf(vfs.KindCorrupt, "raftmeta.open", "the Raft log is damaged: %w", err)
}

func openBolt(path string) (*raftboltdb.BoltStore, error) {
	return raftboltdb.New(raftboltdb.Options{
		Path: path,
		// Writing the free list costs more the larger the log ever was.
		BoltOptions:             &bbolt.Options{NoFreelistSync: true, Timeout: boltLockTimeout},
		MsgpackUseNewTimeFormat: true,
	})
}

func openWAL(dir string, o LogOptions, broken *fault) (*wal.WAL, error) {
	meta := &metadb.BoltMetaDB{}
	w, err := openSegments(dir, meta, o, broken)
	if err != nil {
		// raft-wal leaves it open, and locked for whoever tries again in this process.
		return nil, errors.Join(err, meta.Close())
	}
	if err := o.Files.SyncDir(dir); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// openSegments opens raft-wal with its list of segments in meta, which the caller closes when it fails.
func openSegments(dir string, meta types.MetaStore, o LogOptions, broken *fault) (*wal.WAL, error) {
	t := &tailStore{MetaStore: meta, SegmentFiler: segment.NewFiler(dir, walFS{o.Files, broken}), segmentBytes: o.WALSegmentBytes}
	w, err := wal.Open(dir, wal.WithMetaStore(t), wal.WithSegmentFiler(t), wal.WithSegmentSize(o.WALSegmentBytes), wal.WithLogger(o.Logger))
	if err != nil && t.recovered != nil {
		err = errors.Join(err, t.recovered.Close())
	}
	return w, err
}

// Close closes the stores; what they acknowledged is durable already.
func (l *Logs) Close() error {
	l.fault.tell(nil) // Raft's metrics may still read
	var errs []error
	for i := len(l.closers) - 1; i >= 0; i-- {
		errs = append(errs, l.closers[i].Close())
	}
	l.closers = nil
	return errors.Join(errs...)
}
