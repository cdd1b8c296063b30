package raftmeta

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A client ends a whole courtesy after it was seen without a gateway, counted anew for each gateway that served it; what
// a paused leader did not see does not count.
func TestCourtesy(t *testing.T) {
	const wait = 16 * time.Second
	c := &courtesy{wait: wait}
	now := time.Hour
	a1, a2, b1 := fsm.ClientOrigin{Client: 1, Origin: 7}, fsm.ClientOrigin{Client: 2, Origin: 7}, fsm.ClientOrigin{Client: 1, Origin: 8}
	look := func(step time.Duration, unserved []fsm.ClientOrigin, want ...fsm.ClientOrigin) {
		t.Helper()
		now += step
		if got := c.look(unserved, now); !slices.Equal(got, want) {
			t.Fatalf("at %v: %v end, want %v", now, got, want)
		}
	}
	look(0, []fsm.ClientOrigin{a1, a2})
	for range 8 {
		look(time.Second, []fsm.ClientOrigin{a1, a2})
	}
	for range 7 { // client 1 was taken over
		look(time.Second, []fsm.ClientOrigin{a2})
	}
	look(time.Second, []fsm.ClientOrigin{b1, a2}, a2) // and its new gateway ended too
	for range 15 {
		look(time.Second, []fsm.ClientOrigin{b1})
	}
	look(10*wait, []fsm.ClientOrigin{b1}) // a pause
	look(time.Second, []fsm.ClientOrigin{b1}, b1)
	look(time.Second, []fsm.ClientOrigin{b1}, b1) // until it is done
}

// nfsGateway is a gateway with a lease at shards 0 and 1.
func nfsGateway(t *testing.T, c *cluster, name string, mono func() time.Duration) (cl *Client, leases []*Lease) {
	t.Helper()
	cl = c.clientWith(func(o *ClientOptions) { o.Monotonic, o.RenewInterval = mono, 5*time.Millisecond })
	for _, shard := range []uint16{0, 1} {
		l, err := cl.RegisterLeased(testContext(t), shard, name, fmt.Appendf(nil, "%16s", name), LeaseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, l)
	}
	return cl, leases
}

// nfsCluster has file system testFS in shard 1 and the newest level everywhere.
func nfsCluster(t *testing.T, opt func(*Options)) *cluster {
	t.Helper()
	c := newCluster(t, 3, []uint16{0, 1}, func(_ int, o *Options) {
		o.CheckInterval = 5 * time.Millisecond
		opt(o)
	})
	raiseLevel(t, c, 1)
	c.gateway(1, "maker")
	admin := c.client()
	_, err := admin.Apply(testContext(t), 0, &metapb.Command{Op: &metapb.Command_PutFileSystem{PutFileSystem: &metapb.PutFileSystem{Fs: &metapb.FileSystem{
		Id: testFS, Name: "fs", Workspace: "default", Shard: 1, State: metapb.FileSystemState_FS_ACTIVE, HashKey: []byte("0123456789abcdef"),
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	raiseLevel(t, c, 0) // after it: from level 4 on ids are given in order
	return c
}

// openUnlinked makes a file that the NFS client has open and that has no name.
func openUnlinked(t *testing.T, cl *Client, client uint64) (ino uint64) {
	t.Helper()
	ctx := testContext(t)
	cmd := createCmd(fmt.Sprint("file of ", client))
	cmd.GetCreate().Share = &metapb.ClientOpen{Client: client, Stateid: []byte("stateid-0001"), Access: 2}
	r, err := cl.Apply(ctx, 1, cmd)
	if err != nil {
		t.Fatal(err)
	}
	_, err = cl.Apply(ctx, 1, &metapb.Command{Fs: testFS, Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: uint64(vfs.RootIno), Name: cmd.GetCreate().Name}}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetCreate().Attr.Ino
}

func exists(t *testing.T, cl *Client, ino uint64) bool {
	t.Helper()
	_, err := cl.Query(testContext(t), 1, &metapb.Query{Fs: testFS, Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: ino}}})
	if err != nil && vfs.KindOf(err) != vfs.KindStale {
		t.Fatal(err)
	}
	return err == nil
}

// TestClientsOfDeadGateway lets a gateway with two clients fall silent. Another gateway takes one over, with its session and its unlinked open
// file; the other one is ended when its courtesy is over, not before, and its file is collected. So is an id that was only reserved, of which nothing is said.
func TestClientsOfDeadGateway(t *testing.T) {
	const lease = 800 * time.Hour
	var clock atomic.Int64 // of all
	clock.Store(int64(time.Hour))
	mono := func() time.Duration { return time.Duration(clock.Load()) }
	var told sync.Map // ids that the log names
	c := nfsCluster(t, func(o *Options) {
		o.Lease, o.Monotonic = lease, mono
		o.Logger = slog.New(onMessage{o.Logger.Handler(), "raftmeta: an NFS client whose gateway ended was not taken over and is ended", func(r slog.Record) {
			r.Attrs(func(a slog.Attr) bool {
				if a.Key == "client" {
					told.Store(a.Value.Uint64(), true)
				}
				return true
			})
		}})
	})
	ctx := testContext(t)
	a, _ := nfsGateway(t, c, "a", mono)
	b, alive := nfsGateway(t, c, "b", mono)
	first, err := a.NewNFSClients(ctx, 3)
	if err != nil {
		t.Fatal(err)
	}
	ids, reserved := []uint64{first, first + 1}, first+2
	_, err = a.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_PutClient{PutClient: &metapb.PutClient{Client: &metapb.ClientRecord{Id: ids[1], Owner: []byte("other host"), Confirmed: true}}}})
	if err != nil {
		t.Fatal(err)
	}
	session := []byte("session-00000001")
	_, err = a.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_PutSession{PutSession: &metapb.PutSession{
		Session: &metapb.SessionRecord{Id: session, Client: ids[0], Record: []byte("attrs")}, Client: &metapb.ClientRecord{Owner: []byte("host"), Confirmed: true},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	files := []uint64{openUnlinked(t, a, ids[0]), openUnlinked(t, a, ids[1])}
	if taken, err := b.TakeNFSClients(ctx, ids); err != nil || len(taken) != 0 {
		t.Fatalf("%v taken from a living gateway, %v", taken, err)
	}
	a.Close()
	// step lets an eighth of a lease pass, in which the leaders look and who lives renews.
	step := func() {
		t.Helper()
		clock.Add(int64(lease / 8))
		for _, shard := range []uint16{0, 1} {
			var of *leadership
			began := 0
			c.eventually("the leader to look", func() bool {
				l := c.server(c.leader(shard)).shards[shard].lead.Load()
				if l == nil {
					return false
				}
				l.leases.mu.Lock()
				defer l.leases.mu.Unlock()
				if l != of {
					of, began = l, l.leases.looks
				}
				return l.leases.looks >= began+2
			})
		}
		for _, l := range alive {
			c.eventually("a renewal", func() bool { return time.Duration(l.until.Load()) >= mono()+lease-lease/3 })
		}
	}
	gone := func() bool {
		return !slices.ContainsFunc(idsOf(t, b, "a"), func(id uint64) bool { return id == ids[1] || id == reserved })
	}
	var taken []uint64
	for i := 0; len(taken) == 0; i++ {
		if i == 40 {
			t.Fatal("the gateway does not end")
		}
		step()
		if taken, err = b.TakeNFSClients(ctx, ids[:1]); err != nil {
			t.Fatal(err)
		}
	}
	who, err := b.NFSClientOf(ctx, session)
	if err != nil || who.Client.Id != ids[0] || who.Client.Gateway != "b" || len(who.Sessions) != 1 || string(who.Sessions[0].Record) != "attrs" {
		t.Fatalf("%v, %v", who, err)
	}
	if gone() {
		t.Fatal("the other client ended with its gateway")
	}
	for i := 0; !gone(); i++ {
		if i == 40 {
			t.Fatal("the client does not end")
		}
		step()
	}
	if _, ok := told.Load(ids[1]); !ok {
		t.Error("the log does not say that a client was ended")
	}
	if _, ok := told.Load(reserved); ok {
		t.Error("the log says that a client was ended that there never was")
	}
	c.eventually("the file to be collected", func() bool { return !exists(t, b, files[1]) })
	if !exists(t, b, files[0]) {
		t.Fatal("the file of the client that was taken over is gone")
	}
	opens, _, err := b.NFSClientState(ctx, 1, ids[0])
	if err != nil || len(opens) != 1 || opens[0].Ino != files[0] {
		t.Fatalf("%v, %v", opens, err)
	}
	if _, _, err := b.NFSClientState(ctx, 1, ids[1]); vfs.KindOf(err) != vfs.KindExpired {
		t.Fatalf("the ended client: %v", err)
	}
	// A client that is ended by its gateway has nothing when that returns.
	if err := b.ReleaseNFSClient(ctx, ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.NFSClientState(ctx, 1, ids[0]); vfs.KindOf(err) != vfs.KindExpired {
		t.Fatalf("the released client: %v", err)
	}
	c.eventually("the file to be collected", func() bool { return !exists(t, b, files[0]) })
	if err := b.ReleaseNFSClient(ctx, ids[0]); err != nil {
		t.Fatalf("again: %v", err)
	}
}

func idsOf(t *testing.T, cl *Client, gateway string) (ids []uint64) {
	t.Helper()
	list, err := cl.NFSClients(testContext(t), gateway)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range list {
		ids = append(ids, k.Client.Id)
	}
	return ids
}

// TestReleaseGoesOn begins the release of a client and leaves it to the leader of shard 0, which changes meanwhile.
func TestReleaseGoesOn(t *testing.T) {
	c := nfsCluster(t, func(o *Options) { o.ClientCourtesy = time.Hour })
	ctx := testContext(t)
	began := time.Now()
	a, _ := nfsGateway(t, c, "a", func() time.Duration { return time.Since(began) })
	id, err := a.NewNFSClients(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	ino := openUnlinked(t, a, id)
	_, err = a.Apply(ctx, 0, &metapb.Command{Op: &metapb.Command_RemoveClient{RemoveClient: &metapb.RemoveClient{Client: id}}})
	if err != nil {
		t.Fatal(err)
	}
	c.stop(c.leader(0))
	c.eventually("the release", func() bool {
		_, err := a.Query(ctx, 0, &metapb.Query{Q: &metapb.Query_Client{Client: &metapb.ClientQ{Client: id}}})
		return vfs.KindOf(err) == vfs.KindNotFound
	})
	c.eventually("the file to be collected", func() bool { return !exists(t, a, ino) })
}
