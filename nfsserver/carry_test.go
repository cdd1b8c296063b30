package nfsserver_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/nfsserver/v4"
	"github.com/rackfs/rackfs/vfs"
)

// carryFault is what goes wrong with a request that is carried.
type carryFault int32

const (
	carriedWell carryFault = iota
	lostOnTheWay
	answerLost
	comesLate      // given up, and carried out when others were
	serverDies     // before
	serverDiesThen // after it has carried it out, with the answer
	silentThenDies // nobody answers, until others may have what it had
	carryFaults
)

// peers carries requests between the servers of a test, in this process.
type peers struct {
	side *side

	mu   sync.Mutex // guards late
	late []func()
}

// carries are what all servers together have done.
type carries struct {
	plan    chan carryFault // faults of those that are carried next
	answers atomic.Int32
	faults  [carryFaults]atomic.Int32
	broken  atomic.Int32 // between the servers: nothing is carried while it is not 0
}

func (w *several) named(name string) *side {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.IndexFunc(w.sides, func(s *side) bool { return s.name == name }); i >= 0 {
		return w.sides[i]
	}
	return nil
}

func (p *peers) Serving(_ context.Context, id state.ClientID) (string, error) {
	w := p.side.all
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.serves[id]; s != nil && s != p.side && !s.dead {
		return s.name, nil
	}
	return "", nil
}

func (p *peers) Reaches(_ context.Context, server string) bool {
	s := p.side.all.named(server)
	return s != nil && s.valid(0)
}

func (p *peers) Closed(*rpc.Conn) {}

func (p *peers) Carry(ctx context.Context, server string, req *rpc.Request) (v4.Carried, error) {
	w := p.side.all
	lost := vfs.KindUnknown.Err("carry")
	to := w.named(server)
	if to == nil || !to.valid(0) || w.carries.broken.Load() != 0 {
		return v4.Carried{}, lost
	}
	body, groups := bytes.Clone(req.Body), slices.Clone(req.Cred.Groups)
	r := rpc.Request{XID: req.XID, Flavor: req.Flavor, Cred: vfs.Cred{UID: req.Cred.UID, GID: req.Cred.GID, Groups: groups}, Body: body, Size: req.Size}
	tag, remote := req.Conn.Tag(), req.Conn.RemoteAddr()
	run := func() (got v4.Carried) {
		r.Conn = to.srv.Foreign(p.side.name, remote, tag, func(context.Context, *rpc.Call) (rpc.Response, error) {
			return rpc.Response{}, vfs.KindUnavailable.Err("callback")
		})
		defer to.srv.EndForeign(r.Conn)
		to.srv.Carry(&r, func(o rpc.CarriedOutcome, results [][]byte) {
			got = v4.Carried{Outcome: o, Results: bytes.Join(results, nil)}
		})
		return got
	}
	dies := func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.dies(to)
	}
	fault := carriedWell
	select {
	case fault = <-w.carries.plan:
	default:
	}
	w.carries.faults[fault].Add(1)
	switch fault {
	case lostOnTheWay:
		return v4.Carried{}, lost
	case answerLost:
		run()
		return v4.Carried{}, lost
	case comesLate:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.late = append(p.late, func() { run() })
		return v4.Carried{}, lost
	case serverDies:
		dies()
		return v4.Carried{}, lost
	case serverDiesThen:
		run()
		dies()
		return v4.Carried{}, lost
	case silentThenDies:
		dies()
		<-ctx.Done()
		return v4.Carried{}, lost
	}
	got := run()
	if got.Outcome == rpc.CarriedAnswered {
		w.carries.answers.Add(1)
	}
	return got, nil
}

// arrive has what comes late come now.
func (p *peers) arrive() {
	p.mu.Lock()
	late := p.late
	p.late = nil
	p.mu.Unlock()
	for _, f := range late {
		f()
	}
}

// spread is a client with a connection of one session to each of two servers.
type spread struct {
	*nfsclient.Client
	w    *several
	at   [2]atomic.Pointer[side]
	root nfsclient.FH
}

func (w *several) spread(owner string) *spread {
	w.t.Helper()
	c := &spread{w: w}
	for i := range c.at {
		c.at[i].Store(w.pick(i))
	}
	cl, err := nfsclient.Dial(w.ctx, nfsclient.Config{Owner: owner, Slots: 8, Conns: 2, Patient: true, DialConn: func(ctx context.Context, i int) (net.Conn, error) {
		if s := c.at[i].Load(); !s.valid(0) {
			c.at[i].CompareAndSwap(s, w.pick(w.living()))
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", c.at[i].Load().addr)
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cl.Disconnect)
	c.Client = cl
	if c.root, _, err = cl.Walk(w.ctx, "/default"); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// move has a connection lead to another server.
func (c *spread) move(i int, to *side) {
	c.at[i].Store(to)
	c.Session(0).BreakConn(i)
}

// A client with connections to two servers stays with one of them.
func TestTrunkedStays(t *testing.T) {
	ctx, w := newSeveral(t)
	c := w.spread("c")
	serving := func() *side {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.serves[c.ID()]
	}
	work := func(calls int) {
		t.Helper()
		for range calls {
			if _, err := c.Getattr(ctx, c.root); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := serving()
	work(4000)
	if serving() != first || w.carries.answers.Load() < 2000 {
		t.Fatalf("%d requests were carried, and the client is at the same server: %v", w.carries.answers.Load(), serving() == first)
	}
	other := w.pick(0)
	if other == first {
		other = w.pick(1)
	}
	// A large answer, and a large request.
	f, err := c.Create(ctx, c.root, "large", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 900<<10)
	for i := range data {
		data[i] = byte(i * 7)
	}
	for range 4 {
		got := make([]byte, len(data))
		if _, err := c.Write(ctx, f, 0, nfsv4.FILE_SYNC4, data); err != nil {
			t.Fatal(err)
		}
		if n, _, err := c.Read(ctx, f, 0, got); err != nil || !bytes.Equal(got[:n], data) {
			t.Fatalf("read %d bytes, %v: not what was written", n, err)
		}
	}
	// It goes when all its connections are at the other one.
	for i := range c.at {
		c.move(i, other)
	}
	for serving() != other { // soon: its server hears that its connection has ended
		work(1)
	}
	carried := w.carries.answers.Load()
	work(100)
	if n := w.carries.answers.Load(); n != carried {
		t.Fatalf("%d requests were carried to where none comes", n-carried)
	}
	// And if the connection that it has at its server is silent.
	c.move(1, first)
	for n := 0; serving() != first; n++ {
		sl, err := c.Session(0).Slot(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r, err := sl.DoBy(ctx, 1, nfsclient.NewCompound().PutFH(c.root))
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
		sl.Put()
		if n == 1000 && serving() != other {
			t.Fatal("it goes as soon as a connection has been silent for a while")
		}
	}
}

const trunkedSteps = 40

// TestTrunked: random histories of clients with connections to two servers at once, whose requests are lost, come late, or find their server dead on the way between them. Each change is made once, a
// lock is held by who was told so, and nothing that was answered is lost.
func TestTrunked(t *testing.T) {
	var total [carryFaults]int32
	answers := int32(0)
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := trunked(t, rand.New(rand.NewPCG(seed, 78)))
			answers += c.answers.Load()
			for i := range c.faults {
				total[i] += c.faults[i].Load()
			}
		})
	}
	t.Logf("%d requests were answered by another server; faults %v", answers, total)
	if slices.Contains(total[:], 0) {
		t.Error("not everything happened")
	}
}

func trunked(t *testing.T, rng *rand.Rand) *carries {
	ctx, w := newSeveral(t)
	defer w.burials.Wait()
	a, b := w.spread("a"), w.spread("b")
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	file, err := a.Create(ctx, a.root, "file", 0o666)
	must("create", err)
	// over has b write over what a writes as soon as it is there, or a was told that it is.
	over := func(a, b *spread, f *nfsclient.File, off uint64, first, other byte) {
		told := make(chan struct{})
		go func() {
			defer close(told)
			_, err := a.Write(ctx, f, off, nfsv4.FILE_SYNC4, []byte{first})
			must("write", err)
		}()
		over := &nfsclient.File{FH: f.FH}
		for seen := false; !seen && !t.Failed(); {
			select {
			case <-told:
				seen = true
			default:
				got := []byte{other}
				_, _, err := b.Read(ctx, over, off, got)
				must("read", err)
				seen = got[0] == first
			}
		}
		_, err := b.Write(ctx, over, off, nfsv4.FILE_SYNC4, []byte{other})
		must("write over it", err)
		<-told
	}
	lock, locked := &nfsclient.Lock{Owner: "l"}, false
	content := make([]byte, trunkedSteps)
	for i := range trunkedSteps {
		if t.Failed() {
			t.FailNow()
		}
		switch rng.IntN(8) {
		case 0:
			c := []*spread{a, a, b}[rng.IntN(3)]
			c.move(rng.IntN(2), w.pick(rng.IntN(2)))
		case 1:
			w.mu.Lock()
			w.next = fault(rng.IntN(int(faultKinds)))
			w.mu.Unlock()
		case 2:
			w.carries.broken.Store(1)
		default:
			w.carries.broken.Store(0)
		}
		if which := rng.IntN(2); i%3 == 0 && len(w.carries.plan) == 0 { // the last one has happened
			f := carryFault(1 + (i/3+which)%int(carryFaults-1))
			if f == silentThenDies && i > trunkedSteps/2 { // that takes a second
				f = lostOnTheWay
			}
			w.carries.plan <- f
		}
		var wg sync.WaitGroup
		for n := range 3 {
			wg.Go(func() { // each of them changes what no other one does
				name := fmt.Sprint(i, "-", n)
				_, _, err := a.Mkdir(ctx, a.root, "d"+name, 0o755) // EEXIST: it was made twice
				must("mkdir", err)
				must("rename", a.Rename(ctx, a.root, "d"+name, a.root, "e"+name))
				_, _, err = a.Lookup(ctx, a.root, "e"+name)
				must("lookup", err)
				if n == 0 {
					must("remove", a.Remove(ctx, a.root, "e"+name))
				}
			})
		}
		wg.Go(func() {
			content[i] = byte(i + 1)
			over(a, b, file, uint64(i), ^content[i], content[i])
			got := make([]byte, i+1)
			n, _, err := b.Read(ctx, &nfsclient.File{FH: file.FH}, 0, got)
			must("read", err)
			if !bytes.Equal(got[:n], content[:n]) || n != i+1 {
				t.Errorf("step %d: read %x, written %x", i, got[:n], content[:i+1])
			}
		})
		wg.Wait()
		for _, s := range w.all() {
			s.peers.arrive()
		}
		if locked {
			must("unlock", a.Unlock(ctx, file, lock, 0, 10))
		} else {
			_, err := a.LockRange(ctx, file, lock, nfsv4.WRITE_LT, 0, 10)
			must("lock", err)
		}
		locked = !locked
		denied, err := b.TestLock(ctx, file.FH, nfsv4.WRITE_LT, 0, 1, "l")
		must("test lock", err)
		if locked != (denied != nil) {
			t.Fatalf("step %d: locked %v, and another client is told %+v", i, locked, denied)
		}
	}
	w.carries.broken.Store(0)
	for len(w.carries.plan) > 0 {
		<-w.carries.plan
	}
	w.mu.Lock()
	w.next = nothing
	w.mu.Unlock()
	if locked {
		must("unlock", a.Unlock(ctx, file, lock, 0, 10))
	}
	must("close", a.CloseFile(ctx, file))
	notDelayed(t, a.Client, b.Client)
	must("end", a.Close(ctx))
	must("end", b.Close(ctx))
	if opens, owners := w.fs.Holding(); opens != 0 || owners != 0 {
		t.Errorf("%d opens and %d lock-owners are left", opens, owners)
	}
	return &w.carries
}

// all are the servers.
func (w *several) all() []*side {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.sides)
}
