package machine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/vfile/pebblefs"
	"github.com/rackfs/rackfs/vfs"
)

const (
	currentFile = "CURRENT"
	dbFormat    = "db-%06d"
	maxCurrent  = 64

	// pebbleFormat is pinned: raising it is a step that cannot be taken back, and
	// follows a feature level.
	pebbleFormat = pebble.FormatTableFormatV6

	bloomBits = 10
	// DefaultMemTableBytes is the size at which a memtable is flushed.
	DefaultMemTableBytes = 16 << 20
)

// current reads the name of the live store; "" if there is none yet.
func current(files vfile.FS, dir string) (string, error) {
	path := filepath.Join(dir, currentFile)
	b, err := vfile.ReadFile(files, path, maxCurrent)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	name := strings.TrimSpace(string(b))
	if _, err := parseDB(name); err != nil {
		return "", vfs.Errorf(vfs.KindCorrupt, "machine.open", "%s names %q", path, name)
	}
	return name, nil
}

func parseDB(name string) (int, error) {
	var n int
	if _, err := fmt.Sscanf(name, dbFormat, &n); err != nil {
		return 0, err
	}
	if fmt.Sprintf(dbFormat, n) != name {
		return 0, fmt.Errorf("malformed name %q", name)
	}
	return n, nil
}

// setCurrent makes name the live store, durably; the directory name must be complete and durable.
func setCurrent(files vfile.FS, dir, name string) error {
	if err := files.SyncDir(dir); err != nil {
		return err
	}
	return vfile.WriteFileAtomic(files, dir, currentFile, []byte(name+"\n"))
}

// disown makes the live store none, durably: the next Open restores the newest snapshot and has the log applied after it.
func disown(files vfile.FS, dir string) error {
	if err := files.Remove(filepath.Join(dir, currentFile)); err != nil && !vfile.IsNotExist(err) {
		return err
	}
	return files.SyncDir(dir)
}

// removeOthers removes every store but keep.
func removeOthers(files vfile.FS, dir, keep string) error {
	names, err := files.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := parseDB(name); err != nil || name == keep {
			continue
		}
		if err := files.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// nextName is a name for a new store, beyond all that exist.
func nextName(files vfile.FS, dir string) (string, error) {
	names, err := files.List(dir)
	if err != nil {
		return "", err
	}
	top := 0
	for _, name := range names {
		if n, err := parseDB(name); err == nil {
			top = max(top, n)
		}
	}
	return fmt.Sprintf(dbFormat, top+1), nil
}

// linkCheckpoint fills the new directory dst with the store in src: tables,
// which never change, by hard link, the rest by copy. All is durable when it returns.
func linkCheckpoint(files vfile.FS, src, dst string) error {
	names, err := files.List(src)
	if err != nil {
		return err
	}
	if err := files.Mkdir(dst); err != nil {
		return err
	}
	for _, name := range names {
		from, to := filepath.Join(src, name), filepath.Join(dst, name)
		switch filepath.Ext(name) {
		case ".sst", ".blob":
			err = files.Link(from, to)
		default:
			err = copyFile(files, from, to)
		}
		if err != nil {
			return err
		}
	}
	return files.SyncDir(dst)
}

func copyFile(files vfile.FS, from, to string) error {
	in, err := files.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	size, err := in.Size()
	if err != nil {
		return err
	}
	out, err := files.Create(to)
	if err != nil {
		return err
	}
	if _, err = io.Copy(io.NewOffsetWriter(out, 0), io.NewSectionReader(in, 0, size)); err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// openPebble opens the store in dir. damaged is called by who reads a damaged table, fatal when the store cannot go on, on a goroutine
// that may hold its mutex.
func openPebble(dir string, o Options, damaged, fatal func(error)) (*pebble.DB, error) {
	po := &pebble.Options{
		FS: pebblefs.WithoutPanic(o.PebbleFS, func(err error) {
			o.Logger.Error("pebble: a directory cannot be synced", "err", err)
			fatal(vfs.Errorf(vfs.KindIO, "machine.store", "a directory of the state cannot be synced: %w", err))
		}),
		DisableWAL:                  true,
		ReadOnly:                    o.readOnly,
		FormatMajorVersion:          pebbleFormat,
		Cache:                       o.BlockCache,
		MemTableSize:                uint64(o.MemTableBytes),
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
		Logger:                      pebbleLog{o.Logger, fatal},
		EventListener: &pebble.EventListener{
			// By default Pebble ends the process.
			DataCorruption:  func(i pebble.DataCorruptionInfo) { damaged(damagedState("pebble: " + i.String())) },
			BackgroundError: backgroundErrors(o.Logger, fatal),
		},
	}
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(bloomBits)
	}
	// On a goroutine of its own, which Fatalf may end.
	var db *pebble.DB
	err := errStoreFatal
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = noPanic(func() (err error) {
			db, err = pebble.Open(dir, po)
			return err
		})
	}()
	<-done
	if err == nil {
		return db, nil
	}
	var sys syscall.Errno
	if err = classify(err); vfs.KindOf(err) != vfs.KindCorrupt && !errors.As(err, &sys) && !errors.Is(err, errStoreFatal) {
		err = damagedState(err.Error()) // what the system did not complain of is in the files
	}
	return nil, err
}

var errStoreFatal = errors.New("pebble gave up; the log has its reason")

// noPanic calls fn and returns a panic as an error: Pebble has some for what should not happen, as with a file that changed.
func noPanic(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = damagedState(fmt.Sprintf("pebble: panic: %v", p))
		}
	}()
	return fn()
}

func damagedState(text string) error {
	return vfs.Errorf(vfs.KindCorrupt, "machine.store", "the replica's state is damaged: %s", text)
}

// classify gives an error that means damage its kind. One of the system, as a full disk, is none; a file that is not there is.
func classify(err error) error {
	if vfs.KindOf(err) != vfs.KindCorrupt && (pebble.IsCorruptionError(err) || errors.Is(err, fs.ErrNotExist)) {
		return vfs.Errorf(vfs.KindCorrupt, "machine.store", "the replica's state is damaged: %w", err)
	}
	return err
}

// failedPause is the pause after each further background error of a store that failed.
const failedPause = 100 * time.Millisecond

// backgroundErrors is called when a flush or a compaction failed. Pebble tries it again at once, for ever, and stops taking writes when
// it has too much in memory: the replica would lead and hang. So it stops at the first one. What a failed sync should have made durable may be
// gone while the page cache still shows it, so the store is not used again either: see Host.storeFailed.
func backgroundErrors(log *slog.Logger, fatal func(error)) func(error) {
	var failed atomic.Bool
	return func(err error) {
		if errors.Is(err, pebble.ErrClosed) {
			return
		}
		if failed.Swap(true) {
			time.Sleep(failedPause)
			return
		}
		log.Error("pebble: background error", "err", err)
		fatal(vfs.Wrap("machine.store", classify(err)))
	}
}

// pebbleLog passes what Pebble has to say to slog.
type pebbleLog struct {
	log   *slog.Logger
	fatal func(error)
}

func (l pebbleLog) Infof(format string, args ...any) {}

func (l pebbleLog) Errorf(format string, args ...any) {
	l.log.Error("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf is called when Pebble cannot keep its promises any more, as after a failed write of its manifest. It must not
// return. A panic would end the process, with all its other roles, because it may come on a goroutine of Pebble; so the replica is
// stopped, and this goroutine ends here. The store is not closed after that: see Host.Close.
func (l pebbleLog) Fatalf(format string, args ...any) {
	msg := "pebble: " + fmt.Sprintf(format, args...)
	l.log.Error(msg)
	l.fatal(vfs.Errorf(vfs.KindIO, "machine.store", "%s", msg))
	runtime.Goexit()
}
