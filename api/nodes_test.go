package api

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// shardOf reads replicas: "a" votes, "a?" stands by, a trailing ! is trouble.
func shardOf(text string) *ShardVoters {
	s := &ShardVoters{}
	for _, f := range strings.Fields(text) {
		r := Replica{Voter: true}
		if strings.HasSuffix(f, "!") {
			f, r.Trouble = strings.TrimSuffix(f, "!"), "does not answer"
		}
		if strings.HasSuffix(f, "?") {
			f, r.Voter = strings.TrimSuffix(f, "?"), false
		}
		r.Node = f
		s.add(r)
	}
	s.Survives = s.Healthy - (s.Voters/2 + 1)
	return s
}

// The arithmetic of stopping nodes, and of removing them.
func TestVotersWithout(t *testing.T) {
	for _, c := range []struct {
		conf    string
		nodes   []string
		stop    int // survives
		removed int
	}{
		{"a b c", nil, 1, 1},
		{"a b c", []string{"c"}, 0, 0},
		{"a b c", []string{"b", "c"}, -1, 0},
		{"a b c!", []string{"c"}, 0, 0},
		{"a b c!", []string{"b"}, -1, -1},
		{"a b c d?", []string{"d"}, 1, 1},
		{"a b c d e", []string{"d", "e"}, 0, 1},
		{"a", []string{"a"}, -1, -1},
	} {
		s := shardOf(c.conf)
		if w := s.without(false, c.nodes...); w.Survives != c.stop {
			t.Errorf("[%s] without %v, stopped: %+v, want %d", c.conf, c.nodes, w, c.stop)
		}
		if w := s.without(true, c.nodes...); w.Survives != c.removed {
			t.Errorf("[%s] without %v, removed: %+v, want %d", c.conf, c.nodes, w, c.removed)
		}
		if x := s.stopping(c.nodes); x.OK != (c.stop >= 0) {
			t.Errorf("[%s] without %v: %+v", c.conf, c.nodes, x)
		}
	}
	if x := (&ShardVoters{Err: "nobody leads"}).stopping(nil); x.OK {
		t.Error("a shard of which nothing is known may lose a voter")
	}
}

func TestVotesOf(t *testing.T) {
	for _, c := range []struct{ conf, says string }{
		{"a b c", "there would be 2 voter(s), which survive 0 failure(s) instead of 1: let another node with role meta join, or use --force"},
		{"a b c d?", "takes its place soon"},
		{"a b c d?!", "let another node"},
		{"a b c?", ""},
		{"c", "there would be 0 voter(s)"},
	} {
		got := strings.Join(votesOf("c", []ShardVoters{*shardOf(c.conf)}), " ")
		if got == "" != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("[%s]: %q, want %q", c.conf, got, c.says)
		}
	}
}

// TestVotersKnown: who cannot find out who votes does not judge about a node that may; the state machine does not know either.
func TestVotersKnown(t *testing.T) {
	known, unknown := []ShardVoters{{Shard: 0}, {Shard: 1}}, []ShardVoters{{Shard: 0}, {Shard: 1, Err: "this node has no voter"}}
	for name, x := range map[string]struct {
		roles  []string
		voters []ShardVoters
		kind   vfs.Kind
	}{
		"all is known":               {[]string{"meta", "block"}, known, vfs.KindOK},
		"one shard is not":           {[]string{"meta", "block"}, unknown, vfs.KindUnavailable},
		"of a node that cannot vote": {[]string{"block"}, unknown, vfs.KindOK},
		"of an old record":           {nil, unknown, vfs.KindUnavailable},
	} {
		err := votersKnown(&metapb.Node{Name: "a", Roles: x.roles}, x.voters)
		if vfs.KindOf(err) != x.kind || err != nil && !strings.Contains(err.Error(), "shard 1") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNodesNamed(t *testing.T) {
	st := &ClusterStatus{Nodes: []NodeStatus{{Name: "a", Rack: "r1"}, {Name: "b", Rack: "r1"}, {Name: "c", Rack: "d"}, {Name: "d"}}}
	for names, want := range map[string]string{"a": "a", "r1": "a b", "c r1": "a b c", "a a r1": "a b"} {
		if got, err := nodesNamed(st, strings.Fields(names)); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%s: %v %v, want %s", names, got, err, want)
		}
	}
	for name, kind := range map[string]vfs.Kind{"x": vfs.KindNotFound, "": vfs.KindNotFound, "d": vfs.KindInvalid} {
		if got, err := nodesNamed(st, []string{name}); vfs.KindOf(err) != kind {
			t.Errorf("%q: %v %v, want %v", name, got, err, kind)
		}
	}
}

func TestNodeStores(t *testing.T) {
	d := &NodeDetail{NodeStatus: NodeStatus{Name: "a"}}
	d.stores([]nodegroup.StoreStatus{
		{ID: 1, Node: "a", Record: "STORE_OUT", Slots: 4, Moving: &nodegroup.Moving{BytesLeft: 10, SlotsPerMinute: 2, ETA: 120}},
		{ID: 2, Node: "a", Record: "STORE_OUT", Slots: 1, Moving: &nodegroup.Moving{BytesLeft: 5, SlotsPerMinute: 1, ETA: 60}},
		{ID: 3, Node: "a", Record: "STORE_OUT", Slots: 7, Gone: true}, // of a node that had the name before
		{ID: 4, Node: "a", Record: "STORE_LOST"},
		{ID: 5, Node: "b", Record: "STORE_IN", Slots: 9},
	})
	if len(d.Stores) != 2 || d.SlotsLeft != 5 || d.BytesLeft != 15 || d.SlotsPerMinute != 3 || d.ETA != 120 || d.Stores[0].Record != "out" {
		t.Errorf("%+v", d)
	}
}

// levelled is a cluster of which only the levels are asked.
type levelled struct {
	Cluster
	shards map[uint16]*raftmeta.Level
	raised []uint32
}

func (l *levelled) Level(_ context.Context, shard uint16, to uint32) (*raftmeta.Level, error) {
	if l.shards[shard] == nil {
		return nil, errors.New("nobody leads")
	}
	if to > 0 {
		l.raised = append(l.raised, to)
		l.shards[shard].Level = to
	}
	return l.shards[shard], nil
}

// A level is raised for all shards, or, if one voter cannot or does not say, for none.
func TestRaiseLevels(t *testing.T) {
	level := func(level uint32, max ...uint32) *raftmeta.Level {
		l := &raftmeta.Level{Level: level}
		for i, m := range max {
			v := raftmeta.VoterLevel{ID: string(rune('a'+i)) + ".1", Max: m}
			if m == 0 {
				v.Trouble = "does not answer"
			}
			l.Voters = append(l.Voters, v)
		}
		return l
	}
	for what, c := range map[string]struct {
		zero, one *raftmeta.Level
		to        uint32
		raised    []uint32
		says      string
	}{
		"all can":       {level(3, 4, 4, 4), level(3, 4, 4, 4), 0, []uint32{4, 4}, ""},
		"one is older":  {level(3, 4, 4, 4), level(2, 4, 3, 4), 0, []uint32{3, 3}, ""},
		"to more":       {level(3, 4, 4, 4), level(3, 4, 3, 4), 4, nil, "node b supports level 3, not 4"},
		"one is silent": {level(3, 4, 4, 4), level(3, 4, 0, 4), 0, nil, "voter b of shard 1 does not say"},
		"lower":         {level(3, 4), level(3, 4), 2, nil, "never lowered"},
		"no leader":     {level(3, 4), nil, 0, nil, "shard 1: nobody leads"},
	} {
		l := &levelled{shards: map[uint16]*raftmeta.Level{0: c.zero, 1: c.one}}
		if c.one == nil {
			delete(l.shards, 1)
		}
		a := New(Options{Cluster: l})
		_, err := a.raiseLevels(t.Context(), &raiseInput{Body: RaiseRequest{To: c.to}})
		if !slices.Equal(l.raised, c.raised) || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: raised %v, %v; want %v, %q", what, l.raised, err, c.raised, c.says)
		}
	}
}

// Notes and health: a level that can be raised is no fault, what lacks is.
func TestConclude(t *testing.T) {
	st := &ClusterStatus{}
	lacks, raisable := st.Summaries(map[string]*Local{
		"a": {Shards: []raftmeta.ShardStatus{{Shard: 0, Serving: true, Level: 3, MaxLevel: 4, Voters: []string{"b.1", "a.1"}}}},
		"b": {Shards: []raftmeta.ShardStatus{{Shard: 0, Level: 3, MaxLevel: 5}, {Shard: 1, Serving: true, Level: 4, MaxLevel: 5}}},
	})
	st.Conclude(lacks, raisable)
	if st.Health != "ok" || raisable != 4 || len(st.Notes) != 1 || !strings.Contains(st.Notes[0], "shard 0 can be raised from 3 to 4") || st.Shards[0].Leader != "a" || st.Shards[0].Voters[0] != "a" {
		t.Errorf("%+v", st)
	}
	st = &ClusterStatus{}
	lacks, raisable = st.Summaries(map[string]*Local{"a": {}})
	st.Conclude(lacks, raisable)
	if !strings.Contains(st.Health, "shard 1 of the metadata has no leader") || len(st.Notes) != 0 {
		t.Errorf("without voters: %+v", st)
	}
	n := NodeStatus{Name: "a"}
	if n.Suffers(nil) != nil || n.State != "ok" || len(n.Suffers([]string{"x", "y"})) != 1 || n.State != "x; y" {
		t.Errorf("%+v", n)
	}
	lacks, nodes, slots := Troubles(&nodegroup.Status{
		Stores: []nodegroup.StoreStatus{{ID: 1, Node: "a", Record: "STORE_OUT", State: nodegroup.Down, Slots: 2}, {ID: 2, Node: "b", Record: "STORE_IN", State: nodegroup.Down}, {ID: 3, Node: "c", Gone: true, Slots: 1}},
		Pools:  []nodegroup.PoolStatus{{Name: "p", Profile: "2+1"}},
	})
	if len(lacks) != 2 || !strings.Contains(lacks[0], "removed node c") || !strings.Contains(lacks[1], "writers wait") || len(nodes["a"]) != 0 || len(nodes["b"]) != 1 || slots["a"] != 2 || slots["c"] != 0 {
		t.Errorf("%v %v %v", lacks, nodes, slots)
	}
}

func TestLife(t *testing.T) {
	n := &metapb.Node{Name: "a"}
	if l := LifeOf(n, true, map[string]int{"a": 1}); l != LifeIn {
		t.Error(l)
	}
	n.State = metapb.NodeState_NODE_DRAINING
	for _, c := range []struct {
		known bool
		slots int
		want  string
	}{{true, 1, LifeDraining}, {true, 0, LifeDrained}, {false, 0, LifeDraining}} {
		if l := LifeOf(n, c.known, map[string]int{"a": c.slots, "b": 7}); l != c.want {
			t.Errorf("%+v: %s", c, l)
		}
	}
}
