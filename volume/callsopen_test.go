package volume_test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// opener is client 7's open by the name that a gateway gives it.
func opener(state byte, access, deny vfs.OpenFlags) vfs.Share {
	return vfs.Share{Client: 7, State: vfs.StateID{1, 7, state}, Owner: []byte("o"), Access: access, Deny: deny}
}

func (p *pair) openAs(call *vfs.Call, i int, ino vfs.Ino, s vfs.Share) error {
	a, err := p.vols[i].OpenShared(vfs.WithCall(p.t.Context(), call), &vfs.Root, ino, s.Access, false, s)
	if err == nil && a.Ino != ino {
		p.t.Errorf("an open of inode %d is told the attributes of %d", ino, a.Ino)
	}
	return err
}

// opens are what the shard has of a client's opens of a file.
func (p *pair) opens(ino vfs.Ino, client uint64) (out []string) {
	p.t.Helper()
	for _, v := range p.vols {
		if err := v.Settle(p.t.Context()); err != nil {
			p.t.Fatal(err)
		}
	}
	r, err := p.gws[1].Query(p.t.Context(), testShard, &metapb.Query{Fs: testFS, Q: &metapb.Query_FileOpens{FileOpens: &metapb.FileOpensQ{Ino: uint64(ino)}}})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, o := range r.GetFileOpens().GetOpens() {
		if o.Client == client {
			out = append(out, fmt.Sprint(o.Stateid[2], o.Access, o.Deny))
		}
	}
	return out
}

func (p *pair) recorded(ino vfs.Ino, want ...string) {
	p.t.Helper()
	if got := p.opens(ino, 7); !slices.Equal(got, want) {
		p.t.Errorf("inode %d: the shard has %q, want %q", ino, got, want)
	}
}

// late begins do at gateway 0 with a call, which the gateway sends when it goes on, and does not serve the client any more.
func (p *pair) late(seq uint64, do func(*vfs.Call) error) (goOn func() error) {
	reached, resume, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	p.gws[0].asking = func(c *metapb.Command) {
		if c.GetOpenFile() != nil || c.GetSetLock() != nil {
			select {
			case <-reached:
			default:
				close(reached)
				<-resume
			}
		}
	}
	call := calling(seq, false)
	go func() { done <- do(call) }()
	<-reached
	return func() error {
		call.By.(*caller).elsewhere.Store(true)
		close(resume)
		return <-done
	}
}

// other is a call of the same slot after seq 5 (next), or of another slot.
func otherCall(next bool) *vfs.Call {
	if next {
		return calling(6, false)
	}
	c := calling(1, false)
	c.Slot = 2
	return c
}

// The OPEN of a gateway that stood still, and whose origin at this shard lives on, comes after another gateway has done it: there is no record but what that one has made, and none once that has ended.
func TestLateOpenRecordsNothing(t *testing.T) {
	const both = vfs.OpenRead | vfs.OpenWrite
	for _, next := range []bool{false, true} {
		for _, closed := range []bool{false, true} {
			p := newPair(t, volume.Config{})
			ino := p.file("f")
			p.share(ino)
			goOn := p.late(5, func(call *vfs.Call) error { return p.openAs(call, 0, ino, opener('A', both, 0)) })
			mine := opener('B', both, 0)
			if err := p.openAs(calling(5, true), 1, ino, mine); err != nil {
				t.Fatal(err)
			}
			if next {
				if err := p.openAs(otherCall(true), 1, ino, mine); err != nil {
					t.Fatal(err)
				}
				mode := vfs.SetAttr{Mode: new(uint32)}
				if _, err := p.vols[1].SetAttr(vfs.WithCall(t.Context(), calling(7, false)), &vfs.Root, ino, mode, false); err != nil {
					t.Fatal(err)
				}
			}
			want := []string{"66 3 0"}
			if closed {
				want = nil
				if err := p.vols[1].Unshare(t.Context(), ino, vfs.Closing{Share: mine, Now: true}); err != nil {
					t.Fatal(err)
				}
			}
			if err := goOn(); vfs.KindOf(err) != map[bool]vfs.Kind{true: vfs.KindSuperseded, false: vfs.KindUnavailable}[next] {
				t.Errorf("the late one is told %v", err)
			}
			p.recorded(ino, want...)
		}
	}
}

// The same of an OPEN_DOWNGRADE: what the client has opened for more since stays so.
func TestLateDowngradeChangesNothing(t *testing.T) {
	const both = vfs.OpenRead | vfs.OpenWrite
	for _, next := range []bool{false, true} {
		p := newPair(t, volume.Config{})
		ino := p.file("f")
		p.share(ino)
		s, less := opener('A', both, 0), opener('A', vfs.OpenRead, 0)
		if err := p.openAs(calling(4, false), 0, ino, s); err != nil {
			t.Fatal(err)
		}
		goOn := p.late(5, func(call *vfs.Call) error { return p.vols[0].Share(vfs.WithCall(t.Context(), call), ino, less) })
		if _, _, err := p.vols[1].Resume(t.Context(), 7); err != nil {
			t.Fatal(err)
		}
		if err := p.vols[1].Share(vfs.WithCall(t.Context(), calling(5, true)), ino, less); err != nil {
			t.Fatal(err)
		}
		p.recorded(ino, "65 1 0")
		if err := p.openAs(otherCall(next), 1, ino, s); err != nil {
			t.Fatal(err)
		}
		if err := goOn(); next && vfs.KindOf(err) != vfs.KindSuperseded || !next && err != nil {
			t.Errorf("the late one is told %v", err)
		}
		p.recorded(ino, "65 3 0")
	}
}

// What the repetition of an OPEN is told was so once. It is recorded as the gateway that tells it knows it, whatever has become of it.
func TestOpenIsToldAgain(t *testing.T) {
	const both = vfs.OpenRead | vfs.OpenWrite
	done := func(p *pair, ino vfs.Ino) {
		if err := p.openAs(calling(5, false), 0, ino, opener('A', both, 0)); err != nil {
			p.t.Fatal(err)
		}
	}
	again := func(p *pair, ino vfs.Ino, state byte) {
		if err := p.openAs(calling(5, true), 1, ino, opener(state, both, 0)); err != nil {
			p.t.Fatal(err)
		}
	}
	for name, f := range map[string]func(p *pair, ino vfs.Ino){
		"another stateid": func(p *pair, ino vfs.Ino) {
			done(p, ino)
			again(p, ino, 'B')
			p.recorded(ino, "66 3 0")
		},
		"known here": func(p *pair, ino vfs.Ino) {
			done(p, ino)
			if _, _, err := p.vols[1].Resume(t.Context(), 7); err != nil {
				t.Fatal(err)
			}
			again(p, ino, 'B')
			p.recorded(ino, "65 3 0", "66 3 0")
		},
		"ended": func(p *pair, ino vfs.Ino) {
			done(p, ino)
			if err := p.vols[0].Unshare(t.Context(), ino, vfs.Closing{Share: opener('A', both, 0), Now: true}); err != nil {
				t.Fatal(err)
			}
			again(p, ino, 'A')
			p.recorded(ino, "65 3 0")
		},
		"being ended": func(p *pair, ino vfs.Ino) { // as after an attempt that was given up
			done(p, ino)
			if err := p.vols[1].Unshare(t.Context(), ino, vfs.Closing{Share: opener('A', both, 0)}); err != nil {
				t.Fatal(err)
			}
			again(p, ino, 'A')
			p.recorded(ino, "65 3 0")
		},
		"changed": func(p *pair, ino vfs.Ino) {
			done(p, ino)
			if err := p.vols[0].Share(vfs.WithCall(t.Context(), otherCall(false)), ino, opener('A', vfs.OpenRead, 0)); err != nil {
				t.Fatal(err)
			}
			again(p, ino, 'A')
			p.recorded(ino, "65 3 0")
		},
		"the name is another file's": func(p *pair, ino vfs.Ino) {
			done(p, ino)
			other := p.file("g")
			again(p, other, 'B')
			p.recorded(ino)
			p.recorded(other, "66 3 0")
		},
		"denied before": func(p *pair, ino vfs.Ino) { // and granted in the next step
			denies := vfs.Share{Client: 8, State: vfs.StateID{8}, Owner: []byte("d"), Access: vfs.OpenRead, Deny: vfs.OpenWrite}
			q := p.file("q")
			for i, state := range []byte{1, 2} { // who has it open for writing
				if err := p.vols[i].Unshare(t.Context(), q, vfs.Closing{Share: vfs.Share{Client: uint64(1 + i), State: vfs.StateID{state, 'q'}, Access: both}, Now: true}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := p.vols[1].OpenShared(t.Context(), &vfs.Root, q, vfs.OpenRead, false, denies); err != nil {
				t.Fatal(err)
			}
			first := calling(5, false)
			if err := p.openAs(first, 0, q, opener('A', both, 0)); vfs.KindOf(err) != vfs.KindShareDenied {
				t.Fatal(err)
			}
			if err := p.vols[1].Unshare(t.Context(), q, vfs.Closing{Share: denies, Now: true}); err != nil {
				t.Fatal(err)
			}
			if err := p.openAs(first, 0, q, opener('A', both, 0)); err != nil {
				t.Fatal(err)
			}
			again(p, q, 'B')
			p.recorded(q, "66 3 0")
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, volume.Config{})
			ino := p.file("f")
			p.share(ino)
			f(p, ino)
		})
	}
}

// The same of an OPEN that creates, or finds what is there: it was told, given up, and is told again.
func TestCreateIsToldAgain(t *testing.T) {
	for _, queued := range []bool{false, true} {
		p := newPair(t, volume.Config{})
		ino := p.file("f")
		s := opener('A', vfs.OpenRead|vfs.OpenWrite, 0)
		for n := range 3 {
			made, err := p.vols[1].Create(vfs.WithCall(t.Context(), calling(5, n > 0)), &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{Open: s.Access, Share: &s})
			if err != nil || made.Attr.Ino != ino || made.State != s.State {
				t.Fatal(made, err)
			}
			if n == 2 {
				break
			}
			if err := p.vols[1].Unshare(t.Context(), ino, vfs.Closing{Share: s, Now: !queued}); err != nil {
				t.Fatal(err)
			}
		}
		p.recorded(ino, "65 3 0")
	}
}

// A removal records no opens of clients that are another gateway's by now: it may know that they have ended.
func TestRemovalRecordsForWhomIsServed(t *testing.T) {
	for _, opens := range []int{1, 40} { // that come with the removal, or after it
		var elsewhere atomic.Bool
		p := newPair(t, volume.Config{Serves: func(client uint64) (bool, error) { return client != 7 || !elsewhere.Load(), nil }})
		ino := p.file("f")
		for n := range opens {
			for _, client := range []uint64{7, 8} {
				s := vfs.Share{Client: client, State: vfs.StateID{1, byte(client), byte(n)}, Access: vfs.OpenRead}
				if _, err := p.vols[1].OpenShared(t.Context(), &vfs.Root, ino, vfs.OpenRead, false, s); err != nil {
					t.Fatal(err)
				}
			}
		}
		elsewhere.Store(true)
		if _, err := p.vols[1].Remove(t.Context(), &vfs.Root, vfs.RootIno, "f", vfs.RemoveAny); err != nil {
			t.Fatal(err)
		}
		p.recorded(ino)
		if got := p.opens(ino, 8); len(got) != opens {
			t.Errorf("of %d opens of the other client the shard has %q", opens, got)
		}
	}
}
