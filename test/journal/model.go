//go:build linux

package journal

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path"
	"sort"
)

// Record is one acknowledged change. Paths are relative to the writer's directory.
type Record struct {
	Worker int    `json:"w"`
	N      int    `json:"n"` // number of the change in its worker, from 1
	Op     string `json:"op"`
	Path   string `json:"p"`
	To     string `json:"to,omitempty"`   // rename: new name; link: new name; symlink: target
	Offset int64  `json:"off,omitempty"`  // write; truncate: new size
	Len    int    `json:"len,omitempty"`  // write
	Mode   uint32 `json:"mode,omitempty"` // create, mkdir, chmod
	Sync   string `json:"sync,omitempty"` // write: how it was made durable
}

// Operations of a Record.
const (
	opCreate   = "create"
	opMkdir    = "mkdir"
	opSymlink  = "symlink"
	opLink     = "link"
	opRename   = "rename"
	opUnlink   = "unlink"
	opRmdir    = "rmdir"
	opChmod    = "chmod"
	opTruncate = "truncate"
	opWrite    = "write"
)

// node is an inode of the model.
type node struct {
	kind   byte // 'f', 'd', 'l'
	mode   uint32
	data   []byte
	target string
	links  int
	last   Record // that changed it, for messages
}

// Model is the tree of one worker as its records say.
type Model struct {
	names map[string]*node
}

// NewModel is an empty directory.
func NewModel() *Model { return &Model{names: map[string]*node{}} }

// bytesOf returns the bytes that a write record stands for. They depend on the seed of the run and on the record, so no
// other record's bytes can pass for them.
func bytesOf(seed uint64, r Record) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], uint64(r.Worker)<<32|uint64(r.N))
	b := make([]byte, r.Len)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// Apply performs a record. An error means that the journal contradicts itself.
func (m *Model) Apply(seed uint64, r Record) error {
	n := m.names[r.Path]
	need := func(kinds string) error {
		if n == nil {
			return fmt.Errorf("record %+v: no such name", r)
		}
		for i := range kinds {
			if kinds[i] == n.kind {
				return nil
			}
		}
		return fmt.Errorf("record %+v: %s is of kind %c", r, r.Path, n.kind)
	}
	add := func(name string, fresh *node) error {
		if m.names[name] != nil {
			return fmt.Errorf("record %+v: %s exists", r, name)
		}
		fresh.links++
		fresh.last = r
		m.names[name] = fresh
		return nil
	}
	drop := func(name string) {
		if old := m.names[name]; old != nil {
			old.links--
			old.last = r
			delete(m.names, name)
		}
	}
	switch r.Op {
	case opCreate:
		return add(r.Path, &node{kind: 'f', mode: r.Mode})
	case opMkdir:
		return add(r.Path, &node{kind: 'd', mode: r.Mode})
	case opSymlink:
		return add(r.Path, &node{kind: 'l', target: r.To})
	case opLink:
		if err := need("f"); err != nil {
			return err
		}
		return add(r.To, n)
	case opUnlink, opRmdir:
		if err := need(map[string]string{opUnlink: "fl", opRmdir: "d"}[r.Op]); err != nil {
			return err
		}
		drop(r.Path)
	case opRename:
		if err := need("fdl"); err != nil {
			return err
		}
		if m.names[r.To] == n { // two names of one file: nothing happens
			return nil
		}
		drop(r.To)
		for name, below := range m.names { // a directory takes what is below along
			if n.kind == 'd' && len(name) > len(r.Path) && name[:len(r.Path)+1] == r.Path+"/" {
				delete(m.names, name)
				m.names[r.To+name[len(r.Path):]] = below
			}
		}
		delete(m.names, r.Path)
		m.names[r.To] = n
		n.last = r
	case opChmod:
		if err := need("fd"); err != nil {
			return err
		}
		n.mode, n.last = r.Mode, r
	case opTruncate:
		if err := need("f"); err != nil {
			return err
		}
		n.resize(int(r.Offset))
		n.last = r
	case opWrite:
		if err := need("f"); err != nil {
			return err
		}
		if end := int(r.Offset) + r.Len; end > len(n.data) {
			n.resize(end)
		}
		copy(n.data[r.Offset:], bytesOf(seed, r))
		n.last = r
	default:
		return fmt.Errorf("record %+v: unknown operation", r)
	}
	return nil
}

func (n *node) resize(size int) {
	if size <= len(n.data) {
		n.data = n.data[:size:size] // capped, so that growing again yields zeros
		return
	}
	n.data = append(n.data, make([]byte, size-len(n.data))...)
}

// list returns the names of a kind, sorted, so that a choice among them depends on the seed only.
func (m *Model) list(kinds string) []string {
	var names []string
	for name, n := range m.names {
		for i := range kinds {
			if n.kind == kinds[i] {
				names = append(names, name)
			}
		}
	}
	sort.Strings(names)
	return names
}

// empty says whether a directory has nothing in it.
func (m *Model) empty(dir string) bool {
	for name := range m.names {
		if path.Dir(name) == dir {
			return false
		}
	}
	return true
}
