package fsm

import (
	"math"
	"slices"
	"testing"

	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func reapCmd(through uint64, most uint32) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_ReapBlocks{ReapBlocks: &metapb.ReapBlocks{Through: through, Max: most}}}
}

func returnCmd(first ...uint64) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_ReturnBlocks{ReturnBlocks: &metapb.ReturnBlocks{First: first}}}
}

func rewriteCmd(ino uint64, parts ...*metapb.ExtentRewrite) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_RewriteExtents{RewriteExtents: &metapb.RewriteExtents{Ino: ino, Extents: parts}}}
}

func (r *rig) info() *metapb.ShardInfoR {
	r.t.Helper()
	return r.query(&metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}}).GetShardInfo()
}

func (r *rig) blockStates(ids ...uint64) []metapb.BlockState {
	r.t.Helper()
	res := r.query(&metapb.Query{Q: &metapb.Query_BlockStates{BlockStates: &metapb.BlockStatesQ{Ids: ids}}})
	if res.Kind != 0 {
		r.t.Fatalf("block states: %s %s", vfs.Kind(res.Kind), res.Text)
	}
	return res.GetBlockStates().States
}

// extentsOf lists all extents of a file.
func (r *rig) extentsOf(ino uint64) []*metapb.Extent {
	r.t.Helper()
	res := r.query(&metapb.Query{Q: &metapb.Query_Extents{Extents: &metapb.ExtentsQ{Ino: ino}}})
	if res.Kind != 0 || res.GetExtents().Next != 0 {
		r.t.Fatalf("extents: %s %s", vfs.Kind(res.Kind), res.Text)
	}
	return res.GetExtents().Extents
}

// rewrite puts a run of a file's extents into one new block, or each into one of its
// own. Some name what is not there. No byte changes, and no attribute.
func (d *dataModel) rewrite() {
	if d.m.Level() < levelCollect {
		d.rt.Skip("level 1")
	}
	ino, f := d.pick()
	list := d.extentsOf(ino)
	if len(list) == 0 {
		d.rt.Skip("empty")
	}
	from := rapid.IntRange(0, len(list)-1).Draw(d.rt, "from")
	list = list[from : from+rapid.IntRange(1, len(list)-from).Draw(d.rt, "count")]
	last := list[len(list)-1]
	if whole := last.Offset + uint64(last.Length) - list[0].Offset; whole <= blockMax && rapid.Bool().Draw(d.rt, "fold") {
		d.fold(ino, f, list, int(whole))
		return
	}
	var parts []*metapb.ExtentRewrite
	for _, e := range list {
		parts = append(parts, d.part(f, e, d.newBlock(f.data[e.Offset:e.Offset+uint64(e.Length)]), e.Offset))
	}
	d.send(ino, f, parts)
}

func (d *dataModel) fold(ino uint64, f *modelFile, list []*metapb.Extent, n int) {
	start := list[0].Offset
	block := d.newBlock(f.data[start : start+uint64(n)])
	var parts []*metapb.ExtentRewrite
	for _, e := range list {
		parts = append(parts, d.part(f, e, block, start))
	}
	d.send(ino, f, parts)
}

func (d *dataModel) newBlock(content []byte) uint64 {
	if len(d.ids) == 0 {
		d.alloc()
	}
	id := d.ids[0]
	d.ids = d.ids[1:]
	d.blocks[id] = slices.Clone(content)
	return id
}

// part is e, or a part of it, put into a block that begins at byte start of the file.
func (d *dataModel) part(f *modelFile, e *metapb.Extent, block, start uint64) *metapb.ExtentRewrite {
	w := &metapb.ExtentRewrite{
		Offset: e.Offset, Length: e.Length, OldBlock: e.Block, OldBlockOffset: e.BlockOffset,
		Block: block, BlockOffset: uint32(e.Offset - start), BlockLength: uint32(len(d.blocks[block])), Pg: 7, K: 2, M: 2,
	}
	if e.Block == 0 {
		w.InlineHash = xxhash.Sum64(e.Inline)
	} else if e.Length > 2 && rapid.Bool().Draw(d.rt, "inner") {
		w.Offset, w.BlockOffset, w.OldBlockOffset, w.Length = w.Offset+1, w.BlockOffset+1, w.OldBlockOffset+1, w.Length-2
	}
	if rapid.IntRange(0, 5).Draw(d.rt, "wrong") == 0 {
		w.OldBlockOffset++
		w.InlineHash++
	}
	return w
}

func (d *dataModel) send(ino uint64, f *modelFile, parts []*metapb.ExtentRewrite) {
	before := d.attr(ino)
	res := d.one(rewriteCmd(ino, parts...))
	switch vfs.Kind(res.Kind) {
	case vfs.KindOK:
	case vfs.KindTooMany:
		return // as a whole
	default:
		d.rt.Fatalf("rewrite: %s %s", vfs.Kind(res.Kind), res.Text)
	}
	took := make(map[uint64]bool)
	sum := uint64(0)
	for i, n := range res.GetRewrite().Parts {
		w := parts[i]
		if right := n == w.Length; n != 0 && !right {
			d.rt.Fatalf("part %v: %d bytes", w, n)
		}
		took[w.Block] = took[w.Block] || n > 0
		sum += uint64(n)
	}
	if sum != res.GetRewrite().Bytes {
		d.rt.Fatalf("%d bytes, parts %v", res.GetRewrite().Bytes, res.GetRewrite().Parts)
	}
	*d.moved += int(sum)
	for block, live := range took {
		want := metapb.BlockState_BLOCK_LEASED
		if live {
			want = metapb.BlockState_BLOCK_LIVE
		}
		if s := d.blockStates(block)[0]; s != want {
			d.rt.Fatalf("block %#x is %v, want %v", block, s, want)
		}
	}
	after := d.attr(ino)
	// What cuts voided and was in the way may be gone; nothing else changes.
	if after.Attr.Used > before.Attr.Used {
		d.rt.Fatalf("uses %d bytes, before %d", after.Attr.Used, before.Attr.Used)
	}
	after.Attr.Used = before.Attr.Used
	if a, b := show(after.ProtoReflect()), show(before.ProtoReflect()); a != b {
		d.rt.Fatalf("attributes changed: %s, were %s", a, b)
	}
}

func (d *dataModel) reap() {
	if d.m.Level() < levelCollect {
		d.rt.Skip("level 1")
	}
	info := d.info()
	through := uint64(rapid.IntRange(0, int(info.DyingNext)).Draw(d.rt, "through"))
	res := d.ok(reapCmd(through, uint32(rapid.IntRange(0, 3).Draw(d.rt, "max")))).GetReap()
	for _, b := range res.Blocks {
		if s := d.states[b.Id]; s != metapb.BlockState_BLOCK_DYING || b.Pg != 7 {
			d.rt.Fatalf("reaped %v, which was %v", b, s)
		}
		if s := d.blockStates(b.Id)[0]; s != metapb.BlockState_BLOCK_DEAD {
			d.rt.Fatalf("reaped %v and is %v", b, s)
		}
		// Used once, though its unit may still be leased.
		ino, f := d.anyFile()
		if f == nil {
			continue
		}
		again := d.one(&metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{
			Ino: ino, Epoch: f.lease.epoch, Size: 1, Extents: []*metapb.NewExtent{{Length: 1, Block: b.Id, ProfileK: 1, ProfileM: 1}},
		}}})
		if k := vfs.Kind(again.Kind); k != vfs.KindExists && k != vfs.KindFenced {
			d.rt.Fatalf("a reaped block came back: %s", k)
		}
	}
	if left := d.info().DyingBlocks; left != info.DyingBlocks-uint64(len(res.Blocks)) {
		d.rt.Fatalf("%d dying blocks, were %d, %d reaped", left, info.DyingBlocks, len(res.Blocks))
	}
}

func (d *dataModel) anyFile() (uint64, *modelFile) {
	for _, ino := range sortedKeys(d.files) {
		return ino, d.files[ino]
	}
	return 0, nil
}

// giveBack returns units; a commit with an id of theirs is refused from then on.
func (d *dataModel) giveBack() {
	if d.m.Level() < levelCollect || len(d.units) == 0 {
		d.rt.Skip("nothing to return")
	}
	unit := rapid.SampledFrom(d.units).Draw(d.rt, "unit")
	d.drop(unit)
}

func (d *dataModel) drop(units ...uint64) {
	units = slices.Clone(units)
	d.ok(returnCmd(units...))
	for _, unit := range units {
		d.units = slices.DeleteFunc(d.units, func(u uint64) bool { return u == unit })
		d.ids = slices.DeleteFunc(d.ids, func(id uint64) bool { return id&^(blockUnit-1) == unit })
		ino, f := d.anyFile()
		if f == nil {
			continue
		}
		d.fails(vfs.KindFenced, &metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{
			Ino: ino, Epoch: f.lease.epoch, Size: 1, Extents: []*metapb.NewExtent{{Length: 1, Block: unit, ProfileK: 1, ProfileM: 1}},
		}}})
		d.fails(vfs.KindFenced, rewriteCmd(ino, &metapb.ExtentRewrite{Length: 1, Block: unit, BlockLength: 1, K: 1, OldBlock: 1}))
	}
}

// compareStates sees that blocks only go from leased to live, dying and dead.
func (d *dataModel) compareStates() {
	ids := sortedKeys(d.blocks)
	for i, s := range d.blockStates(ids...) {
		id := ids[i]
		was, seen := d.states[id]
		order := []metapb.BlockState{metapb.BlockState_BLOCK_LEASED, metapb.BlockState_BLOCK_LIVE, metapb.BlockState_BLOCK_DYING, metapb.BlockState_BLOCK_DEAD}
		if seen && slices.Index(order, s) < slices.Index(order, was) {
			d.rt.Fatalf("block %#x is %v and was %v", id, s, was)
		}
		d.states[id] = s
	}
}

// TestLevel2Begins raises a shard in which more blocks are dying than one command queues.
func TestLevel2Begins(t *testing.T) {
	r := newNamespaceRig(t, Options{limits: tiny})
	var ids []uint64
	for range 30 {
		ino, block, epoch := liveBlock(r)
		ids = append(ids, block)
		size := uint64(0)
		r.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: ino, Set: &metapb.AttrSet{Size: &size}, LeaseEpoch: epoch}}})
		r.ok(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: 1, Name: []byte("blockfile")}}})
	}
	r.drain(0)
	r.fails(vfs.KindNotSupported, reapCmd(math.MaxUint64, 0))
	r.fails(vfs.KindNotSupported, &metapb.Command{Id: &metapb.Identity{}, Op: reapCmd(1, 0).Op})
	if i := r.info(); i.DyingNext != 0 || i.DyingBlocks != 0 {
		t.Fatalf("level 1: %v", i)
	}
	r.raise()
	if i := r.info(); i.DyingNext != 1 || i.DyingBlocks != 0 || i.PurgeQueue != 1 {
		t.Fatalf("raised: %v", i)
	}
	if got := r.ok(reapCmd(math.MaxUint64, 0)).GetReap(); len(got.Blocks) > 0 {
		t.Fatalf("reaped before it had a number: %v", got)
	}
	commands := 0
	for more := true; more; commands++ {
		more = r.ok(&metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: 9}}}).GetPurge().More
		r.check()
	}
	if commands < 5 {
		t.Fatalf("%d commands: the test shows nothing", commands)
	}
	if i := r.info(); i.DyingNext != 31 || i.DyingBlocks != 30 || i.PurgeQueue != 0 {
		t.Fatalf("queued: %v", i)
	}
	got := r.ok(reapCmd(29, 1000)).GetReap()
	if len(got.Blocks) != tiny.reap || !got.More {
		t.Fatalf("reaped %v", got)
	}
	for got.More {
		got = r.ok(reapCmd(29, 1000)).GetReap()
		r.check()
	}
	for i, s := range r.blockStates(ids...) {
		want := metapb.BlockState_BLOCK_DEAD
		if i == 29 {
			want = metapb.BlockState_BLOCK_DYING
		}
		if s != want {
			t.Fatalf("block %d is %v", i, s)
		}
	}
}

// TestReapBounds shows that one ReapBlocks of the real limits touches a bounded number of keys.
func TestReapBounds(t *testing.T) {
	r := newNamespaceRig(t, Options{})
	r.raise()
	f := createCmd(1, "f")
	f.GetCreate().Open = uint32(vfs.OpenWrite)
	res := r.ok(f).GetCreate()
	const blocks = 1100
	at := uint64(0)
	for range blocks { // each in a unit of its own, the most keys
		id := r.ok(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 1}}}).GetBlocks().First
		r.ok(&metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{Ino: res.Attr.Ino, Epoch: res.Lease.Epoch, Size: at + 100, Extents: []*metapb.NewExtent{
			{Offset: at, Length: 100, Block: id, ProfileK: 4, ProfileM: 2},
		}}}})
		at += 100
	}
	size := uint64(0)
	r.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: res.Attr.Ino, Set: &metapb.AttrSet{Size: &size}, LeaseEpoch: res.Lease.Epoch}}})
	for more := true; more; {
		r.flush()
		more = r.ok(&metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: 4000}}}).GetPurge().More
		if n := len(r.batch); n > levelLimits.keys+20 {
			t.Fatalf("a Purge wrote %d keys", n)
		}
	}
	r.flush()
	got := r.ok(reapCmd(math.MaxUint64, 0)).GetReap()
	if len(got.Blocks) != 1000 || !got.More {
		t.Fatalf("%d blocks, more %v", len(got.Blocks), got.More)
	}
	if n := len(r.batch); n > levelLimits.keys || n < 3000 {
		t.Fatalf("a ReapBlocks wrote %d keys", n)
	}
	r.check()
}
