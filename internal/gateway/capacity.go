package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// capacityEvery is how often stores are asked how full they are, capacityTimeout how long one may take, capacityParallel how many are
	// asked at once.
	capacityEvery    = 10 * time.Second
	capacityTimeout  = 2 * time.Second
	capacityParallel = 16
)

// capacities is what stores said last of their room.
type capacities struct {
	mu     sync.Mutex // guards stores
	stores map[uint32]blockstore.RoomReply
}

// watchCapacity asks the stores now and then until ctx ends.
func (g *Gateway) watchCapacity(ctx context.Context) {
	if g.cfg.Raw != nil {
		return
	}
	tick := time.NewTicker(capacityEvery)
	defer tick.Stop()
	for {
		g.askCapacity(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// askCapacity asks each store once. What one that does not answer said last stays.
func (g *Gateway) askCapacity(ctx context.Context) {
	s := g.cmap.acquire()
	defer g.cmap.release(s)
	slots := make(chan struct{}, capacityParallel)
	var wg sync.WaitGroup
	for _, st := range s.raw.GetStores() {
		if st.State == metapb.StoreState_STORE_LOST || ctx.Err() != nil {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, capacityTimeout)
			defer cancel()
			r, err := roomOf(ctx, s.nodes[st.Node].client, st.Id)
			if err != nil {
				return
			}
			g.room.mu.Lock()
			defer g.room.mu.Unlock()
			if g.room.stores == nil {
				g.room.stores = map[uint32]blockstore.RoomReply{}
			}
			g.room.stores[st.Id] = r
		})
	}
	wg.Wait()
}

// roomOf asks a store for its room. One whose server is of an older release does not say what it shares.
func roomOf(ctx context.Context, c *wire.Client, store uint32) (r blockstore.RoomReply, err error) {
	req := blockstore.DiskRequest{Disk: store}
	reply, err := c.Call(ctx, blockstore.OpRoom, req.Append(nil), nil, nil)
	if err == nil {
		defer reply.Release()
		return r, r.Decode(reply.Meta)
	}
	if vfs.KindOf(err) != vfs.KindNotSupported {
		return r, err
	}
	reply, err = c.Call(ctx, blockstore.OpInfo, req.Append(nil), nil, nil)
	if err != nil {
		return r, err
	}
	defer reply.Release()
	var info blockstore.InfoReply
	err = info.Decode(reply.Meta)
	return blockstore.RoomReply{Capacity: info.Capacity, Used: info.Used}, err
}

// rawOf is what stores hold together, and how much they can, as they said last.
func (c *capacities) rawOf(stores []uint32) (used, capacity uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []blockstore.RoomReply
	for _, id := range stores {
		list = append(list, c.stores[id])
	}
	return blockstore.Together(list)
}

// unknownCapacity is said of a pool of whose stores nothing is known yet: so much that only what is used counts.
const unknownCapacity = 1 << 50

// capacity is that of a pool before coding: the room on the stores that its open groups are on, by the profile. What is free on a device that several of
// them are on counts once. It is shared with the other pools on these stores.
func (g *Gateway) capacity(pool uint32) (total, free uint64) {
	s := g.cmap.acquire()
	defer g.cmap.release(s)
	for _, p := range s.raw.GetPools() {
		if p.Id != pool {
			continue
		}
		raw := g.cfg.Raw
		if raw == nil {
			raw = g.room.rawOf
		}
		if total, free = nodegroup.PoolRoom(p, nodegroup.OpenStores(p), raw); total == 0 {
			break
		}
		return total, free
	}
	return unknownCapacity, unknownCapacity
}
