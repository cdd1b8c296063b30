package volume_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

var keepCred = vfs.Cred{UID: 1000, GID: 1000}

// keptFile is an open that the shard keeps, of a client that may write the file and not read it.
func keptFile(t *testing.T) (*crashing, vfs.Ino, vfs.Share) {
	t.Helper()
	return keptFileOf(t, volume.Config{Keep: true})
}

func keptFileOf(t *testing.T, cfg volume.Config) (*crashing, vfs.Ino, vfs.Share) {
	t.Helper()
	c := newCrashing(t, cfg)
	mode := uint32(0o200)
	made, err := c.Create(t.Context(), &keepCred, vfs.RootIno, "f", vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}})
	if err != nil {
		t.Fatal(err)
	}
	s := vfs.Share{Client: 3, State: vfs.StateID{1}, Owner: []byte("o"), Access: vfs.OpenWrite}
	if _, err := c.volume().OpenShared(t.Context(), &keepCred, made.Attr.Ino, vfs.OpenWrite, true, s); err != nil {
		t.Fatal(err)
	}
	return c, made.Attr.Ino, s
}

// kept lists what the shard keeps of a file.
func (c *crashing) kept(ino vfs.Ino) []*metapb.ClientOpen {
	c.t.Helper()
	r, err := c.gw.Query(c.t.Context(), testShard, &metapb.Query{Fs: testFS, Q: &metapb.Query_FileOpens{FileOpens: &metapb.FileOpensQ{Ino: uint64(ino)}}})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.GetFileOpens().GetOpens()
}

// settled makes the shard know all ends of opens.
func (c *crashing) settled() {
	c.t.Helper()
	if err := c.volume().Shutdown(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

// TestUpgradeFails shows that an open is kept although its owner was refused more: the client goes on with what it has.
func TestUpgradeFails(t *testing.T) {
	c, ino, s := keptFile(t)
	s.Access = vfs.OpenRead | vfs.OpenWrite
	if _, err := c.volume().OpenShared(t.Context(), &keepCred, ino, vfs.OpenRead, false, s); vfs.KindOf(err) != vfs.KindAccess {
		t.Fatalf("open of what may not be read: %v", err)
	}
	c.settled()
	if got := c.kept(ino); len(got) != 1 {
		t.Fatalf("the shard keeps %v", got)
	}
}

// TestUpgradeGivenUp shows the same of one whose caller gave up.
func TestUpgradeGivenUp(t *testing.T) {
	c, ino, s := keptFile(t)
	mode := uint32(0o600)
	if _, err := c.SetAttr(t.Context(), &keepCred, ino, vfs.SetAttr{Mode: &mode}, false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	returned := make(chan struct{})
	c.meta.mu.Lock()
	c.meta.fail = func(cmd *metapb.Command) error {
		if cmd.GetOpenFile() != nil {
			cancel()
			<-returned
		}
		return nil
	}
	c.meta.mu.Unlock()
	s.Access = vfs.OpenRead | vfs.OpenWrite
	_, err := c.volume().OpenShared(ctx, &keepCred, ino, vfs.OpenRead, false, s)
	close(returned)
	if vfs.KindOf(err) != vfs.KindUnknown {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Millisecond) { // until it is taken back
		if read, _ := c.volume().Opens(ino); read == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the file stays open for reading")
		}
	}
	c.settled()
	if got := c.kept(ino); len(got) != 1 {
		t.Fatalf("the shard keeps %v", got)
	}
}

// TestUpgradeAfterDowngrade shows that the end of what an open was does not take away what it became.
func TestUpgradeAfterDowngrade(t *testing.T) {
	c, ino, s := keptFile(t)
	less := s
	less.Access = vfs.OpenRead
	if err := c.volume().Share(t.Context(), ino, less); err != nil {
		t.Fatal(err)
	}
	if _, err := c.volume().OpenShared(t.Context(), &keepCred, ino, vfs.OpenWrite, true, s); err != nil {
		t.Fatal(err)
	}
	c.settled()
	if got := c.kept(ino); len(got) != 1 {
		t.Fatalf("the shard keeps %v", got)
	}
}

// TestUnlinkAfterDowngrade is the same of a file that loses its name: it outlives the gateway.
func TestUnlinkAfterDowngrade(t *testing.T) {
	c, ino, s := keptFile(t)
	s.Access = vfs.OpenRead
	if err := c.volume().Share(t.Context(), ino, s); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Remove(t.Context(), &keepCred, vfs.RootIno, "f", vfs.RemoveAny); err != nil {
		t.Fatal(err)
	}
	c.settled()
	if got := c.kept(ino); len(got) != 1 {
		t.Fatalf("the shard keeps %v", got)
	}
}

// TestClosedWhileOriginEnded shows that opens and locks which end while the gateway has no origin end when it has one again: the
// client lives on, so nobody else would end them.
func TestClosedWhileOriginEnded(t *testing.T) {
	c, ino, s := keptFile(t)
	tried := make(chan struct{}, 100)
	c.meta.mu.Lock()
	c.meta.fail = func(cmd *metapb.Command) error {
		if cmd.GetCloseFiles() != nil {
			tried <- struct{}{}
		}
		return nil
	}
	c.meta.mu.Unlock()
	c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: c.gw.origin}}})
	if err := c.volume().Unshare(t.Context(), ino, vfs.Closing{Share: s}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second shows that the first was refused
		select {
		case <-tried:
		case <-time.After(5 * time.Minute):
			t.Fatal("the end of an open was given up")
		}
	}
	c.gw.again(t)
	c.volume().Reregistered(c.gw.origin, c.gw.incarnation)
	c.settled()
	if got := c.kept(ino); len(got) != 0 {
		t.Fatalf("the shard keeps %v", got)
	}
}

// TestClosedAndWentElsewhere shows that an open whose end was not recorded when the gateway lost its origin stays if another gateway has taken its client: there
// the next OPEN of the same owner may have found it. It is closed if the client is here again. While that is not known, neither happens.
func TestClosedAndWentElsewhere(t *testing.T) {
	for _, stays := range []bool{false, true} {
		asked := make(chan error, 100)
		var mu sync.Mutex
		served, unknown := true, error(nil)
		tell := func(now bool, err error) {
			mu.Lock()
			defer mu.Unlock()
			served, unknown = now, err
		}
		c, ino, s := keptFileOf(t, volume.Config{Keep: true, Serves: func(client uint64) (bool, error) {
			if client != 3 {
				t.Errorf("asked for client %d", client)
			}
			mu.Lock()
			defer mu.Unlock()
			asked <- unknown
			return served, unknown
		}})
		c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: c.gw.origin}}})
		c.gw.again(t) // at this shard the gateway is back before it knows whom it serves
		c.volume().Reregistered(c.gw.origin, c.gw.incarnation)
		tell(true, vfs.Errorf(vfs.KindUnavailable, "serves", "not known"))
		if err := c.volume().Unshare(t.Context(), ino, vfs.Closing{Share: s}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second shows that the first was waited for
			select {
			case err := <-asked:
				if err == nil {
					t.Fatal("an answer was taken for known")
				}
			case <-time.After(5 * time.Minute):
				t.Fatal("the end of an open was given up, or recorded")
			}
		}
		if got := c.kept(ino); len(got) != 1 {
			t.Fatalf("the shard keeps %v while it is not known where the client is", got)
		}
		tell(stays, nil)
		c.settled()
		want := 1
		if stays {
			want = 0
		}
		if got := c.kept(ino); len(got) != want {
			t.Errorf("client here: %v: the shard keeps %v", stays, got)
		}
	}
}
