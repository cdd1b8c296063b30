package vfile

import (
	"io"
	"io/fs"
	"syscall"
)

type memFile struct {
	m    *Mem
	n    *memNode
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
	f.m.before(WriteFile, f.name)
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.grow(off + int64(len(p))); err != nil {
		return err
	}
	for len(p) > 0 {
		i, in := off/PageSize, int(off%PageSize)
		n := min(PageSize-in, len(p))
		pg := f.n.pages[i]
		if pg == nil && n == PageSize && [PageSize]byte(p) == (page{}) {
			p, off = p[n:], off+int64(n) // a page that is not there reads as zeros
			continue
		}
		if pg == nil || pg == f.n.stable[i] {
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

func (f *memFile) Allocate(size int64) (bool, error) {
	f.m.before(WriteFile, f.name)
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return true, f.grow(size)
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
	if f.m.before(SyncFile, f.name) {
		return nil
	}
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for i := range f.n.dirty {
		f.n.stable[i] = f.n.pages[i]
		delete(f.n.lost, i)
	}
	clear(f.n.dirty)
	f.n.dsize = f.n.size
	return nil
}

func (f *memFile) Chmod(mode fs.FileMode) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.mode = mode
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
func (f *memFile) DropCache() error { return f.DropRange(0, 0) }

// DropRange drops n bytes at off, those to the end of the file if n is 0.
func (f *memFile) DropRange(off, n int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for i := range f.n.lost {
		if _, ok := f.n.dirty[i]; ok {
			continue // written again meanwhile
		}
		if pos := i * PageSize; n > 0 && (pos >= off+n || pos+PageSize <= off) {
			continue
		}
		if was := f.n.stable[i]; was != nil {
			f.n.pages[i] = was
		} else {
			delete(f.n.pages, i)
		}
		delete(f.n.lost, i)
	}
	return nil
}

func (f *memFile) Close() error { return nil }
