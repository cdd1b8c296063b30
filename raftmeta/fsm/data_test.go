package fsm

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// tiny limits make every bounded path the common one.
var tiny = limits{
	extents: 3, cuts: 3, keys: 60, ranges: 20, scan: 4000, reap: 4, depth: 8, changeRange: 16,
	clients: 8, opens: 6, ownerRanges: 4, clientOpens: 10,
}

// dataModel is files as byte arrays, beside a machine.
type dataModel struct {
	*rig
	rt     *rapid.T
	files  map[uint64]*modelFile
	blocks map[uint64][]byte            // content by id
	ids    []uint64                     // leased and unused
	units  []uint64                     // leased, by their first ids
	states map[uint64]metapb.BlockState // as last seen
	moved  *int                         // bytes that rewriting put elsewhere
	cloned *int                         // bytes that were cloned
	serial int
	maxLen int
}

type modelFile struct {
	name   string
	data   []byte
	lease  lease
	change uint64 // newest committed
	orphan bool
}

func (d *dataModel) pick() (uint64, *modelFile) {
	inos := sortedKeys(d.files)
	if len(inos) == 0 {
		d.rt.Skip("no file")
	}
	ino := rapid.SampledFrom(inos).Draw(d.rt, "ino")
	return ino, d.files[ino]
}

func (d *dataModel) fill(n int) []byte {
	d.serial++
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(d.serial*31 + i*7 + 1)
	}
	return b
}

func (d *dataModel) create() {
	d.serial++
	name := fmt.Sprintf("f%d", d.serial)
	c := createCmd(1, name)
	c.GetCreate().Open = uint32(vfs.OpenWrite)
	res := d.ok(c).GetCreate()
	d.files[res.Attr.Ino] = &modelFile{
		name: name, change: res.Attr.Change,
		lease: lease{res.Lease.Origin, res.Lease.Epoch, res.Lease.ChangeLimit},
	}
}

func (d *dataModel) alloc() {
	res := d.ok(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 8}}}).GetBlocks()
	d.units = append(d.units, res.First)
	for i := range uint64(res.Count) {
		d.ids = append(d.ids, res.First+i)
	}
}

// pieces draws the extents of a commit and what the file is after it.
func (d *dataModel) pieces(f *modelFile) (list []*metapb.NewExtent, data []byte) {
	at := rapid.IntRange(0, min(len(f.data)+pageSize, d.maxLen)).Draw(d.rt, "at")
	if rapid.Bool().Draw(d.rt, "aligned") {
		at &^= pageSize - 1
	}
	data = bytes.Clone(f.data)
	for range rapid.IntRange(1, 12).Draw(d.rt, "pieces") {
		n := rapid.SampledFrom([]int{1, 3, 100, 1000, pageSize, 2 * pageSize, 3*pageSize + 17}).Draw(d.rt, "len")
		kind := rapid.IntRange(0, 2).Draw(d.rt, "kind")
		if kind == 0 {
			n = min(n, pageSize-at%pageSize)
		}
		e := &metapb.NewExtent{Offset: uint64(at), Length: uint32(n)}
		content := make([]byte, n)
		switch kind {
		case 0:
			content = d.fill(n)
			e.Inline = content
		case 1:
			if len(d.ids) == 0 {
				d.alloc()
			}
			content = d.fill(n)
			e.Block, d.ids = d.ids[0], d.ids[1:]
			e.ProfileK, e.ProfileM, e.Pg = 4, 2, 7
			d.blocks[e.Block] = content
		case 2:
			e.Zero = true
		}
		if need := at + n; need > len(data) {
			data = append(data, make([]byte, need-len(data))...)
		}
		copy(data[at:], content)
		list = append(list, e)
		at += n + rapid.SampledFrom([]int{0, 0, 1, 500, pageSize}).Draw(d.rt, "gap")
	}
	return list, data
}

func (d *dataModel) commit() {
	ino, f := d.pick()
	list, data := d.pieces(f)
	change := uint64(0)
	if f.lease.limit > f.change && rapid.Bool().Draw(d.rt, "show") {
		change = rapid.Uint64Range(f.change+1, f.lease.limit).Draw(d.rt, "change")
	}
	cmd := &metapb.CommitData{Ino: ino, Epoch: f.lease.epoch, Extents: list, Size: uint64(len(data)), Change: change}
	res := d.one(&metapb.Command{Op: &metapb.Command_CommitData{CommitData: cmd}})
	switch vfs.Kind(res.Kind) {
	case vfs.KindOK:
		a := res.GetCommit().Attr
		if a.Change <= f.change || (change > 0 && a.Change != change) {
			d.rt.Fatalf("change %d after %d, named %d", a.Change, f.change, change)
		}
		l := res.GetCommit().Lease
		f.data, f.change, f.lease.limit = data, a.Change, l.ChangeLimit
	case vfs.KindTooMany: // refused as a whole
	default:
		d.rt.Fatalf("commit: %s %s", vfs.Kind(res.Kind), res.Text)
	}
}

func (d *dataModel) truncate() {
	ino, f := d.pick()
	size := uint64(rapid.IntRange(0, min(2*len(f.data)+100, d.maxLen)).Draw(d.rt, "size"))
	if rapid.Bool().Draw(d.rt, "round") {
		size &^= 2*pageSize - 1 // often the same offset again
	}
	cmd := &metapb.SetAttr{Ino: ino, Set: &metapb.AttrSet{Size: &size}, LeaseEpoch: f.lease.epoch, Opened: true}
	res := d.one(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: cmd}})
	if vfs.Kind(res.Kind) == vfs.KindUnavailable { // too many cuts wait
		d.drain(0)
		res = d.ok(&metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: cmd}})
	}
	if res.Kind != 0 {
		d.rt.Fatalf("truncate: %s %s", vfs.Kind(res.Kind), res.Text)
	}
	data := make([]byte, size)
	copy(data, f.data)
	f.data = data
	d.newAttr(f, res.GetAttr().Attr)
	f.lease.limit = res.GetAttr().Lease.ChangeLimit
}

func (d *dataModel) newAttr(f *modelFile, a *metapb.Attr) {
	if a.Change <= f.change {
		d.rt.Fatalf("change %d after %d", a.Change, f.change)
	}
	f.change = a.Change
}

func (d *dataModel) unlink() {
	ino, f := d.pick()
	if f.orphan {
		d.ok(&metapb.Command{Op: &metapb.Command_ReleaseOrphan{ReleaseOrphan: &metapb.ReleaseOrphan{Ino: ino}}})
		delete(d.files, ino)
		return
	}
	keep := rapid.Bool().Draw(d.rt, "keep")
	res := d.ok(&metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: 1, Name: []byte(f.name), Keep: keep}}}).GetRemove()
	if res.Ino != ino || res.Orphan != keep || res.Nlink != 0 {
		d.rt.Fatalf("removed %v", res)
	}
	if f.orphan = keep; !keep {
		delete(d.files, ino)
		return
	}
	f.change = d.attr(ino).Attr.Change
}

// takeover ends the gateway and registers its next incarnation, which takes
// the leases.
func (d *dataModel) takeover() {
	next := d.register("a", d.index)
	for ino, f := range d.files {
		if f.orphan {
			delete(d.files, ino)
		}
	}
	d.ids, d.units = nil, nil
	for _, ino := range sortedKeys(d.files) {
		f := d.files[ino]
		seen := d.attr(ino)
		if seen.Lease != nil || seen.Attr.Change <= f.lease.limit {
			d.rt.Fatalf("inode %d after the holder's death: %v; it may have shown %d", ino, seen, f.lease.limit)
		}
		old := &metapb.Command{Id: &metapb.Identity{Origin: f.lease.origin, Seq: 1 << 40}, Op: &metapb.Command_CommitData{
			CommitData: &metapb.CommitData{Ino: ino, Epoch: f.lease.epoch, Size: 1 << 30},
		}}
		d.fails(vfs.KindUnknownOrigin, old)
		res := d.ok(&metapb.Command{Id: &metapb.Identity{Origin: next}, Op: &metapb.Command_AcquireLease{
			AcquireLease: &metapb.AcquireLease{Ino: ino, Flags: uint32(vfs.OpenWrite)},
		}}).GetLease()
		if res.Lease.Epoch <= f.lease.epoch || res.Attr.Change < seen.Attr.Change {
			d.rt.Fatalf("lease %v after epoch %d", res, f.lease.epoch)
		}
		f.lease, f.change = lease{res.Lease.Origin, res.Lease.Epoch, res.Lease.ChangeLimit}, res.Attr.Change
	}
	d.me = next
}

func (d *dataModel) purge() {
	d.ok(&metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: uint32(rapid.IntRange(1, 9).Draw(d.rt, "keys"))}}})
}

// read puts a file together from its extents, in steps.
func (d *dataModel) read(ino uint64, f *modelFile) []byte {
	out := make([]byte, len(f.data))
	for at := uint64(0); ; {
		bound := uint32(rapid.IntRange(0, 5).Draw(d.rt, "bound"))
		res := d.query(&metapb.Query{Q: &metapb.Query_Extents{Extents: &metapb.ExtentsQ{Ino: ino, Offset: at, MaxExtents: bound}}})
		if res.Kind != 0 {
			d.rt.Fatalf("extents: %s %s", vfs.Kind(res.Kind), res.Text)
		}
		x := res.GetExtents()
		if x.Size != uint64(len(f.data)) {
			d.rt.Fatalf("inode %d: size %d, want %d", ino, x.Size, len(f.data))
		}
		for _, e := range x.Extents {
			if e.Offset < at || e.Offset+uint64(e.Length) > x.Size {
				d.rt.Fatalf("extent %v from %d of %d", e, at, x.Size)
			}
			at = e.Offset + uint64(e.Length)
			src := e.Inline
			if e.Block != 0 {
				src = d.blocks[e.Block][e.BlockOffset : e.BlockOffset+e.Length]
				if int(e.BlockLength) != len(d.blocks[e.Block]) || e.M != 2 || e.Pg != 7 {
					d.rt.Fatalf("extent %v of a block of %d bytes", e, len(d.blocks[e.Block]))
				}
			}
			copy(out[e.Offset:], src)
		}
		if x.Next == 0 {
			return out
		}
		at = x.Next
	}
}

func (d *dataModel) compare(rt *rapid.T) {
	d.rt = rt
	d.check()
	d.compareStates()
	for _, ino := range sortedKeys(d.files) {
		f := d.files[ino]
		if got := d.read(ino, f); !bytes.Equal(got, f.data) {
			at := 0
			for got[at] == f.data[at] {
				at++
			}
			rt.Fatalf("inode %d differs at byte %d: %d, want %d", ino, at, got[at], f.data[at])
		}
		if a := d.attr(ino).Attr; a.Change < f.change {
			rt.Fatalf("inode %d: change %d after %d", ino, a.Change, f.change)
		}
	}
	if a := d.attr(1).Attr; a.Nlink != 2 {
		rt.Fatalf("root has %d links", a.Nlink)
	}
}

// TestDataModel compares random commits, truncations, removals and purges with
// byte arrays, under limits so small that cuts and splits are hit all the time.
func TestDataModel(t *testing.T) {
	moved, cloned := 0, 0
	defer func() {
		if (moved == 0 || cloned == 0) && !t.Failed() {
			t.Error("nothing was rewritten or cloned: the test shows nothing")
		}
	}()
	rapid.Check(t, func(rt *rapid.T) {
		o := Options{limits: tiny}
		if rapid.Bool().Draw(rt, "cached") {
			o.Cache = NewCache(1 << 16)
		}
		d := &dataModel{
			rig: newNamespaceRig(t, o), rt: rt, maxLen: 30 * pageSize,
			files: make(map[uint64]*modelFile), blocks: make(map[uint64][]byte), states: make(map[uint64]metapb.BlockState), moved: &moved, cloned: &cloned,
		}
		act := func(fn func()) func(*rapid.T) {
			return func(rt *rapid.T) { d.rt = rt; fn() }
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create":    act(d.create),
			"commit":    act(d.commit),
			"commit2":   act(d.commit),
			"truncate":  act(d.truncate),
			"unlink":    act(d.unlink),
			"takeover":  act(d.takeover),
			"purge":     act(d.purge),
			"purge2":    act(d.purge),
			"truncate2": act(d.truncate),
			"rewrite":   act(d.rewrite),
			"rewrite2":  act(d.rewrite),
			"punch":     act(d.punch),
			"allocate":  act(d.allocate),
			"clone":     act(d.clone),
			"clone2":    act(d.clone),
			"reap":      act(d.reap),
			"return":    act(d.giveBack),
			"raise":     act(d.raise),
			"drain":     act(func() { d.drain(10) }),
			"flush":     act(d.flush),
			"reopen":    act(d.reopen),
			"":          d.compare,
		})
		// At the end nothing but what lives is left.
		d.drain(0)
		d.compare(rt)
		_ = d.store.Scan([]byte("e/"), []byte("e0"), func(k, _ []byte) bool {
			if ino := tail64(k[:len(k)-8]); d.files[ino] == nil {
				rt.Fatalf("an extent of inode %d, which is gone, was not purged", ino)
			}
			return true
		})
		if d.m.Level() >= levelCollect { // and at the end of their grace all dying blocks are dead
			for d.ok(reapCmd(math.MaxUint64, 0)).GetReap().More {
			}
			d.drop(d.units...)
			d.compare(rt)
			for _, s := range d.states {
				if s != metapb.BlockState_BLOCK_LIVE && s != metapb.BlockState_BLOCK_DEAD {
					rt.Fatalf("a block is %v at the end", s)
				}
			}
		}
		refs := 0
		_ = d.store.Scan([]byte("b/"), []byte("b0"), func(k, _ []byte) bool {
			if len(k) == len("b/")+8 {
				refs++
			}
			return true
		})
		dying := 0
		_ = d.store.Scan([]byte("x/"), []byte("x0"), func(_, _ []byte) bool { dying++; return true })
		if refs+dying > len(d.blocks) {
			rt.Fatalf("%d live and %d dying blocks of %d", refs, dying, len(d.blocks))
		}
	})
}
