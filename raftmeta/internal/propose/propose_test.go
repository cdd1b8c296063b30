package propose

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRaft holds proposed entries until the test answers them.
type fakeRaft struct{ entries chan *fakeEntry }

type fakeEntry struct {
	entry  *metapb.Entry
	size   int
	answer chan error
}

func (e *fakeEntry) Error() error { return <-e.answer }

// Response answers each command with its own purge size, to tell results apart.
func (e *fakeEntry) Response() any {
	var rs []*metapb.Result
	for _, c := range e.entry.Commands {
		rs = append(rs, &metapb.Result{Text: fmt.Sprint(c.GetPurge().GetMaxKeys())})
	}
	return rs
}

func newFake(t *testing.T) (*fakeRaft, *Batcher) {
	f := &fakeRaft{entries: make(chan *fakeEntry, 100)}
	b := New(Options{
		Apply: func(enc []byte) Future {
			e := &fakeEntry{entry: new(metapb.Entry), size: len(enc), answer: make(chan error, 1)}
			if err := e.entry.UnmarshalVT(enc); err != nil {
				t.Errorf("entry: %v", err)
			}
			if e.entry.Format != 1 {
				t.Errorf("entry format %d", e.entry.Format)
			}
			f.entries <- e
			return e
		},
		Results: func(r any) ([]*metapb.Result, error) { return r.([]*metapb.Result), nil },
	})
	t.Cleanup(b.crew.Close)
	return f, b
}

func enc(t testing.TB, n uint32, pad int) []byte {
	c := &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: n}}}
	if pad > 0 {
		c = &metapb.Command{Op: &metapb.Command_PutKey{PutKey: &metapb.PutKey{Key: &metapb.Key{Secret: make([]byte, pad)}}}}
	}
	b, err := c.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *Batcher) queued() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

func TestCoalescesWhileEntriesAreInFlight(t *testing.T) {
	f, b := newFake(t)
	var wg sync.WaitGroup
	do := func(n uint32) {
		defer wg.Done()
		rs, errs, err := b.Do(context.Background(), [][]byte{enc(t, n, 0)})
		if err != nil || errs[0] != nil || rs[0].Text != fmt.Sprint(n) {
			t.Errorf("command %d: %v %v %v", n, rs, errs, err)
		}
	}
	// One command goes at once, further entries begin with a load.
	var held []*fakeEntry
	for i := range uint32(InFlight) {
		n := 1
		if i > 0 {
			n = Load
		}
		for k := range n {
			wg.Add(1)
			go do(1000*(1+i) + uint32(k))
			if k < n-1 {
				for b.queued() < k+1 && i > 0 {
				}
			}
		}
		e := <-f.entries
		if len(e.entry.Commands) != n {
			t.Fatalf("entry %d of %d commands", i, len(e.entry.Commands))
		}
		held = append(held, e)
	}
	const more = 300
	for i := range uint32(more) {
		wg.Add(1)
		go do(i)
	}
	for b.queued() < more {
	}
	held[0].answer <- nil
	e := <-f.entries
	if len(e.entry.Commands) != MaxCommands {
		t.Fatalf("entry of %d commands", len(e.entry.Commands))
	}
	e.answer <- nil
	e = <-f.entries // the rest, which is a load, too
	if len(e.entry.Commands) != more-MaxCommands {
		t.Fatalf("entry of %d commands", len(e.entry.Commands))
	}
	e.answer <- nil
	for _, h := range held[1:] {
		h.answer <- nil
	}
	wg.Wait()
}

func TestEntrySize(t *testing.T) {
	f, b := newFake(t)
	var cmds [][]byte
	for range 10 {
		cmds = append(cmds, enc(t, 0, 100_000))
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := b.Do(context.Background(), cmds)
		done <- err
	}()
	n := 0
	for n < len(cmds) {
		e := <-f.entries
		if e.size > MaxBytes {
			t.Fatalf("entry of %d bytes", e.size)
		}
		n += len(e.entry.Commands)
		e.answer <- nil
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Do(context.Background(), [][]byte{enc(t, 0, MaxBytes)}); vfs.KindOf(err) != vfs.KindTooMany {
		t.Fatalf("oversized command: %v", err)
	}
}

func TestErrorsAndContexts(t *testing.T) {
	f, b := newFake(t)
	for _, c := range []struct {
		err  error
		kind vfs.Kind
	}{
		{raft.ErrNotLeader, vfs.KindNotLeader},
		{raft.ErrLeadershipTransferInProgress, vfs.KindNotLeader},
		{raft.ErrLeadershipLost, vfs.KindUnknown},
		{raft.ErrRaftShutdown, vfs.KindUnknown},
		{errors.New("disk"), vfs.KindUnknown},
	} {
		go func() { (<-f.entries).answer <- c.err }()
		_, errs, err := b.Do(context.Background(), [][]byte{enc(t, 1, 0)})
		if err != nil || vfs.KindOf(errs[0]) != c.kind {
			t.Errorf("%v became %v, %v", c.err, errs, err)
		}
	}
	// A caller that leaves does not take its command along.
	ctx, cancel := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() {
		_, _, err := b.Do(ctx, [][]byte{enc(t, 7, 0)})
		left <- err
	}()
	e := <-f.entries
	cancel()
	if err := <-left; vfs.KindOf(err) != vfs.KindUnknown {
		t.Fatalf("left: %v", err)
	}
	closed := make(chan error, 1)
	go func() { closed <- b.Close(context.Background()) }()
	for {
		if _, _, err := b.Do(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		c := b.closed
		b.mu.Unlock()
		if c {
			break
		}
	}
	if _, _, err := b.Do(context.Background(), [][]byte{enc(t, 8, 0)}); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatalf("after close: %v", err)
	}
	select {
	case err := <-closed:
		t.Fatalf("closed with a command in flight: %v", err)
	default:
	}
	e.answer <- nil
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
}
