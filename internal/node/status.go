package node

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/nodegroup/gossip"
)

// statusTimeout bounds the wait for another node's status.
const statusTimeout = 3 * time.Second

// local describes this node.
func (n *Node) local() *api.Local {
	n.mu.Lock()
	now := time.Now()
	l := &api.Local{Node: n.cfg.Name, Release: n.opt.Release, Waiting: n.doing, Time: now.UTC()}
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
		s := api.DiskStatus{Path: d.path, Store: d.ID}
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
	if n.noVolumes != nil {
		l.NoVolumes = n.noVolumes.Error()
	}
	if n.localVolumes != nil {
		for _, v := range n.localVolumes.Volumes() {
			l.Exports = append(l.Exports, v.Path)
		}
	}
	if n.guardian != nil {
		if st := n.guardian.Status(); st.Leading {
			l.Placement = &st
		}
	}
	l.Alarms = alarmsOf(l, n.id.Identity().Issued(), now)
	return l
}

// health is the answer of /healthz.
func (n *Node) health() (string, bool) {
	l := n.local()
	if l.Waiting != "" {
		return "starting: " + l.Waiting, false
	}
	var lacks []string
	for _, a := range l.Alarms {
		lacks = append(lacks, a.Text)
	}
	if len(lacks) > 0 {
		return "degraded: " + strings.Join(lacks, "; "), true
	}
	return "ok", true
}

// clusterStatus asks all meta nodes and puts together what they say.
func (n *Node) clusterStatus(ctx context.Context) *api.ClusterStatus {
	ask, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st := &api.ClusterStatus{Cluster: n.dir.state.Settings.Cluster}
	var lacks []string
	if err := n.directory.refresh(ask, n.meta); err != nil {
		lacks = append(lacks, "no metadata leader answers: "+err.Error())
	}
	answers := map[string]*api.Local{n.cfg.Name: n.local()}
	failures, clocks := map[string]string{}, map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range n.directory.controls() {
		if p.Name == n.cfg.Name {
			continue
		}
		wg.Go(func() {
			l, asked := new(api.Local), time.Now()
			err := n.renewer.call(ask, p, http.MethodGet, pathLocal, nil, l)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failures[p.Name] = err.Error()
				return
			}
			answers[p.Name], clocks[p.Name] = l, clockTrouble(l.Time, asked, time.Now())
		})
	}
	wg.Wait()
	for _, l := range answers {
		if l.Placement != nil && (st.Placement == nil || l.Placement.Version > st.Placement.Version) { // two say so when a leader does not know yet that it is none
			st.Placement = l.Placement
		}
	}
	if st.Placement != nil {
		// The map is read after the records of nodes: what a node had that is not among them any more is rebuilt, and this must not be missed.
		var err error
		if st.Placement, err = nodegroup.Current(ask, n.meta, st.Placement); err != nil {
			lacks = append(lacks, api.NotCurrent(err))
		}
	}
	heard := n.gossipView()
	var locals []api.LocalVolume
	if list, err := filesystem.List(ask, n.meta); err == nil {
		locals = api.LocalVolumes(list.GetFileSystems(), n.directory.records())
	}
	none, raisable := st.Summaries(answers)
	lacks = append(lacks, none...)
	more, trouble, slots := api.Troubles(st.Placement)
	lacks = append(lacks, more...)
	for _, r := range n.directory.records() {
		x := api.NodeStatus{Name: r.Name, Roles: r.Roles, Zone: r.Zone, Rack: r.Rack, Group: r.Group, Release: r.Release, Local: answers[r.Name], State: "ok", Gossip: string(heard[r.Name].State), Life: api.LifeOf(r, st.Placement != nil, slots),
			Address: cmp.Or(r.Meta, r.Block, r.Nfs, r.Local)}
		problems := append(slices.Clone(trouble[r.Name]), x.LocalOf(locals, heard[r.Name].State == gossip.Dead)...)
		if f := failures[r.Name]; f != "" {
			problems = append([]string{"does not answer: " + f}, problems...)
		}
		if l := answers[r.Name]; l != nil {
			if l.Waiting != "" {
				problems = append(problems, l.Waiting)
			}
			for _, a := range l.Alarms {
				if a.Kind != alarmReplicaStopped || x.Life == api.LifeIn { // one that leaves has no replicas in the end
					problems = append(problems, a.Text)
				}
			}
			if c := clocks[r.Name]; c != "" {
				problems = append(problems, c)
			}
		}
		lacks = append(lacks, x.Suffers(problems)...)
		st.Nodes = append(st.Nodes, x)
	}
	st.Conclude(lacks, raisable)
	return st
}
