package nfsserver_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// Another server takes clients over when they come to it: nobody told it before.
func TestTakeover(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c")
	f := c.file("f")
	_, err := c.LockRange(in.ctx, f, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 10)
	want(t, "lock", err, nfsv4.NFS4_OK)
	in.stop()
	in.kept.Restart()
	in.store = &stranger{in.store.(*keptStore)}
	in.start()
	if n := in.srv.State().Clients; n != 0 {
		t.Fatalf("%d clients before one came", n)
	}
	_, err = c.Write(in.ctx, f, 0, nfsv4.FILE_SYNC4, []byte("x"))
	want(t, "write", err, nfsv4.NFS4_OK)
	d := in.dial("d")
	denied, err := d.TestLock(in.ctx, f.FH, nfsv4.READ_LT, 0, 1, "l")
	if err != nil || denied == nil {
		t.Errorf("the lock is gone: %v, %v", denied, err)
	}
	if got := sequence(t, d, nfsclient.SessionID{1, 2, 3}, 0, 1); got != nfsv4.NFS4ERR_BADSESSION {
		t.Errorf("SEQUENCE of a session that nobody has: %v", got)
	}
}

// resuming counts how often what is kept is read, and holds it up until it is read for the second time, or a while.
type resuming struct {
	*memfs.Kept
	times atomic.Int32
	twice chan struct{}
}

func (r *resuming) Resume(ctx context.Context, client uint64) ([]vfs.HeldOpen, []vfs.HeldLocks, error) {
	if r.times.Add(1) == 2 {
		close(r.twice)
	}
	select {
	case <-r.twice:
	case <-time.After(200 * time.Millisecond):
	}
	return r.Kept.Resume(ctx, client)
}

// Requests of a client that come at once take it over once.
func TestTakeoverByManyRequests(t *testing.T) {
	in := newKeptInstance(t)
	c := in.dial("c", func(cfg *nfsclient.Config) { cfg.Sessions = 3 })
	f := c.file("f")
	in.stop()
	in.kept.Restart()
	in.store = &stranger{in.store.(*keptStore)}
	fs := &resuming{Kept: in.kept, twice: make(chan struct{})}
	in.fs = fs
	in.start()
	errs := make(chan error)
	for i := range 9 {
		go func() {
			r, err := c.Session(i%3).Do(in.ctx, nfsclient.NewCompound().PutFH(f.FH).Write(f.Stateid, 0, nfsv4.FILE_SYNC4, []byte("x")))
			if err == nil {
				err = statusErr(r)
				r.Release()
			}
			errs <- err
		}()
	}
	for range 9 {
		want(t, "write", <-errs, nfsv4.NFS4_OK)
	}
	if n := fs.times.Load(); n != 1 {
		t.Errorf("taken over %d times", n)
	}
}

// stranger is the store of a server that served nobody yet.
type stranger struct{ *keptStore }

func (s *stranger) Load(ctx context.Context) ([]state.ClientState, error) { return nil, nil }
