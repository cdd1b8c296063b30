package fsm

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// quotaModel says what each command of a random history has to answer, from sums over a list of inodes.
type quotaModel struct {
	*rig
	rt      *rapid.T
	inodes  map[uint64]*quotaInode
	limits  map[uint32]quotaLimits
	dirs    map[uint32]uint64 // of projects
	held    map[quotaHold]uint64
	origins [2]uint64
	names   int
	kinds   map[vfs.Kind]int // how often each answer came
	away    *int             // how often one was that another origin has the file
}

type quotaInode struct {
	dir     bool
	project uint32
	parent  uint64 // of its first name
	name    string
	links   int
	entries int
	used    uint64
	epoch   uint64
	owner   uint64 // origin that holds the lease
}

type quotaLimits struct{ bytes, inodes uint64 }

type quotaHold struct {
	origin  uint64
	project uint32
}

func (m *quotaModel) used(project uint32) (bytes, inodes, reserved uint64) {
	for _, n := range m.inodes {
		if project == 0 || n.project == project {
			bytes += n.used
			inodes++
		}
	}
	for h, n := range m.held {
		if project == 0 || h.project == project {
			reserved += n
		}
	}
	return bytes, inodes, reserved
}

// both are the records that count for a project.
func both(project uint32) []uint32 {
	if project == 0 {
		return []uint32{0}
	}
	return []uint32{0, project}
}

// left is how many bytes may be added, and whether there is a limit.
func (m *quotaModel) left(project uint32) (left uint64, limited bool) {
	left = 1 << 62
	for _, p := range both(project) {
		if l := m.limits[p].bytes; l != 0 {
			used, _, reserved := m.used(p)
			limited = true
			left = min(left, l-min(l, used+reserved))
		}
	}
	return left, limited
}

func (m *quotaModel) mayMake(project uint32) bool {
	for _, p := range both(project) {
		_, inodes, _ := m.used(p)
		if l := m.limits[p].inodes; l != 0 && inodes >= l {
			return false
		}
	}
	return true
}

func (m *quotaModel) pick(label string, want func(*quotaInode) bool) (uint64, *quotaInode) {
	var list []uint64
	for _, ino := range sortedKeys(m.inodes) {
		if want(m.inodes[ino]) {
			list = append(list, ino)
		}
	}
	if len(list) == 0 {
		m.rt.Skip("nothing to work on")
	}
	ino := rapid.SampledFrom(list).Draw(m.rt, label)
	return ino, m.inodes[ino]
}

func isDir(n *quotaInode) bool  { return n.dir }
func isFile(n *quotaInode) bool { return !n.dir }

func (m *quotaModel) project() uint32 { return uint32(rapid.IntRange(0, 3).Draw(m.rt, "project")) }
func (m *quotaModel) origin() uint64  { return m.origins[rapid.IntRange(0, 1).Draw(m.rt, "origin")] }

// expect runs a command for an origin and compares the kind of its answer.
func (m *quotaModel) expect(origin uint64, want vfs.Kind, c *metapb.Command) *metapb.Result {
	c.Id = &metapb.Identity{Origin: origin}
	res := m.one(c)
	if got := vfs.Kind(res.Kind); got != want {
		m.rt.Fatalf("%v: %s %s, want %s", c, got, res.Text, want)
	}
	m.kinds[want]++
	return res
}

// elsewhere checks that a command of origin o about n, which may else be done, was answered that another has n to itself, and changed nothing, if that is so; it
// reports whether it is.
func (m *quotaModel) elsewhere(res *metapb.Result, o uint64, n *quotaInode) bool {
	is := m.m.Level() >= levelGateways && n.epoch != 0 && n.owner != o
	if held := res.GetHeld(); (held != nil) != is || is && held.Origin != n.owner {
		m.rt.Fatalf("%v to origin %d, the lease of epoch %d is of %d", res, o, n.epoch, n.owner)
	}
	if is {
		*m.away++
	}
	return is
}

func (m *quotaModel) create() {
	dir, d := m.pick("dir", isDir)
	m.names++
	n := &quotaInode{dir: rapid.Bool().Draw(m.rt, "mkdir"), project: d.project, parent: dir, name: fmt.Sprint(m.names), links: 1}
	c := createCmd(dir, n.name)
	if n.dir {
		c.GetCreate().Type = uint32(vfs.TypeDir)
	} else {
		c.GetCreate().Open = uint32(vfs.OpenWrite)
	}
	want := vfs.KindOK
	if !m.mayMake(d.project) {
		want = vfs.KindQuota
	}
	o := m.origin()
	if res := m.expect(o, want, c).GetCreate(); want == vfs.KindOK {
		if res.Attr.Project != n.project {
			m.rt.Fatalf("made in project %d: %v", n.project, res.Attr)
		}
		n.epoch, n.owner = res.Lease.GetEpoch(), o
		m.inodes[res.Attr.Ino] = n
		d.entries++
	}
}

func (m *quotaModel) remove() {
	ino, n := m.pick("inode", func(n *quotaInode) bool { return n.parent != 0 && n.entries == 0 && n.links == 1 })
	o := m.origin()
	if m.elsewhere(m.expect(o, vfs.KindOK, &metapb.Command{Op: &metapb.Command_Remove{Remove: &metapb.Remove{Parent: n.parent, Name: []byte(n.name)}}}), o, n) {
		return
	}
	m.inodes[n.parent].entries--
	delete(m.inodes, ino)
	for p, d := range m.dirs {
		if d == ino {
			m.dirs[p] = 0
		}
	}
}

func (m *quotaModel) link() {
	ino, n := m.pick("inode", isFile)
	dir, d := m.pick("dir", isDir)
	m.names++
	want := vfs.KindOK
	if n.project != d.project {
		want = vfs.KindXDev
	}
	o := m.origin()
	res := m.expect(o, want, &metapb.Command{Op: &metapb.Command_Link{Link: &metapb.Link{Ino: ino, Parent: dir, Name: []byte(fmt.Sprint(m.names))}}})
	if want == vfs.KindOK && !m.elsewhere(res, o, n) {
		n.links++
		d.entries++
	}
}

func (m *quotaModel) rename() {
	ino, n := m.pick("inode", func(n *quotaInode) bool { return n.parent != 0 })
	to, d := m.pick("dir", isDir)
	want := vfs.KindOK
	for at := to; at != 0; at = m.inodes[at].parent {
		if at == ino {
			want = vfs.KindInvalid
		}
	}
	if want == vfs.KindOK && m.inodes[n.parent].project != d.project {
		want = vfs.KindXDev
	}
	m.names++
	name := fmt.Sprint(m.names)
	o := m.origin()
	res := m.expect(o, want, &metapb.Command{Op: &metapb.Command_Rename{Rename: &metapb.Rename{
		FromParent: n.parent, FromName: []byte(n.name), ToParent: to, ToName: []byte(name),
	}}})
	if want == vfs.KindOK && !m.elsewhere(res, o, n) {
		m.inodes[n.parent].entries--
		d.entries++
		n.parent, n.name = to, name
	}
}

func (m *quotaModel) setProject() {
	ino, n := m.pick("dir", isDir)
	p := m.project()
	to := p
	if p == 0 && n.parent != 0 {
		to = m.inodes[n.parent].project
	}
	want := vfs.KindOK
	switch other := m.dirs[p]; {
	case n.parent == 0:
		want = vfs.KindInvalid
	case n.entries > 0:
		want = vfs.KindNotEmpty
	case to == n.project:
	case p != 0 && other != 0 && other != ino:
		want = vfs.KindExists
	default:
		own := n.project // what it leaves makes room in the file system, but not in the project it comes to
		n.project = ^uint32(0)
		delete(m.inodes, ino)
		if !m.mayMake(to) {
			want = vfs.KindQuota
		}
		m.inodes[ino] = n
		n.project = own
	}
	m.expect(m.origin(), want, &metapb.Command{Op: &metapb.Command_SetProject{SetProject: &metapb.SetProject{Dir: ino, Project: p}}})
	if want == vfs.KindOK && to != n.project {
		if m.dirs[n.project] == ino {
			m.dirs[n.project] = 0
		}
		if p != 0 {
			m.dirs[p] = ino
		}
		n.project = to
	}
}

func (m *quotaModel) setQuota() {
	p := m.project()
	l := quotaLimits{uint64(rapid.IntRange(0, 6).Draw(m.rt, "pages")) * pageSize, uint64(rapid.IntRange(0, 6).Draw(m.rt, "inodes"))}
	_, inodes, _ := m.used(p)
	want := vfs.KindOK
	if p != 0 && inodes == 0 && m.dirs[p] == 0 && !m.stale(p) {
		want = vfs.KindNotFound
	}
	m.expect(m.origin(), want, &metapb.Command{Op: &metapb.Command_SetQuota{SetQuota: &metapb.SetQuota{Project: p, Bytes: l.bytes, Inodes: l.inodes}}})
	if want == vfs.KindOK {
		m.limits[p] = l
	}
}

// stale reports whether a project's record still names a directory, which may be gone.
func (m *quotaModel) stale(p uint32) bool {
	u, err := m.m.usage(usageKey{1, p})
	return err == nil && u.dir != 0
}

// commit writes a block over, or beside, what the file has.
func (m *quotaModel) commit() {
	ino, n := m.pick("file", func(n *quotaInode) bool { return !n.dir && n.epoch != 0 })
	size := uint64(rapid.IntRange(1, 3*pageSize).Draw(m.rt, "size"))
	first := m.expect(n.owner, vfs.KindOK, &metapb.Command{Op: &metapb.Command_AllocBlocks{AllocBlocks: &metapb.AllocBlocks{Count: 1}}}).GetBlocks().First
	c := &metapb.CommitData{
		Ino: ino, Epoch: n.epoch, Size: size, Reserved: uint64(rapid.IntRange(0, 2).Draw(m.rt, "reserved")) * pageSize,
		Unlimited: rapid.IntRange(0, 5).Draw(m.rt, "unlimited") == 0,
		Extents:   []*metapb.NewExtent{{Length: uint32(size), Block: first, ProfileK: 1, ProfileM: 1}},
	}
	grows := size - min(size, n.used) // what it has is one extent from 0 on
	h := quotaHold{n.owner, n.project}
	taken := min(grows, c.Reserved, m.held[h])
	left, limited := m.left(n.project)
	want := vfs.KindOK
	if !c.Unlimited && grows-taken > left {
		want = vfs.KindQuota
	}
	if res := m.expect(n.owner, want, &metapb.Command{Op: &metapb.Command_CommitData{CommitData: c}}).GetCommit(); want == vfs.KindOK {
		if res.Taken != taken || res.Limited != limited || res.Attr.Used != n.used+grows {
			m.rt.Fatalf("%v, want %d taken, limited %v, %d used", res, taken, limited, n.used+grows)
		}
		m.held[h] -= taken
		n.used += grows
	}
}

func (m *quotaModel) truncate() {
	ino, n := m.pick("file", func(n *quotaInode) bool { return !n.dir && n.epoch != 0 })
	size := uint64(rapid.IntRange(0, 4*pageSize).Draw(m.rt, "size"))
	m.expect(n.owner, vfs.KindOK, &metapb.Command{Op: &metapb.Command_SetAttr{SetAttr: &metapb.SetAttr{Ino: ino, Set: &metapb.AttrSet{Size: &size}, LeaseEpoch: n.epoch, Opened: true}}})
	n.used = min(n.used, size)
}

func (m *quotaModel) reserve() {
	o, p := m.origin(), m.project()
	c := &metapb.ReserveQuota{
		Project: p, Need: uint64(rapid.IntRange(0, 2*pageSize).Draw(m.rt, "need")), Ahead: uint64(rapid.IntRange(0, 1).Draw(m.rt, "ahead")) * pageSize,
		Min: uint64(rapid.IntRange(0, 1).Draw(m.rt, "min")) * 100,
	}
	left, limited := m.left(p)
	grant, want := uint64(0), vfs.KindOK
	switch {
	case !limited:
	case left >= c.Need:
		grant = c.Need + min(c.Ahead, (left-c.Need)/8)
	case left > 0 && left >= c.Min:
		grant = left
	default:
		want = vfs.KindQuota
	}
	res := m.expect(o, want, &metapb.Command{Op: &metapb.Command_ReserveQuota{ReserveQuota: c}}).GetReserve()
	if want == vfs.KindOK && (res.GetGranted() != grant || res.GetLimited() != limited) {
		m.rt.Fatalf("%v: %v, want %d of %d", c, res, grant, left)
	}
	m.held[quotaHold{o, p}] += grant
}

func (m *quotaModel) release() {
	h := quotaHold{m.origin(), m.project()}
	n := uint64(rapid.IntRange(0, 2*pageSize).Draw(m.rt, "bytes"))
	m.expect(h.origin, vfs.KindOK, &metapb.Command{Op: &metapb.Command_ReleaseQuota{ReleaseQuota: &metapb.ReleaseQuota{Project: h.project, Bytes: n}}})
	m.held[h] -= min(n, m.held[h])
}

// end ends an origin: its leases are void at once, its reservations when the queue is done.
func (m *quotaModel) end() {
	i := rapid.IntRange(0, 1).Draw(m.rt, "which")
	old := m.origins[i]
	m.origins[i] = m.register(fmt.Sprintf("gateway-%d", i), m.index)
	m.drain(uint32(rapid.IntRange(1, 9).Draw(m.rt, "keys")))
	for h := range m.held {
		if h.origin == old {
			delete(m.held, h)
		}
	}
	for _, n := range m.inodes {
		if n.owner == old {
			n.epoch, n.owner = 0, 0
		}
	}
}

func (m *quotaModel) compare(rt *rapid.T) {
	m.rt = rt
	m.check()
	for p := range uint32(4) {
		u, err := m.m.usage(usageKey{1, p})
		if err != nil {
			rt.Fatal(err)
		}
		bytes, inodes, reserved := m.used(p)
		l := m.limits[p]
		if u.bytes != bytes || u.inodes != inodes || u.reserved != reserved || u.limitBytes != l.bytes || u.limitInodes != l.inodes {
			rt.Fatalf("project %d: %+v, want %d bytes, %d inodes, %d reserved, limits %+v", p, u, bytes, inodes, reserved, l)
		}
	}
}

// TestQuotaModel compares random histories under small limits with sums over all inodes.
func TestQuotaModel(t *testing.T) {
	kinds, away := make(map[vfs.Kind]int), 0
	defer func() {
		if !t.Failed() && (kinds[vfs.KindQuota] == 0 || kinds[vfs.KindXDev] == 0 || away == 0) {
			t.Errorf("answers were %v, and %d that another has the file: the test shows nothing", kinds, away)
		}
	}()
	rapid.Check(t, func(rt *rapid.T) {
		m := &quotaModel{
			rig: newNamespaceRig(t, Options{}), rt: rt, kinds: kinds, away: &away,
			inodes: map[uint64]*quotaInode{uint64(vfs.RootIno): {dir: true}},
			limits: make(map[uint32]quotaLimits), dirs: make(map[uint32]uint64), held: make(map[quotaHold]uint64),
		}
		newest := rapid.SampledFrom([]uint32{levelService, Level}).Draw(rt, "level")
		for l := m.m.Level() + 1; l <= newest; l++ {
			m.ok(raiseCmd(l))
		}
		m.origins[0] = m.register("gateway-0", 1)
		m.origins[1] = m.register("gateway-1", 1)
		act := func(fn func()) func(*rapid.T) {
			return func(rt *rapid.T) { m.rt = rt; fn() }
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create": act(m.create), "create2": act(m.create), "create3": act(m.create),
			"remove": act(m.remove), "link": act(m.link), "rename": act(m.rename),
			"project": act(m.setProject), "project2": act(m.setProject), "quota": act(m.setQuota),
			"commit": act(m.commit), "commit2": act(m.commit), "truncate": act(m.truncate),
			"reserve": act(m.reserve), "release": act(m.release), "end": act(m.end),
			"flush": act(m.flush), "reopen": act(m.reopen),
			"": m.compare,
		})
	})
	t.Log(kinds, away)
}
