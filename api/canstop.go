package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// CanStop is what stopping some nodes for a while would mean. Nothing is moved for it.
type CanStop struct {
	OK     bool        `json:"ok" doc:"All could be read and written as before"`
	Nodes  []string    `json:"nodes" doc:"That would be stopped"`
	Pools  []PoolStop  `json:"pools"`
	Shards []ShardStop `json:"shards"`
	Notes  []string    `json:"notes,omitempty" doc:"What else it would mean"`
}

// PoolStop is what it means for a pool.
type PoolStop struct {
	Pool string `json:"pool"`
	OK   bool   `json:"ok"`
	placement.Stop
}

// ShardStop is what it means for a shard of the metadata.
type ShardStop struct {
	Shard uint16 `json:"shard"`
	OK    bool   `json:"ok"`
	Text  string `json:"text" doc:"The arithmetic"`
}

type (
	canStopInput struct {
		Names []string `query:"name,explode" minItems:"1" maxItems:"4096" doc:"Nodes or racks"`
	}
	canStopOutput struct{ Body *CanStop }
)

func (a *API) canStop(ctx context.Context, in *canStopInput) (*canStopOutput, error) {
	const op = "cluster.can-stop"
	st, err := a.opt.Cluster.Status(ctx)
	if err != nil {
		return nil, err
	}
	if st.Placement == nil {
		return nil, vfs.Errorf(vfs.KindUnavailable, op, "it is not known how the stores are: no node that leads shard 0 answers; try again")
	}
	m, err := a.clusterMap(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := nodesNamed(st, in.Names)
	if err != nil {
		return nil, err
	}
	out := &CanStop{OK: true, Nodes: nodes, Pools: []PoolStop{}}
	stop := map[uint32]bool{}
	for _, s := range m.GetStores() {
		stop[s.Id] = slices.Contains(nodes, s.Node)
	}
	stops := nodegroup.StopOf(m, st.Placement.Stores, stop)
	for _, p := range m.GetPools() {
		x := PoolStop{Pool: p.Name, Stop: stops[p.Id]}
		x.OK = x.Stop.OK()
		out.Pools, out.OK = append(out.Pools, x), out.OK && x.OK
	}
	for _, s := range a.voters(ctx) {
		x := s.stopping(nodes)
		out.Shards, out.OK = append(out.Shards, x), out.OK && x.OK
	}
	for _, n := range st.Nodes {
		if slices.Contains(nodes, n.Name) && slices.Contains(n.Roles, "gateway") {
			out.Notes = append(out.Notes, fmt.Sprintf("node %s serves NFS: who has mounted from it waits until it is back", n.Name))
		}
		if slices.Contains(nodes, n.Name) && len(n.LocalVolumes) > 0 {
			out.Notes = append(out.Notes, fmt.Sprintf("node %s has %d local volumes: its workloads wait until it is back, and if it does not come back the files in them are lost", n.Name, len(n.LocalVolumes)))
		}
	}
	return &canStopOutput{out}, nil
}

// nodesNamed are the nodes, and those of the racks, with these names.
func nodesNamed(st *ClusterStatus, names []string) ([]string, error) {
	const op = "cluster.can-stop"
	found := map[string]bool{}
	for _, name := range names {
		node, rack := false, 0
		for _, n := range st.Nodes {
			node = node || n.Name == name
			if n.Rack == name && name != "" {
				rack++
			}
		}
		switch {
		case node && rack > 0:
			return nil, vfs.Errorf(vfs.KindInvalid, op, "%s is the name of a node and of a rack: name the nodes", name)
		case !node && rack == 0:
			return nil, vfs.Errorf(vfs.KindNotFound, op, "there is no node or rack %q: `rackfs node list` shows those that there are", name)
		}
		for _, n := range st.Nodes {
			if n.Name == name || n.Rack == name {
				found[n.Name] = true
			}
		}
	}
	var out []string
	for n := range found {
		out = append(out, n)
	}
	slices.Sort(out)
	return out, nil
}

// stopping is what the shard is while nodes are stopped.
func (s *ShardVoters) stopping(nodes []string) ShardStop {
	if s.Err != "" {
		return ShardStop{Shard: s.Shard, Text: "it has no leader now: " + s.Err}
	}
	w := s.without(false, nodes...)
	text := fmt.Sprintf("%d of %d voters are healthy now, %d of %d would be, and %d are needed", s.Healthy, s.Voters, w.Healthy, w.Voters, w.Voters/2+1)
	switch {
	case w.Survives < 0:
		text += ": it would stand still"
	case w.Survives == 0:
		text += ": no further one could fail"
	default:
		text += fmt.Sprintf(": %d more could fail", w.Survives)
	}
	return ShardStop{Shard: s.Shard, OK: w.Survives >= 0, Text: text}
}

// CanStop says what stopping nodes, and those of racks, with these names would mean.
func (c *Client) CanStop(ctx context.Context, names ...string) (*CanStop, error) {
	q := url.Values{"name": names}
	out := new(CanStop)
	return out, c.call(ctx, http.MethodGet, "/cluster/can-stop?"+q.Encode(), nil, out)
}

// Text is the answer, for people.
func (s *CanStop) Text() string {
	var b strings.Builder
	for _, p := range s.Pools {
		fmt.Fprintf(&b, "%-4s %s\n", yes(p.OK), p.Text)
	}
	for _, x := range s.Shards {
		fmt.Fprintf(&b, "%-4s metadata shard %d: %s\n", yes(x.OK), x.Shard, x.Text)
	}
	for _, n := range s.Notes {
		fmt.Fprintf(&b, "note %s\n", n)
	}
	if s.OK {
		fmt.Fprintf(&b, "yes: %s can be stopped, all can be read and written meanwhile\n", strings.Join(s.Nodes, ", "))
	} else {
		fmt.Fprintf(&b, "no: %s cannot be stopped without that\n", strings.Join(s.Nodes, ", "))
	}
	return b.String()
}

func yes(ok bool) string {
	if ok {
		return "yes"
	}
	return "no"
}
