package devcluster_test

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
)

// told is what SEQUENCE answered, and whether all of the COMPOUND was done.
type told struct {
	status          nfsclient.Status
	highest, target uint32
}

// Slots that a client gave up are gone after kill -9 of everything, and begin anew when they come back: what the shards remembered of them is
// forgotten by then.
func TestSlotsAfterKill(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c := &child{t: t, dir: filepath.Join(t.TempDir(), "data")} // with room for 125 slots
	c.start()
	defer func() { c.kill() }()
	client := func(owner string) *nfsclient.Client {
		cl, err := nfsclient.Dial(ctx, nfsclient.Config{Owner: owner, Slots: 1, Patient: true, DialFunc: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", c.addr)
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Disconnect)
		return cl
	}
	create := func(cl *nfsclient.Client, sequence, slots uint32) (nfsclient.SessionID, uint32, nfsclient.Status) {
		t.Helper()
		chans := nfsclient.ChannelAttrs{MaxRequest: 1 << 16, MaxResponse: 1 << 16, MaxCachedResponse: 8 << 10, MaxOps: 64, MaxSlots: slots}
		r, err := cl.Raw(ctx, nfsclient.NewRaw().CreateSession(cl.ID(), sequence, 0, chans, chans, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		id, _, fore, err := r.CreateSession()
		return id, fore.MaxSlots, nfsclient.StatusOf(err)
	}

	a := client("a")
	root, _, err := a.Walk(ctx, "/default")
	if err != nil {
		t.Fatal(err)
	}
	session, slots, st := create(a, 2, 8)
	if st != nfsv4.NFS4_OK || slots != 8 {
		t.Fatalf("%s, %d slots", nfsv4.Nfsstat4_name[st], slots)
	}
	send := func(slot, seq, highest uint32, more func(*nfsclient.Compound)) (h told) {
		for {
			cp := nfsclient.NewRaw().Op(nfsv4.OP_SEQUENCE).Raw(session[:]).Words(seq, slot, highest, 1)
			if more != nil {
				more(cp.PutFH(root))
			}
			r, err := a.Raw(ctx, cp)
			if err != nil {
				t.Error(err)
				return told{status: -1}
			}
			if err := r.Next(nfsv4.OP_SEQUENCE); nfsclient.StatusOf(err) == nfsv4.NFS4ERR_DELAY { // the gateway is about to register
				r.Release()
				continue
			} else if err == nil {
				d := r.D()
				d.Skip(16 + 2*4)
				h.highest, h.target = d.Uint32(), d.Uint32()
			}
			h.status = r.Status
			r.Release()
			return h
		}
	}
	var seqs [8]uint32
	ask := func(slot, highest uint32, more func(*nfsclient.Compound)) told {
		seqs[slot]++
		return send(slot, seqs[slot], highest, more)
	}
	must := func(what string, got told, want nfsclient.Status) {
		t.Helper()
		if got.status != want {
			t.Fatalf("%s: %s, want %s", what, nfsv4.Nfsstat4_name[got.status], nfsv4.Nfsstat4_name[want])
		}
	}
	mkdir := func(name string) func(*nfsclient.Compound) {
		return func(cp *nfsclient.Compound) { cp.Mkdir(name, attr.Mode(0o755)) }
	}
	must("mkdir", ask(7, 7, mkdir("x")), nfsv4.NFS4_OK)
	must("the same again", send(7, 1, 7, mkdir("x")), nfsv4.NFS4_OK)

	// Others need memory until slots are asked back.
	type other struct {
		cl  *nfsclient.Client
		ids []nfsclient.SessionID
	}
	var others []*other
	for _, owner := range []string{"b", "c", "d"} {
		others = append(others, &other{cl: client(owner)})
	}
	h := ask(0, 7, nil)
	for n := 0; h.target == 7; n++ {
		o := others[n%len(others)]
		switch id, _, st := create(o.cl, uint32(2+len(o.ids)), 64); st {
		case nfsv4.NFS4_OK:
			o.ids = append(o.ids, id)
		case nfsv4.NFS4ERR_DELAY: // there is no more: now it is for the server to ask
		default:
			t.Fatal(nfsv4.Nfsstat4_name[st])
		}
		h = ask(0, 7, nil)
		must("a request", h, nfsv4.NFS4_OK)
	}
	if h.highest != 7 || h.target < 3 {
		t.Fatalf("told %+v", h)
	}
	for h.highest == 7 {
		h = ask(0, h.target, nil)
		must("a request", h, nfsv4.NFS4_OK)
	}
	must("a request that is sent again on a slot that is gone", send(7, 1, 7, mkdir("x")), nfsv4.NFS4ERR_BADSLOT)
	c.kill()
	c.start()
	must("... after a restart", send(7, 1, 7, mkdir("x")), nfsv4.NFS4ERR_BADSLOT)
	h = ask(0, h.highest, nil)
	must("a slot that stayed", h, nfsv4.NFS4_OK)

	// The others give it back, and the slots come back when all are in use.
	for _, o := range others {
		for _, id := range o.ids {
			r, err := o.cl.Raw(ctx, nfsclient.NewRaw().DestroySession(id))
			if err != nil {
				t.Fatal(err)
			}
			r.Release()
		}
	}
	for h.highest < 7 {
		var wg sync.WaitGroup
		all := make([]told, h.highest+1)
		for slot := range all {
			wg.Go(func() {
				all[slot] = ask(uint32(slot), h.highest, func(cp *nfsclient.Compound) {
					for range 50 {
						cp.Setattr(nfsclient.Stateid{}, attr.Mode(0o777))
					}
				})
			})
		}
		wg.Wait()
		for _, one := range all {
			must("one of many", one, nfsv4.NFS4_OK)
			h.highest = max(h.highest, one.highest)
		}
	}
	must("a slot begins anew", send(7, 1, 7, mkdir("y")), nfsv4.NFS4_OK)
	for _, name := range []string{"x", "y"} {
		if _, _, err := a.Lookup(ctx, root, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
