package v4_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/nfsserver/v4"
	"github.com/rackfs/rackfs/vfs"
)

// world is a server over memfs, reached through a real socket. Requests and
// replies are encoded and decoded by generated code, which shares nothing with
// the code under test.
type world struct {
	t       testing.TB
	fs      *memfs.FS
	exports *export.Set
	state   *state.State
	v4      *v4.Server
	store   *memStore
	ring    *handle.Ring
	addr    string

	mu  sync.Mutex
	now time.Time
}

type memStore struct {
	mu   sync.Mutex
	recs map[string]state.ClientRecord
	fail error
}

func (m *memStore) PutClient(_ context.Context, r state.ClientRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if m.recs == nil {
		m.recs = map[string]state.ClientRecord{}
	}
	m.recs[string(r.Owner)] = r
	return nil
}

func (m *memStore) RemoveClient(_ context.Context, r state.ClientRecord) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	if m.recs[string(r.Owner)].ClientID == r.ClientID {
		delete(m.recs, string(r.Owner))
	}
	return nil
}

func (m *memStore) Clients(context.Context) ([]state.ClientRecord, error) { return nil, nil }

// holds reports the client id of an owner's record, 0 if there is none.
func (m *memStore) holds(owner string) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.recs[owner].ClientID
}

func (m *memStore) setFail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

var (
	cluster   = [16]byte{1, 2, 3, 4}
	startTime = time.Unix(1_700_000_000, 0)
)

const (
	lease  = 30 * time.Second
	testFS = 7
)

// exportOf is the export of fs under path to everyone.
func exportOf(id uint32, path string, fs vfs.FS, a export.Access, s export.Squash) export.Export {
	return export.Export{ID: id, FSID: testFS, Path: path, FS: fs, Rules: export.Everyone(a, s)}
}

// newWorld serves a memfs as /default, read-write without squash.
func newWorld(t testing.TB) *world {
	fs := memfs.New(memfs.Options{})
	return newWorldOf(t, fs, fs, 0)
}

// newDelegatingWorld is newWorld with delegations for reading.
func newDelegatingWorld(t testing.TB) *world { return newWorldThatDelegates(t, state.DelegateRead) }

func newWorldThatDelegates(t testing.TB, d state.Delegating) *world {
	fs := memfs.New(memfs.Options{})
	w := newWorldWith(t, fs, fs, v4.Config{State: state.New(state.Config{Lease: lease, Boot: 1, Delegations: d}, startTime)})
	t.Cleanup(func() { w.v4.Shutdown(context.Background()) })
	return w
}

func newWorldOf(t testing.TB, mem *memfs.FS, fs vfs.FS, maxIO int) *world {
	return newWorldWith(t, mem, fs, v4.Config{MaxIO: maxIO})
}

// newWorldWith is newWorldOf a server with the limits of cfg.
func newWorldWith(t testing.TB, mem *memfs.FS, fs vfs.FS, cfg v4.Config) *world {
	w := &world{t: t, fs: mem, store: &memStore{}, now: startTime}
	w.exports = export.NewSet(w.table(exportOf(1, "/default", fs, export.ReadWrite, export.SquashNone)))
	ring, err := handle.NewRing(cluster, []handle.Key{{ID: 1, Secret: [16]byte{42}}})
	if err != nil {
		t.Fatal(err)
	}
	w.ring = ring
	if w.state = cfg.State; w.state == nil {
		w.state = state.New(state.Config{Lease: lease, Boot: 1}, w.clock())
	}
	w.v4 = v4.New(v4.Config{
		State: w.state, Store: w.store, Exports: w.exports, Ring: ring, Cluster: cluster,
		Owner: []byte("test"), Scope: []byte("test"), Release: "test", MaxIO: cfg.MaxIO, ReadMemory: cfg.ReadMemory, Now: w.clock, Valid: cfg.Valid, ValidWait: cfg.ValidWait,
	})
	srv := rpc.NewServer(rpc.Config{Closed: w.v4.ConnClosed})
	srv.Register(v4.Program, v4.Version, v4.Version, w.v4)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		if err := srv.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) table(ex ...export.Export) *export.Table {
	w.t.Helper()
	tab, err := export.NewTable(ex, w.clock())
	if err != nil {
		w.t.Fatal(err)
	}
	return tab
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	w.now = w.now.Add(d)
	w.mu.Unlock()
	w.v4.Tick(context.Background())
}

// client is an NFS client with one session and one slot.
type client struct {
	w       *world
	t       testing.TB
	conn    *rpc.Conn
	minor   uint32
	cred    vfs.Cred
	id      uint64
	session [16]byte
	seq     uint32
	cache   bool
	fore    nfsv4.ChannelAttrs4
}

func (w *world) dial(minor uint32) *client {
	w.t.Helper()
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	c := &client{w: w, t: w.t, conn: rpc.NewClientConn(nc, rpc.ClientConfig{}), minor: minor}
	w.t.Cleanup(func() {
		c.conn.Close()
		<-c.conn.Done()
	})
	return c
}

// connect makes a client with a session that has completed reclaim.
func (w *world) connect(owner string, minor uint32) *client {
	w.t.Helper()
	c := w.dial(minor)
	c.exchangeID(owner)
	c.createSession(nfsv4.ChannelAttrs4{
		CaMaxrequestsize: 2 << 20, CaMaxresponsesize: 2 << 20, CaMaxresponsesizeCached: 8 << 10,
		CaMaxoperations: 64, CaMaxrequests: 4,
	})
	c.ok(&nfsv4.NfsArgop4_OP_RECLAIM_COMPLETE{})
	return c
}

func (c *client) exchangeID(owner string) {
	c.t.Helper()
	res := c.raw(c.minor, &nfsv4.NfsArgop4_OP_EXCHANGE_ID{OpexchangeId: nfsv4.ExchangeId4args{
		EiaClientowner:  nfsv4.ClientOwner4{CoVerifier: [8]byte{1}, CoOwnerid: []byte(owner)},
		EiaStateProtect: &nfsv4.StateProtect4A_SP4_NONE{},
	}})
	c.want(res, nfsv4.NFS4_OK)
	c.id = res.Resarray[0].(*nfsv4.NfsResop4_OP_EXCHANGE_ID).OpexchangeId.(*nfsv4.ExchangeId4res_NFS4_OK).EirResok4.EirClientid
}

func (c *client) createSession(fore nfsv4.ChannelAttrs4) {
	c.t.Helper()
	res := c.raw(c.minor, &nfsv4.NfsArgop4_OP_CREATE_SESSION{OpcreateSession: nfsv4.CreateSession4args{
		CsaClientid: c.id, CsaSequence: 1, CsaForeChanAttrs: fore,
		CsaBackChanAttrs: nfsv4.ChannelAttrs4{CaMaxrequestsize: 4096, CaMaxresponsesize: 4096, CaMaxoperations: 2, CaMaxrequests: 1},
		CsaCbProgram:     0x40000000,
		CsaSecParms:      []nfsv4.CallbackSecParms4{&nfsv4.CallbackSecParms4_AUTH_NONE{}},
	}})
	c.want(res, nfsv4.NFS4_OK)
	ok := res.Resarray[0].(*nfsv4.NfsResop4_OP_CREATE_SESSION).OpcreateSession.(*nfsv4.CreateSession4res_NFS4_OK).CsrResok4
	c.session, c.seq, c.fore = ok.CsrSessionid, 0, ok.CsrForeChanAttrs
}

// as is the same client and session with another user.
func (c *client) as(uid, gid uint32, groups ...uint32) *client {
	d := *c
	d.cred = vfs.Cred{UID: uid, GID: gid, Groups: groups}
	d.session = [16]byte{}
	d.conn = c.conn
	e := c.w.dial(c.minor)
	e.cred = d.cred
	e.exchangeID(fmt.Sprintf("user %d %d", uid, e.conn.LocalAddr().Port()))
	e.createSession(c.fore)
	e.ok(&nfsv4.NfsArgop4_OP_RECLAIM_COMPLETE{})
	return e
}

func encodeCompound(t testing.TB, minor uint32, ops ...nfsv4.NfsArgop4) []byte {
	t.Helper()
	var buf bytes.Buffer
	args := nfsv4.Compound4args{Tag: "t", Minorversion: minor, Argarray: ops}
	if _, err := args.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// send sends the encoded arguments of a COMPOUND and returns the encoded results.
func (c *client) send(args []byte) ([]byte, error) {
	cred := rpc.AuthSysCred("client", &c.cred)
	resp, err := c.conn.Call(context.Background(), &rpc.Call{
		Prog: v4.Program, Vers: v4.Version, Proc: 1, Cred: cred, Args: args, MaxReply: 4 << 20,
	})
	if err != nil {
		return nil, err
	}
	defer resp.Release()
	return bytes.Clone(resp.Body), nil
}

// raw sends operations as they are.
func (c *client) raw(minor uint32, ops ...nfsv4.NfsArgop4) *nfsv4.Compound4res {
	c.t.Helper()
	body, err := c.send(encodeCompound(c.t, minor, ops...))
	if err != nil {
		c.t.Fatal(err)
	}
	return decodeReply(c.t, body)
}

func decodeReply(t testing.TB, body []byte) *nfsv4.Compound4res {
	t.Helper()
	d := xdr.NewDecoder(body)
	var res nfsv4.Compound4res
	if _, err := res.ReadFrom(&d); err != nil {
		t.Fatalf("the reply does not decode: %v\n%x", err, body)
	}
	if d.Len() != 0 {
		t.Fatalf("%d bytes behind the reply", d.Len())
	}
	return &res
}

func (c *client) sequence() *nfsv4.NfsArgop4_OP_SEQUENCE {
	c.seq++
	return &nfsv4.NfsArgop4_OP_SEQUENCE{Opsequence: nfsv4.Sequence4args{
		SaSessionid: c.session, SaSequenceid: c.seq, SaCachethis: c.cache,
	}}
}

// do runs operations in the session and returns their results, without that of
// SEQUENCE.
func (c *client) do(ops ...nfsv4.NfsArgop4) *nfsv4.Compound4res {
	c.t.Helper()
	res := c.raw(c.minor, append([]nfsv4.NfsArgop4{c.sequence()}, ops...)...)
	if len(res.Resarray) > 0 {
		res.Resarray = res.Resarray[1:]
	}
	return res
}

// ok is do that must succeed.
func (c *client) ok(ops ...nfsv4.NfsArgop4) []nfsv4.NfsResop4 {
	c.t.Helper()
	res := c.do(ops...)
	c.want(res, nfsv4.NFS4_OK)
	return res.Resarray
}

// fails is do that must end with st at the last operation.
func (c *client) fails(st nfsv4.Nfsstat4, ops ...nfsv4.NfsArgop4) []nfsv4.NfsResop4 {
	c.t.Helper()
	res := c.do(ops...)
	c.want(res, st)
	if len(res.Resarray) != len(ops) {
		c.t.Fatalf("%d results for %d operations", len(res.Resarray), len(ops))
	}
	return res.Resarray
}

func (c *client) want(res *nfsv4.Compound4res, st nfsv4.Nfsstat4) {
	c.t.Helper()
	if res.Status != st {
		at := "nothing"
		if n := len(res.Resarray); n > 0 {
			at = nfsv4.NfsOpnum4_name[res.Resarray[n-1].GetResop()]
		}
		c.t.Fatalf("status %v at %s, want %v", nfsv4.Nfsstat4_name[res.Status], at, nfsv4.Nfsstat4_name[st])
	}
}

// root is the root of the export.
func root() []nfsv4.NfsArgop4 {
	return []nfsv4.NfsArgop4{&nfsv4.NfsArgop4_OP_PUTROOTFH{}, lookup("default")}
}

func at(names ...string) []nfsv4.NfsArgop4 {
	ops := root()
	for _, n := range names {
		ops = append(ops, lookup(n))
	}
	return ops
}

func ops(parts ...any) (out []nfsv4.NfsArgop4) {
	for _, p := range parts {
		switch p := p.(type) {
		case []nfsv4.NfsArgop4:
			out = append(out, p...)
		case nfsv4.NfsArgop4:
			out = append(out, p)
		default:
			panic(fmt.Sprintf("%T", p))
		}
	}
	return out
}

// handleOf is the filehandle at a path.
func (c *client) handleOf(names ...string) []byte {
	c.t.Helper()
	res := c.ok(ops(at(names...), &nfsv4.NfsArgop4_OP_GETFH{})...)
	return fhOf(res[len(res)-1])
}

func fhOf(r nfsv4.NfsResop4) []byte {
	return r.(*nfsv4.NfsResop4_OP_GETFH).Opgetfh.(*nfsv4.Getfh4res_NFS4_OK).Resok4.Object
}

// mk makes an entry directly in the file system.
func (w *world) mk(dir vfs.Ino, name string, t vfs.Type, mode, uid uint32) vfs.Ino {
	w.t.Helper()
	set := vfs.SetAttr{Mode: &mode}
	var c vfs.Created
	var err error
	if t == vfs.TypeFile {
		c, err = w.fs.Create(context.Background(), &vfs.Root, dir, name, vfs.CreateArgs{Attr: set})
	} else {
		a := vfs.NodeArgs{Type: t, Attr: set}
		if t == vfs.TypeSymlink {
			a.Target = "target"
		}
		c, err = w.fs.MakeNode(context.Background(), &vfs.Root, dir, name, a)
	}
	if err == nil && uid != 0 {
		_, err = w.fs.SetAttr(context.Background(), &vfs.Root, c.Attr.Ino, vfs.SetAttr{UID: &uid, GID: &uid}, false)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Attr.Ino
}
