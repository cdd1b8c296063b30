package vfile

import (
	"io"
	"io/fs"
	"sync"
)

// Op is a kind of operation on a file system or one of its files.
type Op uint8

// Operations that a Faults layer can fail.
const (
	OpCreate Op = iota
	OpOpen
	OpRemove
	OpRename // Call.Name is the old name
	OpLink
	OpList
	OpMkdir
	OpSyncDir
	OpLock
	OpFree
	OpRead
	OpWrite // WriteAt and WriteVec
	OpAllocate
	OpZero
	OpSize
	OpSync
	OpSyncData
	OpDropCache
	opCount
)

var opNames = [opCount]string{"create", "open", "remove", "rename", "link", "list", "mkdir", "syncdir", "lock", "free",
	"read", "write", "allocate", "zero", "size", "sync", "syncdata", "dropcache"}

func (o Op) String() string { return opNames[o] }

// Call is one operation that is about to be made.
type Call struct {
	Op   Op
	Name string
	Off  int64
	Len  int64
	// Nth counts the operations of this kind on this name, from 1. Unlike a number over all
	// operations it does not depend on what other goroutines do.
	Nth int
}

// Fault is a failure in place of an operation.
type Fault struct {
	Err error
	// Keep is how many bytes of a write, or of zeroing, reach the file before it fails: 0 is none, less than all
	// is a short write, all is a write that failed only in its report. An operation of another kind is carried out, and
	// fails only in its report, if Keep is not 0.
	Keep int64
}

// Faults is a file system that fails operations as a plan says and passes the
// others on. Over Mem, a sync that fails loses what it should have made
// durable for good, as the kernel's page cache does: reads show it, later syncs
// succeed without it, and DropCache or a power cut shows that it is gone.
type Faults struct {
	fs   FS
	plan func(Call) *Fault

	mu  sync.Mutex
	nth map[Call]int // by kind and name
}

// NewFaults returns fs with the faults of plan, which is asked before every
// operation, possibly by several goroutines at once.
func NewFaults(fs FS, plan func(Call) *Fault) *Faults {
	return &Faults{fs: fs, plan: plan, nth: make(map[Call]int)}
}

// faultyPages is a file that can lose the bytes of a sync that fails.
type faultyPages interface{ loseUnsynced() }

func (f *Faults) fault(c Call) *Fault {
	f.mu.Lock()
	k := Call{Op: c.Op, Name: c.Name}
	f.nth[k]++
	c.Nth = f.nth[k]
	f.mu.Unlock()
	return f.plan(c)
}

// do makes an operation that is either done or not.
func (f *Faults) do(c Call, op func() error) error {
	x := f.fault(c)
	if x == nil {
		return op()
	}
	if x.Keep != 0 {
		_ = op()
	}
	return x.Err
}

// Create implements FS.
func (f *Faults) Create(name string) (File, error) { return f.file(OpCreate, name, f.fs.Create) }

// Open implements FS.
func (f *Faults) Open(name string) (File, error) { return f.file(OpOpen, name, f.fs.Open) }

// OpenRead implements FS.
func (f *Faults) OpenRead(name string) (File, error) { return f.file(OpOpen, name, f.fs.OpenRead) }

func (f *Faults) file(op Op, name string, open func(string) (File, error)) (File, error) {
	var in File
	err := f.do(Call{Op: op, Name: name}, func() (err error) {
		in, err = open(name)
		return err
	})
	if err != nil {
		if in != nil {
			_ = in.Close()
		}
		return nil, err
	}
	return &faultyFile{in: in, f: f, name: name}, nil
}

// Remove implements FS.
func (f *Faults) Remove(name string) error {
	return f.do(Call{Op: OpRemove, Name: name}, func() error { return f.fs.Remove(name) })
}

// RemoveAll implements FS.
func (f *Faults) RemoveAll(name string) error {
	return f.do(Call{Op: OpRemove, Name: name}, func() error { return f.fs.RemoveAll(name) })
}

// Stat implements FS. It does not fail by plan: it says what Open would.
func (f *Faults) Stat(name string) (fs.FileInfo, error) { return f.fs.Stat(name) }

// Link implements FS.
func (f *Faults) Link(oldname, newname string) error {
	return f.do(Call{Op: OpLink, Name: newname}, func() error { return f.fs.Link(oldname, newname) })
}

// Mkdir implements FS.
func (f *Faults) Mkdir(dir string) error {
	return f.do(Call{Op: OpMkdir, Name: dir}, func() error { return f.fs.Mkdir(dir) })
}

// Rename implements FS.
func (f *Faults) Rename(oldname, newname string) error {
	return f.do(Call{Op: OpRename, Name: oldname}, func() error { return f.fs.Rename(oldname, newname) })
}

// List implements FS.
func (f *Faults) List(dir string) (names []string, err error) {
	err = f.do(Call{Op: OpList, Name: dir}, func() (err error) {
		names, err = f.fs.List(dir)
		return err
	})
	return names, err
}

// MkdirAll implements FS.
func (f *Faults) MkdirAll(dir string) error {
	return f.do(Call{Op: OpMkdir, Name: dir}, func() error { return f.fs.MkdirAll(dir) })
}

// SyncDir implements FS.
func (f *Faults) SyncDir(dir string) error {
	return f.do(Call{Op: OpSyncDir, Name: dir}, func() error { return f.fs.SyncDir(dir) })
}

// Lock implements FS.
func (f *Faults) Lock(name string) (c io.Closer, err error) {
	if x := f.fault(Call{Op: OpLock, Name: name}); x != nil {
		return nil, x.Err
	}
	return f.fs.Lock(name)
}

// LockRead implements FS. It fails as Open does, since it writes nothing.
func (f *Faults) LockRead(name string) (c io.Closer, err error) {
	if x := f.fault(Call{Op: OpOpen, Name: name}); x != nil {
		return nil, x.Err
	}
	return f.fs.LockRead(name)
}

// Free implements FS.
func (f *Faults) Free(dir string) (n uint64, err error) {
	err = f.do(Call{Op: OpFree, Name: dir}, func() (err error) {
		n, err = f.fs.Free(dir)
		return err
	})
	return n, err
}

// Device implements FS.
func (f *Faults) Device(dir string) (Device, error) { return f.fs.Device(dir) }

type faultyFile struct {
	in   File
	f    *Faults
	name string
}

func (f *faultyFile) call(op Op, off, n int64) Call {
	return Call{Op: op, Name: f.name, Off: off, Len: n}
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if x := f.f.fault(f.call(OpRead, off, int64(len(p)))); x != nil {
		return 0, x.Err
	}
	return f.in.ReadAt(p, off)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	x := f.f.fault(f.call(OpWrite, off, int64(len(p))))
	if x == nil {
		return f.in.WriteAt(p, off)
	}
	n, err := f.in.WriteAt(p[:min(max(x.Keep, 0), int64(len(p)))], off)
	if err != nil {
		return n, err
	}
	return n, x.Err
}

func (f *faultyFile) WriteVec(bufs [][]byte, off int64) error {
	total := int64(0)
	for _, b := range bufs {
		total += int64(len(b))
	}
	x := f.f.fault(f.call(OpWrite, off, total))
	if x == nil {
		return f.in.WriteVec(bufs, off)
	}
	for left := x.Keep; left > 0 && len(bufs) > 0; bufs = bufs[1:] {
		b := bufs[0][:min(left, int64(len(bufs[0])))]
		if _, err := f.in.WriteAt(b, off); err != nil {
			return err
		}
		left, off = left-int64(len(b)), off+int64(len(b))
	}
	return x.Err
}

func (f *faultyFile) Allocate(size int64) (reserved bool, err error) {
	err = f.f.do(f.call(OpAllocate, 0, size), func() (err error) {
		reserved, err = f.in.Allocate(size)
		return err
	})
	return reserved, err
}

func (f *faultyFile) Zero(off, n int64) error {
	x := f.f.fault(f.call(OpZero, off, n))
	if x == nil {
		return f.in.Zero(off, n)
	}
	if keep := min(x.Keep, n) / PageSize * PageSize; keep > 0 {
		if err := f.in.Zero(off, keep); err != nil {
			return err
		}
	}
	return x.Err
}

func (f *faultyFile) Chmod(mode fs.FileMode) error { return f.in.Chmod(mode) }

func (f *faultyFile) Size() (n int64, err error) {
	err = f.f.do(f.call(OpSize, 0, 0), func() (err error) {
		n, err = f.in.Size()
		return err
	})
	return n, err
}

func (f *faultyFile) Sync() error     { return f.sync(OpSync, f.in.Sync) }
func (f *faultyFile) SyncData() error { return f.sync(OpSyncData, f.in.SyncData) }

func (f *faultyFile) sync(op Op, sync func() error) error {
	x := f.f.fault(f.call(op, 0, 0))
	if x == nil {
		return sync()
	}
	if x.Keep != 0 {
		if err := sync(); err != nil {
			return err
		}
	} else if p, ok := f.in.(faultyPages); ok {
		p.loseUnsynced()
	}
	return x.Err
}

func (f *faultyFile) DropCache() error {
	return f.f.do(f.call(OpDropCache, 0, 0), f.in.DropCache)
}

func (f *faultyFile) DropRange(off, n int64) error {
	return f.f.do(f.call(OpDropCache, off, n), func() error { return f.in.DropRange(off, n) })
}

// Close always closes, and never fails by plan: a store has no use for its error.
func (f *faultyFile) Close() error { return f.in.Close() }
