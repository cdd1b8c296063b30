package vfile

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"syscall"
)

// sectorSize is the largest unit a disk writes atomically.
const sectorSize = 512

type page [PageSize]byte

// Mem is a file system in memory that can be cloned as a power cut would
// leave it. The zero value is not ready; use NewMem.
type Mem struct {
	// mu guards everything below, and the contents of all inodes. One lock
	// for all makes a clone a single moment.
	mu       sync.Mutex
	dirs     map[string]*memDir
	locks    map[string]bool
	capacity int64 // bytes that may be allocated; <0 is no limit
	used     int64
}

type memDir struct {
	names   map[string]*memInode // what a process sees
	durable map[string]*memInode // what the last SyncDir made certain
}

// memInode holds the pages of a file twice: as processes see them, and as
// they were last synced. A page that is the same is the same pointer; pages
// are copied before they are modified.
type memInode struct {
	pages, durable map[int64]*page
	dirty          map[int64]struct{} // pages that may differ
	lost           map[int64]struct{} // pages that differ since a sync failed, and are not dirty
	size, dsize    int64
	allocated      int64
}

// NewMem returns an empty file system in which capacity bytes can be
// allocated; a negative capacity is no limit.
func NewMem(capacity int64) *Mem {
	return &Mem{dirs: make(map[string]*memDir), locks: make(map[string]bool), capacity: capacity}
}

// CrashClone returns what a power cut at this moment may leave. Of the
// changes that were not synced, each directory entry and each sector survives
// with the given probability, drawn from rng. While the clone is made every
// operation on m waits; during is called then (it may be nil), so that
// something beside m can be cloned at the same moment.
func (m *Mem) CrashClone(rng *rand.Rand, survive float64, during func()) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	if during != nil {
		during()
	}
	c := NewMem(m.capacity)
	inodes := make(map[*memInode]*memInode)
	cloneInode := func(n *memInode) *memInode {
		if x := inodes[n]; x != nil {
			return x
		}
		x := n.crashClone(rng, survive)
		inodes[n] = x
		c.used += x.allocated
		return x
	}
	for _, dir := range sortedKeys(m.dirs) {
		d := m.dirs[dir]
		cd := &memDir{names: make(map[string]*memInode)}
		all := make(map[string]struct{})
		for n := range d.names {
			all[n] = struct{}{}
		}
		for n := range d.durable {
			all[n] = struct{}{}
		}
		for _, name := range sortedKeys(all) {
			now, was := d.names[name], d.durable[name]
			if now != was && rng.Float64() < survive {
				was = now
			}
			if was != nil {
				cd.names[name] = cloneInode(was)
			}
		}
		cd.durable = cloneMap(cd.names)
		c.dirs[dir] = cd
	}
	return c
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

func (n *memInode) crashClone(rng *rand.Rand, survive float64) *memInode {
	c := &memInode{pages: cloneMap(n.durable), size: n.dsize, allocated: n.allocated}
	if n.size != n.dsize && rng.Float64() < survive {
		c.size = n.size
	}
	dirty := make([]int64, 0, len(n.dirty))
	for i := range n.dirty {
		dirty = append(dirty, i)
	}
	slices.Sort(dirty)
	for _, i := range dirty {
		now, was := n.pages[i], n.durable[i]
		if now == was || now == nil {
			continue
		}
		mix := new(page)
		if was != nil {
			*mix = *was
		}
		// Most pages survive or vanish whole, some are torn.
		tear, whole := rng.IntN(4) == 0, rng.Float64() < survive
		for s := 0; s < PageSize; s += sectorSize {
			if tear && rng.Float64() < survive || !tear && whole {
				copy(mix[s:s+sectorSize], now[s:])
			}
		}
		c.pages[i] = mix
	}
	c.durable, c.dsize = cloneMap(c.pages), c.size
	return c
}

func (m *Mem) split(op, name string) (*memDir, string, error) {
	dir, base := path.Split(path.Clean(name))
	d := m.dirs[path.Clean(dir)]
	if d == nil {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return d, base, nil
}

// Create implements FS.
func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.split("create", name)
	if err != nil {
		return nil, err
	}
	if d.names[base] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	n := &memInode{pages: make(map[int64]*page), durable: make(map[int64]*page), dirty: make(map[int64]struct{})}
	d.names[base] = n
	return &memFile{m: m, n: n, name: name}, nil
}

// Open implements FS.
func (m *Mem) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.split("open", name)
	if err != nil {
		return nil, err
	}
	n := d.names[base]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	if n.dirty == nil {
		n.dirty = make(map[int64]struct{})
	}
	return &memFile{m: m, n: n, name: name}, nil
}

// Remove implements FS.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base, err := m.split("remove", name)
	if err != nil {
		return err
	}
	n := d.names[base]
	if n == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	m.used -= n.allocated
	n.allocated = 0
	delete(d.names, base)
	return nil
}

// Rename implements FS.
func (m *Mem) Rename(oldname, newname string) error {
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
		return &fs.PathError{Op: "rename", Path: oldname, Err: fs.ErrNotExist}
	}
	if old := to.names[nb]; old != nil && old != n {
		m.used -= old.allocated
		old.allocated = 0
	}
	delete(from.names, ob)
	to.names[nb] = n
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.dirs[path.Clean(dir)]
	if d == nil {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: fs.ErrNotExist}
	}
	return sortedKeys(d.names), nil
}

// MkdirAll implements FS. Directories are durable at once.
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir = path.Clean(dir)
	if m.dirs[dir] == nil {
		m.dirs[dir] = &memDir{names: make(map[string]*memInode), durable: make(map[string]*memInode)}
	}
	return nil
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.dirs[path.Clean(dir)]
	if d == nil {
		return &fs.PathError{Op: "syncdir", Path: dir, Err: fs.ErrNotExist}
	}
	d.durable = cloneMap(d.names)
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
	if m.locks[name] {
		return nil, fmt.Errorf("lock %s: %w", name, ErrLocked)
	}
	m.locks[name] = true
	return &memLock{m, name}, nil
}

// Free implements FS.
func (m *Mem) Free(string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.capacity < 0 {
		return 1 << 62, nil
	}
	return uint64(max(m.capacity-m.used, 0)), nil
}

type memFile struct {
	m    *Mem
	n    *memInode
	name string
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if off < 0 {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: syscall.EINVAL}
	}
	if off >= f.n.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), f.n.size-off)]
	for done := 0; done < len(want); {
		pos := off + int64(done)
		in := int(pos % PageSize)
		n := min(PageSize-in, len(want)-done)
		if pg := f.n.pages[pos/PageSize]; pg != nil {
			copy(want[done:done+n], pg[in:])
		} else {
			clear(want[done : done+n])
		}
		done += n
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(p), nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.WriteVec([][]byte{p}, off); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *memFile) WriteVec(bufs [][]byte, off int64) error {
	for _, b := range bufs {
		// Each buffer takes the lock anew: a clone may fall between two
		// parts of one write, as a power cut may.
		if err := f.write(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return nil
}

func (f *memFile) write(p []byte, off int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.grow(off + int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		i, in := off/PageSize, int(off%PageSize)
		n := min(PageSize-in, len(p))
		pg := f.n.pages[i]
		if pg == nil || pg == f.n.durable[i] {
			c := new(page)
			if pg != nil {
				*c = *pg
			}
			pg = c
			f.n.pages[i] = pg
		}
		f.n.dirty[i] = struct{}{}
		copy(pg[in:], p[:n])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// grow extends the file to size and charges the space. Called with mu held.
func (f *memFile) grow(size int64) error {
	if d := size - f.n.allocated; d > 0 {
		if f.m.capacity >= 0 && f.m.used+d > f.m.capacity {
			return &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
		f.m.used += d
		f.n.allocated = size
	}
	f.n.size = max(f.n.size, size)
	return nil
}

func (f *memFile) Allocate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.grow(size)
}

func (f *memFile) Zero(off, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		z := zeros[:min(n, int64(len(zeros)))]
		if err := f.write(z, off); err != nil {
			return err
		}
		off, n = off+int64(len(z)), n-int64(len(z))
	}
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return f.n.size, nil
}

func (f *memFile) Sync() error { return f.SyncData() }

func (f *memFile) SyncData() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for i := range f.n.dirty {
		f.n.durable[i] = f.n.pages[i]
		delete(f.n.lost, i)
	}
	clear(f.n.dirty)
	f.n.dsize = f.n.size
	return nil
}

// loseUnsynced is a sync that failed: the pages count as clean, and the
// device does not have them.
func (f *memFile) loseUnsynced() {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for i := range f.n.dirty {
		if f.n.lost == nil {
			f.n.lost = make(map[int64]struct{})
		}
		f.n.lost[i] = struct{}{}
	}
	clear(f.n.dirty)
}

// DropCache matters only after a sync that failed: what it lost is then seen
// to be gone.
func (f *memFile) DropCache() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for i := range f.n.lost {
		if _, ok := f.n.dirty[i]; ok {
			continue // written again meanwhile
		}
		if was := f.n.durable[i]; was != nil {
			f.n.pages[i] = was
		} else {
			delete(f.n.pages, i)
		}
		delete(f.n.lost, i)
	}
	return nil
}

func (f *memFile) Close() error { return nil }
