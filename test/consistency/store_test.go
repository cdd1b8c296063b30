package consistency

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/server"
	"github.com/rackfs/rackfs/blockstore/store"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/volume"
)

const (
	storeEnv = "RACKFS_TEST_STORE" // NODE:DIR: be that block server

	testPool = 1
	// Five stores, blocks on three of them, of which one may be away: without any one of the stores there are groups to write to.
	stores       = 5
	storeK       = 2
	storeM       = 1
	storeSegment = 4 << 20
	storeDisk    = 1
	// A store that hangs holds its writers up for so long; then they write the block to another group, and
	// what they gave up may still be stored when it goes on.
	storePatience = 2 * heartbeat
)

var storeCluster = segment.ID{0xc0}

// runStore is a block server's process, with one store. It ends when its standard input does, so with the test.
func runStore(spec string) error {
	node, dir, _ := strings.Cut(spec, ":")
	log := slog.New(slog.DiscardHandler)
	s, err := store.Open(context.Background(), store.Options{
		Dir: filepath.Join(dir, node), Cluster: storeCluster, Create: true, SegmentSize: storeSegment, Logger: log, MemTableBytes: 256 << 10,
	})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	h := server.New(map[uint32]*store.Store{storeDisk: s}, server.Options{Logger: log})
	srv := wire.NewServer(h.Handle, wire.ServerOptions{Security: insecure(node, blockstore.RoleBlock), Logger: log})
	go func() { _ = srv.Serve(ln) }()
	if err := publish(filepath.Join(dir, node+".rpc"), ln.Addr().String()); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

func storeNames() (names []string) {
	for i := range stores {
		names = append(names, fmt.Sprintf("s%d", i))
	}
	return names
}

// groups are all placement groups that the stores can form.
func groups() (all []placement.PG) {
	names := storeNames()
	for a := range names {
		for b := range a {
			for c := range b {
				id := uint32(len(all) + 1)
				pg := placement.PG{ID: id, Epoch: 1, K: storeK, M: storeM}
				for i := range 3 { // another first one each time
					n := []int{a, b, c}[(i+int(id))%3]
					pg.Slots = append(pg.Slots, placement.Slot{Target: placement.Target{Node: names[n], Disk: storeDisk}})
				}
				all = append(all, pg)
			}
		}
	}
	return all
}

// stored is volume.Blocks of one gateway: the stripe client and its connections.
type stored struct {
	client *stripe.Client
	cmap   *stripe.Static
	wires  []*wire.Client
	writes atomic.Int64 // blocks that were stored
}

// stored connects a gateway with the stores, through its proxies.
func (c *cluster) stored(gateway string) (*stored, error) {
	b := &stored{client: stripe.New(stripe.Options{
		AttemptTimeout: storePatience, FetchTimeout: storePatience, BackoffMin: heartbeat / 4, BackoffMax: heartbeat,
		Logger: slog.New(slog.DiscardHandler),
	})}
	callers := map[string]stripe.Caller{}
	for _, n := range storeNames() {
		w := wire.NewClient(wire.Dialer("tcp", c.proxies[[2]string{gateway, n}].Addr()), wire.ClientOptions{
			Security: insecure(gateway, blockstore.RoleGateway), Logger: slog.New(slog.DiscardHandler),
		})
		b.wires = append(b.wires, w)
		callers[n] = w
	}
	var err error
	b.cmap, err = stripe.NewStatic(map[uint32][]placement.PG{testPool: groups()}, callers)
	return b, err
}

func (b *stored) close() {
	for _, w := range b.wires {
		w.Close()
	}
}

// Write implements volume.Blocks.
func (b *stored) Write(ctx context.Context, id uint64, o volume.Owner, data []byte) (volume.Block, error) {
	pg, err := b.client.Write(ctx, b.cmap, &stripe.Write{
		Pool: testPool, Block: id, Owner: blockstore.Owner{FS: o.FS, Ino: o.Ino, Offset: o.Offset}, Data: data,
	})
	if err != nil {
		return volume.Block{}, err
	}
	b.writes.Add(1)
	return volume.Block{ID: id, PG: pg.ID, K: uint8(pg.K), M: uint8(pg.M), Len: uint32(len(data))}, nil
}

// Read implements volume.Blocks.
func (b *stored) Read(ctx context.Context, bl volume.Block, off uint32, p []byte) error {
	return b.client.Read(ctx, b.cmap, stripe.Block{PG: bl.PG, ID: bl.ID, Len: bl.Len}, int(off), p)
}
