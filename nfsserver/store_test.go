package nfsserver_test

import (
	"context"
	"sync"

	"github.com/rackfs/rackfs/nfsserver/state"
)

// memStore is a state.StateStore that survives the servers of one test.
type memStore struct {
	mu   sync.Mutex
	recs map[string]state.ClientRecord
}

func newMemStore() *memStore { return &memStore{recs: map[string]state.ClientRecord{}} }

func (m *memStore) PutClient(_ context.Context, r state.ClientRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.recs[string(r.Owner)] = r
	return nil
}

func (m *memStore) RemoveClient(_ context.Context, r state.ClientRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.recs[string(r.Owner)].ClientID == r.ClientID {
		delete(m.recs, string(r.Owner))
	}
	return nil
}

func (m *memStore) Clients(context.Context) (out []state.ClientRecord, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.recs {
		out = append(out, r)
	}
	return out, nil
}
