package volume_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// A truncation was done, others wrote after it, and it comes again, to another gateway or to the same one: what they wrote stays, buffered or not, and is told.
func TestTruncationTakesEffectOnce(t *testing.T) {
	for _, how := range []string{"through", "buffered", "stable"} {
		for _, dies := range []bool{false, true} {
			for _, where := range []int{0, 1} {
				if dies && where == 0 {
					continue
				}
				t.Run(fmt.Sprint(how, dies, where), func(t *testing.T) {
					p := newPair(t, volume.Config{})
					ino := p.file("f")
					if how == "through" {
						p.share(ino)
					} else {
						p.write(0, ino, 0, "--------", vfs.FileSync)
					}
					truncate := func(i int, repeated bool) (vfs.Attr, error) {
						return p.vols[i].SetAttr(vfs.WithCall(t.Context(), calling(5, repeated)), &vfs.Root, ino, vfs.SetAttr{Size: new(uint64)}, true)
					}
					if a, err := truncate(0, false); err != nil || a.Size != 0 {
						t.Fatalf("size %d, %v", a.Size, err)
					}
					if dies {
						p.end(0)
					}
					stable := vfs.FileSync
					if how == "buffered" {
						stable = vfs.Unstable
					}
					_, ver := p.write(where, ino, 2, "BBBB", stable)
					a, err := truncate(where, true)
					if err != nil {
						t.Fatal(err)
					}
					if now, err := p.vols[where].GetAttr(t.Context(), ino); err != nil || now.Size != 6 || a.Change > now.Change {
						t.Errorf("now size %d, change %d, %v; told were size %d, change %d", now.Size, now.Change, err, a.Size, a.Change)
					}
					p.reads(where, ino, "\x00\x00BBBB")
					if v, err := p.vols[where].Commit(t.Context(), ino, 0, 0); err != nil || v != ver {
						t.Errorf("commit: %v, %v, was %v", v, err, ver)
					}
					if !dies {
						p.reads(1-where, ino, "\x00\x00BBBB")
					}
				})
			}
		}
	}
}

// An OPEN that may have been done before meets a limit: it is not told for ever that it did, but goes on when there is room, and what it did then is told.
func TestRefusalOfARepetitionPasses(t *testing.T) {
	p := newPair(t, volume.Config{})
	ino := p.file("f")
	const most = 4096 // opens of a file
	share := func(n int) vfs.Share {
		return vfs.Share{Client: 3, State: vfs.StateID{1, byte(n >> 8), byte(n), 1}, Owner: fmt.Append(nil, n), Access: vfs.OpenWrite}
	}
	for n := range most - 2 {
		if _, err := p.vols[1].OpenShared(t.Context(), &vfs.Root, ino, vfs.OpenWrite, false, share(n)); err != nil {
			t.Fatal(err)
		}
	}
	open := func() error {
		mine := vfs.Share{Client: 7, State: vfs.StateID{1, 7}, Owner: []byte("o"), Access: vfs.OpenWrite}
		_, err := p.vols[1].Create(vfs.WithCall(t.Context(), calling(5, true)), &vfs.Root, vfs.RootIno, "f", vfs.CreateArgs{Open: vfs.OpenWrite, Share: &mine})
		return err
	}
	done := make(chan error, 1)
	go func() { done <- open() }()
	select {
	case err := <-done:
		t.Fatalf("at the limit: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := p.vols[1].Unshare(t.Context(), ino, vfs.Closing{Share: share(0), Now: true}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("after a file was closed: %v", err)
	}
	if err := open(); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// A CLONE that was done is told so when it comes again, although its source is shorter now: with a length, or to its end.
func TestCloneOfCutSource(t *testing.T) {
	const page = 4 << 10
	for _, n := range []uint64{0, 2 * page} {
		for _, size := range []uint64{0, page, 2*page - 1} {
			p := newPair(t, volume.Config{})
			ino, src := p.file("f"), p.file("src")
			p.write(0, src, 0, strings.Repeat("c", 2*page), vfs.FileSync)
			clone := func(seq uint64, i int, repeated bool) error {
				return p.vols[i].Clone(vfs.WithCall(t.Context(), calling(seq, repeated)), &vfs.Root, src, page, ino, 0, max(n, page)-page)
			}
			if err := clone(5, 0, false); err != nil {
				t.Fatal(err)
			}
			p.end(0)
			if _, err := p.vols[1].SetAttr(t.Context(), &vfs.Root, src, vfs.SetAttr{Size: &size}, true); err != nil {
				t.Fatal(err)
			}
			p.write(1, ino, 6, "BBBB", vfs.FileSync)
			if err := clone(5, 1, true); err != nil {
				t.Errorf("%d bytes of a source of now %d: the repetition is told %v", n, size, err)
			}
			p.reads(1, ino, "ccccccBBBB"+strings.Repeat("c", page-10))
			// One that was not done is checked.
			if err := clone(6, 1, true); (size < page || n != 0) && vfs.KindOf(err) != vfs.KindInvalid || size >= page && n == 0 && err != nil {
				t.Errorf("%d bytes of a source of %d: %v", n, size, err)
			}
		}
	}
}
