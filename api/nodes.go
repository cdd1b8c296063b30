package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Lives of a node.
const (
	LifeIn       = "in"
	LifeDraining = "draining" // its stores take no new blocks, and what they have moves away
	LifeDrained  = "drained"  // draining, and no slot of any placement group names its stores
)

// NodeDetail is all about one node.
type NodeDetail struct {
	NodeStatus
	ID     string      `json:"id" doc:"Made with its data directory"`
	Stores []NodeStore `json:"stores"`
	Votes  []NodeVote  `json:"votes" doc:"Shards that it has a replica of"`
	// SlotsLeft of placement groups name its stores, or move away from them.
	SlotsLeft      int     `json:"slots_left" doc:"Of placement groups, that name its stores or move away from them"`
	BytesLeft      int64   `json:"bytes_left,omitempty" doc:"About how much moves, while it is draining"`
	SlotsPerMinute float64 `json:"slots_per_minute,omitempty"`
	ETA            float64 `json:"eta_s,omitempty" doc:"Seconds until it is drained at this rate; 0: unknown"`
	// Waits is why it cannot be removed yet.
	Waits []string `json:"waits,omitempty" doc:"Why it cannot be removed"`
}

// NodeStore is a store of a node.
type NodeStore struct {
	ID       uint32            `json:"id"`
	Record   string            `json:"record" doc:"in or out, by the operator"`
	State    string            `json:"state" doc:"As it is seen"`
	Slots    int               `json:"slots"`
	Used     int64             `json:"used"`
	Capacity int64             `json:"capacity"`
	Moving   *nodegroup.Moving `json:"moving,omitempty"`
}

// NodeVote is a replica of a node.
type NodeVote struct {
	Shard   uint16 `json:"shard"`
	Voter   bool   `json:"voter"`
	Trouble string `json:"trouble,omitempty"`
}

// DrainRequest drains a node.
type DrainRequest struct {
	Force bool `json:"force,omitempty" doc:"Even if a pool cannot keep its profile without it"`
}

// RemoveRequest removes a node.
type RemoveRequest struct {
	Lost  bool `json:"lost,omitempty" doc:"The machine is gone: what it had is rebuilt from the others"`
	Force bool `json:"force,omitempty" doc:"Even if the metadata has fewer voters by that, or blocks are lost"`
}

type (
	nodesOutput struct{ Body []NodeStatus }
	nodeInput   struct {
		Name string `path:"name" maxLength:"255"`
	}
	nodeOutput struct{ Body *NodeDetail }
	drainInput struct {
		Name string `path:"name" maxLength:"255"`
		Body DrainRequest
	}
	removeInput struct {
		Name string `path:"name" maxLength:"255"`
		Body RemoveRequest
	}
)

func (a *API) nodes() {
	handle(a, "GET /nodes", "list-nodes", "List the nodes", func(ctx context.Context, _ *struct{}) (*nodesOutput, error) {
		st, err := a.opt.Cluster.Status(ctx)
		if err != nil {
			return nil, err
		}
		return &nodesOutput{st.Nodes}, nil
	})
	handle(a, "GET /nodes/{name}", "get-node", "All about one node", func(ctx context.Context, in *nodeInput) (*nodeOutput, error) {
		return a.node(ctx, in.Name)
	})
	handle(a, "POST /nodes/{name}/drain", "drain-node", "Move away what a node has", func(ctx context.Context, in *drainInput) (*nodeOutput, error) {
		return a.drain(ctx, in.Name, in.Body.Force)
	})
	handle(a, "POST /nodes/{name}/undrain", "undrain-node", "Let a draining node take its share again", func(ctx context.Context, in *nodeInput) (*nodeOutput, error) {
		return a.setState(ctx, in.Name, metapb.NodeState_NODE_IN)
	})
	handle(a, "POST /nodes/{name}/remove", "remove-node", "Remove a node for good", a.remove)
}

// record is a node's record in shard 0.
func (a *API) record(ctx context.Context, name string) (*metapb.Node, error) {
	r, err := a.cluster(ctx, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}})
	if err != nil {
		return nil, err
	}
	for _, n := range r.GetNodes().GetNodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, vfs.Errorf(vfs.KindNotFound, "node", "the cluster has no record of a node %s: `rackfs node list` shows those that there are", name)
}

func (a *API) node(ctx context.Context, name string) (*nodeOutput, error) {
	st, err := a.opt.Cluster.Status(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(st.Nodes, func(n NodeStatus) bool { return n.Name == name })
	if i < 0 {
		_, err := a.record(ctx, name)
		return nil, cmp.Or(err, error(vfs.Errorf(vfs.KindUnavailable, "node", "nothing is known of node %s yet", name)))
	}
	d := &NodeDetail{NodeStatus: st.Nodes[i], Stores: []NodeStore{}, Votes: []NodeVote{}}
	if rec, err := a.record(ctx, name); err == nil {
		d.ID = fmt.Sprintf("%x", rec.Id)
	}
	if st.Placement != nil {
		d.stores(st.Placement.Stores)
	}
	voters := a.voters(ctx)
	for _, s := range voters {
		for _, r := range s.Replicas {
			if r.Node == name {
				d.Votes = append(d.Votes, NodeVote{Shard: s.Shard, Voter: r.Voter, Trouble: r.Trouble})
			}
		}
	}
	switch d.Life {
	case LifeIn:
		d.Waits = append(d.Waits, "it is in use: drain it first")
	case LifeDraining:
		d.Waits = append(d.Waits, fmt.Sprintf("%d slots of placement groups still name its stores", d.SlotsLeft))
	}
	d.Waits = append(d.Waits, votesOf(name, voters)...)
	return &nodeOutput{d}, nil
}

func (d *NodeDetail) stores(all []nodegroup.StoreStatus) {
	for _, s := range all {
		if s.Node != d.Name || s.Gone || s.Record == metapb.StoreState_STORE_LOST.String() {
			continue
		}
		d.Stores = append(d.Stores, NodeStore{ID: s.ID, Record: strings.ToLower(strings.TrimPrefix(s.Record, "STORE_")), State: s.State.String(),
			Slots: s.Slots, Used: s.Used, Capacity: s.Capacity, Moving: s.Moving})
		d.SlotsLeft += s.Slots
		if m := s.Moving; m != nil {
			d.BytesLeft += m.BytesLeft
			d.SlotsPerMinute += m.SlotsPerMinute
			d.ETA = max(d.ETA, m.ETA)
		}
	}
}

// votesOf says for each shard that a node votes on why it still does.
func votesOf(name string, voters []ShardVoters) []string {
	var out []string
	for _, s := range voters {
		if !s.votes(name) {
			continue
		}
		why := "another node with role meta takes its place soon"
		if !s.standsBy(name) {
			n := s.Voters - 1
			why = fmt.Sprintf("without it there would be %d voter(s), which survive %d failure(s) instead of %d: let another node with role meta join, or use --force", n, max(n-1, 0)/2, (s.Voters-1)/2)
		}
		out = append(out, fmt.Sprintf("it votes on shard %d of the metadata: %s", s.Shard, why))
	}
	return out
}

func (a *API) drain(ctx context.Context, name string, force bool) (*nodeOutput, error) {
	m, err := a.clusterMap(ctx)
	if err != nil {
		return nil, err
	}
	err = nodegroup.CanDrain(m, name)
	if err == nil && !force {
		err = a.roomWithout(ctx, m, name)
	}
	if err != nil && !force {
		return nil, vfs.Errorf(vfs.KindOf(err), "", "%s; --force drains it all the same: what has nowhere to go stays, until there is", words(err))
	}
	return a.setState(ctx, name, metapb.NodeState_NODE_DRAINING)
}

// roomWithout refuses to drain a node whose data has no room elsewhere.
func (a *API) roomWithout(ctx context.Context, m *metapb.ClusterMapR, name string) error {
	seen, err := a.seen(ctx)
	if err != nil {
		return err
	}
	effects := slices.DeleteFunc(nodegroup.Effects(m, nodegroup.Drained(m, []string{name}), seen), func(e nodegroup.Effect) bool { return e.Roomy })
	return nodegroup.Allow("node.drain", effects)
}

// apply makes a change of shard 0.
func (a *API) apply(ctx context.Context, cmd *metapb.Command) error {
	_, err := a.opt.Meta.Apply(ctx, clusterShard, cmd)
	if vfs.KindOf(err) == vfs.KindNotSupported {
		return vfs.Errorf(vfs.KindNotSupported, "", "%s: raise the feature level with `rackfs cluster upgrade-level` once all voters run this release", words(err))
	}
	return err
}

// changeTries is how often a change is decided anew because the record changed meanwhile.
const changeTries = 5

func (a *API) setState(ctx context.Context, name string, to metapb.NodeState) (*nodeOutput, error) {
	for try := 1; ; try++ {
		n, err := a.record(ctx, name)
		if err != nil {
			return nil, err
		}
		err = a.apply(ctx, &metapb.Command{Op: &metapb.Command_SetNodeState{SetNodeState: &metapb.SetNodeState{Name: name, Id: n.Id, State: to, Version: n.Version}}})
		if vfs.KindOf(err) == vfs.KindChanged && try < changeTries {
			continue
		}
		if err != nil {
			return nil, err
		}
		return a.node(ctx, name)
	}
}

func (a *API) remove(ctx context.Context, in *removeInput) (*struct{}, error) {
	const op = "node.remove"
	name := in.Name
	if name == a.opt.Cluster.Self() {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "node %s answers this itself and would be refused by the others before it could say how it went: ask another node", name)
	}
	n, err := a.record(ctx, name)
	if err != nil {
		return nil, err
	}
	voters := a.voters(ctx)
	if !in.Body.Force {
		if err := votersKnown(n, voters); err != nil {
			return nil, err
		}
	}
	if in.Body.Lost {
		err = a.mayLose(ctx, name, voters, in.Body.Force)
	} else if waits := votesOf(name, voters); len(waits) > 0 && !in.Body.Force {
		err = vfs.Errorf(vfs.KindBusy, op, "node %s: %s", name, strings.Join(waits, "; "))
	}
	if err != nil {
		return nil, err
	}
	cmd := &metapb.RetireNode{Name: name, Id: n.Id, Lost: in.Body.Lost, Force: in.Body.Force}
	r, err := a.cluster(ctx, &metapb.Query{Q: &metapb.Query_RetiredNodes{RetiredNodes: &metapb.RetiredNodesQ{}}})
	if err != nil {
		return nil, err
	}
	for _, old := range r.GetRetiredNodes().GetNodes() {
		if time.Since(time.Unix(old.GetRemoved().GetSec(), 0)) > pki.NodeValidity+forgetSlack {
			cmd.Forget = append(cmd.Forget, old.Id)
		}
	}
	return nil, a.apply(ctx, &metapb.Command{Op: &metapb.Command_RetireNode{RetireNode: cmd}})
}

// votersKnown refuses to judge about a node that may vote where it is not known who does: nobody would notice that a shard cannot go on without it.
func votersKnown(n *metapb.Node, voters []ShardVoters) error {
	if len(n.Roles) > 0 && !slices.Contains(n.Roles, roleMeta) {
		return nil
	}
	for _, s := range voters {
		if s.Err != "" {
			return vfs.Errorf(vfs.KindUnavailable, "node.remove", "it is not known whether node %s votes on shard %d of the metadata (%s): run it at a node with role meta, or try again", n.Name, s.Shard, s.Err)
		}
	}
	return nil
}

// roleMeta is the role of nodes that vote.
const roleMeta = "meta"

// forgetSlack is for how long a removed node is remembered after its certificate has expired by the clocks of this cluster.
const forgetSlack = 30 * 24 * time.Hour

// mayLose refuses to give up a node that is there, or whose loss the rest does not survive.
func (a *API) mayLose(ctx context.Context, name string, voters []ShardVoters, force bool) error {
	const op = "node.remove"
	if force {
		return nil
	}
	st, err := a.opt.Cluster.Status(ctx)
	if err != nil {
		return err
	}
	m, err := a.clusterMap(ctx)
	if err != nil {
		return err
	}
	if st.Placement == nil {
		return vfs.Errorf(vfs.KindUnavailable, op, "it is not known how the stores are: no node looks after them now; try again, or use --force")
	}
	var ids []uint32
	for _, s := range st.Placement.Stores {
		if s.Node != name || s.Record == metapb.StoreState_STORE_LOST.String() {
			continue
		}
		if ids = append(ids, s.ID); s.Readable {
			return vfs.Errorf(vfs.KindBusy, op, "node %s is not lost: its store %d answers; drain it instead, or stop the node first", name, s.ID)
		}
	}
	if err := nodegroup.Survives(m, ids...); err != nil {
		return err
	}
	for _, s := range voters {
		if !s.votes(name) {
			continue
		}
		for _, r := range s.Replicas {
			if r.Node == name && r.Trouble == "" {
				return vfs.Errorf(vfs.KindBusy, op, "node %s is not lost: its replica of shard %d answers; drain it instead, or stop the node first", name, s.Shard)
			}
		}
		if w := s.without(true, name); s.Err != "" || w.Survives < 0 {
			return vfs.Errorf(vfs.KindUnavailable, op, "without node %s shard %d of the metadata would stand still: %s; bring the others back first", name, s.Shard, w.Text())
		}
	}
	return nil
}

// Nodes lists the nodes.
func (c *Client) Nodes(ctx context.Context) ([]NodeStatus, error) {
	var out []NodeStatus
	return out, c.call(ctx, http.MethodGet, "/nodes", nil, &out)
}

func (c *Client) ofNode(ctx context.Context, method, name, what string, in any) (*NodeDetail, error) {
	out := new(NodeDetail)
	return out, c.call(ctx, method, "/nodes/"+url.PathEscape(name)+what, in, out)
}

// Node is all about one node.
func (c *Client) Node(ctx context.Context, name string) (*NodeDetail, error) {
	return c.ofNode(ctx, http.MethodGet, name, "", nil)
}

// DrainNode begins to move away what a node has.
func (c *Client) DrainNode(ctx context.Context, name string, force bool) (*NodeDetail, error) {
	return c.ofNode(ctx, http.MethodPost, name, "/drain", &DrainRequest{force})
}

// UndrainNode ends that.
func (c *Client) UndrainNode(ctx context.Context, name string) (*NodeDetail, error) {
	return c.ofNode(ctx, http.MethodPost, name, "/undrain", nil)
}

// RemoveNode removes a node for good.
func (c *Client) RemoveNode(ctx context.Context, name string, r RemoveRequest) error {
	return c.call(ctx, http.MethodPost, "/nodes/"+url.PathEscape(name)+"/remove", &r, nil)
}
