package volume_test

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

const mib = 1 << 20

// ownCall is a call of its own of client 7.
func ownCall(seq uint64) *vfs.Call {
	return &vfs.Call{Client: 7, Session: [16]byte{'c', 'o', 'p', 'y'}, Seq: seq, InParts: true}
}

func (p *pair) fence(i int, ino vfs.Ino, seq, off uint64, want uint64) {
	p.t.Helper()
	done, err := p.vols[i].Fence(p.t.Context(), ino, ownCall(seq), off)
	if err != nil || done != want {
		p.t.Fatalf("fence %d from %d on: %d, %v; want %d", seq, off, done, err, want)
	}
}

func (p *pair) fill(i int, ino vfs.Ino, off uint64) vfs.Filling {
	p.t.Helper()
	f, err := p.vols[i].Fill(p.t.Context(), &vfs.Cred{UID: 5}, ino, off, ownCall(1))
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

func (p *pair) content(i int, ino vfs.Ino, n int) []byte {
	p.t.Helper()
	buf := make([]byte, n)
	k, _, err := p.vols[i].Read(p.t.Context(), ino, 0, buf)
	if err != nil {
		p.t.Fatal(err)
	}
	return buf[:k]
}

// What is filled becomes part of the file in order, whichever block is written first: every command begins where the one before ended, also where others write, and the row says one range.
func TestFillIsInOrder(t *testing.T) {
	for _, shared := range []bool{false, true} {
		p := newPair(t, volume.Config{})
		ino := p.file("f")
		if shared {
			p.share(ino)
		}
		var mu sync.Mutex
		at, ends := uint64(1000), uint64(0)
		p.gws[0].asking = func(c *metapb.Command) {
			d := c.GetCommitData()
			if d == nil || !d.Once || len(d.Calls) == 0 || d.Calls[0].Call.Session[0] != 'c' {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if d.Calls[0].Offset != at {
				t.Errorf("shared %v: a command from %d on, after %d", shared, d.Calls[0].Offset, at)
			}
			at, ends = d.Calls[0].End, ends+1
		}
		p.fence(0, ino, 1, 1000, 1000)
		f := p.fill(0, ino, 1000)
		data := bytes.Repeat([]byte("0123456789abcdef"), 30*mib/16)
		for at := 0; at < len(data); at += mib {
			if err := f.Put(t.Context(), data[at:at+mib]); err != nil {
				t.Fatal(err)
			}
			if at == 20*mib { // what others write is theirs
				p.write(0, ino, 3, "own", vfs.Unstable)
				p.write(1, ino, 8, "other", vfs.FileSync)
			}
		}
		if n, err := f.End(t.Context()); err != nil || n != 30*mib || f.Done() != n {
			t.Fatalf("shared %v: %d bytes, %v", shared, n, err)
		}
		p.fence(0, ino, 1, 1000, 1000+30*mib)
		for i := range 2 {
			got := p.content(i, ino, 31*mib)
			if len(got) != 1000+30*mib || !bytes.Equal(got[1000:], data) || string(got[3:6]) != "own" || string(got[8:13]) != "other" {
				t.Fatalf("shared %v: gateway %d reads %d other bytes", shared, i, len(got))
			}
		}
		if ends == 0 {
			t.Error("no command was seen")
		}
		if n := p.vols[0].Flushing(); n != 0 {
			t.Errorf("%d bytes are in memory", n)
		}
	}
}

// A gateway stands still in the middle; another one ends the call. What the first one sends late changes nothing, what others wrote since stays, and it hears that it is superseded.
func TestFencedFillChangesNothing(t *testing.T) {
	for _, shared := range []bool{false, true} {
		p := newPair(t, volume.Config{})
		ino := p.file("f")
		if shared {
			p.share(ino)
		}
		p.fence(0, ino, 1, 0, 0)
		f := p.fill(0, ino, 0)
		data := bytes.Repeat([]byte("c"), 8*mib)
		if err := f.Put(t.Context(), data[:4*mib]); err != nil {
			t.Fatal(err)
		}
		for f.Done() < 4*mib {
			if t.Context().Err() != nil {
				t.Fatal("nothing is done")
			}
		}
		arrived, stop := make(chan struct{}), make(chan struct{})
		var once sync.Once
		p.gws[0].asking = func(c *metapb.Command) {
			if c.GetCommitData().GetOnce() {
				once.Do(func() {
					close(arrived)
					<-stop
				})
			}
		}
		if err := f.Put(t.Context(), data[4*mib:]); err != nil {
			t.Fatal(err)
		}
		<-arrived
		p.fence(1, ino, 2, 0, 4*mib)
		if !shared { // the command holds up whoever asks for the lease
			p.end(0)
		}
		for _, at := range []uint64{5, 4*mib + 5} {
			p.write(1, ino, at, "BBBB", vfs.FileSync)
		}
		close(stop)
		n, err := f.End(t.Context())
		if k := vfs.KindOf(err); n != 4*mib || k != vfs.KindSuperseded && k != vfs.KindUnavailable {
			t.Fatalf("shared %v: %d bytes, %v", shared, n, err)
		}
		if shared && vfs.KindOf(err) != vfs.KindSuperseded {
			t.Errorf("the first gateway hears %v", err)
		}
		want := append(append(bytes.Clone(data[:4*mib]), 0, 0, 0, 0, 0), "BBBB"...)
		copy(want[5:], "BBBB")
		if got := p.content(1, ino, 9*mib); !bytes.Equal(got, want) {
			t.Fatalf("shared %v: %d bytes, others than what was done before and what others wrote", shared, len(got))
		}
		p.fence(1, ino, 2, 0, 4*mib)
		if _, err := p.vols[0].Fence(t.Context(), ino, ownCall(1), 0); vfs.KindOf(err) != vfs.KindSuperseded && vfs.KindOf(err) != vfs.KindUnknownOrigin {
			t.Errorf("the first gateway asks: %v", err)
		}
	}
}

// The origin ends while a piece is under way: what the row says is where it goes on, so nothing is written twice.
func TestFillGoesOnAfterItsOrigin(t *testing.T) {
	p := newPair(t, volume.Config{})
	ino := p.file("f")
	p.fence(0, ino, 1, 0, 0)
	data := bytes.Repeat([]byte("0123456789abcdef"), 16*mib/16)
	f := p.fill(0, ino, 0)
	p.commits(0, func(n int) {
		if n == 2 {
			p.end(0)
		}
	})
	for at := 0; at < len(data); at += mib {
		if err := f.Put(t.Context(), data[at:at+mib]); err != nil {
			break
		}
	}
	n, err := f.End(t.Context())
	if !vfs.KindOf(err).Retryable() || n == 0 || n == 16*mib {
		t.Fatalf("%d bytes, %v", n, err)
	}
	p.write(1, ino, 5, "BBBB", vfs.FileSync)
	copy(data[5:], "BBBB")
	p.gws[0].asking = nil
	p.gws[0].again(t)
	p.vols[0].Reregistered(p.gws[0].origin, p.gws[0].incarnation)
	done, err := p.vols[0].Fence(t.Context(), ino, ownCall(1), 0)
	if err != nil || done < n {
		t.Fatalf("%d bytes are done, %v, after %d were told", done, err, n)
	}
	f = p.fill(0, ino, done)
	if err := f.Put(t.Context(), data[done:]); err != nil {
		t.Fatal(err)
	}
	if n, err := f.End(t.Context()); err != nil || n != uint64(len(data))-done {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if !bytes.Equal(p.content(1, ino, 17*mib), data) {
		t.Fatal("other bytes")
	}
	if err := p.vols[0].EndCall(t.Context(), ownCall(1)); err != nil {
		t.Fatal(err)
	}
	p.fence(0, ino, 1, 0, 0)
}

// A Fill that is given up ends, and nothing of it stays in memory.
func TestFillIsGivenUp(t *testing.T) {
	p := newPair(t, volume.Config{})
	ino := p.file("f")
	p.fence(0, ino, 1, 0, 0)
	f := p.fill(0, ino, 0)
	arrived, stop := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p.gws[0].asking = func(c *metapb.Command) {
		if c.GetCommitData().GetOnce() {
			once.Do(func() {
				close(arrived)
				<-stop
			})
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	var err error
	for err == nil { // until there is no more room
		err = f.Put(ctx, make([]byte, mib))
	}
	n, err := f.End(ctx)
	if n != 0 || vfs.KindOf(err) != vfs.KindUnknown {
		t.Fatalf("%d bytes, %v", n, err)
	}
	close(stop)
	for p.vols[0].Flushing() != 0 {
		if t.Context().Err() != nil {
			t.Fatal("bytes stay in memory")
		}
	}
}
