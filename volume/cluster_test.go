package volume_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

const (
	testFS    = 7
	testShard = 1
)

// metadata is a namespace shard without replicas: the real state machine on a
// store in memory.
type metadata struct {
	mu    sync.Mutex // guards the fields below
	store *fsm.MemStore
	fsm   *fsm.Machine
	index uint64
	seq   uint64

	// fail, if set, decides before a command whether it is refused.
	fail func(*metapb.Command) error
	// silent, if set, is closed when queries are answered again.
	silent chan struct{}
	asked  int // queries that met silence
	// applied, if set, sees every command that was applied.
	applied func(*metapb.Command, *metapb.Result)
}

func newMetadata(t testing.TB) *metadata { return newMetadataAt(t, fsm.Level) }

func newMetadataAt(t testing.TB, newest uint32) *metadata {
	m := &metadata{store: fsm.NewMemStore()}
	var err error
	m.fsm, err = fsm.Open(m.store, fsm.Options{Shard: testShard, MaxLevel: newest, Cluster: []byte("cluster")})
	if err != nil {
		t.Fatal(err)
	}
	for level := m.fsm.Level() + 1; level <= newest; level++ {
		m.mustApply(t, &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: level}}})
	}
	m.mustApply(t, &metapb.Command{Fs: testFS, Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{
		RootMode: 0o777, HashKey: bytes.Repeat([]byte{9}, 16),
	}}})
	return m
}

func (m *metadata) mustApply(t tb, cmd *metapb.Command) *metapb.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, err := m.apply(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// apply runs one command as one log entry. m.mu is held.
func (m *metadata) apply(cmd *metapb.Command) (*metapb.Result, error) {
	now := time.Now()
	cmd.Time = &metapb.Time{Sec: now.Unix(), Nsec: uint32(now.Nanosecond())}
	enc, err := (&metapb.Entry{Format: fsm.EntryFormat, Commands: []*metapb.Command{cmd}}).MarshalVT()
	if err != nil {
		return nil, err
	}
	m.index++
	rs, err := m.fsm.Apply(m.index, enc, m.store)
	if err != nil {
		return nil, err
	}
	m.fsm.Flushed()
	if k := vfs.Kind(rs[0].Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "meta", "%s", rs[0].Text)
	}
	return rs[0], nil
}

// hush makes queries wait until the function it returns is called.
func (m *metadata) hush() (speak func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	silent := make(chan struct{})
	m.silent, m.asked = silent, 0
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.silent = nil
		close(silent)
	}
}

// gateway is one origin's client of the metadata.
type gateway struct {
	*metadata
	name        string
	origin      uint64
	incarnation [16]byte

	// These are set while nothing is under way.
	asking    func(*metapb.Command)       // if set, is called before a command is applied
	answering func(*metapb.Command)       // if set, is called before the answer to a command that was applied
	lose      func(*metapb.Command) error // if set, says whether the answer to a command that was applied is lost
	told      func(*metapb.Query)         // if set, is called before the answer to a query
}

func (m *metadata) gateway(t testing.TB, name string) *gateway {
	g := &gateway{metadata: m, name: name}
	for i := range g.incarnation {
		g.incarnation[i] = byte(rand.Uint32())
	}
	r := m.mustApply(t, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: name, Incarnation: g.incarnation[:],
	}}})
	g.origin = r.GetOrigin().GetOrigin()
	return g
}

// again registers the gateway anew after its origin ended.
func (g *gateway) again(t testing.TB) {
	inc := g.incarnation
	inc[0]++
	r := g.mustApply(t, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: g.name, Incarnation: inc[:], Vacant: true,
	}}})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.origin, g.incarnation = r.GetOrigin().GetOrigin(), inc
}

func (g *gateway) Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error) {
	if g.asking != nil {
		g.asking(cmd)
	}
	r, err := g.applyOne(ctx, cmd)
	if err == nil && g.answering != nil {
		g.answering(cmd)
	}
	if err == nil && g.lose != nil {
		if err := g.lose(cmd); err != nil {
			return nil, err
		}
	}
	return r, err
}

func (g *gateway) applyOne(ctx context.Context, cmd *metapb.Command) (*metapb.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, vfs.Wrap("meta", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail != nil {
		if err := g.fail(cmd); err != nil {
			return nil, err
		}
	}
	g.seq++
	cmd.Id = &metapb.Identity{Origin: g.origin, Slot: 1, Seq: g.seq}
	r, err := g.apply(cmd)
	if err == nil && g.applied != nil {
		g.applied(cmd, r)
	}
	return r, err
}

func (g *gateway) Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, vfs.Wrap("meta", err)
	}
	g.mu.Lock()
	if silent := g.silent; silent != nil {
		g.asked++
		g.mu.Unlock()
		select {
		case <-silent:
		case <-ctx.Done():
			return nil, vfs.Wrap("meta", ctx.Err())
		}
		g.mu.Lock()
	}
	view := g.store.Snapshot()
	g.mu.Unlock()
	r := fsm.Query(view, nil, q)
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return nil, vfs.Errorf(k, "meta", "%s", r.Text)
	}
	if g.told != nil {
		g.told(q)
	}
	return r, nil
}

// blocks is a block store in memory.
type blocks struct {
	mu   sync.Mutex // guards the fields below
	data map[uint64][]byte

	failWrite func(id uint64, n int) error
	failRead  func(id uint64) error
	forget    bool // keep no data, for benchmarks
	writes    int
	readBytes int
}

func newBlocks() *blocks { return &blocks{data: map[uint64][]byte{}} }

func (b *blocks) Write(ctx context.Context, id uint64, o volume.Owner, data []byte) (volume.Block, error) {
	b.mu.Lock()
	fail := b.failWrite
	b.mu.Unlock()
	if fail != nil {
		if err := fail(id, len(data)); err != nil {
			return volume.Block{}, err
		}
	}
	var c []byte
	if !b.forget {
		c = bytes.Clone(data)
	}
	clear(data[len(data):cap(data)]) // which it may, for padding
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.data[id]; ok {
		return volume.Block{}, vfs.Errorf(vfs.KindInternal, "blocks", "block %d was written before", id)
	}
	b.data[id] = c
	b.writes++
	return volume.Block{ID: id, PG: uint32(id%5) + 1, K: 4, M: 2, Len: uint32(len(data))}, nil
}

func (b *blocks) Read(ctx context.Context, bl volume.Block, off uint32, p []byte) error {
	if err := ctx.Err(); err != nil {
		return vfs.Wrap("blocks", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failRead != nil {
		if err := b.failRead(bl.ID); err != nil {
			return err
		}
	}
	d, ok := b.data[bl.ID]
	switch {
	case !ok:
		return vfs.Errorf(vfs.KindNotFound, "blocks", "block %d", bl.ID)
	case int(bl.Len) != len(d) || bl.PG != uint32(bl.ID%5)+1 || bl.K != 4 || bl.M != 2:
		return vfs.Errorf(vfs.KindInternal, "blocks", "block %d of %d bytes is not %+v", bl.ID, len(d), bl)
	case int(off)+len(p) > len(d):
		return vfs.Errorf(vfs.KindInternal, "blocks", "[%d,%d) of %d bytes", off, int(off)+len(p), len(d))
	}
	copy(p, d[off:])
	b.readBytes += len(p)
	return nil
}

// crashing is a volume whose gateway can die and come back.
type crashing struct {
	vfs.FS // a *volume.Volume
	t      testing.TB
	meta   *metadata
	gw     *gateway
	blocks *blocks
	cfg    volume.Config
}

func (c *crashing) Allocate(ctx context.Context, cr *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	return c.volume().Allocate(ctx, cr, ino, off, n)
}

func (c *crashing) Deallocate(ctx context.Context, cr *vfs.Cred, ino vfs.Ino, off, n uint64) error {
	return c.volume().Deallocate(ctx, cr, ino, off, n)
}

func (c *crashing) Seek(ctx context.Context, ino vfs.Ino, off uint64, what vfs.SeekFor) (vfs.SeekResult, error) {
	return c.volume().Seek(ctx, ino, off, what)
}

func (c *crashing) Clone(ctx context.Context, cr *vfs.Cred, src vfs.Ino, srcOff uint64, dst vfs.Ino, dstOff, n uint64) error {
	return c.volume().Clone(ctx, cr, src, srcOff, dst, dstOff, n)
}

func newCrashing(t testing.TB, cfg volume.Config) *crashing {
	return newCrashingAt(t, cfg, fsm.Level)
}

// newCrashingAt is one with metadata of an earlier level.
func newCrashingAt(t testing.TB, cfg volume.Config, level uint32) *crashing {
	c := &crashing{t: t, meta: newMetadataAt(t, level), blocks: newBlocks(), cfg: cfg}
	c.start()
	t.Cleanup(func() { c.volume().Abandon() })
	return c
}

func (c *crashing) volume() *volume.Volume { return c.FS.(*volume.Volume) }

// Unwrap says whose optional interfaces are tested.
func (c *crashing) Unwrap() vfs.FS { return c.FS }

func (c *crashing) start() {
	g := c.meta.gateway(c.t, "gw")
	c.gw = g
	cfg := c.cfg
	cfg.FS, cfg.Shard, cfg.Meta, cfg.Blocks, cfg.Incarnation = testFS, testShard, g, c.blocks, g.incarnation
	c.FS = volume.New(cfg)
}

// Crash is the end of a gateway: what it had in memory is gone, and the next
// one registers under its name, which voids its leases.
func (c *crashing) Crash() {
	c.volume().Abandon()
	c.start()
}
