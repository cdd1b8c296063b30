package volume_test

import (
	"fmt"
	"testing"

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
