// Package provision makes what shard 0 and a namespace shard must hold before a gateway can serve: the key of file handles and the file
// system `default`. Each step is idempotent, so that a crash in the first start of a cluster is repaired by the second.
package provision

import (
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Fixed ids of every cluster.
const (
	ClusterShard   = 0
	NamespaceShard = 1
	DefaultPool    = 1
	DefaultFS      = 1
	handleKeyID    = 1
	gossipKeyID    = 1

	// GossipKind is the kind of the keys of gossip.
	GossipKind = "gossip"
	// gossipKeyBytes makes it AES-256.
	gossipKeyBytes = 32
)

// ClusterMap asks for the cluster map.
func ClusterMap(ctx context.Context, meta *raftmeta.Client) (*metapb.ClusterMapR, error) {
	r, err := meta.Query(ctx, ClusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
	if err != nil {
		return nil, err
	}
	return r.GetClusterMap(), nil
}

// Incarnation asks for that of the metadata, which a new store is stamped with.
func Incarnation(ctx context.Context, meta *raftmeta.Client) (uint64, error) {
	r, err := meta.Query(ctx, ClusterShard, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}})
	return r.GetShardInfo().GetIncarnation(), err
}

// Pool puts the first pool of a cluster, unless there is one.
func Pool(ctx context.Context, meta *raftmeta.Client, pool func() (*metapb.Pool, error)) error {
	const op = "provision pool"
	m, err := ClusterMap(ctx, meta)
	if err != nil {
		return vfs.Wrap(op, err)
	}
	if len(m.GetPools()) > 0 {
		return nil
	}
	p, err := pool()
	if err != nil {
		return vfs.Wrap(op, err)
	}
	_, err = meta.Apply(ctx, ClusterShard, &metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: p}}})
	return vfs.Wrap(op, err)
}

// Key makes the key of file handles. The first one put wins.
func Key(ctx context.Context, meta *raftmeta.Client) error {
	secret := make([]byte, 16)
	rand.Read(secret)
	_, err := meta.Apply(ctx, ClusterShard, &metapb.Command{Op: &metapb.Command_PutKey{PutKey: &metapb.PutKey{
		Key: &metapb.Key{Kind: "handle", Id: handleKeyID, Secret: secret},
	}}})
	return vfs.Wrap("provision handle key", err)
}

// GossipKeys are the keys of gossip, the newest first; none if there is none yet.
func GossipKeys(ctx context.Context, meta *raftmeta.Client) ([][]byte, error) {
	const op = "gossip keys"
	r, err := meta.Query(ctx, ClusterShard, &metapb.Query{Q: &metapb.Query_Keys{Keys: &metapb.KeysQ{Kind: GossipKind}}})
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	keys := r.GetKeys().GetKeys()
	slices.SortFunc(keys, func(a, b *metapb.Key) int { return cmp.Compare(b.Id, a.Id) })
	var out [][]byte
	for _, k := range keys {
		out = append(out, k.Secret)
	}
	return out, nil
}

// GossipKey makes the first key of gossip. The first one put wins.
func GossipKey(ctx context.Context, meta *raftmeta.Client) error {
	return vfs.Wrap("provision gossip key", putGossipKey(ctx, meta, gossipKeyID))
}

func putGossipKey(ctx context.Context, meta *raftmeta.Client, id uint32) error {
	secret := make([]byte, gossipKeyBytes)
	rand.Read(secret)
	_, err := meta.Apply(ctx, ClusterShard, &metapb.Command{Op: &metapb.Command_PutKey{PutKey: &metapb.PutKey{
		Key: &metapb.Key{Kind: GossipKind, Id: id, Secret: secret},
	}}})
	return err
}

// RotateGossipKey makes a key of gossip that takes the place of the others. Nodes follow by themselves.
func RotateGossipKey(ctx context.Context, meta *raftmeta.Client) error {
	const op = "rotate gossip key"
	r, err := meta.Query(ctx, ClusterShard, &metapb.Query{Q: &metapb.Query_Keys{Keys: &metapb.KeysQ{Kind: GossipKind}}})
	if err != nil {
		return vfs.Wrap(op, err)
	}
	last := uint32(0)
	for _, k := range r.GetKeys().GetKeys() {
		last = max(last, k.Id)
	}
	if last == 0 {
		return vfs.Errorf(vfs.KindNotFound, op, "there is no key of gossip yet: no node takes part in gossip (gossip.listen)")
	}
	return vfs.Wrap(op, putGossipKey(ctx, meta, last+1)) // if somebody else does so too, one of the two new keys wins
}

// FS makes the file system `default`, unless the cluster has or had one.
func FS(ctx context.Context, meta *raftmeta.Client) error {
	return vfs.Wrap("provision file system", filesystem.CreateFirst(ctx, meta, "default", DefaultPool, time.Now()))
}
