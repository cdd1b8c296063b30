package state_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

const (
	ok    = nfsv4.NFS4_OK
	read  = nfsv4.OPEN4_SHARE_ACCESS_READ
	write = nfsv4.OPEN4_SHARE_ACCESS_WRITE
	both  = nfsv4.OPEN4_SHARE_ACCESS_BOTH
	none  = nfsv4.OPEN4_SHARE_DENY_NONE
	lease = 30 * time.Second
	toEOF = ^uint64(0)
)

var (
	fileA = state.File{FS: 1, Ino: 10}
	fileB = state.File{FS: 1, Ino: 11}
)

// world is a State with its time, its store and the vfs opens it owes.
type world struct {
	t       *testing.T
	s       *state.State
	now     time.Time
	boot    uint32
	store   map[string]state.ClientRecord
	open    map[string]int // vfs opens by file and flags
	fail    bool           // the store fails
	limit   state.Limits
	deleg   state.Delegating
	recalls []state.Recall // asked for and not looked at
	names   map[state.ClientID]string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: time.Unix(1e9, 0), store: map[string]state.ClientRecord{}, open: map[string]int{}}
	w.restart()
	return w
}

// restart makes a new server instance over the same store. vfs opens end with
// the process.
func (w *world) restart() {
	recs, _ := w.Clients(context.Background())
	w.boot++
	w.open = map[string]int{}
	w.s = state.New(state.Config{Lease: lease, Boot: w.boot, Recorded: recs, Limits: w.limit, Delegations: w.deleg}, w.now)
}

func (w *world) PutClient(_ context.Context, r state.ClientRecord) error {
	if w.fail {
		return errors.New("store is down")
	}
	w.store[string(r.Owner)] = r
	return nil
}

func (w *world) RemoveClient(_ context.Context, r state.ClientRecord) error {
	if w.fail {
		return errors.New("store is down")
	}
	if w.store[string(r.Owner)].ClientID == r.ClientID {
		delete(w.store, string(r.Owner))
	}
	return nil
}

func (w *world) Clients(context.Context) (recs []state.ClientRecord, err error) {
	for _, r := range w.store {
		recs = append(recs, r)
	}
	return recs, nil
}

func openName(f state.File, flags vfs.OpenFlags) string { return fmt.Sprintf("%d:%d", f.Ino, flags) }

func (w *world) CloseFile(_ context.Context, f state.FileClose) {
	name := openName(f.File, f.Flags)
	if w.open[name]--; w.open[name] < 0 {
		w.t.Fatalf("close of %s, which is not open", name)
	}
	if w.open[name] == 0 {
		delete(w.open, name)
	}
}

func (w *world) Share(context.Context, state.FileShare) error {
	w.t.Fatal("a share although nothing is kept")
	return nil
}

func (w *world) Unshare(context.Context, state.FileClosing) error {
	w.t.Fatal("the end of a share although nothing is kept")
	return nil
}

func (w *world) apply(e state.Effects) error {
	w.recalls = append(w.recalls, e.Recall...)
	err := e.Apply(context.Background(), w, w)
	if err != nil {
		w.s.Retry(e)
	}
	return err
}

func (w *world) must(e state.Effects) {
	w.t.Helper()
	if err := w.apply(e); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wantStatus(what string, got, want state.Status) {
	w.t.Helper()
	if got != want {
		w.t.Fatalf("%s: %v, want %v", what, nfsv4.Nfsstat4_name[got], nfsv4.Nfsstat4_name[want])
	}
}

// wantOpen compares the vfs opens: "ino:flags" with a count for more than one.
func (w *world) wantOpen(want ...string) {
	w.t.Helper()
	var got []string
	for name, n := range w.open {
		got = append(got, strings.Repeat(name, n))
	}
	sort.Strings(got)
	sort.Strings(want)
	if !slices.Equal(got, want) {
		w.t.Fatalf("vfs opens %v, want %v", got, want)
	}
}

func (w *world) wantStored(owners ...string) {
	w.t.Helper()
	var got []string
	for o := range w.store {
		got = append(got, o)
	}
	sort.Strings(got)
	if !slices.Equal(got, owners) {
		w.t.Fatalf("stored clients %v, want %v", got, owners)
	}
}

// peer is a client of the test.
type peer struct {
	w       *world
	owner   string
	verf    byte
	who     state.Principal
	id      state.ClientID
	session state.SessionID
	seq     [4]uint32
}

func (w *world) peer(owner string) *peer { return &peer{w: w, owner: owner, verf: 1, who: "root"} }

// client is a peer that is ready for use.
func (w *world) client(owner string) *peer {
	w.t.Helper()
	p := w.peer(owner)
	p.connect()
	p.reclaimComplete(ok)
	return p
}

func (p *peer) exchange(flags uint32, want state.Status) state.ExchangeIDResult {
	p.w.t.Helper()
	res, eff, st := p.w.s.ExchangeID(p.w.now, state.ExchangeIDArgs{
		Owner: []byte(p.owner), Verifier: [8]byte{p.verf}, Flags: flags, Principal: p.who,
	})
	p.w.must(eff)
	p.w.wantStatus("EXCHANGE_ID", st, want)
	return res
}

func chan4k(slots uint32) state.ChannelAttrs {
	return state.ChannelAttrs{MaxRequest: 4096, MaxResponse: 4096, MaxCachedResponse: 1024, MaxOps: 8, MaxSlots: slots}
}

func (p *peer) create(seq uint32, want state.Status) state.CreateSessionResult {
	p.w.t.Helper()
	res, eff, st := p.w.s.CreateSession(p.w.now, state.CreateSessionArgs{
		ClientID: p.id, Sequence: seq, Fore: chan4k(4), Principal: p.who, Conn: 1,
	})
	p.w.must(eff)
	p.w.wantStatus("CREATE_SESSION", st, want)
	return res
}

func (p *peer) connect() {
	p.w.t.Helper()
	res := p.exchange(0, ok)
	p.id = res.ClientID
	p.session = p.create(res.Sequence, ok).SessionID
	p.seq = [4]uint32{}
}

func (p *peer) destroy(what string, call *state.Call, want state.Status) {
	p.w.t.Helper()
	eff, st := p.w.s.DestroySession(p.w.now, p.session, call)
	p.w.must(eff)
	p.w.wantStatus("DESTROY_SESSION "+what, st, want)
}

func (p *peer) reclaimComplete(want state.Status) {
	p.w.t.Helper()
	eff, st := p.w.s.ReclaimComplete(p.w.now, p.id, false)
	p.w.must(eff)
	p.w.wantStatus("RECLAIM_COMPLETE", st, want)
}

// sequence sends a SEQUENCE on a slot.
func (p *peer) sequence(slot, seq uint32, digest uint64, want state.Status) state.SequenceResult {
	p.w.t.Helper()
	res, st := p.w.s.Sequence(p.w.now, state.SequenceArgs{
		SessionID: p.session, Slot: slot, Sequence: seq, HighestSlot: 3, CacheThis: true, Digest: digest,
	})
	p.w.wantStatus("SEQUENCE", st, want)
	return res
}

// renew is a compound of SEQUENCE alone.
func (p *peer) renew() {
	p.w.t.Helper()
	p.seq[0]++
	p.w.s.Finish(p.w.now, p.sequence(0, p.seq[0], 0, ok).Call, nil)
}

func (p *peer) openArgs(f state.File, access, deny uint32) state.OpenArgs {
	a := state.OpenArgs{Client: p.id, Owner: []byte("o"), File: f, Access: access, Deny: deny}
	if access&read != 0 {
		a.Held |= vfs.OpenRead
	}
	if access&write != 0 {
		a.Held |= vfs.OpenWrite
	}
	return a
}

func (p *peer) doOpen(a state.OpenArgs, want state.Status) state.Stateid {
	p.w.t.Helper()
	p.w.open[openName(a.File, a.Held)]++
	id, eff, st := p.w.s.Open(p.w.now, a)
	p.w.must(eff)
	p.w.wantStatus("OPEN", st, want)
	return id
}

func (p *peer) open(f state.File, access, deny uint32, want state.Status) state.Stateid {
	p.w.t.Helper()
	return p.doOpen(p.openArgs(f, access, deny), want)
}

func (p *peer) close(f state.File, id state.Stateid, want state.Status) {
	p.w.t.Helper()
	_, eff, st := p.w.s.Close(p.w.now, p.id, f, id)
	p.w.must(eff)
	p.w.wantStatus("CLOSE", st, want)
}

func (p *peer) downgrade(f state.File, id state.Stateid, access, deny uint32, want state.Status) state.Stateid {
	p.w.t.Helper()
	id, eff, st := p.w.s.OpenDowngrade(p.w.now, p.id, f, id, access, deny)
	p.w.must(eff)
	p.w.wantStatus("OPEN_DOWNGRADE", st, want)
	return id
}

func (p *peer) io(f state.File, id state.Stateid, flags vfs.OpenFlags, want state.Status) state.IO {
	p.w.t.Helper()
	io, eff, st := p.w.s.CheckIO(p.w.now, p.id, f, id, flags)
	p.w.must(eff)
	p.w.wantStatus("I/O", st, want)
	return io
}

func (p *peer) doLock(a state.LockArgs, want state.Status) (state.Stateid, *state.LockDenied) {
	p.w.t.Helper()
	a.Client = p.id
	id, denied, eff, st := p.w.s.Lock(p.w.now, a)
	p.w.must(eff)
	p.w.wantStatus("LOCK", st, want)
	if (denied != nil) != (want == nfsv4.NFS4ERR_DENIED) {
		p.w.t.Fatalf("LOCK: %v with %+v", want, denied)
	}
	return id, denied
}

// lock takes the first lock of an owner through an open.
func (p *peer) lock(f state.File, open state.Stateid, owner string, t nfsv4.NfsLockType4, off, n uint64, want state.Status) state.Stateid {
	p.w.t.Helper()
	id, _ := p.doLock(state.LockArgs{File: f, Type: t, Offset: off, Length: n, New: true, Stateid: open, Owner: []byte(owner)}, want)
	return id
}

func (p *peer) unlock(f state.File, id state.Stateid, off, n uint64, want state.Status) state.Stateid {
	p.w.t.Helper()
	id, st := p.w.s.Unlock(p.w.now, p.id, f, id, off, n)
	p.w.wantStatus("LOCKU", st, want)
	return id
}

func (w *world) tick() {
	w.t.Helper()
	w.must(w.s.Tick(w.now))
}
