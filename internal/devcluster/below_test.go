package devcluster

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
)

// Below feature level 3 clients reclaim after a restart, within a grace period, also at the start that raises the level. From then on they go on.
func TestClientsOfALowerLevel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cfg := Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", BlockStores: 3, Profile: "2+1", maxLevel: 2}
	var c *Cluster
	start := func() {
		t.Helper()
		var err error
		if c, err = Start(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	stop := func() {
		t.Helper()
		if err := c.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, err error, st nfsclient.Status) {
		t.Helper()
		if nfsclient.StatusOf(err) != st {
			t.Fatalf("%s: %v, want %s", what, err, nfsv4.Nfsstat4_name[st])
		}
	}
	start()
	a, err := nfsclient.Dial(ctx, nfsclient.Config{Owner: "a", Slots: 4, DialFunc: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", c.NFSAddr())
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Disconnect()
	root, _, err := a.Walk(ctx, "/default")
	want("walk", err, nfsv4.NFS4_OK)
	f, err := a.Create(ctx, root, "f", 0o644)
	want("create", err, nfsv4.NFS4_OK)
	lock := &nfsclient.Lock{Owner: "l"}
	_, err = a.LockRange(ctx, f, lock, nfsv4.WRITE_LT, 0, 10)
	want("lock", err, nfsv4.NFS4_OK)
	for _, level := range []uint32{2, 0} { // 0: the newest
		stop()
		cfg.maxLevel = level
		start()
		if st := c.gateway.NFSState(); !st.Grace || st.Clients != 0 {
			t.Fatalf("after a restart of level 2: %+v", st)
		}
		_, err = a.Getattr(ctx, f.FH)
		want("getattr in the session from before", err, nfsv4.NFS4ERR_BADSESSION)
		want("recover", a.Recover(ctx), nfsv4.NFS4_OK)
		f, err = a.Open(ctx, f.FH, nfsclient.OpenArgs{Reclaim: true})
		want("reclaim", err, nfsv4.NFS4_OK)
		want("remove in grace", a.Remove(ctx, root, "f"), nfsv4.NFS4ERR_GRACE)
		want("reclaim complete", a.ReclaimComplete(ctx), nfsv4.NFS4_OK)
		lock = &nfsclient.Lock{Owner: "l"}
		_, err = a.LockRange(ctx, f, lock, nfsv4.WRITE_LT, 0, 10)
		want("lock", err, nfsv4.NFS4_OK)
	}
	stop()
	start()
	defer func() { stop() }()
	if st := c.gateway.NFSState(); st.Grace || st.Clients != 1 || st.Locks != 1 {
		t.Fatalf("after a restart of the newest level: %+v", st)
	}
	want("unlock", a.Unlock(ctx, f, lock, 0, 10), nfsv4.NFS4_OK)
	want("close", a.CloseFile(ctx, f), nfsv4.NFS4_OK)
}
