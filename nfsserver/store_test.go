package nfsserver_test

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
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

// keptStore is a state.SessionStore that survives the servers of one test, for the clients of one memfs.Kept.
type keptStore struct {
	fs *memfs.Kept

	mu         sync.Mutex
	last       state.ClientID
	clients    map[state.ClientID]state.ClientRecord
	sessions   map[state.SessionID]state.SessionRecord
	seqids     map[state.ClientID][]state.StateSeqid
	replies    map[state.ClientID][]state.SlotReply
	removed    map[state.ClientID]bool
	failing    error // of PutClient and PutSession
	unreleased error // of ReleaseSlots
}

var _ state.SessionStore = (*keptStore)(nil)

func newKeptStore(fs *memfs.Kept) *keptStore {
	return &keptStore{fs: fs, clients: map[state.ClientID]state.ClientRecord{}, seqids: map[state.ClientID][]state.StateSeqid{}, replies: map[state.ClientID][]state.SlotReply{},
		sessions: map[state.SessionID]state.SessionRecord{}, removed: map[state.ClientID]bool{}}
}

func (k *keptStore) NewClientIDs(context.Context) ([]state.ClientID, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last += 2
	return []state.ClientID{k.last - 1, k.last}, nil
}

func (k *keptStore) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failing = err
}

// release lets ReleaseSlots fail.
func (k *keptStore) release(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unreleased = err
}

func (k *keptStore) put(r state.ClientRecord) error {
	if k.failing != nil {
		return k.failing
	}
	if k.removed[r.ClientID] {
		return vfs.KindExpired.Err("put client")
	}
	r.Owner = bytes.Clone(r.Owner)
	k.clients[r.ClientID] = r
	return nil
}

func (k *keptStore) PutClient(_ context.Context, r state.ClientRecord) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.put(r)
}

func (k *keptStore) RemoveClient(_ context.Context, r state.ClientRecord) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.clients, r.ClientID)
	for id, s := range k.sessions {
		if s.Client == r.ClientID {
			delete(k.sessions, id)
		}
	}
	k.removed[r.ClientID] = true
	k.fs.Release(uint64(r.ClientID))
	return nil
}

func (k *keptStore) Clients(context.Context) ([]state.ClientRecord, error) { return nil, nil }

func (k *keptStore) PutSession(_ context.Context, p state.SessionPut) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.put(p.Client); err != nil {
		return err
	}
	k.sessions[p.Session.ID] = p.Session
	return nil
}

func (k *keptStore) RemoveSession(_ context.Context, r state.SessionRecord) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.sessions, r.ID)
	return nil
}

func (k *keptStore) ReleaseSlots(_ context.Context, g state.SlotsGone) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unreleased != nil {
		return k.unreleased
	}
	k.fs.ReleaseSlots(g.Session, g.First, g.Below)
	return nil
}

func (k *keptStore) state(id state.ClientID) state.ClientState {
	cs := state.ClientState{Client: k.clients[id], Seqids: k.seqids[id], Replies: k.replies[id]}
	for _, s := range k.sessions {
		if s.Client == id {
			cs.Sessions = append(cs.Sessions, s)
		}
	}
	return cs
}

func (k *keptStore) Load(context.Context) (out []state.ClientState, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range k.clients {
		out = append(out, k.state(id))
	}
	return out, nil
}

func (k *keptStore) ClientOf(_ context.Context, id state.SessionID) (state.ClientID, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.sessions[id]
	if !ok {
		return 0, vfs.KindNotFound.Err("find session")
	}
	return s.Client, nil
}

func (k *keptStore) ClientOfOwner(_ context.Context, owner []byte) (id state.ClientID, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.clients {
		if bytes.Equal(r.Owner, owner) {
			id = max(id, r.ClientID)
		}
	}
	if id == 0 {
		err = vfs.KindNotFound.Err("find client")
	}
	return id, err
}

func (k *keptStore) Take(_ context.Context, id state.ClientID) (state.ClientState, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.clients[id]; !ok {
		return state.ClientState{}, vfs.KindNotFound.Err("take client")
	}
	return k.state(id), nil
}

func (k *keptStore) Wish(context.Context, state.ClientID) error {
	return vfs.KindNotSupported.Err("wish")
}

// Give implements state.SessionStore. All servers of it are the same one to it.
func (k *keptStore) Give(_ context.Context, id state.ClientID, h state.Handed) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range h.Sessions {
		if _, ok := k.sessions[s.ID]; ok {
			k.sessions[s.ID] = s
		}
	}
	k.seqids[id], k.replies[id] = h.Seqids, h.Replies
	_, ok := k.clients[id]
	return ok, nil
}

// owners lists the recorded clients.
func (k *keptStore) owners() (out []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.clients {
		out = append(out, string(r.Owner))
	}
	slices.Sort(out)
	return out
}
