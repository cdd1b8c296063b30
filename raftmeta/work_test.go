package raftmeta

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/background/ledger"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// worker is a client with a role.
func (c *cluster) worker(name string, roles ...string) *Client {
	c.t.Helper()
	cl, err := NewClient(ClientOptions{Nodes: c.names, Resolver: c, Logger: quietLog(c.t), Security: func(string) wire.Security { return insecure(name, roles...) }})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(cl.Close)
	return cl
}

// The leader of shard 0 lets stores repair, those with the least redundancy first; the next leader learns from the workers what runs.
func TestWorkOverLeaders(t *testing.T) {
	c := newCluster(t, 3, []uint16{0}, func(_ int, o *Options) { o.Work.Classes[ledger.Repair].Tasks = 1 })
	a, b, gw := c.worker("a", RoleBlock), c.worker("b", RoleBlock), c.worker("g", RoleGateway)
	ctx := testContext(t)
	task := func(pg uint32, spare int32, running bool) *metapb.WorkTask {
		return &metapb.WorkTask{Kind: metapb.WorkKind_WORK_REPAIR, Pg: pg, Spare: spare, Running: running}
	}
	// ask returns the groups that may be repaired.
	ask := func(cl *Client, part string, tasks ...*metapb.WorkTask) (pgs []uint32, err error) {
		var r *metapb.WorkReply
		c.eventually("an answer", func() bool {
			r, err = cl.Work(ctx, 0, &metapb.WorkRequest{Part: part, Run: 1, Tasks: tasks})
			return err == nil || final(err)
		})
		for _, g := range r.GetGrants() {
			pgs = append(pgs, tasks[g.Task].Pg)
		}
		if err == nil && r.LapseMilliseconds == 0 {
			t.Error("a grant lasts for nothing")
		}
		return pgs, err
	}
	want := func(got []uint32, err error, pgs ...uint32) {
		t.Helper()
		if err != nil || !slices.Equal(got, pgs) {
			t.Fatalf("groups %v may be repaired, want %v: %v", got, pgs, err)
		}
	}
	got, err := ask(a, "store 1", task(1, 1, false))
	want(got, err, 1)
	got, err = ask(a, "store 2", task(2, 1, false)) // another worker of the same node
	want(got, err)
	st, _ := c.status(c.leader(0), 0)
	if len(st.Tasks) != 2 || st.Tasks[0].Worker != "a store 1" || !st.Tasks[0].Running || st.Tasks[1].Running {
		t.Errorf("the status has %+v", st.Tasks)
	}
	if _, err := ask(gw, "", task(3, 0, false)); vfs.KindOf(err) != vfs.KindPerm {
		t.Errorf("a gateway repairs: %v", err)
	}
	if _, err := ask(b, "", &metapb.WorkTask{Kind: metapb.WorkKind_WORK_FOLD}); vfs.KindOf(err) != vfs.KindPerm {
		t.Errorf("a store folds: %v", err)
	}
	if _, err := ask(b, string(make([]byte, maxPart+1))); vfs.KindOf(err) != vfs.KindInvalid {
		t.Errorf("a long name: %v", err)
	}
	c.stop(c.leader(0))
	c.leader(0)
	got, err = ask(a, "store 1", task(1, 1, true))
	want(got, err, 1)
	got, err = ask(b, "", task(9, 0, false))
	want(got, err)
	got, err = ask(a, "store 1", task(1, 1, true))
	want(got, err) // for another's data is in danger
	got, err = ask(b, "", task(9, 0, false))
	want(got, err, 9)
}

// The leader of a namespace shard finds chunks of files in many pieces, hands them out when they have not changed for a while,
// and leaves alone what is written, what is too little, and what is gone.
func TestForgottenPieces(t *testing.T) {
	const age = time.Hour
	var clock atomic.Int64
	c := newCluster(t, 1, []uint16{1}, func(_ int, o *Options) {
		o.Level, o.CheckInterval = NewestLevel, 10*time.Millisecond
		o.PieceAge, o.PiecePause, o.Lease = age, time.Millisecond, 1000*time.Hour
		o.Monotonic = func() time.Duration { return time.Duration(clock.Load()) }
	})
	cl, ctx := c.gateway(1, "gw"), testContext(t)
	c.eventually("the newest level", func() bool { st, _ := c.status(0, 1); return st.Level == NewestLevel })
	apply := func(cmd *metapb.Command) *metapb.Result {
		t.Helper()
		r, err := cl.Apply(ctx, 1, cmd)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	type file struct{ ino, epoch, pages uint64 }
	write := func(f *file, pages int) {
		t.Helper()
		for range pages {
			off := f.pages * 4096
			f.pages++
			apply(&metapb.Command{Fs: testFS, Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{
				Ino: f.ino, Epoch: f.epoch, Size: off + 4096, Extents: []*metapb.NewExtent{{Offset: off, Length: 4096, Inline: make([]byte, 4096)}},
			}}})
		}
	}
	create := func(name string, pages int) *file {
		t.Helper()
		cmd := createCmd(name)
		cmd.GetCreate().Open = uint32(vfs.OpenWrite)
		r := apply(cmd).GetCreate()
		f := &file{ino: r.Attr.Ino, epoch: r.Lease.Epoch}
		write(f, pages)
		return f
	}
	idle, hot, gone := create("idle", 20), create("hot", 20), create("gone", 20)
	create("small", 1)
	st := func() PieceStatus { s, _ := c.status(0, 1); return s.Pieces }
	await := func(what string, cond func(PieceStatus) bool) {
		t.Helper()
		c.eventually(what, func() bool { return cond(st()) })
	}
	// The first walk may have ended before: the next begins after an age.
	clock.Add(int64(age))
	await("three chunks to be watched", func(s PieceStatus) bool { return s.Watched == 3 })
	apply(&metapb.Command{Fs: testFS, Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: uint64(vfs.RootIno), Name: []byte("gone")}}})
	write(hot, 1)
	clock.Add(int64(age))
	await("one to be ready, and one to be watched still", func(s PieceStatus) bool { return s.Ready == 1 && s.Watched == 1 })
	take := func(cl *Client, room uint32) []*metapb.WorkPiece {
		t.Helper()
		r, err := cl.Work(ctx, 1, &metapb.WorkRequest{Shard: 1, Room: room})
		if err != nil {
			t.Fatal(err)
		}
		return r.Pieces
	}
	if got := take(c.worker("s", RoleBlock), 9); len(got) != 0 {
		t.Errorf("a store is to fold %v", got)
	}
	g := c.worker("g", RoleGateway)
	if got := take(g, 0); len(got) != 0 {
		t.Errorf("without room: %v", got)
	}
	if got := take(g, 9); len(got) != 1 || got[0].Fs != testFS || got[0].Ino != idle.ino || got[0].Offset != 0 {
		t.Errorf("found %v, want inode %d", got, idle.ino)
	}
	// Nothing came of it: it is found again, and so is the one that is not written any more.
	clock.Add(int64(age))
	await("another walk", func(s PieceStatus) bool { return s.Watched+s.Ready == 2 })
	clock.Add(int64(age))
	await("both to be ready", func(s PieceStatus) bool { return s.Ready == 2 })
	if got := take(g, 1); len(got) != 1 || len(take(g, 9)) != 1 || slices.ContainsFunc(got, func(p *metapb.WorkPiece) bool { return p.Ino == gone.ino }) {
		t.Errorf("found %v", got)
	}
}
