package v4_test

import (
	"context"
	"net/netip"
	"slices"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/vfs"
)

func prefix(p string, a export.Access) []export.Rule {
	return []export.Rule{{Clients: netip.MustParsePrefix(p), Access: a, AnonUID: export.AnonID, AnonGID: export.AnonID}}
}

// The way down from the server's root, and where fsid and mounted_on_fileid
// change.
func TestPseudoFileSystem(t *testing.T) {
	w := newWorld(t)
	hidden := exportOf(3, "/work/hidden", w.fs, export.ReadOnly, export.SquashAll)
	hidden.Rules = prefix("203.0.113.0/24", export.ReadWrite)
	only := exportOf(4, "/others/only", w.fs, export.ReadOnly, export.SquashAll)
	only.Rules = hidden.Rules
	w.exports.Replace(w.table(
		exportOf(1, "/default", w.fs, export.ReadWrite, export.SquashNone),
		exportOf(2, "/work/shared", w.fs, export.ReadWrite, export.SquashNone), hidden, only))
	c := w.connect("a", 1)
	putroot := &nfsv4.NfsArgop4_OP_PUTROOTFH{}

	names, cookies, as := entries(t, readDirOK(last(c.ok(putroot, readDir(0, [8]byte{}, 0, 4096, nfsv4.FATTR4_TYPE, nfsv4.FATTR4_FSID, nfsv4.FATTR4_FILEID, nfsv4.FATTR4_MOUNTED_ON_FILEID)))))
	sorted := slices.Sorted(slices.Values(names))
	if !slices.Equal(sorted, []string{"default", "work"}) {
		t.Fatalf("the root lists %v", names)
	}
	rootAttrs := attrsOK(t, last(c.ok(putroot, getAttr(nfsv4.FATTR4_FSID, nfsv4.FATTR4_FILEID, nfsv4.FATTR4_TYPE))))
	for i, name := range names {
		crosses := as[i][nfsv4.FATTR4_FSID] != rootAttrs[nfsv4.FATTR4_FSID]
		if crosses != (name == "default") {
			t.Errorf("%s: fsid %v, the root's %v", name, as[i][nfsv4.FATTR4_FSID], rootAttrs[nfsv4.FATTR4_FSID])
		}
		if as[i][nfsv4.FATTR4_MOUNTED_ON_FILEID] != cookies[i] {
			t.Errorf("%s: mounted_on_fileid %v", name, as[i][nfsv4.FATTR4_MOUNTED_ON_FILEID])
		}
		if name == "default" && as[i][nfsv4.FATTR4_FILEID] != uint64(vfs.RootIno) {
			t.Errorf("%s: fileid %v is not that of the export's root", name, as[i][nfsv4.FATTR4_FILEID])
		}
		// LOOKUP finds the same.
		got := attrsOK(t, last(c.ok(putroot, lookup(name), getAttr(nfsv4.FATTR4_FSID, nfsv4.FATTR4_FILEID, nfsv4.FATTR4_MOUNTED_ON_FILEID))))
		for _, a := range []int{nfsv4.FATTR4_FSID, nfsv4.FATTR4_FILEID, nfsv4.FATTR4_MOUNTED_ON_FILEID} {
			if got[a] != as[i][a] {
				t.Errorf("%s: attribute %d is %v by LOOKUP, %v by READDIR", name, a, got[a], as[i][a])
			}
		}
	}

	c.fails(nfsv4.NFS4ERR_NOENT, putroot, lookup("others"))
	c.fails(nfsv4.NFS4ERR_NOENT, putroot, lookup("work"), lookup("hidden"))
	c.fails(nfsv4.NFS4ERR_NOENT, putroot, &nfsv4.NfsArgop4_OP_LOOKUPP{})
	for _, op := range []nfsv4.NfsArgop4{createDir("x", attrs()), remove("default"), setAttr(anonymous, attrs(nfsv4.FATTR4_MODE, uint32(0)))} {
		c.fails(nfsv4.NFS4ERR_ROFS, putroot, op)
	}
	c.fails(nfsv4.NFS4ERR_ROFS, putroot, &nfsv4.NfsArgop4_OP_SAVEFH{}, rename("a", "b"))
	c.fails(nfsv4.NFS4ERR_ISDIR, putroot, read(anonymous, 0, 10))
	c.fails(nfsv4.NFS4ERR_ISDIR, putroot, open("o", rd, 0, nil, named("default")))
	c.fails(nfsv4.NFS4ERR_ROFS, putroot, open("o", rd, 0, &nfsv4.Createhow4_UNCHECKED4{}, named("new")))
	c.fails(nfsv4.NFS4ERR_NOENT, putroot, open("o", rd, 0, nil, named("new")))
	c.fails(nfsv4.NFS4ERR_WRONG_TYPE, putroot, &nfsv4.NfsArgop4_OP_READLINK{})
}

// LOOKUPP from an export's root leads to the pseudo directory above, and from
// within a sub-directory export never above its root.
func TestLookupParent(t *testing.T) {
	w := newWorld(t)
	a := w.mk(vfs.RootIno, "a", vfs.TypeDir, 0o755, 0)
	w.mk(a, "b", vfs.TypeDir, 0o755, 0)
	sub := exportOf(2, "/x/sub", w.fs, export.ReadWrite, export.SquashNone)
	sub.Root = a
	w.exports.Replace(w.table(exportOf(1, "/default", w.fs, export.ReadWrite, export.SquashNone), sub))
	c := w.connect("a", 1)
	up := &nfsv4.NfsArgop4_OP_LOOKUPP{}
	id := func(path ...nfsv4.NfsArgop4) [2]any {
		got := attrsOK(t, last(c.ok(append(path, getAttr(nfsv4.FATTR4_FSID, nfsv4.FATTR4_FILEID))...)))
		return [2]any{got[nfsv4.FATTR4_FSID], got[nfsv4.FATTR4_FILEID]}
	}
	putroot := &nfsv4.NfsArgop4_OP_PUTROOTFH{}
	if id(ops(at("a", "b"), up)...) != id(at("a")...) || id(ops(at("a", "b"), up, up)...) != id(root()...) || id(ops(root(), up)...) != id(putroot) {
		t.Error("LOOKUPP does not lead back")
	}
	inSub := ops(putroot, lookup("x"), lookup("sub"))
	if id(ops(inSub, lookup("b"), up)...) != id(inSub...) {
		t.Error("LOOKUPP within the sub-directory export")
	}
	if id(ops(inSub, up)...) != id(putroot, lookup("x")) {
		t.Error("LOOKUPP from the sub-directory export's root does not lead to the pseudo file system")
	}
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	c.fails(nfsv4.NFS4ERR_NOTDIR, ops(at("f"), up)...)
	c.fails(nfsv4.NFS4ERR_NOTDIR, ops(at("f"), lookup("x"))...)
	w.mk(vfs.RootIno, "l", vfs.TypeSymlink, 0o777, 0)
	c.fails(nfsv4.NFS4ERR_SYMLINK, ops(at("l"), lookup("x"))...)
	c.fails(nfsv4.NFS4ERR_NOENT, ops(root(), lookup("none"))...)
}

// A secured export is closed: the way in is its root, and no handle names anything outside its project, whoever made it.
func TestSecuredExport(t *testing.T) {
	w := newWorld(t)
	outside := w.mk(vfs.RootIno, "outside", vfs.TypeFile, 0o666, 0)
	team := w.mk(vfs.RootIno, "team", vfs.TypeDir, 0o777, 0)
	project := func(ino vfs.Ino, id uint32) {
		t.Helper()
		if err := w.fs.SetProject(ino, id); err != nil {
			t.Fatal(err)
		}
	}
	project(team, 5)
	inside := w.mk(team, "inside", vfs.TypeFile, 0o666, 0)
	sub := w.mk(team, "sub", vfs.TypeDir, 0o777, 0)
	nested := w.mk(team, "nested", vfs.TypeDir, 0o777, 0)
	project(nested, 6)
	w.mk(nested, "deep", vfs.TypeFile, 0o666, 0)

	whole := exportOf(1, "/default", w.fs, export.ReadWrite, export.SquashNone)
	secured := exportOf(2, "/default/team", w.fs, export.ReadWrite, export.SquashNone)
	secured.Root, secured.Project = team, 5
	elsewhere := prefix("203.0.113.0/24", export.ReadWrite)
	mine := whole.Rules
	whole.Rules = elsewhere
	w.exports.Replace(w.table(whole, secured))
	c := w.connect("a", 1)
	up, save := &nfsv4.NfsArgop4_OP_LOOKUPP{}, &nfsv4.NfsArgop4_OP_SAVEFH{}
	putroot := &nfsv4.NfsArgop4_OP_PUTROOTFH{}
	get := getAttr(nfsv4.FATTR4_FSID, nfsv4.FATTR4_FILEID)
	to := func(path ...string) []nfsv4.NfsArgop4 {
		out := []nfsv4.NfsArgop4{putroot, lookup("default"), lookup("team")}
		for _, p := range path {
			out = append(out, lookup(p))
		}
		return out
	}
	id := func(path ...nfsv4.NfsArgop4) any {
		return attrsOK(t, last(c.ok(append(path, get)...)))[nfsv4.FATTR4_FILEID]
	}

	// The way in and out.
	if id(to()...) != uint64(team) || id(to("inside")...) != uint64(inside) || id(ops(to("sub"), up)...) != uint64(team) {
		t.Error("the way into the export")
	}
	names, _, _ := entries(t, readDirOK(last(c.ok(putroot, lookup("default"), readDir(0, [8]byte{}, 0, 4096, nfsv4.FATTR4_FILEID)))))
	if !slices.Equal(names, []string{"team"}) {
		t.Errorf("above the export there is %v", names)
	}
	if id(ops(to(), up)...) != id(putroot, lookup("default")) || id(ops(to(), up, up)...) != id(putroot) {
		t.Error("LOOKUPP from the export's root does not lead to the pseudo file system")
	}
	c.fails(nfsv4.NFS4ERR_NOENT, putroot, lookup("default"), lookup("outside"))
	c.fails(nfsv4.NFS4ERR_ROFS, putroot, lookup("default"), createDir("x", attrs()))
	c.fails(nfsv4.NFS4ERR_ACCESS, to("nested")...)
	c.ok(ops(to("sub"), createDir("made", attrs()), get)...)

	// Handles as this cluster makes them, with any inode number.
	fh := func(export uint32, ino vfs.Ino) nfsv4.NfsArgop4 {
		return putFH(w.ring.Append(nil, handle.Handle{Kind: handle.Inode, FS: testFS, Export: export, Ino: uint64(ino)}))
	}
	belongs := 0
	for ino := vfs.Ino(1); ino < 20; ino++ {
		c.fails(nfsv4.NFS4ERR_ACCESS, fh(1, ino)) // also what is inside
		if a, err := w.fs.GetAttr(t.Context(), ino); err == nil && a.Project == 5 {
			belongs++
			c.ok(fh(2, ino), get)
			continue
		}
		c.fails(nfsv4.NFS4ERR_STALE, fh(2, ino))
	}
	if belongs != 4 { // team, inside, sub, made
		t.Errorf("%d inodes are in the project", belongs)
	}

	// With a rule for the whole export as well the two do not mix.
	whole.Rules = mine
	w.exports.Replace(w.table(whole, secured))
	if id(to("inside")...) != uint64(inside) || id(putroot, lookup("default"), lookup("outside")) != uint64(outside) {
		t.Error("the whole export")
	}
	c.fails(nfsv4.NFS4ERR_XDEV, fh(1, outside), save, fh(2, sub), link("l"))
	c.fails(nfsv4.NFS4ERR_XDEV, fh(1, vfs.RootIno), save, fh(2, sub), rename("outside", "o"))
	// And without one for the secured export, its handles are of no use.
	secured.Rules = elsewhere
	w.exports.Replace(w.table(whole, secured))
	c.fails(nfsv4.NFS4ERR_ACCESS, fh(2, inside))
	c.ok(fh(1, inside), get)

	// A root that is not the project's any more exports nothing.
	whole.Rules, secured.Rules = elsewhere, mine
	w.exports.Replace(w.table(whole, secured))
	project(team, 0)
	c.fails(nfsv4.NFS4ERR_STALE, to()...)
}

// An export with groups is for their members. Root mounts it, and has no more of it where it is squashed.
func TestGroups(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o666, 0)
	e := exportOf(1, "/default", w.fs, export.ReadWrite, export.SquashRoot)
	e.Groups = []uint32{70, 900}
	w.exports.Replace(w.table(e))
	c := w.connect("a", 1)
	get := getAttr(nfsv4.FATTR4_TYPE)
	all := &nfsv4.NfsArgop4_OP_ACCESS{Opaccess: nfsv4.Access4args{Access: 0x3f}}
	granted := func(c *client) uint32 {
		t.Helper()
		res := last(c.ok(ops(at("f"), all)...)).(*nfsv4.NfsResop4_OP_ACCESS)
		return res.Opaccess.(*nfsv4.Access4res_NFS4_OK).Resok4.Access
	}
	content := ops(at("f"), read(anonymous, 0, 10))

	for _, member := range []*client{c.as(7, 70), c.as(7, 1, 2, 900)} {
		member.ok(content...)
		member.ok(ops(at("f"), write(anonymous, 0, nfsv4.FILE_SYNC4, []byte("x")))...)
		if granted(member) == 0 {
			t.Error("a member may do nothing")
		}
	}
	stranger := c.as(7, 1, 2, 3)
	stranger.ok(ops(root())...)
	stranger.fails(nfsv4.NFS4ERR_ACCESS, ops(root(), get)...)
	stranger.fails(nfsv4.NFS4ERR_ACCESS, at("f")...)
	stranger.fails(nfsv4.NFS4ERR_ACCESS, putFH(c.as(7, 70).handleOf("f")), read(anonymous, 0, 10))
	stranger.fails(nfsv4.NFS4ERR_ACCESS, ops(root(), createDir("x", attrs()))...)

	mounter := c.as(0, 0)
	mounter.ok(ops(at("f"), get)...)
	if granted(mounter) != 0 {
		t.Errorf("squashed root may do %#x", granted(mounter))
	}
	mounter.fails(nfsv4.NFS4ERR_ACCESS, content...)
	mounter.fails(nfsv4.NFS4ERR_ACCESS, ops(root(), readDir(0, [8]byte{}, 0, 4096, nfsv4.FATTR4_FILEID))...)

	// What comes from the saved filehandle counts as well.
	plain := exportOf(2, "/other", w.fs, export.ReadWrite, export.SquashNone)
	w.exports.Replace(w.table(e, plain))
	save := &nfsv4.NfsArgop4_OP_SAVEFH{}
	stranger.fails(nfsv4.NFS4ERR_ACCESS, putFH(c.as(7, 70).handleOf("f")), save, &nfsv4.NfsArgop4_OP_PUTROOTFH{}, lookup("other"), link("l"))

	// The change holds at once.
	e.Groups = nil
	w.exports.Replace(w.table(e))
	stranger.ok(content...)
}

// The policy in force at each use of a handle decides.
func TestHandles(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	c := w.connect("a", 1)
	fh := c.handleOf("f")
	if len(fh) > 64 {
		t.Errorf("a handle of %d bytes", len(fh))
	}
	get := getAttr(nfsv4.FATTR4_TYPE)
	c.ok(putFH(fh), get)

	forged := slices.Clone(fh)
	forged[35]++ // the inode number
	c.fails(nfsv4.NFS4ERR_BADHANDLE, putFH(forged))
	c.fails(nfsv4.NFS4ERR_BADHANDLE, putFH(fh[:40]))
	c.fails(nfsv4.NFS4ERR_BADHANDLE, putFH(nil))
	other, err := handle.NewRing([16]byte{9, 9}, []handle.Key{{ID: 1, Secret: [16]byte{42}}})
	if err != nil {
		t.Fatal(err)
	}
	c.fails(nfsv4.NFS4ERR_STALE, putFH(other.Append(nil, handle.Handle{Kind: handle.Inode, FS: testFS, Export: 1, Ino: 2})))
	c.fails(nfsv4.NFS4ERR_STALE, putFH(w.ring.Append(nil, handle.Handle{Kind: handle.Inode, FS: testFS + 1, Export: 1, Ino: 2})))
	c.fails(nfsv4.NFS4ERR_STALE, putFH(w.ring.Append(nil, handle.Handle{Kind: handle.Pseudo, Ino: 77})))
	c.fails(nfsv4.NFS4ERR_STALE, putFH(w.ring.Append(nil, handle.Handle{Kind: handle.Inode, FS: testFS, Export: 1, Ino: 9999})), get)

	// The same handle while the exports change at run time.
	denied := exportOf(1, "/default", w.fs, export.ReadWrite, export.SquashNone)
	denied.Rules = prefix("203.0.113.0/24", export.ReadWrite)
	w.exports.Replace(w.table(denied))
	c.fails(nfsv4.NFS4ERR_ACCESS, putFH(fh))
	w.exports.Replace(w.table(exportOf(2, "/default", w.fs, export.ReadWrite, export.SquashNone)))
	c.fails(nfsv4.NFS4ERR_STALE, putFH(fh))
	w.exports.Replace(w.table(exportOf(1, "/renamed", w.fs, export.ReadOnly, export.SquashNone)))
	c.ok(putFH(fh), get)
	c.fails(nfsv4.NFS4ERR_ROFS, putFH(fh), setAttr(anonymous, attrs(nfsv4.FATTR4_MODE, uint32(0o600))))
	c.fails(nfsv4.NFS4ERR_ROFS, putFH(fh), write(anonymous, 0, nfsv4.FILE_SYNC4, []byte("x")))
	c.fails(nfsv4.NFS4ERR_ROFS, putFH(fh), open("o", rw, 0, nil, nil))

	// A new key makes other handles; old ones stay good until their key goes.
	rotated, _ := handle.NewRing(cluster, []handle.Key{{ID: 1, Secret: [16]byte{42}}, {ID: 2, Secret: [16]byte{43}}})
	w.v4.SetRing(rotated)
	fresh := fhOf(last(c.ok(putFH(fh), &nfsv4.NfsArgop4_OP_GETFH{})))
	if slices.Equal(fresh, fh) {
		t.Error("the handle did not change with the key")
	}
	retired, _ := handle.NewRing(cluster, []handle.Key{{ID: 2, Secret: [16]byte{43}}})
	w.v4.SetRing(retired)
	c.ok(putFH(fresh), get)
	c.fails(nfsv4.NFS4ERR_STALE, putFH(fh))
}

// A read-only export: what O_CREAT of an existing file may still do.
func TestReadOnlyExport(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o666, 0)
	w.exports.Replace(w.table(exportOf(1, "/default", w.fs, export.ReadOnly, export.SquashNone)))
	c := w.connect("a", 1)
	unchecked := &nfsv4.Createhow4_UNCHECKED4{}
	c.ok(ops(root(), open("o", rd, 0, unchecked, named("f")))...)
	c.fails(nfsv4.NFS4ERR_ROFS, ops(root(), open("o", wr, 0, nil, named("f")))...)
	c.fails(nfsv4.NFS4ERR_ROFS, ops(root(), open("o", rd, 0, unchecked, named("new")))...)
	c.fails(nfsv4.NFS4ERR_ROFS, ops(root(), open("o", rd, 0, &nfsv4.Createhow4_UNCHECKED4{Createattrs: attrs(nfsv4.FATTR4_SIZE, uint64(0))}, named("f")))...)
	c.fails(nfsv4.NFS4ERR_EXIST, ops(root(), open("o", rd, 0, &nfsv4.Createhow4_GUARDED4{}, named("f")))...)
	for _, op := range []nfsv4.NfsArgop4{createDir("x", attrs()), remove("f"), setAttr(anonymous, attrs(nfsv4.FATTR4_MODE, uint32(0)))} {
		c.fails(nfsv4.NFS4ERR_ROFS, ops(root(), op)...)
	}
	acc := last(c.ok(ops(at("f"), access(0x3f))...)).(*nfsv4.NfsResop4_OP_ACCESS).Opaccess.(*nfsv4.Access4res_NFS4_OK).Resok4
	if acc.Access != nfsv4.ACCESS4_READ || acc.Supported&nfsv4.ACCESS4_MODIFY == 0 {
		t.Errorf("ACCESS: %+v", acc)
	}
}

// Squash: root becomes nobody, and files are created as nobody.
func TestSquash(t *testing.T) {
	mem := memfs.New(memfs.Options{RootMode: 0o777})
	w := newWorldOf(t, mem, mem, 0)
	w.mk(vfs.RootIno, "secret", vfs.TypeFile, 0o600, 0)
	w.exports.Replace(w.table(exportOf(1, "/default", w.fs, export.ReadWrite, export.SquashRoot)))
	c := w.connect("a", 1)
	c.fails(nfsv4.NFS4ERR_ACCESS, ops(root(), open("o", rd, 0, nil, named("secret")))...)
	c.ok(ops(root(), createDir("d", attrs(nfsv4.FATTR4_MODE, uint32(0o700))))...)
	a, err := w.fs.Lookup(context.Background(), &vfs.Root, vfs.RootIno, "d")
	if err != nil || a.UID != export.AnonID || a.GID != export.AnonID {
		t.Errorf("created by %d:%d, %v", a.UID, a.GID, err)
	}
	user := c.as(1000, 1000)
	user.ok(ops(root(), createDir("u", attrs()))...)
	if a, _ := w.fs.Lookup(context.Background(), &vfs.Root, vfs.RootIno, "u"); a.UID != 1000 {
		t.Errorf("a user's directory belongs to %d", a.UID)
	}
}

func TestAccess(t *testing.T) {
	const all = 0x3f
	const r, l, m, e, d, x = nfsv4.ACCESS4_READ, nfsv4.ACCESS4_LOOKUP, nfsv4.ACCESS4_MODIFY, nfsv4.ACCESS4_EXTEND, nfsv4.ACCESS4_DELETE, nfsv4.ACCESS4_EXECUTE
	w := newWorld(t)
	w.mk(vfs.RootIno, "f640", vfs.TypeFile, 0o640, 1000)
	w.mk(vfs.RootIno, "f711", vfs.TypeFile, 0o711, 1000)
	w.mk(vfs.RootIno, "d750", vfs.TypeDir, 0o750, 1000)
	superuser := w.connect("root", 1)
	for _, c := range []struct {
		name               string
		who                *client
		supported, granted uint32
	}{
		{"f640", superuser, r | m | e | x, r | m | e},
		{"f640", superuser.as(1000, 1), r | m | e | x, r | m | e},
		{"f640", superuser.as(1, 1000), r | m | e | x, r},
		{"f640", superuser.as(1, 5, 6, 1000), r | m | e | x, r},
		{"f640", superuser.as(1, 1), r | m | e | x, 0},
		{"f711", superuser, r | m | e | x, r | m | e | x},
		{"f711", superuser.as(1, 1), r | m | e | x, x},
		{"d750", superuser.as(1000, 1), r | l | m | e | d, r | l | m | e | d},
		{"d750", superuser.as(1, 1000), r | l | m | e | d, r | l},
		{"d750", superuser.as(1, 1), r | l | m | e | d, 0},
	} {
		got := last(c.who.ok(ops(at(c.name), access(all))...)).(*nfsv4.NfsResop4_OP_ACCESS).Opaccess.(*nfsv4.Access4res_NFS4_OK).Resok4
		if got.Supported != c.supported || got.Access != c.granted {
			t.Errorf("%s by %+v: supported %#x, granted %#x; want %#x, %#x", c.name, c.who.cred, got.Supported, got.Access, c.supported, c.granted)
		}
	}
}

func TestSecinfoConsumesTheFilehandle(t *testing.T) {
	w := newWorld(t)
	c := w.connect("a", 1)
	getfh := &nfsv4.NfsArgop4_OP_GETFH{}
	putroot := &nfsv4.NfsArgop4_OP_PUTROOTFH{}
	for _, op := range []nfsv4.NfsArgop4{
		&nfsv4.NfsArgop4_OP_SECINFO{Opsecinfo: nfsv4.Secinfo4args{Name: "default"}},
		&nfsv4.NfsArgop4_OP_SECINFO_NO_NAME{OpsecinfoNoName: nfsv4.SECINFO_STYLE4_CURRENT_FH},
	} {
		c.ok(putroot, op)
		c.fails(nfsv4.NFS4ERR_NOFILEHANDLE, putroot, op, getfh)
	}
	c.fails(nfsv4.NFS4ERR_NOENT, putroot, &nfsv4.NfsArgop4_OP_SECINFO{Opsecinfo: nfsv4.Secinfo4args{Name: "none"}})
	c.fails(nfsv4.NFS4ERR_NOENT, putroot, &nfsv4.NfsArgop4_OP_SECINFO_NO_NAME{OpsecinfoNoName: nfsv4.SECINFO_STYLE4_PARENT})
	c.ok(ops(root(), &nfsv4.NfsArgop4_OP_SECINFO_NO_NAME{OpsecinfoNoName: nfsv4.SECINFO_STYLE4_PARENT})...)
}

func TestSavedFilehandle(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	c := w.connect("a", 1)
	save, restore, getfh := &nfsv4.NfsArgop4_OP_SAVEFH{}, &nfsv4.NfsArgop4_OP_RESTOREFH{}, &nfsv4.NfsArgop4_OP_GETFH{}
	want := c.handleOf("f")
	res := c.ok(ops(at("f"), save, root(), restore, getfh)...)
	if !slices.Equal(fhOf(last(res)), want) {
		t.Error("RESTOREFH did not bring back the filehandle")
	}
	c.fails(nfsv4.NFS4ERR_NOFILEHANDLE, ops(root(), restore)...)
}

func TestNames(t *testing.T) {
	long := string(slices.Repeat([]byte{'n'}, 256))
	w := newWorld(t)
	c := w.connect("a", 1)
	for name, want := range map[string]nfsv4.Nfsstat4{
		"": nfsv4.NFS4ERR_INVAL, ".": nfsv4.NFS4ERR_BADNAME, "..": nfsv4.NFS4ERR_BADNAME,
		"a/b": nfsv4.NFS4ERR_BADCHAR, "a\x00b": nfsv4.NFS4ERR_BADCHAR, long: nfsv4.NFS4ERR_NAMETOOLONG,
	} {
		c.fails(want, ops(root(), lookup(name))...)
		c.fails(want, ops(root(), remove(name))...)
		c.fails(want, ops(root(), createDir(name, attrs()))...)
		c.fails(want, ops(root(), open("o", rd, 0, &nfsv4.Createhow4_UNCHECKED4{}, named(name)))...)
		c.fails(want, ops(root(), &nfsv4.NfsArgop4_OP_SAVEFH{}, rename("x", name))...)
		c.fails(want, ops(root(), &nfsv4.NfsArgop4_OP_SAVEFH{}, rename(name, "x"))...)
	}
	c.ok(ops(root(), createDir(long[:255], attrs()))...)
	c.ok(ops(root(), createDir("caf\u00e9", attrs()))...)
}
