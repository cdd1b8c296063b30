package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/blockstore/upkeep"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// check puts what a cut left into operation and looks at it; allowed are the trees that may be there.
func (x *cut) check(root string, allowed []string) (o outcomes, err error) {
	tmp, remove, err := tempDir()
	if err != nil {
		return o, err
	}
	defer remove()
	d, err := leftDisks(x.disk, root, tmp)
	if err != nil {
		return o, err
	}
	b, err := start(d, false)
	if err != nil {
		return o, fmt.Errorf("start: %w", err)
	}
	defer func() { err = errors.Join(err, b.stop()) }()
	if err := b.consistent(); err != nil {
		return o, err
	}
	if err := b.whole(); err != nil {
		return o, err
	}
	g, err := b.register(4)
	if err != nil {
		return o, err
	}
	defer g.vol.Abandon()
	seen, inodes, err := look(b.ctx, g.vol)
	if err != nil {
		return o, err
	}
	switch slices.Index(allowed, seen) {
	case 0:
		o.before = 1
	case 1:
		o.after = 1
	default:
		return o, fmt.Errorf("the tree is\n%s\nallowed is\n%s", seen, strings.Join(allowed, "\nor\n"))
	}
	if o.collected, err = b.collect(); err != nil {
		return o, err
	}
	st, err := g.vol.StatFS(b.ctx, vfs.RootIno)
	if err != nil {
		return o, err
	}
	if st.UsedFiles != inodes {
		return o, fmt.Errorf("%d inodes are counted, %d have a name", st.UsedFiles, inodes)
	}
	return o, g.works(seen)
}

// consistent is the full check of the state.
func (b *box) consistent() error {
	v, _, err := b.host.View()
	if err != nil {
		return err
	}
	defer v.Release()
	return fsm.Check(v)
}

// live lists the live blocks.
func (b *box) live() ([]*metapb.BlockInfo, error) {
	q := &metapb.BlocksQ{}
	for _, g := range b.groups {
		q.Pgs = append(q.Pgs, g.ID)
	}
	r, err := b.Query(b.ctx, testShard, &metapb.Query{Q: &metapb.Query_Blocks{Blocks: q}})
	if err == nil && r.GetBlocks().Next != 0 {
		err = errors.New("more blocks than a page")
	}
	return r.GetBlocks().GetBlocks(), err
}

// shards are those that live blocks consist of, with the store of each.
func (b *box) shards(live []*metapb.BlockInfo) (map[segment.Key]int, error) {
	all := map[segment.Key]int{}
	for _, bl := range live {
		g := b.groups[bl.Pg-1]
		shape, err := blockstore.ShapeOf(int(bl.Length), g.K, g.M)
		if err != nil {
			return nil, err
		}
		for i, s := range g.Slots {
			if shape.Stored(i) {
				all[segment.Key{PG: bl.Pg, Block: bl.Id, Shard: uint8(i)}] = int(s.Target.Disk) - 1
			}
		}
	}
	return all, nil
}

// whole fails unless each live block has all its shards, and reads the same from any k stores.
func (b *box) whole() error {
	live, err := b.live()
	if err != nil {
		return err
	}
	shards, err := b.shards(live)
	if err != nil {
		return err
	}
	for k, i := range shards {
		if _, _, err := b.stores[i].Stat(b.ctx, k); err != nil {
			return fmt.Errorf("shard %v of a live block, in store %d: %w", k, i+1, err)
		}
	}
	want := map[uint64][]byte{}
	for _, dead := range losses() {
		bl, err := b.blocks(dead)
		if err != nil {
			return err
		}
		for _, x := range live {
			p := make([]byte, x.Length)
			if err := bl.Read(b.ctx, volume.Block{ID: x.Id, PG: x.Pg, Len: x.Length}, 0, p); err != nil {
				return fmt.Errorf("block %#x of group %d, without stores %v: %w", x.Id, x.Pg, slices.Sorted(maps.Keys(dead)), err)
			}
			if len(dead) == 0 {
				want[x.Id] = p
			} else if !bytes.Equal(p, want[x.Id]) {
				return fmt.Errorf("block %#x of group %d reads differently without stores %v", x.Id, x.Pg, slices.Sorted(maps.Keys(dead)))
			}
		}
	}
	return nil
}

// losses are no store, and each choice of parityM of them.
func losses() (all []map[uint32]bool) {
	all = append(all, nil)
	for set := range 1 << stores {
		dead := map[uint32]bool{}
		for i := range uint32(stores) {
			if set>>i&1 == 1 {
				dead[i+1] = true
			}
		}
		if len(dead) == parityM {
			all = append(all, dead)
		}
	}
	return all
}

// deadNode is the way to a node that is gone.
type deadNode struct{}

func (deadNode) Call(context.Context, wire.Op, []byte, net.Buffers, []byte) (*wire.Reply, error) {
	return nil, vfs.Errorf(vfs.KindUnavailable, "test", "the node is gone")
}
func (deadNode) Close() {}

// collect ends all graces and has the collectors make a pass. After that the stores have what the metadata names, and nothing else. It
// returns how many shards went.
func (b *box) collect() (gone int, err error) {
	for more := true; more; {
		r, err := b.apply(&metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: 1000}}})
		if err != nil {
			return gone, err
		}
		more = r.GetPurge().GetMore()
	}
	for more := true; more; {
		r, err := b.apply(&metapb.Command{Op: &metapb.Command_ReapBlocks{ReapBlocks: &metapb.ReapBlocks{Through: 1 << 62}}})
		if err != nil {
			return gone, err
		}
		more = r.GetReap().GetMore()
	}
	for i, s := range b.stores {
		k, err := upkeep.New(upkeep.Options{
			Store: s, ID: uint32(i + 1), Meta: b, Logger: quiet, Dial: func(string, string) upkeep.Conn { return deadNode{} },
		})
		if err != nil {
			return gone, err
		}
		c, err := k.Collect(b.ctx)
		k.Close()
		gone += int(c.Dead)
		if err != nil {
			return gone, err
		}
		if c.Unanswered+c.Strange > 0 {
			return gone, fmt.Errorf("store %d keeps shards of whose blocks it learns nothing: %+v", i+1, c)
		}
	}
	r, err := b.Query(b.ctx, testShard, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}})
	if err != nil {
		return gone, err
	}
	if i := r.GetShardInfo(); i.PurgeQueue+i.DyingBlocks > 0 {
		return gone, fmt.Errorf("after collection %d items wait to be purged, %d blocks to be reaped", i.PurgeQueue, i.DyingBlocks)
	}
	live, err := b.live()
	if err != nil {
		return gone, err
	}
	shards, err := b.shards(live)
	if err != nil {
		return gone, err
	}
	for i, s := range b.stores {
		sum := int64(0)
		for _, pg := range b.groups {
			es, more, err := s.List(b.ctx, pg.ID, nil, 0)
			if err == nil && more {
				err = errors.New("more shards than a page")
			}
			if err != nil {
				return gone, err
			}
			for _, e := range es {
				if at, ok := shards[e.Key]; !ok || at != i {
					return gone, fmt.Errorf("store %d has leaked shard %v", i+1, e.Key)
				}
				delete(shards, e.Key)
				sum += int64(segment.RecordLen(int(e.Length)))
			}
		}
		if info := s.Info(); info.Used != sum || info.Bad > 0 {
			return gone, fmt.Errorf("store %d counts %d bytes, its shards have %d; %d are bad", i+1, info.Used, sum, info.Bad)
		}
	}
	for k, i := range shards {
		return gone, fmt.Errorf("shard %v of a live block is not in store %d after collection", k, i+1)
	}
	return gone, b.consistent()
}

// works fails unless the file system still shows tree to who has nothing cached, and takes a file.
func (g *gateway) works(tree string) error {
	g.vol.Abandon()
	next, err := g.register(5)
	if err != nil {
		return err
	}
	defer next.vol.Abandon()
	seen, _, err := look(g.ctx, next.vol)
	if err != nil {
		return fmt.Errorf("after collection: %w", err)
	}
	if seen != tree {
		return fmt.Errorf("after collection the tree is\n%s\nwas\n%s", seen, tree)
	}
	c, err := next.vol.Create(g.ctx, &vfs.Root, vfs.RootIno, "new", vfs.CreateArgs{Open: both})
	if err != nil {
		return err
	}
	data := bytes.Repeat([]byte("new file"), 5000)
	if _, _, err := next.vol.Write(g.ctx, &vfs.Root, c.Attr.Ino, 0, data, vfs.FileSync); err != nil {
		return fmt.Errorf("a new file: %w", err)
	}
	if err := next.vol.Close(g.ctx, c.Attr.Ino, both); err != nil {
		return err
	}
	return g.whole()
}
