package devcluster

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// admin is what the API asks this process for beside shard 0. Its nodes are roles of one process: none of them joins or leaves.
type admin struct{ c *Cluster }

// Self implements api.Cluster.
func (a admin) Self() string { return "" }

// NewToken implements api.Cluster.
func (a admin) NewToken(context.Context, []string, time.Duration) (*api.JoinToken, error) {
	return nil, vfs.Errorf(vfs.KindNotSupported, "token", "`rackfs dev` is a whole cluster in one process, which no node joins: begin one of several machines with `rackfs cluster init`")
}

// voter is any voter that runs: it asks the leader.
func (a admin) voter() (*raftmeta.Server, error) {
	for i := range a.c.voters.all {
		if s := a.c.voters.all[i].server; s != nil {
			return s, nil
		}
	}
	return nil, vfs.Errorf(vfs.KindUnavailable, "metadata", "no voter runs")
}

// Members implements api.Cluster.
func (a admin) Members(ctx context.Context, shard uint16) ([]raftmeta.Member, error) {
	v, err := a.voter()
	if err != nil {
		return nil, err
	}
	return v.Members(ctx, shard)
}

// Level implements api.Cluster.
func (a admin) Level(ctx context.Context, shard uint16, raiseTo uint32) (*raftmeta.Level, error) {
	v, err := a.voter()
	if err != nil {
		return nil, err
	}
	return v.ShardLevel(ctx, shard, raiseTo)
}

// Status implements api.Cluster.
func (a admin) Status(ctx context.Context) (*api.ClusterStatus, error) {
	c := a.c
	st := &api.ClusterStatus{Cluster: c.dir.shape.Cluster, Placement: c.placement()}
	answers := map[string]*api.Local{}
	var old error
	if st.Placement != nil {
		st.Placement, old = nodegroup.Current(ctx, c.meta, st.Placement)
	}
	lacks, trouble, slots := api.Troubles(st.Placement)
	if old != nil {
		lacks = append(lacks, api.NotCurrent(old))
	}
	records := map[string]*metapb.Node{} // of roles that have one
	if r, err := c.meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}}); err == nil {
		for _, n := range r.GetNodes().GetNodes() {
			records[n.Name] = n
		}
	}
	var locals []api.LocalVolume
	if list, err := filesystem.List(ctx, c.meta); err == nil {
		locals = api.LocalVolumes(list.GetFileSystems(), slices.Collect(maps.Values(records)))
	}
	add := func(n api.NodeStatus, problems ...string) {
		n.Release = release()
		if r := records[n.Name]; r != nil {
			n.Zone, n.Rack, n.Group, n.Life = r.Zone, r.Rack, r.Group, api.LifeOf(r, st.Placement != nil, slots)
		}
		lacks = append(lacks, n.Suffers(append(problems, trouble[n.Name]...))...)
		st.Nodes = append(st.Nodes, n)
	}
	for i := range c.voters.all {
		v := &c.voters.all[i]
		n := api.NodeStatus{Name: v.name, Roles: []string{"meta"}, Address: v.addr}
		if v.server == nil {
			add(n, "it does not run: "+v.err.Error())
			continue
		}
		n.Local = &api.Local{Node: v.name, Shards: v.server.Status()}
		answers[v.name] = n.Local
		add(n)
	}
	for _, s := range c.stores {
		n := api.NodeStatus{Name: s.name, Roles: []string{"block"}, Address: s.address()}
		d := api.DiskStatus{Path: c.dir.sub(s.name), Store: s.ID}
		n.Local = &api.Local{Node: s.name}
		if s.store == nil {
			d.Err = s.err.Error()
			n.Local.Disks = append(n.Local.Disks, d)
			add(n, "it does not run: "+d.Err)
			continue
		}
		i := s.store.Info()
		d.Info = &i
		n.Local.Disks = append(n.Local.Disks, d)
		add(n)
	}
	for i, addr := range c.NFSAddrs() {
		add(api.NodeStatus{Name: gatewayNameOf(i), Roles: []string{"gateway"}, Address: addr})
	}
	if c.localLn != nil {
		n := api.NodeStatus{Name: localNodeName, Roles: []string{"local"}, Address: c.localLn.Addr().String()}
		problems := n.LocalOf(locals, false)
		add(n, problems...)
	}
	none, raisable := st.Summaries(answers)
	st.Conclude(append(none, lacks...), raisable)
	return st, nil
}
