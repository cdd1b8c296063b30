package fsm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// checker recomputes from a full scan of one shard what the commands keep
// incrementally.
type checker struct {
	t       testing.TB
	hash    hashFunc
	inodes  map[inoKey]*inode
	links   map[inoKey]uint32
	subdirs map[inoKey]uint32
	entries map[inoKey]uint64
	used    map[inoKey]uint64
	live    map[inoKey][]extent
	refs    map[uint64]uint32
	blocks  map[uint64]*metapb.BlockRecord
	dying   map[uint64]bool
	orphans map[inoKey]int
	origins map[uint64]bool
	queue   map[inoKey]int
	queued  uint64
	usage   map[uint32]usage
	counts  map[string]uint64
}

func (c *checker) fail(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("invariant: "+format, args...)
}

// check fails the test if an invariant of the state does not hold.
func (r *rig) check() {
	r.t.Helper()
	r.flush()
	c := &checker{
		t: r.t, hash: r.opts.hash,
		inodes: map[inoKey]*inode{}, links: map[inoKey]uint32{}, subdirs: map[inoKey]uint32{}, entries: map[inoKey]uint64{},
		used: map[inoKey]uint64{}, live: map[inoKey][]extent{}, refs: map[uint64]uint32{},
		blocks: map[uint64]*metapb.BlockRecord{}, dying: map[uint64]bool{}, orphans: map[inoKey]int{}, origins: map[uint64]bool{},
		queue: map[inoKey]int{}, usage: map[uint32]usage{}, counts: map[string]uint64{},
	}
	if c.hash == nil {
		c.hash = nameHash
	}
	// Kinds are scanned in the order that the checks need.
	for _, p := range []string{"g/", "n/", "i/", "d/", "e/", "b/", "x/", "o/", "q/", "u/", "m/"} {
		_ = r.store.Scan([]byte(p), prefixEnd([]byte(p)), func(k, v []byte) bool {
			c.record(r, p, k, v)
			return true
		})
	}
	c.finish(r)
}

func (c *checker) record(r *rig, p string, k, v []byte) {
	c.t.Helper()
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(k[2+at:]) }
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(k[2+at:]) }
	must := func(err error) {
		c.t.Helper()
		if err != nil {
			c.fail("%q: %v", k, err)
		}
	}
	switch p {
	case "g/":
		c.origins[u64(0)] = true
	case "i/":
		var codec inodeCodec
		n, err := codec.decode(u64(4), bytes.Clone(v))
		must(err)
		c.inodes[inoKey{u32(0), u64(4)}] = n
	case "d/":
		d, err := decodeDirent(v)
		must(err)
		c.dirent(r, inoKey{u32(0), u64(4)}, u64(12), d)
	case "e/":
		e, err := decodeExtent(u64(12), bytes.Clone(v))
		must(err)
		c.extent(inoKey{u32(0), u64(4)}, e)
	case "b/":
		b := new(metapb.BlockRecord)
		must(b.UnmarshalVT(v))
		c.blocks[u64(0)] = b
	case "x/":
		c.dying[u64(0)] = true
	case "o/":
		c.orphans[inoKey{u32(0), u64(4)}]++
		if _, ok, _ := r.store.Get(appendHoldOf(nil, u64(12), u32(0), u64(4))); !ok {
			c.fail("hold %q without its index", k)
		}
	case "q/":
		var q metapb.PurgeRecord
		must(q.UnmarshalVT(v))
		c.queued++
		c.queue[inoKey{q.Fs, q.Ino}]++
	case "u/":
		u, err := decodeUsage(v)
		must(err)
		if len(k) == 6 {
			c.usage[u32(0)] = u
		}
	case "m/":
		if len(v) == 8 {
			c.counts[string(k)] = binary.BigEndian.Uint64(v)
		}
	}
}

func (c *checker) dirent(r *rig, dir inoKey, cookie uint64, d *dirent) {
	c.t.Helper()
	if cookie < 3 || cookie >= 1<<63 {
		c.fail("cookie %d", cookie)
	}
	next, _, _ := r.store.Get(appendDirent(nil, dir.fs, dir.ino, cookie+1))
	if d.typ == typeGap {
		if next == nil {
			c.fail("gap at cookie %#x with nothing behind it", cookie)
		}
		return
	}
	if first := cookie &^ (slotsMax - 1); cookie != first && cookie != firstSlotOf0 {
		if _, ok, _ := r.store.Get(appendDirent(nil, dir.fs, dir.ino, cookie-1)); !ok {
			c.fail("hole before cookie %#x", cookie)
		}
	}
	b, _, _ := r.store.Get(appendFS(nil, "n/", dir.fs))
	sp, err := decodeSpace(bytes.Clone(b))
	if err != nil {
		c.fail("%v", err)
	}
	if first, last := sp.places(c.hash, []byte(d.name)); cookie < first || cookie > last {
		c.fail("%q is at cookie %#x, not in %#x..%#x", d.name, cookie, first, last)
	}
	child := inoKey{dir.fs, d.ino}
	n := c.inodes[child]
	if n == nil {
		c.fail("%q in %d names inode %d, which does not exist", d.name, dir.ino, d.ino)
	}
	if n.attr.Type != d.typ {
		c.fail("%q has type %v, its inode %v", d.name, d.typ, n.attr.Type)
	}
	c.links[child]++
	c.entries[dir]++
	if n.isDir() {
		c.subdirs[dir]++
		if n.parent != dir.ino {
			c.fail("directory %d is in %d, its parent is %d", d.ino, dir.ino, n.parent)
		}
	}
}

func (c *checker) extent(k inoKey, e extent) {
	c.t.Helper()
	if e.block != 0 {
		c.refs[e.block]++
	}
	n := c.inodes[k]
	if n == nil {
		return // of a deleted inode
	}
	if n.charged(e.gen) {
		c.used[k] += e.len()
	}
	if n.void(e.gen, e.end) {
		return
	}
	if e.end > n.attr.Size {
		c.fail("inode %d has %d bytes, an extent ends at %d", k.ino, n.attr.Size, e.end)
	}
	if l := c.live[k]; len(l) > 0 && l[len(l)-1].end > e.start {
		c.fail("extents of inode %d overlap: %+v and %+v", k.ino, l[len(l)-1], e)
	}
	if e.block == 0 && e.start/pageSize != (e.end-1)/pageSize {
		c.fail("inline extent %d..%d in two pages", e.start, e.end)
	}
	c.live[k] = append(c.live[k], e)
}

func (c *checker) finish(r *rig) {
	c.t.Helper()
	total := map[uint32]usage{}
	for k, n := range c.inodes {
		if n.attr.Used != c.used[k] {
			c.fail("inode %d uses %d bytes, counts %d", k.ino, c.used[k], n.attr.Used)
		}
		u := total[k.fs]
		u.bytes += n.attr.Used
		u.inodes++
		total[k.fs] = u
		c.inode(k, n)
	}
	for fs, want := range total {
		if c.usage[fs] != want {
			c.fail("usage of file system %d is %+v, counted %+v", fs, want, c.usage[fs])
		}
	}
	for id, b := range c.blocks {
		if c.refs[id] != b.Refs || b.Refs == 0 {
			c.fail("block %#x has %d references, counts %d", id, c.refs[id], b.Refs)
		}
		if c.dying[id] {
			c.fail("block %#x lives and dies", id)
		}
	}
	for id := range c.refs {
		if c.blocks[id] == nil {
			c.fail("an extent points into block %#x, which has no record", id)
		}
	}
	if n := c.counts["m/queue"]; n != c.queued {
		c.fail("%d items in the queue, counted %d", c.queued, n)
	}
	for k, n := range c.queue {
		if n > 1 && k.ino != 0 {
			c.fail("inode %d is in the queue %d times", k.ino, n)
		}
	}
	for k := range c.orphans {
		if n := c.inodes[k]; n == nil || n.attr.Nlink != 0 {
			c.fail("inode %d is held and is not an orphan", k.ino)
		}
	}
}

func (c *checker) inode(k inoKey, n *inode) {
	c.t.Helper()
	want := c.links[k]
	if n.isDir() {
		if n.entries != c.entries[k] {
			c.fail("directory %d has %d entries, counts %d", k.ino, c.entries[k], n.entries)
		}
		if want = 2 + c.subdirs[k]; k.ino != uint64(vfs.RootIno) && c.links[k] != 1 {
			c.fail("directory %d has %d names", k.ino, c.links[k])
		}
	}
	if n.attr.Nlink != want {
		c.fail("inode %d has %d links, counts %d", k.ino, want, n.attr.Nlink)
	}
	if n.attr.Nlink == 0 && c.orphans[k] == 0 {
		c.fail("inode %d has neither links nor holds", k.ino)
	}
	if (len(n.cuts) > 0) != (c.queue[k] > 0) {
		c.fail("inode %d: %d cuts, %d items in the queue", k.ino, len(n.cuts), c.queue[k])
	}
	for i, cut := range n.cuts {
		if cut.gen > n.cutGen || (i > 0 && (cut.offset <= n.cuts[i-1].offset || cut.gen <= n.cuts[i-1].gen)) {
			c.fail("inode %d: cuts %v at generation %d", k.ino, n.cuts, n.cutGen)
		}
	}
	if l := n.lease; l.epoch != 0 && (l.epoch != n.lastEpoch || l.origin == 0) {
		c.fail("inode %d: lease %+v, last epoch %d", k.ino, l, n.lastEpoch)
	}
}

// TestCheckerFails shows that the checker sees what it looks for.
func TestCheckerFails(t *testing.T) {
	for name, spoil := range map[string]func(r *rig){
		"usage": func(r *rig) {
			b, _ := (&metapb.UsageRecord{Bytes: 1, Inodes: 2}).MarshalVT()
			_ = r.store.Set(usageKey{fs: 1}.append(nil), b)
		},
		"dangling entry": func(r *rig) { _ = r.store.Delete(appendInode(nil, 1, 2)) },
		"queue length": func(r *rig) {
			_ = r.store.Set(counterKey{what: counterQueueLen}.append(nil), binary.BigEndian.AppendUint64(nil, 1))
		},
		"block": func(r *rig) {
			b, _ := (&metapb.BlockRecord{Refs: 1}).MarshalVT()
			_ = r.store.Set(appendID(nil, "b/", 1), b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			rec := &recorder{TB: t}
			r := newNamespaceRig(t, Options{})
			r.ok(createCmd(1, "f"))
			r.check()
			spoil(r)
			r.t = rec
			func() {
				defer func() { _ = recover() }()
				r.check()
			}()
			if rec.failed == "" {
				t.Fatal("not seen")
			}
		})
	}
}

// recorder catches the failure of a test.
type recorder struct {
	testing.TB
	failed string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	panic(r.failed)
}

func createCmd(parent uint64, name string) *metapb.Command {
	mode := uint32(0o644)
	return &metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: parent, Name: []byte(name), Type: uint32(vfs.TypeFile), Attr: &metapb.AttrSet{Mode: &mode},
	}}}
}
