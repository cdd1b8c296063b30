package filesystem

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// cluster is shards 0 and 1 as state machines, which answer at once. fail, if set, decides what becomes of a command: before it is applied, or
// after that, when the answer is lost.
type cluster struct {
	t      testing.TB
	shards [2]struct {
		store *fsm.MemStore
		m     *fsm.Machine
		index uint64
		w     *writer
	}
	fail func(shard uint16, c *metapb.Command) (before, after bool)
}

// writer applies to the store at once: there is no crash of a voter here.
type writer struct{ s *fsm.MemStore }

func (w *writer) Set(k, v []byte) error { return w.s.Set(k, v) }
func (w *writer) Delete(k []byte) error { return w.s.Delete(k) }

func newCluster(t testing.TB) *cluster { return clusterAt(t, fsm.Level) }

// clusterAt is a cluster at a feature level.
func clusterAt(t testing.TB, level uint32) *cluster {
	c := &cluster{t: t}
	for i := range c.shards {
		s := &c.shards[i]
		s.store = fsm.NewMemStore()
		s.w = &writer{s.store}
		m, err := fsm.Open(s.store, fsm.Options{Shard: uint16(i), Cluster: []byte("test cluster id.")})
		if err != nil {
			t.Fatal(err)
		}
		s.m = m
		for l := uint32(2); l <= level; l++ {
			c.must(uint16(i), &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: l}}})
		}
	}
	c.must(0, &metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: &metapb.Pool{Id: 1, Name: "default", K: 4, M: 2}}}})
	return c
}

func (c *cluster) must(shard uint16, cmd *metapb.Command) {
	c.t.Helper()
	if _, err := c.Apply(context.Background(), shard, cmd); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	var after bool
	if c.fail != nil {
		var before bool
		if before, after = c.fail(shard, cmd); before {
			return nil, vfs.Errorf(vfs.KindUnavailable, "test", "not sent")
		}
	}
	s := &c.shards[shard]
	cmd = cmd.CloneVT()
	cmd.Time = &metapb.Time{Sec: 1000}
	b, err := (&metapb.Entry{Format: fsm.EntryFormat, Commands: []*metapb.Command{cmd}}).MarshalVT()
	if err != nil {
		c.t.Fatal(err)
	}
	s.index++
	res, err := s.m.Apply(s.index, b, s.w)
	if err != nil {
		c.t.Fatal(err)
	}
	s.m.Flushed()
	if after {
		return nil, vfs.Errorf(vfs.KindUnknown, "test", "the answer was lost")
	}
	if k := vfs.Kind(res[0].Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "test", "%s", res[0].Text)
	}
	return res[0], nil
}

func (c *cluster) Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	r := fsm.Query(c.shards[shard].store, nil, q)
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "test", "%s", r.Text)
	}
	return r, nil
}

func (c *cluster) check() {
	c.t.Helper()
	for i := range c.shards {
		if err := fsm.Check(c.shards[i].store); err != nil {
			c.t.Fatalf("shard %d: %v", i, err)
		}
	}
}

// purge is what the leader of shard 1 does.
func (c *cluster) purge(keys uint32) {
	c.must(1, &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: keys}}})
}

// names lists the file systems and their states.
func (c *cluster) names() string {
	list, err := List(context.Background(), c)
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, fs := range list.FileSystems {
		out = append(out, fmt.Sprintf("%d %s %s", fs.Id, fs.Name, StateName(fs.State)))
	}
	return strings.Join(out, ", ")
}

// clocks are those of a leader.
type clocks struct {
	mono time.Duration
	wall time.Time
}

func (c *clocks) pass(d time.Duration) { c.mono, c.wall = c.mono+d, c.wall.Add(d) }

func (c *cluster) leader(k *clocks) *Reconciler {
	return New(Options{Leads: func() bool { return true }, Meta: c, Mono: func() time.Duration { return k.mono }, Now: func() time.Time { return k.wall }})
}

var begin = time.Unix(1_700_000_000, 0)

func create(t testing.TB, c *cluster, name string) *metapb.FileSystem {
	t.Helper()
	fs, err := Create(t.Context(), c, ClusterPools{c}, Request{Name: name}, begin)
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// TestEveryStepMayFail makes, changes and ends file systems while any command is not sent, or its answer is lost, and whoever wanted it
// gives up. Leaders that begin anew bring all of it to an end: what was asked for is there, or nothing of it is.
func TestEveryStepMayFail(t *testing.T) {
	failures := 0
	rapid.Check(t, func(rt *rapid.T) {
		c := newCluster(t)
		k := &clocks{wall: begin}
		chance := func(what string, n int) bool { return rapid.IntRange(0, n).Draw(rt, what) == 0 }
		c.fail = func(shard uint16, cmd *metapb.Command) (before, after bool) {
			if _, ok := cmd.Op.(*metapb.Command_Purge); ok {
				return false, false
			}
			before, after = chance("not sent", 4), chance("lost", 4)
			if before || after {
				failures++
			}
			return before, after
		}
		leader := c.leader(k)
		ctx := context.Background()
		quota := map[string]uint64{} // of the last change that was answered, 0: unknown
		for i := range rapid.IntRange(5, 25).Draw(rt, "steps") {
			name := string(rune('a' + rapid.IntRange(0, 2).Draw(rt, "name")))
			switch rapid.IntRange(0, 6).Draw(rt, "what") {
			case 0, 1:
				_, _ = Create(ctx, c, ClusterPools{c}, Request{Name: name, Settings: Settings{QuotaBytes: uint64(i + 1)}}, k.wall)
				delete(quota, name)
			case 2:
				delete(quota, name)
				fs, err := Change(ctx, c, "", name, func(s *Settings) error { s.QuotaBytes = uint64(100 + i); return nil })
				if err == nil {
					quota[name] = fs.QuotaBytes
				}
			case 3:
				_, _ = Delete(ctx, c, "", name, time.Duration(rapid.IntRange(0, 1).Draw(rt, "keep"))*time.Hour, k.wall)
			case 4:
				_, _ = Undelete(ctx, c, "", name)
			case 5:
				k.pass(time.Duration(rapid.IntRange(0, 40).Draw(rt, "minutes")) * time.Minute)
				c.purge(uint32(rapid.IntRange(1, 20).Draw(rt, "keys")))
			case 6:
				leader = c.leader(k) // another one
			}
			leader.Pass(ctx)
			c.check()
		}
		c.fail = nil
		for range 8 {
			leader.Pass(ctx)
			c.purge(1000)
			k.pass(time.Hour)
		}
		list, err := List(ctx, c)
		if err != nil {
			rt.Fatal(err)
		}
		there := map[uint32]bool{}
		for _, fs := range list.FileSystems {
			there[fs.Id] = true
			ns, err := namespace(ctx, c, fs)
			if err != nil {
				rt.Fatal(err)
			}
			if fs.State != metapb.FileSystemState_FS_ACTIVE || !ns.Exists || ns.Deleted {
				rt.Fatalf("file system %v has the namespace %v", fs, ns)
			}
			if ns.LimitBytes != fs.QuotaBytes || quota[fs.Name] != 0 && fs.QuotaBytes != quota[fs.Name] {
				rt.Fatalf("file system %v, whose quota was set to %d, has the limit %d", fs, quota[fs.Name], ns.LimitBytes)
			}
		}
		for id := uint32(1); id < nextID(list); id++ {
			ns, err := namespace(ctx, c, &metapb.FileSystem{Id: id, Shard: 1})
			if err != nil {
				rt.Fatal(err)
			}
			if !there[id] && (ns.Exists || ns.Purging) {
				rt.Fatalf("file system %d is gone and its namespace is %v", id, ns)
			}
		}
		c.check()
	})
	if failures < 100 {
		t.Fatalf("%d commands failed: that shows nothing", failures)
	}
}

// TestKept shows when a deleted file system ends: both clocks have to agree, and what earlier leaders saw counts.
func TestKept(t *testing.T) {
	const keep = 16 * time.Hour
	ctx := t.Context()
	for name, x := range map[string]struct {
		run  func(c *cluster, k *clocks)
		ends bool
	}{
		"long enough":            {func(c *cluster, k *clocks) { l := c.leader(k); l.Pass(ctx); k.pass(keep); l.Pass(ctx) }, true},
		"almost":                 {func(c *cluster, k *clocks) { l := c.leader(k); l.Pass(ctx); k.pass(keep - time.Second); l.Pass(ctx) }, false},
		"wall clock set forward": {func(c *cluster, k *clocks) { l := c.leader(k); l.Pass(ctx); k.wall = begin.Add(10 * keep); l.Pass(ctx) }, false},
		"wall clock set back": {func(c *cluster, k *clocks) {
			l := c.leader(k)
			l.Pass(ctx)
			k.mono += 2 * keep
			k.wall = begin
			l.Pass(ctx)
		}, false},
		"nobody watched":      {func(c *cluster, k *clocks) { k.pass(10 * keep); c.leader(k).Pass(ctx) }, false},
		"a leader just began": {func(c *cluster, k *clocks) { c.leader(k).Pass(ctx); k.pass(10 * keep); c.leader(k).Pass(ctx) }, false},
		"leaders after each other": {func(c *cluster, k *clocks) {
			for range 40 { // each loses what it did not note, at most an hour
				l := c.leader(k)
				for range 4 {
					l.Pass(ctx)
					k.pass(20 * time.Minute)
				}
			}
		}, true},
		"deleted anew meanwhile": {func(c *cluster, k *clocks) {
			l := c.leader(k)
			l.Pass(ctx)
			k.pass(keep - time.Hour)
			l.Pass(ctx)
			if _, err := Undelete(ctx, c, "", "f"); err != nil {
				t.Fatal(err)
			}
			l.Pass(ctx)
			if _, err := Delete(ctx, c, "", "f", keep, k.wall); err != nil {
				t.Fatal(err)
			}
			l.Pass(ctx)
			k.pass(2 * time.Hour)
			l.Pass(ctx)
		}, false},
	} {
		c := newCluster(t)
		create(t, c, "f")
		k := &clocks{wall: begin}
		if _, err := Delete(ctx, c, "", "f", keep, k.wall); err != nil {
			t.Fatal(err)
		}
		x.run(c, k)
		want := "1 f deleted"
		if x.ends {
			want = "1 f purging"
		}
		if got := c.names(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		c.check()
	}
}

// TestLife goes through the states, and shows that ids and late commands do no harm.
func TestLife(t *testing.T) {
	ctx := t.Context()
	c := newCluster(t)
	k := &clocks{wall: begin}
	var late []*metapb.Command
	c.fail = func(shard uint16, cmd *metapb.Command) (before, after bool) {
		late = append(late, cmd.CloneVT())
		return false, false
	}
	first := create(t, c, "f")
	if first.Id != 1 || first.State != metapb.FileSystemState_FS_ACTIVE {
		t.Fatal(first)
	}
	if _, err := Create(ctx, c, ClusterPools{c}, Request{Name: "f"}, begin); vfs.KindOf(err) != vfs.KindExists {
		t.Fatal(err)
	}
	if _, err := Delete(ctx, c, "", "f", 0, k.wall); err != nil {
		t.Fatal(err)
	}
	l := c.leader(k)
	l.Pass(ctx) // purging
	l.Pass(ctx) // the namespace ends
	if got := c.names(); got != "1 f purging" {
		t.Fatal(got)
	}
	if second := create(t, c, "f"); second.Id != 2 { // the name is free
		t.Fatal(second)
	}
	c.purge(1000)
	l.Pass(ctx)
	if got := c.names(); got != "2 f active" {
		t.Fatal(got)
	}
	for _, cmd := range slices.Concat(late, late) { // once more, in order
		shard := uint16(0)
		if cmd.Fs != 0 {
			shard = 1
		}
		_, _ = c.Apply(ctx, shard, cmd)
	}
	for range 3 {
		l.Pass(ctx)
		c.purge(1000)
	}
	if got := c.names(); got != "2 f active" {
		t.Fatalf("after late commands: %s", got)
	}
	if ns, err := namespace(ctx, c, first); err != nil || ns.Exists {
		t.Fatalf("%v %v", ns, err)
	}
	c.check()
}

func TestRequests(t *testing.T) {
	ctx := t.Context()
	c := newCluster(t)
	for want, r := range map[string]Request{
		"letters":            {Name: "../x"},
		"first a letter":     {Name: ".hidden"},
		"workspace":          {Name: "x", Workspace: "a/b"},
		"leave --group out":  {Name: "x", Group: "g"},
		"--group NAME":       {Name: "x", Kind: Group},
		"has the role local": {Name: "x", Kind: Local, Group: "g"},
		"have the disks":     {Name: "x", Kind: Local},
		"neither profile":    {Name: "x", Kind: Local, Group: "g", Profile: "2+1"},
		"local.clients":      {Name: "x", Kind: Local, Group: "g", Settings: Settings{Allow: []string{"10.0.0.0/8"}}},
		"no limits of its":   {Name: "x", Kind: Local, Group: "g", Settings: Settings{QuotaBytes: 1}},
		"use shared":         {Name: "x", Kind: "odd"},
		"11 ":                {Name: "x", Profile: "8+3"},
		"no group ghosts":    {Name: "x", Kind: Group, Group: "ghosts"},
		"10.1.0.0/16":        {Name: "x", Settings: Settings{Allow: []string{"10.1.2.3.4"}}},
		"a limit is at most": {Name: "x", Settings: Settings{QuotaBytes: 1 << 63}},
	} {
		if _, err := Create(ctx, c, ClusterPools{c}, r, begin); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", r, err, want)
		}
	}
	c.must(0, &metapb.Command{Op: &metapb.Command_PutWorkspace{PutWorkspace: &metapb.PutWorkspace{Workspace: &metapb.Workspace{Name: "w"}}}})
	fs, err := Create(ctx, c, ClusterPools{c}, Request{Name: "x", Workspace: "w", Settings: Settings{Allow: []string{"10.1.2.3", "10.0.0.9/8", "10.1.2.3"}, QuotaInodes: 5}}, begin)
	if err != nil || Path(fs) != "/w/x" || !slices.Equal(fs.Allow, []string{"10.0.0.0/8", "10.1.2.3/32"}) {
		t.Fatalf("%v %v", fs, err)
	}
	if ns, err := namespace(ctx, c, fs); err != nil || ns.LimitInodes != 5 {
		t.Fatalf("%v %v", ns, err)
	}
	for s, want := range map[string]uint64{"0": 0, "7": 7, "3KiB": 3 << 10, "1TiB": 1 << 40} {
		if n, err := ParseBytes(s); err != nil || n != want {
			t.Errorf("%s: %d %v", s, n, err)
		}
	}
	for _, s := range []string{"", "x", "-1", "1TB", "9999999999PiB"} {
		if _, err := ParseBytes(s); err == nil {
			t.Errorf("%q", s)
		}
	}
}

// A file system of kind local has no namespace, and goes through its life without one.
func TestLocal(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	c.must(0, &metapb.Command{Op: &metapb.Command_PutGroup{PutGroup: &metapb.PutGroup{Name: "g"}}})
	node := &metapb.Node{Name: "n", Id: []byte("0123456789abcdef"), Version: 1, Roles: []string{"local"}, Group: "g", Local: "n:2050",
		LocalVolumes: []*metapb.LocalVolume{{Fs: 1, Total: 100, Free: 10, At: &metapb.Time{Sec: 5}}}}
	c.must(0, &metapb.Command{Op: &metapb.Command_PutNode{PutNode: &metapb.PutNode{Node: node}}})
	fs, err := Create(ctx, c, nil, Request{Name: "scratch", Kind: Local, Group: "g"}, time.Unix(1000, 0))
	if err != nil || fs.State != metapb.FileSystemState_FS_ACTIVE || fs.Pool != 0 {
		t.Fatalf("%+v, %v", fs, err)
	}
	root := &metapb.Query{Fs: fs.Id, Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: uint64(vfs.RootIno)}}}
	if _, err := c.Query(ctx, namespaceShard, root); vfs.KindOf(err) != vfs.KindStale {
		t.Errorf("it has a namespace: %v", err)
	}
	if use, err := Usage(ctx, c, fs); err != nil || use != nil {
		t.Errorf("usage %+v, %v", use, err)
	}
	places := Places(fs, []*metapb.Node{node, {Name: "m", Group: "g", Roles: []string{"block"}}, {Name: "o", Group: "h", Roles: []string{"local"}}})
	if len(places) != 1 || places[0].Node != "n" || places[0].Address != "n:2050" || places[0].Volume.GetFree() != 10 {
		t.Errorf("places %+v", places)
	}
	if _, err := Change(ctx, c, "", "scratch", func(s *Settings) error { s.Allow = []string{"10.0.0.0/8"}; return nil }); vfs.KindOf(err) != vfs.KindInvalid {
		t.Errorf("networks: %v", err)
	}
	if fs, err = Change(ctx, c, "", "scratch", func(s *Settings) error { s.ReadOnly = true; return nil }); err != nil || !fs.ReadOnly {
		t.Errorf("read-only: %v", err)
	}
	for from, ok := range map[string]bool{"": true, "/": true, "/a": false, "a": false} {
		if err := MountFrom(Local, "scratch", from); (err == nil) != ok {
			t.Errorf("mount from %q: %v", from, err)
		}
		if err := MountFrom(Shared, "default", from); err != nil {
			t.Errorf("mount of a shared one from %q: %v", from, err)
		}
	}
	if HasAPI(Local, "scratch") == nil || HasAPI(Group, "g") != nil {
		t.Error("the storage API is offered for local volumes, or not for others")
	}
	if _, err := Delete(ctx, c, "", "scratch", time.Hour, time.Unix(1000, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := Undelete(ctx, c, "", "scratch"); err != nil {
		t.Fatal(err)
	}
	if _, err := Delete(ctx, c, "", "scratch", 0, time.Unix(1000, 0)); err != nil {
		t.Fatal(err)
	}
	r := New(Options{Meta: c, Leads: func() bool { return true }, Now: func() time.Time { return time.Unix(2000, 0) }})
	for range 3 {
		r.Pass(ctx)
	}
	if got := c.names(); got != "" {
		t.Errorf("left: %s", got)
	}
	c.check()
}
