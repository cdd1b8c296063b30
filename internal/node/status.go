package node

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
)

// statusTimeout bounds the wait for another node's status.
const statusTimeout = 3 * time.Second

// Local is a node as it sees itself.
type Local struct {
	Node        string                 `json:"node"`
	Release     string                 `json:"release,omitempty"`
	Waiting     string                 `json:"waiting,omitempty"` // what the start waits for
	Certificate time.Time              `json:"certificate_until"`
	Shards      []raftmeta.ShardStatus `json:"shards,omitempty"`
	Disks       []DiskStatus           `json:"disks,omitempty"`
	Exports     []string               `json:"exports,omitempty"`
	// Placement is how stores and groups stand, of the node that leads shard 0.
	Placement *nodegroup.Status `json:"placement,omitempty"`
}

// DiskStatus is one disk of a node.
type DiskStatus struct {
	Path  string      `json:"path"`
	Store uint32      `json:"store"`
	Err   string      `json:"error,omitempty"`
	Info  *store.Info `json:"info,omitempty"`
}

// Status is the cluster as one node sees it.
type Status struct {
	Cluster   string            `json:"cluster"`
	Health    string            `json:"health"` // ok, or what is missing
	Nodes     []NodeStatus      `json:"nodes"`
	Shards    []ShardSummary    `json:"shards"`
	Placement *nodegroup.Status `json:"placement,omitempty"`
}

// NodeStatus is one node.
type NodeStatus struct {
	Name    string   `json:"name"`
	Roles   []string `json:"roles"`
	Zone    string   `json:"zone,omitempty"`
	Rack    string   `json:"rack,omitempty"`
	Address string   `json:"address"`
	State   string   `json:"state"` // ok, or what is wrong
	Release string   `json:"release,omitempty"`
	Local   *Local   `json:"local,omitempty"` // what it says itself, of meta nodes and of the one that was asked
}

// ShardSummary is one shard of the metadata.
type ShardSummary struct {
	Shard  uint16   `json:"shard"`
	Leader string   `json:"leader"`
	Voters []string `json:"voters"`
	Level  uint32   `json:"level"`
}

// local describes this node.
func (n *Node) local() *Local {
	n.mu.Lock()
	l := &Local{Node: n.cfg.Name, Release: n.opt.Release, Waiting: n.doing}
	voter := n.voter
	n.mu.Unlock()
	l.Certificate = n.id.Identity().NotAfter()
	if voter != nil {
		l.Shards = voter.Status()
	}
	if l.Waiting != "" {
		return l // the rest is being made
	}
	for _, d := range n.disks {
		s := DiskStatus{Path: d.path, Store: d.ID}
		if d.err != nil {
			s.Err = d.err.Error()
		}
		if d.store != nil {
			i := d.store.Info()
			s.Info = &i
		}
		l.Disks = append(l.Disks, s)
	}
	if n.gateway != nil {
		for _, e := range n.gateway.Exports() {
			l.Exports = append(l.Exports, e.Path)
		}
	}
	if n.guardian != nil {
		if st := n.guardian.Status(); st.Leading {
			l.Placement = &st
		}
	}
	return l
}

// health is the answer of /healthz.
func (n *Node) health() (string, bool) {
	l := n.local()
	if l.Waiting != "" {
		return "starting: " + l.Waiting, false
	}
	var lacks []string
	for _, d := range l.Disks {
		switch {
		case d.Err != "":
			lacks = append(lacks, "disk "+d.Path+" does not run: "+d.Err)
		case d.Info != nil && d.Info.Full:
			lacks = append(lacks, "disk "+d.Path+" is full")
		case d.Info != nil && !d.Info.Writable:
			lacks = append(lacks, "disk "+d.Path+" takes no writes")
		}
	}
	for _, s := range l.Shards {
		if s.Err != "" {
			lacks = append(lacks, fmt.Sprintf("the replica of shard %d has stopped: %s", s.Shard, s.Err))
		}
	}
	if len(lacks) > 0 {
		return "degraded: " + strings.Join(lacks, "; "), true
	}
	return "ok", true
}

// clusterStatus asks all meta nodes and puts together what they say.
func (n *Node) clusterStatus(ctx context.Context) *Status {
	ask, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st := &Status{Cluster: n.dir.state.Settings.Cluster}
	var lacks []string
	if err := n.directory.refresh(ask, n.meta); err != nil {
		lacks = append(lacks, "no metadata leader answers: "+err.Error())
	}
	answers := map[string]*Local{n.cfg.Name: n.local()}
	failures := map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range n.directory.controls() {
		if p.Name == n.cfg.Name {
			continue
		}
		wg.Go(func() {
			l := new(Local)
			err := n.renewer.call(ask, p, http.MethodGet, pathLocal, nil, l)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures[p.Name] = err.Error()
				return
			}
			answers[p.Name] = l
		})
	}
	wg.Wait()
	shards := map[uint16]*ShardSummary{}
	for _, name := range sortedNames(answers) {
		l := answers[name]
		if l.Placement != nil {
			st.Placement = l.Placement
		}
		for _, s := range l.Shards {
			if s.Serving {
				sum := &ShardSummary{Shard: s.Shard, Leader: name, Level: s.Level}
				for _, v := range s.Voters {
					sum.Voters = append(sum.Voters, v[:max(0, strings.LastIndexByte(v, '.'))])
				}
				slices.Sort(sum.Voters)
				shards[s.Shard] = sum
			}
		}
	}
	for _, id := range []uint16{clusterShard, namespaceShard} {
		if shards[id] == nil {
			lacks = append(lacks, fmt.Sprintf("shard %d of the metadata has no leader that serves", id))
			continue
		}
		st.Shards = append(st.Shards, *shards[id])
	}
	trouble := map[string][]string{}
	if st.Placement != nil {
		for _, s := range st.Placement.Stores {
			if s.State != nodegroup.Up && s.Record == "STORE_IN" {
				trouble[s.Node] = append(trouble[s.Node], fmt.Sprintf("store %d is %v", s.ID, s.State))
			}
		}
		for _, p := range st.Placement.Pools {
			switch {
			case p.Writes == "":
				lacks = append(lacks, fmt.Sprintf("pool %s: writers wait for stores that take writes", p.Name))
			case p.Writes != p.Profile:
				lacks = append(lacks, fmt.Sprintf("pool %s: new blocks are %s until enough failure domains take writes for %s", p.Name, p.Writes, p.Profile))
			}
			if p.Filling > 0 {
				lacks = append(lacks, fmt.Sprintf("pool %s: %d slots are being filled", p.Name, p.Filling))
			}
		}
	}
	for _, r := range n.directory.records() {
		x := NodeStatus{Name: r.Name, Roles: r.Roles, Zone: r.Zone, Rack: r.Rack, Release: r.Release, Local: answers[r.Name], State: "ok",
			Address: cmp.Or(r.Meta, r.Block, r.Nfs)}
		problems := trouble[r.Name]
		if f := failures[r.Name]; f != "" {
			problems = append([]string{"does not answer: " + f}, problems...)
		}
		if l := answers[r.Name]; l != nil {
			if l.Waiting != "" {
				problems = append(problems, l.Waiting)
			}
			for _, s := range l.Shards {
				if s.Err != "" {
					problems = append(problems, fmt.Sprintf("its replica of shard %d has stopped: %s", s.Shard, s.Err))
				}
			}
			for _, d := range l.Disks {
				if d.Err != "" {
					problems = append(problems, "disk "+d.Path+" does not run: "+d.Err)
				}
			}
		}
		if len(problems) > 0 {
			x.State = strings.Join(problems, "; ")
			lacks = append(lacks, "node "+r.Name+": "+x.State)
		}
		st.Nodes = append(st.Nodes, x)
	}
	if st.Health = "ok"; len(lacks) > 0 {
		st.Health = "degraded: " + strings.Join(lacks, "; ")
	}
	return st
}

func sortedNames(m map[string]*Local) []string {
	var out []string
	for name := range m {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// WriteNodes prints the nodes as a table.
func (s *Status) WriteNodes(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tROLES\tADDRESS\tZONE\tRACK\tSTATE")
	for _, n := range s.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, strings.Join(n.Roles, ","), n.Address, cmp.Or(n.Zone, "-"), cmp.Or(n.Rack, "-"), n.State)
	}
	return w.Flush()
}

// Write prints the status for people.
func (s *Status) Write(out io.Writer) error {
	fmt.Fprintf(out, "cluster %s\nhealth  %s\n\n", s.Cluster, s.Health)
	if err := s.WriteNodes(out); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, sh := range s.Shards {
		fmt.Fprintf(out, "metadata shard %d: leader %s, voters %s, feature level %d\n", sh.Shard, sh.Leader, strings.Join(sh.Voters, " "), sh.Level)
	}
	if s.Placement == nil {
		return nil
	}
	for _, p := range s.Placement.Pools {
		fmt.Fprintf(out, "pool %s: profile %s, %d groups, new blocks are %s; if one more store is lost, %s\n", p.Name, p.Profile, p.Groups, cmp.Or(p.Writes, "waiting"), p.Next)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "STORE\tNODE\tRECORD\tSTATE\tLAST ERROR")
	for _, x := range s.Placement.Stores {
		fmt.Fprintf(w, "%d\t%s\t%s\t%v\t%s\n", x.ID, x.Node, strings.ToLower(strings.TrimPrefix(x.Record, "STORE_")), x.State, x.LastErr)
	}
	return w.Flush()
}
