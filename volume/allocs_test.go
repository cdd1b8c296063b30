package volume_test

import (
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// Reading what is cached and writing where nothing is flushed allocates next to nothing, however large it is. (The race detector's
// pools lose something now and then.)
func TestAllocations(t *testing.T) {
	c := newCrashing(t, volume.Config{FlushAge: time.Hour, NoAtime: true})
	const most = 4
	f := create(t, c, "f") // with its lease; without one each read asks the metadata
	p := make([]byte, 1<<20)
	for i := range uint64(8) {
		write(t, c, f, i<<20, p, vfs.Unstable)
	}
	commit(t, c, f)
	for range 2 { // a stream is kept
		for i := range uint64(8) {
			if _, _, err := c.Read(ctx, f, i<<20, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	i := uint64(0)
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := c.Read(ctx, f, i%8<<20, p); err != nil {
			t.Fatal(err)
		}
		i++
	}); n > most {
		t.Errorf("a cached read of 1 MiB makes %v allocations", n)
	}
	g := create(t, c, "g")
	if n := testing.AllocsPerRun(100, func() { write(t, c, g, i%3<<20, p, vfs.Unstable); i++ }); n > most {
		t.Errorf("a buffered write of 1 MiB makes %v allocations", n)
	}
}
