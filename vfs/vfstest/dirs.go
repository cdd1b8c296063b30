package vfstest

import (
	"fmt"
	"sync"

	"github.com/rackfs/rackfs/vfs"
)

func (e *env) remove(dir vfs.Ino, name string) {
	e.Helper()
	_, err := e.fs.Remove(e.ctx, root, dir, name, vfs.RemoveAny)
	e.ok(err)
}

func (e *env) rename(from vfs.Ino, a string, to vfs.Ino, b string) (vfs.DirChange, vfs.DirChange) {
	e.Helper()
	fc, tc, err := e.fs.Rename(e.ctx, root, from, a, to, b)
	e.ok(err)
	return fc, tc
}

func (e *env) link(ino, dir vfs.Ino, name string) vfs.Attr {
	e.Helper()
	a, _, err := e.fs.Link(e.ctx, root, ino, dir, name)
	e.ok(err)
	return a
}

func testTimesOfDirectories(e *env) {
	d := e.mkdir("d", 0o777)
	sub := e.mkdirIn(d, "sub", 0o777)
	check := func(what string, f func()) {
		e.Helper()
		before, after := e.changes(d, f)
		if after.Change <= before.Change || !after.Mtime.After(before.Mtime) || !after.Ctime.After(before.Ctime) {
			e.Fatalf("%s left the directory's change or times:\n%+v\n%+v", what, before, after)
		}
	}
	var f vfs.Attr
	check("create", func() { f = e.createIn(root, d, "f", 0o600) })
	check("mkdir", func() { e.mkdirIn(d, "x", 0o700) })
	check("rmdir", func() { e.remove(d, "x") })
	check("link", func() { e.link(f.Ino, d, "g") })
	check("unlink", func() { e.remove(d, "g") })
	check("rename", func() { e.rename(d, "f", d, "h") })
	check("rename away", func() { e.rename(d, "h", sub, "f") })
	check("rename into", func() { e.rename(sub, "f", d, "f") })
	// What failed, or only looked, changed nothing.
	before, after := e.changes(d, func() {
		_, err := e.fs.Create(e.ctx, root, d, "f", vfs.CreateArgs{Exclusive: vfs.Guarded})
		e.want(vfs.KindExists, err)
		_, err = e.fs.Remove(e.ctx, root, d, "none", vfs.RemoveAny)
		e.want(vfs.KindNotFound, err)
		e.lookup(d, "f")
		e.list(d, 10)
		e.write(f.Ino, 0, []byte("x"), vfs.FileSync)
	})
	e.untouched(before, after)
	// The file: its links and names change it, not its content.
	before, after = e.changes(f.Ino, func() { e.link(f.Ino, d, "l") })
	e.touched(before, after, false)
	before, after = e.changes(f.Ino, func() { e.remove(d, "l") })
	e.touched(before, after, false)
	before, after = e.changes(f.Ino, func() { e.rename(d, "f", d, "r") })
	e.touched(before, after, false)
}

func testReadDir(e *env) {
	d := e.mkdir("d", 0o777)
	if got := e.list(d, 1); len(got) != 0 {
		e.Fatalf("an empty directory lists %v", got)
	}
	want := map[string]vfs.Attr{}
	for i := range 57 {
		name := fmt.Sprintf("file-%d", i)
		want[name] = e.createIn(alice, d, name, 0o600+uint32(i%8))
	}
	sub := e.mkdirIn(d, "sub", 0o700)
	want["sub"] = e.attr(sub)
	for _, n := range []int{1, 2, 7, 58, 59, 1000} {
		seen := map[string]bool{}
		last := uint64(2)
		for _, ent := range e.list(d, n) {
			if ent.Cookie <= last || ent.Cookie >= 1<<63 {
				e.Fatalf("cookie %d after %d", ent.Cookie, last)
			}
			last = ent.Cookie
			w, ok := want[ent.Name]
			if !ok || seen[ent.Name] {
				e.Fatalf("%q is foreign or twice", ent.Name)
			}
			seen[ent.Name] = true
			if ent.Ino != w.Ino || ent.Type != w.Type || ent.Attr == nil || ent.Attr.Ino != w.Ino || ent.Attr.Mode != w.Mode || ent.Attr.UID != w.UID {
				e.Fatalf("%+v", ent)
			}
		}
		if len(seen) != len(want) {
			e.Fatalf("pages of %d list %d of %d entries", n, len(seen), len(want))
		}
	}
	page, err := e.fs.ReadDir(e.ctx, root, d, 0, 3, false)
	e.ok(err)
	if page.EOF || page.Dir.Ino != d || page.Dir.Change != e.attr(d).Change {
		e.Fatalf("%+v", page)
	}
	for _, ent := range page.Entries {
		if ent.Attr != nil {
			e.Fatal("attributes that nobody asked for")
		}
	}
	// A cookie stays good when its entry goes.
	e.remove(d, page.Entries[1].Name)
	rest, err := e.fs.ReadDir(e.ctx, root, d, page.Entries[1].Cookie, 100, false)
	e.ok(err)
	if len(rest.Entries) != 56 || !rest.EOF || rest.Entries[0].Name != page.Entries[2].Name {
		e.Fatalf("%d entries after a removed one", len(rest.Entries))
	}
	// After the last one there is nothing, and that is the end.
	tail, err := e.fs.ReadDir(e.ctx, root, d, rest.Entries[55].Cookie, 5, true)
	e.ok(err)
	if !tail.EOF || len(tail.Entries) != 0 {
		e.Fatalf("%+v", tail)
	}
}

// testReadDirWhileChanging lists again and again while entries come and go:
// those that stay are in every listing exactly once.
func testReadDirWhileChanging(e *env) {
	d := e.mkdir("d", 0o755)
	const stay, come = 120, 40
	for i := range stay {
		e.createIn(root, d, fmt.Sprintf("stay-%d", i), 0o600)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	fail := make(chan error, 4)
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("come-%d-%d", w, i%come)
				if _, err := e.fs.Create(e.ctx, root, d, name, vfs.CreateArgs{}); err != nil {
					fail <- err
					return
				}
				if _, _, err := e.fs.Rename(e.ctx, root, d, name, d, name+"x"); err != nil {
					fail <- err
					return
				}
				if i%3 > 0 {
					if _, err := e.fs.Remove(e.ctx, root, d, name+"x", vfs.RemoveFile); err != nil {
						fail <- err
						return
					}
				}
			}
		})
	}
	for round := range 12 {
		count := map[string]int{}
		for _, ent := range e.list(d, 5+round) {
			count[ent.Name]++
		}
		for i := range stay {
			if n := count[fmt.Sprintf("stay-%d", i)]; n != 1 {
				e.Errorf("round %d: stay-%d is listed %d times", round, i, n)
			}
		}
	}
	close(stop)
	wg.Wait()
	select {
	case err := <-fail:
		e.Fatal(err)
	default:
	}
}

func testLink(e *env) {
	f := e.create(alice, "f", 0o600)
	sub := e.mkdir("sub", 0o777)
	before := e.attr(sub)
	a, dc, err := e.fs.Link(e.ctx, alice, f.Ino, sub, "g")
	e.ok(err)
	if a.Ino != f.Ino || a.Nlink != 2 || a.Change <= f.Change || dc.Before != before.Change || dc.After != e.attr(sub).Change {
		e.Fatalf("%+v %+v", a, dc)
	}
	e.write(f.Ino, 0, []byte("shared"), vfs.FileSync)
	e.holds(e.lookup(sub, "g").Ino, []byte("shared"))
	_, _, err = e.fs.Link(e.ctx, root, f.Ino, sub, "g")
	e.want(vfs.KindExists, err)
	_, _, err = e.fs.Link(e.ctx, root, sub, e.dir, "d")
	e.want(vfs.KindIsDir, err)
	_, _, err = e.fs.Link(e.ctx, root, 1<<62, e.dir, "x")
	e.want(vfs.KindStale, err)
	e.remove(e.dir, "f")
	if a := e.attr(f.Ino); a.Nlink != 1 {
		e.Fatalf("%d links", a.Nlink)
	}
	e.holds(f.Ino, []byte("shared"))
	// Links of symlinks and special files are links too.
	l, err := e.fs.MakeNode(e.ctx, root, e.dir, "l", vfs.NodeArgs{Type: vfs.TypeSymlink, Target: "t"})
	e.ok(err)
	if a := e.link(l.Attr.Ino, e.dir, "l2"); a.Nlink != 2 {
		e.Fatalf("%+v", a)
	}
	// An unlinked file that is open gets no new name.
	e.open(f.Ino, vfs.OpenRead)
	e.remove(sub, "g")
	_, _, err = e.fs.Link(e.ctx, root, f.Ino, e.dir, "back")
	e.want(vfs.KindNotFound, err)
	e.close(f.Ino, vfs.OpenRead)
}

func testRemove(e *env) {
	f := e.create(root, "f", 0o600)
	d := e.mkdir("d", 0o700)
	e.createIn(root, d, "inner", 0o600)
	try := func(name string, what vfs.RemoveKind) error {
		_, err := e.fs.Remove(e.ctx, root, e.dir, name, what)
		return err
	}
	e.want(vfs.KindNotFound, try("none", vfs.RemoveAny))
	e.want(vfs.KindNotDir, try("f", vfs.RemoveDir))
	e.want(vfs.KindIsDir, try("d", vfs.RemoveFile))
	e.want(vfs.KindNotEmpty, try("d", vfs.RemoveDir))
	e.want(vfs.KindNotEmpty, try("d", vfs.RemoveAny))
	before, links := e.attr(e.dir), e.links(e.dir)
	dc, err := e.fs.Remove(e.ctx, root, e.dir, "f", vfs.RemoveFile)
	e.ok(err)
	if dc.Before != before.Change || dc.After != e.attr(e.dir).Change || dc.After <= dc.Before {
		e.Fatalf("%+v", dc)
	}
	_, err = e.fs.GetAttr(e.ctx, f.Ino)
	e.want(vfs.KindStale, err)
	_, err = e.fs.Open(e.ctx, root, f.Ino, vfs.OpenRead, false)
	e.want(vfs.KindStale, err)
	e.remove(d, "inner")
	e.ok(try("d", vfs.RemoveDir))
	_, err = e.fs.GetAttr(e.ctx, d)
	e.want(vfs.KindStale, err)
	_, err = e.fs.Create(e.ctx, root, d, "x", vfs.CreateArgs{})
	e.want(vfs.KindStale, err)
	if after := e.links(e.dir); after != links-1 {
		e.Fatalf("rmdir took the links from %d to %d", links, after)
	}
	// A name that comes back is another inode.
	if g := e.create(root, "f", 0o600); g.Ino == f.Ino {
		e.Fatal("an inode number was reused")
	}
}

func testRemoveSticky(e *env) {
	d := e.mkdir("tmp", 0o1777)
	e.createIn(alice, d, "a", 0o666)
	_, err := e.fs.Remove(e.ctx, bob, d, "a", vfs.RemoveAny)
	e.want(vfs.KindPerm, err)
	e.createIn(bob, d, "b", 0o666)
	_, _, err = e.fs.Rename(e.ctx, bob, d, "b", d, "a")
	e.want(vfs.KindPerm, err)
	_, _, err = e.fs.Rename(e.ctx, bob, d, "a", d, "c")
	e.want(vfs.KindPerm, err)
	_, _, err = e.fs.Rename(e.ctx, bob, d, "b", d, "c")
	e.ok(err)
	_, err = e.fs.Remove(e.ctx, alice, d, "a", vfs.RemoveAny)
	e.ok(err)
	_, err = e.fs.SetAttr(e.ctx, root, d, vfs.SetAttr{UID: p(alice.UID)}, false)
	e.ok(err)
	_, err = e.fs.Remove(e.ctx, alice, d, "c", vfs.RemoveAny) // it owns the directory
	e.ok(err)
}

func testRename(e *env) {
	a, b := e.mkdir("a", 0o777), e.mkdir("b", 0o777)
	f := e.createIn(root, a, "f", 0o600)
	ab, bb := e.attr(a), e.attr(b)
	fc, tc := e.rename(a, "f", b, "g")
	if fc.Before != ab.Change || fc.After != e.attr(a).Change || tc.Before != bb.Change || tc.After != e.attr(b).Change {
		e.Fatalf("%+v %+v", fc, tc)
	}
	e.absent(a, "f")
	if got := e.lookup(b, "g"); got.Ino != f.Ino || got.Nlink != 1 {
		e.Fatalf("%+v", got)
	}
	_, _, err := e.fs.Rename(e.ctx, root, a, "f", b, "h")
	e.want(vfs.KindNotFound, err)
	// In one directory both changes are that directory's.
	bb = e.attr(b)
	fc, tc = e.rename(b, "g", b, "h")
	if fc != tc || fc.Before != bb.Change || fc.After != e.attr(b).Change || fc.After <= fc.Before {
		e.Fatalf("%+v %+v", fc, tc)
	}
	// Onto itself, or onto another name of the same file, it does nothing.
	e.link(f.Ino, a, "l")
	ab, bb = e.attr(a), e.attr(b)
	for _, to := range []struct {
		dir  vfs.Ino
		name string
	}{{b, "h"}, {a, "l"}} {
		e.rename(b, "h", to.dir, to.name)
		e.lookup(b, "h")
		e.lookup(a, "l")
	}
	e.untouched(ab, e.attr(a))
	e.untouched(bb, e.attr(b))
	_, _, err = e.fs.Rename(e.ctx, root, 1<<62, "x", b, "y")
	e.want(vfs.KindStale, err)
	_, _, err = e.fs.Rename(e.ctx, root, b, "h", 1<<62, "y")
	e.want(vfs.KindStale, err)
}

func testRenameOver(e *env) {
	f, g := e.create(root, "f", 0o600), e.create(root, "g", 0o600)
	e.link(g.Ino, e.dir, "g2")
	d, full := e.mkdir("d", 0o700), e.mkdir("full", 0o700)
	e.mkdirIn(full, "x", 0o700)
	try := func(a, b string) error {
		_, _, err := e.fs.Rename(e.ctx, root, e.dir, a, e.dir, b)
		return err
	}
	e.want(vfs.KindIsDir, try("f", "d"))
	e.want(vfs.KindNotDir, try("d", "f"))
	e.want(vfs.KindNotEmpty, try("d", "full"))
	e.ok(try("f", "g"))
	e.absent(e.dir, "f")
	if got := e.lookup(e.dir, "g"); got.Ino != f.Ino {
		e.Fatalf("%+v", got)
	}
	if got := e.attr(g.Ino); got.Nlink != 1 {
		e.Fatalf("the replaced inode has %d links", got.Nlink)
	}
	links := e.links(e.dir)
	e.ok(try("full", "d"))
	_, err := e.fs.GetAttr(e.ctx, d)
	e.want(vfs.KindStale, err)
	e.lookup(full, "x")
	if got := e.links(e.dir); got != links-1 {
		e.Fatalf("links went from %d to %d", links, got)
	}
	n := 0
	for _, ent := range e.list(e.dir, 3) {
		if ent.Name == "d" || ent.Name == "full" {
			n++
		}
	}
	if n != 1 {
		e.Fatalf("%d entries of the renamed directory", n)
	}
}

func testRenameDirectories(e *env) {
	a := e.mkdir("a", 0o700)
	b := e.mkdirIn(a, "b", 0o700)
	c := e.mkdirIn(b, "c", 0o700)
	try := func(fd vfs.Ino, f string, td vfs.Ino, t string) error {
		_, _, err := e.fs.Rename(e.ctx, root, fd, f, td, t)
		return err
	}
	e.want(vfs.KindInvalid, try(e.dir, "a", a, "x"))
	e.want(vfs.KindInvalid, try(e.dir, "a", b, "x"))
	e.want(vfs.KindInvalid, try(e.dir, "a", c, "x"))
	e.want(vfs.KindInvalid, try(a, "b", b, "c2"))
	e.want(vfs.KindNotEmpty, try(b, "c", e.dir, "a"))
	e.want(vfs.KindNotEmpty, try(b, "c", a, "b"))
	// Moving up moves the parent and both link counts.
	top, nb := e.links(e.dir), e.links(b)
	e.ok(try(b, "c", e.dir, "c"))
	if e.links(e.dir) != top+1 || e.links(b) != nb-1 {
		e.Fatalf("links: %d, %d", e.links(e.dir), e.links(b))
	}
	up, err := e.fs.Parent(e.ctx, root, c)
	e.ok(err)
	if up.Ino != e.dir {
		e.Fatalf("parent %d", up.Ino)
	}
	// And now the other way round is no loop.
	e.ok(try(e.dir, "a", c, "a"))
	e.want(vfs.KindInvalid, try(e.dir, "c", b, "x"))
}

func testRenamePermissions(e *env) {
	mine := e.mkdir("mine", 0o755)
	_, err := e.fs.SetAttr(e.ctx, root, mine, vfs.SetAttr{UID: p(alice.UID)}, false)
	e.ok(err)
	others := e.mkdir("others", 0o755)
	open := e.mkdir("open", 0o777)
	e.createIn(alice, mine, "f", 0o600)
	e.createIn(root, others, "f", 0o666)
	try := func(fd vfs.Ino, f string, td vfs.Ino, t string) error {
		_, _, err := e.fs.Rename(e.ctx, alice, fd, f, td, t)
		return err
	}
	e.want(vfs.KindAccess, try(mine, "f", others, "g"))
	e.want(vfs.KindAccess, try(others, "f", mine, "g"))
	e.want(vfs.KindAccess, try(mine, "f", others, "f"))
	e.ok(try(mine, "f", open, "f"))
	// A directory that gets another parent must itself be writable.
	e.mkdirIn(open, "d", 0o755)
	e.want(vfs.KindAccess, try(open, "d", mine, "d"))
	e.ok(try(open, "d", open, "d2"))
}

func testConcurrentGuarded(e *env) {
	const workers, names = 8, 25
	wins := make([]int, names)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range names {
				_, err := e.fs.Create(e.ctx, root, e.dir, fmt.Sprint(i), vfs.CreateArgs{Exclusive: vfs.Guarded})
				switch vfs.KindOf(err) {
				case vfs.KindOK:
					mu.Lock()
					wins[i]++
					mu.Unlock()
				case vfs.KindExists:
				default:
					e.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i, n := range wins {
		if n != 1 {
			e.Errorf("%d creators of %d", n, i)
		}
	}
}

// testConcurrentNames moves one file around from several sides: at any time it
// has exactly one name, and in the end exactly one is left.
func testConcurrentNames(e *env) {
	a, b := e.mkdir("a", 0o777), e.mkdir("b", 0o777)
	f := e.createIn(root, a, "f", 0o600)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 30 {
				from, to := a, b
				if i%2 == 1 {
					from, to = b, a
				}
				_, _, err := e.fs.Rename(e.ctx, root, from, "f", to, "f")
				if k := vfs.KindOf(err); k != vfs.KindOK && k != vfs.KindNotFound {
					e.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(e.list(a, 10)) + len(e.list(b, 10)); n != 1 {
		e.Fatalf("%d names", n)
	}
	if got := e.attr(f.Ino); got.Nlink != 1 {
		e.Fatalf("%d links", got.Nlink)
	}
}
