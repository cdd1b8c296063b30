package volume_test

import (
	"bytes"
	"sync/atomic"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// A flush that was under way when the lease was lost does not come through under the next one, nor does it take along
// what was written under that. Its bytes were told lost, and in between the file was somebody else's, who made other bytes durable.
func TestFlushOfALostLease(t *testing.T) {
	for _, n := range []int{100_000, 1000} { // a block, which is held up before it is written, and inline bytes, before the command
		c := newCrashing(t, volume.Config{})
		f := create(t, c, "f")
		write(t, c, f, 0, fill(n, 1), vfs.FileSync)
		begun, goOn := make(chan struct{}), make(chan struct{})
		var held atomic.Bool
		if n > 4096 {
			c.blocks.setFailWrite(func(uint64, int) error {
				if held.CompareAndSwap(false, true) {
					close(begun)
					<-goOn
					return vfs.KindExists.Err("test") // so that the next try is under another id
				}
				return nil
			})
		} else {
			epoch := uint64(0)
			c.meta.mu.Lock()
			c.meta.fail = func(cmd *metapb.Command) error {
				cd := cmd.GetCommitData()
				if cd == nil {
					return nil
				}
				if epoch == 0 {
					epoch = cd.Epoch
				}
				if cd.Epoch == epoch {
					if held.CompareAndSwap(false, true) {
						close(begun)
					}
					select {
					case <-goOn:
					default:
						return vfs.KindUnavailable.Err("test")
					}
				}
				return nil
			}
			c.meta.mu.Unlock()
		}
		write(t, c, f, 0, fill(n, 2), vfs.Unstable)
		told := make(chan error, 1)
		go func() {
			_, err := c.Commit(ctx, f, 0, 0)
			told <- err
		}()
		<-begun
		c.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: c.gw.origin}}})
		other := c.meta.gateway(t, "other")
		o := volume.New(volume.Config{FS: testFS, Shard: testShard, Meta: other, Blocks: c.blocks, Incarnation: other.incarnation})
		write(t, o, f, 0, fill(n, 3), vfs.FileSync)
		if err := o.Shutdown(ctx); err != nil { // gives the lease back
			t.Fatal(err)
		}
		c.gw.again(t)
		c.volume().Reregistered(c.gw.origin, c.gw.incarnation)
		want(t, vfs.KindFenced, <-told)
		// The client goes on elsewhere in the file, which takes the lease anew.
		v := write(t, c, f, 10<<20, fill(10, 4), vfs.Unstable)
		if got := read(t, c, f, 0, n); !bytes.Equal(got, fill(n, 3)) {
			t.Errorf("%d bytes: those whose loss was told are read: %d", n, got[0])
		}
		close(goOn)
		eventually(t, "the end of the old flush", func() bool { return c.volume().Flushing() == 0 })
		if now := commit(t, c, f); now != v {
			t.Errorf("%d bytes: those of the new lease were lost with those of the old one", n)
		}
		if got := read(t, c, f, 0, n); !bytes.Equal(got, fill(n, 3)) {
			t.Errorf("%d bytes: what was durable was overwritten by those whose loss was told: %d", n, got[0])
		}
		if err := c.volume().Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
