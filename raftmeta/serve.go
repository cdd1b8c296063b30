package raftmeta

import (
	"context"
	"slices"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// maxCallCommands and maxCallQueries bound one call.
	maxCallCommands = 1024
	maxCallQueries  = 1024
	// replyBytes is where an answer to queries ends early; the client asks for the rest again.
	replyBytes = 2 << 20
)

// Field numbers of ProposeRequest and QueryRequest.
const (
	fieldShard = 1
	fieldItems = 2
)

// Roles in the certificate of who calls the metadata port. Voters have mux.RoleMeta.
const (
	RoleGateway = "gateway"
	RoleAdmin   = "admin"
	RoleBlock   = "block"
	RoleLocal   = "local"
)

// trusted reports whether a peer may read and change everything that the metadata is.
func trusted(p wire.Peer) bool {
	return p.HasRole(mux.RoleMeta) || p.HasRole(RoleGateway) || p.HasRole(RoleAdmin)
}

// mayCall reports whether a peer with these roles may call op. A block server and a node with local volumes may ask and propose only what
// is in blockrole.go and localrole.go: everything that is in the metadata can be read with OpQuery, the keys of file handles among it.
func mayCall(p wire.Peer, op wire.Op) bool {
	switch op {
	case OpTerm, OpReplica, OpMember, OpDiffer, OpLevel: // between voters
		return p.HasRole(mux.RoleMeta)
	case OpRenew, OpWish, OpRecalls, OpPeers, OpUnlocks, OpOpens:
		return p.HasRole(RoleGateway) || p.HasRole(RoleAdmin)
	case OpInfo:
		return trusted(p)
	case OpWork:
		return p.HasRole(RoleGateway) || p.HasRole(RoleBlock)
	case OpPropose, OpQuery, OpLeader:
		return trusted(p) || p.HasRole(RoleBlock) || p.HasRole(RoleLocal)
	}
	return true // serve refuses what it does not know
}

// serve is the handler of the metadata port.
func (s *Server) serve(ctx context.Context, call *wire.Call) error {
	if !mayCall(call.Peer, call.Op) {
		return vfs.Errorf(vfs.KindPerm, "raftmeta.serve", "%s, with the roles %q, may not call operation %d: the certificate needs role %s or %s", call.Peer.Name, call.Peer.Roles, call.Op, RoleGateway, mux.RoleMeta)
	}
	switch call.Op {
	case OpPropose:
		return s.servePropose(ctx, call)
	case OpQuery:
		return s.serveQuery(ctx, call)
	case OpTerm:
		return s.serveTerm(call)
	case OpLeader, OpInfo:
		return s.serveLeader(call)
	case OpRenew:
		return s.serveRenew(ctx, call)
	case OpReplica:
		return s.serveReplica(call)
	case OpMember:
		return s.serveMember(ctx, call)
	case OpDiffer:
		return s.serveDiffer(call)
	case OpWork:
		return s.serveWork(call)
	case OpLevel:
		return s.serveLevel(ctx, call)
	case OpWish:
		return s.serveWish(ctx, call)
	case OpRecalls:
		return s.serveRecalls(ctx, call)
	case OpPeers:
		return s.servePeers(call)
	case OpUnlocks:
		return s.serveUnlocks(ctx, call)
	case OpOpens:
		return s.serveOpens(ctx, call)
	}
	return vfs.Errorf(vfs.KindNotSupported, "raftmeta.serve", "operation %d", call.Op)
}

// splitRequest finds the items of a ProposeRequest or QueryRequest without decoding them.
func splitRequest(b []byte, limit int) (shard uint32, items [][]byte, err error) {
	bad := func() (uint32, [][]byte, error) {
		return 0, nil, vfs.Errorf(vfs.KindInvalid, "raftmeta.serve", "malformed request")
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return bad()
		}
		b = b[n:]
		switch {
		case num == fieldShard && typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 || v > 0xffff {
				return bad()
			}
			shard, b = uint32(v), b[n:]
		case num == fieldItems && typ == protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return bad()
			}
			if len(items) == limit {
				return 0, nil, vfs.Errorf(vfs.KindTooMany, "raftmeta.serve", "more than %d items in one request", limit)
			}
			items, b = append(items, v[:len(v):len(v)]), b[n:]
		default:
			return bad()
		}
	}
	return shard, items, nil
}

// checkCommand refuses what must not get into the log: the state machine of
// every voter stops at an entry it cannot decode.
func checkCommand(enc []byte) (*metapb.Command, error) {
	c := new(metapb.Command)
	if err := c.UnmarshalVT(enc); err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "raftmeta.propose", "malformed command: %w", err)
	}
	if c.Op == nil || len(c.ProtoReflect().GetUnknown()) > 0 {
		return nil, vfs.Errorf(vfs.KindNotSupported, "raftmeta.propose", "the command is unknown to this release")
	}
	return c, nil
}

func (s *Server) servePropose(ctx context.Context, call *wire.Call) error {
	// A copy: commands may stay in the queue for longer than this call lasts.
	shard, cmds, err := splitRequest(append([]byte(nil), call.Meta...), maxCallCommands)
	if err != nil {
		return err
	}
	sh, err := s.shard(shard)
	if err != nil {
		return err
	}
	of, err := readRequests(call.Payload, len(cmds))
	if err != nil {
		return err
	}
	name := func(i int) string { return commandName(cmds[i]) }
	var freed []lockedFile
	for _, enc := range cmds {
		c, err := checkCommand(enc)
		if err != nil {
			return sh.failed(of, len(cmds), name, err)
		}
		freed = append(freed, frees(c)...)
	}
	if !trusted(call.Peer) {
		if err := checkCommandsOf(call.Peer, sh.id, cmds); err != nil {
			return err
		}
	}
	if !trusted(call.Peer) && call.Peer.HasRole(RoleBlock) {
		if err := sh.checkBlockCommands(ctx, call.Peer.Name, cmds); vfs.KindOf(err) == vfs.KindChanged {
			// It is the commands' result, as it would be the state machine's: the caller is not to try the same again.
			reply := &metapb.ProposeReply{}
			for range cmds {
				reply.Results = append(reply.Results, &metapb.Result{Kind: uint32(vfs.KindChanged), Text: err.Error()})
			}
			return answer(call, reply)
		} else if err != nil {
			return err
		}
	}
	done := s.metrics.time(sh.id, "propose", len(cmds))
	defer done()
	results, errs, err := sh.propose(ctx, cmds)
	if err != nil {
		return sh.failed(of, len(cmds), name, err)
	}
	if l := sh.lead.Load(); l != nil {
		l.unlocks.note(freed...)
	}
	reply := &metapb.ProposeReply{Results: results}
	for i, e := range errs {
		if e != nil {
			reply.Results[i] = &metapb.Result{Kind: uint32(vfs.KindOf(e)), Text: e.Error()}
		}
		sh.refused(of.of(i), func() string { return name(i) }, vfs.Kind(reply.Results[i].Kind), reply.Results[i].Text)
	}
	return answer(call, reply)
}

func (s *Server) serveQuery(ctx context.Context, call *wire.Call) error {
	shard, items, err := splitRequest(call.Meta, maxCallQueries)
	if err != nil {
		return err
	}
	sh, err := s.shard(shard)
	if err != nil {
		return err
	}
	of, err := readRequests(call.Payload, len(items))
	if err != nil {
		return err
	}
	qs := make([]*metapb.Query, len(items))
	name := func(i int) string { return opName(qs[i]) }
	for i, enc := range items {
		qs[i] = new(metapb.Query)
		if err := qs[i].UnmarshalVT(enc); err != nil {
			return vfs.Errorf(vfs.KindInvalid, "raftmeta.query", "malformed query: %w", err)
		}
		if !trusted(call.Peer) {
			if err := checkQuery(call.Peer, qs[i]); err != nil {
				return err
			}
		}
	}
	done := s.metrics.time(sh.id, "query", len(qs))
	defer done()
	v, cache, err := sh.read(ctx)
	if err != nil {
		return sh.failed(of, len(qs), name, err)
	}
	defer v.Release()
	var reply []byte
	asker := fsm.NewAsker(v, cache) // each answer is encoded before the next one is made
	for i, q := range qs {
		r := asker.Query(q)
		sh.refused(of.of(i), func() string { return name(i) }, vfs.Kind(r.Kind), r.Text)
		n := r.SizeVT()
		if i > 0 && len(reply)+n > replyBytes {
			break
		}
		if n > wire.MaxPayload-64 {
			r = &metapb.QueryResult{Kind: uint32(vfs.KindTooMany), Text: "the answer is too large: ask for less at a time"}
			n = r.SizeVT()
		}
		reply = slices.Grow(reply, n+16)                           // 16: the tag and the length, and more
		reply = protowire.AppendTag(reply, 1, protowire.BytesType) // QueryReply.results
		reply = protowire.AppendVarint(reply, uint64(n))
		at := len(reply)
		reply = reply[:at+n]
		if _, err := r.MarshalToSizedBufferVT(reply[at:]); err != nil {
			return vfs.Errorf(vfs.KindInternal, "raftmeta.query", "%w", err)
		}
	}
	return call.Reply(nil, reply)
}

func (s *Server) serveTerm(call *wire.Call) error {
	var req metapb.TermRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, "raftmeta.term", "%w", err)
	}
	sh, err := s.shard(req.Shard)
	if err != nil {
		return err
	}
	return answer(call, &metapb.TermReply{Term: sh.raft.CurrentTerm(), Sequence: req.Sequence, ServerId: sh.info.ID})
}

func (s *Server) serveLeader(call *wire.Call) error {
	var req metapb.LeaderRequest
	if err := req.UnmarshalVT(call.Meta); err != nil {
		return vfs.Errorf(vfs.KindInvalid, "raftmeta.leader", "%w", err)
	}
	sh, err := s.shard(req.Shard)
	if err != nil {
		return err
	}
	if call.Op == OpInfo {
		st := sh.host.Status()
		incarnation, _ := sh.incarnation() // 0 before the first entry
		return answer(call, &metapb.ShardInfoR{
			Shard: req.Shard, Incarnation: incarnation, Level: st.Level, Applied: st.State, Digest: st.Digest, Cluster: s.node.Cluster, MaxLevel: s.opt.MaxLevel,
		})
	}
	_, id := sh.raft.LeaderWithID()
	reply := &metapb.LeaderReply{LeaderId: string(id)}
	if id != "" {
		if reply.LeaderAddress, err = s.opt.Resolver.Resolve(context.Background(), mux.NodeOf(string(id))); err != nil {
			reply.LeaderAddress = "" // the id names the node; the caller may resolve it
		}
	}
	return answer(call, reply)
}

func answer(call *wire.Call, m message) error {
	b, err := m.MarshalVT()
	if err != nil {
		return vfs.Errorf(vfs.KindInternal, "raftmeta.serve", "%w", err)
	}
	return call.Reply(b)
}
