package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// caller is a front end that has a call of a client.
type caller struct{ elsewhere, answered atomic.Bool }

func (c *caller) Serving() bool  { return !c.elsewhere.Load() }
func (c *caller) Ended() bool    { return false }
func (c *caller) Answered() bool { return c.answered.Load() }

// calling is a WRITE of client 7 in slot 1; repeated says that it was sent before.
func calling(seq uint64, repeated bool) *vfs.Call {
	c := &vfs.Call{Client: 7, Session: [16]byte{7}, Slot: 1, Seq: seq, Op: 2, By: new(caller)}
	if repeated {
		c.Repeat()
	}
	return c
}

func (p *pair) writeAs(call *vfs.Call, i int, ino vfs.Ino, off uint64, data string, s vfs.Stable) (vfs.Stable, error) {
	p.t.Helper()
	got, _, err := p.vols[i].Write(vfs.WithCall(p.t.Context(), call), &vfs.Root, ino, off, []byte(data), s)
	return got, err
}

// again is the repetition of a WRITE at gateway i, which is answered as durable.
func (p *pair) again(seq uint64, i int, ino vfs.Ino, off uint64, data string) {
	p.t.Helper()
	if got, err := p.writeAs(calling(seq, true), i, ino, off, data, vfs.FileSync); err != nil || got != vfs.FileSync {
		p.t.Fatalf("the repetition: %v, %v", got, err)
	}
}

// end ends the origin of a gateway at the shard.
func (p *pair) end(i int) {
	p.t.Helper()
	p.meta.mustApply(p.t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: p.gws[i].origin}}})
}

// share has the file written through by both.
func (p *pair) share(ino vfs.Ino) {
	p.t.Helper()
	p.write(0, ino, 0, "-", vfs.FileSync)
	p.write(1, ino, 0, "-", vfs.FileSync)
}

// commits calls f with the number of each CommitData of gateway i, before it is applied.
func (p *pair) commits(i int, f func(n int)) {
	n := 0
	p.gws[i].asking = func(c *metapb.Command) {
		if c.GetCommitData() != nil {
			n++
			f(n)
		}
	}
}

// A WRITE was done, others wrote over it, and it comes again, to another gateway or to the same one: what they were told is stable stays.
func TestWriteTakesEffectOnce(t *testing.T) {
	const first, over = "aaaaaaaa", "BBBB"
	for _, how := range []string{"through", "buffered", "unstable"} {
		for _, dies := range []bool{false, true} {
			t.Run(fmt.Sprint(how, dies), func(t *testing.T) {
				p := newPair(t, volume.Config{})
				ino := p.file("f")
				if how == "through" {
					p.share(ino)
				}
				stable := vfs.FileSync
				if how == "unstable" {
					stable = vfs.Unstable
				}
				if _, err := p.writeAs(calling(5, false), 0, ino, 0, first, stable); err != nil {
					t.Fatal(err)
				}
				if how == "unstable" && dies {
					if _, err := p.vols[0].Commit(t.Context(), ino, 0, 0); err != nil {
						t.Fatal(err)
					}
				}
				if dies {
					p.end(0)
				}
				p.write(1, ino, 2, over, vfs.FileSync)
				p.reads(1, ino, "aaBBBBaa")
				p.again(5, 1, ino, 0, first)
				p.reads(1, ino, "aaBBBBaa")
				if !dies {
					p.again(5, 0, ino, 0, first)
					p.reads(0, ino, "aaBBBBaa")
				}
				// The next request of the slot is another one.
				if _, err := p.writeAs(calling(6, false), 1, ino, 0, first, vfs.FileSync); err != nil {
					t.Fatal(err)
				}
				p.reads(1, ino, first)
				// What comes late after that changes nothing.
				p.write(1, ino, 2, over, vfs.FileSync)
				if _, err := p.writeAs(calling(5, true), 1, ino, 0, first, vfs.FileSync); vfs.KindOf(err) != vfs.KindSuperseded {
					t.Fatalf("a request before the last one: %v", err)
				}
				p.reads(1, ino, "aaBBBBaa")
			})
		}
	}
}

// What was only buffered when its gateway ended was not done: the repetition does it.
func TestLostWriteIsDone(t *testing.T) {
	p := newPair(t, volume.Config{})
	ino := p.file("f")
	if _, err := p.writeAs(calling(5, false), 0, ino, 0, "aaaaaaaa", vfs.Unstable); err != nil {
		t.Fatal(err)
	}
	p.end(0)
	p.write(1, ino, 2, "BBBB", vfs.FileSync)
	p.again(5, 1, ino, 0, "aaaaaaaa")
	p.reads(1, ino, "aaaaaaaa")
}

// The command of a gateway that stood still, and whose origin at this shard lives on, comes after another gateway has done the call
// and others have written over it; and after the client's next request.
func TestLateWriteChangesNothing(t *testing.T) {
	for _, next := range []bool{false, true} {
		p := newPair(t, volume.Config{})
		ino := p.file("f")
		p.share(ino)
		reached, goOn := make(chan struct{}), make(chan struct{})
		p.commits(0, func(int) {
			close(reached)
			<-goOn
		})
		late := make(chan error, 1)
		go func() {
			_, err := p.writeAs(calling(5, false), 0, ino, 0, "aaaaaaaa", vfs.FileSync)
			late <- err
		}()
		<-reached
		want := "aaBBBBaa"
		p.again(5, 1, ino, 0, "aaaaaaaa")
		p.write(1, ino, 2, "BBBB", vfs.FileSync)
		if next {
			want = "aaBBBCCa"
			if _, err := p.writeAs(calling(6, false), 1, ino, 5, "CC", vfs.FileSync); err != nil {
				t.Fatal(err)
			}
		}
		p.reads(1, ino, want)
		close(goOn)
		if err := <-late; next && vfs.KindOf(err) != vfs.KindSuperseded || !next && err != nil {
			t.Errorf("the late one is told %v", err)
		}
		p.reads(1, ino, want)
	}
}

// A WRITE is done in several commands, of which some were carried out. Only what is missing is written, however the other gateway cuts it.
func TestWriteInParts(t *testing.T) {
	const chunk, page = 4 << 20, 4 << 10
	for _, c := range []struct {
		name   string
		off    uint64
		n      int
		limit  [2]int // of bytes in a command
		before int    // commands before the gateway ends
		done   int    // bytes that they write
	}{
		{"two chunks", chunk - page, 3 * page, [2]int{chunk, chunk}, 1, page},
		{"halves", 0, 8 * page, [2]int{2 * page, 4 * page}, 2, 4 * page},
		{"other halves", 0, 8 * page, [2]int{4 * page, 2 * page}, 1, 4 * page},
		{"across the border of a half", page, 8 * page, [2]int{page, 4 * page}, 3, 3 * page},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, volume.Config{})
			ino := p.file("f")
			p.share(ino)
			over := 0 // whose commands they are
			p.meta.fail = func(cmd *metapb.Command) error {
				n := 0
				for _, e := range cmd.GetCommitData().GetExtents() {
					n += int(e.Length)
				}
				if n > c.limit[over] {
					return vfs.Errorf(vfs.KindTooMany, "meta", "%d bytes", n)
				}
				return nil
			}
			applied := 0
			p.meta.applied = func(cmd *metapb.Command, _ *metapb.Result) {
				if cmd.GetCommitData() == nil || over == 1 {
					return
				}
				if applied++; applied == c.before { // p.meta.mu is held
					if _, err := p.meta.apply(&metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: p.gws[0].origin}}}); err != nil {
						t.Error(err)
					}
				}
			}
			data := strings.Repeat("a", c.n)
			if _, err := p.writeAs(calling(5, false), 0, ino, c.off, data, vfs.FileSync); err == nil {
				t.Fatal("the WRITE was answered")
			}
			over = 1
			p.write(1, ino, c.off+10, "BB", vfs.FileSync)
			p.write(1, ino, c.off+uint64(c.n)-10, "CC", vfs.FileSync)
			want := []byte(data)
			copy(want[10:], "BB")
			p.again(5, 1, ino, c.off, data)
			got := make([]byte, c.n)
			if _, _, err := p.vols[1].Read(t.Context(), ino, c.off, got); err != nil || !bytes.Equal(got, want) {
				for i := range got {
					if got[i] != want[i] {
						t.Fatalf("%v, byte %d of %d is %q, want %q; %d were written before", err, i, c.n, got[i], want[i], c.done)
					}
				}
			}
			p.again(5, 1, ino, c.off, data)
			p.write(1, ino, c.off, "D", vfs.FileSync)
			p.again(5, 1, ino, c.off, data)
			got = got[:2]
			if _, _, err := p.vols[1].Read(t.Context(), ino, c.off, got); err != nil || string(got) != "Da" {
				t.Fatalf("%q, %v", got, err)
			}
		})
	}
}

// While a repetition is under way, a late command of the first attempt does a part of it: the rest is found out anew.
func TestPartWrittenMeanwhile(t *testing.T) {
	const chunk = 4 << 20
	p := newPair(t, volume.Config{})
	ino := p.file("f")
	p.share(ino)
	a, b := strings.Repeat("a", 100), strings.Repeat("a", 200)
	reached, goOn := make(chan struct{}), make(chan struct{})
	p.commits(1, func(n int) {
		if n == 1 {
			close(reached)
			<-goOn
		}
	})
	done := make(chan error, 1)
	go func() {
		_, err := p.writeAs(calling(5, true), 1, ino, chunk-200, b, vfs.FileSync)
		done <- err
	}()
	<-reached
	if _, err := p.writeAs(calling(5, false), 0, ino, chunk-200, a, vfs.FileSync); err != nil {
		t.Fatal(err)
	}
	p.write(0, ino, chunk-200, "B", vfs.FileSync)
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 200)
	if _, _, err := p.vols[0].Read(t.Context(), ino, chunk-200, got); err != nil || string(got) != "B"+b[1:] {
		t.Fatalf("%q, %v", got, err)
	}
}

// The origin of a gateway ends while a stable WRITE waits: the same gateway repeats it, and what it has done by then it does not do again.
func TestOriginEndsUnderStableWrite(t *testing.T) {
	for _, shared := range []bool{false, true} {
		for _, applied := range []bool{false, true} {
			p := newPair(t, volume.Config{})
			ino := p.file("f")
			if shared {
				p.share(ino)
			}
			once := true
			end := func(c *metapb.Command) {
				if c.GetCommitData() != nil && once {
					once = false
					p.end(0)
				}
			}
			call := calling(5, false)
			if applied {
				// The answer is lost: the next command of the same origin tells that it has ended.
				p.meta.applied = func(c *metapb.Command, _ *metapb.Result) {
					if c.GetCommitData() != nil && once {
						once = false
						if _, err := p.meta.apply(&metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: p.gws[0].origin}}}); err != nil {
							t.Error(err)
						}
					}
				}
				p.gws[0].lose = func(c *metapb.Command) error {
					if c.GetCommitData() == nil {
						return nil
					}
					return vfs.Errorf(vfs.KindUnknown, "meta", "lost: %w", vfs.KindUnknownOrigin.Err("meta"))
				}
			} else {
				p.gws[0].asking = end
			}
			_, err := p.writeAs(call, 0, ino, 0, "aaaaaaaa", vfs.FileSync)
			if k := vfs.KindOf(err); err == nil || !k.Retryable() && k != vfs.KindFenced && k != vfs.KindUnknownOrigin || !call.Doubtful() {
				t.Fatalf("shared %v, applied %v: %v", shared, applied, err)
			}
			p.meta.applied, p.gws[0].asking, p.gws[0].lose = nil, nil, nil
			p.gws[0].again(t)
			p.vols[0].Reregistered(p.gws[0].origin, p.gws[0].incarnation)
			p.write(1, ino, 2, "BBBB", vfs.FileSync)
			call.Repeat()
			if got, err := p.writeAs(call, 0, ino, 0, "aaaaaaaa", vfs.FileSync); err != nil || got != vfs.FileSync {
				t.Fatal(got, err)
			}
			want := "aaaaaaaa"
			if applied {
				want = "aaBBBBaa"
			}
			p.reads(0, ino, want)
		}
	}
}

// A client that is served elsewhere by now: nothing is buffered for a request that is late, nor sent.
func TestWriteForClientElsewhere(t *testing.T) {
	for _, shared := range []bool{false, true} {
		p := newPair(t, volume.Config{})
		ino := p.file("f")
		p.write(0, ino, 0, "----", vfs.FileSync)
		if shared {
			p.write(1, ino, 0, "----", vfs.FileSync)
		}
		call := calling(5, false)
		call.By.(*caller).elsewhere.Store(true)
		if _, err := p.writeAs(call, 0, ino, 0, "aaaa", vfs.Unstable); vfs.KindOf(err) != vfs.KindUnavailable || call.Doubtful() {
			t.Errorf("shared %v: %v, %v", shared, err, call.Doubtful())
		}
		p.reads(0, ino, "----")
	}
}

// What a truncation cut off is not written again.
func TestCutOffWriteIsNotRepeated(t *testing.T) {
	p := newPair(t, volume.Config{})
	ino := p.file("f")
	if _, err := p.writeAs(calling(5, false), 0, ino, 0, "aaaaaaaa", vfs.Unstable); err != nil {
		t.Fatal(err)
	}
	size := uint64(3)
	if _, err := p.vols[0].SetAttr(t.Context(), &vfs.Root, ino, vfs.SetAttr{Size: &size}, true); err != nil {
		t.Fatal(err)
	}
	p.end(0)
	p.again(5, 1, ino, 0, "aaaaaaaa")
	p.reads(1, ino, "aaa")
}

// The commands of a flush name only calls whose clients may not have the answer, the part of the file that each wrote, and repetitions in any case.
func TestCommitNamesCalls(t *testing.T) {
	p := newPair(t, volume.Config{})
	ino := p.file("f")
	var named []string
	p.meta.applied = func(c *metapb.Command, _ *metapb.Result) {
		for _, d := range c.GetCommitData().GetCalls() {
			named = append(named, fmt.Sprintf("%d/%d %d-%d once %v", d.Call.Slot, d.Call.Seq, d.Offset, d.End, c.GetCommitData().Once))
		}
	}
	old := calling(1, false)
	for seq := uint64(1); seq <= 100; seq++ {
		old.By.(*caller).answered.Store(true)
		old = calling(seq, false)
		if _, err := p.writeAs(old, 0, ino, 10*seq, "0123456789", vfs.Unstable); err != nil {
			t.Fatal(err)
		}
	}
	p.write(0, ino, 0, "nobody's", vfs.FileSync)
	if got := fmt.Sprint(named); got != "[1/100 1000-1010 once false]" {
		t.Error(got)
	}
	named = nil
	rep := calling(100, true)
	if _, err := p.writeAs(rep, 0, ino, 1005, "0123456789", vfs.Unstable); err != nil {
		t.Fatal(err)
	}
	rep.By.(*caller).answered.Store(true)
	if _, err := p.vols[0].Commit(context.Background(), ino, 0, 0); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(named); got != "[1/100 1010-1015 once false]" {
		t.Error(got)
	}
}

// A range was made a hole, allocated or cloned, others wrote over it, and the request comes again: what they were told is stable stays. What was not done is done.
func TestRangesTakeEffectOnce(t *testing.T) {
	const before, over = "aaaaaaaa", "BBBB"
	ops := map[string]struct {
		do   func(p *pair, ctx context.Context, i int, ino, src vfs.Ino) error
		want string
	}{
		"deallocate": {func(p *pair, ctx context.Context, i int, ino, _ vfs.Ino) error {
			return p.vols[i].Deallocate(ctx, &vfs.Root, ino, 0, 8)
		}, "\x00\x00BBBB\x00\x00"},
		"clone": {func(p *pair, ctx context.Context, i int, ino, src vfs.Ino) error {
			return p.vols[i].Clone(ctx, &vfs.Root, src, 0, ino, 0, 0)
		}, "ccBBBBcc"},
		"allocate": {func(p *pair, ctx context.Context, i int, ino, _ vfs.Ino) error {
			return p.vols[i].Allocate(ctx, &vfs.Root, ino, 0, 8)
		}, "aaBBBBaa"},
	}
	for name, o := range ops {
		for _, shared := range []bool{false, true} {
			for _, dies := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " shared ", shared, " dies ", dies), func(t *testing.T) {
					p := newPair(t, volume.Config{})
					ino, src := p.file("f"), p.file("src")
					p.write(0, src, 0, "cccccccc", vfs.FileSync)
					if shared {
						p.share(ino)
					}
					p.write(0, ino, 0, before, vfs.FileSync)
					do := func(i int, seq uint64, repeated bool) {
						t.Helper()
						if err := o.do(p, vfs.WithCall(t.Context(), calling(seq, repeated)), i, ino, src); err != nil {
							t.Fatal(err)
						}
					}
					do(0, 5, false)
					if dies {
						p.end(0)
					}
					p.write(1, ino, 2, over, vfs.FileSync)
					do(1, 5, true)
					p.reads(1, ino, o.want)
					p.write(1, ino, 0, "DD", vfs.FileSync) // what is known of the file after the repetition is true
					p.reads(1, ino, "DD"+o.want[2:])
					if name == "allocate" {
						return
					}
					do(1, 6, false)
					if p.reads(1, ino, strings.Repeat(o.want[:1], 8)); !dies {
						p.reads(0, ino, strings.Repeat(o.want[:1], 8))
					}
				})
			}
		}
	}
}

// A range is changed in more pieces than a record of outcomes has room for. The gateway ends in the middle; others write over what was done by then; the repetition is cut otherwise,
// by another gateway that is cut short too. What was done is not done again, what was not is.
func TestRangeInManyPieces(t *testing.T) {
	const page, pages = 4 << 10, 300
	for _, shared := range []bool{false, true} {
		p := newPair(t, volume.Config{})
		ino := p.file("f")
		p.write(0, ino, 0, strings.Repeat("a", pages*page), vfs.FileSync)
		if shared {
			p.write(1, ino, 0, "a", vfs.FileSync)
		}
		// cut makes pieces of n pages of gateway i's commands, and ends it after so many.
		cut := func(i int, n uint64, last int) {
			p.gws[i].asking = func(c *metapb.Command) {
				if x := c.GetPunchHole(); x != nil {
					x.Length = min(x.Length, n*page)
					if last--; last == -1 {
						p.end(i)
					}
				}
			}
		}
		// over writes to what was done, as somebody else who is told that it is stable.
		want := make([]byte, pages*page)
		over := func(i int, at uint64) {
			p.write(i, ino, at*page+9, "BBBB", vfs.FileSync)
			copy(want[at*page+9:], "BBBB")
		}
		hole := func(i int, repeated bool) error {
			return p.vols[i].Deallocate(vfs.WithCall(t.Context(), calling(5, repeated)), &vfs.Root, ino, 0, pages*page)
		}
		cut(0, 1, 100)
		if hole(0, false) == nil {
			t.Fatal("it ends although its gateway did")
		}
		over(1, 1)
		over(1, 70)
		over(1, 99)
		cut(1, 3, 80)
		if hole(1, true) == nil {
			t.Fatal("it ends although its gateway did")
		}
		p.gws[0].again(t)
		p.vols[0].Reregistered(p.gws[0].origin, p.gws[0].incarnation)
		over(0, 101)
		over(0, 200)
		cut(0, 7, 1000)
		for range 2 {
			if err := hole(0, true); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, len(want)+1)
			if n, _, err := p.vols[0].Read(t.Context(), ino, 0, buf); err != nil || !bytes.Equal(buf[:n], want) {
				t.Fatalf("shared %v: the file is not what it was, %v", shared, err)
			}
			over(0, 299)
			over(0, 150)
		}
	}
}

// CLONE of all of a source that has grown since: it was done as the source was then.
func TestCloneOfGrownSource(t *testing.T) {
	p := newPair(t, volume.Config{})
	ino, src := p.file("f"), p.file("src")
	p.write(0, src, 0, "cccccccc", vfs.FileSync)
	clone := func(i int, repeated bool) {
		t.Helper()
		if err := p.vols[i].Clone(vfs.WithCall(t.Context(), calling(5, repeated)), &vfs.Root, src, 0, ino, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	clone(0, false)
	p.end(0)
	p.write(1, src, 0, strings.Repeat("d", 20000), vfs.FileSync)
	p.write(1, ino, 6, "BBBB", vfs.FileSync)
	clone(1, true)
	p.reads(1, ino, "ccccccBBBB")
}

// COPY clones and writes what it can under one call, in parts that a repetition may cut otherwise: each place is written once.
func TestPartsTakeEffectOnce(t *testing.T) {
	const page = 4 << 10
	for _, shared := range []bool{false, true} {
		p := newPair(t, volume.Config{})
		ino, src := p.file("f"), p.file("src")
		p.write(0, src, 0, strings.Repeat("c", 8*page), vfs.FileSync)
		if shared {
			p.share(ino)
		}
		parts := func(repeated bool) context.Context {
			call := calling(5, repeated)
			call.InParts = true
			return vfs.WithCall(t.Context(), call)
		}
		clone := func(ctx context.Context, i int, off, n uint64) error {
			return p.vols[i].Clone(ctx, &vfs.Root, src, off*page, ino, off*page, n*page)
		}
		first := parts(false)
		for _, at := range []uint64{0, 2} {
			if err := clone(first, 0, at, 2); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := p.vols[0].Write(first, &vfs.Root, ino, 4*page, bytes.Repeat([]byte("w"), page), vfs.FileSync); err != nil {
			t.Fatal(err)
		}
		want := []byte(strings.Repeat("c", 4*page) + strings.Repeat("w", page) + strings.Repeat("c", 3*page))
		p.end(0)
		for _, at := range []int{1, 3*page + 7, 4*page + 5} {
			p.write(1, ino, uint64(at), "BBBB", vfs.FileSync)
			copy(want[at:], "BBBB")
		}
		again := parts(true)
		if err := clone(again, 1, 0, 8); vfs.KindOf(err) != vfs.KindXDev {
			t.Fatalf("a clone of which half was done: %v", err)
		}
		for _, c := range [][2]uint64{{0, 4}, {3, 1}, {4, 1}, {5, 3}, {2, 3}} {
			if err := clone(again, 1, c[0], c[1]); err != nil {
				t.Fatalf("shared %v: pages %v: %v", shared, c, err)
			}
		}
		if _, _, err := p.vols[1].Write(again, &vfs.Root, ino, 3*page, bytes.Repeat([]byte("x"), 3*page), vfs.FileSync); err != nil {
			t.Fatal(err)
		}
		p.reads(1, ino, string(want))
	}
}
