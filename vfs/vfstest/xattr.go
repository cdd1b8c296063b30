package vfstest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/vfs"
)

// Wrapper is an implementation around another one, whose optional interfaces are its own.
type Wrapper interface{ Unwrap() vfs.FS }

// optional is fs as an implementation of an optional interface.
func optional[T any](fs vfs.FS) (T, bool) {
	if w, ok := fs.(Wrapper); ok {
		return optional[T](w.Unwrap())
	}
	x, ok := fs.(T)
	return x, ok
}

// xattrs is the file system's extended attributes; without them the test ends.
func (e *env) xattrs() vfs.Xattrs {
	e.Helper()
	x, ok := optional[vfs.Xattrs](e.fs)
	if !ok {
		e.Skip("this file system has no extended attributes")
	}
	return x
}

func (e *env) setXattr(ino vfs.Ino, name, value string) vfs.DirChange {
	e.Helper()
	ch, err := e.xattrs().SetXattr(e.ctx, root, ino, name, []byte(value), vfs.XattrEither)
	e.ok(err)
	return ch
}

func (e *env) removeXattr(ino vfs.Ino, name string) vfs.DirChange {
	e.Helper()
	ch, err := e.xattrs().RemoveXattr(e.ctx, root, ino, name)
	e.ok(err)
	return ch
}

func (e *env) xattr(ino vfs.Ino, name string) string {
	e.Helper()
	v, err := e.xattrs().GetXattr(e.ctx, root, ino, name)
	e.ok(err)
	return string(v)
}

func (e *env) noXattr(ino vfs.Ino, name string) {
	e.Helper()
	_, err := e.xattrs().GetXattr(e.ctx, root, ino, name)
	e.want(vfs.KindNoAttr, err)
}

// listXattrs is the whole listing, by pages of so many bytes.
func (e *env) listXattrs(ino vfs.Ino, size int) (names []string) {
	e.Helper()
	for cookie := uint64(0); ; {
		page, err := e.xattrs().ListXattrs(e.ctx, root, ino, cookie, size)
		e.ok(err)
		total := 0
		for i, n := range page.Names {
			if total += len(n.Name); n.Cookie <= cookie || (i > 0 && total > size) {
				e.Fatalf("page %v after cookie %d, of %d bytes", page, cookie, size)
			}
			cookie = n.Cookie
			names = append(names, n.Name)
		}
		if page.EOF {
			return names
		}
		if len(page.Names) == 0 {
			e.Fatal("a page without names that is not the last")
		}
	}
}

func testXattr(e *env) {
	for what, ino := range map[string]vfs.Ino{"file": e.create(root, "f", 0o644).Ino, "directory": e.mkdir("d", 0o755)} {
		x := e.xattrs()
		e.noXattr(ino, "a")
		_, err := x.RemoveXattr(e.ctx, root, ino, "a")
		e.want(vfs.KindNoAttr, err)
		if l := e.listXattrs(ino, 100); len(l) != 0 {
			e.Fatalf("%s: a new one has %v", what, l)
		}
		_, err = x.SetXattr(e.ctx, root, ino, "a", []byte("1"), vfs.XattrReplace)
		e.want(vfs.KindNoAttr, err)
		_, err = x.SetXattr(e.ctx, root, ino, "a", []byte("1"), vfs.XattrCreate)
		e.ok(err)
		_, err = x.SetXattr(e.ctx, root, ino, "a", []byte("2"), vfs.XattrCreate)
		e.want(vfs.KindExists, err)
		if v := e.xattr(ino, "a"); v != "1" {
			e.Fatalf("%s: a refused one is %q", what, v)
		}
		_, err = x.SetXattr(e.ctx, root, ino, "a", []byte("2\x00\xff"), vfs.XattrReplace)
		e.ok(err)
		if v := e.xattr(ino, "a"); v != "2\x00\xff" {
			e.Fatalf("%s: %q", what, v)
		}
		long := strings.Repeat("n", e.bounds.XattrName)
		large := string(pattern(e.bounds.XattrValue, 3))
		for name, value := range map[string]string{"empty": "", "a/b": "slash", ".": "dot", "\xff\x01": "bytes", long: "long", "large": large} {
			e.setXattr(ino, name, value)
			if got := e.xattr(ino, name); got != value {
				e.Fatalf("%s: %.20q has %d bytes, want %d", what, name, len(got), len(value))
			}
		}
		for _, size := range []int{1, 5, 1 << 20} {
			got := e.listXattrs(ino, size)
			slices.Sort(got)
			if want := []string{".", "a", "a/b", "empty", "large", long, "\xff\x01"}; !slices.Equal(got, want) {
				e.Fatalf("%s: %.60q", what, got)
			}
		}
		e.removeXattr(ino, "a")
		e.noXattr(ino, "a")
		if l := e.listXattrs(ino, 1<<20); slices.Contains(l, "a") || len(l) != 6 {
			e.Fatalf("%s: %.60q", what, l)
		}
	}
}

// testXattrChange: a change of attributes moves ctime and change, and tells exactly which values lie before and after it.
func testXattrChange(e *env) {
	ino := e.create(root, "f", 0o644).Ino
	for i, f := range []func() vfs.DirChange{
		func() vfs.DirChange { return e.setXattr(ino, "a", "1") },
		func() vfs.DirChange { return e.setXattr(ino, "a", "1") },
		func() vfs.DirChange { return e.removeXattr(ino, "a") },
	} {
		var ch vfs.DirChange
		before, after := e.changes(ino, func() { ch = f() })
		e.touched(before, after, false)
		if ch.Before != before.Change || ch.After != after.Change {
			e.Fatalf("step %d: from %d to %d, told %+v", i, before.Change, after.Change, ch)
		}
	}
	x := e.xattrs()
	before, after := e.changes(ino, func() {
		_, err := x.RemoveXattr(e.ctx, root, ino, "a")
		e.want(vfs.KindNoAttr, err)
		e.noXattr(ino, "a")
		e.listXattrs(ino, 10)
	})
	e.untouched(before, after)
}

// testXattrOfDirtyFile: the bytes that are buffered stay, and what a client has seen of them is what the change begins from.
func testXattrOfDirtyFile(e *env) {
	f := e.create(root, "f", 0o644)
	e.open(f.Ino, vfs.OpenWrite|vfs.OpenRead)
	data := pattern(100_000, 1)
	last := f.Change
	for i := range 10 {
		e.write(f.Ino, uint64(i*10_000), data[i*10_000:(i+1)*10_000], vfs.Unstable)
		shown := e.attr(f.Ino)
		ch := e.setXattr(f.Ino, "a", fmt.Sprint(i))
		after := e.attr(f.Ino)
		if ch.Before != shown.Change || ch.After <= ch.Before || after.Change < ch.After || shown.Change <= last {
			e.Fatalf("change was %d, is %d, told %+v, before that %d", shown.Change, after.Change, ch, last)
		}
		if after.Size != uint64((i+1)*10_000) {
			e.Fatalf("size %d after %d writes", after.Size, i+1)
		}
		last = after.Change
	}
	e.holds(f.Ino, data)
	e.commit(f.Ino)
	e.holds(f.Ino, data)
	if v := e.xattr(f.Ino, "a"); v != "9" {
		e.Fatalf("%q", v)
	}
	e.close(f.Ino, vfs.OpenWrite|vfs.OpenRead)
}

func testXattrPermissions(e *env) {
	x := e.xattrs()
	f := e.create(alice, "f", 0o640)
	e.setXattr(f.Ino, "a", "1")
	set := func(c *vfs.Cred, ino vfs.Ino) error {
		_, err := x.SetXattr(e.ctx, c, ino, "a", []byte("2"), vfs.XattrEither)
		return err
	}
	get := func(c *vfs.Cred, ino vfs.Ino) error {
		_, err := x.GetXattr(e.ctx, c, ino, "a")
		return err
	}
	list := func(c *vfs.Cred, ino vfs.Ino) error {
		_, err := x.ListXattrs(e.ctx, c, ino, 0, 100)
		return err
	}
	remove := func(c *vfs.Cred, ino vfs.Ino) error {
		_, err := x.RemoveXattr(e.ctx, c, ino, "a")
		return err
	}
	for _, c := range []struct {
		who         *vfs.Cred
		read, write vfs.Kind
	}{{alice, vfs.KindOK, vfs.KindOK}, {carol, vfs.KindOK, vfs.KindAccess}, {bob, vfs.KindAccess, vfs.KindAccess}} {
		e.want(c.read, get(c.who, f.Ino))
		e.want(c.read, list(c.who, f.Ino))
		e.want(c.write, set(c.who, f.Ino))
		if c.write != vfs.KindOK {
			e.want(c.write, remove(c.who, f.Ino))
		}
	}
	sticky := e.mkdir("sticky", 0o1777)
	e.want(vfs.KindPerm, set(bob, sticky))
	e.ok(set(root, sticky))
	e.ok(get(bob, sticky))
	e.want(vfs.KindPerm, remove(bob, sticky))
	for _, t := range []vfs.Type{vfs.TypeSymlink, vfs.TypeFIFO, vfs.TypeChar} {
		r, err := e.fs.MakeNode(e.ctx, root, e.dir, t.String(), vfs.NodeArgs{Type: t, Target: map[bool]string{true: "t"}[t == vfs.TypeSymlink], Attr: vfs.SetAttr{Mode: p(uint32(0o777))}})
		e.ok(err)
		e.want(vfs.KindPerm, set(root, r.Attr.Ino))
		e.want(vfs.KindPerm, remove(root, r.Attr.Ino))
		e.want(vfs.KindNoAttr, get(root, r.Attr.Ino))
		e.ok(list(root, r.Attr.Ino))
	}
	for _, op := range []func(*vfs.Cred, vfs.Ino) error{set, get, list, remove} {
		e.want(vfs.KindStale, op(root, 1<<62))
	}
}

func testXattrLimits(e *env) {
	x := e.xattrs()
	f := e.create(root, "f", 0o644).Ino
	set := func(name string, size int) error {
		_, err := x.SetXattr(e.ctx, root, f, name, make([]byte, size), vfs.XattrEither)
		return err
	}
	for name, want := range map[string]vfs.Kind{"": vfs.KindBadName, "a\x00b": vfs.KindBadName, strings.Repeat("n", vfs.XattrNameMax+1): vfs.KindNameTooLong} {
		e.want(want, set(name, 1))
		_, err := x.GetXattr(e.ctx, root, f, name)
		e.want(want, err)
		_, err = x.RemoveXattr(e.ctx, root, f, name)
		e.want(want, err)
	}
	e.want(vfs.KindTooBig, set("a", vfs.XattrValueMax+1))
	_, err := x.SetXattr(e.ctx, root, f, "a", nil, vfs.XattrReplace+1)
	e.want(vfs.KindInvalid, err)
	if e.bounds.XattrValue < vfs.XattrValueMax {
		e.want(vfs.KindNoSpace, set("a", vfs.XattrValueMax))
	}
	if _, ok := e.fs.(Bounded); ok {
		return // how much there may be in all is the other file system's affair
	}
	var full error
	n := 0
	for ; full == nil && n <= vfs.XattrBytesMax/vfs.XattrValueMax; n++ {
		full = set(fmt.Sprint("large", n), vfs.XattrValueMax)
	}
	e.want(vfs.KindNoSpace, full)
	e.want(vfs.KindNoSpace, set("one more", vfs.XattrValueMax))
	e.removeXattr(f, "large0")
	e.ok(set("large0", vfs.XattrValueMax))
	for i := range n - 1 {
		e.removeXattr(f, fmt.Sprint("large", i))
	}
	// As many names as there may be, and as Linux lists.
	for i := 0; full != nil && i <= vfs.XattrsMax; i++ {
		if err := set(fmt.Sprintf("%0250d", i), 0); err != nil {
			e.want(vfs.KindNoSpace, err)
			if size := i * (250 + vfs.XattrListCost); size > vfs.XattrListMax || size < vfs.XattrListMax-256 {
				e.Fatalf("%d bytes of names and no more", size)
			}
			full = nil
		}
	}
	if full != nil {
		e.Fatal("names have no limit")
	}
	if l := e.listXattrs(f, 4096); len(l) != vfs.XattrListMax/(250+vfs.XattrListCost) {
		e.Fatalf("%d names", len(l))
	}
}

// testXattrLives: attributes belong to the inode.
func testXattrLives(e *env) {
	f := e.create(root, "f", 0o644).Ino
	e.setXattr(f, "a", "1")
	_, _, err := e.fs.Link(e.ctx, root, f, e.dir, "second")
	e.ok(err)
	_, _, err = e.fs.Rename(e.ctx, root, e.dir, "f", e.dir, "g")
	e.ok(err)
	if v := e.xattr(e.lookup(e.dir, "second").Ino, "a"); v != "1" {
		e.Fatalf("%q", v)
	}
	for _, n := range []string{"g", "second"} {
		if n == "second" {
			e.open(f, vfs.OpenRead)
		}
		_, err = e.fs.Remove(e.ctx, root, e.dir, n, vfs.RemoveFile)
		e.ok(err)
	}
	e.setXattr(f, "b", "2") // it has no name any more and is open
	if v := e.xattr(f, "a") + e.xattr(f, "b"); v != "12" {
		e.Fatalf("%q", v)
	}
	e.close(f, vfs.OpenRead)
	_, err = e.xattrs().GetXattr(e.ctx, root, f, "a")
	e.want(vfs.KindStale, err)
	g := e.create(root, "f", 0o644).Ino
	if l := e.listXattrs(g, 100); len(l) != 0 {
		e.Fatalf("a new file under the old name has %v", l)
	}
	e.setXattr(g, "a", "kept")
	c, ok := e.fs.(Crasher)
	if !ok {
		return
	}
	c.Crash()
	if v := e.xattr(g, "a"); v != "kept" {
		e.Fatalf("%q after a crash", v)
	}
}

// testXattrListWhileChanging: what exists all the while is listed once.
func testXattrListWhileChanging(e *env) {
	x := e.xattrs()
	f := e.create(root, "f", 0o644).Ino
	for i := range 40 {
		e.setXattr(f, fmt.Sprintf("n%02d", i), "")
	}
	seen := map[string]int{}
	cookie := uint64(0)
	for step := 0; ; step++ {
		page, err := x.ListXattrs(e.ctx, root, f, cookie, 9)
		e.ok(err)
		for _, n := range page.Names {
			seen[n.Name]++
			cookie = n.Cookie
		}
		if page.EOF || step > 100 {
			break
		}
		// One that was listed goes, one comes, one changes.
		e.removeXattr(f, fmt.Sprintf("n%02d", 2*step))
		e.setXattr(f, fmt.Sprintf("a%02d", step), "")
		e.setXattr(f, "n39", fmt.Sprint(step))
		if step == 13 {
			e.removeXattr(f, "n38")
			break
		}
	}
	for {
		page, err := x.ListXattrs(e.ctx, root, f, cookie, 1<<20)
		e.ok(err)
		for _, n := range page.Names {
			seen[n.Name]++
		}
		if page.EOF {
			break
		}
	}
	for i := 29; i < 38; i += 2 {
		if n := seen[fmt.Sprintf("n%02d", i)]; n != 1 {
			e.Fatalf("n%02d was listed %d times", i, n)
		}
	}
	for name, n := range seen {
		if n != 1 {
			e.Fatalf("%s was listed %d times", name, n)
		}
	}
}

// testXattrConcurrent: of several who create one attribute, one does.
func testXattrConcurrent(e *env) {
	x := e.xattrs()
	f := e.create(root, "f", 0o644).Ino
	for round := range 5 {
		var mu sync.Mutex
		var won []string
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				me := fmt.Sprint(i)
				_, err := x.SetXattr(e.ctx, root, f, fmt.Sprint("a", round), []byte(me), vfs.XattrCreate)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won = append(won, me)
				case !errors.Is(err, vfs.KindExists.Err("")):
					e.Error(err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 || e.xattr(f, fmt.Sprint("a", round)) != won[0] {
			e.Fatalf("created by %v, holds %q", won, e.xattr(f, fmt.Sprint("a", round)))
		}
	}
}

var drawXattr = rapid.SampledFrom([]string{"a", "b", "a/b", "", strings.Repeat("n", 256)})

// xattr changes or removes an extended attribute and reads one.
func (m *model) xattr(t *rapid.T) {
	x, ok := optional[vfs.Xattrs](m.impl)
	if !ok {
		return
	}
	bounds := boundsOf(m.impl)
	c, n, name := drawCred.Draw(t, "cred"), m.node(t, "node"), drawXattr.Draw(t, "xattr")
	m.look(t, n)
	var ref, impl vfs.DirChange
	var err, err2 error
	if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
		ref, err = m.ref.RemoveXattr(m.ctx, c, n.ref, name)
		impl, err2 = x.RemoveXattr(m.ctx, c, n.impl, name)
	} else {
		value := pattern(rapid.SampledFrom([]int{0, 1, 100, min(5000, bounds.XattrValue), bounds.XattrValue, vfs.XattrValueMax + 1}).Draw(t, "size"), byte(rapid.IntRange(0, 255).Draw(t, "seed")))
		how := rapid.SampledFrom([]vfs.XattrHow{vfs.XattrEither, vfs.XattrEither, vfs.XattrCreate, vfs.XattrReplace}).Draw(t, "how")
		ref, err = m.ref.SetXattr(m.ctx, c, n.ref, name, value, how)
		impl, err2 = x.SetXattr(m.ctx, c, n.impl, name, value, how)
	}
	if !sameError(t, err, err2) {
		was := n.implA.Change
		m.look(t, n)
		if impl.Before != was || impl.After <= was || impl.After > n.implA.Change || ref.After != n.refA.Change {
			t.Fatalf("change of inode %d went from %d to %d, told %+v", n.impl, was, n.implA.Change, impl)
		}
	}
	c, name = drawCred.Draw(t, "reader"), drawXattr.Draw(t, "read")
	v, err := m.ref.GetXattr(m.ctx, c, n.ref, name)
	v2, err2 := x.GetXattr(m.ctx, c, n.impl, name)
	if !sameError(t, err, err2) && !bytes.Equal(v, v2) {
		t.Fatalf("attribute %q of inode %d has %d bytes, want %d", name, n.impl, len(v2), len(v))
	}
	list, err := m.ref.ListXattrs(m.ctx, c, n.ref, 0, 1<<20)
	list2, err2 := x.ListXattrs(m.ctx, c, n.impl, 0, 1<<20)
	if sameError(t, err, err2) {
		return
	}
	byName := func(a, b vfs.XattrName) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(list.Names, byName)
	slices.SortFunc(list2.Names, byName)
	same := func(a, b vfs.XattrName) bool { return a.Name == b.Name }
	if !slices.EqualFunc(list.Names, list2.Names, same) || !list2.EOF {
		t.Fatalf("attributes of inode %d: %v, want %v", n.impl, list2, list)
	}
}
