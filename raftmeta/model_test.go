package raftmeta

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/vfstest"
	"github.com/rackfs/rackfs/volume"
)

const (
	// Models that run on one volume, at the same time as far as there are CPUs, and
	// goroutines that make and remove names beside them, so that commands share entries.
	models, others = 4, 4
	// Steps of all models together that disturb the cluster; those after it do nothing.
	disturbances     = 40
	disturbancesLong = 2000
)

// disturbed is a volume over three voters to whom things happen.
type disturbed struct {
	*volume.Volume
	c *cluster

	mu   sync.Mutex // one thing at a time; guards the fields below
	left int
	down int            // the voter that is stopped; -1: none
	did  map[string]int // by what
}

// Disturb implements vfstest.Disturber. At most one voter is down at a time.
func (d *disturbed) Disturb(draw func(n int, what string) int) {
	what, which := draw(6, "disturbance"), draw(3, "voter")
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left == 0 || d.c.t.Failed() {
		return
	}
	d.left--
	const transfer, restart, stop = 0, 3, 4 // every third is the one of these that was least, whatever is drawn
	if kinds := map[int]int{transfer: d.did["transfer"], restart: d.did["restart of the leader"], stop: d.did["stop"]}; d.left%3 == 0 {
		what = transfer
		for _, k := range []int{restart, stop} {
			if kinds[k] < kinds[what] {
				what = k
			}
		}
	}
	if what >= restart && d.down >= 0 {
		what = stop + 1 // one is down: it comes back first
	}
	name := ""
	switch leader := d.c.leader(1); what {
	case transfer:
		name = "transfer"
		// It may fail, and then nothing happened.
		_ = d.c.server(leader).TransferLeadership(1, "")
	case 1, 2:
		name = "snapshot"
		if s := d.c.server(which); s != nil {
			_ = s.Snapshot(1) // nothing new is an error
		}
	case restart:
		name = "restart of the leader"
		d.c.stop(leader)
		d.c.start(leader)
	case stop:
		name = "stop"
		d.down = which
		d.c.stop(which)
	default:
		if d.down < 0 {
			return
		}
		// It needs what the others have dropped from their logs meanwhile.
		name = "start"
		for i := range d.c.servers {
			if s := d.c.server(i); s != nil {
				_ = s.Snapshot(1)
			}
		}
		d.c.start(d.down)
		d.down = -1
	}
	d.did[name]++
}

// names makes and removes a name again and again.
func (d *disturbed) names(ctx context.Context, name string, stop <-chan struct{}) {
	mode := uint32(0o755)
	for {
		select {
		case <-stop:
			return
		default:
		}
		_, err := d.MakeNode(ctx, &vfs.Root, vfs.RootIno, name, vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: &mode}})
		if err == nil {
			_, err = d.Remove(ctx, &vfs.Root, vfs.RootIno, name, vfs.RemoveDir)
		}
		if err != nil { // it is ours alone: neither may fail, or be done twice
			d.c.t.Errorf("%s: %v", name, err)
			return
		}
	}
}

// memBlocks keeps blocks in memory: this test is about the metadata.
type memBlocks struct {
	mu   sync.Mutex // guards data
	data map[uint64][]byte
}

func (b *memBlocks) Write(_ context.Context, id uint64, _ volume.Owner, p []byte) (volume.Block, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.data[id] != nil {
		return volume.Block{}, vfs.Errorf(vfs.KindInternal, "blocks", "block %d was written before", id)
	}
	b.data[id] = append([]byte{}, p...)
	return volume.Block{ID: id, PG: 1, K: 4, M: 2, Len: uint32(len(p))}, nil
}

func (b *memBlocks) Read(_ context.Context, bl volume.Block, off uint32, p []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.data[bl.ID]
	if int(off)+len(p) > len(d) {
		return vfs.Errorf(vfs.KindNotFound, "blocks", "[%d,+%d) of block %d of %d bytes", off, len(p), bl.ID, len(d))
	}
	copy(p, d[off:])
	return nil
}

// Random operations on a volume do what they do on the reference while leaders change, and voters snapshot,
// stop, come back behind the others' logs, and restart. At the end all voters have the same state.
func TestModelOverLeaderChanges(t *testing.T) {
	c := newCluster(t, 3, []uint16{1}, func(_ int, o *Options) { o.TrailingLogs, o.WALSegmentBytes = 1, 1<<20 })
	raiseLevel(t, c, 1)
	cl := c.client()
	ctx := context.Background()
	var incarnation [16]byte
	copy(incarnation[:], "model")
	if _, err := cl.Register(ctx, 1, metapb.OriginKind_ORIGIN_GATEWAY, "gw", incarnation[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := cl.Apply(ctx, 1, &metapb.Command{Fs: testFS, Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{
		RootMode: 0o777, HashKey: []byte("0123456789abcdef"),
	}}}); err != nil {
		t.Fatal(err)
	}
	d := &disturbed{c: c, left: disturbances, down: -1, did: map[string]int{}}
	checks := "50"
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		d.left, checks = disturbancesLong, "300"
	}
	// Unless it is given, the number of runs fits the time that a cluster takes for one.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := flag.Set("rapid.checks", checks); err != nil {
			t.Fatal(err)
		}
		defer flag.Set("rapid.checks", f.DefValue)
	}
	d.Volume = volume.New(volume.Config{FS: testFS, Shard: 1, Meta: cl, Blocks: &memBlocks{data: map[uint64][]byte{}}, Incarnation: incarnation})
	defer d.Abandon()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range others {
		wg.Go(func() { d.names(ctx, fmt.Sprint("other-", i), stop) })
	}
	t.Run("models", func(t *testing.T) {
		for i := range models {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				vfstest.Model(t, d)
			})
		}
	})
	close(stop)
	wg.Wait()
	if t.Failed() {
		return
	}
	if d.down >= 0 {
		c.start(d.down)
	}
	if err := d.Shutdown(testContext(t)); err != nil {
		t.Fatal(err)
	}
	c.sameState(1)
	t.Logf("disturbed by %v", d.did)
	received, _ := filepath.Glob(filepath.Join(c.dir, "*", "shard-00001", "snapshots", "*"))
	if d.did["restart of the leader"] == 0 || d.did["start"] == 0 || d.did["transfer"] == 0 || len(received) == 0 {
		t.Fatalf("disturbed by %v, %d snapshots: the test shows little", d.did, len(received))
	}
}
