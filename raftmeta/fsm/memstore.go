package fsm

import (
	"strings"
	"sync"

	"github.com/RaduBerinde/btreemap"
)

// MemStore is an ordered store in memory: a View and a Writer for tests, and
// what a Pebble database is for a voter. Writes are visible at once.
type MemStore struct {
	mu   sync.RWMutex // guards tree
	tree *btreemap.BTreeMap[string, []byte]
}

var (
	_ View   = (*MemStore)(nil)
	_ Writer = (*MemStore)(nil)
)

// NewMemStore makes an empty store.
func NewMemStore() *MemStore {
	return &MemStore{tree: btreemap.New[string, []byte](32, strings.Compare)}
}

// Get implements View.
func (s *MemStore) Get(key []byte) ([]byte, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, v, ok := s.tree.Get(string(key))
	return v, ok, nil
}

// Scan implements View. It reads the state of the moment it began.
func (s *MemStore) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	s.mu.Lock() // Clone marks nodes as shared
	t := s.tree.Clone()
	s.mu.Unlock()
	for k, v := range t.Ascend(btreemap.GE(string(lo)), btreemap.LT(string(hi))) {
		if !fn([]byte(k), v) {
			break
		}
	}
	return nil
}

// Set implements Writer.
func (s *MemStore) Set(k, v []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tree.ReplaceOrInsert(string(k), append([]byte(nil), v...))
	return nil
}

// Delete implements Writer.
func (s *MemStore) Delete(k []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tree.Delete(string(k))
	return nil
}

// Snapshot is a copy that later writes to s do not change.
func (s *MemStore) Snapshot() *MemStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &MemStore{tree: s.tree.Clone()}
}

// Len is the number of keys.
func (s *MemStore) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tree.Len()
}
