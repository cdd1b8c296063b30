package devcluster_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/devcluster"
)

func dialAt(t *testing.T, c *devcluster.Cluster, gateway int, owner string) (*nfsclient.Client, nfsclient.FH) {
	t.Helper()
	cl, err := nfsclient.Dial(t.Context(), nfsclient.Config{Addr: c.NFSAddrs()[gateway], Owner: owner, Patient: true})
	if err != nil {
		t.Fatal(err)
	}
	root, _, err := cl.Walk(t.Context(), "/default")
	if err != nil {
		t.Fatal(err)
	}
	return cl, root
}

// Deny modes (share reservations) hold between clients of different gateways, also against opens for reading, which are not recorded.
func TestDenyModesAtTwoGateways(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := devcluster.Start(ctx, devcluster.Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", Gateways: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer stopCluster(t, c)
	a, root := dialAt(t, c, 0, "a")
	b, _ := dialAt(t, c, 1, "b")
	defer func() { _ = a.Close(context.WithoutCancel(ctx)) }()
	f, err := a.Create(ctx, root, "f", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	const read, write, both = nfsv4.OPEN4_SHARE_ACCESS_READ, nfsv4.OPEN4_SHARE_ACCESS_WRITE, nfsv4.OPEN4_SHARE_ACCESS_BOTH
	open := func(cl *nfsclient.Client, access, deny uint32, want nfsv4.Nfsstat4) *nfsclient.File {
		t.Helper()
		f, err := cl.Open(ctx, root, nfsclient.OpenArgs{Name: "f", Access: access, Deny: deny})
		if got := nfsclient.StatusOf(err); err == nil && want != nfsv4.NFS4_OK || err != nil && got != want {
			t.Fatalf("open with access %d, deny %d: %v, want status %v", access, deny, err, want)
		}
		return f
	}
	shut := func(cl *nfsclient.Client, f *nfsclient.File) {
		t.Helper()
		if err := cl.CloseFile(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	// The gateway of a has the file to itself, for it was written there.
	if _, err := a.Write(ctx, f, 0, nfsv4.UNSTABLE4, []byte("x")); err != nil {
		t.Fatal(err)
	}
	open(b, read, write, nfsv4.NFS4ERR_SHARE_DENIED)
	shut(a, f)

	for _, at := range [][2]*nfsclient.Client{{a, b}, {b, a}} {
		reader, denier := at[0], at[1]
		f := open(reader, read, 0, nfsv4.NFS4_OK) // there is no record of this one
		open(denier, read, read, nfsv4.NFS4ERR_SHARE_DENIED)
		open(denier, write, both, nfsv4.NFS4ERR_SHARE_DENIED)
		g := open(denier, read, write, nfsv4.NFS4_OK)
		open(reader, write, 0, nfsv4.NFS4ERR_SHARE_DENIED)
		shut(denier, g)
		shut(reader, f)
		g = open(denier, write, read, nfsv4.NFS4_OK)
		open(reader, read, 0, nfsv4.NFS4ERR_SHARE_DENIED)
		f = open(reader, write, 0, nfsv4.NFS4_OK)
		if _, err := reader.Write(ctx, f, 0, nfsv4.FILE_SYNC4, []byte("y")); err != nil {
			t.Fatal(err)
		}
		shut(reader, f)
		open(reader, read, 0, nfsv4.NFS4ERR_SHARE_DENIED) // its gateway does not have the file to itself by that
		shut(denier, g)
		f = open(reader, read, 0, nfsv4.NFS4_OK)
		shut(reader, f)
	}
	if err := b.Close(context.WithoutCancel(ctx)); err != nil {
		t.Error(err)
	}
}

// A client that is silent for longer than its lease is in nobody's way, whichever gateway serves it.
func TestSilentClientOfAnotherGateway(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := devcluster.Start(ctx, devcluster.Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", Gateways: 2, Lease: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer stopCluster(t, c)
	b, root := dialAt(t, c, 1, "b")
	f, err := b.Create(ctx, root, "locked", 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.LockRange(ctx, f, &nfsclient.Lock{Owner: "b"}, nfsv4.WRITE_LT, 0, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Create(ctx, root, "denied", 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(ctx, root, nfsclient.OpenArgs{Name: "denied", Access: nfsv4.OPEN4_SHARE_ACCESS_BOTH, Deny: nfsv4.OPEN4_SHARE_DENY_BOTH}); err != nil {
		t.Fatal(err)
	}
	b.Disconnect()
	a, root := dialAt(t, c, 0, "a") // not before: it is not silent for long itself
	defer func() { _ = a.Close(context.WithoutCancel(ctx)) }()
	end := time.Now().Add(5 * time.Minute)
	until := func(what string, refusal nfsv4.Nfsstat4, try func() error) {
		t.Helper()
		for err := try(); err != nil; err = try() {
			if nfsclient.StatusOf(err) != refusal || time.Now().After(end) {
				t.Fatalf("%s, and a client of the other gateway is silent: %v", what, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	if f, err = a.Open(ctx, root, nfsclient.OpenArgs{Name: "locked"}); err != nil {
		t.Fatal(err)
	}
	until("lock", nfsv4.NFS4ERR_DENIED, func() error {
		_, err := a.LockRange(ctx, f, &nfsclient.Lock{Owner: "a"}, nfsv4.WRITEW_LT, 0, 10)
		return err
	})
	until("open", nfsv4.NFS4ERR_SHARE_DENIED, func() error {
		_, err := a.Open(ctx, root, nfsclient.OpenArgs{Name: "denied", Access: nfsv4.OPEN4_SHARE_ACCESS_READ})
		return err
	})
}
