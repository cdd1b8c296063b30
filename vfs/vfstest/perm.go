package vfstest

import (
	"time"

	"github.com/rackfs/rackfs/vfs"
)

func testPermissionsOfNames(e *env) {
	search := e.mkdir("search", 0o711) // others may only search
	list := e.mkdir("list", 0o744)     // others may only list
	for _, d := range []vfs.Ino{search, list} {
		e.createIn(root, d, "f", 0o644)
	}
	_, err := e.fs.Lookup(e.ctx, alice, search, "f")
	e.ok(err)
	_, err = e.fs.Lookup(e.ctx, alice, search, "none")
	e.want(vfs.KindNotFound, err)
	_, err = e.fs.Lookup(e.ctx, alice, list, "f")
	e.want(vfs.KindAccess, err)
	_, err = e.fs.Lookup(e.ctx, alice, list, "none")
	e.want(vfs.KindAccess, err)
	_, err = e.fs.ReadDir(e.ctx, alice, search, 0, 10, false)
	e.want(vfs.KindAccess, err)
	_, err = e.fs.ReadDir(e.ctx, alice, list, 0, 10, true)
	e.ok(err)
	_, err = e.fs.Create(e.ctx, alice, search, "g", vfs.CreateArgs{})
	e.want(vfs.KindAccess, err)
	_, err = e.fs.Create(e.ctx, alice, search, "f", vfs.CreateArgs{Exclusive: vfs.Guarded})
	e.want(vfs.KindExists, err)
	_, err = e.fs.MakeNode(e.ctx, alice, search, "g", vfs.NodeArgs{Type: vfs.TypeDir})
	e.want(vfs.KindAccess, err)
	_, _, err = e.fs.Link(e.ctx, alice, e.create(alice, "mine", 0o600).Ino, search, "g")
	e.want(vfs.KindAccess, err)
	_, err = e.fs.Remove(e.ctx, alice, search, "f", vfs.RemoveAny)
	e.want(vfs.KindAccess, err)
	_, err = e.fs.Remove(e.ctx, alice, search, "none", vfs.RemoveAny)
	e.want(vfs.KindNotFound, err)
	_, err = e.fs.Remove(e.ctx, alice, list, "f", vfs.RemoveAny)
	e.want(vfs.KindAccess, err)
	// Root needs no bits.
	shut := e.mkdir("shut", 0)
	e.createIn(root, shut, "f", 0)
	e.lookup(shut, "f")
	e.list(shut, 10)
}

func testPermissionsOfOpen(e *env) {
	f := e.create(alice, "f", 0o640)
	x := e.create(alice, "x", 0o111)
	type flags = vfs.OpenFlags
	for _, c := range []struct {
		who      *vfs.Cred
		ino      vfs.Ino
		f        flags
		override bool
		want     vfs.Kind
	}{
		{alice, f.Ino, vfs.OpenRead | vfs.OpenWrite, false, vfs.KindOK},
		{carol, f.Ino, vfs.OpenRead, false, vfs.KindOK}, // by group
		{carol, f.Ino, vfs.OpenWrite, false, vfs.KindAccess},
		{carol, f.Ino, vfs.OpenRead | vfs.OpenWrite, false, vfs.KindAccess},
		{bob, f.Ino, vfs.OpenRead, false, vfs.KindAccess},
		{root, f.Ino, vfs.OpenRead | vfs.OpenWrite, false, vfs.KindOK},
		{alice, x.Ino, vfs.OpenRead, false, vfs.KindAccess}, // the owner's bits bind the owner
		{alice, x.Ino, vfs.OpenRead | vfs.OpenWrite, true, vfs.KindOK},
		{bob, x.Ino, vfs.OpenRead, true, vfs.KindAccess}, // override is for the owner
	} {
		_, err := e.fs.Open(e.ctx, c.who, c.ino, c.f, c.override)
		if got := vfs.KindOf(err); got != c.want {
			e.Errorf("uid %d opens %d with %d, override %v: %v, want %v", c.who.UID, c.ino, c.f, c.override, err, c.want)
		}
		if err == nil {
			e.close(c.ino, c.f)
		}
	}
	// Owner bits come first even where the group's would allow.
	g := e.create(alice, "g", 0o077)
	_, err := e.fs.Open(e.ctx, alice, g.Ino, vfs.OpenRead, false)
	e.want(vfs.KindAccess, err)
}

func testSetAttrPermissions(e *env) {
	f := e.create(alice, "f", 0o666)
	now := time.Unix(1e9, 0)
	set := func(c *vfs.Cred, s vfs.SetAttr, opened bool) error {
		_, err := e.fs.SetAttr(e.ctx, c, f.Ino, s, opened)
		return err
	}
	e.want(vfs.KindPerm, set(bob, vfs.SetAttr{Mode: p(uint32(0o777))}, false))
	e.want(vfs.KindPerm, set(bob, vfs.SetAttr{UID: p(uint32(1001))}, false))
	e.want(vfs.KindPerm, set(alice, vfs.SetAttr{UID: p(uint32(1001))}, false))
	e.want(vfs.KindPerm, set(alice, vfs.SetAttr{GID: p(uint32(1001))}, false))
	e.ok(set(alice, vfs.SetAttr{GID: p(uint32(2000))}, false))
	e.ok(set(alice, vfs.SetAttr{UID: p(uint32(1000)), GID: p(uint32(1000))}, false))
	e.want(vfs.KindPerm, set(bob, vfs.SetAttr{MtimeSet: vfs.TimeClient, Mtime: now}, false))
	e.ok(set(bob, vfs.SetAttr{MtimeSet: vfs.TimeServer, AtimeSet: vfs.TimeServer}, false))
	e.ok(set(bob, vfs.SetAttr{Size: p(uint64(9))}, false))
	e.ok(set(alice, vfs.SetAttr{Mode: p(uint32(0o444))}, false))
	e.want(vfs.KindAccess, set(bob, vfs.SetAttr{MtimeSet: vfs.TimeServer}, false))
	e.want(vfs.KindAccess, set(bob, vfs.SetAttr{Size: p(uint64(1))}, false))
	e.want(vfs.KindAccess, set(alice, vfs.SetAttr{Size: p(uint64(1))}, false))
	e.ok(set(alice, vfs.SetAttr{Size: p(uint64(1))}, true)) // it has it open
	e.ok(set(alice, vfs.SetAttr{MtimeSet: vfs.TimeServer}, false))
	if a := e.attr(f.Ino); a.Size != 1 || a.Mode != 0o444 || a.UID != 1000 || a.GID != 1000 {
		e.Fatalf("%+v", a)
	}
}

func testSetAttrMode(e *env) {
	f := e.create(alice, "f", 0o600)
	before, after := e.changes(f.Ino, func() {
		a, err := e.fs.SetAttr(e.ctx, alice, f.Ino, vfs.SetAttr{Mode: p(uint32(0o7751))}, false)
		e.ok(err)
		if a.Mode != 0o7751 {
			e.Fatalf("mode %o", a.Mode)
		}
	})
	e.touched(before, after, false)
	// Who is not in the file's group cannot give it setgid.
	_, err := e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{GID: p(uint32(77))}, false)
	e.ok(err)
	a, err := e.fs.SetAttr(e.ctx, alice, f.Ino, vfs.SetAttr{Mode: p(uint32(0o2755))}, false)
	e.ok(err)
	if a.Mode != 0o755 {
		e.Fatalf("mode %o", a.Mode)
	}
	// Bits beyond the mode are none of its business.
	a, err = e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{Mode: p(uint32(0o100644))}, false)
	e.ok(err)
	if a.Mode != 0o644 {
		e.Fatalf("mode %o", a.Mode)
	}
	// Nothing asked, nothing changed.
	before, after = e.changes(f.Ino, func() {
		_, err := e.fs.SetAttr(e.ctx, bob, f.Ino, vfs.SetAttr{}, false)
		e.ok(err)
	})
	e.untouched(before, after)
}

func testSetAttrOwner(e *env) {
	f := e.create(alice, "f", 0o600)
	chmod := func(mode uint32) {
		_, err := e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{Mode: &mode}, false)
		e.ok(err)
	}
	chmod(0o6755)
	a, err := e.fs.SetAttr(e.ctx, alice, f.Ino, vfs.SetAttr{GID: p(uint32(2000))}, false)
	e.ok(err)
	if a.Mode != 0o755 || a.GID != 2000 {
		e.Fatalf("%+v", a)
	}
	chmod(0o6745)
	a, err = e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{UID: p(uint32(5)), GID: p(uint32(6))}, false)
	e.ok(err)
	if a.Mode != 0o2745 || a.UID != 5 || a.GID != 6 {
		e.Fatalf("%+v", a)
	}
	// A mode given together with an owner is what remains.
	a, err = e.fs.SetAttr(e.ctx, root, f.Ino, vfs.SetAttr{UID: p(uint32(1000)), Mode: p(uint32(0o4711))}, false)
	e.ok(err)
	if a.Mode != 0o4711 || a.UID != 1000 {
		e.Fatalf("%+v", a)
	}
	d := e.mkdir("d", 0o2775)
	a, err = e.fs.SetAttr(e.ctx, root, d, vfs.SetAttr{UID: p(uint32(5))}, false)
	e.ok(err)
	if a.Mode != 0o2775 {
		e.Fatalf("mode of a directory %o", a.Mode)
	}
}

func testSetAttrTimes(e *env) {
	f := e.create(alice, "f", 0o600)
	at, mt := time.Unix(-86400*365*30, 1), time.Unix(1<<33, 999999999)
	set := vfs.SetAttr{AtimeSet: vfs.TimeClient, Atime: at, MtimeSet: vfs.TimeClient, Mtime: mt, Btime: &at}
	if e.bounds.NoBtime {
		_, err := e.fs.SetAttr(e.ctx, alice, f.Ino, set, false)
		e.want(vfs.KindNotSupported, err)
		set.Btime = nil
	}
	before, after := e.changes(f.Ino, func() {
		_, err := e.fs.SetAttr(e.ctx, alice, f.Ino, set, false)
		e.ok(err)
	})
	if after.Change <= before.Change || !after.Ctime.After(before.Ctime) {
		e.Fatalf("ctime or change stayed: %+v", after)
	}
	if !after.Atime.Equal(at) || !after.Mtime.Equal(mt) || set.Btime != nil && !after.Btime.Equal(at) {
		e.Fatalf("%+v", after)
	}
	// Server time is the server's.
	before, after = e.changes(f.Ino, func() {
		_, err := e.fs.SetAttr(e.ctx, alice, f.Ino, vfs.SetAttr{AtimeSet: vfs.TimeServer, Atime: at, MtimeSet: vfs.TimeServer, Mtime: at}, false)
		e.ok(err)
	})
	if after.Change <= before.Change || !after.Atime.Equal(after.Ctime) || !after.Mtime.Equal(after.Ctime) {
		e.Fatalf("%+v", after)
	}
}
