package api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Troubles is what is wrong with pools and, by node, with stores, and how many slots name each node's stores.
func Troubles(p *nodegroup.Status) (lacks []string, nodes map[string][]string, slots map[string]int) {
	nodes, slots = map[string][]string{}, map[string]int{}
	if p == nil {
		return []string{"how the stores are is not known: no node that leads shard 0 has looked at them"}, nodes, slots
	}
	for _, s := range p.Stores {
		if s.Gone && s.Slots > 0 {
			lacks = append(lacks, fmt.Sprintf("%d slots that store %d of the removed node %s had are being rebuilt", s.Slots, s.ID, s.Node))
			continue
		}
		slots[s.Node] += s.Slots
		if s.State != nodegroup.Up && s.Record == "STORE_IN" {
			nodes[s.Node] = append(nodes[s.Node], fmt.Sprintf("store %d is %v", s.ID, s.State))
		}
	}
	for _, p := range p.Pools {
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
	return lacks, nodes, slots
}

// NotCurrent is what the cluster lacks if the status of its stores could not be made that of the newest map.
func NotCurrent(err error) string {
	return "what became of the stores since they were looked at is not known: " + err.Error()
}

// LifeOf is what becomes of a node, given how many slots name each node's stores, if that is known.
func LifeOf(n *metapb.Node, known bool, slots map[string]int) string {
	switch {
	case n.State != metapb.NodeState_NODE_DRAINING:
		return LifeIn
	case !known || slots[n.Name] > 0:
		return LifeDraining
	}
	return LifeDrained
}

// Suffers notes a node's problems, and says what the cluster lacks by that.
func (n *NodeStatus) Suffers(problems []string) []string {
	if n.State = "ok"; len(problems) == 0 {
		return nil
	}
	n.State = strings.Join(problems, "; ")
	return []string{"node " + n.Name + ": " + n.State}
}

// Conclude says how the cluster is, given what it lacks and the newest feature level that all who answered support.
func (st *ClusterStatus) Conclude(lacks []string, raisable uint32) {
	for _, s := range st.Shards {
		if s.Level < raisable {
			st.Notes = append(st.Notes, fmt.Sprintf("the feature level of shard %d can be raised from %d to %d with `rackfs cluster upgrade-level`, when no node is to go back to an older release", s.Shard, s.Level, raisable))
		}
	}
	if st.Health = "ok"; len(lacks) > 0 {
		st.Health = "degraded: " + strings.Join(lacks, "; ")
	}
}

// Summaries are the shards by what their leaders say; byNode is what each voter process says of its replicas.
func (st *ClusterStatus) Summaries(byNode map[string]*Local) (lacks []string, raisable uint32) {
	found := map[uint16]*ShardSummary{}
	raisable = ^uint32(0)
	for name, l := range byNode {
		for _, s := range l.Shards {
			if s.MaxLevel > 0 {
				raisable = min(raisable, s.MaxLevel)
			}
			if !s.Serving {
				continue
			}
			sum := &ShardSummary{Shard: s.Shard, Leader: name, Level: s.Level}
			for _, v := range s.Voters {
				sum.Voters = append(sum.Voters, nodeOf(v))
			}
			slices.Sort(sum.Voters)
			found[s.Shard] = sum
		}
	}
	for _, id := range shards {
		if found[id] == nil {
			lacks = append(lacks, fmt.Sprintf("shard %d of the metadata has no leader that serves", id))
			continue
		}
		st.Shards = append(st.Shards, *found[id])
	}
	if raisable == ^uint32(0) {
		raisable = 0
	}
	return lacks, raisable
}
