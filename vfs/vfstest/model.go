package vfstest

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/vfs"
)

// Model runs random operations on fs and on a memfs, and fails where they
// differ. The number of runs and the seed are rapid's flags (-rapid.checks,
// -rapid.seed). Each run has a directory of its own.
func Model(t *testing.T, fs vfs.FS) {
	var run atomic.Uint64
	base := fmt.Sprintf("model-%d", time.Now().UnixNano())
	rapid.Check(t, func(rt *rapid.T) {
		m := newModel(rt, fs, fmt.Sprintf("%s-%d", base, run.Add(1)))
		rt.Repeat(map[string]func(*rapid.T){
			"create":   m.create,
			"create2":  m.create, // more often than the rest
			"mknod":    m.mknod,
			"lookup":   m.lookup,
			"parent":   m.parent,
			"readlink": m.readlink,
			"readdir":  m.readdir,
			"getattr":  m.getattr,
			"setattr":  m.setattr,
			"truncate": m.truncate,
			"link":     m.link,
			"remove":   m.remove,
			"rename":   m.rename,
			"open":     m.open,
			"close":    m.close,
			"read":     m.read,
			"write":    m.write,
			"write2":   m.write,
			"commit":   m.commit,
			"allocate": m.allocate,
			"punch":    m.deallocate,
			"seek":     m.seek,
			"clone":    m.clone,
			"xattr":    m.xattr,
			"crash":    m.crash,
			"disturb":  m.disturb,
		})
		m.finish(rt)
	})
}

// node is one inode on both sides.
type node struct {
	ref, impl   vfs.Ino
	refA, implA vfs.Attr // as last seen
	seen        bool
	opens       []vfs.OpenFlags
	verifier    vfs.Verifier // of the implementation; zero: none seen
	read        bool         // since its time of access was set
}

// model is the state of one run.
type model struct {
	ctx   context.Context
	ref   *memfs.FS
	impl  vfs.FS
	nodes []*node // in order of appearance; 0 is the run's directory
	byRef map[vfs.Ino]*node
}

// The reference's clock runs in 1975, clients' times lie in the eighties, so
// that a time tells where it came from.
var (
	refEpoch    = time.Unix(5*365*86400, 0)
	clientEpoch = time.Unix(12*365*86400, 0)
	serverEpoch = time.Unix(40*365*86400, 0)
)

func newModel(t *rapid.T, fs vfs.FS, name string) *model {
	now := refEpoch
	m := &model{ctx: context.Background(), impl: fs, byRef: map[vfs.Ino]*node{}}
	m.ref = memfs.New(memfs.Options{NoAtime: true, Now: func() time.Time { now = now.Add(time.Second); return now }})
	args := vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: p(uint32(0o777))}}
	a, err := m.ref.MakeNode(m.ctx, root, vfs.RootIno, name, args)
	if err != nil {
		t.Fatal(err)
	}
	b, err := fs.MakeNode(m.ctx, root, vfs.RootIno, name, args)
	if err != nil {
		t.Fatal(err)
	}
	m.saw(t, a.Attr, b.Attr)
	return m
}

// saw compares attributes of one inode, now known on both sides, with each
// other and with what was last seen.
func (m *model) saw(t *rapid.T, ref, impl vfs.Attr) *node {
	t.Helper()
	n := m.byRef[ref.Ino]
	if n == nil {
		n = &node{ref: ref.Ino, impl: impl.Ino}
		m.byRef[ref.Ino] = n
		m.nodes = append(m.nodes, n)
	}
	if n.impl != impl.Ino {
		t.Fatalf("inode %d was %d, is now %d", n.ref, n.impl, impl.Ino)
	}
	type plain struct {
		Type                     vfs.Type
		Mode, Nlink, UID, GID, P uint32
		Size                     uint64
		Dev                      vfs.Dev
	}
	x := plain{ref.Type, ref.Mode, ref.Nlink, ref.UID, ref.GID, ref.Project, ref.Size, ref.Dev}
	y := plain{impl.Type, impl.Mode, impl.Nlink, impl.UID, impl.GID, impl.Project, impl.Size, impl.Dev}
	if b := boundsOf(m.impl); ref.Type == vfs.TypeDir {
		if b.DirSize {
			y.Size = x.Size
		}
		if b.OneLink {
			x.Nlink = min(x.Nlink, 1)
		}
	}
	if x != y {
		t.Fatalf("attributes of inode %d:\nwant %+v\n got %+v", n.impl, x, y)
	}
	if n.read {
		// Reading may move the time of access to the server's clock, and a crash back.
		if impl.Atime.Before(serverEpoch) && !impl.Atime.Equal(ref.Atime) {
			t.Fatalf("atime of inode %d is %v, the client set %v", n.impl, impl.Atime, ref.Atime)
		}
	} else {
		m.sameTime(t, n, "atime", ref.Atime, impl.Atime, n.refA.Atime, n.implA.Atime)
	}
	m.sameTime(t, n, "mtime", ref.Mtime, impl.Mtime, n.refA.Mtime, n.implA.Mtime)
	m.sameTime(t, n, "ctime", ref.Ctime, impl.Ctime, n.refA.Ctime, n.implA.Ctime)
	m.sameTime(t, n, "btime", ref.Btime, impl.Btime, n.refA.Btime, n.implA.Btime)
	if n.seen {
		moved, did := ref.Change != n.refA.Change, impl.Change != n.implA.Change
		if moved != did || impl.Change < n.implA.Change {
			t.Fatalf("change of inode %d went from %d to %d; should it move: %v", n.impl, n.implA.Change, impl.Change, moved)
		}
	}
	n.seen, n.refA, n.implA = true, ref, impl
	return n
}

func (m *model) sameTime(t *rapid.T, n *node, what string, ref, impl, refWas, implWas time.Time) {
	t.Helper()
	switch {
	case !ref.Before(clientEpoch):
		if !ref.Equal(impl) {
			t.Fatalf("%s of inode %d is %v, the client set %v", what, n.impl, impl, ref)
		}
	case impl.Before(serverEpoch):
		t.Fatalf("%s of inode %d is %v, which is not the server's time", what, n.impl, impl)
	case n.seen && ref.Equal(refWas):
		if !impl.Equal(implWas) {
			t.Fatalf("%s of inode %d went from %v to %v, and nothing happened to it", what, n.impl, implWas, impl)
		}
	case n.seen && refWas.Before(clientEpoch) && impl.Before(implWas):
		t.Fatalf("%s of inode %d went back from %v to %v", what, n.impl, implWas, impl)
	}
}

// sameError reports whether both sides failed, and fails if they did otherwise.
func sameError(t *rapid.T, ref, impl error) bool {
	t.Helper()
	if a, b := vfs.KindOf(ref), vfs.KindOf(impl); a != b {
		t.Fatalf("want %v (%v), got %v (%v)", a, ref, b, impl)
	}
	return ref != nil
}

// sameDir compares a directory change: whether it moved, and that it chains
// with the attributes seen.
func (m *model) sameDir(t *rapid.T, d *node, ref, impl vfs.DirChange) {
	t.Helper()
	if (ref.Before == ref.After) != (impl.Before == impl.After) || impl.After < impl.Before {
		t.Fatalf("directory change %+v, want like %+v", impl, ref)
	}
	m.look(t, d)
	if d.implA.Change != impl.After {
		t.Fatalf("directory change %+v, the directory has %d", impl, d.implA.Change)
	}
}

// look compares the attributes of n now.
func (m *model) look(t *rapid.T, n *node) {
	t.Helper()
	a, err := m.ref.GetAttr(m.ctx, n.ref)
	b, err2 := m.impl.GetAttr(m.ctx, n.impl)
	if !sameError(t, err, err2) {
		m.saw(t, a, b)
	}
}

// Draws.

func (m *model) node(t *rapid.T, what string) *node {
	return m.nodes[rapid.IntRange(0, len(m.nodes)-1).Draw(t, what)]
}

// dir is mostly a directory.
func (m *model) dir(t *rapid.T, what string) *node {
	if rapid.IntRange(0, 15).Draw(t, what+" any") == 0 {
		return m.node(t, what)
	}
	return m.ofType(t, what, vfs.TypeDir)
}

// file is mostly a regular file.
func (m *model) file(t *rapid.T, what string) *node {
	if rapid.IntRange(0, 15).Draw(t, what+" any") == 0 {
		return m.node(t, what)
	}
	return m.ofType(t, what, vfs.TypeFile)
}

func (m *model) ofType(t *rapid.T, what string, typ vfs.Type) *node {
	var all []*node
	for _, n := range m.nodes {
		if n.refA.Type == typ {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		t.SkipNow()
	}
	return all[rapid.IntRange(0, len(all)-1).Draw(t, what)]
}

var (
	drawName   = rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "..", "x/y"})
	drawCred   = rapid.SampledFrom([]*vfs.Cred{root, root, root, alice, alice, bob, carol})
	drawMode   = rapid.SampledFrom([]uint32{0o777, 0o777, 0o755, 0o644, 0o600, 0o1777, 0o2775, 0o6755, 0o4711, 0o070, 0})
	drawOpen   = rapid.SampledFrom([]vfs.OpenFlags{vfs.OpenRead, vfs.OpenWrite, vfs.OpenRead | vfs.OpenWrite})
	drawOffset = rapid.SampledFrom([]uint64{
		0, 0, 0, 1, 100, 4095, 4096, 4097, 8192, 12_288, 20_000, 32_768, 100_000,
		1 << 20, 4<<20 - 10, 4 << 20, 4<<20 + 5000, 9 << 20,
	})
	drawLength = rapid.SampledFrom([]int{0, 1, 10, 100, 4095, 4096, 4097, 9000, 40_000, 300_000, 1 << 20})
)

func drawTime(t *rapid.T) time.Time {
	return clientEpoch.Add(time.Duration(rapid.IntRange(0, 1<<40).Draw(t, "time")))
}

func drawSetAttr(t *rapid.T) (s vfs.SetAttr) {
	what := rapid.IntRange(0, 63).Draw(t, "set")
	if what&1 != 0 {
		s.Mode = p(drawMode.Draw(t, "mode"))
	}
	if what&2 != 0 {
		s.UID = p(rapid.SampledFrom([]uint32{0, 1000, 1001}).Draw(t, "uid"))
	}
	if what&4 != 0 {
		s.GID = p(rapid.SampledFrom([]uint32{0, 1000, 2000}).Draw(t, "gid"))
	}
	if what&8 != 0 {
		s.AtimeSet = vfs.TimeServer
	}
	if what&16 != 0 {
		s.MtimeSet = vfs.TimeServer
	}
	if what&24 != 0 && what&32 != 0 {
		s.AtimeSet, s.MtimeSet = vfs.TimeClient, vfs.TimeClient
		s.Atime, s.Mtime = drawTime(t), drawTime(t)
	}
	return s
}

func (m *model) finish(t *rapid.T) {
	for _, n := range m.nodes {
		m.look(t, n)
		if n.refA.Type == vfs.TypeFile {
			m.compareRange(t, n, 0, 128<<10)
			for _, off := range []uint64{1 << 20, 4<<20 - 20_000, 9 << 20} {
				m.compareRange(t, n, off, 2<<20)
			}
		}
	}
	for _, n := range m.nodes {
		m.closeAll(t, n)
		m.look(t, n)
	}
}

func (m *model) closeAll(t *rapid.T, n *node) {
	for _, f := range n.opens {
		err := m.ref.Close(m.ctx, n.ref, f)
		sameError(t, err, m.impl.Close(m.ctx, n.impl, f))
	}
	n.opens = nil
}

// compareRange reads the same range on both sides.
func (m *model) compareRange(t *rapid.T, n *node, off uint64, length int) {
	t.Helper()
	n.read = true
	x, y := make([]byte, length), bytes.Repeat([]byte{0xEE}, length)
	k, eof, err := m.ref.Read(m.ctx, n.ref, off, x)
	read := m.impl.Read
	if v, ok := optional[vfs.Viewer](m.impl); ok && length%2 != 0 {
		read = func(ctx context.Context, ino vfs.Ino, off uint64, p []byte) (int, bool, error) {
			return view(ctx, v, ino, off, p)
		}
	}
	k2, eof2, err2 := read(m.ctx, n.impl, off, y)
	if sameError(t, err, err2) {
		return
	}
	if k != k2 || eof != eof2 {
		t.Fatalf("read %d at %d of inode %d: %d bytes, eof %v; want %d, %v", length, off, n.impl, k2, eof2, k, eof)
	}
	for i := range k {
		if x[i] != y[i] {
			t.Fatalf("byte %d of inode %d is %#x, want %#x", off+uint64(i), n.impl, y[i], x[i])
		}
	}
}
