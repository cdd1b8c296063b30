package devcluster

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// eventually waits for what must happen; how long it waits decides only when a hanging test ends.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// shardStates are the states of all replicas.
func (c *Cluster) shardStates() (all []raftmeta.ShardStatus) {
	for _, v := range c.voters.all {
		if v.server != nil {
			all = append(all, v.server.Status()...)
		}
	}
	return all
}

// A directory of feature level 1 is raised when it is started by a release that knows a newer level, and what
// died before is collected. While a voter does not know the new level, nothing is raised.
func TestOldDirectoryIsRaised(t *testing.T) {
	t.Parallel()
	cfg := Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", GCGrace: time.Second, BlockStores: 3, Profile: "2+1"}
	stop := func(c *Cluster) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	write := func(fs vfs.FS, name string, data []byte) {
		t.Helper()
		mode := uint32(0o644)
		f, err := fs.Create(t.Context(), &vfs.Root, vfs.RootIno, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenWrite})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := fs.Write(t.Context(), &vfs.Root, f.Attr.Ino, 0, data, vfs.FileSync); err != nil {
			t.Fatal(err)
		}
		if err := fs.Close(t.Context(), f.Attr.Ino, vfs.OpenWrite); err != nil {
			t.Fatal(err)
		}
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)

	cfg.maxLevel = 1
	c, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	fs := c.gateway.Exports()[0].FS
	write(fs, "kept", data)
	write(fs, "removed", data)
	if _, err := fs.Remove(t.Context(), &vfs.Root, vfs.RootIno, "removed", vfs.RemoveAny); err != nil {
		t.Fatal(err)
	}
	for _, st := range c.shardStates() {
		if st.Level != 1 || st.MaxLevel != 1 {
			t.Fatalf("%+v", st)
		}
	}
	stop(c)

	cfg.maxLevel = 0
	if c, err = Start(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	defer func() { stop(c) }()
	eventually(t, "voters at the newest level", func() bool {
		for _, st := range c.shardStates() {
			if st.Level != raftmeta.NewestLevel || st.Err != "" {
				return false
			}
		}
		return true
	})
	eventually(t, "end of the removed blocks", func() bool {
		for _, st := range c.shardStates() {
			if st.Shard == namespaceShard && st.Reap.Done > 0 && st.Reap.Queue == 0 {
				return true
			}
		}
		return false
	})
	fs = c.gateway.Exports()[0].FS
	f, err := fs.Lookup(t.Context(), &vfs.Root, vfs.RootIno, "kept")
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if n, _, err := fs.Read(t.Context(), f.Ino, 0, got); err != nil || !bytes.Equal(got[:n], data) {
		t.Fatalf("%d bytes, %v", n, err)
	}
}

// A gateway whose leases ended while it lived goes on: what was durable is there, what was only buffered is told by the
// verifier, and until it is registered anew callers are told to come again.
func TestEndedGatewayGoesOn(t *testing.T) {
	t.Parallel()
	c, err := Start(t.Context(), Config{
		DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", BlockStores: 3, Profile: "2+1",
		metaLease: 6 * time.Second, // so it is renewed every second
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	fs := c.gateway.Exports()[0].FS
	mode := uint32(0o644)
	f, err := fs.Create(t.Context(), &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenWrite})
	if err != nil {
		t.Fatal(err)
	}
	ino := f.Attr.Ino
	durable := bytes.Repeat([]byte{1}, 100_000)
	if _, _, err := fs.Write(t.Context(), &vfs.Root, ino, 0, durable, vfs.FileSync); err != nil {
		t.Fatal(err)
	}
	_, before, err := fs.Write(t.Context(), &vfs.Root, ino, 0, bytes.Repeat([]byte{2}, 50_000), vfs.Unstable)
	if err != nil {
		t.Fatal(err)
	}
	// The first gateway origin of each shard; ids that are not registered end nothing.
	for shard, last := range map[uint16]uint64{clusterShard: 4, namespaceShard: 4} {
		for origin := uint64(1); origin <= last; origin++ {
			_, err := c.meta.Apply(t.Context(), shard, &metapb.Command{
				Id: &metapb.Identity{}, Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: origin}},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	// Every answer until it works is one that makes a client come again.
	var after vfs.Verifier
	eventually(t, "commit", func() bool {
		var err error
		after, err = fs.Commit(t.Context(), ino, 0, 0)
		switch vfs.KindOf(err) {
		case vfs.KindOK:
			return after != before // else the buffered bytes were made durable before the end
		case vfs.KindUnavailable, vfs.KindFenced:
			return false
		}
		t.Fatal(err)
		return false
	})
	got := make([]byte, 200_000)
	eventually(t, "read", func() bool {
		n, _, err := fs.Read(t.Context(), ino, 0, got)
		if vfs.KindOf(err) == vfs.KindUnavailable {
			return false
		}
		// Or the buffered bytes became old and were flushed before the end.
		if flushed := append(bytes.Repeat([]byte{2}, 50_000), durable[50_000:]...); err != nil || !bytes.Equal(got[:n], durable) && !bytes.Equal(got[:n], flushed) {
			t.Fatalf("%d bytes, %v", n, err)
		}
		return true
	})
	eventually(t, "write", func() bool {
		_, _, err := fs.Write(t.Context(), &vfs.Root, ino, 0, durable, vfs.FileSync)
		return err == nil
	})
	if err := fs.Close(t.Context(), ino, vfs.OpenWrite); err != nil {
		t.Fatal(err)
	}
}
