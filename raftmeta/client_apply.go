package raftmeta

import (
	"context"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	opApply = "raftmeta.apply"
	opQuery = "raftmeta.query"

	fieldCommandID = 1 // Command.id
)

// Apply makes a command take effect exactly once and returns its result. It fills in the
// time, if it is absent, and the identity, if the client is registered with the shard and the command has none;
// a command that comes with an identity keeps it, and then its owner has to see that identities are not used twice.
//
// A result with an error kind becomes a *vfs.Error of that kind. KindUnknown means that ctx ended, or the
// client was closed, while the command was on its way; the client goes on to find out, and does not use its identity for
// anything else. Or an answer was lost and the origin ended before it could be asked for again; then KindUnknownOrigin is its cause, and the
// caller must not repeat the command under another origin as if it had not happened. Any other error means that the command had no effect and will have none.
func (c *Client) Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	if cmd.Time == nil {
		now := c.opt.Clock()
		cmd.Time = &metapb.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
	}
	enc, err := cmd.MarshalVT()
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, opApply, "%w", err)
	}
	if len(enc) > maxItemBytes {
		return nil, vfs.Errorf(vfs.KindTooMany, opApply, "command of %d bytes, limit %d: split it", len(enc), maxItemBytes)
	}
	if err := ctx.Err(); err != nil {
		return nil, vfs.Errorf(vfs.KindOf(context.Cause(ctx)), opApply, "%w", context.Cause(ctx))
	}
	s := c.shard(shard)
	it := &item{enc: enc, done: make(chan outcome, 1), bare: cmd.Id != nil || idempotent(cmd), request: vfs.RequestOf(ctx)}
	s.mu.Lock()
	if !it.bare && s.origin == 0 {
		s.mu.Unlock()
		return nil, vfs.Errorf(vfs.KindUnknownOrigin, opApply, "register with shard %d first", shard)
	}
	s.commands = append(s.commands, it)
	s.pumpCommands()
	s.mu.Unlock()
	o, err := s.wait(ctx, it, opApply)
	if err != nil {
		return nil, err
	}
	if k := vfs.Kind(o.result.Kind); k != vfs.KindOK {
		return nil, &vfs.Error{Kind: k, Op: opApply, Text: o.result.Text}
	}
	return o.result, nil
}

// idempotent reports commands that metapb allows without an origin. Records of NFS clients are not among
// them: they come and go, and a delayed duplicate could bring back one that was removed.
func idempotent(cmd *metapb.Command) bool {
	switch op := cmd.Op.(type) {
	case *metapb.Command_RemoveClient:
		return op.RemoveClient.GetOrigin() != 0
	case *metapb.Command_ReleaseClients, *metapb.Command_ReleaseSession, *metapb.Command_ForgetClients:
		return true
	case *metapb.Command_RegisterOrigin, *metapb.Command_ExpireOrigin, *metapb.Command_RaiseLevel, *metapb.Command_Purge,
		*metapb.Command_ReapBlocks, *metapb.Command_ChangePgs, *metapb.Command_ReplaceStore,
		*metapb.Command_PutFileSystem, *metapb.Command_PutStore, *metapb.Command_PutPool,
		*metapb.Command_PutKey,
		*metapb.Command_AllowDeletion,
		*metapb.Command_PutNode, *metapb.Command_RemoveNode, *metapb.Command_PutToken, *metapb.Command_JoinNode,
		*metapb.Command_PutGroup, *metapb.Command_RemoveGroup, *metapb.Command_ReserveRacks, *metapb.Command_SetNodeGroup, *metapb.Command_RemovePool, *metapb.Command_RetireGroup,
		*metapb.Command_SetNodeState, *metapb.Command_RetireNode, *metapb.Command_RetireStores,
		*metapb.Command_CreateNamespace, *metapb.Command_DeleteNamespace, *metapb.Command_LimitNamespace, *metapb.Command_RemoveFileSystem:
		return true
	case *metapb.Command_PutWorkspace, *metapb.Command_RemoveWorkspace, *metapb.Command_PutAccessToken, *metapb.Command_RemoveAccessToken,
		*metapb.Command_PutJob, *metapb.Command_TakeJob, *metapb.Command_PutUpload, *metapb.Command_RemoveUpload, *metapb.Command_MakeStaging:
		return true
	}
	return false
}

// pumpCommands starts calls while there are commands, beside others only full ones. s.mu is held.
func (s *clientShard) pumpCommands() {
	for s.mayCall(len(s.commands), s.proposing, 1) {
		items := take(&s.commands)
		if len(items) == 0 {
			return
		}
		slots := s.identify(items)
		s.proposing++
		call := s.beginCall()
		if !s.c.start(func() { s.runCommands(call, items, slots) }) {
			s.proposing--
			s.endCall(call)
			fail(items, vfs.Errorf(vfs.KindCanceled, opApply, "%w", errClientClosed))
		}
	}
}

// identify gives items their identities and returns the slots it took for them. s.mu is held.
func (s *clientShard) identify(items []*item) []slot {
	var used []slot
	n := 0
	for _, it := range items {
		if it.bare {
			continue
		}
		if n%slotItems == 0 {
			last := len(s.slots) - 1 // the last one returned: few slots are in use when few calls are
			sl := s.slots[last]
			s.slots = s.slots[:last]
			sl.seq++
			used = append(used, sl)
		}
		sl := used[len(used)-1]
		id := &metapb.Identity{Origin: s.origin, Slot: sl.id, Seq: sl.seq, OpIndex: uint32(n % slotItems)}
		b, _ := id.MarshalVT() // only numbers: it cannot fail
		it.id = protowire.AppendBytes(protowire.AppendTag(nil, fieldCommandID, protowire.BytesType), b)
		n++
	}
	return used
}

// runCommands makes calls until each of items has a definite answer, then returns the slots. No
// command leaves without one, whether its caller still waits or not: only then may a slot's next sequence number make
// the shard forget its results.
func (s *clientShard) runCommands(call uint64, items []*item, slots []slot) {
	var b backoff
	for {
		items = s.tryCommands(items)
		if len(items) == 0 {
			break
		}
		if !b.wait(s.c.ctx) {
			fail(items, vfs.Errorf(vfs.KindUnknown, opApply, "%w", errClientClosed))
			return // and nobody uses the slots again
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.proposing--
	s.endCall(call)
	for _, sl := range slots {
		if sl.generation != s.generation {
			sl = slot{id: sl.id, generation: s.generation}
		}
		s.slots = append(s.slots, sl)
	}
	s.pumpCommands()
}

// tryCommands makes one call and returns the items that have no answer yet.
func (s *clientShard) tryCommands(items []*item) []*item {
	req := protowire.AppendVarint(protowire.AppendTag(nil, fieldShard, protowire.VarintType), uint64(s.id))
	for _, it := range items {
		req = protowire.AppendTag(req, fieldItems, protowire.BytesType)
		req = protowire.AppendVarint(req, uint64(len(it.enc)+len(it.id)))
		req = append(append(req, it.enc...), it.id...)
	}
	r, err := s.call(OpPropose, req, requestsOf(items))
	if err != nil {
		if final(err) {
			for _, it := range items {
				it.done <- outcome{err: s.refused(it, vfs.Wrap(opApply, err))}
			}
			return nil
		}
		if !wire.NotSent(err) && !(wire.Answered(err) && vfs.KindOf(err) != vfs.KindUnknown) {
			for _, it := range items {
				it.maybe = true
			}
		}
		return items
	}
	var reply metapb.ProposeReply
	err = reply.UnmarshalVT(r.Meta)
	r.Release()
	if err != nil || len(reply.Results) != len(items) {
		for _, it := range items {
			it.maybe = true
		}
		s.c.opt.Logger.Error("raftmeta: malformed answer to commands", "shard", s.id, "err", err, "results", len(reply.Results), "commands", len(items))
		return items
	}
	var left []*item
	for i, it := range items {
		switch k := vfs.Kind(reply.Results[i].Kind); k {
		case vfs.KindNotLeader, vfs.KindUnknown: // said by the voter; never by the state machine
			it.maybe = it.maybe || k == vfs.KindUnknown
			left = append(left, it)
		case vfs.KindUnknownOrigin: // the state machine does not know its earlier answers any more
			it.done <- outcome{err: s.refused(it, &vfs.Error{Kind: k, Op: opApply, Text: reply.Results[i].Text})}
		default:
			it.done <- outcome{result: reply.Results[i]}
		}
	}
	return left
}

// refused is the error of a command that was refused before the state machine looked for what it had answered earlier: of the attempt before, of
// which the answer was lost, it says nothing.
func (s *clientShard) refused(it *item, err error) error {
	if !it.maybe {
		return err
	}
	return vfs.Errorf(vfs.KindUnknown, opApply, "shard %d may have run the command: the answer was lost, and it is not told again: %w", s.id, err)
}
