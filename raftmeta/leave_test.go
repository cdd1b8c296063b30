package raftmeta

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/internal/mux"
)

// fated says what becomes of nodes, as shard 0 does in a cluster.
type fated struct {
	mu sync.Mutex
	of map[string]Fate
}

func (f *fated) set(node string, x Fate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.of = map[string]Fate{node: x}
}

func (f *fated) get(context.Context) (map[string]Fate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.of, nil
}

// leaving is a shard of three voters whose nodes may leave.
func leaving(t *testing.T) (*cluster, *fated) {
	f := new(fated)
	return newCluster(t, 3, []uint16{1}, func(_ int, o *Options) {
		o.Nodes, o.Shards, o.Voters, o.Fates = []string{"m0", "m1", "m2", "m3"}, []uint16{1}, 3, f.get
	}), f
}

// join starts a further node, which has no replica.
func (c *cluster) join() int {
	c.t.Helper()
	i := len(c.names)
	c.names = append(c.names, fmt.Sprintf("m%d", i))
	c.servers = append(c.servers, nil)
	c.formatNode(i)
	c.start(i)
	return i
}

// voters waits until exactly these nodes vote on shard 1, and says what the leader's configuration is.
func (c *cluster) voters(nodes ...int) {
	c.t.Helper()
	var want []string
	for _, i := range nodes {
		want = append(want, c.names[i])
	}
	slices.Sort(want)
	c.eventually(fmt.Sprintf("%v to be the voters", want), func() bool {
		st, ok := c.status(c.leader(1), 1)
		var got []string
		for _, v := range st.Voters {
			got = append(got, mux.NodeOf(v))
		}
		slices.Sort(got)
		return ok && st.Serving && slices.Equal(got, want)
	})
}

// standsBy waits until node i is a non-voter that has caught up with the leader.
func (c *cluster) standsBy(i int) {
	c.t.Helper()
	c.eventually(c.names[i]+" to stand by", func() bool {
		st, ok := c.status(i, 1)
		lead, _ := c.status(c.leader(1), 1)
		return ok && st.Member == NonVoter && st.Applied > 0 && st.Applied >= lead.Applied && st.Keeping != ""
	})
}

// A voter that is lost for good, with its node, is replaced by one that stands by; without one the shard goes on with two. The others serve all the while.
func TestVoterOfAGoneNodeIsReplaced(t *testing.T) {
	for _, standby := range []bool{true, false} {
		t.Run(fmt.Sprintf("standby=%v", standby), func(t *testing.T) {
			c, f := leaving(t)
			cl := c.gateway(1, "gw")
			w := startCreators(t, cl, 1, 4)
			w.more(20)
			lost := (c.leader(1) + 1) % 3
			stay := []int{(lost + 1) % 3, (lost + 2) % 3}
			if standby {
				stay = append(stay, c.join())
				c.standsBy(3)
			}
			c.stop(lost)
			w.more(20)
			f.set(c.names[lost], Gone)
			c.voters(stay...)
			w.more(20)
			if standby { // its vote counts
				c.stop(stay[0])
				w.more(20)
				c.start(stay[0])
			}
			acked := w.end()
			c.eventually("all to follow", func() bool {
				for _, i := range stay {
					if st, ok := c.status(i, 1); !ok || st.Member != Voter {
						return false
					}
				}
				return true
			})
			checkFiles(t, cl, 1, acked)
		})
	}
}

// A leader whose node is drained gives its vote away to one that stands by, and then leads no more, has no replica and wants none, until the node is to stay.
// Without one that stands by nothing happens.
func TestDrainedLeaderLeaves(t *testing.T) {
	c, f := leaving(t)
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	w.more(20)
	out := c.leader(1)
	f.set(c.names[out], Leaves)
	said := func() string {
		st, _ := c.status(out, 1)
		return st.Keeping
	}
	sh, err := c.server(out).shard(1)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := sh.leave(t.Context()); again || err == nil || !strings.Contains(err.Error(), "let another node with role meta join") {
		t.Fatalf("without a node that stands by: %v, %v", again, err)
	}
	c.voters(0, 1, 2)
	in := c.join()
	stay := []int{(out + 1) % 3, (out + 2) % 3, in}
	c.voters(stay...)
	w.more(20)
	c.eventually("the drained node to want no replica", func() bool { return strings.Contains(said(), "leaves") })
	f.set(c.names[out], Stays)
	c.standsBy(out)
	acked := w.end()
	c.voters(stay...)
	c.sameState(1)
	checkFiles(t, cl, 1, acked)
}

// Any voter says how the shard stands with its level, and its leader raises it.
func TestShardLevel(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, keepers)
	lead := c.leader(1)
	l, err := c.server((lead+1)%3).ShardLevel(t.Context(), 1, 0)
	if err != nil || l.Level != 1 || len(l.Voters) != 3 || l.Newest() != NewestLevel || mux.NodeOf(l.Leader) != c.names[lead] {
		t.Fatalf("%+v %v", l, err)
	}
	if l, err = c.server((lead+2)%3).ShardLevel(t.Context(), 1, 2); err != nil || l.Level != 2 {
		t.Fatalf("raised: %+v %v", l, err)
	}
	if _, err := c.server(lead).ShardLevel(t.Context(), 1, NewestLevel+1); err == nil || !strings.Contains(err.Error(), "applies up to") {
		t.Fatalf("above what there is: %v", err)
	}
}
