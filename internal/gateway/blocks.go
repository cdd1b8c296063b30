package gateway

import (
	"context"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// blocks is volume.Blocks: the stripe client with one pool's map.
type blocks struct {
	client *stripe.Client
	cmap   *stripe.Static
	pool   uint32
}

var _ volume.Blocks = (*blocks)(nil)

// Write implements volume.Blocks.
func (b *blocks) Write(ctx context.Context, id uint64, o volume.Owner, data []byte) (volume.Block, error) {
	w := stripe.Write{Pool: b.pool, Block: id, Owner: blockstore.Owner{FS: o.FS, Ino: o.Ino, Offset: o.Offset}, Data: data}
	pg, err := b.client.Write(ctx, b.cmap, &w)
	if err != nil {
		return volume.Block{}, err
	}
	g, ok := b.cmap.PG(pg)
	if !ok {
		return volume.Block{}, vfs.Errorf(vfs.KindInternal, "gateway.write block", "placement group %d was written to but is not in the map", pg)
	}
	return volume.Block{ID: id, PG: pg, K: uint8(g.K), M: uint8(g.M), Len: uint32(len(data))}, nil
}

// Read implements volume.Blocks.
func (b *blocks) Read(ctx context.Context, bl volume.Block, off uint32, p []byte) error {
	return b.client.Read(ctx, b.cmap, stripe.Block{PG: bl.PG, ID: bl.ID, Len: bl.Len}, int(off), p)
}

// nodes are the wire clients of the cluster's block servers, by node name.
type nodes map[string]*wire.Client

func (n nodes) close() {
	for _, c := range n {
		c.Close()
	}
}

// stripeMap turns shard 0's cluster map into what the stripe client reads.
// The placement of this version is static, so it is read once.
func stripeMap(m *metapb.ClusterMapR, security func(node string) wire.Security) (*stripe.Static, nodes, error) {
	const op = "gateway.cluster map"
	clients := nodes{}
	callers := map[string]stripe.Caller{}
	targets := map[uint32]placement.Target{}
	for _, s := range m.GetStores() {
		// A store is the only disk of its node until nodes have several.
		targets[s.Id] = placement.Target{Node: s.Node, Disk: s.Id}
		if clients[s.Node] == nil {
			c := wire.NewClient(wire.Dialer("tcp", s.Address), wire.ClientOptions{Security: security(s.Node)})
			clients[s.Node], callers[s.Node] = c, c
		}
	}
	pools := map[uint32][]placement.PG{}
	for _, p := range m.GetPools() {
		for _, g := range p.GetPgs() {
			pg := placement.PG{ID: g.Id, Epoch: g.Epoch, K: int(p.K), M: int(p.M)}
			for _, slot := range g.GetSlots() {
				t, ok := targets[slot.Store]
				if !ok {
					clients.close()
					return nil, nil, vfs.Errorf(vfs.KindCorrupt, op, "placement group %d names store %d, which is not recorded", g.Id, slot.Store)
				}
				out := placement.Slot{Target: t}
				if prev, ok := targets[slot.Previous]; ok && slot.Previous != 0 {
					out.Previous = &prev
				}
				pg.Slots = append(pg.Slots, out)
			}
			pools[p.Id] = append(pools[p.Id], pg)
		}
	}
	sm, err := stripe.NewStatic(pools, callers)
	if err != nil {
		clients.close()
		return nil, nil, vfs.Wrap(op, err)
	}
	return sm, clients, nil
}
