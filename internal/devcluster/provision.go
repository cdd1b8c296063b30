package devcluster

import (
	"context"
	"fmt"

	"github.com/rackfs/rackfs/internal/provision"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// The dev cluster's fixed ids.
const (
	clusterShard   = provision.ClusterShard
	namespaceShard = provision.NamespaceShard
	defaultPool    = provision.DefaultPool
	defaultFS      = provision.DefaultFS
	// pgsPerStore placement groups for each store spread data and parity evenly
	// and give a failed write somewhere else to go.
	pgsPerStore = 8
)

// provisionAll makes what shard 0 and the namespace must hold before a gateway can
// serve. It runs at every start. The first placement groups are over all stores that there were in
// the beginning; later changes of them are package nodegroup's.
func provisionAll(ctx context.Context, meta *raftmeta.Client, s *shape) error {
	err := provision.Pool(ctx, meta, func() (*metapb.Pool, error) {
		profile, err := placement.ParseProfile(s.Profile)
		if err != nil {
			return nil, err
		}
		return staticPool(profile, s.BlockStores)
	})
	if err != nil {
		return err
	}
	if err := provision.Key(ctx, meta); err != nil {
		return err
	}
	return provision.FS(ctx, meta)
}

func staticPool(profile placement.Profile, stores int) (*metapb.Pool, error) {
	targets := make([]placement.Target, stores)
	ids := make(map[placement.Target]uint32, stores)
	for i := range targets {
		targets[i] = placement.Target{Node: storeName(i), Disk: storeID(i)}
		ids[targets[i]] = storeID(i)
	}
	pgs, err := placement.Static(targets, profile.K, profile.M, pgsPerStore*stores)
	if err != nil {
		return nil, err
	}
	pool := &metapb.Pool{Id: defaultPool, Name: "default", K: uint32(profile.K), M: uint32(profile.M)}
	for _, pg := range pgs {
		out := &metapb.PlacementGroup{Id: pg.ID, Epoch: pg.Epoch}
		for _, slot := range pg.Slots {
			out.Slots = append(out.Slots, &metapb.Slot{Store: ids[slot.Target]})
		}
		pool.Pgs = append(pool.Pgs, out)
	}
	return pool, nil
}

func storeName(i int) string { return fmt.Sprintf("store-%d", i+1) }
func storeID(i int) uint32   { return uint32(i + 1) }
func voterName(i int) string { return fmt.Sprintf("meta-%d", i+1) }

// gatewayName is the first gateway; the others follow.
const gatewayName = "gateway-1"

func gatewayNameOf(i int) string { return fmt.Sprintf("gateway-%d", i+1) }
