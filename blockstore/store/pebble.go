package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/internal/vfile/pebblefs"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// memTablesMax is how many memtables may wait for being written before Pebble makes who writes wait, which
	// nothing ends once the disk fails. The index grows by a hundredth of what the log does, on the same disk: it is not reached.
	memTablesMax = 64
	// level0Max is likewise for tables that wait for compaction, which a damaged one can hold up until the index is made anew.
	level0Max = 1000
)

// index is an open Pebble.
type index struct {
	db    *pebble.DB
	guard *pebblefs.Guard
}

// indexEvents is what an index tells of itself, on any goroutine, with locks of Pebble held.
type indexEvents struct {
	failed  func(name string, err error) // it cannot be written any more; once
	damaged func(error)                  // something in it cannot be read; any number of times
}

var errIndexFatal = errors.New("pebble gave up; the log has its reason")

// openPebble opens the index in dir, or makes it.
func (o *Options) openPebble(dir string, fs pvfs.FS, e indexEvents) (*index, error) {
	x := &index{guard: pebblefs.NewGuard(fs, e.failed)}
	p := &pebble.Options{
		FS:                          x.guard,
		DisableWAL:                  true,
		Cache:                       o.IndexCache,
		MemTableSize:                o.MemTableBytes,
		MemTableStopWritesThreshold: memTablesMax,
		L0StopWritesThreshold:       level0Max,
		MaxOpenFiles:                256,
		MaxManifestFileSize:         o.manifestBytes,
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		Logger:                      pebbleLogger{o.Logger, x.guard},
	}
	// Pebble's own answer to a damaged table is to end the process.
	p.EventListener = &pebble.EventListener{
		DataCorruption: func(i pebble.DataCorruptionInfo) { e.damaged(fmt.Errorf("%s: %w", i.Path, i.Details)) },
		BackgroundError: func(err error) {
			switch {
			case x.guard.IsShut():
			case pebble.IsCorruptionError(err) || damage(err):
				e.damaged(err)
			default:
				x.guard.Report(dir, err)
			}
		},
	}
	p.Levels[0].FilterPolicy = bloom.FilterPolicy(10)
	p.EnsureDefaults()
	// On a goroutine of its own, which Fatalf may end.
	err := errIndexFatal
	done := make(chan struct{})
	go func() {
		defer close(done)
		err = noPanic(func() (err error) {
			x.db, err = pebble.Open(dir, p)
			return err
		})
	}()
	<-done
	if cause := x.guard.Failure(); cause != nil {
		if err == nil {
			_ = noPanic(x.db.Close)
		}
		x.guard.Shut()
		return nil, cause
	}
	if err != nil {
		x.guard.Shut()
		return nil, err
	}
	x.guard.Settle()
	return x, nil
}

// noPanic calls fn and returns a panic as an error: Pebble has some for what should not happen, as with a file that changed.
func noPanic(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pebble: panic: %v: %w", p, pebble.ErrCorruption)
		}
	}()
	return fn()
}

// commit enters a batch, which is durable some time later.
func (x *index) commit(b *pebble.Batch) error {
	if err := x.guard.Failure(); err != nil {
		return err
	}
	return b.Commit(pebble.NoSync)
}

// flush makes everything in the index durable.
func (x *index) flush(ctx context.Context) error {
	flushed, err := x.db.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-flushed:
		return nil
	case <-x.guard.Broken():
		return x.guard.Failure()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close ends the index. What is not flushed is not kept. When it failed its error is of no interest.
func (x *index) close() error {
	done := make(chan error, 1)
	go func() { done <- noPanic(x.db.Close) }()
	var err error
	select {
	case err = <-done:
	case <-x.guard.Broken():
		x.guard.Shut() // it may be waiting for what failed
		<-done
	}
	x.guard.Shut()
	return err
}

// drop is close for an index that is not needed any more.
func (x *index) drop() {
	x.guard.Shut()
	_ = noPanic(x.db.Close)
}

// pebbleLogger passes on what Pebble considers errors; its narration of
// flushes and compactions is for debugging.
type pebbleLogger struct {
	l     *slog.Logger
	guard *pebblefs.Guard
}

func (p pebbleLogger) Infof(format string, args ...any) { p.l.Debug(fmt.Sprintf(format, args...)) }

func (p pebbleLogger) Errorf(format string, args ...any) {
	if p.guard.IsShut() {
		p.l.Debug(fmt.Sprintf(format, args...))
		return
	}
	p.l.Error(fmt.Sprintf(format, args...))
}

// Fatalf is called when Pebble cannot go on. For what the Guard made fail, while the index is being closed, it may return: the
// code behind it returns the error. Otherwise it must not, and ends its goroutine, which may be one of Pebble's: so
// the process goes on, and the store takes no more writes.
func (p pebbleLogger) Fatalf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	if p.guard.IsShut() {
		p.l.Debug("index is being closed", "err", msg)
		return
	}
	p.l.Error("index gives up", "err", msg)
	p.guard.Report("", vfs.Errorf(vfs.KindIO, "store.index", "%s", msg))
	runtime.Goexit()
}

// isManifest reports whether a file is one of those that say what the index consists of.
func isManifest(name string) bool {
	base := filepath.Base(name)
	return strings.HasPrefix(base, "MANIFEST") || strings.HasPrefix(base, "marker.")
}
