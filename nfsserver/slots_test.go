package nfsserver_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// gatedFS holds removals of names that begin with "wait" up.
type gatedFS struct {
	*memfs.Kept
	arrived chan struct{}

	mu   sync.Mutex
	gate chan struct{} // closed: open
}

func (g *gatedFS) now() chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gate
}

// pass lets those that wait go on.
func (g *gatedFS) pass() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.gate)
	g.gate = make(chan struct{})
}

func (g *gatedFS) Remove(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	if strings.HasPrefix(name, "wait") {
		gate := g.now()
		g.arrived <- struct{}{}
		select {
		case <-gate:
		case <-ctx.Done():
		}
	}
	return g.Kept.Remove(ctx, c, dir, name, what)
}

// Sessions of these tests keep replies of 1 KiB, and there is memory for 80 slots: for growth up to 60, for new sessions that get more than the least up to 70.
const (
	slotReply = 1 << 10
	slotCost  = slotReply + 160
	slotMark  = 70 * slotCost
)

// newSlotted is an instance with few slots and a client.
func newSlotted(t *testing.T) (*instance, *gatedFS, *conn) {
	g := &gatedFS{Kept: memfs.Keep(memfs.New(memfs.Options{RootMode: 0o777})), arrived: make(chan struct{}, 64), gate: make(chan struct{})}
	in := startInstance(t, &instance{fs: g, kept: g.Kept, store: newKeptStore(g.Kept),
		limits: state.Limits{Slots: 8, MaxSlots: 16, MaxCachedResponse: slotReply, ReplyCache: 80 * slotCost, SessionsPerClient: 64}})
	return in, g, in.dial("client", func(cfg *nfsclient.Config) { cfg.Slots = 1 })
}

// bare is a session whose slots the test uses by number.
type bare struct {
	c     *conn
	id    nfsclient.SessionID
	slots uint32
	seq   map[uint32]uint32
}

// bare makes a session, if there is room for it.
func (c *conn) bare(sequence uint32) (*bare, nfsclient.Status) {
	c.t.Helper()
	chans := nfsclient.ChannelAttrs{MaxRequest: 1 << 16, MaxResponse: 1 << 16, MaxCachedResponse: slotReply, MaxOps: 16, MaxSlots: 64}
	r, err := c.Raw(c.in.ctx, nfsclient.NewRaw().CreateSession(c.ID(), sequence, 0, chans, chans, 0))
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Release()
	id, _, fore, err := r.CreateSession()
	if err != nil {
		return nil, nfsclient.StatusOf(err)
	}
	return &bare{c: c, id: id, slots: fore.MaxSlots, seq: map[uint32]uint32{}}, nfsv4.NFS4_OK
}

// heard is an answer: the status of SEQUENCE, or that of the operation that failed, and what SEQUENCE told.
type heard struct {
	status          nfsclient.Status
	highest, target uint32
}

// send sends a request with a sequence.
func (b *bare) send(slot, seq, highest uint32, more func(*nfsclient.Compound)) (h heard, err error) {
	cp := nfsclient.NewRaw().Op(nfsv4.OP_SEQUENCE).Raw(b.id[:]).Words(seq, slot, highest, 1)
	if more != nil {
		more(cp.PutFH(b.c.root))
	}
	r, err := b.c.Raw(b.c.in.ctx, cp)
	if err != nil {
		return h, err
	}
	defer r.Release()
	h.status = r.Status
	if nfsclient.StatusOf(r.Next(nfsv4.OP_SEQUENCE)) == nfsv4.NFS4_OK {
		d := r.D()
		d.Skip(16 + 2*4)
		h.highest, h.target = d.Uint32(), d.Uint32()
		return h, d.Err()
	}
	return h, nil
}

// ask sends the next request on a slot.
func (b *bare) ask(slot, highest uint32, more func(*nfsclient.Compound)) heard {
	b.c.t.Helper()
	b.seq[slot]++
	h, err := b.send(slot, b.seq[slot], highest, more)
	if err != nil {
		b.c.t.Fatal(err)
	}
	return h
}

func (b *bare) want(what string, got, want heard) {
	b.c.t.Helper()
	if got != want {
		b.c.t.Fatalf("%s: %s, highest %d, target %d; want %s, %d, %d", what, nfsv4.Nfsstat4_name[got.status], got.highest, got.target,
			nfsv4.Nfsstat4_name[want.status], want.highest, want.target)
	}
}

// refused sends a request that SEQUENCE refuses.
func (b *bare) refused(what string, slot, seq, highest uint32, st nfsclient.Status) {
	b.c.t.Helper()
	h, err := b.send(slot, seq, highest, remove("never"))
	if err != nil {
		b.c.t.Fatal(err)
	}
	b.want(what, h, heard{status: st})
}

func remove(name string) func(*nfsclient.Compound) {
	return func(cp *nfsclient.Compound) { cp.Remove(name) }
}

// saturate has requests in progress on all n slots at once, and the server think about it meanwhile. It returns what they all were told.
func (b *bare) saturate(g *gatedFS, n uint32) heard {
	b.c.t.Helper()
	answers := make(chan heard, n)
	for slot := range n {
		b.seq[slot]++
		seq := b.seq[slot]
		go func() {
			h, err := b.send(slot, seq, n-1, remove(fmt.Sprint("wait", slot)))
			if err != nil {
				b.c.t.Error(err)
			}
			answers <- h
		}()
	}
	for range n {
		<-g.arrived
	}
	b.c.in.srv.Tick(b.c.in.ctx)
	g.pass()
	first := <-answers
	for range n - 1 {
		b.want("one of many answers", <-answers, first)
	}
	return first
}

// settle has the server look so often that nothing counts as used lately: then targets stay what they are, whenever it looks by itself.
func (in *instance) settle() {
	for range 16 {
		in.srv.Tick(in.ctx)
	}
}

// press makes sessions of another client until slots are asked back. They are given back by the function it returns.
func (b *bare) press(in *instance, owner string) (relax func()) {
	b.c.t.Helper()
	o := in.dial(owner, func(cfg *nfsclient.Config) { cfg.Slots = 1 })
	var all []*bare
	for seq := uint32(2); in.srv.State().SlotBytes <= slotMark; seq++ {
		one, st := o.bare(seq)
		if st != nfsv4.NFS4_OK {
			b.c.t.Fatalf("session %d: %s", seq, nfsv4.Nfsstat4_name[st])
		}
		all = append(all, one)
	}
	in.settle()
	return func() {
		for _, one := range all {
			r, err := o.Raw(in.ctx, nfsclient.NewRaw().DestroySession(one.id))
			if err != nil {
				b.c.t.Fatal(err)
			}
			r.Release()
		}
		in.srv.Tick(in.ctx)
	}
}

// exists reports whether the root has a file.
func (c *conn) exists(name string) bool {
	c.t.Helper()
	r, err := c.Do(c.in.ctx, nfsclient.NewCompound().PutFH(c.root).Lookup(name))
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Release()
	return r.Status == nfsv4.NFS4_OK
}

const (
	okay   = nfsv4.NFS4_OK
	noEnt  = nfsv4.NFS4ERR_NOENT
	noSlot = nfsv4.NFS4ERR_BADSLOT
)

// RFC 8881, 2.10.6.1: a session that uses all its slots gets more, gives them back when it is asked to, and gets them again; over restarts of the server
// in between, and with requests that are sent again.
func TestSlotsComeAndGo(t *testing.T) {
	in, g, c := newSlotted(t)
	b, st := c.bare(2)
	if st != okay || b.slots != 8 {
		t.Fatalf("%s, %+v", nfsv4.Nfsstat4_name[st], b)
	}
	b.refused("a slot that is not there", 8, 1, 8, noSlot)
	b.refused("the highest is not there", 0, 1, 8, nfsv4.NFS4ERR_BAD_HIGH_SLOT)
	b.want("to begin with", b.ask(0, 7, nil), heard{okay, 7, 7})

	// More: what is answered after it is recorded tells it.
	b.want("all slots are in use", b.saturate(g, 8), heard{noEnt, 15, 15})
	b.want("a new slot", b.ask(15, 15, nil), heard{okay, 15, 15})
	b.refused("a new slot begins with 1", 14, 2, 15, nfsv4.NFS4ERR_SEQ_MISORDERED)
	b.want("no more than the limit", b.saturate(g, 16), heard{noEnt, 15, 15})
	in.restart()
	b.want("after a restart", b.ask(15, 15, nil), heard{okay, 15, 15})

	// Fewer: the target is lowered, and nothing is lost as long as the client does not agree.
	relax := b.press(in, "others")
	asked := b.ask(0, 15, nil)
	if asked.highest != 15 || asked.target >= 15 || asked.target < 3 {
		t.Fatalf("told %+v", asked)
	}
	low := asked.target
	c.file("x")
	slow := make(chan heard)
	b.seq[14]++
	seq := b.seq[14]
	go func() {
		h, err := b.send(14, seq, 15, remove("wait"))
		if err != nil {
			t.Error(err)
		}
		slow <- h
	}()
	<-g.arrived
	b.want("a slot above the target", b.ask(15, 15, remove("x")), heard{okay, 15, low})
	again, err := b.send(15, b.seq[15], 15, remove("x"))
	if err != nil {
		t.Fatal(err)
	}
	b.want("... the same again", again, heard{okay, 15, low})
	c.file("x") // another one, which nothing may remove
	b.want("it still uses the slots", b.ask(1, 15, nil), heard{okay, 15, low})
	b.want("... and has not seen the answer on this one", b.ask(2, low, nil), heard{okay, 15, low})
	b.want("it says that it does not, and lies", b.ask(0, low, nil), heard{okay, 15, low})
	in.srv.Tick(in.ctx)
	g.pass()
	b.want("the request that was in progress", <-slow, heard{noEnt, 15, low})

	// It agrees. While that is not recorded the slots are there, but not for something new.
	store := in.store.(*keptStore)
	store.fail(errors.New("store is down"))
	b.want("it agrees", b.ask(0, low, nil), heard{okay, 15, low})
	in.srv.Tick(in.ctx)
	b.refused("a new request on a slot that goes", 15, b.seq[15]+1, 15, nfsv4.NFS4ERR_DELAY)
	if again, err = b.send(15, b.seq[15], 15, remove("x")); err != nil {
		t.Fatal(err)
	}
	b.want("a request that is sent again", again, heard{okay, 15, low})
	store.release(errors.New("a shard is away"))
	store.fail(nil)
	in.srv.Tick(in.ctx)
	b.want("it is recorded", b.ask(1, low, nil), heard{okay, low, low})
	b.refused("a new request on a slot that is gone", 15, b.seq[15]+1, 15, noSlot)
	b.refused("one that is sent again", 15, b.seq[15], 15, noSlot)
	b.want("one that was sent before that", b.ask(1, 15, nil), heard{okay, low, low})
	if before := b.remembered(g); before == 0 {
		t.Error("nothing is left to be forgotten")
	}

	// Restarts in between: what is known of slots that are gone does no harm, and has to go before they come back.
	in.restart()
	relaxed := b.ask(0, low, nil)
	b.want("after a restart", relaxed, heard{okay, low, low})
	b.refused("a slot that is gone", 15, b.seq[15], 15, noSlot)
	relax()
	b.want("not as long as a shard remembers", b.saturate(g, low+1), heard{noEnt, low, low})
	store.release(nil)
	in.srv.Tick(in.ctx)
	if n := b.remembered(g); n != 0 {
		t.Errorf("%d outcomes of slots that are gone are left", n)
	}
	in.restart()
	for n := low + 1; n < 16; n *= 2 {
		h := b.saturate(g, n)
		b.want("more again", h, heard{noEnt, min(2*n, 16) - 1, min(2*n, 16) - 1})
	}
	if !c.exists("x") {
		t.Fatal("a file was removed by a request that had removed another one before")
	}
	b.seq[15] = 0
	b.want("a slot that came back begins anew", b.ask(15, 15, remove("x")), heard{okay, 15, 15})
	if c.exists("x") {
		t.Error("the request was not carried out")
	}
	b.refused("and not with what it had before", 15, 5, 15, nfsv4.NFS4ERR_SEQ_MISORDERED)
}

// remembered counts what is left of slots that are gone.
func (b *bare) remembered(g *gatedFS) (n int) {
	b.c.t.Helper()
	now := b.ask(2, 3, nil)
	slots, err := g.Slots(b.c.in.ctx, b.id)
	if err != nil {
		b.c.t.Fatal(err)
	}
	for _, s := range slots {
		if s.Slot > now.highest {
			n++
		}
	}
	return n
}

// A client that goes on with the sequences it had, because it did not drop slots that it was not to use, is served, too; what is sent again late
// is not.
func TestSlotsThatTheClientKept(t *testing.T) {
	in, g, c := newSlotted(t)
	b, _ := c.bare(2)
	b.saturate(g, 8)
	for range 3 {
		b.want("a new slot", b.ask(15, 15, nil), heard{okay, 15, 15})
		b.want("another", b.ask(14, 15, nil), heard{okay, 15, 15})
	}
	relax := b.press(in, "others")
	low := b.ask(0, 15, nil).target
	b.ask(0, low, nil)
	in.srv.Tick(in.ctx)
	b.want("they are gone", b.ask(0, low, nil), heard{okay, low, low})
	relax()
	for n := low + 1; n < 16; n *= 2 {
		b.saturate(g, n)
	}
	b.refused("the last request again", 15, b.seq[15], 15, nfsv4.NFS4ERR_SEQ_MISORDERED)
	b.refused("one after the next", 15, b.seq[15]+2, 15, nfsv4.NFS4ERR_SEQ_MISORDERED)
	b.want("the next", b.ask(15, 15, nil), heard{okay, 15, 15})
	b.seq[14] = 0
	b.want("the first", b.ask(14, 15, nil), heard{okay, 15, 15})
	b.refused("only once", 14, b.seq[14], 15, nfsv4.NFS4ERR_SEQ_FALSE_RETRY)
}

// A client that takes what it can, in as many sessions as it gets, and gives nothing back has what it was given, and all together never have more than
// there is. Others are served when one of its sessions gives something back, or when its lease is over.
func TestSlotsOfTheStubborn(t *testing.T) {
	in, g, c := newSlotted(t)
	within := func() {
		t.Helper()
		if n := in.srv.State(); n.SlotBytes > 80*slotCost || n.CachedBytes > n.SlotBytes {
			t.Fatalf("%d bytes of %d for slots, %d for replies", n.SlotBytes, 80*slotCost, n.CachedBytes)
		}
	}
	var all []*bare
	full := false
	for seq := uint32(2); seq < 60 && !full; seq++ {
		b, st := c.bare(seq)
		within()
		switch st {
		case okay:
			all = append(all, b)
			n := b.slots
			for range 4 {
				h := b.saturate(g, n)
				within()
				n = h.highest + 1
			}
			b.slots = n
		case nfsv4.NFS4ERR_DELAY:
			full = true
			b, st = c.bare(seq) // the sequence does not count
			if st != nfsv4.NFS4ERR_DELAY {
				t.Fatalf("%s, %v", nfsv4.Nfsstat4_name[st], b)
			}
		default:
			t.Fatal(nfsv4.Nfsstat4_name[st])
		}
	}
	if n := in.srv.State(); !full || all[0].slots != 16 || n.SessionsRefused != 2 {
		t.Fatalf("full: %v, the first has %d slots, %+v", full, all[0].slots, n)
	}
	in.settle()
	for range 3 { // they are asked and do not listen
		in.srv.Tick(in.ctx)
		for _, b := range all {
			h := b.ask(b.slots-1, b.slots-1, nil)
			if h.status != okay || h.highest != b.slots-1 || h.target > h.highest || b.slots > 4 && h.target == h.highest {
				t.Fatalf("%d slots: %+v", b.slots, h)
			}
		}
	}
	if n := in.srv.State(); n.SlotsFreed != 0 || n.SlotsAsked < 12 {
		t.Errorf("%d freed, %d asked back", n.SlotsFreed, n.SlotsAsked)
	}
	// A session that listens makes room for another client.
	b := all[0]
	low := b.ask(0, 3, nil).target
	b.ask(0, 3, nil)
	in.srv.Tick(in.ctx)
	if h := b.ask(0, 3, nil); h.highest > low || h.target != h.highest || h.highest > 10 {
		t.Fatalf("was asked for %d: %+v", low, h)
	}
	other := in.dial("other", func(cfg *nfsclient.Config) { cfg.Slots = 1 })
	if _, st := other.bare(2); st != okay {
		t.Error(nfsv4.Nfsstat4_name[st])
	}
	// The stubborn client goes when its lease is over and its memory is needed.
	in.advance(leaseTime + 1)
	renew(t, other)
	for seq := uint32(3); in.srv.State().Clients == 2; seq++ {
		if _, st := other.bare(seq); st != okay {
			t.Fatal(nfsv4.Nfsstat4_name[st])
		}
		within()
	}
}
