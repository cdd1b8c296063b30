package vfile

import (
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"path"
	"slices"
)

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
	lucky := func() bool { return rng.Float64() < survive }
	return m.clone(func(string) bool { return lucky() }, func(n *memNode) *memNode { return n.crash(rng, survive) })
}

// Crashes returns what power cuts at this moment may leave, for every change of
// a name that was not synced: none of the others survives, or all of them do, and the
// change itself does or does not. Nothing of the contents that were not synced survives. The last one is
// what the death of the process leaves: everything. The names in a directory for which together answers true
// survive all or not at all, for the sake of programs that expect a file system to keep their order. It may be nil.
func (m *Mem) Crashes(together func(dir string) bool) []*Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	group := func(name string) string {
		if d := path.Dir(name); together != nil && together(d) {
			return d + "/"
		}
		return name
	}
	var unsynced []string
	synced := (*memNode).syncedOnly
	none := m.clone(func(name string) bool { unsynced = append(unsynced, group(name)); return false }, synced)
	all := []*Mem{none}
	m.clone(func(name string) bool { unsynced = append(unsynced, group(name)); return true }, synced) // below what survives there are more
	slices.Sort(unsynced)
	unsynced = slices.Compact(unsynced)
	for _, x := range unsynced {
		all = append(all,
			m.clone(func(name string) bool { return group(name) == x }, synced),
			m.clone(func(name string) bool { return group(name) != x }, synced))
	}
	return append(all,
		m.clone(func(string) bool { return true }, synced),
		m.clone(func(string) bool { return true }, (*memNode).everything))
}

// clone copies the tree as it is durable, with those changes of names that keep
// chooses, and files as content says. m.mu is held.
func (m *Mem) clone(keep func(path string) bool, content func(*memNode) *memNode) *Mem {
	c := NewMem(m.capacity)
	files := make(map[*memNode]*memNode)
	var dir func(path string, d *memNode) *memNode
	dir = func(path string, d *memNode) *memNode {
		cd := newDir()
		cd.synced = true
		all := cloneMap(d.names)
		for name, n := range d.durable {
			all[name] = n
		}
		for _, name := range sortedKeys(all) {
			now, n := d.names[name], d.durable[name]
			if n != nil && n.dir && !n.synced {
				n = nil
			}
			if now != n && keep(path+"/"+name) {
				n = now
			}
			if n == nil {
				continue
			}
			if n.dir {
				cd.names[name] = dir(path+"/"+name, n)
				continue
			}
			cn := files[n]
			if cn == nil {
				cn = content(n)
				cn.mode = n.mode
				files[n] = cn
				c.used += cn.allocated
			}
			cn.links++
			cd.names[name] = cn
		}
		cd.durable = cloneMap(cd.names)
		return cd
	}
	c.root = dir("", m.root)
	return c
}

// syncedOnly is the file with the contents that were synced.
func (n *memNode) syncedOnly() *memNode {
	c := newFile()
	c.pages, c.size, c.allocated = cloneMap(n.stable), n.dsize, n.allocated
	c.stable, c.dsize = cloneMap(c.pages), c.size
	return c
}

// everything is the file as a process sees it.
func (n *memNode) everything() *memNode {
	c := newFile()
	c.size, c.allocated = n.size, n.allocated
	for i, p := range n.pages {
		if p != n.stable[i] {
			q := *p // it may still be modified in place
			p = &q
		}
		c.pages[i] = p
	}
	c.stable, c.dsize = cloneMap(c.pages), c.size
	return c
}

func (n *memNode) crash(rng *rand.Rand, survive float64) *memNode {
	c := n.syncedOnly()
	if n.size != n.dsize && rng.Float64() < survive {
		c.size = n.size
	}
	dirty := make([]int64, 0, len(n.dirty))
	for i := range n.dirty {
		dirty = append(dirty, i)
	}
	slices.Sort(dirty)
	for _, i := range dirty {
		now, was := n.pages[i], n.stable[i]
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
	c.stable, c.dsize = cloneMap(c.pages), c.size
	return c
}

// Prints tells the clones of a file system apart. The zero value is not ready; use NewPrints. It
// is not for concurrent use.
type Prints struct {
	seed  maphash.Seed
	pages map[*page]uint64 // of pages that do not change any more
}

// NewPrints returns prints that have seen nothing yet.
func NewPrints() *Prints {
	return &Prints{seed: maphash.MakeSeed(), pages: make(map[*page]uint64)}
}

// Of is the same for two file systems that have the same names and contents. Nobody may use m meanwhile.
func (x *Prints) Of(m *Mem) uint64 {
	var h maphash.Hash
	h.SetSeed(x.seed)
	word := func(v uint64) {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		h.Write(b[:])
	}
	var walk func(n *memNode)
	walk = func(n *memNode) {
		if n.dir {
			word(uint64(len(n.names)))
			for _, name := range sortedKeys(n.names) {
				h.WriteString(name)
				h.WriteByte('/')
				walk(n.names[name])
			}
			return
		}
		word(uint64(n.size))
		index := make([]int64, 0, len(n.pages))
		for i := range n.pages {
			index = append(index, i)
		}
		slices.Sort(index)
		for _, i := range index {
			p := n.pages[i]
			sum, ok := x.pages[p]
			if !ok {
				sum = maphash.Bytes(x.seed, p[:])
				x.pages[p] = sum
			}
			word(uint64(i))
			word(sum)
		}
	}
	walk(m.root)
	return h.Sum64()
}
