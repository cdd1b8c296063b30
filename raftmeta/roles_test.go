package raftmeta

import (
	"testing"

	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A certificate of the cluster's CA alone opens nothing on the metadata port: a block server must not read the
// keys of file handles.
func TestRolesOnTheMetadataPort(t *testing.T) {
	c, as := pkiCluster(t, wire.ModeTLS)
	c.leader(1)
	all := []wire.Op{OpPropose, OpQuery, OpTerm, OpLeader, OpInfo, OpReplica, OpMember, OpDiffer}
	for _, role := range []struct {
		name  string
		roles []string
		may   []wire.Op
	}{
		{"blk", []string{"block"}, nil},
		{"nobody", nil, nil},
		{"gw", []string{RoleGateway}, []wire.Op{OpPropose, OpQuery, OpLeader, OpInfo}},
		{"adm", []string{RoleAdmin}, []wire.Op{OpPropose, OpQuery, OpLeader, OpInfo}},
		{"both", []string{"block", RoleGateway}, []wire.Op{OpPropose, OpQuery, OpLeader, OpInfo}},
		{"m0", []string{mux.RoleMeta}, all},
	} {
		p := newPeers(Options{Resolver: c}.dial, as(role.name, role.roles...), quietLog(t))
		may := map[wire.Op]bool{}
		for _, op := range role.may {
			may[op] = true
		}
		for _, op := range all {
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
	// The client does not try again what stays forbidden.
	cl, err := NewClient(ClientOptions{Nodes: c.names, Resolver: c, Logger: quietLog(t), Security: as("blk", "block")})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := cl.Query(testContext(t), 1, infoQuery()); vfs.KindOf(err) != vfs.KindPerm {
		t.Fatalf("query of a block server: %v", err)
	}
}
