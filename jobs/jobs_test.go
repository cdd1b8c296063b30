package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// cluster is shard 0 as a state machine, which answers at once.
type cluster struct {
	mu    sync.Mutex // guards all
	store *fsm.MemStore
	m     *fsm.Machine
	index uint64
}

type writer struct{ s *fsm.MemStore }

func (w writer) Set(k, v []byte) error { return w.s.Set(k, v) }
func (w writer) Delete(k []byte) error { return w.s.Delete(k) }

func newCluster(t *testing.T) *cluster {
	c := &cluster{store: fsm.NewMemStore()}
	var err error
	if c.m, err = fsm.Open(c.store, fsm.Options{Cluster: []byte("test cluster id.")}); err != nil {
		t.Fatal(err)
	}
	for l := uint32(2); l <= fsm.Level; l++ {
		c.must(t, &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: l}}})
	}
	return c
}

func (c *cluster) must(t *testing.T, cmd *metapb.Command) *metapb.Result {
	t.Helper()
	r, err := c.Apply(context.Background(), 0, cmd)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (c *cluster) Apply(ctx context.Context, _ uint16, cmd *metapb.Command) (*metapb.Result, error) {
	if ctx.Err() != nil {
		return nil, vfs.Wrap("test", ctx.Err())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cmd = cmd.CloneVT()
	cmd.Time = &metapb.Time{Sec: 1000}
	b, err := (&metapb.Entry{Format: fsm.EntryFormat, Commands: []*metapb.Command{cmd}}).MarshalVT()
	if err != nil {
		return nil, err
	}
	c.index++
	res, err := c.m.Apply(c.index, b, writer{c.store})
	if err != nil {
		return nil, err
	}
	c.m.Flushed()
	if k := vfs.Kind(res[0].Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "test", "%s", res[0].Text)
	}
	return res[0], nil
}

func (c *cluster) Query(_ context.Context, _ uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := fsm.Query(c.store, nil, q)
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "test", "%s", r.Text)
	}
	return r, nil
}

// gateway registers an origin.
func (c *cluster) gateway(t *testing.T, name string) uint64 {
	return c.must(t, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: name, Incarnation: fmt.Appendf(nil, "%-16s", name),
	}}}).GetOrigin().GetOrigin()
}

func (c *cluster) runner(t *testing.T, name string, origin uint64, kinds map[string]Kind, may ...func(context.Context, *metapb.Job) error) *Runner {
	o := Options{
		Meta: c, Name: name, Origin: func() uint64 { return origin }, Serves: func(fs uint32) bool { return fs == 1 }, Kinds: kinds,
		Interval: 5 * time.Millisecond, Save: 5 * time.Millisecond, Recheck: 5 * time.Millisecond,
	}
	if len(may) > 0 {
		o.May = may[0]
	}
	return Start(o)
}

func (c *cluster) create(t *testing.T, kind string, fs uint32) uint64 {
	t.Helper()
	j, err := Create(t.Context(), c, &metapb.Job{Kind: kind, Fs: fs, Path: []byte("/a"), Spec: []byte("what")}, time.Unix(500, 0))
	if err != nil {
		t.Fatal(err)
	}
	return j.Id
}

// until waits for a job; a test that hangs ends after five minutes.
func (c *cluster) until(t *testing.T, id uint64, ok func(*metapb.Job) bool) *metapb.Job {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Millisecond) {
		j, err := Find(t.Context(), c, id)
		if err != nil {
			t.Fatal(err)
		}
		if ok(j) {
			return j
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %v", j)
		}
	}
}

func in(s metapb.JobState) func(*metapb.Job) bool {
	return func(j *metapb.Job) bool { return j.State == s }
}

// A job is run, tells how far it is, and ends as its kind says.
func TestRun(t *testing.T) {
	c := newCluster(t)
	seen := make(chan struct{})
	r := c.runner(t, "g", c.gateway(t, "g"), map[string]Kind{
		"good": Func(func(ctx context.Context, j *Job) error {
			j.Report(Progress{ItemsDone: 3, ItemsTotal: 5, BytesDone: 7, Note: "at /a"})
			select {
			case <-seen: // somebody saw the progress while it ran
			case <-ctx.Done():
			}
			j.Report(Progress{ItemsDone: 5, ItemsTotal: 5, BytesDone: 9})
			return nil
		}),
		"bad": Func(func(context.Context, *Job) error { return vfs.Errorf(vfs.KindAccess, "test", "not allowed") }),
	})
	defer r.Close()
	good, bad, elsewhere, unknown := c.create(t, "good", 1), c.create(t, "bad", 1), c.create(t, "good", 2), c.create(t, "odd", 1)
	r.Nudge()
	j := c.until(t, good, func(j *metapb.Job) bool { return j.ItemsDone == 3 })
	if j.State != metapb.JobState_JOB_RUNNING || j.ItemsTotal != 5 || j.BytesDone != 7 || j.Note != "at /a" || j.Runner != "g" {
		t.Errorf("while it runs: %v", j)
	}
	close(seen)
	if j := c.until(t, good, in(metapb.JobState_JOB_DONE)); j.ItemsDone != 5 || j.BytesDone != 9 || j.Note != "" || j.Error != "" || j.Finished == nil {
		t.Errorf("at its end: %v", j)
	}
	if j := c.until(t, bad, in(metapb.JobState_JOB_FAILED)); j.Error != "test: not allowed: permission denied" {
		t.Errorf("one that fails: %v", j)
	}
	for _, id := range []uint64{elsewhere, unknown} {
		if j, err := Find(t.Context(), c, id); err != nil || j.State != metapb.JobState_JOB_QUEUED {
			t.Errorf("what is not this runner's: %v %v", j, err)
		}
	}
}

// A job is canceled: one that runs hears of it, one that is queued ends at once.
func TestCancel(t *testing.T) {
	c := newCluster(t)
	cause := make(chan error, 1)
	r := c.runner(t, "g", c.gateway(t, "g"), map[string]Kind{"slow": Func(func(ctx context.Context, j *Job) error {
		j.Report(Progress{ItemsDone: 1})
		<-ctx.Done()
		cause <- context.Cause(ctx)
		j.Report(Progress{ItemsDone: 2})
		return ctx.Err()
	})})
	defer r.Close()
	id, queued := c.create(t, "slow", 1), c.create(t, "slow", 2)
	c.until(t, id, func(j *metapb.Job) bool { return j.ItemsDone == 1 })
	for _, id := range []uint64{id, queued, queued} {
		if _, err := Cancel(t.Context(), c, id, time.Unix(600, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if j, err := Find(t.Context(), c, queued); err != nil || j.State != metapb.JobState_JOB_CANCELED {
		t.Errorf("one that was queued: %v %v", j, err)
	}
	if j := c.until(t, id, in(metapb.JobState_JOB_CANCELED)); j.ItemsDone != 2 {
		t.Errorf("one that ran: %v", j)
	}
	if err := <-cause; !errors.Is(err, ErrCanceled) {
		t.Errorf("cause %v", err)
	}
}

// Whoever asked for a job may not do it any more: it ends, whether it runs or waits for somebody to go on with it, and says why. While that is not known, it goes on.
func TestMayNotAnyMore(t *testing.T) {
	c := newCluster(t)
	var answer atomic.Pointer[vfs.Error]
	asked := make(chan struct{}, 1)
	may := func(_ context.Context, j *metapb.Job) error {
		if j.Kind != "slow" || j.Token != "t" {
			t.Errorf("asked about %v", j)
		}
		select {
		case asked <- struct{}{}:
		default:
		}
		if e := answer.Load(); e != nil {
			return e
		}
		return nil
	}
	say := func(k vfs.Kind, text string) { answer.Store(vfs.Errorf(k, "test", "%s", text)) }
	begun := make(chan struct{}, 16)
	slow := map[string]Kind{"slow": Func(func(ctx context.Context, j *Job) error {
		begun <- struct{}{}
		j.Report(Progress{ItemsDone: 1})
		<-ctx.Done()
		j.Report(Progress{ItemsDone: 2})
		return vfs.Wrap("slow", context.Cause(ctx))
	})}
	create := func() uint64 {
		t.Helper()
		j, err := Create(t.Context(), c, &metapb.Job{Kind: "slow", Fs: 1, Path: []byte("/a"), Token: "t"}, time.Unix(500, 0))
		if err != nil {
			t.Fatal(err)
		}
		return j.Id
	}
	origin := c.gateway(t, "g")
	r := c.runner(t, "g", origin, slow, may)
	id, other := create(), create()
	<-begun
	<-begun
	say(vfs.KindUnavailable, "nobody answers")
	for range 4 { // each of both jobs was asked about at least once since
		<-asked
	}
	if j, err := Find(t.Context(), c, id); err != nil || j.State != metapb.JobState_JOB_RUNNING {
		t.Errorf("while it is not known: %v %v", j, err)
	}
	r.Close() // both stay, for the next one
	c.must(t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: origin}}})
	say(vfs.KindUnauthorized, "the token was revoked")
	next := c.gateway(t, "g")
	r = c.runner(t, "g", next, slow, may)
	for _, id := range []uint64{id, other} {
		if j := c.until(t, id, in(metapb.JobState_JOB_FAILED)); j.ItemsDone != 2 || j.Error != "stopped: test: the token was revoked: not authenticated" {
			t.Errorf("after a restart: %v", j)
		}
	}
	if len(begun) > 0 {
		t.Error("it was gone on with")
	}
	answer.Store(nil)
	id = create()
	<-begun
	say(vfs.KindPerm, "switched off")
	if j := c.until(t, id, in(metapb.JobState_JOB_FAILED)); j.ItemsDone != 2 || !strings.Contains(j.Error, "stopped: test: switched off") || j.Finished == nil {
		t.Errorf("while it runs: %v", j)
	}
	r.Close()
}

// one is a kind of which one job runs at a time.
type one struct{ Func }

func (one) AtMost() int { return 1 }

// Of a kind that is limited no more jobs run at a time, and others do not wait for it.
func TestLimited(t *testing.T) {
	c := newCluster(t)
	end := make(chan struct{})
	r := c.runner(t, "g", c.gateway(t, "g"), map[string]Kind{
		"long": one{func(ctx context.Context, _ *Job) error {
			select {
			case <-end:
			case <-ctx.Done():
			}
			return nil
		}},
		"short": Func(func(context.Context, *Job) error { return nil }),
	})
	defer r.Close()
	first, second := c.create(t, "long", 1), c.create(t, "long", 1)
	c.until(t, first, in(metapb.JobState_JOB_RUNNING))
	for range 3 {
		c.until(t, c.create(t, "short", 1), in(metapb.JobState_JOB_DONE))
		if j, err := Find(t.Context(), c, second); err != nil || j.State != metapb.JobState_JOB_QUEUED {
			t.Errorf("the second one: %v %v", j, err)
		}
	}
	close(end)
	c.until(t, second, in(metapb.JobState_JOB_DONE))
}

// A runner stops, or its origin ends: the next one goes on from the checkpoint, and who was succeeded stops and writes nothing.
func TestSuccession(t *testing.T) {
	c := newCluster(t)
	lost := make(chan error, 1)
	first := c.gateway(t, "g1")
	r1 := c.runner(t, "g1", first, map[string]Kind{"k": Func(func(ctx context.Context, j *Job) error {
		j.Checkpoint([]byte("half"))
		j.Report(Progress{ItemsDone: 1})
		<-ctx.Done()
		lost <- context.Cause(ctx)
		j.Report(Progress{ItemsDone: 100})
		return ctx.Err()
	})})
	id := c.create(t, "k", 1)
	c.until(t, id, func(j *metapb.Job) bool { return j.ItemsDone == 1 })
	from := make(chan string, 1)
	r2 := c.runner(t, "g2", c.gateway(t, "g2"), map[string]Kind{"k": Func(func(_ context.Context, j *Job) error {
		from <- string(j.Record().Checkpoint)
		p := j.Progress()
		p.ItemsDone++
		j.Report(p)
		return nil
	})})
	defer r2.Close()
	if j := c.until(t, id, in(metapb.JobState_JOB_RUNNING)); j.Runner != "g1" {
		t.Errorf("taken while its runner lives: %v", j)
	}
	c.must(t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: first}}})
	if j := c.until(t, id, in(metapb.JobState_JOB_DONE)); j.Runner != "g2" || j.ItemsDone != 2 || <-from != "half" {
		t.Errorf("%v", j)
	}
	// The first one learns it when it next writes, or is stopped: either way nothing of it is written.
	r1.Close()
	<-lost
	if j, err := Find(t.Context(), c, id); err != nil || j.ItemsDone != 2 || j.State != metapb.JobState_JOB_DONE {
		t.Errorf("%v %v", j, err)
	}
}
