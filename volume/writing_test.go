package volume_test

import (
	"sync"
	"testing"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// Small blocks do not wait for each other: as many as there are callers are on their way to the stores at once, so that those may share fdatasyncs. What is
// bounded is the memory of large ones.
func TestSmallBlocksAreWrittenTogether(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	const files = 64
	var arrived sync.WaitGroup
	arrived.Add(files)
	c.blocks.setFailWrite(func(uint64, int) error {
		arrived.Done()
		arrived.Wait() // for all of them
		return nil
	})
	var wg sync.WaitGroup
	for i := range files {
		ino := create(t, c, string(rune('A'+i)))
		wg.Go(func() {
			if _, _, err := c.Write(ctx, &vfs.Root, ino, 0, fill(16<<10, byte(i)), vfs.FileSync); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
