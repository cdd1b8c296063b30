package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/fsm"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
	"github.com/rackfs/rackfs/volume/rewrite"
)

// shardOne is the state machine of a namespace shard without replication, and one file system and gateway on it.
type shardOne struct {
	t      testing.TB
	mu     sync.Mutex
	store  *fsm.MemStore
	m      *fsm.Machine
	index  uint64
	origin uint64
	// before, if set, is called with each RewriteExtents before it is applied.
	before func()

	leased, returned []uint64 // units of block ids
}

func newShardOne(t testing.TB) *shardOne {
	s := &shardOne{t: t, store: fsm.NewMemStore()}
	var err error
	if s.m, err = fsm.Open(s.store, fsm.Options{Shard: 1, Cluster: []byte("test cluster id.")}); err != nil {
		t.Fatal(err)
	}
	for level := range uint32(fsm.Level - 1) {
		s.must(&metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: level + 2}}})
	}
	s.must(&metapb.Command{Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{RootMode: 0o777, HashKey: make([]byte, 16)}}})
	s.origin = s.must(&metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: "gw", Incarnation: make([]byte, 16)}}}).GetOrigin().Origin
	return s
}

func (s *shardOne) must(c *metapb.Command) *metapb.Result {
	s.t.Helper()
	r, err := s.Apply(context.Background(), 1, c)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *shardOne) Apply(_ context.Context, _ uint16, c *metapb.Command) (*metapb.Result, error) {
	if c.GetRewriteExtents() != nil && s.before != nil {
		s.before()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index++
	c.Fs, c.Time = 1, &metapb.Time{Sec: int64(s.index)}
	if s.origin != 0 {
		c.Id = &metapb.Identity{Origin: s.origin, Seq: s.index}
	}
	enc, err := (&metapb.Entry{Format: 1, Commands: []*metapb.Command{c}}).MarshalVT()
	if err != nil {
		return nil, err
	}
	r, err := s.m.Apply(s.index, enc, s.store)
	if err != nil {
		return nil, err
	}
	s.m.Flushed()
	if k := vfs.Kind(r[0].Kind); k != vfs.KindOK {
		return nil, &vfs.Error{Kind: k, Op: "apply", Text: r[0].Text}
	}
	if b := r[0].GetBlocks(); b != nil {
		s.leased = append(s.leased, b.First)
	}
	s.returned = append(s.returned, c.GetReturnBlocks().GetFirst()...)
	return r[0], nil
}

func (s *shardOne) Query(_ context.Context, _ uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := fsm.Query(s.store, nil, q)
	if k := vfs.Kind(r.Kind); k != vfs.KindOK {
		return nil, &vfs.Error{Kind: k, Op: "query", Text: r.Text}
	}
	return r, nil
}

// files are files of the shard whose blocks are real, and what they hold.
type files struct {
	*shardOne
	rig   *rig
	next  uint64 // block id
	lease map[uint64]uint64
	want  map[uint64][]byte
}

func (f *files) create(name string) uint64 {
	f.t.Helper()
	r := f.must(&metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{Parent: 1, Name: []byte(name), Type: 1, Open: 2}}}).GetCreate()
	f.lease[r.Attr.Ino] = r.Lease.Epoch
	return r.Attr.Ino
}

// write writes data as one block.
func (f *files) write(ino, off uint64, data []byte) {
	f.t.Helper()
	b, err := f.rig.blocks.Write(f.t.Context(), f.next, volume.Owner{FS: 1, Ino: ino, Offset: off}, slices.Clone(data))
	if err != nil {
		f.t.Fatal(err)
	}
	f.next++
	f.commit(ino, &metapb.NewExtent{Offset: off, Length: uint32(len(data)), Block: b.ID, Pg: b.PG, ProfileK: uint32(b.K), ProfileM: uint32(b.M)}, data)
}

func (f *files) commit(ino uint64, e *metapb.NewExtent, data []byte) {
	f.t.Helper()
	f.must(&metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{
		Ino: ino, Epoch: f.lease[ino], Size: e.Offset + uint64(len(data)), Extents: []*metapb.NewExtent{e}}}})
	p := f.want[ino]
	if need := int(e.Offset) + len(data); len(p) < need {
		p = append(p, make([]byte, need-len(p))...)
	}
	copy(p[e.Offset:], data)
	f.want[ino] = p
}

// clone shares n bytes of src with ino.
func (f *files) clone(src, from, ino, off, n uint64) {
	f.t.Helper()
	f.must(&metapb.Command{Op: &metapb.Command_CloneRange{CloneRange: &metapb.CloneRange{
		Ino: ino, LeaseEpoch: f.lease[ino], Offset: off, Length: n, SrcIno: src, SrcLeaseEpoch: f.lease[src], SrcOffset: from,
	}}})
	p := slices.Clone(f.want[ino])
	if need := int(off + n); len(p) < need {
		p = append(p, make([]byte, need-len(p))...)
	}
	copy(p[off:], f.want[src][from:from+n])
	f.want[ino] = p
}

// check reads every file and returns the k of its blocks.
func (f *files) check() (ks []uint32) {
	f.t.Helper()
	for ino, want := range f.want {
		r, err := f.Query(f.t.Context(), 1, &metapb.Query{Fs: 1, Q: &metapb.Query_Extents{Extents: &metapb.ExtentsQ{Ino: ino, MaxExtents: 100000}}})
		if err != nil {
			f.t.Fatal(err)
		}
		got := make([]byte, len(want))
		for _, e := range r.GetExtents().Extents {
			p := got[e.Offset:][:e.Length]
			if e.Block == 0 {
				copy(p, e.Inline)
				continue
			}
			ks = append(ks, e.K)
			b := volume.Block{ID: e.Block, PG: e.Pg, K: uint8(e.K), M: uint8(e.M), Len: e.BlockLength}
			if err := f.rig.blocks.Read(f.t.Context(), b, e.BlockOffset, p); err != nil {
				f.t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			f.t.Fatalf("inode %d holds other bytes than were written", ino)
		}
	}
	slices.Sort(ks)
	return slices.Compact(ks)
}

func reencode(f *files, r *rig) (*reencoding, *rewrite.Rewriter) {
	f.leased, f.returned = nil, nil
	s := &reencoding{cmap: r.live, blocks: func(uint32) *blocks { return r.blocks }, places: func() []place { return []place{{shard: 1, pool: testPool}} }}
	return s, rewrite.New(rewrite.Config{
		Name: "reencode", Source: s, Meta: f, BytesPerSecond: 1 << 30, Interval: time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
}

// Blocks of a closed group, whole, in pieces and in very many pieces, become blocks of the full profile; what
// is written or removed while that goes on stays as it was written.
func TestReencode(t *testing.T) {
	r := newRig(t, 6)
	small := group(r.raw, 1, 2, 1, 2, 3, 4)
	r.start()
	f := &files{shardOne: newShardOne(t), rig: r, lease: map[uint64]uint64{}, want: map[uint64][]byte{}}
	f.next = f.must(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 4096}}}).GetBlocks().First
	whole, pieces, many, gone, busy := f.create("whole"), f.create("pieces"), f.create("many"), f.create("gone"), f.create("busy")
	f.write(whole, 0, random(2<<20))
	f.write(whole, 2<<20, random(5000))
	f.write(pieces, 4096, random(300<<10))
	f.write(pieces, 50000, random(70000))
	f.commit(pieces, &metapb.NewExtent{Offset: 8192, Length: 100, Inline: bytes.Repeat([]byte{7}, 100)}, bytes.Repeat([]byte{7}, 100))
	f.write(many, 0, random(4<<20))
	for off := uint64(512); off < 4<<20; off += 4096 { // 1024 pieces are left of the block
		p := bytes.Repeat([]byte{byte(off >> 12)}, 64)
		f.commit(many, &metapb.NewExtent{Offset: off, Length: 64, Inline: p}, p)
	}
	f.write(gone, 0, random(100<<10))
	f.write(busy, 0, random(100<<10))
	// Blocks that others share: elsewhere, before where the block would begin, twice in one file, and when the owner is gone.
	shared, twice := f.create("shared"), f.create("twice")
	f.clone(whole, 0, shared, 1<<20, 2<<20)
	f.clone(whole, 1<<20, shared, 0, 8192)
	f.clone(gone, 0, shared, 8<<20, 100<<10)
	f.clone(many, 8192, twice, 0, 8192)
	f.clone(twice, 0, twice, 8192, 8192)
	if ks := f.check(); !slices.Equal(ks, []uint32{2}) {
		t.Fatalf("blocks of k=%v", ks)
	}
	r.change(func(m *metapb.ClusterMapR) {
		small.State = metapb.PGState_PG_CLOSED
		for i := range uint32(4) {
			group(m, 2+i, 4, 1, 2, 3, 4, 5, 6)
		}
	})
	if err := r.live.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	delete(f.want, gone)
	once := sync.OnceFunc(func() {
		f.must(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: 1, Name: []byte("gone")}}})
	})
	at := uint64(0)
	f.before = func() {
		once()
		p := random(4096)
		f.commit(busy, &metapb.NewExtent{Offset: at, Length: 4096, Inline: p}, p)
		at += 8192 // elsewhere than what was read for this command
	}
	source, re := reencode(f, r)
	if got := source.Pending(); got != "[1]" {
		t.Fatalf("groups to empty: %s", got)
	}
	n, err := re.Pass(t.Context())
	if err != nil || n < 5 {
		t.Fatalf("%d blocks re-encoded: %v", n, err)
	}
	if ks := f.check(); !slices.Equal(ks, []uint32{4}) {
		t.Fatalf("blocks of k=%v after re-encoding", ks)
	}
	left, err := f.Query(t.Context(), 1, &metapb.Query{Q: &metapb.Query_Blocks{Blocks: &metapb.BlocksQ{Pgs: []uint32{1}}}})
	if err != nil || len(left.GetBlocks().Blocks) != 0 {
		t.Fatalf("left in the group: %v %v", left, err)
	}
	if n, err := re.Pass(t.Context()); n != 0 || err != nil {
		t.Fatalf("a second pass found %d blocks: %v", n, err)
	}
	// The ids it did not use are given back.
	if s := re.Stats(); s.Files < 4 || s.RefusedParts == 0 || s.UnitsKept != 0 {
		t.Fatalf("%+v", s)
	}
	if len(f.leased) == 0 || len(f.returned) != len(f.leased) {
		t.Fatalf("units %x were leased, %x returned", f.leased, f.returned)
	}
}

// Without a full group nothing is written, and what is there stays.
func TestReencodeWaits(t *testing.T) {
	r := newRig(t, 6)
	small := group(r.raw, 1, 2, 1, 2, 3, 4)
	r.start()
	f := &files{shardOne: newShardOne(t), rig: r, lease: map[uint64]uint64{}, want: map[uint64][]byte{}}
	f.next = f.must(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 4096}}}).GetBlocks().First
	f.write(f.create("f"), 0, random(100<<10))
	r.change(func(m *metapb.ClusterMapR) {
		small.State = metapb.PGState_PG_CLOSED
		group(m, 2, 3, 1, 2, 3, 4, 5)
	})
	if err := r.live.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, re := reencode(f, r)
	if n, err := re.Pass(t.Context()); n != 0 || vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatalf("%d blocks re-encoded: %v", n, err)
	}
	if ks := f.check(); !slices.Equal(ks, []uint32{2}) {
		t.Fatalf("blocks of k=%v", ks)
	}
}
