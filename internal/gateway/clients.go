package gateway

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// clientStore is the NFS server's state.StateStore in shard 0 below feature level 3, where clients have to reclaim after a restart. A gateway
// writes only its own clients' records, so it knows which incarnation of a
// client is the recorded one.
type clientStore struct {
	meta    volume.Meta
	gateway string

	mu       sync.Mutex                // also makes changes of one owner's record happen in order
	recorded map[string]state.ClientID // by owner
}

var _ state.StateStore = (*clientStore)(nil)

func newClientStore(meta volume.Meta, gateway string) *clientStore {
	return &clientStore{meta: meta, gateway: gateway, recorded: map[string]state.ClientID{}}
}

// clusterShard is the shard of everything that is not a namespace.
const clusterShard = 0

// recordTimeout bounds a change of a record. It does not end with the NFS call
// that asked for it: a change given up half-way could be overtaken by the next
// one of the same owner.
const recordTimeout = 30 * time.Second

// PutClient implements state.StateStore.
func (s *clientStore) PutClient(ctx context.Context, rec state.ClientRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	_, err := s.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutNfsClient{PutNfsClient: &metapb.PutNFSClient{
		Client: &metapb.NFSClient{Gateway: s.gateway, Owner: rec.Owner, Record: encodeClient(rec)},
	}}})
	if err != nil {
		return vfs.Wrap("gateway.record client", err)
	}
	s.recorded[string(rec.Owner)] = rec.ClientID
	return nil
}

// has reports whether rec is recorded.
func (s *clientStore) has(rec state.ClientRecord) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.recorded[string(rec.Owner)]
	return ok && id == rec.ClientID
}

// RemoveClient implements state.StateStore.
func (s *clientStore) RemoveClient(ctx context.Context, rec state.ClientRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id, ok := s.recorded[string(rec.Owner)]; !ok || id != rec.ClientID {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	_, err := s.meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RemoveNfsClient{RemoveNfsClient: &metapb.RemoveNFSClient{
		Gateway: s.gateway, Owner: rec.Owner,
	}}})
	if err != nil {
		return vfs.Wrap("gateway.forget client", err)
	}
	delete(s.recorded, string(rec.Owner))
	return nil
}

// Clients implements state.StateStore.
func (s *clientStore) Clients(ctx context.Context) ([]state.ClientRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_NfsClients{NfsClients: &metapb.NFSClientsQ{Gateway: s.gateway}}})
	if err != nil {
		return nil, vfs.Wrap("gateway.clients", err)
	}
	var out []state.ClientRecord
	for _, c := range r.GetNfsClients().GetClients() {
		rec, err := decodeClient(c)
		if err != nil {
			return nil, err
		}
		s.recorded[string(rec.Owner)] = rec.ClientID
		out = append(out, rec)
	}
	return out, nil
}

// clientFormat is the first byte of a record: then 8 bytes of verifier, 8 of
// client id (big-endian), and the principal.
const clientFormat = 1

func encodeClient(rec state.ClientRecord) []byte {
	b := make([]byte, 0, 17+len(rec.Principal))
	b = append(b, clientFormat)
	b = append(b, rec.Verifier[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(rec.ClientID))
	return append(b, rec.Principal...)
}

func decodeClient(c *metapb.NFSClient) (state.ClientRecord, error) {
	b := c.GetRecord()
	if len(b) < 17 || b[0] != clientFormat {
		return state.ClientRecord{}, vfs.Errorf(vfs.KindIncompatible, "gateway.clients", "record of NFS client %q is of a format this version does not know", c.GetOwner())
	}
	rec := state.ClientRecord{Owner: c.GetOwner(), ClientID: state.ClientID(binary.BigEndian.Uint64(b[9:17])), Principal: state.Principal(b[17:])}
	copy(rec.Verifier[:], b[1:9])
	return rec, nil
}
