package volume_test

import (
	"bytes"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// TestGathered: callers that write and sync one file in a loop share commands, each of which takes a while, and each is answered
// when what it wrote is in one of them. The clock is the bubble's: it stands while anybody runs.
func TestGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const callers, rounds, size, chunk = 8, 20, 4 << 10, 4 << 20
		c := newCrashing(t, volume.Config{})
		ino := create(t, c, "file")
		write(t, c, ino, callers*chunk, []byte{1}, vfs.FileSync)
		var mu sync.Mutex
		written, commands := map[uint64]bool{}, 0
		c.gw.asking = func(cmd *metapb.Command) {
			if cmd.GetCommitData() != nil {
				time.Sleep(5 * time.Millisecond)
			}
		}
		c.gw.answering = func(cmd *metapb.Command) {
			mu.Lock()
			defer mu.Unlock()
			if d := cmd.GetCommitData(); d != nil {
				commands++
				for _, x := range d.Extents {
					written[x.Offset] = true
				}
			}
		}
		page := func(i, k int) []byte { return bytes.Repeat([]byte{byte(1 + i*rounds + k)}, size) }
		var wg sync.WaitGroup
		for i := range callers {
			wg.Go(func() {
				for k := range rounds {
					off := uint64(i*chunk + k*size)
					if _, _, err := c.Write(ctx, &vfs.Root, ino, off, page(i, k), vfs.FileSync); err != nil {
						t.Error(err)
					}
					mu.Lock()
					if !written[off] {
						t.Errorf("the write at %d was answered before any command had it", off)
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if commands > rounds*3/2 {
			t.Errorf("%d writes of %d callers took %d commands", callers*rounds, callers, commands)
		}
		c.Crash() // what is in the metadata and in blocks stays
		for i := range callers {
			for k := range rounds {
				if got := read(t, c, ino, uint64(i*chunk+k*size), size); !bytes.Equal(got, page(i, k)) {
					t.Fatalf("caller %d, round %d: the write is lost", i, k)
				}
			}
		}
	})
}
