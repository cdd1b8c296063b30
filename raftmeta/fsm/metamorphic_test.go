package fsm

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// history draws commands of every kind on few names and inodes, without regard
// to what they answer, so that about half are refused, and repeats some.
type history struct {
	draw   func(label string, lo, hi int) int
	raises bool // feature levels are raised on the way
	nfs    bool // from level 3 on, with NFS clients
	ends   bool // the file system is deleted on the way
	cmds   []*metapb.Command
	seqs   map[slotKey]uint64
	pieces []*metapb.NewExtent // that some commit wrote, or was refused to write
}

func rapidHistory(rt *rapid.T) *history {
	return &history{seqs: make(map[slotKey]uint64), draw: func(label string, lo, hi int) int {
		return rapid.IntRange(lo, hi).Draw(rt, label)
	}}
}

func (h *history) num(label string, lo, hi int) uint64 { return uint64(h.draw(label, lo, hi)) }

func (h *history) name() []byte { return []byte{byte('a' + h.num("name", 0, 5))} }
func (h *history) ino() uint64  { return h.num("ino", 4, 12) }

func (h *history) extents() (list []*metapb.NewExtent) {
	at := h.num("at", 0, 6*pageSize)
	for range h.num("pieces", 0, 8) {
		e := &metapb.NewExtent{Offset: at, Length: uint32(h.num("len", 1, 5000))}
		switch h.num("what", 0, 2) {
		case 0:
			e.Length = min(e.Length, uint32(pageSize-at%pageSize))
			e.Inline = bytes.Repeat([]byte{byte(len(h.cmds))}, int(e.Length))
		case 1:
			e.Block = h.block()
			e.ProfileK, e.ProfileM = 4, 2
		default:
			e.Zero = true
		}
		list = append(list, e)
		at += uint64(e.Length) + h.num("gap", 0, 1)*100
	}
	h.pieces = append(h.pieces, list...)
	return list
}

func (h *history) block() uint64 {
	return 1<<blockShardShift | h.num("unit", 1, 3)<<blockUnitShift | h.num("block", 0, 200)
}

// rewrites puts pieces of earlier commits into a new block each.
func (h *history) rewrites() (list []*metapb.ExtentRewrite) {
	at := uint64(0)
	for range h.num("rewrites", 1, 3) {
		if len(h.pieces) == 0 {
			break
		}
		e := h.pieces[h.num("piece", 0, len(h.pieces)-1)]
		if e.Offset < at || e.Zero {
			continue
		}
		at = e.Offset + uint64(e.Length)
		w := &metapb.ExtentRewrite{Offset: e.Offset, Length: e.Length, OldBlock: e.Block, Block: h.block(), BlockLength: e.Length, K: 2, M: 2}
		if e.Block == 0 {
			w.InlineHash = xxhash.Sum64(e.Inline)
		}
		list = append(list, w)
	}
	return list
}

// posix is a command of level 3. Only histories that raise levels have them: those of TestLevel1 stay what they are.
func (h *history) posix() *metapb.Command {
	ino := h.num("object", 2, 9)
	if h.num("take away", 0, 3) == 0 {
		return &metapb.Command{Op: &metapb.Command_RemoveXattr{RemoveXattr: &metapb.RemoveXattr{Ino: ino, Name: h.name()}}}
	}
	return &metapb.Command{Op: &metapb.Command_SetXattr{SetXattr: &metapb.SetXattr{
		Ino: ino, Name: h.name(), Value: bytes.Repeat([]byte{'v'}, h.draw("size", 0, 100)), How: uint32(h.num("xattr how", 0, 2)),
	}}}
}

// newer is a command of a level above 1.
func (h *history) newer() *metapb.Command {
	if h.raises && h.num("range", 0, 1) == 1 { // histories that do not raise are recorded: their draws stay what they are
		return h.ranges()
	}
	if h.raises && h.num("posix", 0, 1) == 0 {
		return h.posix()
	}
	switch h.num("newer", 0, 3) {
	case 0:
		return &metapb.Command{Op: &metapb.Command_ReapBlocks{ReapBlocks: &metapb.ReapBlocks{Through: h.num("through", 0, 30), Max: uint32(h.num("max", 0, 4))}}}
	case 1:
		c := &metapb.ReturnBlocks{}
		for range h.num("units", 1, 2) {
			c.First = append(c.First, 1<<blockShardShift|h.num("unit", 1, 4)<<blockUnitShift)
		}
		return &metapb.Command{Op: &metapb.Command_ReturnBlocks{ReturnBlocks: c}}
	}
	return &metapb.Command{Op: &metapb.Command_RewriteExtents{RewriteExtents: &metapb.RewriteExtents{Ino: h.num("file", 5, 8), Extents: h.rewrites()}}}
}

// ranges is a command for a range of a file.
func (h *history) ranges() *metapb.Command {
	ino, epoch := h.num("file", 5, 8), h.num("epoch", 0, 5)/5^1
	offset, length := h.num("offset", 0, 6*pageSize), h.num("length", 0, 6*pageSize)
	switch h.num("kind", 0, 3) {
	case 0:
		c := punchCmd(ino, epoch, offset, length)
		c.GetPunchHole().Call = h.rangeCall()
		return c
	case 1:
		c := allocateCmd(ino, epoch, offset, length, h.num("free", 0, 1)<<40)
		c.GetAllocate().Call = h.rangeCall()
		return c
	}
	c := cloneCmd(h.num("source", 5, 8), 1, h.num("from", 0, 6)*pageSize, ino, epoch, h.num("to", 0, 6)*pageSize, length)
	c.GetCloneRange().Call = h.rangeCall()
	return c
}

// quota is a command of level 3 about projects and limits, so small that many later commands do not fit them.
func (h *history) quota() *metapb.Command {
	project := uint32(h.num("project", 0, 2))
	switch h.num("quota", 0, 4) {
	case 0:
		return &metapb.Command{Op: &metapb.Command_SetProject{SetProject: &metapb.SetProject{Dir: h.num("parent", 1, 4), Project: project}}}
	case 1:
		return &metapb.Command{Op: &metapb.Command_SetQuota{SetQuota: &metapb.SetQuota{
			Project: project, Bytes: h.num("pages", 0, 8) * pageSize, Inodes: h.num("inodes", 0, 2) * 5,
		}}}
	case 2:
		return &metapb.Command{Op: &metapb.Command_ReleaseQuota{ReleaseQuota: &metapb.ReleaseQuota{Project: project, Bytes: h.num("bytes", 0, 5000)}}}
	}
	return &metapb.Command{Op: &metapb.Command_ReserveQuota{ReserveQuota: &metapb.ReserveQuota{
		Project: project, Need: h.num("bytes", 0, 5000), Ahead: h.num("ahead", 0, 1) * 20000, Min: h.num("min", 0, 1) * 100,
	}}}
}

// lease is a command of level 6 about leases of gateways.
func (h *history) lease() *metapb.Command {
	ino, epoch := h.num("file", 5, 8), h.num("epoch", 1, 4)
	if h.num("share", 0, 1) == 0 {
		return &metapb.Command{Op: &metapb.Command_ShareLease{ShareLease: &metapb.ShareLease{Ino: ino, Epoch: epoch}}}
	}
	return &metapb.Command{Op: &metapb.Command_AcquireLease{AcquireLease: &metapb.AcquireLease{Ino: ino, Alone: h.num("alone", 0, 1) * epoch}}}
}

func (h *history) op() *metapb.Command {
	if h.ends && len(h.cmds) > 40 {
		switch h.num("end", 0, 15) {
		case 0:
			return &metapb.Command{Op: &metapb.Command_DeleteNamespace{DeleteNamespace: &metapb.DeleteNamespace{}}}
		case 1, 2, 3:
			return &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: uint32(h.num("keys", 1, 30))}}}
		case 4:
			return &metapb.Command{Op: &metapb.Command_LimitNamespace{LimitNamespace: &metapb.LimitNamespace{Version: h.num("version", 1, 9), Bytes: h.num("pages", 0, 8) * pageSize}}}
		case 5:
			return &metapb.Command{Op: &metapb.Command_CreateNamespace{CreateNamespace: testNamespace()}}
		}
	}
	if h.nfs && h.num("nfs", 0, 1) == 0 {
		return h.nfsOp()
	}
	if h.raises && h.num("quota op", 0, 7) == 0 {
		return h.quota()
	}
	if h.raises && h.num("lease op", 0, 7) == 0 {
		return h.lease()
	}
	if h.raises && h.num("posix op", 0, 7) == 0 {
		return h.posix()
	}
	switch h.num("op", 0, 18) {
	case 16, 17:
		return h.newer()
	case 18:
		if h.raises {
			return &metapb.Command{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: uint32(h.num("level", 1, Level))}}}
		}
	case 0, 1, 2:
		return &metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
			Parent: h.num("parent", 1, 4), Name: h.name(), Type: uint32(1 + h.num("type", 0, 2)), Target: []byte("t"),
			Exclusive: uint32(h.num("how", 0, 1)), Attr: &metapb.AttrSet{},
		}}}
	case 3, 4:
		return &metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: h.num("parent", 1, 4), Name: h.name(), Keep: h.num("keep", 0, 1) == 1}}}
	case 5:
		return &metapb.Command{Op: &metapb.Command_Rename{Rename: &metapb.Rename{
			FromParent: h.num("parent", 1, 4), FromName: h.name(), ToParent: h.num("parent", 1, 4), ToName: h.name(),
		}}}
	case 6:
		return &metapb.Command{Op: &metapb.Command_Link{Link: &metapb.Link{Ino: h.ino(), Parent: h.num("parent", 1, 4), Name: h.name()}}}
	case 7, 8:
		size := h.num("size", 0, 8*pageSize)
		return &metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: h.ino(), Set: &metapb.AttrSet{Size: &size}, LeaseEpoch: h.num("epoch", 0, 5)/5 ^ 1}}}
	case 9:
		return &metapb.Command{Op: &metapb.Command_AcquireLease{AcquireLease: &metapb.AcquireLease{Ino: h.ino()}}}
	case 10, 11:
		c := &metapb.CommitData{Ino: h.ino(), Epoch: 1, Extents: h.extents(), Size: 100 * pageSize}
		if h.raises {
			c.Reserved, c.Unlimited = h.num("reserved", 0, 2)*4000, h.num("unlimited", 0, 5) == 0
		}
		if h.nfs {
			h.calls(c)
		}
		return &metapb.Command{Op: &metapb.Command_CommitData{CommitData: c}}
	case 12:
		return &metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 100}}}
	case 13:
		return &metapb.Command{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: uint32(h.num("keys", 1, 9))}}}
	case 14:
		return &metapb.Command{Op: &metapb.Command_ReleaseOrphan{ReleaseOrphan: &metapb.ReleaseOrphan{Ino: h.ino()}}}
	}
	name := "b" // another incarnation of "a" ends the origin that most commands name
	if h.num("end", 0, 9) == 0 {
		name = "a"
	}
	return &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_GATEWAY, Name: name, Incarnation: incarnation(h.num("incarnation", 1, 3)), Leased: h.nfs && h.num("leased", 0, 1) == 1,
	}}}
}

// begin makes directories 2 to 4, files 5 to 8 and a range of block ids, so
// that most later commands find what they name.
func (h *history) begin() {
	add := func(c *metapb.Command) {
		c.Fs, c.Time = 1, &metapb.Time{Sec: int64(len(h.cmds))}
		h.seqs[slotKey{1, 0}]++
		c.Id = &metapb.Identity{Origin: 1, Seq: h.seqs[slotKey{1, 0}]}
		h.cmds = append(h.cmds, c)
	}
	for i := range 7 {
		c := createCmd(1, string(rune('A'+i)))
		if c.GetCreate().Open = uint32(vfs.OpenWrite); i < 3 {
			c.GetCreate().Type, c.GetCreate().Open = uint32(vfs.TypeDir), 0
		}
		add(c)
	}
	add(&metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 200}}})
	if h.nfs {
		add(raiseCmd(2))
		add(raiseCmd(levelPOSIX))
	}
}

// step adds a command, or an earlier one again.
func (h *history) step() {
	if len(h.cmds) > 0 && h.num("again", 0, 9) == 0 {
		h.cmds = append(h.cmds, h.cmds[h.num("command", 0, len(h.cmds)-1)])
		return
	}
	c := h.op()
	c.Fs, c.Time = 1, &metapb.Time{Sec: int64(len(h.cmds))}
	if !idempotent(c) || levelOf(c) > 1 {
		k := slotKey{1 + h.num("origin", 0, 5)/5, uint32(h.num("slot", 0, 2))}
		if h.num("same seq", 0, 5) > 0 {
			h.seqs[k]++
		}
		c.Id = &metapb.Identity{Origin: k.origin, Slot: k.slot, Seq: h.seqs[k], OpIndex: uint32(h.num("op index", 0, 2))}
	}
	if h.nfs {
		h.ofCall(c)
	}
	h.cmds = append(h.cmds, c)
}

// play runs the history; cut says after which commands an entry ends, flushed
// and reopened what happens after it.
func (h *history) play(t *testing.T, o Options, cut, flushed, reopened func() bool) (*rig, []string) {
	t.Helper()
	r := newNamespaceRig(t, o)
	var results []string
	var entry []*metapb.Command
	for i, c := range h.cmds {
		entry = append(entry, c)
		if i < len(h.cmds)-1 && !cut() {
			continue
		}
		r.index++
		res, err := r.m.Apply(r.index, encodeEntry(t, entry...), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range res {
			one.Text = "" // a replayed refusal has none
			results = append(results, show(one.ProtoReflect()))
		}
		entry = nil
		if flushed() {
			r.flush()
		}
		if reopened() {
			r.reopen()
		}
	}
	r.check()
	return r, results
}

// TestMetamorphic runs one history in several ways: how commands are batched,
// when the store gets them, whether the machine restarts in between and what a
// cache holds changes neither results nor state; and with the same batches not
// the digest.
func TestMetamorphic(t *testing.T) {
	t.Run("levels", func(t *testing.T) { metamorphic(t, func(h *history) { h.raises = true }) })
	t.Run("nfs", func(t *testing.T) { metamorphic(t, func(h *history) { h.raises, h.nfs = true, true }) })
	t.Run("deleted", func(t *testing.T) { metamorphic(t, func(h *history) { h.raises, h.nfs, h.ends = true, true, true }) })
}

func metamorphic(t *testing.T, set func(*history)) {
	refused, done, xattrs := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		h := rapidHistory(rt)
		set(h)
		h.begin()
		if h.num("newest", 0, 1) == 0 {
			for l := uint32(2); l <= Level; l++ {
				h.cmds = append(h.cmds, raiseCmd(l))
			}
		}
		for range h.num("commands", 20, 120) {
			h.step()
		}
		var cuts []bool
		for range h.cmds {
			cuts = append(cuts, h.num("cut", 0, 3) == 0)
		}
		sameCuts := func() func() bool {
			i := -1
			return func() bool { i++; return cuts[i] }
		}
		always, never := func() bool { return true }, func() bool { return false }
		sometimes := func() bool { return rapid.Bool().Draw(rt, "sometimes") }

		o := Options{MaxLevel: Level, limits: tiny}
		cached := func(size int64) Options { c := o; c.Cache = NewCache(size); return c }
		a, want := h.play(t, o, sameCuts(), always, never)
		for _, r := range want {
			if bytes.Contains([]byte(r), []byte("{kind:")) {
				refused++
			} else {
				done++
				if strings.HasPrefix(r, "{xattr:") {
					xattrs++
				}
			}
		}
		for i, p := range []struct {
			o                       Options
			cut, flushed, reopened  func() bool
			sameEntries, restartEnd bool
		}{
			{o, sameCuts(), never, never, true, false},
			{o, sameCuts(), sometimes, sometimes, true, true},
			{cached(1 << 20), sameCuts(), sometimes, sometimes, true, false},
			{cached(40_000), sameCuts(), never, never, true, false},
			{o, always, sometimes, sometimes, false, false},
			{cached(1 << 20), never, always, never, false, false},
		} {
			b, got := h.play(t, p.o, p.cut, p.flushed, p.reopened)
			if p.restartEnd {
				b.reopen()
			}
			for j := range want {
				if got[j] != want[j] {
					rt.Fatalf("way %d: command %d %v: %s, was %s", i, j, h.cmds[j], got[j], want[j])
				}
			}
			if d := diffStates(a.state(), b.state()); d != "" {
				rt.Fatalf("way %d: states differ:\n%s", i, d)
			}
			if p.sameEntries && (!bytes.Equal(a.m.Digest(), b.m.Digest()) || a.m.Applied() != b.m.Applied()) {
				rt.Fatalf("way %d: digest %x at %d, was %x at %d", i, b.m.Digest(), b.m.Applied(), a.m.Digest(), a.m.Applied())
			}
		}
	})
	if done == 0 || refused == 0 || xattrs == 0 {
		t.Fatalf("%d commands done, %d refused, %d of extended attributes done: the history shows nothing", done, refused, xattrs)
	}
	t.Logf("%d commands done, %d refused, %d of extended attributes done", done, refused, xattrs)
}

// TestDigest shows that a difference in one write, its order of entries or the
// index changes the digest, and that a skipped entry does not.
func TestDigest(t *testing.T) {
	run := func(name string, skip uint64) []byte {
		r := newNamespaceRig(t, Options{})
		r.index += skip
		r.ok(createCmd(1, name))
		b := encodeEntry(t, r.stamp(createCmd(1, "later")))
		res, err := r.m.Apply(r.index, b, r)
		if res != nil || err != nil {
			t.Fatalf("an applied entry again: %v, %v", res, err)
		}
		return r.m.Digest()
	}
	a := run("f", 0)
	for i, b := range [][]byte{run("g", 0), run("f", 1)} {
		if bytes.Equal(a, b) {
			t.Fatalf("case %d: equal digests", i)
		}
	}
	if !bytes.Equal(a, run("f", 0)) {
		t.Fatal("the digest of the same history differs")
	}
}

// TestStops shows what a machine does not apply, and that nothing of it counts.
func TestStops(t *testing.T) {
	entry := func(e *metapb.Entry) []byte {
		b, err := e.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	raise := raiseCmd(Level + 1)
	for name, c := range map[string]struct {
		entry []byte
		want  vfs.Kind
	}{
		"garbage": {[]byte{0xff, 0xff}, vfs.KindCorrupt},
		"empty":   {nil, vfs.KindIncompatible},
		"format":  {entry(&metapb.Entry{Format: 2}), vfs.KindIncompatible},
		"level":   {entry(&metapb.Entry{Format: 1, Commands: []*metapb.Command{createCmd(1, "f"), raise}}), vfs.KindIncompatible},
	} {
		t.Run(name, func(t *testing.T) {
			r := newNamespaceRig(t, Options{})
			r.raise()
			before := r.state()
			if _, err := r.m.Apply(r.index+1, c.entry, r); vfs.KindOf(err) != c.want {
				t.Fatalf("got %v, want %s", err, c.want)
			}
			if len(r.batch) != 0 || r.m.Applied() != r.index {
				t.Fatalf("%d writes, applied %d", len(r.batch), r.m.Applied())
			}
			if _, err := r.m.Apply(r.index+1, encodeEntry(t), r); err == nil {
				t.Fatal("the machine went on")
			}
			r.reopen()
			if d := diffStates(before, r.state()); d != "" {
				t.Fatal(d)
			}
			r.ok(createCmd(1, "f"))
		})
	}
	t.Run("newer level", func(t *testing.T) {
		r := newNamespaceRig(t, Options{MaxLevel: Level + 1})
		r.raise()
		r.ok(raise)
		r.flush()
		if r.m.Level() != Level+1 {
			t.Fatalf("level %d", r.m.Level())
		}
		if _, err := Open(r.store, Options{Shard: 1, Cluster: testCluster}); vfs.KindOf(err) != vfs.KindIncompatible {
			t.Fatalf("opened: %v", err)
		}
	})
	t.Run("foreign", func(t *testing.T) {
		r := newNamespaceRig(t, Options{})
		r.flush()
		for _, o := range []Options{{Shard: 2, Cluster: testCluster}, {Shard: 1, Cluster: []byte("x")}} {
			if _, err := Open(r.store, o); vfs.KindOf(err) != vfs.KindIncompatible {
				t.Fatalf("%+v: %v", o, err)
			}
		}
	})
	t.Run("corrupt state", func(t *testing.T) {
		r := newNamespaceRig(t, Options{})
		r.flush()
		_ = r.store.Set(appendInode(nil, 1, 1), []byte{0xff})
		if _, err := r.m.Apply(r.index+1, encodeEntry(t, r.stamp(createCmd(1, "f"))), r); vfs.KindOf(err) != vfs.KindCorrupt {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("failing store", func(t *testing.T) {
		r := newNamespaceRig(t, Options{})
		if _, err := r.m.Apply(r.index+1, encodeEntry(t, r.stamp(createCmd(1, "f"))), failing{}); err == nil {
			t.Fatal("a failed write went unseen")
		}
	})
}

type failing struct{}

func (failing) Set(_, _ []byte) error { return fmt.Errorf("disk full") }
func (failing) Delete(_ []byte) error { return fmt.Errorf("disk full") }

// FuzzEntry gives a machine any bytes as an entry: it answers or it stops
// without having written anything.
func FuzzEntry(f *testing.F) {
	rapidSeed := &rig{t: f, seqs: make(map[slotKey]uint64), me: 1, clock: 2000}
	size := uint64(7)
	for _, c := range []*metapb.Command{
		createCmd(1, "f"),
		{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: 1, Name: []byte("file"), Keep: true}}},
		{Op: &metapb.Command_Rename{Rename: &metapb.Rename{FromParent: 1, FromName: []byte("file"), ToParent: 3, ToName: []byte("g")}}},
		{Op: &metapb.Command_Link{Link: &metapb.Link{Ino: 2, Parent: 3, Name: []byte("l")}}},
		{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: 2, LeaseEpoch: 1, Set: &metapb.AttrSet{Size: &size}}}},
		{Op: &metapb.Command_CommitData{CommitData: &metapb.CommitData{Ino: 2, Epoch: 1, Size: 9, Extents: []*metapb.NewExtent{{Length: 3, Inline: []byte("abc")}}}}},
		{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 3}}},
		{Op: &metapb.Command_Touch{Touch: &metapb.Touch{Touched: []*metapb.Touched{{Ino: 2, Atime: &metapb.Time{Sec: 1 << 40}}}}}},
		{Op: &metapb.Command_Purge{Purge: &metapb.Purge{MaxKeys: 3}}},
		{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: 1}}},
		{Op: &metapb.Command_RaiseLevel{RaiseLevel: &metapb.RaiseLevel{Level: 2}}},
		{Op: &metapb.Command_PutKey{PutKey: &metapb.PutKey{}}},
	} {
		f.Add(encodeEntry(f, rapidSeed.stamp(c)))
	}
	for _, c := range []*metapb.Command{ // of level 2 and 3
		punchCmd(2, 1, 1, 2), allocateCmd(2, 1, 0, 5000, 9000), cloneCmd(2, 1, 0, 2, 1, 4096, 3),
		reapCmd(5, 2), returnCmd(1<<blockShardShift | 1<<blockUnitShift),
		rewriteCmd(2, &metapb.ExtentRewrite{Length: 3, InlineHash: xxhash.Sum64String("abc"), Block: 1<<blockShardShift | 1<<blockUnitShift, BlockLength: 3, K: 1, M: 1}),
		{Op: &metapb.Command_ReplaceStore{ReplaceStore: &metapb.ReplaceStore{Old: 1, New: &metapb.Store{Id: 9, Uuid: []byte("u9")}}}},
		{Op: &metapb.Command_ChangePgs{ChangePgs: &metapb.ChangePGs{Pool: 1, Changes: []*metapb.PGChange{
			{ExpectEpoch: 1, Pg: &metapb.PlacementGroup{Id: 1, Epoch: 2, Slots: []*metapb.Slot{{Store: 3, Previous: 1, Filling: true}, {Store: 2}}}},
			{Pg: &metapb.PlacementGroup{Id: 2, Epoch: 1, Slots: []*metapb.Slot{{Store: 1}, {Store: 2}}}},
		}}}},
	} {
		f.Add(encodeEntry(f, raiseCmd(2), rapidSeed.stamp(c)))
	}
	open := &metapb.ClientOpen{Client: 7, Stateid: []byte("stateid-0001"), Owner: []byte("o"), Access: 2, Deny: 1}
	share := createCmd(1, "f")
	share.GetCreate().Share = open
	share.Call = &metapb.Call{Session: []byte("session-00000001"), Client: 7, Seq: 3}
	for _, c := range []*metapb.Command{ // of level 3
		share,
		{Op: &metapb.Command_OpenFile{OpenFile: &metapb.OpenFile{Ino: 2, Lease: true, Share: open}}},
		{Op: &metapb.Command_SetLock{SetLock: &metapb.SetLock{Ino: 2, Client: 7, Owner: []byte("o"), Stateid: []byte("stateid-0001"), Type: 2, Offset: 5, Length: 9}}},
		{Op: &metapb.Command_CloseFiles{CloseFiles: &metapb.CloseFiles{Files: []*metapb.FileClose{{Ino: 2, Client: 7, Stateid: open.Stateid, Locks: []*metapb.LockOwner{{Owner: []byte("o")}}}}}}},
		{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: []uint64{7, 9}}}},
		{Op: &metapb.Command_ReleaseSession{ReleaseSession: &metapb.ReleaseSession{Client: 7, Session: []byte("session-00000001")}}},
		{Op: &metapb.Command_PutClient{PutClient: &metapb.PutClient{Count: 2}}},
		{Op: &metapb.Command_PutSession{PutSession: &metapb.PutSession{Session: &metapb.SessionRecord{Id: []byte("session-00000001"), Client: 1}}}},
		{Op: &metapb.Command_TakeClients{TakeClients: &metapb.TakeClients{Clients: []uint64{1}}}},
		{Op: &metapb.Command_RemoveClient{RemoveClient: &metapb.RemoveClient{Client: 1}}},
		{Op: &metapb.Command_GiveClients{GiveClients: &metapb.GiveClients{Clients: []*metapb.GivenClient{{Client: 1}}}}},
	} {
		f.Add(encodeEntry(f, raiseCmd(2), raiseCmd(3), rapidSeed.stamp(c), rapidSeed.stamp(c.CloneVT())))
	}
	release := &metapb.Command{Op: &metapb.Command_ReleaseSlots{ReleaseSlots: &metapb.ReleaseSlots{Client: 7, Session: []byte("session-00000001"), BelowSeq: 9}}}
	f.Add(encodeEntry(f, raiseCmd(2), raiseCmd(3), rapidSeed.stamp(share), raiseCmd(4), raiseCmd(5), rapidSeed.stamp(release)))
	fence := &metapb.Command{Op: &metapb.Command_FenceCall{FenceCall: &metapb.FenceCall{Ino: 2, Offset: 3, Call: &metapb.Call{Session: []byte("copy-00000000001"), Client: 7, Seq: 1}}}}
	f.Add(encodeEntry(f, raiseCmd(2), raiseCmd(3), raiseCmd(4), raiseCmd(5), raiseCmd(6), raiseCmd(7), raiseCmd(8), raiseCmd(9), raiseCmd(10), rapidSeed.stamp(fence), rapidSeed.stamp(fence.CloneVT())))
	f.Fuzz(func(t *testing.T, entry []byte) {
		r := newNamespaceRig(t, Options{limits: tiny})
		file := createCmd(1, "file")
		file.GetCreate().Open = uint32(vfs.OpenWrite)
		dir := createCmd(1, "dir")
		dir.GetCreate().Type = uint32(vfs.TypeDir)
		r.apply(file, dir)
		r.flush()
		res, err := r.m.Apply(r.index+1, entry, r)
		if err != nil {
			if len(r.batch) > 0 {
				t.Fatalf("wrote before it stopped: %v", err)
			}
			r.open()
		}
		for _, one := range res {
			if one == nil {
				t.Fatal("no answer")
			}
		}
		r.check()
		fuzzCluster(t, entry)
	})
}

// fuzzCluster is the same for shard 0.
func fuzzCluster(t *testing.T, entry []byte) {
	z := newRig(t, Options{})
	z.register("a", 1)
	for id := range uint32(3) {
		z.ok(&metapb.Command{Op: &metapb.Command_PutStore{PutStore: &metapb.PutStore{Store: &metapb.Store{Id: id + 1, Uuid: []byte{byte(id)}}}}})
	}
	z.ok(&metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: &metapb.Pool{Id: 1, K: 1, M: 1, Pgs: []*metapb.PlacementGroup{
		{Id: 1, Epoch: 1, Slots: []*metapb.Slot{{Store: 1}, {Store: 2}}},
	}}}}})
	z.flush()
	if _, err := z.m.Apply(z.index+1, entry, z); err != nil {
		if len(z.batch) > 0 {
			t.Fatalf("wrote before it stopped: %v", err)
		}
		z.open()
	}
	z.check()
}
