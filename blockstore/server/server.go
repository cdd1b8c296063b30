package server

import (
	"context"
	"encoding/binary"
	"log/slog"
	"slices"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/vfs"
)

// Options configures a Server.
type Options struct {
	// MayDelete decides about each Delete call. Nil refuses all.
	MayDelete func(peer wire.Peer) bool
	// Upkeep returns the background work of a disk, nil if there is none (yet). Nil is as one that returns nil.
	Upkeep func(disk uint32) Upkeep
	Logger *slog.Logger // default slog.Default()
}

// Upkeep is the background work of a store as far as it shows on the wire. *upkeep.Keeper is one.
type Upkeep interface {
	// Admit refuses a block node that does not take part in the placement group, or an epoch that the
	// group has not reached, both by the cluster map. Epoch 0 is always reached.
	Admit(ctx context.Context, node string, pg, epoch uint32) error
	// Report names shards that a reader found bad or missing, Hint blocks that may be dead. Neither blocks.
	Report(keys []segment.Key)
	Hint(keys []segment.Key)
	// StatusJSON is the state of the work.
	StatusJSON() ([]byte, error)
}

// Server serves stores. Its Handle is a wire.Handler.
type Server struct {
	stores map[uint32]*store.Store
	o      Options
}

// New makes a server of the stores, by disk number. It does not own them: they
// are closed by the caller, after the wire.Server that calls Handle.
func New(stores map[uint32]*store.Store, o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Server{stores: stores, o: o}
}

// operation is one row of the table of operations.
type operation struct {
	name  string
	roles []string // any of them may
	serve func(s *Server, ctx context.Context, call *wire.Call) error
}

func operationOf(op wire.Op) (operation, bool) {
	inquirers := []string{blockstore.RoleGateway, blockstore.RoleMeta, blockstore.RoleBlock}
	repairers := []string{blockstore.RoleGateway, blockstore.RoleBlock}
	switch op {
	case blockstore.OpPut:
		return operation{"put", inquirers[:1], (*Server).put}, true
	case blockstore.OpGet:
		return operation{"get", repairers, (*Server).get}, true
	case blockstore.OpStat:
		return operation{"stat", inquirers, (*Server).stat}, true
	case blockstore.OpList:
		return operation{"list", inquirers, (*Server).list}, true
	case blockstore.OpDelete:
		return operation{"delete", nil, (*Server).delete}, true
	case blockstore.OpFence:
		return operation{"fence", inquirers[1:], (*Server).fence}, true
	case blockstore.OpInfo:
		return operation{"info", inquirers, (*Server).info}, true
	case blockstore.OpRoom:
		return operation{"room", inquirers, (*Server).room}, true
	case blockstore.OpReport:
		return operation{"report", repairers, (*Server).report}, true
	case blockstore.OpHint:
		return operation{"hint", inquirers[1:2], (*Server).hint}, true
	case blockstore.OpGroups:
		return operation{"groups", inquirers, (*Server).groups}, true
	case blockstore.OpUpkeep:
		return operation{"upkeep", inquirers, (*Server).upkeep}, true
	}
	return operation{}, false
}

// Handles reports whether op is one of a block server's, so that several
// services can share a port.
func Handles(op wire.Op) bool {
	_, ok := operationOf(op)
	return ok
}

// Handle serves one call.
func (s *Server) Handle(ctx context.Context, call *wire.Call) error {
	op, ok := operationOf(call.Op)
	if !ok {
		return vfs.Errorf(vfs.KindNotSupported, "blockserver", "unknown operation %#x", call.Op)
	}
	allowed := slices.ContainsFunc(op.roles, call.Peer.HasRole)
	if call.Op == blockstore.OpDelete {
		allowed = s.o.MayDelete != nil && s.o.MayDelete(call.Peer)
	}
	if !allowed {
		s.o.Logger.Warn("block operation refused", "op", op.name, "peer", call.Peer.Name, "roles", call.Peer.Roles)
		return vfs.Errorf(vfs.KindPerm, "blockserver."+op.name, "node %q has none of the roles %v", call.Peer.Name, op.roles)
	}
	return op.serve(s, ctx, call)
}

func (s *Server) store(disk uint32) (*store.Store, error) {
	st := s.stores[disk]
	if st == nil {
		return nil, vfs.Errorf(vfs.KindIncompatible, "blockserver", "this node has no disk %d; the map is wrong or the disk is gone", disk)
	}
	return st, nil
}

func (s *Server) put(ctx context.Context, call *wire.Call) error {
	var r blockstore.PutRequest
	if err := r.Decode(call.Meta); err != nil {
		return err
	}
	st, err := s.store(r.Disk)
	if err != nil {
		return err
	}
	b := st.Budget()
	b.Begin(len(call.Payload))
	defer b.End()
	return st.Put(ctx, &store.Put{Key: r.Key, Epoch: r.Epoch, K: r.K, M: r.M, BlockLen: r.BlockLen, Owner: r.Owner, Data: call.Payload})
}

func (s *Server) get(ctx context.Context, call *wire.Call) error {
	var r blockstore.GetRequest
	if err := r.Decode(call.Meta); err != nil {
		return err
	}
	st, err := s.store(r.Disk)
	if err != nil {
		return err
	}
	if err := s.admit(ctx, call, blockstore.RoleGateway, r.Disk, r.Key.PG, 0); err != nil {
		return err
	}
	// More than a shard can have is refused, and is not to be paid for.
	if b, n := st.Budget(), int(min(r.Length, blockstore.MaxBlock)); !r.Background {
		b.Begin(n)
		defer b.End()
	} else if err := b.WaitN(ctx, n); err != nil {
		return err
	}
	data, err := st.Get(ctx, r.Key, int(r.Offset), int(r.Length))
	if err != nil {
		return err
	}
	defer data.Release()
	if !r.Background {
		return call.Reply(nil, data.Bytes)
	}
	x := data.Record
	reply := blockstore.StatReply{Owner: x.Owner, Shard: blockstore.ShardInfo{
		Block: x.Block, Shard: x.Shard, K: x.K, M: x.M, Length: x.Length, Epoch: x.Epoch, BlockLen: x.BlockLen,
	}}
	return call.Reply(reply.Append(nil), data.Bytes)
}

func infoOf(e store.Entry) blockstore.ShardInfo {
	return blockstore.ShardInfo{Block: e.Key.Block, Shard: e.Key.Shard, K: e.K, M: e.M, Length: e.Length, Epoch: e.Epoch, BlockLen: e.BlockLen}
}

func (s *Server) stat(ctx context.Context, call *wire.Call) error {
	var r blockstore.GetRequest
	if err := r.Decode(call.Meta); err != nil {
		return err
	}
	st, err := s.store(r.Disk)
	if err != nil {
		return err
	}
	e, owner, err := st.Stat(ctx, r.Key)
	if err != nil {
		return err
	}
	reply := blockstore.StatReply{Shard: infoOf(e), Owner: owner}
	return call.Reply(reply.Append(nil))
}

func (s *Server) list(ctx context.Context, call *wire.Call) error {
	var r blockstore.ListRequest
	if err := r.Decode(call.Meta); err != nil {
		return err
	}
	st, err := s.store(r.Disk)
	if err != nil {
		return err
	}
	entries, more, err := st.List(ctx, r.PG, r.After, int(min(r.Limit, store.MaxListEntries)))
	if err != nil {
		return err
	}
	var payload []byte
	for _, e := range entries {
		info := infoOf(e)
		payload = info.Append(payload)
	}
	reply := blockstore.ListReply{More: more}
	return call.Reply(reply.Append(nil), payload)
}

func (s *Server) groups(ctx context.Context, call *wire.Call) error {
	var r blockstore.GroupsRequest
	if err := r.Decode(call.Meta); err != nil {
		return err
	}
	st, err := s.store(r.Disk)
	if err != nil {
		return err
	}
	ids, more, err := st.Groups(ctx, r.After)
	if err != nil {
		return err
	}
	payload := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		payload = binary.LittleEndian.AppendUint32(payload, id)
	}
	reply := blockstore.ListReply{More: more}
	return call.Reply(reply.Append(nil), payload)
}

func (s *Server) delete(ctx context.Context, call *wire.Call) error {
	_, st, err := s.disk(call)
	if err != nil {
		return err
	}
	n, err := st.Delete(ctx, segment.DecodeKeys(call.Payload))
	if err != nil {
		return err
	}
	return call.Reply([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
}

func (s *Server) fence(ctx context.Context, call *wire.Call) error {
	r, st, err := s.disk(call)
	if err != nil {
		return err
	}
	epochs := segment.DecodeEpochs(call.Payload)
	for _, e := range epochs {
		if err := s.admit(ctx, call, blockstore.RoleMeta, r.Disk, e.PG, e.Epoch); err != nil {
			return err
		}
	}
	return st.Fence(ctx, epochs)
}

// disk decodes a request that names only a disk, and finds its store.
func (s *Server) disk(call *wire.Call) (r blockstore.DiskRequest, st *store.Store, err error) {
	if err := r.Decode(call.Meta); err != nil {
		return r, nil, err
	}
	st, err = s.store(r.Disk)
	return r, st, err
}

func (s *Server) info(_ context.Context, call *wire.Call) error {
	_, st, err := s.disk(call)
	if err != nil {
		return err
	}
	i := st.Info()
	reply := blockstore.InfoReply{
		Store: i.Store, Cluster: i.Cluster, MetadataIncarnation: i.MetadataIncarnation,
		Capacity: uint64(i.Capacity), Used: uint64(i.Used), Writable: i.Writable, Full: i.Full,
	}
	return call.Reply(reply.Append(nil))
}

func (s *Server) room(_ context.Context, call *wire.Call) error {
	_, st, err := s.disk(call)
	if err != nil {
		return err
	}
	i := st.Info()
	reply := i.Room()
	return call.Reply(reply.Append(nil))
}
