package volume_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
	"github.com/rackfs/rackfs/volume/rewrite"
)

// foldAge is long for tests, whose clock they move.
const foldAge = time.Hour

// foldRig is a volume whose clock is moved, and what folds its files.
type foldRig struct {
	*crashing
	ahead atomic.Int64 // of the clock, ns
}

func newFoldRig(t testing.TB, cfg volume.Config) *foldRig {
	r := &foldRig{}
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }
	if cfg.FlushAge == 0 {
		cfg.FlushAge = 100 * time.Hour // tests flush
	}
	r.crashing = newCrashing(t, cfg)
	return r
}

func (r *foldRig) later(d time.Duration) { r.ahead.Add(int64(d)) }

func (r *foldRig) folder(age time.Duration) *rewrite.Rewriter { return r.folderTo(age, r.blocks) }

func (r *foldRig) folderTo(age time.Duration, to volume.Blocks) *rewrite.Rewriter {
	volumes := []rewrite.Folded{{Volume: r.volume(), Shard: testShard, FS: testFS, Blocks: to}}
	return rewrite.New(rewrite.Config{
		Name: "fold", Meta: r.gw, BytesPerSecond: math.MaxInt64, Interval: time.Millisecond, IdleMax: time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
		Source: &rewrite.Folding{Age: age, Logger: slog.New(slog.DiscardHandler), Volumes: func() []rewrite.Folded { return volumes }},
	})
}

func pass(t testing.TB, f *rewrite.Rewriter) uint64 {
	t.Helper()
	n, err := f.Pass(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// extents are those of a file as the metadata has them.
func (m *metadata) extents(t tb, ino vfs.Ino) (list []*metapb.Extent, inline int) {
	t.Helper()
	g := &gateway{metadata: m}
	q := &metapb.ExtentsQ{Ino: uint64(ino)}
	for {
		r, err := g.Query(ctx, testShard, &metapb.Query{Fs: testFS, Q: &metapb.Query_Extents{Extents: q}})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.GetExtents().Extents {
			inline += len(e.Inline)
			list = append(list, e)
		}
		if q.Offset = r.GetExtents().Next; q.Offset == 0 {
			return list, inline
		}
	}
}

// bytes is the size of all keys and values of the metadata.
func (m *metadata) bytes(t testing.TB) (n int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.store.Snapshot().Scan(nil, bytes.Repeat([]byte{0xff}, 16), func(k, v []byte) bool {
		n += len(k) + len(v)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func (r *foldRig) used(t tb, ino vfs.Ino) (file, all uint64) {
	t.Helper()
	a, err := r.GetAttr(ctx, ino)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.StatFS(ctx, vfs.RootIno)
	if err != nil {
		t.Fatal(err)
	}
	return a.Used, s.UsedBytes
}

func random(n int, seed uint64) []byte {
	p := make([]byte, n)
	src := rand.New(rand.NewPCG(seed, 3))
	for i := range p {
		p[i] = byte(src.Uint32())
	}
	return p
}

// append writes data in pieces of n bytes, each of which is committed.
func (r *foldRig) append(t tb, ino vfs.Ino, off uint64, data []byte, n int) {
	t.Helper()
	for p := range slices.Chunk(data, n) {
		write(t, r, ino, off, p, vfs.FileSync)
		off += uint64(len(p))
	}
}

// A file that was appended to in small pieces is in blocks after it was left alone for a while: the same bytes, the same
// attributes and usage, fewer extents, nothing inline. Small files stay, and so does what is dirty or was just written.
func TestFold(t *testing.T) {
	r := newFoldRig(t, volume.Config{})
	f := r.folder(foldAge)
	log, small, busy := create(t, r, "log"), create(t, r, "small"), create(t, r, "busy")
	data := random(4<<20+500_000, 1)
	r.append(t, log, 0, data, 3000)
	r.append(t, small, 0, data[:4096], 1000)
	r.append(t, busy, 0, data[:40_000], 3000)
	write(t, r, busy, 100, data[:10], vfs.Unstable) // stays dirty
	if n := pass(t, f); n != 0 {
		t.Fatalf("%d blocks were made of what was just written", n)
	}
	before, inline := r.meta.extents(t, log)
	if len(before) < 1000 || inline != len(data) {
		t.Fatalf("%d extents, %d bytes inline: the test shows nothing", len(before), inline)
	}
	attr, err := r.GetAttr(ctx, log)
	if err != nil {
		t.Fatal(err)
	}
	used, all := r.used(t, log)
	meta := r.meta.bytes(t)
	r.later(foldAge + 1)
	if n := pass(t, f); n != 2 {
		t.Fatalf("%d new blocks, want one for each 4 MiB of the log", n)
	}
	after, inline := r.meta.extents(t, log)
	if len(after) != 2 || inline != 0 {
		t.Fatalf("%d extents, %d bytes inline after folding", len(after), inline)
	}
	if now := r.meta.bytes(t); now > meta-len(data) {
		t.Errorf("the metadata has %d bytes, had %d with %d bytes of the file", now, meta, len(data))
	}
	if u, a := r.used(t, log); u != used || a != all {
		t.Errorf("used %d of %d, before it %d of %d", u, a, used, all)
	}
	if a, err := r.GetAttr(ctx, log); err != nil || a != attr {
		t.Errorf("attributes %+v, before it %+v (%v)", a, attr, err)
	}
	for what, ino := range map[string]vfs.Ino{"small": small, "busy": busy} {
		if list, inline := r.meta.extents(t, ino); inline == 0 {
			t.Errorf("%s: %d extents, nothing inline", what, len(list))
		}
	}
	if s := f.Stats(); s.Files != 1 || s.Blocks != 2 || s.Bytes != uint64(len(data)) || s.RefusedParts != 0 {
		t.Errorf("%+v", s)
	}
	// Where it was folded, through this gateway, another one, and after a crash.
	other := r.meta.gateway(t, "other")
	v := volume.New(volume.Config{FS: testFS, Shard: testShard, Meta: other, Blocks: r.blocks, Incarnation: other.incarnation})
	defer v.Abandon()
	for _, fs := range []vfs.FS{r, v} {
		if !bytes.Equal(read(t, fs, log, 0, len(data)+1), data) {
			t.Fatal("bytes differ")
		}
	}
	// Nothing of it is done twice, what was dirty is folded when that was long ago.
	commit(t, r, busy)
	if n := pass(t, f); n != 0 {
		t.Fatalf("%d more blocks", n)
	}
	r.later(foldAge + 1)
	if n := pass(t, f); n != 1 {
		t.Fatalf("%d blocks of the file that was busy", n)
	}
	if n := r.volume().FragmentCount(); n != 0 {
		t.Fatalf("%d fragments are left", n)
	}
	r.Crash()
	if !bytes.Equal(read(t, r, log, 0, len(data)+1), data) {
		t.Fatal("bytes differ after a crash")
	}
}

// Many small blocks that were written over a large one, and holes, become one block where there are enough of them.
func TestCompact(t *testing.T) {
	r := newFoldRig(t, volume.Config{})
	f := r.folder(foldAge)
	ino := create(t, r, "f")
	model := random(6<<20, 1)
	r.append(t, ino, 0, model, 6<<20)
	for i := range 20 { // in the first chunk only
		off := i * 200_000
		copy(model[off:], random(10_000, uint64(i+2)))
		write(t, r, ino, uint64(off), model[off:off+10_000], vfs.FileSync)
	}
	copy(model[5<<20:], random(10_000, 99))
	write(t, r, ino, 5<<20, model[5<<20:5<<20+10_000], vfs.FileSync)
	if list, _ := r.meta.extents(t, ino); len(list) != 40+3 {
		t.Fatalf("%d extents", len(list))
	}
	used, all := r.used(t, ino)
	r.later(foldAge + 1)
	if n := pass(t, f); n != 1 {
		t.Fatalf("%d new blocks", n)
	}
	if list, _ := r.meta.extents(t, ino); len(list) != 1+3 {
		t.Fatalf("%d extents after compaction", len(list))
	}
	if u, a := r.used(t, ino); u != used || a != all {
		t.Errorf("used %d of %d, before it %d of %d", u, a, used, all)
	}
	if !bytes.Equal(read(t, r, ino, 0, 7<<20), model) {
		t.Fatal("bytes differ")
	}
	r.reap(t)
	if !bytes.Equal(read(t, r, ino, 0, 7<<20), model) {
		t.Fatal("bytes differ after the old blocks are gone")
	}
}

// purge does what truncation and deletion left for later.
func (m *metadata) purge(t tb) {
	t.Helper()
	for m.mustApply(t, &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{}}}).GetPurge().GetMore() {
	}
}

// reap ends the grace of all dying blocks, and deletes what is dead as stores do.
func (r *foldRig) reap(t tb) {
	t.Helper()
	for r.meta.mustApply(t, &metapb.Command{Op: &metapb.Command_ReapBlocks{ReapBlocks: &metapb.ReapBlocks{Through: math.MaxUint64}}}).GetReap().GetMore() {
	}
	r.blocks.mu.Lock()
	var ids []uint64
	for id := range r.blocks.data {
		ids = append(ids, id)
	}
	r.blocks.mu.Unlock()
	for i, s := range r.meta.states(t, ids...) {
		if s == metapb.BlockState_BLOCK_DEAD {
			r.blocks.mu.Lock()
			delete(r.blocks.data, ids[i])
			r.blocks.mu.Unlock()
		}
	}
}

// What is written between the reading and the command wins. A new block of which nothing was taken is dead when
// the pass is over.
func TestFoldLoses(t *testing.T) {
	r := newFoldRig(t, volume.Config{})
	f := r.folder(foldAge)
	some, all := create(t, r, "some"), create(t, r, "all")
	model := map[vfs.Ino][]byte{some: random(40_960, 1), all: random(8192, 2)}
	for ino, p := range model {
		r.append(t, ino, 0, p, 4096)
	}
	r.later(foldAge + 1)
	var ids []uint64
	r.blocks.setFailWrite(func(id uint64, n int) error {
		ids = append(ids, id)
		ino := all
		if n > 8192 {
			ino = some
		}
		for off := 0; off < 8192; off += 4096 {
			p := random(100, uint64(off)+7)
			copy(model[ino][off:], p)
			write(t, r, ino, uint64(off), p, vfs.FileSync)
		}
		return nil
	})
	if n := pass(t, f); n != 1 {
		t.Fatalf("%d new blocks", n)
	}
	r.blocks.setFailWrite(nil)
	if s := f.Stats(); s.RefusedParts != 4 || s.Bytes != 40_960-8192 {
		t.Fatalf("%+v", s)
	}
	for ino, p := range model {
		if !bytes.Equal(read(t, r, ino, 0, len(p)), p) {
			t.Fatal("bytes differ")
		}
	}
	live, dead := 0, 0
	for _, s := range r.meta.states(t, ids...) {
		switch s {
		case metapb.BlockState_BLOCK_LIVE:
			live++
		case metapb.BlockState_BLOCK_DEAD:
			dead++
		}
	}
	if live != 1 || dead != 1 {
		t.Fatalf("blocks %x: %d live, %d dead", ids, live, dead)
	}
	// It is remembered, and done when the writes were long ago: what is left of "some" is two pages beside a block.
	r.later(foldAge + 1)
	if n := pass(t, f); n != 2 {
		t.Fatalf("%d new blocks", n)
	}
	for ino, p := range model {
		if _, inline := r.meta.extents(t, ino); inline != 0 {
			t.Fatalf("%d bytes inline", inline)
		}
		if !bytes.Equal(read(t, r, ino, 0, len(p)), p) {
			t.Fatal("bytes differ")
		}
	}
}

// A gateway that dies after it wrote a block and before the files use it: nothing changed, and the block is dead.
func TestCrashInFolding(t *testing.T) {
	r := newFoldRig(t, volume.Config{})
	f := r.folder(foldAge)
	ino := create(t, r, "f")
	data := random(100_000, 1)
	r.append(t, ino, 0, data, 4096)
	r.later(foldAge + 1)
	var id atomic.Uint64
	r.blocks.setFailWrite(func(n uint64, _ int) error {
		id.Store(n)
		return nil
	})
	r.meta.mu.Lock()
	r.meta.fail = func(cmd *metapb.Command) error {
		if cmd.GetRewriteExtents() != nil || cmd.GetReturnBlocks() != nil {
			return vfs.KindUnavailable.Err("meta")
		}
		return nil
	}
	r.meta.mu.Unlock()
	if n, err := f.Pass(ctx); n != 0 || vfs.KindOf(err) != vfs.KindUnavailable {
		t.Fatalf("%d blocks, %v", n, err)
	}
	if n := r.volume().FragmentCount(); n != 1 {
		t.Fatalf("%d fragments are remembered after a failure", n)
	}
	if s := r.meta.states(t, id.Load())[0]; s != metapb.BlockState_BLOCK_LEASED {
		t.Fatalf("%v", s)
	}
	r.meta.mu.Lock()
	r.meta.fail = nil
	r.meta.mu.Unlock()
	r.Crash()
	if s := r.meta.states(t, id.Load())[0]; s != metapb.BlockState_BLOCK_DEAD {
		t.Fatalf("%v after the gateway's end", s)
	}
	if !bytes.Equal(read(t, r, ino, 0, len(data)+1), data) {
		t.Fatal("bytes differ")
	}
	// The next one folds what is flushed there again.
	write(t, r, ino, uint64(len(data)), data[:10], vfs.FileSync)
	r.later(foldAge + 1)
	if n := pass(t, r.folder(foldAge)); n != 1 {
		t.Fatalf("%d new blocks", n)
	}
	if !bytes.Equal(read(t, r, ino, 0, len(data)+11), append(slices.Clone(data), data[:10]...)) {
		t.Fatal("bytes differ")
	}
}

// BenchmarkFold folds 1 MiB that was written in flushes of 4 KiB: CPU per MiB, without coding and replicas, and the
// bytes that the metadata has for it before and after.
func BenchmarkFold(b *testing.B) {
	r := newFoldRig(b, volume.Config{})
	r.blocks.forget = true
	f := r.folder(foldAge)
	p := random(1<<20, 1)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	empty, before, after := 0, 0, 0
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		ino := create(b, r, fmt.Sprint(i))
		if i == 0 {
			empty = r.meta.bytes(b)
		}
		r.append(b, ino, 0, p, 4096)
		if i == 0 {
			before = r.meta.bytes(b) - empty
		}
		r.later(foldAge + 1)
		b.StartTimer()
		if n := pass(b, f); n != 1 {
			b.Fatalf("%d new blocks", n)
		}
		if i == 0 {
			b.StopTimer()
			after = r.meta.bytes(b) - empty
			b.StartTimer()
		}
	}
	b.ReportMetric(float64(before), "meta-B/MiB-before")
	b.ReportMetric(float64(after), "meta-B/MiB-after")
}
