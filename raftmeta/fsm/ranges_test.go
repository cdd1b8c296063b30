package fsm

import (
	"bytes"
	"testing"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func punchCmd(ino, epoch, offset, length uint64) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_PunchHole{PunchHole: &metapb.PunchHole{Ino: ino, LeaseEpoch: epoch, Offset: offset, Length: length}}}
}

func allocateCmd(ino, epoch, offset, length, most uint64) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_Allocate{Allocate: &metapb.Allocate{
		Ino: ino, LeaseEpoch: epoch, Offset: offset, Length: length, MaxBytes: most,
	}}}
}

func cloneCmd(src, srcEpoch, srcOffset, ino, epoch, offset, length uint64) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_CloneRange{CloneRange: &metapb.CloneRange{
		Ino: ino, LeaseEpoch: epoch, Offset: offset, Length: length, SrcIno: src, SrcLeaseEpoch: srcEpoch, SrcOffset: srcOffset,
	}}}
}

func commitCmd(ino, epoch, size uint64, list ...*metapb.NewExtent) *metapb.Command {
	return &metapb.Command{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{Ino: ino, Epoch: epoch, Size: size, Extents: list}}}
}

// ranged takes the result of a piece of work on a range of f and returns where the next one begins.
func (d *dataModel) ranged(f *modelFile, res *metapb.Result, from, end uint64) uint64 {
	if res.Kind != 0 {
		d.rt.Fatalf("range %d to %d: %s %s", from, end, vfs.Kind(res.Kind), res.Text)
	}
	r := res.GetRange()
	if r.Done <= from || r.Done > end {
		d.rt.Fatalf("done up to %d of %d to %d", r.Done, from, end)
	}
	d.newAttr(f, r.Attr)
	f.lease.limit = r.Lease.ChangeLimit
	if r.Attr.Size != uint64(len(f.data)) {
		d.rt.Fatalf("%d bytes, want %d", r.Attr.Size, len(f.data))
	}
	d.compare(d.rt)
	return r.Done
}

func (d *dataModel) rangeOf(most int) (from, end uint64) {
	from = uint64(rapid.IntRange(0, most).Draw(d.rt, "from"))
	if rapid.Bool().Draw(d.rt, "aligned") {
		from &^= pageSize - 1
	}
	n := rapid.SampledFrom([]int{1, 100, pageSize - 1, pageSize, 3 * pageSize, 20 * pageSize}).Draw(d.rt, "length")
	return from, from + uint64(n)
}

func (d *dataModel) needRanges() {
	if d.m.Level() < levelPOSIX {
		d.rt.Skip("before level 3")
	}
}

func (d *dataModel) punch() {
	d.needRanges()
	ino, f := d.pick()
	from, end := d.rangeOf(len(f.data))
	for from < end {
		res := d.one(punchCmd(ino, f.lease.epoch, from, end-from))
		if vfs.Kind(res.Kind) == vfs.KindOK {
			done := min(res.GetRange().Done, uint64(len(f.data)))
			if from < done {
				clear(f.data[from:done])
			}
		}
		from = d.ranged(f, res, from, end)
	}
}

func (d *dataModel) allocate() {
	d.needRanges()
	ino, f := d.pick()
	from, end := d.rangeOf(min(len(f.data), d.maxLen-20*pageSize))
	for from < end {
		before := d.attr(ino).Attr.Used
		free := uint64(rapid.SampledFrom([]int{0, pageSize, 1 << 30}).Draw(d.rt, "free"))
		res := d.one(allocateCmd(ino, f.lease.epoch, from, end-from, free))
		if vfs.Kind(res.Kind) == vfs.KindNoSpace && free < 1<<30 {
			return
		}
		if vfs.Kind(res.Kind) == vfs.KindOK {
			r := res.GetRange()
			if need := int(r.Done); need > len(f.data) {
				f.data = append(f.data, make([]byte, need-len(f.data))...)
			}
			if r.Attr.Used < before && len(d.cuts(ino)) == 0 || r.Attr.Used > before && (r.Bytes != r.Attr.Used-before || r.Bytes > free) {
				d.rt.Fatalf("used %d after %d, told %d, free %d", r.Attr.Used, before, r.Bytes, free)
			}
		}
		from = d.ranged(f, res, from, end)
	}
}

// cuts are those of an inode in the overlay.
func (r *rig) cuts(ino uint64) []cut {
	n, err := r.m.inode(1, ino)
	if err != nil {
		r.t.Fatal(err)
	}
	return n.cuts
}

func (d *dataModel) clone() {
	d.needRanges()
	src, s := d.pick()
	ino, f := d.pick()
	if len(s.data) == 0 {
		d.rt.Skip("empty")
	}
	from := uint64(rapid.IntRange(0, (len(s.data)-1)/pageSize).Draw(d.rt, "source page")) * pageSize
	at := uint64(rapid.IntRange(0, min(len(f.data)/pageSize+1, d.maxLen/pageSize-20)).Draw(d.rt, "page")) * pageSize
	end := uint64(len(s.data))
	if rapid.Bool().Draw(d.rt, "not to the end") {
		end = min(end, from+uint64(rapid.IntRange(1, 8).Draw(d.rt, "pages"))*pageSize)
	}
	n := end - from
	if src == ino && from < at+n && at < from+n {
		d.fails(vfs.KindInvalid, cloneCmd(src, s.lease.epoch, from, ino, f.lease.epoch, at, n))
		return
	}
	if at+n > uint64(d.maxLen) {
		d.rt.Skip("too long")
	}
	whole := rapid.Bool().Draw(d.rt, "whole") && d.m.Level() >= levelService
	for done := uint64(0); done < n; {
		cmd := cloneCmd(src, s.lease.epoch, from+done, ino, f.lease.epoch, at+done, n-done)
		cmd.GetCloneRange().Whole = whole
		res := d.one(cmd)
		switch {
		case !whole:
		case vfs.Kind(res.Kind) == vfs.KindXDev: // nothing was done, as the next look at the file shows
			return
		case vfs.Kind(res.Kind) == vfs.KindOK && res.GetRange().Done != at+n:
			d.rt.Fatalf("a part of a clone: to %d of %d", res.GetRange().Done, at+n)
		}
		if vfs.Kind(res.Kind) == vfs.KindTooMany {
			return // one page in too many pieces, for the limits here
		}
		if vfs.Kind(res.Kind) == vfs.KindOK {
			to := res.GetRange().Done - at
			if need := int(at + to); need > len(f.data) {
				f.data = append(f.data, make([]byte, need-len(f.data))...)
			}
			copy(f.data[at+done:], bytes.Clone(s.data[from+done:from+to]))
			if to < n && to%pageSize != 0 {
				d.rt.Fatalf("a piece ends at byte %d", to)
			}
			*d.cloned += int(to - done)
		}
		done = d.ranged(f, res, at+done, at+n) - at
	}
}

// reservedRig has a file of origin 1 at the newest level.
func reservedRig(t *testing.T) (r *rig, ino, epoch uint64) {
	r = newNamespaceRig(t, Options{})
	r.raise()
	c := createCmd(1, "f")
	c.GetCreate().Open = uint32(vfs.OpenWrite)
	made := r.ok(c).GetCreate()
	return r, made.Attr.Ino, made.Lease.Epoch
}

// TestReserved shows that what is written into reserved extents takes their space, wherever and however.
func TestReserved(t *testing.T) {
	r, ino, epoch := reservedRig(t)
	blocks := r.ok(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 100}}}).GetBlocks()
	const size = 5 << 30
	res := r.ok(allocateCmd(ino, epoch, 0, size, size)).GetRange()
	if res.Done != size || res.Bytes != size || res.Attr.Size != size || res.Attr.Used != size {
		t.Fatalf("allocated: %v", res)
	}
	r.check()
	if got := r.extentsOf(ino); len(got) > 0 {
		t.Fatalf("readers see %v", got)
	}
	r.ok(allocateCmd(ino, epoch, size, 1<<20, size))
	none := xxhash.Sum64(nil) // of the bytes that a reserved extent does not have
	if got := r.ok(rewriteCmd(ino, &metapb.ExtentRewrite{Offset: size, Length: 1 << 20, InlineHash: none, Block: blocks.First + 9, BlockLength: 1 << 20, K: 4, M: 2})).GetRewrite(); got.Bytes != 0 {
		t.Fatalf("rewritten: %v", got)
	}
	shorter := uint64(size)
	r.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: ino, Set: &metapb.AttrSet{Size: &shorter}, LeaseEpoch: epoch}}})
	// Far from the ends of the records, across one, in the middle of a page, over it again.
	for i, e := range []*metapb.NewExtent{
		{Offset: 300 << 20, Length: 4 << 20, Block: blocks.First, ProfileK: 4, ProfileM: 2},
		{Offset: 1<<30 - 2<<20, Length: 4 << 20, Block: blocks.First + 1, ProfileK: 4, ProfileM: 2},
		{Offset: 100, Length: 10, Inline: make([]byte, 10)},
		{Offset: 200, Length: 10, Inline: make([]byte, 10)},
		{Offset: 4096, Length: 4096, Inline: make([]byte, 4096)},
		{Offset: 5000, Length: 10, Block: blocks.First + 2, ProfileK: 4, ProfileM: 2},
		{Offset: 300<<20 + 1, Length: 7, Inline: make([]byte, 7)},
	} {
		if a := r.ok(commitCmd(ino, epoch, 0, e)).GetCommit().Attr; a.Used != size || a.Size != size {
			t.Fatalf("write %d: %d bytes, %d used", i, a.Size, a.Used)
		}
		r.check()
	}
	// A hole gives its space back, once; reserving it takes that again and keeps what was written.
	if got := r.ok(punchCmd(ino, epoch, 1, 1<<30)).GetRange(); got.Attr.Used != size-1<<30 || got.Attr.Size != size || got.Done != 1+1<<30 {
		t.Fatalf("punched: %v", got)
	}
	r.check()
	r.fails(vfs.KindNoSpace, allocateCmd(ino, epoch, 0, 2<<30, 1<<30-1))
	if got := r.ok(allocateCmd(ino, epoch, 0, 2<<30, 1<<30)).GetRange(); got.Attr.Used != size || got.Bytes != 1<<30 {
		t.Fatalf("allocated again: %v", got)
	}
	if got := r.ok(allocateCmd(ino, epoch, 0, 2<<30, 0)).GetRange(); got.Bytes != 0 {
		t.Fatalf("allocated what is: %v", got)
	}
	r.check()
	// The file shrinks in the middle of a record, and grows: what was cut off is a hole.
	for _, s := range []uint64{1<<30 + 5, size} {
		a := r.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: ino, Set: &metapb.AttrSet{Size: &s}, LeaseEpoch: epoch}}}).GetAttr().Attr
		if a.Used != 1<<30+5 {
			t.Fatalf("cut to %d: %d used", s, a.Used)
		}
		r.check()
	}
	r.ok(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: 1, Name: []byte("f")}}})
	r.drain(0)
	r.check()
}

// TestRangeRules shows what commands for ranges refuse.
func TestRangeRules(t *testing.T) {
	r, ino, epoch := reservedRig(t)
	r.ok(commitCmd(ino, epoch, 10000, &metapb.NewExtent{Length: 100, Inline: make([]byte, 100)}))
	dir := r.ok(&metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{Parent: 1, Name: []byte("d"), Type: uint32(vfs.TypeDir), Attr: &metapb.AttrSet{}}}}).GetCreate().Attr.Ino
	for i, c := range []struct {
		cmd  *metapb.Command
		want vfs.Kind
	}{
		{punchCmd(ino, epoch, 0, 0), vfs.KindInvalid},
		{punchCmd(ino, epoch, 1, vfs.MaxSize), vfs.KindTooBig},
		{punchCmd(ino, epoch, vfs.MaxSize+1, 1), vfs.KindTooBig},
		{punchCmd(ino, epoch+1, 0, 1), vfs.KindFenced},
		{punchCmd(ino, 0, 0, 1), vfs.KindFenced},
		{punchCmd(dir, 0, 0, 1), vfs.KindIsDir},
		{punchCmd(99, 0, 0, 1), vfs.KindStale},
		{allocateCmd(ino, epoch, 0, 0, 9), vfs.KindInvalid},
		{allocateCmd(ino, epoch, 2, vfs.MaxSize-1, 9), vfs.KindTooBig},
		{allocateCmd(ino, epoch+1, 0, 1, 9), vfs.KindFenced},
		{allocateCmd(ino, epoch, 0, 101, 0), vfs.KindNoSpace},
		{cloneCmd(ino, epoch, 0, ino, epoch, 8192, 0), vfs.KindInvalid},
		{cloneCmd(ino, epoch, 0, ino, epoch, 8193, 4096), vfs.KindInvalid},
		{cloneCmd(ino, epoch, 1, ino, epoch, 8192, 4096), vfs.KindInvalid},
		{cloneCmd(ino, epoch, 8192, ino, epoch, 16384, 1809), vfs.KindInvalid}, // beyond the end
		{cloneCmd(ino, epoch, 12288, ino, epoch, 0, 1), vfs.KindInvalid},
		{cloneCmd(ino, epoch, 0, ino, epoch, 4096, 8192), vfs.KindInvalid}, // overlap
		{cloneCmd(ino, epoch, 0, ino, epoch, 1<<63-4096, 4096), vfs.KindTooBig},
		{cloneCmd(ino, epoch+1, 0, ino, epoch, 8192, 4096), vfs.KindFenced},
		{cloneCmd(99, 0, 0, ino, epoch, 8192, 4096), vfs.KindStale},
		{cloneCmd(dir, 0, 0, ino, epoch, 8192, 4096), vfs.KindIsDir},
		{cloneCmd(ino, epoch, 8192, ino, epoch, 16384, 1808), vfs.KindOK},
	} {
		if res := r.one(c.cmd); vfs.Kind(res.Kind) != c.want {
			t.Errorf("case %d: %s %s, want %s", i, vfs.Kind(res.Kind), res.Text, c.want)
		}
	}
	r.check()
	low, ino, epoch := newNamespaceRig(t, Options{}), uint64(2), uint64(1)
	low.ok(raiseCmd(2))
	c := createCmd(1, "f")
	c.GetCreate().Open = uint32(vfs.OpenWrite)
	low.ok(c)
	for _, c := range []*metapb.Command{punchCmd(ino, epoch, 0, 1), allocateCmd(ino, epoch, 0, 1, 1), cloneCmd(ino, epoch, 0, ino, epoch, 4096, 1)} {
		low.fails(vfs.KindNotSupported, c)
	}
}

// TestSharedBlock follows a block that three files share, through all that ends their use of it.
func TestSharedBlock(t *testing.T) {
	r, first, epoch := reservedRig(t)
	blocks := r.ok(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 100}}}).GetBlocks()
	b := blocks.First
	const n = 8 * pageSize
	r.ok(commitCmd(first, epoch, n+100, &metapb.NewExtent{Length: n, Block: b, ProfileK: 4, ProfileM: 2, Pg: 7}))
	file := func(name string) uint64 {
		c := createCmd(1, name)
		c.GetCreate().Open = uint32(vfs.OpenWrite)
		return r.ok(c).GetCreate().Attr.Ino
	}
	second, third := file("second"), file("third")
	state := func(want metapb.BlockState, places ...uint64) {
		t.Helper()
		r.check()
		if s := r.blockStates(b)[0]; s != want {
			t.Fatalf("the block is %v, want %v", s, want)
		}
		res := r.query(&metapb.Query{Q: &metapb.Query_Blocks{Blocks: &metapb.BlocksQ{Pgs: []uint32{7}}}}).GetBlocks()
		got := map[uint64]bool{}
		for _, i := range res.Blocks {
			found := false
			for _, e := range r.extentsOf(i.Ino) {
				found = found || e.Block == b && e.Offset >= i.Offset && e.Offset+uint64(e.Length) <= i.Offset+uint64(i.Length)
			}
			if !found {
				t.Fatalf("%v answered, where the block is not", i)
			}
			got[i.Ino] = true
		}
		for _, p := range places {
			if !got[p] {
				t.Fatalf("inode %d shares the block and is not answered: %v", p, res)
			}
			delete(got, p)
		}
		if len(got) > 0 {
			t.Fatalf("answered: %v", got)
		}
	}
	// The second file has a part of it before where the block would begin, the third twice.
	if got := r.ok(cloneCmd(first, epoch, 2*pageSize, second, 1, 0, 2*pageSize)).GetRange(); got.Attr.Used != 2*pageSize || got.Done != 2*pageSize {
		t.Fatal(got)
	}
	r.ok(cloneCmd(first, epoch, 0, third, 1, 0, n+100))
	r.ok(cloneCmd(third, 1, 0, third, 1, 1<<20, n))
	state(metapb.BlockState_BLOCK_LIVE, first, second, third)

	remove := func(name string) {
		t.Helper()
		r.ok(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: 1, Name: []byte(name)}}})
	}
	remove("f") // its owner
	state(metapb.BlockState_BLOCK_LIVE, second, third)
	// Rewriting moves the bytes of one place only.
	rw := r.ok(rewriteCmd(third, &metapb.ExtentRewrite{Length: n, OldBlock: b, Block: b + 1, BlockLength: n, K: 4, M: 2})).GetRewrite()
	if rw.Bytes != n {
		t.Fatal(rw)
	}
	state(metapb.BlockState_BLOCK_LIVE, second, third)
	r.ok(punchCmd(third, 1, 1<<20+pageSize, pageSize)) // in two pieces
	state(metapb.BlockState_BLOCK_LIVE, second, third)
	size := uint64(1 << 20)
	r.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: third, Set: &metapb.AttrSet{Size: &size}, LeaseEpoch: 1}}})
	state(metapb.BlockState_BLOCK_LIVE, second)
	remove("second")
	state(metapb.BlockState_BLOCK_DYING)
}

// TestBoundedRanges works on a file of many extents under the real limits.
func TestBoundedRanges(t *testing.T) {
	r, ino, epoch := reservedRig(t)
	const blocks = 3000
	for at := uint64(0); at < blocks; {
		u := r.ok(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 500}}}).GetBlocks()
		var list []*metapb.NewExtent
		for i := range uint64(500) {
			list = append(list, &metapb.NewExtent{Offset: (at + i) * blockMax, Length: blockMax, Block: u.First + i, ProfileK: 4, ProfileM: 2})
		}
		r.ok(commitCmd(ino, epoch, blocks*blockMax, list...))
		at += 500
	}
	c := createCmd(1, "g")
	c.GetCreate().Open = uint32(vfs.OpenWrite)
	dst := r.ok(c).GetCreate().Attr.Ino
	r.flush()
	run := func(cmd func(done uint64) *metapb.Command) (commands int) {
		t.Helper()
		for done := uint64(0); done < blocks*blockMax; commands++ {
			res := r.ok(cmd(done)).GetRange()
			if res.Done <= done || len(r.batch) > levelLimits.keys {
				t.Fatalf("done %d after %d, %d records", res.Done, done, len(r.batch))
			}
			done = res.Done
			r.flush()
		}
		r.check()
		return commands
	}
	// As a whole: into a hole, and over what is there. What is refused changes nothing.
	whole := func(n uint64) *metapb.Result {
		cmd := cloneCmd(ino, epoch, 0, dst, 1, 0, n*blockMax)
		cmd.GetCloneRange().Whole = true
		before := r.attr(dst).Attr
		res := r.one(cmd)
		if len(r.batch) > levelLimits.keys {
			t.Fatalf("%d blocks: %d records", n, len(r.batch))
		}
		r.flush()
		if after := r.attr(dst).Attr; vfs.Kind(res.Kind) == vfs.KindXDev && !proto.Equal(before, after) {
			t.Fatalf("%d blocks are refused, and %v is %v", n, before, after)
		}
		return res
	}
	for _, c := range []struct {
		blocks uint64
		want   vfs.Kind
	}{{blocks, vfs.KindXDev}, {1300, vfs.KindXDev}, {1200, vfs.KindOK}, {1200, vfs.KindXDev}, {300, vfs.KindOK}} {
		res := whole(c.blocks)
		if vfs.Kind(res.Kind) != c.want || c.want == vfs.KindOK && res.GetRange().Done != c.blocks*blockMax {
			t.Fatalf("%d blocks: %v", c.blocks, res)
		}
	}
	r.check()
	r.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: dst, Set: &metapb.AttrSet{Size: proto.Uint64(0)}, LeaseEpoch: 1}}})
	r.flush()
	clones := run(func(done uint64) *metapb.Command {
		return cloneCmd(ino, epoch, done, dst, 1, done, blocks*blockMax-done)
	})
	again := run(func(done uint64) *metapb.Command { // over what is there
		return cloneCmd(ino, epoch, done, dst, 1, done, blocks*blockMax-done)
	})
	punches := run(func(done uint64) *metapb.Command { return punchCmd(ino, epoch, done, blocks*blockMax-done) })
	// Holes between more pieces than a command can look at: each is filled.
	const pages = 3000
	for at := uint64(0); at < pages; at += 1000 {
		var list []*metapb.NewExtent
		for i := range uint64(500) {
			list = append(list, &metapb.NewExtent{Offset: (at + 2*i) * pageSize, Length: pageSize, Inline: make([]byte, pageSize)})
		}
		r.ok(commitCmd(ino, epoch, 0, list...))
	}
	for done := uint64(0); done < pages*pageSize; {
		done = r.ok(allocateCmd(ino, epoch, done, pages*pageSize-done, 1<<50)).GetRange().Done
	}
	if a := r.attr(ino).Attr; a.Used != pages*pageSize {
		t.Fatalf("%d bytes used of %d", a.Used, pages*pageSize)
	}
	r.check()
	r.ok(punchCmd(ino, epoch, 0, 1<<40))
	for done := uint64(0); done < pages*pageSize; {
		done = r.ok(punchCmd(ino, epoch, done, pages*pageSize-done)).GetRange().Done
	}
	allocs := run(func(done uint64) *metapb.Command { return allocateCmd(ino, epoch, done, blocks*blockMax-done, 1<<50) })
	t.Logf("%d extents: %d commands to clone, %d over others, %d to punch, %d to allocate", blocks, clones, again, punches, allocs)
	if clones > blocks/300 || allocs != 1 {
		t.Errorf("too many commands")
	}
}

// TestAllocateOverVoid allocates where each hole ends with a record that a truncation voided, of a block that dies with it.
func TestAllocateOverVoid(t *testing.T) {
	r, src, epoch := reservedRig(t)
	const pages = 2000
	u := r.ok(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: pages}}}).GetBlocks()
	for at := uint64(0); at < pages; at += 500 {
		var list []*metapb.NewExtent
		for i := at; i < at+500; i++ {
			list = append(list, &metapb.NewExtent{Offset: i * pageSize, Length: pageSize, Block: u.First + i, ProfileK: 4, ProfileM: 2})
		}
		r.ok(commitCmd(src, epoch, pages*pageSize, list...))
	}
	c := createCmd(1, "dst")
	c.GetCreate().Open = uint32(vfs.OpenWrite)
	dst := r.ok(c).GetCreate().Attr.Ino
	for done := uint64(0); done < pages*pageSize; { // to another place, so that each block has a back reference
		done = r.ok(cloneCmd(src, epoch, done, dst, 1, pageSize+done, pages*pageSize-done)).GetRange().Done - pageSize
	}
	size := uint64(0)
	r.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: src, Set: &metapb.AttrSet{Size: &size}, LeaseEpoch: epoch}}})
	r.drain(1000) // now only the clone's are left
	r.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: dst, Set: &metapb.AttrSet{Size: &size}, LeaseEpoch: 1}}})
	for at := uint64(0); at < pages; at += 500 {
		var list []*metapb.NewExtent
		for i := at; i < at+500; i += 2 {
			list = append(list, &metapb.NewExtent{Offset: i * pageSize, Length: pageSize, Inline: make([]byte, pageSize)})
		}
		r.ok(commitCmd(dst, 1, (pages+1)*pageSize, list...))
	}
	r.flush()
	for done := uint64(0); done < pages*pageSize; {
		res := r.ok(allocateCmd(dst, 1, done, pages*pageSize-done, 1<<50)).GetRange()
		if n := len(r.batch); res.Done <= done || n > 2*levelLimits.ranges {
			t.Fatalf("done %d after %d, %d records", res.Done, done, n)
		}
		done = res.Done
		r.flush()
	}
	if a := r.attr(dst).Attr; a.Used != pages*pageSize {
		t.Fatalf("%d bytes used", a.Used)
	}
	r.check()
}
