package gateway

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/raftmeta/metapb"
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
	stores map[uint32]room
}

// room is of one store, in bytes.
type room struct{ used, free uint64 }

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
			req := blockstore.DiskRequest{Disk: st.Id}
			reply, err := s.nodes[st.Node].client.Call(ctx, blockstore.OpInfo, req.Append(nil), nil, nil)
			if err != nil {
				return
			}
			defer reply.Release()
			var info blockstore.InfoReply
			if info.Decode(reply.Meta) != nil {
				return
			}
			g.room.mu.Lock()
			defer g.room.mu.Unlock()
			if g.room.stores == nil {
				g.room.stores = map[uint32]room{}
			}
			g.room.stores[st.Id] = room{used: info.Used, free: info.Capacity - min(info.Used, info.Capacity)}
		})
	}
	wg.Wait()
}

// rawOf is what stores said last, together.
func (c *capacities) rawOf(stores []uint32) (used, free uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range stores {
		used += c.stores[id].used
		free += c.stores[id].free
	}
	return used, free
}

// unknownCapacity is said of a pool of whose stores nothing is known yet: so much that only what is used counts.
const unknownCapacity = 1 << 50

// capacity is that of a pool before coding: the room on the stores that its open groups are on, by the profile. It is shared with the other
// pools on these stores.
func (g *Gateway) capacity(pool uint32) (total, free uint64) {
	s := g.cmap.acquire()
	defer g.cmap.release(s)
	for _, p := range s.raw.GetPools() {
		if p.Id != pool {
			continue
		}
		seen := map[uint32]bool{}
		var stores []uint32
		for _, pg := range p.Pgs {
			for _, slot := range pg.Slots {
				if pg.State == metapb.PGState_PG_OPEN && !seen[slot.Store] {
					seen[slot.Store] = true
					stores = append(stores, slot.Store)
				}
			}
		}
		raw := g.cfg.Raw
		if raw == nil {
			raw = g.room.rawOf
		}
		used, left := raw(stores)
		if used+left == 0 {
			break
		}
		data := func(n uint64) uint64 { return n / uint64(p.K+p.M) * uint64(p.K) }
		return data(used + left), data(left)
	}
	return unknownCapacity, unknownCapacity
}
