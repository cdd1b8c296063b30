package replica

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// rotten is a log of which one entry changes after its first reads.
type rotten struct {
	*raft.InmemStore
	index uint64
	good  int // reads that are right
	mu    sync.Mutex
}

func (r *rotten) GetLog(i uint64, l *raft.Log) error {
	if err := r.InmemStore.GetLog(i, l); err != nil || i != r.index {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.good--; r.good < 0 {
		l.Data = append(bytes.Clone(l.Data), '!')
	}
	return nil
}

// forgetful is a stable store that saves a few terms and then no more.
type forgetful struct {
	*raft.InmemStore
	saves atomic.Int64
}

func (f *forgetful) Set(k, v []byte) error {
	if f.saves.Add(-1) < 0 {
		return syscall.EIO
	}
	return f.InmemStore.Set(k, v)
}

type nothing struct{}

func (nothing) Apply(*raft.Log) any                 { return nil }
func (nothing) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (nothing) Restore(r io.ReadCloser) error       { return r.Close() }

// Where Raft ends the process, on its own goroutines, because an entry cannot be read or a term not be saved, the replica's Raft ends instead: it
// says why, and can be shut down.
func TestRaftEndsAlone(t *testing.T) {
	const many = 1 << 30
	for _, c := range []struct {
		what  string
		good  int
		saves int64
		kind  vfs.Kind
	}{
		{"an entry rots before it is applied", 1, many, vfs.KindCorrupt}, // the first read is that of NewRaft
		{"the term cannot be saved", many, 1, vfs.KindIO},                // the first save is that of NewRaft
	} {
		t.Run(c.what, func(t *testing.T) {
			store := &rotten{InmemStore: raft.NewInmemStore(), index: 2, good: c.good}
			l := &Logs{}
			tl, err := openTail(vfile.OS{}, t.TempDir(), false)
			if err != nil {
				t.Fatal(err)
			}
			defer tl.Close()
			chk := &checked{store: store, all: true, tail: tl, damaged: l.fault.damaged}
			if l.LogCache, err = raft.NewLogCache(1, chk); err != nil {
				t.Fatal(err)
			}
			stableStore := &forgetful{InmemStore: raft.NewInmemStore()}
			stableStore.saves.Store(many)
			l.Stable = &stable{store: stableStore, fault: &l.fault}
			conf := raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}}
			if err := l.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(conf)},
				{Index: 2, Term: 1, Type: raft.LogCommand, Data: []byte("x")}, {Index: 3, Term: 1, Type: raft.LogCommand, Data: []byte("y")}}); err != nil {
				t.Fatal(err)
			}
			if err := l.Stable.SetUint64([]byte("CurrentTerm"), 1); err != nil {
				t.Fatal(err)
			}
			stableStore.saves.Store(c.saves)
			failed := make(chan error, 1)
			l.fault.tell(func(err error) { failed <- err })
			rc := raft.DefaultConfig()
			rc.LocalID, rc.Logger = "a", hclog.NewNullLogger()
			rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
			_, trans := raft.NewInmemTransport("a")
			defer trans.Close()
			r, err := raft.NewRaft(rc, nothing{}, l, l.Stable, raft.NewDiscardSnapshotStore(), trans)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-failed:
				if vfs.KindOf(err) != c.kind {
					t.Errorf("reported: %v", err)
				}
			case <-time.After(5 * time.Minute):
				t.Fatal("nobody was told")
			}
			if err := r.Shutdown().Error(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What checksums and the tail add to an append of one entry, and to reading it.
func BenchmarkChecked(b *testing.B) {
	tl, err := openTail(vfile.OS{}, b.TempDir(), false)
	if err != nil {
		b.Fatal(err)
	}
	defer tl.Close()
	e := &raft.Log{Index: 1, Term: 1, Data: make([]byte, 64<<10)}
	for _, c := range []struct {
		name  string
		store raft.LogStore
	}{{"without", raft.NewInmemStore()}, {"with", &checked{store: raft.NewInmemStore(), all: true, tail: tl, damaged: func(error) {}}}} {
		b.Run("append/"+c.name, func(b *testing.B) {
			for b.Loop() {
				if err := c.store.StoreLog(e); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("read/"+c.name, func(b *testing.B) {
			var l raft.Log
			for b.Loop() {
				if err := c.store.GetLog(1, &l); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
