package raftmeta

import (
	"testing"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"google.golang.org/protobuf/proto"
)

// A certificate of the cluster's CA alone opens nothing on the metadata port.
func TestRolesOnTheMetadataPort(t *testing.T) {
	c, as := pkiCluster(t, wire.ModeTLS)
	c.leader(1)
	all := []wire.Op{OpPropose, OpQuery, OpTerm, OpLeader, OpInfo, OpReplica, OpMember, OpDiffer}
	ops := append([]wire.Op{OpWork}, all...)
	for _, role := range []struct {
		name  string
		roles []string
		may   []wire.Op
	}{
		{"blk", []string{RoleBlock}, []wire.Op{OpPropose, OpQuery, OpLeader, OpWork}},
		{"nobody", nil, nil},
		{"gw", []string{RoleGateway}, []wire.Op{OpPropose, OpQuery, OpLeader, OpInfo, OpWork}},
		{"adm", []string{RoleAdmin}, []wire.Op{OpPropose, OpQuery, OpLeader, OpInfo}},
		{"both", []string{"block", RoleGateway}, []wire.Op{OpPropose, OpQuery, OpLeader, OpInfo, OpWork}},
		{"m0", []string{mux.RoleMeta}, all},
	} {
		p := newPeers(Options{Resolver: c}.dial, as(role.name, role.roles...), quietLog(t))
		may := map[wire.Op]bool{}
		for _, op := range role.may {
			may[op] = true
		}
		for _, op := range ops {
			// There is no shard 0 here: every call that is allowed fails, but not for want of a role.
			err := p.call(testContext(t), c.names[0], op, &metapb.LeaderRequest{}, &metapb.LeaderReply{})
			if refused := vfs.KindOf(err) == vfs.KindPerm; refused == may[op] {
				t.Errorf("roles %v, operation %d: %v", role.roles, op, err)
			} else if !wire.Answered(err) {
				t.Errorf("roles %v, operation %d: no answer: %v", role.roles, op, err)
			}
		}
		p.close()
	}
}

// A block server asks what it needs to decide about its shards, and ends the filling of its own slots. Nothing else: it must not read
// the keys of file handles, nor change the map.
func TestBlockServersAtTheMetadataPort(t *testing.T) {
	c, as := pkiCluster(t, wire.ModeTLS, 0, 1)
	client := func(name string, roles ...string) *Client {
		cl, err := NewClient(ClientOptions{Nodes: c.names, Resolver: c, Logger: quietLog(t), Security: as(name, roles...)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	ctx := testContext(t)
	admin := client("adm", RoleAdmin)
	must := func(shard uint16, cmd *metapb.Command) {
		t.Helper()
		if _, err := admin.Apply(ctx, shard, cmd); err != nil {
			t.Fatal(err)
		}
	}
	for _, shard := range []uint16{0, 1} {
		for level := range uint32(2) {
			must(shard, &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: level + 2}}})
		}
	}
	for id := range uint32(4) {
		must(0, &metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{
			Id: id + 1, Node: []string{"s1", "s2", "s3", "s3"}[id], Uuid: []byte{byte(id)},
		}}}})
	}
	slot := func(store, previous uint32, filling bool) *metapb.Slot {
		return &metapb.Slot{Store: store, Previous: previous, Filling: filling}
	}
	group := func(slots ...*metapb.Slot) *metapb.PlacementGroup {
		return &metapb.PlacementGroup{Id: 1, Epoch: 4, Slots: slots}
	}
	must(0, &metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: &metapb.Pool{
		Id: 1, Name: "p", K: 1, M: 1, Pgs: []*metapb.PlacementGroup{group(slot(1, 3, true), slot(2, 0, true))},
	}}}})
	change := func(expect uint32, pg *metapb.PlacementGroup) *metapb.Command {
		return &metapb.Command{Op: &metapb.Command_ChangePgs{ChangePgs: &metapb.ChangePGs{Pool: 1, Changes: []*metapb.PGChange{{ExpectEpoch: expect, Pg: pg}}}}}
	}
	s1 := client("s1", RoleBlock)

	for name, q := range map[string]struct {
		shard uint16
		q     *metapb.Query
		may   bool
	}{
		"states":        {1, &metapb.Query{Q: &metapb.Query_BlockStates{BlockStates: &metapb.BlockStatesQ{Ids: []uint64{1 << 48}}}}, true},
		"shard":         {1, infoQuery(), true},
		"map":           {0, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}}, true},
		"nodes":         {0, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}}, true},
		"removed nodes": {0, &metapb.Query{Q: &metapb.Query_RetiredNodes{RetiredNodes: &metapb.RetiredNodesQ{}}}, true},
		"tokens":        {0, &metapb.Query{Q: &metapb.Query_Tokens{Tokens: &metapb.TokensQ{}}}, false},
		"keys":          {0, &metapb.Query{Q: &metapb.Query_Keys{Keys: &metapb.KeysQ{Kind: "handle"}}}, false},
		"gossip keys":   {0, &metapb.Query{Q: &metapb.Query_Keys{Keys: &metapb.KeysQ{Kind: "gossip"}}}, true},
		"all keys":      {0, &metapb.Query{Q: &metapb.Query_Keys{Keys: &metapb.KeysQ{}}}, false},
		"file systems":  {0, &metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: &metapb.FileSystemsQ{}}}, false},
		"nfs clients":   {0, &metapb.Query{Q: &metapb.Query_NfsClients{NfsClients: &metapb.NFSClientsQ{}}}, false},
		"a name":        {1, lookupQuery("x"), false},
		"nothing":       {1, &metapb.Query{}, false},
	} {
		if _, err := s1.Query(ctx, q.shard, q.q); q.may && err != nil || !q.may && vfs.KindOf(err) != vfs.KindPerm {
			t.Errorf("query of %s: %v", name, err)
		}
	}
	for name, cmd := range map[string]*metapb.Command{
		"another's slot":        change(4, group(slot(1, 3, true), slot(2, 0, false))),
		"both slots":            change(4, group(slot(1, 0, false), slot(2, 0, false))),
		"half of its own":       change(4, group(slot(1, 3, false), slot(2, 0, true))),
		"another previous":      change(4, group(slot(1, 4, true), slot(2, 0, true))),
		"another store":         change(4, group(slot(3, 0, false), slot(2, 0, true))),
		"a new epoch":           change(4, &metapb.PlacementGroup{Id: 1, Epoch: 5, Slots: []*metapb.Slot{slot(1, 0, false), slot(2, 0, true)}}),
		"fewer slots":           change(4, group(slot(1, 0, false))),
		"more slots":            change(4, group(slot(1, 0, false), slot(2, 0, true), slot(3, 0, false))),
		"other data slots":      change(4, &metapb.PlacementGroup{Id: 1, Epoch: 4, K: 1, Slots: []*metapb.Slot{slot(1, 0, false), slot(2, 0, true)}}),
		"a new group":           change(0, &metapb.PlacementGroup{Id: 2, Epoch: 1, Slots: []*metapb.Slot{slot(1, 0, false), slot(2, 0, false)}}),
		"removal":               {Op: &metapb.Command_ChangePgs{ChangePgs: &metapb.ChangePGs{Pool: 1, Changes: []*metapb.PGChange{{ExpectEpoch: 4, Pg: group(), Remove: true}}}}},
		"another's store":       {Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{Id: 2, Node: "s1", Uuid: []byte{1}}}}},
		"its store to another":  {Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{Id: 1, Node: "s2", Uuid: []byte{0}}}}},
		"a store's state":       {Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{Id: 1, Node: "s1", Uuid: []byte{0}, State: metapb.StoreState_STORE_OUT}}}},
		"another's node":        {Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: &metapb.Node{Name: "s2", Id: make([]byte, 16), Version: 1, Roles: []string{"meta"}}}}},
		"a removed record":      {Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: &metapb.Node{Name: "s1", Id: make([]byte, 16), Version: 1, Roles: []string{"meta"}}}}},
		"a node's state":        {Op: &metapb.Command_SetNodeState{SetNodeState: &metapb.SetNodeState{Name: "s1", Id: make([]byte, 16), Version: 1}}},
		"a node's removal":      {Op: &metapb.Command_RetireNode{RetireNode: &metapb.RetireNode{Name: "s2", Id: make([]byte, 16), Lost: true}}},
		"a token":               {Op: &metapb.Command_PutToken{PutToken: &metapb.PutToken{Token: &metapb.Token{}}}},
		"a join":                {Op: &metapb.Command_JoinNode{JoinNode: &metapb.JoinNode{Hash: make([]byte, 32)}}},
		"a replacement":         {Op: &metapb.Command_ReplaceStore{ReplaceStore: &metapb.ReplaceStore{Old: 2, New: &metapb.Store{Id: 9, Node: "s1", Uuid: []byte{9}}}}},
		"an origin":             {Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "s1", Incarnation: make([]byte, 16)}}},
		"the end of an origin":  {Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: 1}}},
		"the level":             {Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: 2}}},
		"the end of all graces": {Op: &metapb.Command_ReapBlocks{ReapBlocks: &metapb.ReapBlocks{Through: 1 << 60}}},
	} {
		cmd.Id = &metapb.Identity{}
		if _, err := s1.Apply(ctx, 0, cmd); vfs.KindOf(err) != vfs.KindPerm {
			t.Errorf("change of %s: %v", name, err)
		}
	}
	must(0, &metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: &metapb.Node{Name: "s1", Id: make([]byte, 16), Version: 1, Roles: []string{"block"}}}}})
	for name, cmd := range map[string]*metapb.Command{
		"its store":      {Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{Id: 1, Node: "s1", Uuid: []byte{0}, Address: "h:1"}}}},
		"a new store":    {Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{Id: 5, Node: "s1", Uuid: []byte{5}}}}},
		"its own record": {Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: &metapb.Node{Name: "s1", Id: make([]byte, 16), Version: 2, Roles: []string{"block"}, Block: "h:1"}}}},
	} {
		if _, err := s1.Apply(ctx, 0, cmd); err != nil {
			t.Errorf("change of %s: %v", name, err)
		}
	}
	if _, err := s1.Apply(ctx, 1, change(4, group(slot(1, 0, false), slot(2, 0, true)))); vfs.KindOf(err) != vfs.KindPerm {
		t.Errorf("a change of groups in another shard: %v", err)
	}
	if _, err := s1.Apply(ctx, 0, change(3, group(slot(1, 0, false), slot(2, 0, true)))); vfs.KindOf(err) != vfs.KindChanged {
		t.Errorf("a change of an older epoch: %v", err)
	}
	if _, err := s1.Apply(ctx, 0, change(4, group(slot(1, 0, false), slot(2, 0, true)))); err != nil {
		t.Errorf("the end of its own filling: %v", err)
	}
	// s2 has read the map before that: it is told to read it again, and undoes nothing.
	s2 := client("s2", RoleBlock)
	if _, err := s2.Apply(ctx, 0, change(4, group(slot(1, 3, true), slot(2, 0, false)))); vfs.KindOf(err) != vfs.KindChanged {
		t.Errorf("from an old map: %v", err)
	}
	if _, err := s2.Apply(ctx, 0, change(4, group(slot(1, 0, false), slot(2, 0, false)))); err != nil {
		t.Errorf("the end of its own filling: %v", err)
	}
	r, err := admin.Query(ctx, 0, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.GetClusterMap().Pools[0].Pgs[0], group(slot(1, 0, false), slot(2, 0, false)); !proto.Equal(got, want) {
		t.Fatalf("group %v, want %v", got, want)
	}
}
