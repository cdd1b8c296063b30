package nfsserver_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// several are servers of the same clients: one file system and one store, which knows who serves whom.
type several struct {
	t       *testing.T
	ctx     context.Context
	fs      *memfs.Kept
	unsure  atomic.Int32 // how many times the end of an open is done, or not, and nobody is told
	told    toldWrites
	away    awayFS
	held    heldRemoval
	store   *keptStore
	burials sync.WaitGroup

	more []export.Export // what is exported besides, by who has heard of it

	mu     sync.Mutex // guards the following, and dead
	sides  []*side    // that live, or died a moment ago
	serves map[state.ClientID]*side
	next   fault // of the next Take or Give
	boot   uint32

	faults, deaths int
	carries        carries
}

// pick is one of the servers.
func (w *several) pick(n int) *side {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sides[n]
}

// living is the number of a server that lives, else of any.
func (w *several) living() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(0, slices.IndexFunc(w.sides, func(s *side) bool { return !s.dead }))
}

// dies has a server replaced and its clients go to another one. w.mu is held.
func (w *several) dies(s *side) {
	if s.dead {
		return
	}
	s.dead = true
	w.deaths++
	w.burials.Go(func() {
		next, err := w.start()
		if err != nil {
			w.t.Error(err)
			return
		}
		w.mu.Lock()
		n := slices.Index(w.sides, s)
		w.sides[n] = next
		w.mu.Unlock()
		s.stop() // its clients dial anew
	})
}

// side is one server, and the store as it sees it.
type side struct {
	*keptStore
	all   *several
	srv   *nfsserver.Server
	addr  string
	name  string
	peers *peers
	stop  func()
	dead  bool // others may have what it had, and it may change nothing
}

// fault is what goes wrong with a step of the store.
type fault int

const (
	nothing fault = iota
	failsBefore
	failsAfter // it is done, and nobody is told
	diesBefore
	diesAfter
	faultKinds
)

// step runs do, which changes who serves a client, with the fault that is due.
func (s *side) step(do func() error) error {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	f := s.all.next
	s.all.next = nothing
	if f != nothing {
		s.all.faults++
	}
	if f == diesBefore {
		s.all.dies(s)
	}
	if s.dead {
		return vfs.KindUnavailable.Err("store")
	}
	if f == failsBefore {
		return vfs.KindUnavailable.Err("store")
	}
	err := do()
	if f == failsAfter || f == diesAfter {
		if f == diesAfter {
			s.all.dies(s)
		}
		return vfs.KindUnknown.Err("store")
	}
	return err
}

// mine refuses what is about a client that another server serves, or nobody.
func (s *side) mine(id state.ClientID) error {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	if at := s.all.serves[id]; s.dead || at != nil && at != s {
		return vfs.KindBusy.Err("store")
	}
	s.all.serves[id] = s
	return nil
}

func (s *side) PutClient(ctx context.Context, r state.ClientRecord) error {
	if err := s.mine(r.ClientID); err != nil {
		return err
	}
	return s.keptStore.PutClient(ctx, r)
}

func (s *side) PutSession(ctx context.Context, p state.SessionPut) error {
	if err := s.mine(p.Client.ClientID); err != nil {
		return err
	}
	return s.keptStore.PutSession(ctx, p)
}

func (s *side) RemoveClient(ctx context.Context, r state.ClientRecord) error {
	if s.mine(r.ClientID) != nil {
		return nil
	}
	return s.keptStore.RemoveClient(ctx, r)
}

func (s *side) Load(context.Context) ([]state.ClientState, error) { return nil, nil }

func (s *side) Take(ctx context.Context, id state.ClientID) (cs state.ClientState, err error) {
	err = s.step(func() error {
		if at := s.all.serves[id]; at != nil && at != s && !at.dead {
			return vfs.KindBusy.Err("take")
		}
		s.all.serves[id] = s
		return nil
	})
	if err != nil {
		return cs, err
	}
	return s.keptStore.Take(ctx, id)
}

func (s *side) Wish(ctx context.Context, id state.ClientID) error {
	s.all.mu.Lock()
	at := s.all.serves[id]
	alive := at != nil && !at.dead
	s.all.mu.Unlock()
	if alive {
		_ = at.srv.GiveUp(ctx, id) // who wishes looks
	}
	return nil
}

func (s *side) Give(ctx context.Context, id state.ClientID, h state.Handed) (given bool, err error) {
	err = s.step(func() error {
		if given = s.all.serves[id] == s; given {
			delete(s.all.serves, id)
			_, err := s.keptStore.Give(ctx, id, h)
			return err
		}
		return nil
	})
	return given && err == nil, err
}

func (s *side) valid(uint32) bool {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	return !s.dead
}

func (w *several) start() (*side, error) {
	w.mu.Lock()
	w.boot++
	boot := w.boot
	w.mu.Unlock()
	s := &side{keptStore: w.store, all: w, name: fmt.Sprint("server ", boot)}
	s.peers = &peers{side: s}
	srv, err := nfsserver.New(w.ctx, nfsserver.Config{
		Cluster: [16]byte{1}, Keys: []handle.Key{{ID: 1, Secret: [16]byte{7}}}, Store: s, Name: s.name, Peers: s.peers, Boot: boot, Group: func() string { return "g" },
		Valid: s.valid, Refresh: s.refresh, Lease: leaseTime, Logger: slog.New(slog.DiscardHandler),
		Exports: w.exports(),
	})
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.srv, s.addr = srv, ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	s.stop = sync.OnceFunc(func() {
		if err := srv.Shutdown(context.Background()); err != nil {
			w.t.Error(err)
		}
		<-served
	})
	w.t.Cleanup(s.stop)
	return s, nil
}

func (w *several) exports() []export.Export {
	return []export.Export{{ID: 1, FSID: 1, Path: "/default", FS: unsureFS{w.fs, &w.unsure, &w.told, &w.away, &w.held}, Rules: export.Everyone(export.ReadWrite, export.SquashNone)}}
}

// refresh has the server export what the others do.
func (s *side) refresh(context.Context) error {
	if s.srv == nil || s.all.more == nil {
		return nil
	}
	return s.srv.SetExports(append(s.all.exports(), s.all.more...))
}

// traveller is a client at one of the servers.
type traveller struct {
	*nfsclient.Client
	w    *several
	at   atomic.Pointer[side]
	root nfsclient.FH
}

func (w *several) client(owner string) *traveller {
	w.t.Helper()
	c := &traveller{w: w}
	c.at.Store(w.pick(0))
	cl, err := nfsclient.Dial(w.ctx, nfsclient.Config{Owner: owner, Slots: 4, Patient: true, DialFunc: func(ctx context.Context) (net.Conn, error) {
		if s := c.at.Load(); !s.valid(0) {
			c.at.CompareAndSwap(s, w.pick(w.living()))
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", c.at.Load().addr)
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

// move has the client's next requests come to another server that lives.
func (c *traveller) move(to *side) {
	c.at.Store(to)
	c.Session(0).BreakConnection()
}

// newSeveral are two servers, and how long a test of them may take.
func newSeveral(t *testing.T) (context.Context, *several) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	fs := memfs.Keep(memfs.New(memfs.Options{RootMode: 0o777}))
	w := &several{t: t, ctx: ctx, fs: fs, store: newKeptStore(fs), serves: map[state.ClientID]*side{}}
	w.told.slots = map[toldSlot]toldWrite{}
	w.held = heldRemoval{arrived: make(chan struct{}, 1), gate: make(chan struct{})}
	w.carries.plan = make(chan carryFault, 1)
	for range 2 {
		s, err := w.start()
		if err != nil {
			t.Fatal(err)
		}
		w.sides = append(w.sides, s)
	}
	return ctx, w
}

// newSeveralWithFile has a client with an open file, too, and a slot of its session.
func newSeveralWithFile(t *testing.T) (context.Context, *several, *traveller, *nfsclient.File, *nfsclient.Slot) {
	t.Helper()
	ctx, w := newSeveral(t)
	c := w.client("c")
	f, err := c.Create(ctx, c.root, "file", 0o666)
	if err != nil {
		t.Fatal(err)
	}
	sl, err := c.Session(0).Slot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return ctx, w, c, f, sl
}

// A server that has a client by the store, but does not know it, because it ended its request between the two, gives on what the former one has handed over: a WRITE whose answer was lost is
// answered by the third one, and not done again.
func TestHandedOnUnknown(t *testing.T) {
	ctx, w, c, f, sl := newSeveralWithFile(t)
	cp := nfsclient.NewCompound().PutFH(f.FH).Write(f.Stateid, 0, nfsv4.FILE_SYNC4, []byte("once"))
	r, err := sl.Do(ctx, cp)
	if err != nil || r.Status != nfsv4.NFS4_OK {
		t.Fatal(err, r)
	}
	first := bytes.Clone(r.Body())
	r.Release()
	id := state.ClientID(c.ID())
	if err := w.pick(0).srv.GiveUp(ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pick(1).Take(ctx, id); err != nil {
		t.Fatal(err)
	}
	if err := w.pick(1).srv.GiveUp(ctx, id); err != nil {
		t.Fatal(err)
	}
	c.move(w.pick(0))
	r = resendTo(t, ctx, sl, cp)
	defer r.Release()
	if r.Status != nfsv4.NFS4_OK || !bytes.Equal(first, r.Body()) {
		t.Errorf("first answer\n%x, then %v\n%x", first, r.Status, r.Body())
	}
}

// What a client has in a file system that was made a moment ago goes along to a server that has not heard of it.
func TestNewFileSystemGoesAlong(t *testing.T) {
	ctx, w := newSeveral(t)
	w.more = []export.Export{{ID: 2, FSID: 2, Path: "/new", FS: memfs.Keep(memfs.New(memfs.Options{RootMode: 0o777})), Rules: export.Everyone(export.ReadWrite, export.SquashNone)}}
	if err := w.pick(0).refresh(ctx); err != nil {
		t.Fatal(err)
	}
	c := w.client("c")
	root, _, err := c.Walk(ctx, "/new")
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.Create(ctx, root, "file", 0o666)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.LockRange(ctx, f, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 10); err != nil {
		t.Fatal(err)
	}
	c.move(w.pick(1))
	if _, err := c.Write(ctx, f, 0, nfsv4.FILE_SYNC4, []byte("x")); err != nil {
		t.Errorf("write with the stateid from before: %v", err)
	}
	d, err := c.TestLock(ctx, f.FH, nfsv4.READ_LT, 0, 1, "other")
	if err != nil || d == nil {
		t.Errorf("the lock from before: %+v, %v", d, err)
	}
}

// Each OPEN moves a stateid's seqid by one, or makes a stateid whose seqid is the first, whichever server it comes to: a Linux client waits for one that it misses. The former stateid is good in both cases.
func TestSeqidsGoAlong(t *testing.T) {
	ctx, w := newSeveral(t)
	c := w.client("c")
	f, err := c.Create(ctx, c.root, "file", 0o666)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		c.move(w.pick(i % 2))
		if i%3 > 0 {
			without := *f
			without.Stateid.Seqid = 0 // as Linux does
			if _, err := c.Write(ctx, &without, 0, nfsv4.FILE_SYNC4, []byte("x")); err != nil {
				t.Fatalf("write %d: %v", i, err)
			}
		}
		g, err := c.Open(ctx, c.root, nfsclient.OpenArgs{Name: "file"})
		if err != nil {
			t.Fatal(err)
		}
		if same := g.Stateid.Other == f.Stateid.Other; same && g.Stateid.Seqid != f.Stateid.Seqid+1 || !same && g.Stateid.Seqid != 1 {
			t.Fatalf("open %d: stateid %v after %v", i, g.Stateid, f.Stateid)
		}
		for _, h := range []*nfsclient.File{f, g} {
			if _, err := c.Write(ctx, &nfsclient.File{FH: h.FH, Stateid: nfsclient.Stateid{Other: h.Stateid.Other}}, 0, nfsv4.FILE_SYNC4, []byte("y")); err != nil {
				t.Fatalf("write %d by %v: %v", i, h.Stateid, err)
			}
		}
		f = g
	}
	if err := c.CloseFile(ctx, f); err != nil {
		t.Fatal(err)
	}
}

// What changes a client's opens and locks, of which no file system remembers an outcome, is answered the same by the server that the client goes to when it sends it again. The seqid
// has moved on meanwhile: done again, it would be NFS4ERR_OLD_STATEID, or BAD_STATEID.
func TestAnswersGoAlong(t *testing.T) {
	ctx, w, c, f, sl := newSeveralWithFile(t)
	at := 0
	again := func(what string, op nfsv4.NfsOpnum4, cp *nfsclient.Compound) (id nfsclient.Stateid) {
		t.Helper()
		cp.CacheThis = true
		var first []byte
		for try := range 3 { // at a third server, which has it from one that has only told it
			r, err := (*nfsclient.Reply)(nil), error(nil)
			if try == 0 {
				r, err = sl.Do(ctx, cp)
			} else {
				at = 1 - at
				c.move(w.pick(at))
				r = resendTo(t, ctx, sl, cp)
			}
			if err != nil || r.Status != nfsv4.NFS4_OK {
				t.Fatalf("%s, try %d: %v, %v", what, try, err, r)
			}
			if try == 0 {
				first = bytes.Clone(r.Body())
				if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
					t.Fatal(err)
				}
				if id, err = r.StateidOf(op); err != nil {
					t.Fatal(err)
				}
			} else if !bytes.Equal(first, r.Body()) {
				t.Fatalf("%s: first answer\n%x, then\n%x", what, first, r.Body())
			}
			r.Release()
		}
		return id
	}
	on := func() *nfsclient.Compound { return nfsclient.NewCompound().PutFH(f.FH) }
	lock := &nfsclient.LockArgs{Type: nfsv4.WRITE_LT, Length: 10, Owner: "l", New: true, Stateid: f.Stateid}
	lock.Stateid = again("the first lock", nfsv4.OP_LOCK, on().Lock(c.ID(), lock))
	lock.New, lock.Offset = false, 20
	lock.Stateid = again("another lock", nfsv4.OP_LOCK, on().Lock(c.ID(), lock))
	lock.Stateid = again("unlock", nfsv4.OP_LOCKU, on().LockU(lock.Stateid, 0, 10))
	id := again("open", nfsv4.OP_OPEN, on().Open(c.ID(), &nfsclient.OpenArgs{Access: nfsv4.OPEN4_SHARE_ACCESS_READ}))
	id = again("downgrade", nfsv4.OP_OPEN_DOWNGRADE, on().OpenDowngrade(id, nfsv4.OPEN4_SHARE_ACCESS_READ, 0))
	again("close", nfsv4.OP_CLOSE, on().Close(id))
}

// unsureFS does not always tell what became of the end of an open. It remembers stable WRITEs by their calls.
type unsureFS struct {
	*memfs.Kept
	left *atomic.Int32
	told *toldWrites
	away *awayFS
	held *heldRemoval
}

func (f unsureFS) Unshare(ctx context.Context, ino vfs.Ino, c vfs.Closing) error {
	n := f.left.Add(-1)
	if n >= 0 && n%2 == 0 {
		return vfs.KindUnknown.Err("unshare")
	}
	err := f.Kept.Unshare(ctx, ino, c)
	if n >= 0 {
		return vfs.KindUnavailable.Err("unshare")
	}
	return err
}

// A CLOSE of which it is not known whether its locks are gone is answered when they are: another CLOSE, after NFS4ERR_DELAY, would find no open.
func TestCloseWaitsForItsLocks(t *testing.T) {
	ctx, w := newSeveral(t)
	a, b := w.client("a"), w.client("b")
	f, err := a.Create(ctx, a.root, "file", 0o666)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.LockRange(ctx, f, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 10); err != nil {
		t.Fatal(err)
	}
	w.unsure.Store(4)
	if err := a.CloseFile(ctx, f); err != nil {
		t.Errorf("close: %v", err)
	}
	if n := w.unsure.Load(); n >= 0 {
		t.Errorf("%d times were left", n)
	}
	if denied, err := b.TestLock(ctx, f.FH, nfsv4.WRITE_LT, 0, 10, "l"); err != nil || denied != nil {
		t.Errorf("after the close: %+v, %v", denied, err)
	}
}

const handoverSteps = 60

// TestHandovers: random histories of clients that change servers at any time, with requests sent again, and with servers that fail or die at each step of a
// hand-over. Each change is made once, a lock is held by who was told so, and nothing that was answered is lost, nor undone by a WRITE that is sent again.
func TestHandovers(t *testing.T) {
	moves, faults, deaths := 0, 0, 0
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m, f, d := handovers(t, rand.New(rand.NewPCG(seed, 72)))
			moves, faults, deaths = moves+m, faults+f, deaths+d
		})
	}
	t.Logf("%d moves, %d faults, %d servers died", moves, faults, deaths)
	if moves == 0 || faults == 0 || deaths == 0 {
		t.Error("not everything happened")
	}
}

func handovers(t *testing.T, rng *rand.Rand) (moves, faults, deaths int) {
	ctx, w := newSeveral(t)
	defer w.burials.Wait()
	a, b := w.client("a"), w.client("b")
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	file, err := a.Create(ctx, a.root, "file", 0o666)
	must("create", err)
	lock, locked := &nfsclient.Lock{Owner: "l"}, false
	content := make([]byte, handoverSteps)
	gone, err := a.Create(ctx, a.root, "gone", 0o666)
	must("create", err)
	must("close", a.CloseFile(ctx, gone))
	reader, err := a.Open(ctx, a.root, nfsclient.OpenArgs{Name: "gone", Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
	must("open", err)
	for i := range handoverSteps {
		switch rng.IntN(11) {
		case 0, 1, 2:
			moves++
			c := []*traveller{a, a, b}[rng.IntN(3)]
			c.move(w.pick(rng.IntN(2)))
			if rng.IntN(3) == 0 {
				w.mu.Lock()
				w.next = fault(rng.IntN(int(faultKinds)))
				w.mu.Unlock()
			}
		case 3:
			_, _, err := a.Mkdir(ctx, a.root, fmt.Sprint("d", i), 0o755) // EEXIST: it was made twice
			must("mkdir", err)
			must("rename", a.Rename(ctx, a.root, fmt.Sprint("d", i), a.root, fmt.Sprint("e", i)))
		case 4:
			a.sendTwice(fmt.Sprint("x", i), w.pick(rng.IntN(2)))
		case 5:
			if locked {
				must("unlock", a.Unlock(ctx, file, lock, 0, 10))
			} else {
				_, err := a.LockRange(ctx, file, lock, nfsv4.WRITE_LT, 0, 10)
				must("lock", err)
			}
			locked = !locked
		case 6:
			denied, err := b.TestLock(ctx, file.FH, nfsv4.WRITE_LT, 0, 1, "l")
			must("test lock", err)
			if locked != (denied != nil) {
				t.Fatalf("step %d: locked %v, and another client is told %+v", i, locked, denied)
			}
		case 7:
			content[i] = byte(i)
			_, err := a.Write(ctx, file, uint64(i), nfsv4.FILE_SYNC4, content[i:i+1])
			must("write", err)
		case 8:
			got := make([]byte, i+1)
			n, _, err := b.Read(ctx, &nfsclient.File{FH: file.FH}, 0, got)
			must("read", err)
			if !bytes.Equal(bytes.TrimRight(got[:n], "\x00"), bytes.TrimRight(content[:i+1], "\x00")) {
				t.Fatalf("step %d: read %x, written %x", i, got[:n], content[:i+1])
			}
		case 9:
			if _, _, err := b.Lookup(ctx, b.root, "gone"); err == nil {
				must("remove", b.Remove(ctx, b.root, "gone"))
			}
			_, _, err := a.Read(ctx, reader, 0, make([]byte, 1))
			must("read of a file without a name", err)
		case 10:
			content[i] = byte(i)
			a.writeTwice(b, file.FH, uint64(i), ^byte(i), byte(i), w.pick(rng.IntN(2)))
		}
	}
	w.mu.Lock()
	w.next = nothing // the end of a client is not asked for again
	w.mu.Unlock()
	if locked {
		must("unlock", a.Unlock(ctx, file, lock, 0, 10))
	}
	must("close", a.CloseFile(ctx, file))
	must("close", a.CloseFile(ctx, reader))
	notDelayed(t, a.Client, b.Client)
	must("end", a.Close(ctx))
	must("end", b.Close(ctx))
	if opens, owners := w.fs.Holding(); opens != 0 || owners != 0 {
		t.Errorf("%d opens and %d lock-owners are left", opens, owners)
	}
	return moves, w.faults, w.deaths
}

// sendTwice makes a file exclusively, and has the request sent again to a server.
func (c *traveller) sendTwice(name string, to *side) {
	t := c.w.t
	t.Helper()
	sl, err := c.Session(0).Slot(c.w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer sl.Put()
	cp := nfsclient.NewCompound().PutFH(c.root).Mkdir(name, nil).GetFH()
	cp.CacheThis = true
	var first []byte
	for try := range 2 {
		var r *nfsclient.Reply
		if try == 0 {
			if r, err = sl.Do(c.w.ctx, cp); err != nil {
				t.Fatal(err)
			}
		} else {
			c.move(to)
			r = resendTo(t, c.w.ctx, sl, cp)
		}
		if r.Status != nfsv4.NFS4_OK {
			t.Fatalf("mkdir %s, try %d: %s", name, try, nfsv4.Nfsstat4_name[r.Status])
		}
		if try == 0 {
			first = bytes.Clone(r.Body())
		} else if !bytes.Equal(first, r.Body()) {
			t.Fatalf("mkdir %s: first answer\n%x, then\n%x", name, first, r.Body())
		}
		r.Release()
	}
}

// resendTo sends the slot's last request again until it is answered.
func resendTo(t *testing.T, ctx context.Context, sl *nfsclient.Slot, cp *nfsclient.Compound) *nfsclient.Reply {
	t.Helper()
	for {
		r, err := sl.Send(ctx, sl.Sequence(), cp)
		switch {
		case err == nil && (r.Status != nfsv4.NFS4ERR_DELAY || r.Results() > 1): // the request was put off, not its SEQUENCE
			return r
		case err == nil:
			r.Release()
		case vfs.KindOf(err) != vfs.KindUnavailable:
			t.Fatal(err)
		}
		if err := ctx.Err(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}
