package fsm

import (
	"bytes"
	"context"
	"encoding/binary"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// checker recomputes from a full scan of one shard what the commands keep
// incrementally. It looks at one part of the inodes and blocks; what is not of a part is in shared.
type checker struct {
	part
	*shared
	view    View
	shard   uint16
	level   uint32
	hash    hashFunc
	inodes  map[inoKey]*inode // of this part, as all by inode or block
	dir     inoKey            // the directory that was looked at last, whatever its part
	dirNode *inode
	links   map[inoKey]uint32
	subdirs map[inoKey]uint32
	entries map[inoKey]uint64
	used    map[inoKey]uint64
	live    map[inoKey]extent // the last one
	refs    map[uint64]uint32
	blocks  map[uint64]*metapb.BlockRecord
	backs   map[backKey]uint32 // as counted by records
	found   map[backKey]uint32 // as extents are
	dying   map[uint64]*metapb.DyingRecord
	numbers map[uint64]uint64 // blocks by their number in the dying queue
	length  uint64            // of that queue
	unsaid  *metapb.PurgeRecord
	ranges  map[uint64]*metapb.RangeRecord
	leased  map[uint64]uint64 // origins by unit
	orphans map[inoKey]int
	holders map[uint64]inoKey // origins that hold files, each with one of them
	lingers []uint64
	origins map[uint64]bool
	queue   map[inoKey]int
	queued  uint64
	ending  map[uint64]bool // origins whose remains wait for Purge
	counts  map[string]uint64
	xattrs  map[inoKey]xattrs
	cookies map[xattrCookie]bool

	// deleted are the file systems that were deleted here, and whether something of them waits for Purge.
	deleted map[uint32]bool
	ended   map[uint32]int // their items in the queue

	clients clientChecker
}

// backKey names a back reference.
type backKey struct{ block, ino, place uint64 }

// violation is what fail panics with.
type violation struct{ err error }

func (c *checker) fail(format string, args ...any) {
	panic(violation{vfs.Errorf(vfs.KindCorrupt, "fsm.check", format, args...)})
}

// try runs a check and notes what it finds. What cannot be read ends the whole.
func (c *checker) try(fn func()) {
	defer func() {
		if p := recover(); p != nil {
			x, ok := p.(violation)
			if !ok {
				panic(p)
			}
			c.note(x.err)
		}
	}()
	fn()
}

// Check scans a whole state and returns the first invariant that does not hold: links, sizes, usage, references of blocks,
// leased ids, queues, counts. It reads all of the state at once into memory: for states of some thousand files.
func Check(v View) error { return check(v, nameHash) }

func check(v View, hash hashFunc) error {
	r, err := checkParts(context.Background(), v, hash, CheckOptions{})
	if err == nil && len(r.Violations) > 0 {
		err = r.Violations[0]
	}
	return err
}

// scan looks at the whole state once.
func (c *checker) scan(ctx context.Context, looked func() error) (err error) {
	if state, err := c.read(keyState); err != nil {
		return err
	} else if state != nil {
		if _, c.level, _, err = decodeState(state); err != nil {
			return vfs.Wrap("fsm.check", err)
		}
	}
	if head, err := c.read(keyFormat); err != nil {
		return err
	} else if head != nil {
		f, err := decodeFormat(head)
		if err != nil {
			return vfs.Wrap("fsm.check", err)
		}
		c.shard = f.shard
	}
	// Kinds are scanned in the order that the checks need.
	c.clients.checker = c
	for _, p := range []string{"D/", "g/", "n/", "c/", "i/", "a/", "d/", "b/", "e/", "x/", "y/", "r/", "l/", "o/", "q/", "v/", "u/", "m/", "W/", "w/", "O/", "L/", "z/", "C/", "S/"} {
		var ended error
		err := c.view.Scan([]byte(p), prefixEnd([]byte(p)), func(k, v []byte) bool {
			c.try(func() { c.record(p, bytes.Clone(k), v) })
			if ended = looked(); ended == nil {
				ended = c.broken
			}
			return ended == nil
		})
		if err == nil {
			err = ended
		}
		if err != nil {
			return vfs.Wrap("fsm.check", err)
		}
	}
	c.finish()
	return c.broken
}

// read is the value of a key, nil if there is none.
func (c *checker) read(k []byte) ([]byte, error) {
	b, ok, err := c.view.Get(k)
	if err != nil || !ok {
		return nil, vfs.Wrap("fsm.check", err)
	}
	return append([]byte{}, b...), nil
}

// get is read for a check; an error ends the whole.
func (c *checker) get(k []byte) []byte {
	b, err := c.read(k)
	if err != nil {
		c.broken = err
		panic(violation{err})
	}
	return b
}

// directory is the inode of a directory of any part, nil if there is none.
func (c *checker) directory(k inoKey) *inode {
	if n := c.inodes[k]; n != nil || c.mine(k) {
		return n
	}
	if c.dirNode == nil || c.dir != k {
		c.dir, c.dirNode = k, nil
		if b := c.get(appendInode(nil, k.fs, k.ino)); b != nil {
			var codec inodeCodec
			n, err := codec.decode(k.ino, b)
			if err != nil {
				c.fail("inode %d: %v", k.ino, err)
			}
			c.dirNode = n
		}
	}
	return c.dirNode
}

func (c *checker) record(p string, k, v []byte) {
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(k[2+at:]) }
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(k[2+at:]) }
	must := func(err error) {
		if err != nil {
			c.fail("%q: %v", k, err)
		}
	}
	switch p {
	case "n/", "i/", "c/", "a/", "d/", "e/", "o/", "u/", "O/", "L/":
		c.mayBeLeft(u32(0), k)
	case "v/":
		c.mayBeLeft(u32(8), k)
	}
	switch p {
	case "D/":
		c.deletedSpace(u32(0), v)
	case "g/":
		c.origins[u64(0)] = true
	case "n/":
		if c.first() {
			c.report.Namespaces = append(c.report.Namespaces, u32(0))
		}
	case "i/":
		if !c.mine(inoKey{u32(0), u64(4)}) {
			break
		}
		c.report.Inodes++
		var codec inodeCodec
		n, err := codec.decode(u64(4), bytes.Clone(v))
		must(err)
		c.inodes[inoKey{u32(0), u64(4)}] = n
	case "d/":
		d, err := decodeDirent(v)
		must(err)
		c.dirent(inoKey{u32(0), u64(4)}, u64(12), d)
	case "a/":
		if !c.mine(inoKey{u32(0), u64(4)}) {
			break
		}
		a, err := decodeXattr(v)
		must(err)
		c.xattr(inoKey{u32(0), u64(4)}, string(k[2+12:]), a)
	case "e/":
		e, err := decodeExtent(u64(12), bytes.Clone(v))
		must(err)
		c.extent(inoKey{u32(0), u64(4)}, e)
	case "b/":
		if !c.mineBlock(u64(0)) {
			break
		}
		if len(k) > len("b/")+8 {
			var r metapb.BackReference
			must(r.UnmarshalVT(v))
			c.backs[backKey{u64(0), u64(8), u64(16)}] = r.Refs
			break
		}
		c.report.Blocks++
		b := new(metapb.BlockRecord)
		must(b.UnmarshalVT(v))
		c.blocks[u64(0)] = b
	case "x/":
		if !c.mineBlock(u64(0)) {
			break
		}
		d := new(metapb.DyingRecord)
		must(d.UnmarshalVT(v))
		c.dying[u64(0)] = d
	case "y/":
		c.length++
		if id := binary.BigEndian.Uint64(v); c.mineBlock(id) {
			c.numbers[u64(0)] = id
		}
	case "r/":
		g := new(metapb.RangeRecord)
		must(g.UnmarshalVT(v))
		c.ranges[u64(0)] = g
	case "l/":
		if o, had := c.leased[u64(8)]; had {
			c.fail("unit %d is leased to origins %d and %d", u64(8), o, u64(0))
		}
		c.leased[u64(8)] = u64(0)
	case "o/":
		if c.deleted[u32(0)] || !c.mine(inoKey{u32(0), u64(4)}) {
			break
		}
		c.orphans[inoKey{u32(0), u64(4)}]++
		c.holders[u64(12)] = inoKey{u32(0), u64(4)}
		if c.get(appendHoldOf(nil, u64(12), u32(0), u64(4))) == nil {
			c.fail("hold %q without its index", k)
		}
	case "q/":
		var q metapb.PurgeRecord
		must(q.UnmarshalVT(v))
		c.queued++
		if k := (inoKey{q.Fs, q.Ino}); c.mine(k) {
			c.queue[k]++
		}
		if q.Dying {
			c.unsaid = &q
		}
		if q.Namespace {
			c.ended[q.Fs]++
		}
		if q.Client != 0 {
			c.clients.purged(q.Client)
		}
		if q.OrphansOf != 0 {
			c.ending[q.OrphansOf] = true
		}
	case "v/":
		if c.first() {
			c.reservation(u64(0), usageKey{u32(8), u32(12)}, v)
		}
	case "u/":
		u, err := decodeUsage(v)
		must(err)
		id := usageKey{fs: u32(0)}
		if len(k) > 6 {
			id.project = u32(4)
		}
		c.usage[id] = u
	case "m/":
		if bytes.Equal(k, lingeringKey) {
			var err error
			c.lingers, err = decodeOrigins(v)
			must(err)
			break
		}
		if len(v) == 8 {
			c.counts[string(k)] = binary.BigEndian.Uint64(v)
		}
	case "W/", "w/", "O/", "L/", "z/", "C/", "S/":
		c.clients.record(p, k, v)
	}
}

func (c *checker) dirent(dir inoKey, cookie uint64, d *dirent) {
	if c.deleted[dir.fs] {
		return
	}
	if c.mine(dir) {
		c.try(func() { c.slot(dir, cookie, d) })
	}
	if d.typ == typeGap {
		return
	}
	child := inoKey{dir.fs, d.ino}
	if c.mine(dir) {
		c.entries[dir]++
		if d.typ == vfs.TypeDir {
			c.subdirs[dir]++
		}
	}
	if !c.mine(child) {
		return
	}
	parent := c.directory(dir)
	n := c.inodes[child]
	if n == nil {
		c.fail("%q in %d names inode %d, which does not exist", d.name, dir.ino, d.ino)
	}
	if n.attr.Type != d.typ {
		c.fail("%q has type %v, its inode %v", d.name, d.typ, n.attr.Type)
	}
	if p := n.attr.Project; parent != nil && p != parent.attr.Project {
		b := c.get(usageKey{dir.fs, p}.append(nil))
		if u, err := decodeUsage(b); err != nil || p == 0 || u.dir != d.ino {
			c.fail("%q is of project %d in a directory of project %d, and is not the project's own", d.name, p, parent.attr.Project)
		}
	}
	c.links[child]++
	if n.isDir() {
		if n.parent != dir.ino {
			c.fail("directory %d is in %d, its parent is %d", d.ino, dir.ino, n.parent)
		}
	}
}

// slot checks where an entry is.
func (c *checker) slot(dir inoKey, cookie uint64, d *dirent) {
	if cookie < 3 || cookie >= 1<<63 {
		c.fail("cookie %d", cookie)
	}
	next := c.get(appendDirent(nil, dir.fs, dir.ino, cookie+1))
	if d.typ == typeGap {
		if next == nil {
			c.fail("gap at cookie %#x with nothing behind it", cookie)
		}
		return
	}
	if first := cookie &^ (slotsMax - 1); cookie != first && cookie != firstSlotOf0 {
		if c.get(appendDirent(nil, dir.fs, dir.ino, cookie-1)) == nil {
			c.fail("hole before cookie %#x", cookie)
		}
	}
	sp, err := decodeSpace(c.get(appendFS(nil, "n/", dir.fs)))
	if err != nil {
		c.fail("%v", err)
	}
	if first, last := sp.places(c.hash, []byte(d.name)); cookie < first || cookie > last {
		c.fail("%q is at cookie %#x, not in %#x..%#x", d.name, cookie, first, last)
	}
}

func (c *checker) extent(k inoKey, e extent) {
	if e.block != 0 && c.mineBlock(e.block) {
		c.try(func() { c.reference(k, e) })
	}
	n := c.inodes[k]
	if n == nil || c.deleted[k.fs] {
		return // of a deleted inode, or of another part
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
	if l, ok := c.live[k]; ok && l.end > e.start {
		c.fail("extents of inode %d overlap: %+v and %+v", k.ino, l, e)
	}
	if e.reserved && (e.end > n.reservedEnd || c.level < levelPOSIX) {
		c.fail("inode %d: reserved extent %d..%d at level %d, none should end above %d", k.ino, e.start, e.end, c.level, n.reservedEnd)
	}
	if e.block == 0 && !e.reserved && e.start/pageSize != (e.end-1)/pageSize {
		c.fail("inline extent %d..%d in two pages", e.start, e.end)
	}
	c.live[k] = e
}

// reference counts an extent that points into a block.
func (c *checker) reference(k inoKey, e extent) {
	c.refs[e.block]++
	b := c.blocks[e.block]
	if b == nil {
		c.fail("an extent points into block %#x, which has no record", e.block)
	}
	if b.Length != e.blockLen || b.Pg != e.pg || uint64(e.blockOff)+e.len() > uint64(b.Length) {
		c.fail("inode %d: extent %+v of block %v", k.ino, e, b)
	}
	if (inoKey{b.Fs, b.Ino}) == k && b.Offset == e.base() {
		return
	}
	if b.Fs != k.fs || c.level < levelPOSIX {
		c.fail("inode %d: extent %+v is elsewhere than its block %v", k.ino, e, b)
	}
	c.found[backKey{e.block, k.ino, e.place()}]++
}

func (c *checker) finish() {
	c.deletedSpaces()
	for k, n := range c.inodes {
		c.try(func() {
			if n.attr.Used != c.used[k] {
				c.fail("inode %d uses %d bytes, counts %d", k.ino, c.used[k], n.attr.Used)
			}
			c.inode(k, n)
		})
	}
	c.quotas()
	for id, b := range c.blocks {
		c.try(func() {
			if c.refs[id] != b.Refs || b.Refs == 0 {
				c.fail("block %#x has %d references, counts %d", id, c.refs[id], b.Refs)
			}
			if c.dying[id] != nil {
				c.fail("block %#x lives and dies", id)
			}
		})
	}
	c.collect()
	c.checkXattrs()
	for k, n := range c.found {
		c.try(func() {
			if c.backs[k] != n {
				c.fail("block %#x has %d extents of inode %d at place %#x, counts %d", k.block, n, k.ino, k.place, c.backs[k])
			}
		})
	}
	for k, n := range c.backs {
		c.try(func() {
			if c.found[k] == 0 || n == 0 {
				c.fail("block %#x counts %d extents of inode %d at place %#x, there is none", k.block, n, k.ino, k.place)
			}
		})
	}
	if c.first() {
		c.try(func() {
			if n := c.counts["m/queue"]; n != c.queued {
				c.fail("%d items in the queue, counted %d", c.queued, n)
			}
		})
	}
	for k, n := range c.queue {
		c.try(func() {
			if n > 1 && k.ino != 0 {
				c.fail("inode %d is in the queue %d times", k.ino, n)
			}
		})
	}
	for k := range c.orphans {
		c.try(func() {
			if n := c.inodes[k]; n == nil || n.attr.Nlink != 0 {
				c.fail("inode %d is held and is not an orphan", k.ino)
			}
		})
	}
	for o, k := range c.holders {
		c.try(func() {
			if !c.origins[o] && !c.ending[o] && !slices.Contains(c.lingers, o) {
				c.fail("inode %d is held for origin %d, which ended", k.ino, o)
			}
		})
	}
	for i, o := range c.lingers {
		c.try(func() {
			if c.origins[o] || i > 0 && c.lingers[i-1] >= o {
				c.fail("origins %v linger, %d is registered: %v", c.lingers, o, c.origins[o])
			}
		})
	}
	c.clients.finish()
	if c.first() {
		c.try(c.groups)
	}
}

// collect checks dying blocks and leased ids.
func (c *checker) collect() {
	for id, d := range c.dying {
		c.try(func() {
			switch {
			case d.Seq == 0 && c.level >= levelCollect && (c.unsaid == nil || id <= c.unsaid.From):
				c.fail("dying block %#x has no number and will get none", id)
			case d.Seq != 0 && c.level < levelCollect:
				c.fail("dying block %#x has number %d at level %d", id, d.Seq, c.level)
			case d.Seq != 0 && c.numbers[d.Seq] != id:
				c.fail("dying block %#x has number %d, which is that of %#x", id, d.Seq, c.numbers[d.Seq])
			}
		})
	}
	next := max(c.counts["m/next/dying"], 1)
	for seq, id := range c.numbers {
		c.try(func() {
			if d := c.dying[id]; d == nil || d.Seq != seq {
				c.fail("number %d of the dying queue is block %#x, whose record is %v", seq, id, d)
			}
			if seq == 0 || seq >= next {
				c.fail("number %d in the dying queue, the next is %d", seq, next)
			}
		})
	}
	units := max(c.counts["m/next/blocks"], 1)
	known := func(id uint64) {
		c.try(func() {
			if unitOf(id) >= units || id>>blockShardShift != uint64(c.shard) {
				c.fail("block %#x was never leased", id)
			}
			if g := c.ranges[unitOf(id)]; g != nil && (id%blockUnit >= uint64(g.Count) || reaped(g, id)) {
				c.fail("block %#x is in its range %v, which says otherwise", id, g)
			}
		})
	}
	for id := range c.blocks {
		known(id)
	}
	for id := range c.dying {
		known(id)
	}
	if !c.first() {
		return
	}
	c.try(func() {
		if n := c.counts["m/dying"]; n != c.length {
			c.fail("%d blocks in the dying queue, counted %d", c.length, n)
		}
	})
	for unit, g := range c.ranges {
		c.try(func() {
			if c.leased[unit] != g.Origin || g.Origin == 0 || g.Count == 0 || g.Count > blockUnit || unit >= units {
				c.fail("unit %d: %v, leased to origin %d", unit, g, c.leased[unit])
			}
			if len(g.Reaped) > blockUnit/8 || (len(g.Reaped) > 0 && c.level < levelCollect) {
				c.fail("unit %d: %d bytes of reaped ids at level %d", unit, len(g.Reaped), c.level)
			}
		})
	}
	for unit, o := range c.leased {
		c.try(func() {
			if c.ranges[unit] == nil {
				c.fail("origin %d leases unit %d, which has no record", o, unit)
			}
		})
	}
}

func (c *checker) inode(k inoKey, n *inode) {
	if n.reservedEnd > n.attr.Size {
		c.fail("inode %d has %d bytes, reserved ones up to %d", k.ino, n.attr.Size, n.reservedEnd)
	}
	want := c.links[k]
	if project, hidden := stagingProject(k.ino); hidden {
		if !n.isDir() || n.attr.Project != project || want != 0 || c.level < levelService {
			c.fail("hidden inode %d at level %d: %+v with %d names", k.ino, c.level, n.attr, want)
		}
		if n.entries != c.entries[k] || n.attr.Nlink != 2+c.subdirs[k] {
			c.fail("hidden directory %d has %d entries, counts %d", k.ino, c.entries[k], n.entries)
		}
		return
	}
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
	if n.attr.Nlink == 0 && c.orphans[k] == 0 && !n.opened() {
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
	if l := n.lease; l.epoch != 0 && (l.epoch != n.lastEpoch || l.shared() && (c.level < levelGateways || l.limit != 0)) {
		c.fail("inode %d: lease %+v, last epoch %d", k.ino, l, n.lastEpoch)
	}
}
