package fsm

import (
	"bytes"
	"crypto/sha256"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of the records of nodes.
const (
	nodeIDLen    = 16
	maxNodes     = 4096
	maxNodeRoles = 16
	maxTokens    = 1024
)

const (
	nodePrefix  = "j/n/"
	tokenPrefix = "j/t/"
)

func appendNode(name string) []byte { return append([]byte(nodePrefix), name...) }

func appendToken(hash []byte) []byte { return append([]byte(tokenPrefix), hash...) }

// checkNode refuses what is no record of a node.
func checkNode(n *metapb.Node, op string) error {
	if n == nil || len(n.Id) != nodeIDLen || len(n.Roles) == 0 || len(n.Roles) > maxNodeRoles {
		return vfs.Errorf(vfs.KindInvalid, op, "a node has a name, an id of %d bytes and 1 to %d roles", nodeIDLen, maxNodeRoles)
	}
	if err := checkRecordName(op, "name", n.Name); err != nil {
		return err
	}
	for _, a := range []struct{ address, role string }{{n.Control, "meta"}, {n.Meta, "meta"}, {n.Block, "block"}, {n.Nfs, "gateway"}, {n.Local, roleLocal}} {
		if a.address != "" && !slices.Contains(n.Roles, a.role) {
			return vfs.Errorf(vfs.KindInvalid, op, "node %s has the address %s of a role that it does not have, %s", n.Name, a.address, a.role)
		}
	}
	for _, s := range slices.Concat(n.Roles, []string{n.Zone, n.Rack, n.Group, n.Control, n.Meta, n.Block, n.Nfs, n.Local, n.Release}) {
		if len(s) > maxRecordName {
			return vfs.Errorf(vfs.KindInvalid, op, "a label or an address of %d bytes, at most %d", len(s), maxRecordName)
		}
	}
	return nil
}

// addressesOf are where a node serves; each is its own.
func addressesOf(n *metapb.Node) []string {
	return slices.DeleteFunc([]string{n.Control, n.Meta, n.Block, n.Nfs, n.Local}, func(s string) bool { return s == "" })
}

// apart refuses a node that has the id or an address of another one.
func (x *call) apart(n *metapb.Node, op string) error {
	mine := addressesOf(n)
	slices.Sort(mine)
	if len(slices.Compact(slices.Clone(mine))) != len(mine) {
		return vfs.Errorf(vfs.KindInvalid, op, "node %s has one address for two roles", n.Name)
	}
	var conflict, bad error
	count := 0
	err := x.scan([]byte(nodePrefix), prefixEnd([]byte(nodePrefix)), func(k, v []byte) bool {
		var other metapb.Node
		if err := other.UnmarshalVT(v); err != nil {
			bad = corrupt("node %q: %w", k, err)
			return false
		}
		if count++; other.Name == n.Name {
			return true
		}
		if bytes.Equal(other.Id, n.Id) {
			conflict = vfs.Errorf(vfs.KindExists, op, "this data directory is that of node %s: a node keeps its name, and a copied directory is not another node", other.Name)
			return false
		}
		for _, a := range addressesOf(&other) {
			if slices.Contains(mine, a) {
				conflict = vfs.Errorf(vfs.KindExists, op, "address %s is that of node %s: give node %s another one", a, other.Name, n.Name)
				return false
			}
		}
		return true
	})
	switch {
	case err != nil:
		return err
	case bad != nil:
		return bad
	case conflict != nil:
		return conflict
	case count >= maxNodes && n.Version == 1:
		return vfs.Errorf(vfs.KindTooMany, op, "the cluster has %d nodes already", count)
	}
	return nil
}

// oneZone refuses a node whose rack other nodes say to be in another zone: a rack's name is one rack's. Nodes that name no zone do not say.
func (x *call) oneZone(n *metapb.Node, op string) error {
	if x.level < levelService || n.Rack == "" || n.Zone == "" {
		return nil
	}
	others, err := records(x, nodePrefix, func(o *metapb.Node) bool {
		return o.Name != n.Name && o.Rack == n.Rack && o.Zone != "" && o.Zone != n.Zone
	})
	if err != nil || len(others) == 0 {
		return err
	}
	o := others[0]
	return vfs.Errorf(vfs.KindExists, op, "rack %s is in zone %s, as node %s says, and node %s says zone %s: the name of a rack is one rack's in the whole cluster, such as %s-%s; "+
		"if the rack has moved, take `zone` out of the configuration of its nodes first", n.Rack, o.Zone, o.Name, n.Name, n.Zone, n.Zone, n.Rack)
}

func nodeResult(n *metapb.Node) *metapb.Result {
	return &metapb.Result{Of: &metapb.Result_Node{Node: &metapb.NodeResult{Node: n}}}
}

func (x *call) putNode(c *metapb.PutNode) (*metapb.Result, error) {
	const op = "node.put"
	n := c.Node
	if err := checkNode(n, op); err != nil {
		return nil, err
	}
	var old metapb.Node
	had, err := x.getRecord(appendNode(n.Name), &old)
	if err != nil {
		return nil, err
	}
	if had && !bytes.Equal(old.Id, n.Id) {
		return nil, vfs.Errorf(vfs.KindExists, op, "there is another node called %s: choose another name, or remove that node first", n.Name)
	}
	if n, err = x.ofLevel(n, &old, op); err != nil {
		return nil, err
	}
	if x.level >= levelCluster && had {
		n.Group = old.Group
	}
	switch {
	case had && proto.Equal(&old, n):
		return nodeResult(n), nil // a repeated command
	case !had && n.Version != 1:
		return nil, vfs.Errorf(vfs.KindNotFound, op, "node %s is not in the cluster, or was removed from it", n.Name)
	case n.Version != old.Version+1: // 0 if there is none
		return nil, vfs.Errorf(vfs.KindChanged, op, "the record of node %s is at version %d, not %d", n.Name, old.Version, n.Version-1)
	}
	if had && !sameRoles(&old, n) {
		return nil, vfs.Errorf(vfs.KindPerm, op, "node %s has the roles %q, by the token that it joined with: they do not change", n.Name, old.Roles)
	}
	if err := x.notRetired(n, op); err != nil {
		return nil, err
	}
	if err := x.apart(n, op); err != nil {
		return nil, err
	}
	if had && (old.Rack != n.Rack || old.Zone != n.Zone) { // else it is as it was let in
		if err := x.oneZone(n, op); err != nil {
			return nil, err
		}
	}
	if err := x.groupOfNode(n, op); err != nil {
		return nil, err
	}
	return nodeResult(n), x.setRecord(appendNode(n.Name), n)
}

// groupOfNode refuses a node of a group that there is not, and makes its stores follow it.
func (x *call) groupOfNode(n *metapb.Node, op string) error {
	if x.level < levelCluster {
		return nil
	}
	if err := x.needGroup(op, n.Group); err != nil {
		return err
	}
	return x.storesFollow(n, op)
}

// sameRoles compares without order.
func sameRoles(a, b *metapb.Node) bool {
	sorted := func(n *metapb.Node) []string {
		r := slices.Clone(n.Roles)
		slices.Sort(r)
		return slices.Compact(r)
	}
	return slices.Equal(sorted(a), sorted(b))
}

func (x *call) removeNode(c *metapb.RemoveNode) error {
	const op = "node.remove"
	if err := checkRecordName(op, "name", c.Name); err != nil {
		return err
	}
	var old metapb.Node
	had, err := x.getRecord(appendNode(c.Name), &old)
	if err == nil && had && bytes.Equal(old.Id, c.Id) {
		x.del(appendNode(c.Name))
	}
	return err
}

func (x *call) putToken(c *metapb.PutToken) error {
	const op = "token.put"
	t := c.Token
	if t == nil || len(t.Hash) != sha256.Size || len(t.Roles) == 0 || len(t.Roles) > maxNodeRoles || t.Expires == nil {
		return vfs.Errorf(vfs.KindInvalid, op, "a token has a hash of %d bytes, roles, and a time at which it expires", sha256.Size)
	}
	if len(t.UsedBy) > 0 || t.Name != "" || len(t.Key) > 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "a new token was not used")
	}
	if err := checkTime(t.Expires); err != nil {
		return err
	}
	if len(c.Forget) > maxTokens {
		return vfs.Errorf(vfs.KindTooMany, op, "%d tokens to forget, at most %d", len(c.Forget), maxTokens)
	}
	for _, h := range c.Forget {
		if len(h) != sha256.Size {
			return vfs.Errorf(vfs.KindInvalid, op, "a hash of %d bytes", len(h))
		}
		if _, had, err := x.get(appendToken(h)); err != nil {
			return err
		} else if had {
			x.del(appendToken(h))
		}
	}
	if _, had, err := x.get(appendToken(t.Hash)); err != nil || had {
		return err // the first one stays: it may have been used
	}
	n := 0
	if err := x.scan([]byte(tokenPrefix), prefixEnd([]byte(tokenPrefix)), func(_, _ []byte) bool { n++; return true }); err != nil {
		return err
	}
	if n >= maxTokens {
		return vfs.Errorf(vfs.KindTooMany, op, "there are %d tokens that have not expired: wait until some have", n)
	}
	return x.setRecord(appendToken(t.Hash), t)
}

func (x *call) joinNode(c *metapb.JoinNode) (*metapb.Result, error) {
	const op = "node.join"
	n := c.Node
	if err := checkNode(n, op); err != nil {
		return nil, err
	}
	if n.Version != 1 || len(c.Hash) != sha256.Size || len(c.Key) != sha256.Size {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a node joins with the hash of its token, that of its key, and version 1 of its record")
	}
	var t metapb.Token
	had, err := x.getRecord(appendToken(c.Hash), &t)
	if err != nil {
		return nil, err
	}
	if !had {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "the token is not known: it is not of this cluster, or has expired; ask for a new one")
	}
	for _, role := range n.Roles {
		if !slices.Contains(t.Roles, role) {
			return nil, vfs.Errorf(vfs.KindPerm, op, "the token does not allow role %s, only %q", role, t.Roles)
		}
	}
	var old metapb.Node
	had, err = x.getRecord(appendNode(n.Name), &old)
	if err != nil {
		return nil, err
	}
	same := had && bytes.Equal(old.Id, n.Id)
	switch used := len(t.UsedBy) > 0; {
	case used && bytes.Equal(t.UsedBy, n.Id) && bytes.Equal(t.Key, c.Key) && t.Name == n.Name && same:
		return nodeResult(&old), nil // the same node asks again: it did not hear the answer
	case used:
		return nil, vfs.Errorf(vfs.KindAccess, op, "the token was used already, by node %s: a token is for one node, ask for a new one", t.Name)
	case had && !same:
		return nil, vfs.Errorf(vfs.KindExists, op, "there is another node called %s: choose another name, or remove that node first", n.Name)
	case same:
		return nil, vfs.Errorf(vfs.KindExists, op, "node %s has joined already", n.Name)
	}
	if err := x.notRetired(n, op); err != nil {
		return nil, err
	}
	if err := x.noneLeft(n.Name, op); err != nil {
		return nil, err
	}
	if err := x.apart(n, op); err != nil {
		return nil, err
	}
	if err := x.oneZone(n, op); err != nil {
		return nil, err
	}
	if err := x.groupOfNode(n, op); err != nil {
		return nil, err
	}
	if n, err = x.ofLevel(n, nil, op); err != nil {
		return nil, err
	}
	if x.level >= levelCluster {
		n.Key = c.Key
	}
	t.UsedBy, t.Name, t.Key = n.Id, n.Name, c.Key
	if err := x.setRecord(appendToken(c.Hash), &t); err != nil {
		return nil, err
	}
	return nodeResult(n), x.setRecord(appendNode(n.Name), n)
}

// checkDomain refuses failure domains that there are not.
func checkDomain(p *metapb.Pool, op string) error {
	switch p.Domain {
	case "", "disk", "node", "rack", "zone":
	default:
		return vfs.Errorf(vfs.KindInvalid, op, "failure domain %q: use disk, node, rack or zone", p.Domain)
	}
	if p.GroupsPerStore > 1024 {
		return vfs.Errorf(vfs.KindInvalid, op, "%d groups per store", p.GroupsPerStore)
	}
	return nil
}

func (r *reader) nodes() (*metapb.QueryResult, error) {
	list, err := all(r, []byte(nodePrefix), func() *metapb.Node { return new(metapb.Node) })
	return &metapb.QueryResult{R: &metapb.QueryResult_Nodes{Nodes: &metapb.NodesR{Nodes: list}}}, err
}

func (r *reader) tokens() (*metapb.QueryResult, error) {
	list, err := all(r, []byte(tokenPrefix), func() *metapb.Token { return new(metapb.Token) })
	return &metapb.QueryResult{R: &metapb.QueryResult_Tokens{Tokens: &metapb.TokensR{Tokens: list}}}, err
}
