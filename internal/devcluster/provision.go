package devcluster

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// The dev cluster's fixed ids.
const (
	clusterShard   = 0
	namespaceShard = 1
	defaultPool    = 1
	defaultFS      = 1
	handleKeyID    = 1
	// pgsPerStore placement groups for each store spread data and parity evenly
	// and give a failed write somewhere else to go.
	pgsPerStore = 8
)

// provision makes what shard 0 and the namespace must hold before a gateway can
// serve. Each step is idempotent: it runs at every start, so that a crash in
// the first one is repaired by the second.
func provision(ctx context.Context, meta *raftmeta.Client, s *shape) error {
	if err := provisionPool(ctx, meta, s); err != nil {
		return vfs.Wrap("provision pool", err)
	}
	if err := provisionKey(ctx, meta); err != nil {
		return vfs.Wrap("provision handle key", err)
	}
	return vfs.Wrap("provision file system", provisionFS(ctx, meta))
}

// provisionPool makes the first placement groups, over all stores that there were in
// the beginning. Later changes of them are package nodegroup's.
func provisionPool(ctx context.Context, meta *raftmeta.Client, s *shape) error {
	m, err := clusterMap(ctx, meta)
	if err != nil {
		return err
	}
	if len(m.GetPools()) > 0 {
		return nil
	}
	profile, err := placement.ParseProfile(s.Profile)
	if err != nil {
		return err
	}
	pool, err := staticPool(profile, s.BlockStores)
	if err != nil {
		return err
	}
	_, err = meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: pool}}})
	return err
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

const gatewayName = "gateway-1"

// provisionKey makes the key of file handles. The first one put wins.
func provisionKey(ctx context.Context, meta *raftmeta.Client) error {
	secret := make([]byte, 16)
	rand.Read(secret)
	_, err := meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutKey{PutKey: &metapb.PutKey{
		Key: &metapb.Key{Kind: "handle", Id: handleKeyID, Secret: secret},
	}}})
	return err
}

// provisionFS makes file system `default`: a record that says "creating" with
// all that is random in it, its namespace, then "active".
func provisionFS(ctx context.Context, meta *raftmeta.Client) error {
	fs, err := findFS(ctx, meta)
	if err != nil {
		return err
	}
	put := func(fs *metapb.FileSystem, expect metapb.FileSystemState) error {
		_, err := meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutFileSystem{PutFileSystem: &metapb.PutFileSystem{Fs: fs, ExpectState: expect}}})
		return err
	}
	if fs == nil {
		key := make([]byte, 16)
		rand.Read(key)
		now := time.Now()
		fs = &metapb.FileSystem{
			Id: defaultFS, Name: "default", Workspace: "default", Kind: "shared", Shard: namespaceShard, Pool: defaultPool,
			State: metapb.FileSystemState_FS_CREATING, HashKey: key,
			Created: &metapb.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())},
		}
		if err := put(fs, metapb.FileSystemState_FS_UNKNOWN); err != nil {
			return err
		}
	}
	if fs.State != metapb.FileSystemState_FS_CREATING {
		return nil
	}
	incarnation := make([]byte, 16)
	rand.Read(incarnation)
	if _, err := meta.Register(ctx, uint16(fs.Shard), metapb.OriginKind_ORIGIN_ADMIN, "provision", incarnation); err != nil {
		return err
	}
	_, err = meta.Apply(ctx, uint16(fs.Shard), &metapb.Command{Fs: fs.Id, Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{
		RootMode: 0o755, HashKey: fs.HashKey,
	}}})
	if err != nil {
		return err
	}
	active := fs.CloneVT()
	active.State = metapb.FileSystemState_FS_ACTIVE
	return put(active, metapb.FileSystemState_FS_CREATING)
}

func findFS(ctx context.Context, meta *raftmeta.Client) (*metapb.FileSystem, error) {
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: &metapb.FileSystemsQ{}}})
	if err != nil {
		return nil, err
	}
	for _, fs := range r.GetFileSystems().GetFileSystems() {
		if fs.Id == defaultFS {
			return fs, nil
		}
	}
	return nil, nil
}
