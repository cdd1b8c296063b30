package pebblefs

import (
	"errors"
	"io"
	"os"
	"sync"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
)

// Guard is the file system under one Pebble that may be lost, because it can be made again. Pebble's own answers to an
// operation that fails are to try it again at once, for ever, or, where its manifest is concerned, to end the process. Under a Guard the first write, sync or change of names that fails is told, and returns only when Shut
// is called; others that come after it likewise. Pebble then stands still, in whatever goroutine, holding no lock that reads need.
//
// Until Settle is called, while Pebble opens, nobody stands still: from the first failure on, Pebble is made to believe that all
// is done, while nothing is. It can then be closed like any other, whatever goroutine met the failure. Who opens it asks
// Failure, and does not use it.
//
// Errors of reads are passed on, and those of removals, which Pebble does not depend on.
type Guard struct {
	pvfs.FS
	fail func(name string, err error) // called once

	mu      sync.Mutex // guards the following
	settled bool
	err     error         // of the first operation that failed
	broken  chan struct{} // closed when it has
	down    chan struct{} // closed by shut
	closing bool
}

var errShut = errors.New("pebble: its file system is shut")

// NewGuard returns fs under a Guard, which calls fail once, on any goroutine, when it has settled and something failed.
func NewGuard(fs pvfs.FS, fail func(string, error)) *Guard {
	return &Guard{FS: fs, fail: fail, broken: make(chan struct{}), down: make(chan struct{})}
}

// Broken is closed when an operation failed after Settle.
func (g *Guard) Broken() <-chan struct{} { return g.broken }

// Settle ends the time in which errors are passed on.
func (g *Guard) Settle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settled = true
}

// Shut ends the waiting of what failed, and fails everything from now on that would change something.
func (g *Guard) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closing {
		g.closing = true
		close(g.down)
	}
}

// IsShut reports whether Shut was called.
func (g *Guard) IsShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closing
}

// Failure is why the store cannot be written any more; nil while it can.
func (g *Guard) Failure() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// do makes an operation that changes something.
func (g *Guard) do(name string, op func() error) error {
	g.mu.Lock()
	err, closing, settled := g.err, g.closing, g.settled
	g.mu.Unlock()
	switch {
	case err != nil && !settled:
		return errIgnore
	case closing:
		return errShut
	case err != nil:
		<-g.down
		return err
	}
	if err = op(); err == nil {
		return nil
	}
	if g.Report(name, err); !settled {
		return errIgnore
	}
	<-g.down
	return err
}

// errIgnore is an operation that is not done and counts as done.
var errIgnore = errors.New("ignored")

// change is do for an operation that has no other result.
func (g *Guard) change(name string, op func() error) error {
	if err := g.do(name, op); err != errIgnore {
		return err
	}
	return nil
}

// Report notes a failure, the first one of which counts.
func (g *Guard) Report(name string, err error) {
	g.mu.Lock()
	first := g.err == nil && !g.closing
	if first {
		g.err = err
		if g.settled {
			close(g.broken)
		}
	}
	settled := g.settled
	g.mu.Unlock()
	if first && settled {
		g.fail(name, err)
	}
}

func (g *Guard) file(name string, open func() (pvfs.File, error)) (pvfs.File, error) {
	var f pvfs.File
	err := g.do(name, func() (err error) {
		f, err = open()
		return err
	})
	if err == errIgnore {
		f, err = pvfs.NewMem().Create("ignored", pvfs.WriteCategoryUnspecified)
	}
	if err != nil {
		return nil, err
	}
	return &guardedFile{f, g, name}, nil
}

// Create implements pvfs.FS.
func (g *Guard) Create(name string, c pvfs.DiskWriteCategory) (pvfs.File, error) {
	return g.file(name, func() (pvfs.File, error) { return g.FS.Create(name, c) })
}

// OpenReadWrite implements pvfs.FS.
func (g *Guard) OpenReadWrite(name string, c pvfs.DiskWriteCategory, opts ...pvfs.OpenOption) (pvfs.File, error) {
	return g.file(name, func() (pvfs.File, error) { return g.FS.OpenReadWrite(name, c, opts...) })
}

// ReuseForWrite implements pvfs.FS.
func (g *Guard) ReuseForWrite(oldname, newname string, c pvfs.DiskWriteCategory) (pvfs.File, error) {
	return g.file(newname, func() (pvfs.File, error) { return g.FS.ReuseForWrite(oldname, newname, c) })
}

// OpenDir opens a directory, to sync it.
func (g *Guard) OpenDir(name string) (pvfs.File, error) {
	f, err := g.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guardedDir{guardedFile{f, g, name}}, nil
}

// Link implements pvfs.FS.
func (g *Guard) Link(oldname, newname string) error {
	return g.change(newname, func() error { return g.FS.Link(oldname, newname) })
}

// Rename implements pvfs.FS.
func (g *Guard) Rename(oldname, newname string) error {
	return g.change(newname, func() error { return g.FS.Rename(oldname, newname) })
}

// MkdirAll implements pvfs.FS.
func (g *Guard) MkdirAll(dir string, perm os.FileMode) error {
	return g.change(dir, func() error { return g.FS.MkdirAll(dir, perm) })
}

// stopped reports whether nothing is to be removed any more: the name may be another store's by now.
func (g *Guard) stopped() (bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil && !g.settled {
		return true, nil
	}
	if g.closing {
		return true, errShut
	}
	return false, nil
}

// Remove implements pvfs.FS.
func (g *Guard) Remove(name string) error {
	if stop, err := g.stopped(); stop {
		return err
	}
	return g.FS.Remove(name)
}

// RemoveAll implements pvfs.FS.
func (g *Guard) RemoveAll(name string) error {
	if stop, err := g.stopped(); stop {
		return err
	}
	return g.FS.RemoveAll(name)
}

// Lock is left to who has the Guard: a Pebble that does not end must not keep its successor out.
func (g *Guard) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// Unwrap implements pvfs.FS.
func (g *Guard) Unwrap() pvfs.FS { return g.FS }

type guardedFile struct {
	pvfs.File
	g    *Guard
	name string
}

func (f *guardedFile) Write(p []byte) (n int, err error) {
	err = f.g.do(f.name, func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	if err == errIgnore {
		return len(p), nil
	}
	return n, err
}

func (f *guardedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.g.do(f.name, func() (err error) {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	if err == errIgnore {
		return len(p), nil
	}
	return n, err
}

// guardedDir is a directory. Pebble panics when the sync of one fails (vfs/atomicfs, Marker.Move), also when it is let go on at the
// end: then it is told that all is well, which nobody relies on.
type guardedDir struct{ guardedFile }

func (f *guardedDir) Sync() error {
	_ = f.guardedFile.Sync()
	return nil
}

func (f *guardedFile) Sync() error     { return f.g.change(f.name, f.File.Sync) }
func (f *guardedFile) SyncData() error { return f.g.change(f.name, f.File.SyncData) }

func (f *guardedFile) SyncTo(length int64) (full bool, err error) {
	err = f.g.change(f.name, func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}
