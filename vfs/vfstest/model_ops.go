package vfstest

import (
	"time"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/vfs"
)

// The operations of a model run: draw the arguments, do it on both sides,
// compare.

func (m *model) create(t *rapid.T) {
	c, d, name := drawCred.Draw(t, "cred"), m.dir(t, "dir"), drawName.Draw(t, "name")
	a := vfs.CreateArgs{
		Exclusive: rapid.SampledFrom([]vfs.Exclusive{vfs.Unchecked, vfs.Unchecked, vfs.Guarded, vfs.ByVerifier}).Draw(t, "how"),
		Verifier:  [8]byte{byte(rapid.IntRange(0, 1).Draw(t, "verifier"))},
		Attr:      drawSetAttr(t),
	}
	if rapid.Bool().Draw(t, "open it") {
		a.Open = drawOpen.Draw(t, "open")
	}
	if rapid.IntRange(0, 2).Draw(t, "cut") == 0 {
		a.Attr.Size = p(uint64(0))
	}
	x, err := m.ref.Create(m.ctx, c, d.ref, name, a)
	y, err2 := m.impl.Create(m.ctx, c, d.impl, name, a)
	if sameError(t, err, err2) {
		return
	}
	if x.New != y.New {
		t.Fatalf("new: %v, want %v", y.New, x.New)
	}
	n := m.saw(t, x.Attr, y.Attr)
	if a.Open != 0 {
		n.opens = append(n.opens, a.Open)
	}
	m.sameDir(t, d, x.Dir, y.Dir)
}

func (m *model) mknod(t *rapid.T) {
	c, d, name := drawCred.Draw(t, "cred"), m.dir(t, "dir"), drawName.Draw(t, "name")
	a := vfs.NodeArgs{
		Type: rapid.SampledFrom([]vfs.Type{vfs.TypeDir, vfs.TypeDir, vfs.TypeDir, vfs.TypeSymlink, vfs.TypeChar, vfs.TypeFIFO, vfs.TypeFile}).Draw(t, "type"),
		Attr: drawSetAttr(t),
	}
	if a.Type == vfs.TypeSymlink {
		a.Target = rapid.SampledFrom([]string{"", "t", "/some/where"}).Draw(t, "target")
	}
	if a.Type == vfs.TypeChar {
		a.Dev = vfs.Dev{Major: 1, Minor: 3}
	}
	x, err := m.ref.MakeNode(m.ctx, c, d.ref, name, a)
	y, err2 := m.impl.MakeNode(m.ctx, c, d.impl, name, a)
	if sameError(t, err, err2) {
		return
	}
	m.saw(t, x.Attr, y.Attr)
	m.sameDir(t, d, x.Dir, y.Dir)
}

func (m *model) lookup(t *rapid.T) {
	c, d, name := drawCred.Draw(t, "cred"), m.dir(t, "dir"), drawName.Draw(t, "name")
	x, err := m.ref.Lookup(m.ctx, c, d.ref, name)
	y, err2 := m.impl.Lookup(m.ctx, c, d.impl, name)
	if !sameError(t, err, err2) {
		m.saw(t, x, y)
	}
}

func (m *model) parent(t *rapid.T) {
	c, d := drawCred.Draw(t, "cred"), m.dir(t, "dir")
	if d == m.nodes[0] {
		return // its parent is outside of the run
	}
	x, err := m.ref.Parent(m.ctx, c, d.ref)
	y, err2 := m.impl.Parent(m.ctx, c, d.impl)
	if !sameError(t, err, err2) {
		m.saw(t, x, y)
	}
}

func (m *model) readlink(t *rapid.T) {
	n := m.node(t, "inode")
	n.read = n.read || boundsOf(m.impl).LinuxLinks
	x, err := m.ref.ReadLink(m.ctx, n.ref)
	y, err2 := m.impl.ReadLink(m.ctx, n.impl)
	if !sameError(t, err, err2) && x != y {
		t.Fatalf("target %q, want %q", y, x)
	}
}

func (m *model) readdir(t *rapid.T) {
	c, d := drawCred.Draw(t, "cred"), m.dir(t, "dir")
	attrs := rapid.Bool().Draw(t, "attrs")
	pageSize := rapid.IntRange(1, 8).Draw(t, "page")
	list := func(fs vfs.FS, ino vfs.Ino) (map[string]vfs.Dirent, vfs.Attr, error) {
		all := map[string]vfs.Dirent{}
		cookie := uint64(0)
		for {
			page, err := fs.ReadDir(m.ctx, c, ino, cookie, pageSize, attrs)
			if err != nil {
				return nil, vfs.Attr{}, err
			}
			for _, e := range page.Entries {
				if _, twice := all[e.Name]; twice || e.Cookie <= cookie {
					t.Fatalf("%q: cookie %d after %d, listed before: %v", e.Name, e.Cookie, cookie, twice)
				}
				all[e.Name], cookie = e, e.Cookie
			}
			if page.EOF {
				return all, page.Dir, nil
			}
		}
	}
	d.read = true
	x, xd, err := list(m.ref, d.ref)
	y, yd, err2 := list(m.impl, d.impl)
	if sameError(t, err, err2) {
		return
	}
	m.saw(t, xd, yd)
	if len(x) != len(y) {
		t.Fatalf("%d entries, want %d", len(y), len(x))
	}
	for name, a := range x {
		b, ok := y[name]
		if !ok || a.Type != b.Type {
			t.Fatalf("%q: %+v, want %+v", name, b, a)
		}
		if n := m.byRef[a.Ino]; n == nil || n.impl != b.Ino {
			t.Fatalf("%q is inode %d, want %+v", name, b.Ino, n)
		}
		if (b.Attr != nil) != attrs {
			t.Fatalf("%q: attributes %+v", name, b.Attr)
		}
		if attrs {
			m.saw(t, *a.Attr, *b.Attr)
		}
	}
}

func (m *model) getattr(t *rapid.T) { m.look(t, m.node(t, "inode")) }

func (m *model) setattr(t *rapid.T) {
	m.set(t, m.node(t, "inode"), drawSetAttr(t))
}

func (m *model) truncate(t *rapid.T) {
	s := vfs.SetAttr{}
	if rapid.IntRange(0, 4).Draw(t, "more") == 0 {
		s = drawSetAttr(t)
	}
	s.Size = p(drawOffset.Draw(t, "size"))
	m.set(t, m.file(t, "file"), s)
}

func (m *model) set(t *rapid.T, n *node, s vfs.SetAttr) {
	c, opened := drawCred.Draw(t, "cred"), rapid.Bool().Draw(t, "opened")
	if n.refA.Type == vfs.TypeSymlink && boundsOf(m.impl).LinuxLinks {
		s.Mode = nil
	}
	was, _ := m.ref.GetAttr(m.ctx, n.ref) // of an inode that is gone it fails as SetAttr does
	x, err := m.ref.SetAttr(m.ctx, c, n.ref, s, opened)
	begin := time.Now()
	y, err2 := m.impl.SetAttr(m.ctx, c, n.impl, s, opened)
	if !sameError(t, err, err2) {
		n.read = n.read && s.AtimeSet == vfs.TimeKeep
		if n.seen && y.Change == n.implA.Change && y.Ctime.Equal(n.implA.Ctime) && begin.Sub(y.Ctime) < ctimeTick && onlyTouches(&was, &x, &s) {
			n.refA.Change, n.refA.Ctime = x.Change, x.Ctime // it did not move at all
		}
		m.saw(t, x, y)
	}
}

// ctimeTick is how short after ctime a SETATTR need not move it that changes nothing else (decision 102).
const ctimeTick = 10 * time.Millisecond

// onlyTouches reports whether s, which made after of before, sets nothing but owner, group and mode, and these to what they were.
func onlyTouches(before, after *vfs.Attr, s *vfs.SetAttr) bool {
	return s.Size == nil && s.AtimeSet == vfs.TimeKeep && s.MtimeSet == vfs.TimeKeep && s.Btime == nil &&
		before.UID == after.UID && before.GID == after.GID && before.Mode == after.Mode
}

func (m *model) link(t *rapid.T) {
	c, n, d, name := drawCred.Draw(t, "cred"), m.file(t, "file"), m.dir(t, "dir"), drawName.Draw(t, "name")
	x, dx, err := m.ref.Link(m.ctx, c, n.ref, d.ref, name)
	y, dy, err2 := m.impl.Link(m.ctx, c, n.impl, d.impl, name)
	if sameError(t, err, err2) {
		return
	}
	m.saw(t, x, y)
	m.sameDir(t, d, dx, dy)
}

func (m *model) remove(t *rapid.T) {
	c, d, name := drawCred.Draw(t, "cred"), m.dir(t, "dir"), drawName.Draw(t, "name")
	what := rapid.SampledFrom([]vfs.RemoveKind{vfs.RemoveAny, vfs.RemoveAny, vfs.RemoveFile, vfs.RemoveDir}).Draw(t, "what")
	x, err := m.ref.Remove(m.ctx, c, d.ref, name, what)
	y, err2 := m.impl.Remove(m.ctx, c, d.impl, name, what)
	if !sameError(t, err, err2) {
		m.sameDir(t, d, x, y)
	}
}

func (m *model) rename(t *rapid.T) {
	c := drawCred.Draw(t, "cred")
	from, a, to, b := m.dir(t, "from dir"), drawName.Draw(t, "from"), m.dir(t, "to dir"), drawName.Draw(t, "to")
	fx, tx, err := m.ref.Rename(m.ctx, c, from.ref, a, to.ref, b)
	fy, ty, err2 := m.impl.Rename(m.ctx, c, from.impl, a, to.impl, b)
	if sameError(t, err, err2) {
		return
	}
	m.sameDir(t, from, fx, fy)
	m.sameDir(t, to, tx, ty)
}

func (m *model) open(t *rapid.T) {
	c, n, f := drawCred.Draw(t, "cred"), m.file(t, "file"), drawOpen.Draw(t, "open")
	override := rapid.Bool().Draw(t, "override")
	x, err := m.ref.Open(m.ctx, c, n.ref, f, override)
	y, err2 := m.impl.Open(m.ctx, c, n.impl, f, override)
	if !sameError(t, err, err2) {
		m.saw(t, x, y)
		n.opens = append(n.opens, f)
	}
}

func (m *model) close(t *rapid.T) {
	n := m.file(t, "file")
	if len(n.opens) == 0 {
		return
	}
	i := rapid.IntRange(0, len(n.opens)-1).Draw(t, "which")
	f := n.opens[i]
	n.opens = append(n.opens[:i], n.opens[i+1:]...)
	err := m.ref.Close(m.ctx, n.ref, f)
	sameError(t, err, m.impl.Close(m.ctx, n.impl, f))
	m.look(t, n)
}

func (m *model) read(t *rapid.T) {
	m.compareRange(t, m.file(t, "file"), drawOffset.Draw(t, "offset"), drawLength.Draw(t, "length"))
}

func (m *model) write(t *rapid.T) {
	n := m.file(t, "file")
	c := drawCred.Draw(t, "cred")
	off := drawOffset.Draw(t, "offset")
	data := pattern(drawLength.Draw(t, "length"), rapid.Byte().Draw(t, "seed"))
	stable := rapid.SampledFrom([]vfs.Stable{vfs.Unstable, vfs.Unstable, vfs.Unstable, vfs.DataSync, vfs.FileSync}).Draw(t, "stable")
	_, _, err := m.ref.Write(m.ctx, c, n.ref, off, data, stable)
	got, v, err2 := m.impl.Write(m.ctx, c, n.impl, off, data, stable)
	if sameError(t, err, err2) {
		return
	}
	if got < stable {
		t.Fatalf("stability %d, asked for %d", got, stable)
	}
	m.sameVerifier(t, n, v)
	m.look(t, n)
}

func (m *model) commit(t *rapid.T) {
	n := m.file(t, "file")
	off, length := drawOffset.Draw(t, "offset"), drawLength.Draw(t, "length")
	_, err := m.ref.Commit(m.ctx, n.ref, off, uint64(length))
	v, err2 := m.impl.Commit(m.ctx, n.impl, off, uint64(length))
	if !sameError(t, err, err2) {
		m.sameVerifier(t, n, v)
		m.look(t, n)
	}
}

// sameVerifier: nothing is lost in a run, so it stays.
func (m *model) sameVerifier(t *rapid.T, n *node, v vfs.Verifier) {
	if n.verifier != (vfs.Verifier{}) && n.verifier != v {
		t.Fatal("the verifier changed and nothing was lost")
	}
	n.verifier = v
}

// disturb does something to the machines behind the file system that nobody may notice.
func (m *model) disturb(t *rapid.T) {
	if d, ok := m.impl.(Disturber); ok && rapid.IntRange(0, 3).Draw(t, "really") == 0 {
		d.Disturb(func(n int, what string) int { return rapid.IntRange(0, n-1).Draw(t, what) })
	}
}

// crash makes everything durable and closes it; then a crash loses nothing.
// Change may skip values that were reserved.
func (m *model) crash(t *rapid.T) {
	cr, ok := m.impl.(Crasher)
	if !ok || rapid.IntRange(0, 3).Draw(t, "really") > 0 {
		return
	}
	for _, n := range m.nodes {
		m.closeAll(t, n)
		_, err := m.ref.Commit(m.ctx, n.ref, 0, 0)
		_, err2 := m.impl.Commit(m.ctx, n.impl, 0, 0)
		sameError(t, err, err2)
		n.verifier = vfs.Verifier{}
	}
	for _, n := range m.nodes {
		m.look(t, n)
	}
	cr.Crash()
	for _, n := range m.nodes {
		a, err := m.ref.GetAttr(m.ctx, n.ref)
		b, err2 := m.impl.GetAttr(m.ctx, n.impl)
		if sameError(t, err, err2) {
			continue
		}
		was := n.implA.Change
		n.implA.Change = b.Change
		if b.Change < was {
			t.Fatalf("change of inode %d went back from %d to %d in a crash", n.impl, was, b.Change)
		}
		m.saw(t, a, b)
	}
}
