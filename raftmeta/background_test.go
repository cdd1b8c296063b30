package raftmeta

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// The grace of a block is over when it was seen dying a whole grace ago, not earlier, and of one that began to die
// later, later.
func TestGrace(t *testing.T) {
	const wait = 64 * time.Second
	g := &grace{wait: wait}
	due := func(now time.Duration, want uint64, some bool) {
		t.Helper()
		if through, ok := g.due(now); through != want || ok != some {
			t.Fatalf("at %v: %d, %v; want %d, %v", now, through, ok, want, some)
		}
	}
	due(0, 0, false)
	g.note(0, 0) // level 1
	g.note(1, 0) // nothing yet
	due(wait, 0, false)
	g.note(5, wait)
	due(wait, 0, false)
	due(2*wait-1, 0, false)
	due(2*wait, 4, true)
	due(2*wait, 4, true) // until it is done
	g.reaped()
	due(9*wait, 4, false)
	g.note(5, 9*wait) // nothing new
	due(20*wait, 4, false)
	// Marks are bounded, and none is early.
	at := make(map[uint64]time.Duration)
	now := 20 * wait
	for n := uint64(6); n < 10_000; n++ {
		now += wait / 1000
		g.note(n, now)
		at[n-1] = now
		if len(g.marks) > graceMarks+1 {
			t.Fatalf("%d marks", len(g.marks))
		}
		if through, _ := g.due(now); through > 4 && now-at[through] < wait {
			t.Fatalf("block %d is reaped after %v", through, now-at[through])
		}
	}
	if _, some := g.due(now + wait); !some || g.ripe < 9990-1000/graceMarks {
		t.Fatalf("up to %d only", g.ripe)
	}
}

func raiseLevel(t *testing.T, c *cluster, shard uint16) {
	t.Helper()
	ctx := testContext(t)
	c.eventually("the newest level", func() bool {
		err := c.server(c.leader(shard)).RaiseLevel(ctx, shard, NewestLevel)
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
}

// Blocks of a deleted file are dead a whole grace after a leader saw them dying; a new leader begins anew.
func TestLeaderReaps(t *testing.T) {
	const wait = time.Hour
	var clock atomic.Int64 // of all servers
	c := newCluster(t, 3, []uint16{1}, func(_ int, o *Options) {
		o.PurgeInterval, o.Grace = 5*time.Millisecond, wait
		o.Monotonic = func() time.Duration { return time.Duration(clock.Load()) }
	})
	cl := c.gateway(1, "gw")
	raiseLevel(t, c, 1)
	ctx := testContext(t)
	apply := func(cmd *metapb.Command) *metapb.Result {
		t.Helper()
		cmd.Fs = testFS
		r, err := cl.Apply(ctx, 1, cmd)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	create := createCmd("f")
	create.GetCreate().Open = uint32(vfs.OpenWrite)
	f := apply(create).GetCreate()
	first := apply(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 8}}}).GetBlocks().First
	apply(&metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{Ino: f.Attr.Ino, Epoch: f.Lease.Epoch, Size: 10, Extents: []*metapb.NewExtent{
		{Length: 10, Block: first, Pg: 3, ProfileK: 1, ProfileM: 1},
	}}}})
	state := func() metapb.BlockState {
		t.Helper()
		r, err := cl.Query(ctx, 1, &metapb.Query{Q: &metapb.Query_BlockStates{BlockStates: &metapb.BlockStatesQ{Ids: []uint64{first}}}})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetBlockStates().States[0]
	}
	// looked waits until the leader has looked at its queues twice more, so once from beginning to end.
	looked := func() ShardStatus {
		t.Helper()
		var st ShardStatus
		var term, began uint64
		c.eventually("the leader to look", func() bool {
			i := c.leader(1)
			l := c.server(i).shards[1].lead.Load()
			if l == nil {
				return false
			}
			l.reap.mu.Lock()
			n := l.reap.looks
			l.reap.mu.Unlock()
			if term != l.term {
				term, began = l.term, n
			}
			st, _ = c.status(i, 1)
			return n >= began+2
		})
		return st
	}
	apply(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: uint64(vfs.RootIno), Name: []byte("f")}}})
	if st := looked(); state() != metapb.BlockState_BLOCK_DYING || st.Reap.Queue != 1 || st.Reap.Done != 0 {
		t.Fatalf("%v, %+v", state(), st.Reap)
	}
	clock.Add(int64(wait) - 1)
	looked()
	if s := state(); s != metapb.BlockState_BLOCK_DYING {
		t.Fatalf("%v before the grace is over", s)
	}
	// The next leader did not see when it began.
	old := c.leader(1)
	c.eventually("another leader", func() bool {
		_ = c.server(old).TransferLeadership(1, "")
		return c.leader(1) != old
	})
	looked()
	clock.Add(int64(wait) - 1)
	looked()
	if s := state(); s != metapb.BlockState_BLOCK_DYING {
		t.Fatalf("%v before the new leader saw a whole grace", s)
	}
	clock.Add(1)
	c.eventually("the block to be dead", func() bool { return state() == metapb.BlockState_BLOCK_DEAD })
	if st := looked(); st.Reap.Queue != 0 || st.Reap.Done != 1 {
		t.Fatalf("%+v", st.Reap)
	}
	c.sameState(1)
}

// A level is raised only when every voter can apply it, also one that is down now.
func TestRaiseLevel(t *testing.T) {
	old := uint32(1)
	c := newCluster(t, 3, []uint16{1}, func(i int, o *Options) {
		if i == 2 {
			o.MaxLevel = old
		}
	})
	ctx := testContext(t)
	for c.leader(1) == 2 { // the old one leads: another is to ask it
		_ = c.server(2).TransferLeadership(1, "")
	}
	raise := func() error {
		for {
			err := c.server(c.leader(1)).RaiseLevel(ctx, 1, NewestLevel)
			if vfs.KindOf(err) != vfs.KindNotLeader {
				return err
			}
		}
	}
	if err := raise(); vfs.KindOf(err) != vfs.KindNotSupported {
		t.Fatalf("with an old voter: %v", err)
	}
	c.stop(2)
	if err := raise(); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatalf("with a voter that is down: %v", err)
	}
	st, _ := c.status(c.leader(1), 1)
	if st.Level != 1 || st.MaxLevel != NewestLevel {
		t.Fatalf("%+v", st)
	}
	old = NewestLevel
	c.start(2)
	raiseLevel(t, c, 1)
	if err := raise(); err != nil {
		t.Fatalf("again: %v", err)
	}
	for i := range c.servers {
		c.eventually("every voter to be at the newest level", func() bool {
			st, _ := c.status(i, 1)
			return st.Level == NewestLevel && st.Err == ""
		})
	}
	c.sameState(1)
}

// A level that leaders are to raise to is raised as soon as the last voter can, whoever leads then, and not before.
func TestLevelIsRaisedInTheBackground(t *testing.T) {
	old := uint32(1)
	c := newCluster(t, 3, []uint16{1}, func(i int, o *Options) {
		o.Level, o.CheckInterval = NewestLevel, 10*time.Millisecond
		if i == 2 {
			o.MaxLevel = old
		}
	})
	c.leader(1)
	c.stop(2)
	first := c.leader(1)
	c.stop(first) // so that the last one comes back to a new leader
	old = NewestLevel
	for _, i := range []int{0, 1} {
		if st, up := c.status(i, 1); up && st.Level != 1 {
			t.Fatalf("without the voter: %+v", st)
		}
	}
	c.start(2)
	c.leader(1)
	c.start(first)
	for i := range c.servers {
		c.eventually("every voter to be at the newest level", func() bool {
			st, _ := c.status(i, 1)
			return st.Level == NewestLevel && st.Err == ""
		})
	}
	c.sameState(1)
}
