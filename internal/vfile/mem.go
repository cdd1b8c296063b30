package vfile

import (
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sectorSize is the largest unit a disk writes atomically.
const sectorSize = 512

type page [PageSize]byte

// Mem is a file system in memory that can be cloned as a power cut would
// leave it. The zero value is not ready; use NewMem. Relative names start at the root.
type Mem struct {
	watch func(Change) bool // see Watch; set before use
	*memDisk
}

// memDisk is what a Mem and its unwatched view share.
type memDisk struct {
	// mu guards everything below, and the contents of all inodes. One lock
	// for all makes a clone a single moment.
	mu       sync.Mutex
	root     *memNode
	locks    map[string]bool
	capacity int64 // bytes that may be allocated; <0 is no limit
	used     int64
	device   Device // fixed
}

// memNode is a directory or a file. Both are held twice: as processes see them, and as they were last synced.
type memNode struct {
	dir bool

	// Of a directory.
	names, durable map[string]*memNode
	synced         bool // its inode was written: before, its name leads nowhere

	// Of a file. A page that is the same is the same pointer; pages are copied before they are modified.
	pages, stable map[int64]*page
	dirty         map[int64]struct{} // pages that may differ
	lost          map[int64]struct{} // pages that differ since a sync failed, and are not dirty
	size, dsize   int64
	allocated     int64
	links         int
	mode          fs.FileMode
}

func newDir() *memNode {
	return &memNode{dir: true, names: make(map[string]*memNode), durable: make(map[string]*memNode), mode: 0o700}
}

func newFile() *memNode {
	return &memNode{pages: make(map[int64]*page), stable: make(map[int64]*page), dirty: make(map[int64]struct{}), mode: 0o600}
}

// NewMem returns an empty file system in which capacity bytes can be
// allocated; a negative capacity is no limit.
func NewMem(capacity int64) *Mem {
	m := &Mem{memDisk: &memDisk{root: newDir(), locks: make(map[string]bool), capacity: capacity}}
	m.root.synced = true
	rand.Read(m.device[:])
	return m
}

// ChangeKind is what an operation changes.
type ChangeKind string

// Operations that change what a process sees, or what is durable.
const (
	MakeFile   ChangeKind = "create"
	MakeDir    ChangeKind = "mkdir"
	WriteFile  ChangeKind = "write"
	RenameName ChangeKind = "rename"
	LinkName   ChangeKind = "link"
	RemoveName ChangeKind = "remove"
	SyncFile   ChangeKind = "sync"
	SyncNames  ChangeKind = "syncdir"
)

// Change is an operation that is about to happen.
type Change struct {
	Kind ChangeKind
	Path string // the new one, where there are two
}

// Watch has f called before each operation that changes something. When f
// answers true for a sync, the sync is lost: it reports success and does nothing. Watch must be called
// before m is used. f may clone m.
func (m *Mem) Watch(f func(Change) (lose bool)) { m.watch = f }

// Unwatched is the same file system without Watch, for changes that somebody else made.
func (m *Mem) Unwatched() *Mem { return &Mem{memDisk: m.memDisk} }

func (m *Mem) before(kind ChangeKind, name string) (lose bool) {
	return m.watch != nil && m.watch(Change{kind, path.Clean("/" + name)})
}

// lookup finds what name leads to. m.mu is held, as for all that follow.
func (m *Mem) lookup(op, name string) (*memNode, error) {
	n := m.root
	for _, part := range strings.Split(path.Clean("/" + name)[1:], "/") {
		if part == "" {
			continue
		}
		if !n.dir {
			return nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENOTDIR}
		}
		if n = n.names[part]; n == nil {
			return nil, &fs.PathError{Op: op, Path: name, Err: syscall.ENOENT}
		}
	}
	return n, nil
}

func (m *Mem) lookupDir(op, name string) (*memNode, error) {
	n, err := m.lookup(op, name)
	if err == nil && !n.dir {
		err = &fs.PathError{Op: op, Path: name, Err: syscall.ENOTDIR}
	}
	return n, err
}

// split finds the directory of name.
func (m *Mem) split(op, name string) (*memNode, string, error) {
	dir, base := path.Split(path.Clean("/" + name))
	d, err := m.lookupDir(op, dir)
	return d, base, err
}

func (m *Mem) unlink(n *memNode) {
	if n.dir {
		for _, c := range n.names {
			m.unlink(c)
		}
		return
	}
	if n.links--; n.links == 0 {
		m.used -= n.allocated
		n.allocated = 0
	}
}

// Create implements FS.
func (m *Mem) Create(name string) (File, error) {
	m.before(MakeFile, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.split("create", name)
	if err != nil {
		return nil, err
	}
	if d.names[base] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.EEXIST}
	}
	n := newFile()
	n.links = 1
	d.names[base] = n
	return &memFile{m: m, n: n, name: name}, nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup("open", name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EISDIR}
	}
	return &memFile{m: m, n: n, name: name}, nil
}

// Stat implements FS.
func (m *Mem) Stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup("stat", name)
	if err != nil {
		return nil, err
	}
	return memInfo{path.Base(path.Clean("/" + name)), n.size, n.mode, n.dir}, nil
}

type memInfo struct {
	name string
	size int64
	mode fs.FileMode
	dir  bool
}

func (i memInfo) Name() string       { return i.name }
func (i memInfo) Size() int64        { return i.size }
func (i memInfo) ModTime() time.Time { return time.Time{} }
func (i memInfo) IsDir() bool        { return i.dir }
func (i memInfo) Sys() any           { return nil }

func (i memInfo) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | i.mode
	}
	return i.mode
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	m.before(RemoveName, name)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.split("remove", name)
	if err != nil {
		return err
	}
	n := d.names[base]
	if n == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOENT}
	}
	if len(n.names) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	m.unlink(n)
	delete(d.names, base)
	return nil
}

// RemoveAll implements FS: each name is an operation of its own, as on a real file system.
func (m *Mem) RemoveAll(name string) error {
	if names, err := m.List(name); err == nil {
		for _, c := range names {
			if err := m.RemoveAll(name + "/" + c); err != nil {
				return err
			}
		}
	}
	if err := m.Remove(name); err != nil && !IsNotExist(err) {
		return err
	}
	return nil
}

// Link implements FS.
func (m *Mem) Link(oldname, newname string) error {
	m.before(LinkName, newname)
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.lookup("link", oldname)
	if err != nil {
		return err
	}
	to, base, err := m.split("link", newname)
	switch {
	case err != nil:
		return err
	case n.dir:
		return &fs.PathError{Op: "link", Path: oldname, Err: syscall.EPERM}
	case to.names[base] != nil:
		return &fs.PathError{Op: "link", Path: newname, Err: syscall.EEXIST}
	}
	n.links++
	to.names[base] = n
	return nil
}

// Rename implements FS.
func (m *Mem) Rename(oldname, newname string) error {
	m.before(RenameName, newname)
	m.mu.Lock()
	defer m.mu.Unlock()
	from, ob, err := m.split("rename", oldname)
	if err != nil {
		return err
	}
	to, nb, err := m.split("rename", newname)
	if err != nil {
		return err
	}
	n := from.names[ob]
	if n == nil {
		return &fs.PathError{Op: "rename", Path: oldname, Err: syscall.ENOENT}
	}
	if old := to.names[nb]; old != nil && old != n {
		switch {
		case old.dir != n.dir:
			return &fs.PathError{Op: "rename", Path: newname, Err: syscall.EEXIST}
		case len(old.names) > 0:
			return &fs.PathError{Op: "rename", Path: newname, Err: syscall.ENOTEMPTY}
		}
		m.unlink(old)
	}
	delete(from.names, ob)
	to.names[nb] = n
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.lookupDir("list", dir)
	if err != nil {
		return nil, err
	}
	return sortedKeys(d.names), nil
}

// Mkdir implements FS.
func (m *Mem) Mkdir(dir string) error {
	m.before(MakeDir, dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.split("mkdir", dir)
	if err != nil {
		return err
	}
	if d.names[base] != nil || base == "" {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.EEXIST}
	}
	d.names[base] = newDir()
	return nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(dir string) error {
	dir = path.Clean("/" + dir)
	if st, err := m.Stat(dir); err == nil {
		if !st.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
		}
		return nil
	} else if !IsNotExist(err) {
		return err
	}
	if err := m.MkdirAll(path.Dir(dir)); err != nil {
		return err
	}
	return m.Mkdir(dir)
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	if m.before(SyncNames, dir) {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.lookupDir("syncdir", dir)
	if err != nil {
		return err
	}
	d.durable, d.synced = cloneMap(d.names), true
	return nil
}

type memLock struct {
	m    *Mem
	name string
}

func (l *memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.name)
	return nil
}

// Lock implements FS. Locks do not survive a clone.
func (m *Mem) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = path.Clean("/" + name)
	if m.locks[name] {
		return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
	}
	if _, err := m.lookupDir("lock", path.Dir(name)); err != nil {
		return nil, err
	}
	m.locks[name] = true
	return &memLock{m, name}, nil
}

// OpenRead implements FS.
func (m *Mem) OpenRead(name string) (File, error) { return m.Open(name) }

// LockRead implements FS.
func (m *Mem) LockRead(name string) (io.Closer, error) { return m.Lock(name) }

// Device implements FS.
func (m *Mem) Device(string) (Device, error) { return m.device, nil }

// Free implements FS.
func (m *Mem) Free(string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.capacity < 0 {
		return 1 << 62, nil
	}
	return uint64(max(m.capacity-m.used, 0)), nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	c := make(map[K]V, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}
