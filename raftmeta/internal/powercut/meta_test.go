package powercut

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/stripe"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

func stamp(cmd *metapb.Command) {
	now := time.Now()
	cmd.Time = &metapb.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
}

func answer(r *metapb.Result) (*metapb.Result, error) {
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "meta", "%s", r.Text)
	}
	return r, nil
}

func (z *zero) apply(cmd *metapb.Command) (*metapb.Result, error) {
	stamp(cmd)
	enc, err := (&metapb.Entry{Format: fsm.EntryFormat, Commands: []*metapb.Command{cmd}}).MarshalVT()
	if err != nil {
		return nil, err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.index++
	rs, err := z.fsm.Apply(z.index, enc, z.store)
	if err != nil {
		return nil, err
	}
	z.fsm.Flushed()
	return answer(rs[0])
}

// apply runs a command through the log of the namespace shard.
func (b *box) apply(cmd *metapb.Command) (*metapb.Result, error) {
	stamp(cmd)
	enc, err := cmd.MarshalVT()
	if err != nil {
		return nil, err
	}
	rs, errs, err := b.batch.Do(b.ctx, [][]byte{enc})
	if err != nil {
		return nil, err
	}
	if errs[0] != nil {
		return nil, errs[0]
	}
	return answer(rs[0])
}

// Apply implements upkeep.Metadata.
func (b *box) Apply(_ context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	if shard == 0 {
		return b.zero.apply(cmd)
	}
	return b.apply(cmd)
}

// Query implements upkeep.Metadata. The voter is alone: what it has committed is all there is.
func (b *box) Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, vfs.Wrap("meta", err)
	}
	var r *metapb.QueryResult
	if shard == 0 {
		b.zero.mu.Lock()
		v := b.zero.store.Snapshot()
		b.zero.mu.Unlock()
		r = fsm.Query(v, nil, q)
	} else {
		if err := b.host.Wait(ctx, b.raft.CommitIndex()); err != nil {
			return nil, err
		}
		v, cache, err := b.host.View()
		if err != nil {
			return nil, err
		}
		defer v.Release()
		r = fsm.Query(v, cache, q)
	}
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "meta", "%s", r.Text)
	}
	return r, nil
}

// prepare makes the namespace.
func (b *box) prepare() error {
	for _, c := range append(raises(), &metapb.Command{Fs: testFS, Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{
		RootMode: 0o777, HashKey: bytes.Repeat([]byte{9}, 16),
	}}}) {
		if _, err := b.apply(c); err != nil {
			return err
		}
	}
	return nil
}

// gateway is one incarnation of the gateway.
type gateway struct {
	*box
	origin uint64
	vol    *volume.Volume

	mu  sync.Mutex // orders commands as their numbers are
	seq uint64
}

// register makes a new gateway, which ends the former one.
func (b *box) register(generation byte) (*gateway, error) {
	incarnation := [16]byte{generation}
	r, err := b.apply(&metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "gw", Incarnation: incarnation[:],
	}}})
	if err != nil {
		return nil, err
	}
	g := &gateway{box: b, origin: r.GetOrigin().GetOrigin()}
	bl, err := b.blocks(nil)
	if err != nil {
		return nil, err
	}
	g.vol = volume.New(volume.Config{
		FS: testFS, Shard: testShard, Meta: g, Blocks: bl, Incarnation: incarnation,
		BlockIDs: 8, FlushAge: time.Hour, CacheLimitBytes: 4 << 20,
	})
	return g, nil
}

// Apply implements volume.Meta.
func (g *gateway) Apply(ctx context.Context, _ uint16, cmd *metapb.Command) (*metapb.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, vfs.Wrap("meta", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seq++
	cmd.Id = &metapb.Identity{Origin: g.origin, Slot: 1, Seq: g.seq}
	return g.apply(cmd)
}

// blocks is volume.Blocks: a stripe client and a map in which some stores are dead.
type blocks struct {
	client *stripe.Client
	*stripe.Static
}

func (b *box) blocks(dead map[uint32]bool) (*blocks, error) {
	callers := map[string]stripe.Caller{}
	for _, g := range b.groups {
		for _, s := range g.Slots {
			callers[s.Target.Node] = b.client
			if dead[s.Target.Disk] {
				callers[s.Target.Node] = deadNode{}
			}
		}
	}
	m, err := stripe.NewStatic(map[uint32][]placement.PG{testPool: b.groups}, callers)
	// No hedges: a read that has all its shards reads those.
	return &blocks{stripe.New(stripe.Options{Logger: quiet, HedgeMin: patience, HedgeMax: patience}), m}, err
}

// Write implements volume.Blocks.
func (b *blocks) Write(ctx context.Context, id uint64, o volume.Owner, data []byte) (volume.Block, error) {
	pg, err := b.client.Write(ctx, b, &stripe.Write{Pool: testPool, Block: id, Owner: blockstore.Owner{FS: o.FS, Ino: o.Ino, Offset: o.Offset}, Data: data})
	if err != nil {
		return volume.Block{}, err
	}
	return volume.Block{ID: id, PG: pg.ID, K: uint8(pg.K), M: uint8(pg.M), Len: uint32(len(data))}, nil
}

// Read implements volume.Blocks.
func (b *blocks) Read(ctx context.Context, bl volume.Block, off uint32, p []byte) error {
	return b.client.Read(ctx, b, stripe.Block{PG: bl.PG, ID: bl.ID, Len: bl.Len}, int(off), p)
}
