package raftmeta

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/internal/mux"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// keepers makes servers replace lost replicas, with a log that is cut soon.
func keepers(i int, o *Options) {
	o.Nodes, o.Shards = []string{"m0", "m1", "m2"}, []uint16{1}
	o.TrailingLogs, o.WALSegmentBytes = 1, 1<<20
}

// wipe removes everything that node i has, and leaves an empty directory of the node.
func (c *cluster) wipe(i int) {
	c.t.Helper()
	if err := os.RemoveAll(c.path(i)); err != nil {
		c.t.Fatal(err)
	}
	c.formatNode(i)
}

func (c *cluster) formatNode(i int) {
	c.t.Helper()
	if _, err := Format(FormatOptions{Dir: c.path(i), Cluster: testClusterID, Node: c.names[i]}); err != nil {
		c.t.Fatal(err)
	}
}

// votes waits until node i has a voter of shard 1, with another id than old, and no other replica of the node is left in the configuration.
func (c *cluster) votes(i int, old string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s to vote with a new replica", c.names[i]), func() bool {
		st, ok := c.status(i, 1)
		if !ok || st.Member != Voter || st.Replica == old || st.Keeping != "" {
			return false
		}
		lead, _ := c.status(c.leader(1), 1)
		same := 0
		for _, v := range lead.Voters {
			if mux.NodeOf(v) == c.names[i] {
				same++
			}
		}
		return same == 1 && slices.Contains(lead.Voters, st.Replica) && len(lead.Voters) == len(c.names)
	})
}

// needed shows that node i's vote counts: with it, and without another voter, commands are committed.
func (c *cluster) needed(i int, w *creators) {
	c.t.Helper()
	other := (i + 1) % 3
	c.stop(other)
	w.more(30)
	c.start(other)
	w.more(10)
}

func (c *cluster) replicaOf(i int) string {
	c.t.Helper()
	var id string
	c.eventually("a replica at "+c.names[i], func() bool {
		st, ok := c.status(i, 1)
		id = st.Replica
		return ok && id != ""
	})
	return id
}

// dropLog makes the others forget the entries that a new replica would need.
func (c *cluster) dropLog(except int, w *creators) {
	c.t.Helper()
	w.more(400)
	for i := range c.servers {
		if i != except {
			if err := c.server(i).Snapshot(1); err != nil {
				c.t.Fatal(err)
			}
		}
	}
	w.more(10)
}

// A voter that lost everything is replaced by a new replica, which gets the state by snapshot and votes. Meanwhile commands go on, each of them once.
func TestWipedVoterIsReplaced(t *testing.T) {
	for _, log := range []Backend{WAL, Bolt} {
		t.Run(string(log), func(t *testing.T) {
			c := newClusterLog(t, 3, []uint16{1}, log, func(i int, o *Options) { keepers(i, o); o.Log = log })
			cl := c.gateway(1, "gw")
			w := (&creators{t: t, cl: cl, shard: 1, long: true}).start(4)
			w.more(20)
			lost := (c.leader(1) + 1) % 3
			old := c.replicaOf(lost)
			c.stop(lost)
			c.wipe(lost)
			c.dropLog(lost, w)
			c.start(lost)
			c.votes(lost, old)
			if es, err := os.ReadDir(filepath.Join(c.path(lost), "shard-00001", "snapshots")); err != nil || len(es) == 0 {
				t.Errorf("the new replica did not get a snapshot: %v", err)
			}
			c.needed(lost, w)
			acked := w.end()
			c.sameState(1)
			checkFiles(t, cl, 1, acked)
		})
	}
}

// A removed voter that comes back with its old directory, and nobody to replace it, does not vote, raises no term and disturbs nobody; one
// that may be replaced is.
func TestRemovedVoterComesBack(t *testing.T) {
	keep := true
	c := newCluster(t, 3, []uint16{1}, func(i int, o *Options) {
		keepers(i, o)
		if !keep {
			o.Nodes = nil
		}
	})
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	w.more(50)
	lost := (c.leader(1) + 1) % 3
	old := c.replicaOf(lost)
	c.stop(lost)
	saved := filepath.Join(t.TempDir(), "saved")
	if err := os.CopyFS(saved, os.DirFS(c.path(lost))); err != nil {
		t.Fatal(err)
	}
	c.wipe(lost)
	c.start(lost)
	c.votes(lost, old)
	newer := c.replicaOf(lost)
	w.more(20)
	c.stop(lost)
	if err := os.RemoveAll(c.path(lost)); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(c.path(lost), os.DirFS(saved)); err != nil {
		t.Fatal(err)
	}
	keep = false
	leader := c.leader(1)
	before, _ := c.status(leader, 1)
	c.start(lost)
	mine, _ := c.status(lost, 1)
	if mine.Replica != old {
		t.Fatalf("the old directory has replica %s, want %s", mine.Replica, old)
	}
	// Unless it learns of its removal: the leader's last attempt to tell it, from when it was removed, may come this late.
	c.eventually("the old replica to want to be elected", func() bool {
		st, _ := c.status(lost, 1)
		return st.Role == "Candidate" || st.Member != Voter
	})
	// A dozen elections in each of these times; a late disturbance would be missed, never invented. A machine that is busy may change the
	// leader by itself, but hardly each time; a voter that disturbs does so all the time.
	var after ShardStatus
	for try := 1; ; try++ {
		time.Sleep(5 * time.Second)
		w.more(20)
		after, _ = c.status(leader, 1)
		if after.Serving && after.Term == before.Term {
			break
		}
		if try == 20 {
			t.Fatalf("the leader is disturbed: before %+v, after %+v", before, after)
		}
		leader = c.leader(1)
		before, _ = c.status(leader, 1)
	}
	if st, _ := c.status(lost, 1); st.Term > after.Term || st.State >= after.State {
		t.Errorf("the removed voter took part: %+v, then %+v", mine, st)
	}
	// By itself it cannot get back either.
	err := c.server(lost).peers.call(testContext(t), c.names[leader], OpMember, &metapb.MemberRequest{
		Shard: 1, Action: metapb.MemberAction_MEMBER_JOIN, Replica: old}, new(metapb.MemberReply))
	if vfs.KindOf(err) != vfs.KindFenced {
		t.Errorf("join of a removed replica: %v", err)
	}
	keep = true
	c.stop(lost)
	c.start(lost)
	c.votes(lost, newer)
	if id := c.replicaOf(lost); id == old {
		t.Error("the removed replica votes again")
	}
	if aside := c.aside(lost); len(aside) != 1 {
		t.Errorf("set aside: %q", aside)
	}
	c.needed(lost, w)
	acked := w.end()
	c.sameState(1)
	checkFiles(t, cl, 1, acked)
}

// aside are the directories of replicas of node i that were set aside.
func (c *cluster) aside(i int) []string {
	c.t.Helper()
	es, err := os.ReadDir(c.path(i))
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, e := range es {
		if strings.Contains(e.Name(), ".damaged-") {
			out = append(out, e.Name())
		}
	}
	return out
}

// onMessage calls fn for each record with that message.
type onMessage struct {
	slog.Handler
	message string
	fn      func(slog.Record)
}

func (h onMessage) Enabled(context.Context, slog.Level) bool { return true }

func (h onMessage) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == h.message {
		h.fn(r)
	}
	if h.Handler.Enabled(ctx, r.Level) {
		return h.Handler.Handle(ctx, r)
	}
	return nil
}

func (h onMessage) WithAttrs(as []slog.Attr) slog.Handler {
	h.Handler = h.Handler.WithAttrs(as)
	return h
}

func (h onMessage) WithGroup(name string) slog.Handler {
	h.Handler = h.Handler.WithGroup(name)
	return h
}

// The leader is stopped in the middle of each step: the replacement goes on with the next leader, until it is done.
func TestLeaderDiesDuringReplacement(t *testing.T) {
	die := make(chan int, 16)
	var mu sync.Mutex
	met := map[string]bool{} // actions in which a leader died
	c := newCluster(t, 3, []uint16{1}, func(i int, o *Options) {
		keepers(i, o)
		o.Logger = slog.New(onMessage{o.Logger.Handler(), "raftmeta: the shard's members change", func(r slog.Record) {
			r.Attrs(func(a slog.Attr) bool {
				if a.Key != "action" {
					return true
				}
				mu.Lock()
				defer mu.Unlock()
				if action := a.Value.String(); !met[action] {
					met[action] = true
					die <- i
				}
				return true
			})
		}})
	})
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	w.more(20)
	lost := (c.leader(1) + 1) % 3
	old := c.replicaOf(lost)
	c.stop(lost)
	c.wipe(lost)
	c.start(lost)
	for range 3 {
		select {
		case i := <-die:
			c.stop(i)
			w.more(0)
			c.start(i)
		case <-time.After(patience):
			t.Fatalf("leaders died in %v only", met)
		}
	}
	c.votes(lost, old)
	if len(met) != 3 {
		t.Errorf("leaders died in %v", met)
	}
	c.needed(lost, w)
	acked := w.end()
	c.sameState(1)
	checkFiles(t, cl, 1, acked)
}

// Without a majority of the others nothing is given up: the lost voter's node makes no new replica and says what it waits for.
func TestReplacementNeedsTheOthers(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, keepers)
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 4)
	w.more(20)
	l := c.leader(1)
	lost, other := (l+1)%3, (l+2)%3
	old := c.replicaOf(lost)
	c.stop(lost)
	c.wipe(lost)
	c.stop(other)
	c.start(lost)
	c.eventually("the node to say what it waits for", func() bool {
		st, ok := c.status(lost, 1)
		return ok && st.Member == Lost && strings.Contains(st.Keeping, "waiting for a leader") && strings.Contains(st.Err, "is gone")
	})
	if _, err := os.Stat(filepath.Join(c.path(lost), "shard-00001")); !os.IsNotExist(err) {
		t.Errorf("a new replica was made while the others served nothing: %v", err)
	}
	c.start(other)
	c.votes(lost, old)
	c.needed(lost, w)
	acked := w.end()
	c.sameState(1)
	checkFiles(t, cl, 1, acked)
}

// What a leader refuses: changes out of turn, changes about another node's replica, and removing a voter that nobody can replace. Each
// accepted one may be repeated.
func TestMemberRefusals(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, nil)
	cl := c.gateway(1, "gw")
	w := startCreators(t, cl, 1, 2)
	w.more(20)
	l := c.leader(1)
	f := (l + 1) % 3
	ask := func(from int, action metapb.MemberAction, id string) error {
		return c.server(from).peers.call(testContext(t), c.names[l], OpMember,
			&metapb.MemberRequest{Shard: 1, Action: action, Replica: id}, new(metapb.MemberReply))
	}
	voter, leader := c.replicaOf(f), c.replicaOf(l)
	for _, x := range []struct {
		what   string
		from   int
		action metapb.MemberAction
		id     string
		kind   vfs.Kind
	}{
		{"remove without successor", f, metapb.MemberAction_MEMBER_REMOVE, voter, vfs.KindBusy},
		{"remove the leader", l, metapb.MemberAction_MEMBER_REMOVE, leader, vfs.KindBusy},
		{"another node's", f, metapb.MemberAction_MEMBER_REMOVE, leader, vfs.KindPerm},
		{"promote a stranger", f, metapb.MemberAction_MEMBER_PROMOTE, c.names[f] + ".00", vfs.KindInvalid},
		{"join of one that is not there", f, metapb.MemberAction_MEMBER_JOIN, c.names[f] + ".00", vfs.KindUnavailable},
		{"unknown", f, 9, voter, vfs.KindNotSupported},
		{"join again", f, metapb.MemberAction_MEMBER_JOIN, voter, vfs.KindOK},
		{"promote again", f, metapb.MemberAction_MEMBER_PROMOTE, voter, vfs.KindOK},
		{"remove again", f, metapb.MemberAction_MEMBER_REMOVE, c.names[f] + ".00", vfs.KindOK},
	} {
		if err := ask(x.from, x.action, x.id); vfs.KindOf(err) != x.kind {
			t.Errorf("%s: %v, want %v", x.what, err, x.kind)
		}
	}
	if st, _ := c.status(l, 1); len(st.Voters) != 3 || !slices.Contains(st.Voters, voter) {
		t.Errorf("voters %q", st.Voters)
	}
	err := c.server(f).peers.call(testContext(t), c.names[f], OpMember, &metapb.MemberRequest{Shard: 1}, new(metapb.MemberReply))
	if vfs.KindOf(err) != vfs.KindNotLeader || !strings.Contains(err.Error(), c.names[l]) {
		t.Errorf("asked a follower: %v", err)
	}
	checkFiles(t, cl, 1, w.end())
}
