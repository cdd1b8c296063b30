package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Cluster is what the process that serves the API knows beside shard 0.
type Cluster interface {
	// Self is the name of the node; "" of `rackfs dev`, which is all nodes.
	Self() string
	// Status asks around how the cluster is.
	Status(ctx context.Context) (*ClusterStatus, error)
	// NewToken makes a token for one node with some of these roles.
	NewToken(ctx context.Context, roles []string, ttl time.Duration) (*JoinToken, error)
	// Members are the replicas of a shard as its leader sees them.
	Members(ctx context.Context, shard uint16) ([]raftmeta.Member, error)
	// Level is how a shard stands with its feature level, after its leader raised it to raiseTo (0: left it).
	Level(ctx context.Context, shard uint16, raiseTo uint32) (*raftmeta.Level, error)
}

// Shards of the metadata.
var shards = [...]uint16{0, 1}

// ClusterStatus is the cluster as one node sees it.
type ClusterStatus struct {
	Cluster   string            `json:"cluster" doc:"Its id"`
	Health    string            `json:"health" doc:"ok, or what is missing"`
	Nodes     []NodeStatus      `json:"nodes"`
	Shards    []ShardSummary    `json:"shards"`
	Placement *nodegroup.Status `json:"placement,omitempty" doc:"Stores and pools, as the leader of shard 0 sees them"`
	// Notes are not faults: what an operator may want to do.
	Notes []string `json:"notes,omitempty" doc:"What an operator may want to do"`
}

// NodeStatus is one node.
type NodeStatus struct {
	Name    string   `json:"name"`
	Roles   []string `json:"roles"`
	Zone    string   `json:"zone,omitempty"`
	Rack    string   `json:"rack,omitempty"`
	Group   string   `json:"group,omitempty"`
	Address string   `json:"address"`
	State   string   `json:"state" doc:"ok, or what is wrong"`
	Life    string   `json:"life,omitempty" doc:"in, draining or drained"`
	Release string   `json:"release,omitempty"`
	Gossip  string   `json:"gossip,omitempty" doc:"What the node that was asked hears of it by gossip: alive or dead; empty if nothing"`
	Local   *Local   `json:"local,omitempty" doc:"What it says itself: of meta nodes, and of the one that was asked"`

	LocalVolumes []LocalVolume `json:"local_volumes,omitempty" doc:"Its parts of file systems of kind local: unreplicated, and lost with the node"`
}

// Local is a node as it sees itself.
type Local struct {
	Node        string                 `json:"node"`
	Release     string                 `json:"release,omitempty"`
	Waiting     string                 `json:"waiting,omitempty" doc:"What its start waits for"`
	Certificate time.Time              `json:"certificate_until"`
	Shards      []raftmeta.ShardStatus `json:"shards,omitempty"`
	Disks       []DiskStatus           `json:"disks,omitempty"`
	Exports     []string               `json:"exports,omitempty"`
	NoVolumes   string                 `json:"no_local_volumes,omitempty" doc:"Why it serves no local volumes, though it has the role"`
	Time        time.Time              `json:"time,omitzero" doc:"By its clock"`
	Alarms      []Alarm                `json:"alarms,omitempty" doc:"What is wrong with it"`
	Placement   *nodegroup.Status      `json:"placement,omitempty" doc:"How stores and groups stand, of the node that leads shard 0"`
}

// Alarm is something that is wrong with a node by itself.
type Alarm struct {
	Kind string `json:"kind" doc:"As in the metric rackfs_node_alarms"`
	Text string `json:"text"`
}

// DiskStatus is one disk of a node.
type DiskStatus struct {
	Path  string      `json:"path"`
	Store uint32      `json:"store"`
	Err   string      `json:"error,omitempty"`
	Info  *store.Info `json:"info,omitempty"`
}

// ShardSummary is one shard of the metadata.
type ShardSummary struct {
	Shard  uint16   `json:"shard"`
	Leader string   `json:"leader"`
	Voters []string `json:"voters"`
	Level  uint32   `json:"level" doc:"Feature level"`
}

// TokenRequest asks for a token.
type TokenRequest struct {
	Roles []string `json:"roles" doc:"That the node may have"`
	TTL   float64  `json:"ttl_s" doc:"How long it can be used, in seconds"`
}

// JoinToken lets one node join. It is as good as a key.
type JoinToken struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// ShardVoters is who votes on a shard.
type ShardVoters struct {
	Shard    uint16    `json:"shard"`
	Replicas []Replica `json:"replicas"`
	// Voters and Healthy count those that vote; Survives is how many of the healthy ones may fail; below 0 there is no majority.
	Voters   int    `json:"voters"`
	Healthy  int    `json:"healthy"`
	Survives int    `json:"survives" doc:"How many more voters may fail"`
	Err      string `json:"error,omitempty" doc:"Why nothing is known"`
}

// Replica is one of a shard.
type Replica struct {
	Node    string `json:"node"`
	ID      string `json:"id"`
	Voter   bool   `json:"voter" doc:"Or it stands by"`
	Behind  uint64 `json:"behind" doc:"Entries of the log that it lacks"`
	Trouble string `json:"trouble,omitempty" doc:"Why it is not healthy"`
}

// Levels is how the shards stand with their feature level.
type Levels struct {
	Newest uint32       `json:"newest" doc:"That the release of the answering node knows"`
	Shards []ShardLevel `json:"shards"`
}

// ShardLevel is the feature level of a shard.
type ShardLevel struct {
	Shard  uint16       `json:"shard"`
	Level  uint32       `json:"level"`
	CanBe  uint32       `json:"can_be" doc:"Newest level that all voters can apply; 0: one does not answer"`
	Voters []VoterLevel `json:"voters,omitempty"`
	Err    string       `json:"error,omitempty"`
}

// VoterLevel is what a voter can apply.
type VoterLevel struct {
	Node    string `json:"node"`
	Max     uint32 `json:"max_level"`
	Trouble string `json:"trouble,omitempty"`
}

// RaiseRequest raises feature levels.
type RaiseRequest struct {
	To uint32 `json:"to,omitempty" doc:"Level; 0: the newest that all voters can apply"`
}

type (
	statusOutput struct{ Body *ClusterStatus }
	tokenInput   struct{ Body TokenRequest }
	tokenOutput  struct{ Body *JoinToken }
	votersOutput struct{ Body []ShardVoters }
	levelsOutput struct{ Body *Levels }
	raiseInput   struct{ Body RaiseRequest }
)

func (a *API) clusters() {
	handle(a, "GET /cluster/status", "cluster-status", "Nodes, metadata, pools and stores", func(ctx context.Context, _ *struct{}) (*statusOutput, error) {
		st, err := a.opt.Cluster.Status(ctx)
		return &statusOutput{st}, err
	})
	handle(a, "POST /cluster/tokens", "make-token", "Make a token with which one node can join", func(ctx context.Context, in *tokenInput) (*tokenOutput, error) {
		t, err := a.opt.Cluster.NewToken(ctx, in.Body.Roles, time.Duration(in.Body.TTL*float64(time.Second)))
		return &tokenOutput{t}, err
	})
	handle(a, "GET /cluster/voters", "list-voters", "Who votes on the metadata", func(ctx context.Context, _ *struct{}) (*votersOutput, error) {
		return &votersOutput{a.voters(ctx)}, nil
	})
	handle(a, "GET /cluster/level", "get-level", "Feature levels", func(ctx context.Context, _ *struct{}) (*levelsOutput, error) {
		return &levelsOutput{a.levels(ctx)}, nil
	})
	handle(a, "GET /cluster/can-stop", "can-stop", "What stopping nodes for a while would mean", a.canStop)
	handle(a, "POST /cluster/gossip-key", "rotate-gossip-key", "Make a new key of gossip, to which nodes change by themselves", a.rotateGossipKey)
	raw(a, "GET /profiles/{profile}", "get-profile", "One of Go's profiles of the process that is asked (net/http/pprof)", a.profile)
	handle(a, "POST /cluster/level", "raise-level", "Raise the feature level; it is never lowered", a.raiseLevels)
}

func (a *API) rotateGossipKey(ctx context.Context, _ *struct{}) (*struct{}, error) {
	if a.opt.Cluster.Self() == "" {
		return nil, vfs.Errorf(vfs.KindNotSupported, "rotate gossip key", "`rackfs dev` is one process, which has nobody to gossip with")
	}
	return nil, provision.RotateGossipKey(ctx, a.opt.Meta)
}

// RotateGossipKey makes a new key of gossip.
func (c *Client) RotateGossipKey(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/cluster/gossip-key", nil, nil)
}

// voters asks for those of all shards.
func (a *API) voters(ctx context.Context) []ShardVoters {
	var out []ShardVoters
	for _, shard := range shards {
		s := ShardVoters{Shard: shard, Replicas: []Replica{}}
		ms, err := a.opt.Cluster.Members(ctx, shard)
		if err != nil {
			s.Err = err.Error()
		}
		for _, m := range ms {
			s.add(Replica{Node: nodeOf(m.ID), ID: m.ID, Voter: m.Voter, Behind: m.Commit - min(m.Match, m.Commit), Trouble: m.Trouble})
		}
		s.Survives = s.Healthy - (s.Voters/2 + 1)
		out = append(out, s)
	}
	return out
}

func (s *ShardVoters) add(r Replica) {
	s.Replicas = append(s.Replicas, r)
	if r.Voter {
		if s.Voters++; r.Trouble == "" {
			s.Healthy++
		}
	}
}

// without is the shard without the voters of some nodes. removed: they are not counted any more; else they are down.
func (s *ShardVoters) without(removed bool, nodes ...string) (w ShardVoters) {
	w.Shard, w.Err = s.Shard, s.Err
	for _, r := range s.Replicas {
		if slices.Contains(nodes, r.Node) {
			if removed {
				continue
			}
			r.Trouble = "stopped"
		}
		w.add(r)
	}
	w.Survives = w.Healthy - (w.Voters/2 + 1)
	return w
}

// votes reports whether a node has a voter of the shard.
func (s *ShardVoters) votes(node string) bool {
	return slices.ContainsFunc(s.Replicas, func(r Replica) bool { return r.Voter && r.Node == node })
}

// standsBy is a healthy replica that does not vote, on none of these nodes.
func (s *ShardVoters) standsBy(nodes ...string) bool {
	return slices.ContainsFunc(s.Replicas, func(r Replica) bool { return !r.Voter && r.Trouble == "" && !slices.Contains(nodes, r.Node) })
}

// nodeOf is the node's name in the id of a replica, NODE.RANDOM.
func nodeOf(replica string) string { return replica[:max(0, strings.LastIndexByte(replica, '.'))] }

func (a *API) levels(ctx context.Context) *Levels {
	out := &Levels{Newest: raftmeta.NewestLevel}
	for _, shard := range shards {
		s := ShardLevel{Shard: shard}
		l, err := a.opt.Cluster.Level(ctx, shard, 0)
		if err != nil {
			s.Err = err.Error()
		} else {
			s.Level, s.CanBe = l.Level, l.Newest()
			for _, v := range l.Voters {
				s.Voters = append(s.Voters, VoterLevel{Node: nodeOf(v.ID), Max: v.Max, Trouble: v.Trouble})
			}
		}
		out.Shards = append(out.Shards, s)
	}
	return out
}

// raiseLevels raises all shards or, if one cannot be, none.
func (a *API) raiseLevels(ctx context.Context, in *raiseInput) (*levelsOutput, error) {
	const op = "cluster.level"
	now, to := a.levels(ctx), in.Body.To
	if to == 0 {
		to = now.Newest
		for _, s := range now.Shards {
			if s.CanBe > 0 {
				to = min(to, s.CanBe)
			}
		}
	}
	for _, s := range now.Shards {
		switch {
		case s.Err != "":
			return nil, vfs.Errorf(vfs.KindUnavailable, op, "shard %d: %s", s.Shard, s.Err)
		case s.Level > to:
			return nil, vfs.Errorf(vfs.KindInvalid, op, "shard %d is at level %d: a level is never lowered", s.Shard, s.Level)
		}
		for _, v := range s.Voters {
			if v.Max == 0 {
				return nil, vfs.Errorf(vfs.KindUnavailable, op, "voter %s of shard %d does not say what it supports: %s; start it, or remove it, first", v.Node, s.Shard, v.Trouble)
			}
			if v.Max < to {
				return nil, vfs.Errorf(vfs.KindNotSupported, op, "node %s supports level %d, not %d: install the newer release there first", v.Node, v.Max, to)
			}
		}
	}
	for _, s := range now.Shards {
		if _, err := a.opt.Cluster.Level(ctx, s.Shard, to); err != nil {
			return nil, err
		}
	}
	return &levelsOutput{a.levels(ctx)}, nil
}

// clusterMap asks for stores and pools.
func (a *API) clusterMap(ctx context.Context) (*metapb.ClusterMapR, error) {
	r, err := a.cluster(ctx, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
	return r.GetClusterMap(), err
}

// Status is how the cluster is.
func (c *Client) Status(ctx context.Context) (*ClusterStatus, error) {
	out := new(ClusterStatus)
	return out, c.call(ctx, http.MethodGet, "/cluster/status", nil, out)
}

// NewToken makes a token for one node with some of these roles.
func (c *Client) NewToken(ctx context.Context, roles []string, ttl time.Duration) (*JoinToken, error) {
	out := new(JoinToken)
	return out, c.call(ctx, http.MethodPost, "/cluster/tokens", &TokenRequest{roles, ttl.Seconds()}, out)
}

// Voters is who votes on each shard.
func (c *Client) Voters(ctx context.Context) ([]ShardVoters, error) {
	var out []ShardVoters
	return out, c.call(ctx, http.MethodGet, "/cluster/voters", nil, &out)
}

// Levels is the feature level of each shard.
func (c *Client) Levels(ctx context.Context) (*Levels, error) {
	out := new(Levels)
	return out, c.call(ctx, http.MethodGet, "/cluster/level", nil, out)
}

// RaiseLevel raises it; 0: to the newest that all voters can apply.
func (c *Client) RaiseLevel(ctx context.Context, to uint32) (*Levels, error) {
	out := new(Levels)
	return out, c.call(ctx, http.MethodPost, "/cluster/level", &RaiseRequest{to}, out)
}

// Text is the arithmetic, for people.
func (s *ShardVoters) Text() string {
	if s.Err != "" {
		return s.Err
	}
	return fmt.Sprintf("%d of %d voters healthy, %d needed", s.Healthy, s.Voters, s.Voters/2+1)
}
