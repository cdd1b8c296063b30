package nfsserver_test

import (
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/state"
)

// Sessions are made and destroyed; what is left of it after a restart is what the client was told.
func TestSessionsAfterRestart(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Sessions = 3; cfg.Slots = 5 })
	sessions := []nfsclient.SessionID{c.Session(0).ID(), c.Session(1).ID(), c.Session(2).ID()}
	destroy := func(id nfsclient.SessionID) error {
		r, err := c.Raw(in.ctx, nfsclient.NewRaw().DestroySession(id))
		if err != nil {
			return err
		}
		defer r.Release()
		return r.Next(nfsv4.OP_DESTROY_SESSION)
	}
	want(t, "destroy", destroy(sessions[2]), nfsv4.NFS4_OK)
	in.restart()
	want(t, "destroy what is destroyed", destroy(sessions[2]), nfsv4.NFS4ERR_BADSESSION)
	want(t, "destroy after the restart", destroy(sessions[1]), nfsv4.NFS4_OK)
	in.restart()
	want(t, "destroy what is destroyed", destroy(sessions[1]), nfsv4.NFS4ERR_BADSESSION)
	for slot, st := range map[uint32]nfsclient.Status{4: nfsv4.NFS4_OK, 5: nfsv4.NFS4ERR_BADSLOT} {
		if got := sequence(t, c, sessions[0], slot, 77); got != st {
			t.Errorf("SEQUENCE on slot %d: %v, want %v", slot, got, st)
		}
	}
	// The client id is still the one that EXCHANGE_ID gives.
	id := c.ID()
	want(t, "exchange id", c.ExchangeID(in.ctx, 0), nfsv4.NFS4_OK)
	if c.ID() != id {
		t.Errorf("client id %x after %x", c.ID(), id)
	}
	r, err := c.Session(0).Do(in.ctx, nfsclient.NewCompound().ReclaimComplete())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	want(t, "reclaim complete", statusErr(r), nfsv4.NFS4ERR_COMPLETE_ALREADY)
}

// A CREATE_SESSION that fails counts, and leaves no trace: the client goes on with the next sequence after a restart, too.
func TestCreateSessionAfterRestart(t *testing.T) {
	in := startInstanceWith(t, state.Limits{SessionsPerClient: 2})
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Sessions = 2 })
	create := func(seq uint32) (nfsclient.SessionID, error) {
		chans := nfsclient.ChannelAttrs{MaxRequest: 1 << 16, MaxResponse: 1 << 16, MaxCachedResponse: 1 << 10, MaxOps: 16, MaxSlots: 4}
		r, err := c.Raw(in.ctx, nfsclient.NewRaw().CreateSession(c.ID(), seq, 0, chans, chans, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		id, _, _, err := r.CreateSession()
		return id, err
	}
	for seq := uint32(3); seq < 5; seq++ {
		_, err := create(seq)
		want(t, "a session too many", err, nfsv4.NFS4ERR_NOSPC)
	}
	in.restart()
	r, err := c.Raw(in.ctx, nfsclient.NewRaw().DestroySession(c.Session(1).ID()))
	if err != nil {
		t.Fatal(err)
	}
	r.Release()
	_, err = create(1)
	want(t, "a sequence that was before", err, nfsv4.NFS4ERR_SEQ_MISORDERED)
	first, err := create(5)
	want(t, "the next sequence", err, nfsv4.NFS4_OK)
	in.restart()
	again, err := create(5)
	if want(t, "the same again", err, nfsv4.NFS4_OK); again != first {
		t.Errorf("another session: %x after %x", again, first)
	}
	in.restart()
	_, err = create(4)
	want(t, "a sequence that was before", err, nfsv4.NFS4ERR_SEQ_MISORDERED)
}

// startInstanceWith is newKeptInstance with limits.
func startInstanceWith(t *testing.T, l state.Limits) *instance {
	k := memfs.Keep(memfs.New(memfs.Options{RootMode: 0o777}))
	return startInstance(t, &instance{fs: k, kept: k, store: newKeptStore(k), limits: l})
}

// sequence sends a compound of SEQUENCE alone.
func sequence(t *testing.T, c *conn, id nfsclient.SessionID, slot, seq uint32) nfsclient.Status {
	t.Helper()
	cp := nfsclient.NewRaw().Op(nfsv4.OP_SEQUENCE).Raw(id[:]).Words(seq, slot, slot, 0)
	r, err := c.Raw(c.in.ctx, cp)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	return r.Status
}

// A client uses more slots and fewer again as it likes, up to what the session has, and is told how many it may.
func TestSlotsGrowAndShrink(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Slots = 6 })
	id := c.Session(0).ID()
	seqs := map[uint32]uint32{}
	send := func(slot, highest uint32, want nfsclient.Status) {
		t.Helper()
		seqs[slot]++
		r, err := c.Raw(in.ctx, nfsclient.NewRaw().Op(nfsv4.OP_SEQUENCE).Raw(id[:]).Words(seqs[slot], slot, highest, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release()
		if r.Status != want {
			t.Fatalf("slot %d of %d: %s, want %s", slot, highest, nfsv4.Nfsstat4_name[r.Status], nfsv4.Nfsstat4_name[want])
		}
		if want != nfsv4.NFS4_OK {
			return
		}
		if err := r.Next(nfsv4.OP_SEQUENCE); err != nil {
			t.Fatal(err)
		}
		d := r.D()
		d.Skip(16 + 4 + 4)
		if highest, target := d.Uint32(), d.Uint32(); highest != 5 || target != 5 || d.Err() != nil {
			t.Errorf("highest slot %d, target %d, want 5", highest, target)
		}
	}
	for range 2 {
		for _, highest := range []uint32{2, 5, 3, 4} {
			for slot := uint32(2); slot <= highest; slot++ {
				send(slot, highest, nfsv4.NFS4_OK)
			}
		}
		in.restart()
	}
	send(6, 5, nfsv4.NFS4ERR_BADSLOT)
	send(5, 6, nfsv4.NFS4ERR_BAD_HIGH_SLOT)
}
