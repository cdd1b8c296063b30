package server

import (
	"context"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/vfs"
)

func (s *Server) upkeepOf(disk uint32) Upkeep {
	if s.o.Upkeep == nil {
		return nil
	}
	return s.o.Upkeep(disk)
}

// admit lets peers with the role free do what they like, and block nodes only what concerns placement groups that they are members of.
func (s *Server) admit(ctx context.Context, call *wire.Call, free string, disk, pg, epoch uint32) error {
	if call.Peer.HasRole(free) {
		return nil
	}
	u := s.upkeepOf(disk)
	if u == nil {
		return vfs.Errorf(vfs.KindUnavailable, "blockserver", "disk %d does not have the cluster map yet: it cannot tell whether node %q is a member of placement group %d; try again", disk, call.Peer.Name, pg)
	}
	return u.Admit(ctx, call.Peer.Name, pg, epoch)
}

// keys are those of a report or a hint.
func (s *Server) keys(call *wire.Call) (Upkeep, []segment.Key, error) {
	var r blockstore.DiskRequest
	if err := r.Decode(call.Meta); err != nil {
		return nil, nil, err
	}
	if _, err := s.store(r.Disk); err != nil {
		return nil, nil, err
	}
	keys := segment.DecodeKeys(call.Payload)
	if len(keys) > store.MaxDeleteKeys {
		return nil, nil, vfs.Errorf(vfs.KindTooMany, "blockserver", "%d keys in one call, at most %d", len(keys), store.MaxDeleteKeys)
	}
	return s.upkeepOf(r.Disk), keys, nil
}

func (s *Server) report(_ context.Context, call *wire.Call) error {
	u, keys, err := s.keys(call)
	if err == nil && u != nil {
		u.Report(keys)
	}
	return err
}

func (s *Server) hint(_ context.Context, call *wire.Call) error {
	u, keys, err := s.keys(call)
	if err == nil && u != nil {
		u.Hint(keys)
	}
	return err
}

func (s *Server) upkeep(_ context.Context, call *wire.Call) error {
	var r blockstore.DiskRequest
	if err := r.Decode(call.Meta); err != nil {
		return err
	}
	if _, err := s.store(r.Disk); err != nil {
		return err
	}
	u := s.upkeepOf(r.Disk)
	if u == nil {
		return vfs.Errorf(vfs.KindUnavailable, "blockserver.upkeep", "disk %d has no background work yet", r.Disk)
	}
	status, err := u.StatusJSON()
	if err != nil {
		return vfs.Errorf(vfs.KindInternal, "blockserver.upkeep", "%w", err)
	}
	return call.Reply(nil, status)
}
