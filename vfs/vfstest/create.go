package vfstest

import (
	"strings"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

func testRoot(e *env) {
	a := e.attr(vfs.RootIno)
	if a.Ino != vfs.RootIno || !a.IsDir() || e.links(a.Ino) < 2 {
		e.Fatalf("root is %+v", a)
	}
	up, err := e.fs.Parent(e.ctx, root, vfs.RootIno)
	e.ok(err)
	if up.Ino != vfs.RootIno {
		e.Fatalf("the root's parent is %d", up.Ino)
	}
	sub := e.mkdir("sub", 0o700)
	up, err = e.fs.Parent(e.ctx, root, sub)
	e.ok(err)
	if up.Ino != e.dir {
		e.Fatalf("parent is %d, want %d", up.Ino, e.dir)
	}
	_, err = e.fs.Parent(e.ctx, bob, sub)
	e.want(vfs.KindAccess, err)
	_, err = e.fs.Parent(e.ctx, root, e.create(root, "f", 0o600).Ino)
	e.want(vfs.KindNotDir, err)
	_, err = e.fs.GetAttr(e.ctx, 1<<62)
	e.want(vfs.KindStale, err)
}

func testNames(e *env) {
	long := strings.Repeat("n", vfs.NameMax)
	e.create(root, long, 0o600)
	e.lookup(e.dir, long)
	e.create(root, "a\xff\xfe\n \\ü", 0o600) // names are bytes
	e.lookup(e.dir, "a\xff\xfe\n \\ü")
	for name, kind := range map[string]vfs.Kind{
		"": vfs.KindBadName, ".": vfs.KindBadName, "..": vfs.KindBadName, "a/b": vfs.KindBadName,
		"a\x00": vfs.KindBadName, long + "x": vfs.KindNameTooLong,
	} {
		_, err := e.fs.Lookup(e.ctx, root, e.dir, name)
		e.want(kind, err)
		_, err = e.fs.Create(e.ctx, root, e.dir, name, vfs.CreateArgs{})
		e.want(kind, err)
		_, err = e.fs.MakeNode(e.ctx, root, e.dir, name, vfs.NodeArgs{Type: vfs.TypeDir})
		e.want(kind, err)
		_, _, err = e.fs.Link(e.ctx, root, e.lookup(e.dir, long).Ino, e.dir, name)
		e.want(kind, err)
		_, err = e.fs.Remove(e.ctx, root, e.dir, name, vfs.RemoveAny)
		e.want(kind, err)
		_, _, err = e.fs.Rename(e.ctx, root, e.dir, long, e.dir, name)
		e.want(kind, err)
		_, _, err = e.fs.Rename(e.ctx, root, e.dir, name, e.dir, "x")
		e.want(kind, err)
	}
	e.absent(e.dir, "x")
	f := e.create(root, "file", 0o777)
	_, err := e.fs.Lookup(e.ctx, root, f.Ino, "x")
	e.want(vfs.KindNotDir, err)
	_, err = e.fs.Lookup(e.ctx, root, 1<<62, "x")
	e.want(vfs.KindStale, err)
}

func testCreateUnchecked(e *env) {
	r, err := e.fs.Create(e.ctx, alice, e.dir, "f", vfs.CreateArgs{Attr: vfs.SetAttr{Mode: p(uint32(0o640))}})
	e.ok(err)
	if !r.New || r.Attr.Type != vfs.TypeFile || r.Attr.Mode != 0o640 || r.Attr.UID != 1000 || r.Attr.GID != 1000 || r.Attr.Nlink != 1 || r.Attr.Size != 0 {
		e.Fatalf("%+v", r)
	}
	if r.Dir.After <= r.Dir.Before || r.Dir.After != e.attr(e.dir).Change {
		e.Fatalf("directory change %+v, now %d", r.Dir, e.attr(e.dir).Change)
	}
	e.write(r.Attr.Ino, 0, []byte("hello"), vfs.FileSync)
	// It is opened as it is: mode ignored, the directory unchanged.
	again, err := e.fs.Create(e.ctx, alice, e.dir, "f", vfs.CreateArgs{Attr: vfs.SetAttr{Mode: p(uint32(0o777)), Size: p(uint64(3))}})
	e.ok(err)
	if again.New || again.Attr.Ino != r.Attr.Ino || again.Attr.Mode != 0o640 || again.Attr.Size != 5 || again.Dir.Before != again.Dir.After {
		e.Fatalf("%+v", again)
	}
	cut, err := e.fs.Create(e.ctx, alice, e.dir, "f", vfs.CreateArgs{Attr: vfs.SetAttr{Size: p(uint64(0))}})
	e.ok(err)
	if cut.New || cut.Attr.Size != 0 || cut.Attr.Change <= again.Attr.Change {
		e.Fatalf("%+v", cut)
	}
	// Permission of the file decides, not that of the directory.
	_, err = e.fs.Create(e.ctx, bob, e.dir, "f", vfs.CreateArgs{Open: vfs.OpenRead})
	e.want(vfs.KindAccess, err)
	_, err = e.fs.Create(e.ctx, carol, e.dir, "f", vfs.CreateArgs{Attr: vfs.SetAttr{Size: p(uint64(0))}})
	e.want(vfs.KindAccess, err)
	_, err = e.fs.Create(e.ctx, carol, e.dir, "f", vfs.CreateArgs{Open: vfs.OpenWrite})
	e.want(vfs.KindAccess, err)
	_, err = e.fs.Create(e.ctx, carol, e.dir, "f", vfs.CreateArgs{Open: vfs.OpenRead})
	e.ok(err)
	e.close(r.Attr.Ino, vfs.OpenRead)
	e.mkdir("d", 0o777)
	_, err = e.fs.Create(e.ctx, root, e.dir, "d", vfs.CreateArgs{})
	e.want(vfs.KindIsDir, err)
	_, err = e.fs.MakeNode(e.ctx, root, e.dir, "l", vfs.NodeArgs{Type: vfs.TypeSymlink, Target: "f"})
	e.ok(err)
	_, err = e.fs.Create(e.ctx, root, e.dir, "l", vfs.CreateArgs{})
	e.want(vfs.KindWrongType, err)
}

func testCreateGuarded(e *env) {
	f := e.create(alice, "f", 0o600)
	for _, c := range []*vfs.Cred{root, alice, bob} {
		_, err := e.fs.Create(e.ctx, c, e.dir, "f", vfs.CreateArgs{Exclusive: vfs.Guarded})
		e.want(vfs.KindExists, err)
	}
	e.mkdir("d", 0o777)
	_, err := e.fs.Create(e.ctx, root, e.dir, "d", vfs.CreateArgs{Exclusive: vfs.Guarded})
	e.want(vfs.KindExists, err)
	if e.lookup(e.dir, "f").Ino != f.Ino {
		e.Fatal("replaced")
	}
}

func testCreateByVerifier(e *env) {
	v1, v2 := [8]byte{1, 2, 3, 4, 5, 6, 7, 8}, [8]byte{8, 7, 6, 5, 4, 3, 2, 1}
	args := vfs.CreateArgs{Exclusive: vfs.ByVerifier, Verifier: v1, Open: vfs.OpenWrite, Attr: vfs.SetAttr{Mode: p(uint32(0o400))}}
	r, err := e.fs.Create(e.ctx, alice, e.dir, "f", args)
	e.ok(err)
	if !r.New || r.Attr.Mode != 0o400 {
		e.Fatalf("%+v", r)
	}
	again, err := e.fs.Create(e.ctx, alice, e.dir, "f", args)
	e.ok(err)
	if again.New || again.Attr.Ino != r.Attr.Ino {
		e.Fatalf("%+v", again)
	}
	args.Verifier = v2
	_, err = e.fs.Create(e.ctx, alice, e.dir, "f", args)
	e.want(vfs.KindExists, err)
	e.close(r.Attr.Ino, vfs.OpenWrite)
	e.close(r.Attr.Ino, vfs.OpenWrite)
	// A file made without a verifier has none, not even zero.
	e.create(alice, "g", 0o600)
	_, err = e.fs.Create(e.ctx, alice, e.dir, "g", vfs.CreateArgs{Exclusive: vfs.ByVerifier})
	e.want(vfs.KindExists, err)
}

func testCreateAttributes(e *env) {
	when := time.Unix(981173106, 123456789)
	r, err := e.fs.Create(e.ctx, root, e.dir, "f", vfs.CreateArgs{Exclusive: vfs.Guarded, Attr: vfs.SetAttr{
		Mode: p(uint32(0o4755)), UID: p(uint32(7)), GID: p(uint32(8)), Size: p(uint64(10_000)),
		AtimeSet: vfs.TimeClient, Atime: when, MtimeSet: vfs.TimeClient, Mtime: when.Add(time.Hour),
	}})
	e.ok(err)
	a := e.attr(r.Attr.Ino)
	if a.Mode != 0o4755 || a.UID != 7 || a.GID != 8 || a.Size != 10_000 || !a.Atime.Equal(when) || !a.Mtime.Equal(when.Add(time.Hour)) {
		e.Fatalf("%+v", a)
	}
	e.holds(a.Ino, make([]byte, 10_000))
	_, err = e.fs.Create(e.ctx, alice, e.dir, "g", vfs.CreateArgs{Attr: vfs.SetAttr{UID: p(uint32(7))}})
	e.want(vfs.KindPerm, err)
	_, err = e.fs.Create(e.ctx, alice, e.dir, "g", vfs.CreateArgs{Attr: vfs.SetAttr{GID: p(uint32(7))}})
	e.want(vfs.KindPerm, err)
	e.absent(e.dir, "g")
	r, err = e.fs.Create(e.ctx, alice, e.dir, "g", vfs.CreateArgs{Attr: vfs.SetAttr{GID: p(uint32(2000))}})
	e.ok(err)
	if r.Attr.GID != 2000 || r.Attr.Mode != 0 {
		e.Fatalf("%+v", r.Attr)
	}
	_, err = e.fs.Create(e.ctx, alice, e.dir, "h", vfs.CreateArgs{Attr: vfs.SetAttr{Size: p(uint64(1 << 63))}})
	e.want(vfs.KindTooBig, err)
	// Who made a file may write to it whatever its mode.
	r, err = e.fs.Create(e.ctx, alice, e.dir, "i", vfs.CreateArgs{Attr: vfs.SetAttr{Mode: p(uint32(0o444))}, Open: vfs.OpenWrite})
	e.ok(err)
	e.close(r.Attr.Ino, vfs.OpenWrite)
}

func testCreateInSetgidDirectory(e *env) {
	d := e.mkdir("d", 0o777)
	_, err := e.fs.SetAttr(e.ctx, root, d, vfs.SetAttr{GID: p(uint32(55))}, false)
	e.ok(err)
	_, err = e.fs.SetAttr(e.ctx, root, d, vfs.SetAttr{Mode: p(uint32(0o2777))}, false)
	e.ok(err)
	if f := e.createIn(alice, d, "f", 0o2755); f.GID != 55 || f.Mode != 0o755 {
		e.Fatalf("file: %+v", f)
	}
	r, err := e.fs.MakeNode(e.ctx, alice, d, "d", vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: p(uint32(0o755))}})
	e.ok(err)
	if r.Attr.GID != 55 || r.Attr.Mode != 0o2755 {
		e.Fatalf("directory: %+v", r.Attr)
	}
}

func testMakeNode(e *env) {
	before := e.links(e.dir)
	d := e.mkdir("d", 0o1750)
	if a := e.attr(d); !a.IsDir() || a.Mode != 0o1750 || e.links(d) != 2 {
		e.Fatalf("%+v", a)
	}
	if after := e.links(e.dir); after != before+1 {
		e.Fatalf("a subdirectory took the links from %d to %d", before, after)
	}
	dev := vfs.Dev{Major: 259, Minor: e.bounds.DevMinor/2 + 1}
	for _, c := range []struct {
		name string
		args vfs.NodeArgs
		user vfs.Kind // for alice
	}{
		{"fifo", vfs.NodeArgs{Type: vfs.TypeFIFO}, vfs.KindOK},
		{"socket", vfs.NodeArgs{Type: vfs.TypeSocket}, vfs.KindOK},
		{"block", vfs.NodeArgs{Type: vfs.TypeBlock, Dev: dev}, vfs.KindPerm},
		{"char", vfs.NodeArgs{Type: vfs.TypeChar, Dev: dev}, vfs.KindPerm},
	} {
		c.args.Attr.Mode = p(uint32(0o620))
		r, err := e.fs.MakeNode(e.ctx, root, e.dir, c.name, c.args)
		e.ok(err)
		a := e.attr(r.Attr.Ino)
		if a.Type != c.args.Type || a.Dev != c.args.Dev || a.Mode != 0o620 || a.Nlink != 1 || !r.New {
			e.Fatalf("%s: %+v", c.name, a)
		}
		if r.Dir.After <= r.Dir.Before {
			e.Fatalf("%s: directory change %+v", c.name, r.Dir)
		}
		_, err = e.fs.MakeNode(e.ctx, root, e.dir, c.name, c.args)
		e.want(vfs.KindExists, err)
		_, err = e.fs.MakeNode(e.ctx, alice, e.dir, c.name+"2", c.args)
		e.want(c.user, err)
	}
	_, err := e.fs.MakeNode(e.ctx, root, e.dir, "x", vfs.NodeArgs{Type: vfs.TypeFile})
	e.want(vfs.KindWrongType, err)
	_, err = e.fs.MakeNode(e.ctx, root, e.dir, "x", vfs.NodeArgs{Type: 77})
	e.want(vfs.KindWrongType, err)
	_, err = e.fs.MakeNode(e.ctx, alice, e.dir, "d", vfs.NodeArgs{Type: vfs.TypeDir})
	e.want(vfs.KindExists, err)
}

func testSymlink(e *env) {
	target := strings.Repeat("t", e.bounds.Symlink)
	r, err := e.fs.MakeNode(e.ctx, alice, e.dir, "l", vfs.NodeArgs{Type: vfs.TypeSymlink, Target: target, Attr: vfs.SetAttr{Mode: p(uint32(0))}})
	e.ok(err)
	if r.Attr.Type != vfs.TypeSymlink || r.Attr.Size != uint64(e.bounds.Symlink) || r.Attr.Mode != 0o777 {
		e.Fatalf("%+v", r.Attr)
	}
	got, err := e.fs.ReadLink(e.ctx, r.Attr.Ino)
	e.ok(err)
	if got != target {
		e.Fatalf("target of %d bytes", len(got))
	}
	_, err = e.fs.MakeNode(e.ctx, alice, e.dir, "m", vfs.NodeArgs{Type: vfs.TypeSymlink, Target: target + "t"})
	e.want(vfs.KindNameTooLong, err)
	_, err = e.fs.MakeNode(e.ctx, alice, e.dir, "m", vfs.NodeArgs{Type: vfs.TypeSymlink})
	e.want(vfs.KindInvalid, err)
	_, err = e.fs.ReadLink(e.ctx, e.create(root, "f", 0o600).Ino)
	e.want(vfs.KindNotSymlink, err)
	_, err = e.fs.ReadLink(e.ctx, e.dir)
	e.want(vfs.KindNotSymlink, err)
	_, err = e.fs.ReadLink(e.ctx, 1<<62)
	e.want(vfs.KindStale, err)
}

func testWrongTypes(e *env) {
	l, err := e.fs.MakeNode(e.ctx, root, e.dir, "fifo", vfs.NodeArgs{Type: vfs.TypeFIFO})
	e.ok(err)
	f := e.create(root, "f", 0o600)
	for ino, kind := range map[vfs.Ino]vfs.Kind{e.dir: vfs.KindIsDir, l.Attr.Ino: vfs.KindWrongType, 1 << 62: vfs.KindStale} {
		_, err := e.fs.Open(e.ctx, root, ino, vfs.OpenRead, false)
		e.want(kind, err)
		_, err = e.fs.Open(e.ctx, root, ino, vfs.OpenWrite, false)
		e.want(kind, err)
		_, _, err = e.fs.Read(e.ctx, ino, 0, make([]byte, 1))
		e.want(kind, err)
		_, _, err = e.fs.Write(e.ctx, root, ino, 0, make([]byte, 1), vfs.FileSync)
		e.want(kind, err)
		_, err = e.fs.Commit(e.ctx, ino, 0, 0)
		e.want(kind, err)
	}
	_, err = e.fs.SetAttr(e.ctx, root, e.dir, vfs.SetAttr{Size: p(uint64(0))}, false)
	e.want(vfs.KindIsDir, err)
	_, err = e.fs.SetAttr(e.ctx, root, l.Attr.Ino, vfs.SetAttr{Size: p(uint64(0))}, false)
	e.want(vfs.KindInvalid, err)
	_, err = e.fs.SetAttr(e.ctx, root, 1<<62, vfs.SetAttr{Mode: p(uint32(0))}, false)
	e.want(vfs.KindStale, err)
	_, err = e.fs.Create(e.ctx, root, f.Ino, "x", vfs.CreateArgs{})
	e.want(vfs.KindNotDir, err)
	_, err = e.fs.MakeNode(e.ctx, root, f.Ino, "x", vfs.NodeArgs{Type: vfs.TypeDir})
	e.want(vfs.KindNotDir, err)
	_, err = e.fs.ReadDir(e.ctx, root, f.Ino, 0, 10, false)
	e.want(vfs.KindNotDir, err)
	_, err = e.fs.ReadDir(e.ctx, root, 1<<62, 0, 10, false)
	e.want(vfs.KindStale, err)
	_, err = e.fs.Remove(e.ctx, root, f.Ino, "x", vfs.RemoveAny)
	e.want(vfs.KindNotDir, err)
	_, _, err = e.fs.Rename(e.ctx, root, e.dir, "f", f.Ino, "x")
	e.want(vfs.KindNotDir, err)
	_, _, err = e.fs.Link(e.ctx, root, f.Ino, f.Ino, "x")
	e.want(vfs.KindNotDir, err)
}
