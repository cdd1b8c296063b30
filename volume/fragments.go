package volume

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// FragmentSize is how much of a file a Fragment is about.
	FragmentSize = chunkSize
	// maxFragments bounds what is remembered; beyond it chunks stay as they are until they are flushed again.
	maxFragments = 65536
	// fragmentSegments is how many pieces of a chunk are worth a look whether they can be one block.
	fragmentSegments = 16
)

// Fragment is a chunk of a file that flushes left in pieces, in the metadata or in small blocks.
type Fragment struct {
	Ino    vfs.Ino
	Offset uint64 // multiple of FragmentSize

	flushed time.Time // last
}

// fragments remembers which chunks may be worth folding, and when they were flushed last. It is a hint: what
// is forgotten costs only space.
type fragments struct {
	mu sync.Mutex // guards the field below
	at map[fragmentKey]time.Time
}

type fragmentKey struct {
	ino vfs.Ino
	off uint64
}

// noteFragments notes what was flushed of e: a chunk that is in pieces, or a new time of one that was. exts is in
// ascending order and in e.ext already. e.mu is held.
func (v *Volume) noteFragments(e *inode, exts []newExtent) {
	now := v.cfg.Now()
	f := &v.fragments
	for i := 0; i < len(exts); {
		off := exts[i].seg.off / chunkSize * chunkSize
		inline := false
		for ; i < len(exts) && exts[i].seg.off < off+chunkSize; i++ {
			inline = inline || exts[i].seg.inline != nil
		}
		// A file that fits a page stays in the metadata.
		pieces := e.meta.Size > inlineMax && (inline || e.ext.between(e.ext.at(off), e.ext.at(off+chunkSize-1))+1 >= fragmentSegments)
		k := fragmentKey{e.ino, off}
		f.mu.Lock()
		if _, known := f.at[k]; known || pieces && len(f.at) < maxFragments {
			if f.at == nil {
				f.at = make(map[fragmentKey]time.Time)
			}
			f.at[k] = now
		}
		f.mu.Unlock()
	}
}

// FragmentCount is how many fragments are remembered.
func (v *Volume) FragmentCount() int {
	v.fragments.mu.Lock()
	defer v.fragments.mu.Unlock()
	return len(v.fragments.at)
}

// TakeFragments returns up to max fragments, oldest first, that were not written for age, and forgets them.
func (v *Volume) TakeFragments(age time.Duration, max int) (out []Fragment) {
	f := &v.fragments
	now := v.cfg.Now()
	old := now.Add(-age)
	f.mu.Lock()
	for k, at := range f.at {
		if !at.After(old) {
			out = append(out, Fragment{k.ino, k.off, at})
		}
	}
	f.mu.Unlock()
	slices.SortFunc(out, func(a, b Fragment) int {
		return cmp.Or(a.flushed.Compare(b.flushed), cmp.Compare(a.Ino, b.Ino), cmp.Compare(a.Offset, b.Offset))
	})
	if len(out) > max {
		out = out[:max]
	}
	taken := out[:0]
	for _, g := range out {
		dirty := v.isDirty(g)
		k := fragmentKey{g.Ino, g.Offset}
		f.mu.Lock()
		switch at := f.at[k]; {
		case !at.Equal(g.flushed): // flushed meanwhile
		case dirty:
			f.at[k] = now
		default:
			delete(f.at, k)
			taken = append(taken, g)
		}
		f.mu.Unlock()
	}
	return taken
}

// PutBackFragments remembers fragments again that were taken and could not be folded now.
func (v *Volume) PutBackFragments(list []Fragment) {
	f := &v.fragments
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at == nil {
		f.at = make(map[fragmentKey]time.Time)
	}
	for _, g := range list {
		k := fragmentKey{g.Ino, g.Offset}
		if _, known := f.at[k]; !known && len(f.at) < maxFragments {
			f.at[k] = g.flushed
		}
	}
}

// AddFragment remembers a chunk that somebody found in pieces, as one that was flushed age ago.
func (v *Volume) AddFragment(ino vfs.Ino, off uint64, age time.Duration) {
	f := &v.fragments
	k := fragmentKey{ino, off / chunkSize * chunkSize}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.at[k]; known || len(f.at) >= maxFragments {
		return
	}
	if f.at == nil {
		f.at = make(map[fragmentKey]time.Time)
	}
	f.at[k] = v.cfg.Now().Add(-age)
}

// isDirty reports whether bytes of g are buffered.
func (v *Volume) isDirty(g Fragment) bool {
	e := v.find(g.Ino)
	if e == nil {
		return false
	}
	defer v.release(e)
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.chunks[g.Offset/chunkSize] != nil
}
