package fsm

// names knows of directories that were empty at some time since the machine was opened which names they have not, so that making a name in one
// of them takes no read of the store. It is memory only and decides nothing: it says what a read would say. Whatever is written adds to
// it at once; what is taken back, or removed, stays in it.
type names struct {
	dirs map[inoKey]*nameFilter
	size int // bytes of all filters
}

const (
	// maxNamesBytes bounds the filters of a machine: 2 bytes a name, for about as many names again.
	maxNamesBytes = 8 << 20

	nameBits       = 16  // of a filter for each name
	firstNames     = 64  // that fit into a filter's first layer
	namesGrow      = 4   // times as many fit into the next one
	filterOverhead = 128 // bytes of a filter besides its layers
)

// nameFilter is a Bloom filter in layers, each larger than the one before.
type nameFilter struct {
	layers [][]uint64
	room   int // for names in the last layer
}

// probes are the bits of a cookie in a layer. The hash in a cookie is keyed, so nobody chooses names that have equal ones.
func probes(layer []uint64, cookie uint64) (a, b uint64) {
	h := cookie * 0x9e3779b97f4a7c15
	mask := uint64(len(layer))*64 - 1
	return (h >> 32) & mask, (h ^ h>>29) & mask
}

// empty notes that a directory has no entries.
func (s *names) empty(dir inoKey) {
	if s.dirs == nil {
		s.dirs = make(map[inoKey]*nameFilter)
	}
	if f := s.dirs[dir]; f != nil && len(f.layers) == 0 {
		return
	}
	s.drop(dir)
	s.dirs[dir] = &nameFilter{}
	if s.size += filterOverhead; s.size > maxNamesBytes {
		s.shrink()
	}
}

// lacks reports that there is certainly no entry with the cookie.
func (s *names) lacks(dir inoKey, cookie uint64) bool {
	f := s.dirs[dir]
	if f == nil {
		return false
	}
	for _, l := range f.layers {
		a, b := probes(l, cookie)
		if l[a/64]&(1<<(a%64)) != 0 && l[b/64]&(1<<(b%64)) != 0 {
			return false
		}
	}
	return true
}

// add notes an entry.
func (s *names) add(dir inoKey, cookie uint64) {
	f := s.dirs[dir]
	if f == nil {
		return
	}
	if f.room == 0 {
		f.room = firstNames
		if n := len(f.layers); n > 0 {
			f.room = namesGrow * len(f.layers[n-1]) * 64 / nameBits
		}
		l := make([]uint64, f.room*nameBits/64)
		f.layers = append(f.layers, l)
		if s.size += 8 * len(l); s.size > maxNamesBytes {
			s.shrink()
			if f = s.dirs[dir]; f == nil {
				return
			}
		}
	}
	f.room--
	l := f.layers[len(f.layers)-1]
	a, b := probes(l, cookie)
	l[a/64] |= 1 << (a % 64)
	l[b/64] |= 1 << (b % 64)
}

// shrink forgets directories, whichever come first, until the rest takes half of what it may.
func (s *names) shrink() {
	for dir := range s.dirs {
		if s.size <= maxNamesBytes/2 {
			return
		}
		s.drop(dir)
	}
}

// drop forgets a directory.
func (s *names) drop(dir inoKey) {
	f := s.dirs[dir]
	if f == nil {
		return
	}
	delete(s.dirs, dir)
	s.size -= filterOverhead
	for _, l := range f.layers {
		s.size -= 8 * len(l)
	}
}
