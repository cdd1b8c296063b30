package api

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// endingWait is how long the deletion of a group waits for file systems that were deleted just before, endingPoll how often it looks.
	endingWait = 15 * time.Second
	endingPoll = 200 * time.Millisecond
)

// decideTries is how often a change is decided anew because the cluster map changed meanwhile, which moving slots do all the time.
const decideTries = 50

// Group is a node group.
type Group struct {
	Name    string      `json:"name"`
	ID      uint32      `json:"id" doc:"Never used again"`
	Created time.Time   `json:"created"`
	Nodes   []GroupNode `json:"nodes"`
	Racks   []GroupRack `json:"racks" doc:"Reserved for the group"`
	Pools   []GroupPool `json:"pools"`
	// Deleting is a group that goes with the last of its pools; each goes when nothing is in it.
	Deleting bool `json:"deleting,omitempty" doc:"It is being deleted: it goes with the last of its pools"`
}

// GroupNode is a node of a group.
type GroupNode struct {
	Name   string `json:"name"`
	Rack   string `json:"rack"`
	Stores int    `json:"stores"`
	Bytes  uint64 `json:"capacity_bytes"`
	Usable bool   `json:"usable" doc:"False if its rack is reserved for another group, so that it may hold nobody's data"`
}

// GroupRack is a rack that is reserved for a group.
type GroupRack struct {
	Name  string    `json:"name"`
	Since time.Time `json:"since"`
	// Idle nodes are there and not in the group.
	Idle    []string `json:"idle_nodes" doc:"Nodes in the rack that are not in the group: they hold nobody's data"`
	Leaving int      `json:"leaving" doc:"Slots of other pools that have moved away and are being filled elsewhere from here"`
	Waiting int      `json:"waiting" doc:"Slots of other pools that are here and have nowhere to go yet"`
}

// GroupPool is a pool of a group.
type GroupPool struct {
	ID      uint32 `json:"id"`
	Name    string `json:"name"`
	Profile string `json:"profile"`
	Domain  string `json:"domain"`
	Groups  int    `json:"placement_groups"`
	Leaving int    `json:"leaving" doc:"Slots that are being filled here from stores which may not hold the pool's data"`
	Waiting int    `json:"waiting" doc:"Slots on such stores that have nowhere to go yet"`
}

// Groups is the answer to a list.
type Groups struct {
	Groups []Group `json:"groups"`
}

// GroupChange is the answer to a change of racks or nodes.
type GroupChange struct {
	Effects []nodegroup.Effect `json:"effects" doc:"What it means for pools"`
	Notes   []string           `json:"notes" doc:"What else to know"`
}

type (
	groupsOutput struct{ Body Groups }
	groupOutput  struct{ Body Group }
	changeOutput struct{ Body GroupChange }
	groupInput   struct {
		Name string `path:"name" maxLength:"63"`
	}
	racksInput struct {
		Name string `path:"name" maxLength:"63"`
		Body struct {
			Racks []string `json:"racks" minItems:"1" maxItems:"256"`
			Force bool     `json:"force,omitempty" doc:"Also if a pool cannot keep its profile or would have no room, or no node is in a rack"`
		}
	}
	releaseInput struct {
		Body struct {
			Racks []string `json:"racks" minItems:"1" maxItems:"256"`
			Force bool     `json:"force,omitempty" doc:"Also if a pool cannot keep its profile or would have no room, or would have no room"`
		}
	}
	nodesInput struct {
		Name string `path:"name" maxLength:"63"`
		Body struct {
			Nodes []string `json:"nodes" minItems:"1" maxItems:"256"`
			Force bool     `json:"force,omitempty" doc:"Also if a pool cannot keep its profile or would have no room, a node is in another group, or its rack is reserved for one"`
		}
	}
)

func (a *API) groups() {
	handle(a, "GET /groups", "list-groups", "List the node groups", a.listGroups)
	handle(a, "GET /groups/{name}", "get-group", "Show a node group", a.getGroup)
	handle(a, "PUT /groups/{name}", "create-group", "Make a node group", a.createGroup)
	handle(a, "DELETE /groups/{name}", "delete-group", "Delete a node group without nodes, racks and file systems; it is gone when its pools are", a.deleteGroup)
	handle(a, "POST /groups/{name}/racks", "reserve-racks", "Reserve racks for a group", a.reserveRacks)
	handle(a, "POST /racks/release", "release-racks", "Release reserved racks", a.releaseRacks)
	handle(a, "POST /groups/{name}/nodes", "add-nodes", "Put nodes into a group", a.addNodes)
	handle(a, "POST /groups/{name}/nodes/remove", "remove-nodes", "Put nodes of a group back into the shared part of the cluster", a.removeNodes)
}

func (a *API) nodeRecords(ctx context.Context) ([]*metapb.Node, error) {
	r, err := a.cluster(ctx, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}})
	return r.GetNodes().GetNodes(), err
}

// decide makes a change of the cluster map: fn decides on a map, and again on a newer one if that changed before its command was applied.
func (a *API) decide(ctx context.Context, fn func(*metapb.ClusterMapR, []*metapb.Node) (*metapb.Command, error)) error {
	for try := 1; ; try++ {
		m, err := a.clusterMap(ctx)
		if err != nil {
			return err
		}
		nodes, err := a.nodeRecords(ctx)
		if err != nil {
			return err
		}
		cmd, err := fn(m, nodes)
		if err != nil || cmd == nil {
			return err
		}
		if _, err = a.opt.Meta.Apply(ctx, clusterShard, cmd); vfs.KindOf(err) != vfs.KindChanged || try == decideTries {
			return err
		}
	}
}

// describe is the groups of a map, by name.
func describe(m *metapb.ClusterMapR, nodes []*metapb.Node) []Group {
	reserved := nodegroup.Reservations(m)
	stores := map[uint32]*metapb.Store{}
	byNode := map[string][]*metapb.Store{}
	for _, s := range m.GetStores() {
		if stores[s.Id] = s; s.State != metapb.StoreState_STORE_LOST {
			byNode[s.Node] = append(byNode[s.Node], s)
		}
	}
	type moving struct{ leaving, waiting int }
	ofPool, ofRack := map[uint32]moving{}, map[string]moving{}
	for _, x := range nodegroup.Exclusive(m) {
		p, r, rack := ofPool[x.Pool], ofRack[stores[x.Store].GetRack()], stores[x.Store].GetRack()
		if x.Place == nodegroup.Leaving {
			p.leaving++
			r.leaving++
		} else {
			p.waiting++
			r.waiting++
		}
		ofPool[x.Pool], ofRack[rack] = p, r
	}
	out := []Group{}
	for _, g := range m.GetGroups() {
		d := Group{Name: g.Name, ID: g.Id, Created: timeOf(g.Created), Deleting: g.Retiring, Nodes: []GroupNode{}, Racks: []GroupRack{}, Pools: []GroupPool{}}
		for _, n := range nodes {
			if n.Group != g.Name {
				continue
			}
			x := GroupNode{Name: n.Name, Rack: n.Rack, Stores: len(byNode[n.Name]), Usable: reserved.Eligible(g.Name, g.Name, n.Rack)}
			for _, s := range byNode[n.Name] {
				x.Bytes += s.Capacity
			}
			d.Nodes = append(d.Nodes, x)
		}
		for _, r := range m.GetReservations() {
			if r.Group != g.Name {
				continue
			}
			x := GroupRack{Name: r.Rack, Since: timeOf(r.Since), Idle: []string{}, Leaving: ofRack[r.Rack].leaving, Waiting: ofRack[r.Rack].waiting}
			for _, n := range nodes {
				if n.Rack == r.Rack && n.Group != g.Name {
					x.Idle = append(x.Idle, n.Name)
				}
			}
			d.Racks = append(d.Racks, x)
		}
		for _, p := range m.GetPools() {
			if p.Group == g.Name {
				d.Pools = append(d.Pools, GroupPool{ID: p.Id, Name: p.Name, Profile: profileOf(p), Domain: cmp.Or(p.Domain, "disk"),
					Groups: len(p.GetPgs()), Leaving: ofPool[p.Id].leaving, Waiting: ofPool[p.Id].waiting})
			}
		}
		out = append(out, d)
	}
	return out
}

func timeOf(t *metapb.Time) time.Time { return time.Unix(t.GetSec(), int64(t.GetNsec())).UTC() }

func (a *API) describeGroups(ctx context.Context) ([]Group, error) {
	m, err := a.clusterMap(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := a.nodeRecords(ctx)
	return describe(m, nodes), err
}

func (a *API) listGroups(ctx context.Context, _ *struct{}) (*groupsOutput, error) {
	all, err := a.describeGroups(ctx)
	if err != nil {
		return nil, err
	}
	return &groupsOutput{Groups{Groups: all}}, nil
}

func (a *API) getGroup(ctx context.Context, in *groupInput) (*groupOutput, error) {
	all, err := a.describeGroups(ctx)
	if err != nil {
		return nil, err
	}
	for _, g := range all {
		if g.Name == in.Name {
			return &groupOutput{g}, nil
		}
	}
	return nil, noGroup("show group", in.Name, all)
}

func noGroup(op, name string, all []Group) error {
	var names []string
	for _, g := range all {
		names = append(names, g.Name)
	}
	if len(names) == 0 {
		return vfs.Errorf(vfs.KindNotFound, op, "there is no group %s, nor any other: make one with `rackfs group create NAME`", name)
	}
	return vfs.Errorf(vfs.KindNotFound, op, "there is no group %s, only %s", name, strings.Join(names, ", "))
}

// hasGroup refuses a group that there is not.
func hasGroup(op string, m *metapb.ClusterMapR, name string) error {
	if slices.ContainsFunc(m.GetGroups(), func(g *metapb.NodeGroup) bool { return g.Name == name }) {
		return nil
	}
	return noGroup(op, name, describe(m, nil))
}

func (a *API) createGroup(ctx context.Context, in *groupInput) (*groupOutput, error) {
	all, err := a.describeGroups(ctx)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(all, func(g Group) bool { return g.Name == in.Name }) {
		return nil, vfs.Errorf(vfs.KindExists, "create group", "there is a group %s already", in.Name)
	}
	_, err = a.opt.Meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutGroup{PutGroup: &metapb.PutGroup{Name: in.Name}}})
	if err != nil {
		return nil, err
	}
	return a.getGroup(ctx, in)
}

func (a *API) deleteGroup(ctx context.Context, in *groupInput) (*struct{}, error) {
	const op = "delete group"
	m, err := a.clusterMap(ctx)
	if err != nil {
		return nil, err
	}
	if err := hasGroup(op, m, in.Name); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(m.Groups, func(g *metapb.NodeGroup) bool { return g.Name == in.Name })
	retire := &metapb.Command{Op: &metapb.Command_RetireGroup{RetireGroup: &metapb.RetireGroup{Name: in.Name, Id: m.Groups[i].Id}}}
	for end := time.Now().Add(endingWait); ; {
		if err = a.apply(ctx, retire); vfs.KindOf(err) != vfs.KindBusy {
			return nil, err
		}
		ending, stays, asked := a.ending(ctx, in.Name)
		if asked != nil || stays {
			break
		}
		if time.Now().After(end) {
			if len(ending) == 0 {
				break // something else is in it
			}
			return nil, vfs.Errorf(vfs.KindBusy, op, "%s, of which %s are to end at once and wait for the leader of shard 0 or for the metadata: `rackfs cluster status` says more; then try again", words(err), strings.Join(ending, ", "))
		}
		select {
		case <-time.After(endingPoll):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if vfs.KindOf(err) == vfs.KindBusy {
		err = vfs.Errorf(vfs.KindBusy, op, "%s: end its file systems (rackfs fs delete --keep 0s), take its nodes out (rackfs group remove) and release its racks (rackfs group release) first", words(err))
	}
	return nil, err
}

// ending are the file systems of a group that were deleted and are not kept: they end within seconds. stays: it has others, or nodes or racks.
func (a *API) ending(ctx context.Context, group string) (names []string, stays bool, err error) {
	all, err := a.describeGroups(ctx)
	if err != nil {
		return nil, false, err
	}
	if i := slices.IndexFunc(all, func(g Group) bool { return g.Name == group }); i >= 0 && len(all[i].Nodes)+len(all[i].Racks) > 0 {
		return nil, true, nil
	}
	list, err := filesystem.List(ctx, a.opt.Meta)
	if err != nil {
		return nil, false, err
	}
	for _, fs := range list.GetFileSystems() {
		switch {
		case fs.Group != group || fs.State == metapb.FileSystemState_FS_PURGING:
		case filesystem.Ends(fs):
			names = append(names, fs.Workspace+"/"+fs.Name)
		default:
			return nil, true, nil
		}
	}
	return names, false, nil
}

func (a *API) reserveRacks(ctx context.Context, in *racksInput) (*changeOutput, error) {
	const op = "reserve racks"
	seen, err := a.seen(ctx)
	if err != nil {
		return nil, err
	}
	out := &changeOutput{}
	err = a.decide(ctx, func(m *metapb.ClusterMapR, nodes []*metapb.Node) (*metapb.Command, error) {
		out.Body = GroupChange{Effects: []nodegroup.Effect{}, Notes: []string{}}
		if err := hasGroup(op, m, in.Name); err != nil {
			return nil, err
		}
		reserved := nodegroup.Reservations(m)
		for _, rack := range in.Body.Racks {
			if g := reserved[rack]; g != "" && g != in.Name {
				return nil, vfs.Errorf(vfs.KindExists, op, "rack %s is reserved for group %s: release it first", rack, g)
			}
			if err := knownRack(op, nodes, rack, in.Body.Force); err != nil {
				return nil, err
			}
			var others []string
			for _, n := range nodes {
				if n.Rack == rack && n.Group != in.Name {
					others = append(others, n.Name)
				}
			}
			if len(others) > 0 {
				out.Body.Notes = append(out.Body.Notes, "rack "+rack+" has nodes that are not in the group and will hold nobody's data: "+strings.Join(others, ", ")+
					"; put them into it with `rackfs group add "+in.Name+" NODE...`")
			}
		}
		if err := judge(op, m, nodegroup.Reserve(m, in.Name, in.Body.Racks), seen, in.Body.Force, &out.Body); err != nil {
			return nil, err
		}
		return &metapb.Command{Op: &metapb.Command_ReserveRacks{ReserveRacks: &metapb.ReserveRacks{
			Group: in.Name, Racks: in.Body.Racks, ExpectMapVersion: m.Version}}}, nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// knownRack refuses a rack that no node is in, which may be a slip.
func knownRack(op string, nodes []*metapb.Node, rack string, force bool) error {
	var racks []string
	for _, n := range nodes {
		if n.Rack == rack {
			return nil
		}
		if n.Rack != "" {
			racks = append(racks, n.Rack)
		}
	}
	if force {
		return nil
	}
	slices.Sort(racks)
	if racks = slices.Compact(racks); len(racks) == 0 {
		return vfs.Errorf(vfs.KindNotFound, op, "no node says which rack it is in: set `rack` in the nodes' configuration and restart them, or reserve rack %s ahead of its nodes with --force", rack)
	}
	return vfs.Errorf(vfs.KindNotFound, op, "no node is in rack %s; there are %s: to reserve a rack ahead of its nodes say --force", rack, strings.Join(racks, ", "))
}

func (a *API) releaseRacks(ctx context.Context, in *releaseInput) (*changeOutput, error) {
	const op = "release racks"
	seen, err := a.seen(ctx)
	if err != nil {
		return nil, err
	}
	out := &changeOutput{}
	err = a.decide(ctx, func(m *metapb.ClusterMapR, nodes []*metapb.Node) (*metapb.Command, error) {
		out.Body = GroupChange{Effects: []nodegroup.Effect{}, Notes: []string{}}
		reserved := nodegroup.Reservations(m)
		for _, rack := range in.Body.Racks {
			g := reserved[rack]
			if g == "" {
				return nil, vfs.Errorf(vfs.KindNotFound, op, "rack %s is not reserved", rack)
			}
			var theirs []string
			for _, n := range nodes {
				if n.Rack == rack && n.Group == g {
					theirs = append(theirs, n.Name)
				}
			}
			if len(theirs) > 0 {
				out.Body.Notes = append(out.Body.Notes, "nodes in rack "+rack+" stay in group "+g+": "+strings.Join(theirs, ", "))
			}
		}
		if err := judge(op, m, nodegroup.Reserve(m, "", in.Body.Racks), seen, in.Body.Force, &out.Body); err != nil {
			return nil, err
		}
		return &metapb.Command{Op: &metapb.Command_ReserveRacks{ReserveRacks: &metapb.ReserveRacks{Racks: in.Body.Racks, ExpectMapVersion: m.Version}}}, nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (a *API) addNodes(ctx context.Context, in *nodesInput) (*changeOutput, error) {
	const op = "add nodes"
	return a.regroup(ctx, op, in.Name, in, func(m *metapb.ClusterMapR, n *metapb.Node) (string, error) {
		if err := hasGroup(op, m, in.Name); err != nil {
			return "", err
		}
		if n.Group != "" && n.Group != in.Name && !in.Body.Force {
			return "", vfs.Errorf(vfs.KindExists, op, "node %s is in group %s: take it out first (rackfs group remove %s %s), or say --force to move it from there", n.Name, n.Group, n.Group, n.Name)
		}
		if to := nodegroup.Reservations(m)[n.Rack]; n.Rack != "" && to != "" && to != in.Name {
			if !in.Body.Force {
				return "", vfs.Errorf(vfs.KindBusy, op, "node %s is in rack %s, which is reserved for group %s, so it could hold nobody's data: release the rack first, or say --force", n.Name, n.Rack, to)
			}
			return "node " + n.Name + " holds nobody's data: its rack " + n.Rack + " is reserved for group " + to, nil
		}
		return "", nil
	})
}

func (a *API) removeNodes(ctx context.Context, in *nodesInput) (*changeOutput, error) {
	const op = "remove nodes"
	return a.regroup(ctx, op, "", in, func(m *metapb.ClusterMapR, n *metapb.Node) (string, error) {
		if err := hasGroup(op, m, in.Name); err != nil {
			return "", err
		}
		if n.Group != in.Name {
			return "", vfs.Errorf(vfs.KindNotFound, op, "node %s is not in group %s", n.Name, in.Name)
		}
		if to := nodegroup.Reservations(m)[n.Rack]; n.Rack != "" && to != "" {
			return "node " + n.Name + " holds nobody's data until its rack " + n.Rack + " is released, which is reserved for group " + to, nil
		}
		return "", nil
	})
}

// regroup puts nodes into a group, or into the shared part of the cluster; check looks at each.
func (a *API) regroup(ctx context.Context, op, group string, in *nodesInput, check func(*metapb.ClusterMapR, *metapb.Node) (note string, err error)) (*changeOutput, error) {
	seen, err := a.seen(ctx)
	if err != nil {
		return nil, err
	}
	out := &changeOutput{}
	err = a.decide(ctx, func(m *metapb.ClusterMapR, nodes []*metapb.Node) (*metapb.Command, error) {
		out.Body = GroupChange{Effects: []nodegroup.Effect{}, Notes: []string{}}
		for _, name := range in.Body.Nodes {
			i := slices.IndexFunc(nodes, func(n *metapb.Node) bool { return n.Name == name })
			if i < 0 {
				return nil, vfs.Errorf(vfs.KindNotFound, op, "node %s is not in the cluster", name)
			}
			note, err := check(m, nodes[i])
			if err != nil {
				return nil, err
			}
			if note != "" {
				out.Body.Notes = append(out.Body.Notes, note)
			}
			nodes[i] = nodes[i].CloneVT() // as it would be
			nodes[i].Group = group
			if slices.Contains(nodes[i].Roles, "gateway") {
				if err := nodegroup.MayServe(op, nodes, name, group, nodes[i].Several); err != nil {
					return nil, err
				}
				out.Body.Notes = append(out.Body.Notes, gatewayNote(nodes[i]))
			}
		}
		if err := judge(op, m, nodegroup.Regroup(m, group, in.Body.Nodes), seen, in.Body.Force, &out.Body); err != nil {
			return nil, err
		}
		return &metapb.Command{Op: &metapb.Command_SetNodeGroup{SetNodeGroup: &metapb.SetNodeGroup{
			Group: group, Nodes: in.Body.Nodes, ExpectMapVersion: m.Version}}}, nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// gatewayNote says what a gateway that is put into another group serves from then on.
func gatewayNote(n *metapb.Node) string {
	if n.Group == "" {
		return "node " + n.Name + " is a gateway: from now on it serves the shared file systems and no others"
	}
	return "node " + n.Name + " is a gateway: from now on it serves the file systems of group " + n.Group + " and no others"
}

func profileOf(p *metapb.Pool) string {
	return nodegroup.ProfileOf(p).String()
}

// Groups lists the node groups.
func (c *Client) Groups(ctx context.Context) ([]Group, error) {
	var out Groups
	return out.Groups, c.call(ctx, http.MethodGet, "/groups", nil, &out)
}

// Group is one node group.
func (c *Client) Group(ctx context.Context, name string) (*Group, error) {
	out := new(Group)
	return out, c.call(ctx, http.MethodGet, "/groups/"+url.PathEscape(name), nil, out)
}

// CreateGroup makes a node group.
func (c *Client) CreateGroup(ctx context.Context, name string) (*Group, error) {
	out := new(Group)
	return out, c.call(ctx, http.MethodPut, "/groups/"+url.PathEscape(name), nil, out)
}

// DeleteGroup deletes a node group. It is gone when nothing is in its pools any more; nobody has to ask again for that.
func (c *Client) DeleteGroup(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/groups/"+url.PathEscape(name), nil, nil)
}

// ReserveRacks reserves racks for a group.
func (c *Client) ReserveRacks(ctx context.Context, group string, racks []string, force bool) (*GroupChange, error) {
	out := new(GroupChange)
	return out, c.call(ctx, http.MethodPost, "/groups/"+url.PathEscape(group)+"/racks", map[string]any{"racks": racks, "force": force}, out)
}

// ReleaseRacks releases reserved racks.
func (c *Client) ReleaseRacks(ctx context.Context, racks []string, force bool) (*GroupChange, error) {
	out := new(GroupChange)
	return out, c.call(ctx, http.MethodPost, "/racks/release", map[string]any{"racks": racks, "force": force}, out)
}

// AddNodes puts nodes into a group.
func (c *Client) AddNodes(ctx context.Context, group string, nodes []string, force bool) (*GroupChange, error) {
	out := new(GroupChange)
	return out, c.call(ctx, http.MethodPost, "/groups/"+url.PathEscape(group)+"/nodes", map[string]any{"nodes": nodes, "force": force}, out)
}

// RemoveNodes puts nodes of a group back into the shared part of the cluster.
func (c *Client) RemoveNodes(ctx context.Context, group string, nodes []string, force bool) (*GroupChange, error) {
	out := new(GroupChange)
	return out, c.call(ctx, http.MethodPost, "/groups/"+url.PathEscape(group)+"/nodes/remove", map[string]any{"nodes": nodes, "force": force}, out)
}
