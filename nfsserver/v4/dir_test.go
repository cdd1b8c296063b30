package v4_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/vfs"
)

func TestCreate(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "file", vfs.TypeFile, 0o644, 0)
	w.mk(vfs.RootIno, "link", vfs.TypeSymlink, 0o777, 0)
	w.mk(vfs.RootIno, "private", vfs.TypeDir, 0o700, 0)
	c := w.connect("a", 1)
	user := c.as(1000, 1000)
	mode := attrs(nfsv4.FATTR4_MODE, uint32(0o640))
	dev := nfsv4.Specdata4{Specdata1: 8, Specdata2: 17}
	for name, kind := range map[string]nfsv4.Createtype4{
		"dir": &nfsv4.Createtype4_NF4DIR{}, "lnk": &nfsv4.Createtype4_NF4LNK{Linkdata: []byte("some/where")},
		"blk": &nfsv4.Createtype4_NF4BLK{Devdata: dev}, "chr": &nfsv4.Createtype4_NF4CHR{Devdata: dev},
		"fifo": &nfsv4.Createtype4_NF4FIFO{}, "sock": &nfsv4.Createtype4_NF4SOCK{},
	} {
		get := getAttr(nfsv4.FATTR4_CHANGE)
		res := c.ok(ops(root(), get, create(kind, name, mode), getAttr(1, 33, 41), root(), get)...)
		before, after := attrsOK(t, res[2])[3].(uint64), attrsOK(t, last(res))[3].(uint64)
		made := res[3].(*nfsv4.NfsResop4_OP_CREATE).Opcreate.(*nfsv4.Create4res_NFS4_OK).Resok4
		if !made.Cinfo.Atomic || made.Cinfo.Before != before || made.Cinfo.After != after || before == after {
			t.Errorf("%s: %+v, the directory went from %d to %d", name, made.Cinfo, before, after)
		}
		wantMode, wantSet := uint32(0o640), []uint32{0, 2}
		if name == "lnk" {
			wantMode, wantSet = 0o777, []uint32{}
		}
		if !slices.Equal(made.Attrset, wantSet) {
			t.Errorf("%s: attrset %v", name, made.Attrset)
		}
		got := attrsOK(t, res[4])
		if got[1] != uint32(kind.GetType()) || got[33] != wantMode {
			t.Errorf("%s: %v", name, got)
		}
		if name == "blk" && got[41] != [2]uint32{8, 17} {
			t.Errorf("%s: device %v", name, got[41])
		}
		c.fails(nfsv4.NFS4ERR_EXIST, ops(root(), create(kind, name, mode))...)
	}
	target := last(c.ok(ops(at("lnk"), &nfsv4.NfsArgop4_OP_READLINK{})...)).(*nfsv4.NfsResop4_OP_READLINK).Opreadlink.(*nfsv4.Readlink4res_NFS4_OK).Resok4.Link
	if string(target) != "some/where" {
		t.Errorf("READLINK: %q", target)
	}
	c.fails(nfsv4.NFS4ERR_WRONG_TYPE, ops(at("file"), &nfsv4.NfsArgop4_OP_READLINK{})...)

	d := &nfsv4.Createtype4_NF4DIR{}
	for name, x := range map[string]struct {
		who  *client
		ops  []nfsv4.NfsArgop4
		want nfsv4.Nfsstat4
	}{
		"a regular file":           {c, ops(root(), create(&nfsv4.Createtype4_default{Type: nfsv4.NF4REG}, "x", mode)), nfsv4.NFS4ERR_BADTYPE},
		"a named attribute":        {c, ops(root(), create(&nfsv4.Createtype4_default{Type: nfsv4.NF4NAMEDATTR}, "x", mode)), nfsv4.NFS4ERR_BADTYPE},
		"with a size":              {c, ops(root(), create(d, "x", attrs(nfsv4.FATTR4_SIZE, uint64(1)))), nfsv4.NFS4ERR_INVAL},
		"an empty link":            {c, ops(root(), create(&nfsv4.Createtype4_NF4LNK{}, "x", mode)), nfsv4.NFS4ERR_INVAL},
		"a long link":              {c, ops(root(), create(&nfsv4.Createtype4_NF4LNK{Linkdata: bytes.Repeat([]byte("x"), 5000)}, "x", mode)), nfsv4.NFS4ERR_NAMETOOLONG},
		"in a file":                {c, ops(at("file"), create(d, "x", mode)), nfsv4.NFS4ERR_NOTDIR},
		"in a symlink":             {c, ops(at("link"), create(d, "x", mode)), nfsv4.NFS4ERR_SYMLINK},
		"in another's directory":   {user, ops(root(), create(d, "x", mode)), nfsv4.NFS4ERR_ACCESS},
		"in a private directory":   {user, ops(at("private"), create(d, "x", mode)), nfsv4.NFS4ERR_ACCESS},
		"for another user":         {user, ops(root(), create(d, "x", attrs(nfsv4.FATTR4_OWNER, "5"))), nfsv4.NFS4ERR_ACCESS},
		"an unsupported attribute": {c, ops(root(), create(d, "x", attrs(nfsv4.FATTR4_HIDDEN, uint32(1)))), nfsv4.NFS4ERR_ATTRNOTSUPP},
	} {
		if res := x.who.do(x.ops...); res.Status != x.want {
			t.Errorf("%s: %v, want %v", name, nfsv4.Nfsstat4_name[res.Status], nfsv4.Nfsstat4_name[x.want])
		}
	}
}

func TestRemoveRenameLink(t *testing.T) {
	w := newWorld(t)
	c := w.connect("a", 1)
	d := w.mk(vfs.RootIno, "d", vfs.TypeDir, 0o755, 0)
	w.mk(d, "inner", vfs.TypeFile, 0o644, 0)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	w.mk(vfs.RootIno, "l", vfs.TypeSymlink, 0o777, 0)
	save := &nfsv4.NfsArgop4_OP_SAVEFH{}

	res := c.ok(ops(root(), getAttr(3), save, at("d"), getAttr(3), rename("f", "g"), getAttr(3))...)
	n := len(res)
	moved := res[n-2].(*nfsv4.NfsResop4_OP_RENAME).Oprename.(*nfsv4.Rename4res_NFS4_OK).Resok4
	if moved.SourceCinfo.Before != attrsOK(t, res[2])[3] || moved.TargetCinfo.Before != attrsOK(t, res[n-3])[3] || moved.TargetCinfo.After != attrsOK(t, res[n-1])[3] || moved.SourceCinfo.Before == moved.SourceCinfo.After {
		t.Errorf("%+v", moved)
	}
	c.ok(at("d", "g")...)
	c.ok(ops(at("d", "g"), save, root(), link("h"))...)
	if a := attrsOK(t, last(c.ok(ops(at("h"), getAttr(35))...))); a[35] != uint32(2) {
		t.Errorf("links: %v", a)
	}
	gone := c.ok(ops(root(), remove("h"), getAttr(3))...)
	if ci := gone[2].(*nfsv4.NfsResop4_OP_REMOVE).Opremove.(*nfsv4.Remove4res_NFS4_OK).Resok4.Cinfo; ci.After != attrsOK(t, gone[3])[3] || ci.Before >= ci.After {
		t.Errorf("%+v", ci)
	}
	other := memfs.New(memfs.Options{})
	second := exportOf(2, "/second", other, 1, 1)
	second.FSID = testFS + 1
	w.exports.Replace(w.table(exportOf(1, "/default", w.fs, 1, 1), second))
	elsewhere := []nfsv4.NfsArgop4{&nfsv4.NfsArgop4_OP_PUTROOTFH{}, lookup("second")}

	for name, x := range map[string]struct {
		ops  []nfsv4.NfsArgop4
		want nfsv4.Nfsstat4
	}{
		"remove what is not there":      {ops(root(), remove("none")), nfsv4.NFS4ERR_NOENT},
		"remove a full directory":       {ops(root(), remove("d")), nfsv4.NFS4ERR_NOTEMPTY},
		"remove in a file":              {ops(at("d", "g"), remove("x")), nfsv4.NFS4ERR_NOTDIR},
		"remove in a symlink":           {ops(at("l"), remove("x")), nfsv4.NFS4ERR_SYMLINK},
		"rename what is not there":      {ops(root(), save, rename("none", "x")), nfsv4.NFS4ERR_NOENT},
		"rename into itself":            {ops(root(), save, at("d"), rename("d", "x")), nfsv4.NFS4ERR_INVAL},
		"rename over a full directory":  {ops(at("d"), save, root(), rename("g", "d")), nfsv4.NFS4ERR_NOTEMPTY},
		"rename from a file":            {ops(at("d", "g"), save, root(), rename("x", "y")), nfsv4.NFS4ERR_NOTDIR},
		"rename to a symlink":           {ops(root(), save, at("l"), rename("d", "y")), nfsv4.NFS4ERR_SYMLINK},
		"rename to another file system": {ops(root(), save, elsewhere, rename("d", "d")), nfsv4.NFS4ERR_XDEV},
		"rename to the pseudo root":     {ops(root(), save, &nfsv4.NfsArgop4_OP_PUTROOTFH{}, rename("d", "d")), nfsv4.NFS4ERR_XDEV},
		"link a directory":              {ops(at("d"), save, root(), link("x")), nfsv4.NFS4ERR_ISDIR},
		"link over something":           {ops(at("d", "g"), save, root(), link("d")), nfsv4.NFS4ERR_EXIST},
		"link to another file system":   {ops(at("d", "g"), save, elsewhere, link("x")), nfsv4.NFS4ERR_XDEV},
		"link in a file":                {ops(at("d", "g"), save, at("d", "g"), link("x")), nfsv4.NFS4ERR_NOTDIR},
		"link in a symlink":             {ops(at("d", "g"), save, at("l"), link("x")), nfsv4.NFS4ERR_SYMLINK},
	} {
		if res := c.do(x.ops...); res.Status != x.want {
			t.Errorf("%s: %v, want %v", name, nfsv4.Nfsstat4_name[res.Status], nfsv4.Nfsstat4_name[x.want])
		}
	}
}

// countingFS counts ReadDir calls.
type countingFS struct {
	*memfs.FS
	pages, withAttrs atomic.Int64
	listed           atomic.Int64 // entries
}

func (f *countingFS) ReadDir(ctx context.Context, c *vfs.Cred, dir vfs.Ino, cookie uint64, n int, attrs bool) (vfs.DirPage, error) {
	f.pages.Add(1)
	if attrs {
		f.withAttrs.Add(1)
	}
	p, err := f.FS.ReadDir(ctx, c, dir, cookie, n, attrs)
	f.listed.Add(int64(len(p.Entries)))
	return p, err
}

// Of what the file system lists, hardly anything finds no place in the reply, from the second page on, however long names are.
func TestReadDirAsksForWhatFits(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	fs := &countingFS{FS: mem}
	w := newWorldOf(t, mem, fs, 0)
	const files = 1000
	for i := range files {
		w.mk(vfs.RootIno, fmt.Sprintf("%s%04d", bytes.Repeat([]byte("n"), 100), i), vfs.TypeFile, 0o644, 0)
	}
	c := w.connect("a", 1)
	var cookie uint64
	var verf [8]byte
	told := 0
	for pages := 1; ; pages++ {
		if pages == 2 {
			fs.listed.Store(int64(told))
		}
		ok := readDirOK(last(c.ok(ops(root(), readDir(cookie, verf, 0, 16<<10, 1, 3, 4, 8, 11, 19, 20, 33, 35, 36, 37, 45, 47, 52, 53, 55))...)))
		names, cookies, _ := entries(t, ok)
		told += len(names)
		if ok.Reply.Eof {
			if told != files || fs.listed.Load() > files+int64(pages)*2 {
				t.Errorf("%d entries told in %d pages, %d listed for them", told, pages, fs.listed.Load())
			}
			return
		}
		if pages > 1 && ok.GetEncodedSizeBytes() < 15<<10 {
			t.Errorf("page %d has %d bytes", pages, ok.GetEncodedSizeBytes())
		}
		cookie, verf = cookies[len(cookies)-1], ok.Cookieverf
	}
}

// Every page obeys maxcount and dircount to the byte, costs one call to the
// file system, and the pages together are the directory.
func TestReadDirPages(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	fs := &countingFS{FS: mem}
	w := newWorldOf(t, mem, fs, 0)
	want := map[string]bool{}
	for i := range 500 {
		name := fmt.Sprintf("%s%d", bytes.Repeat([]byte("n"), i%60), i)
		w.mk(vfs.RootIno, name, vfs.TypeFile, 0o644, 0)
		want[name] = true
	}
	c := w.connect("a", 1)
	all := []int{1, 3, 4, 8, 11, 19, 20, 33, 35, 36, 37, 45, 47, 52, 53, 55}
	for _, x := range []struct {
		name               string
		dirCount, maxCount uint32
		attrs              []int
		withAttrs          bool
	}{
		{"one page", 0, 1 << 20, all, true},
		{"small pages", 0, 900, all, true},
		{"dircount", 300, 1 << 20, all, true},
		{"names only", 0, 2000, nil, false},
		{"what an entry knows", 0, 2000, []int{1, 8, 11, 19, 20, 55}, false},
	} {
		got := map[string]bool{}
		var cookie uint64
		var verf [8]byte
		fs.pages.Store(0)
		fs.withAttrs.Store(0)
		for page := int64(1); ; page++ {
			ok := readDirOK(last(c.ok(ops(root(), readDir(cookie, verf, x.dirCount, x.maxCount, x.attrs...))...)))
			if size := ok.GetEncodedSizeBytes(); size > int(x.maxCount) {
				t.Fatalf("%s: %d bytes, maxcount %d", x.name, size, x.maxCount)
			}
			names, cookies, as := entries(t, ok)
			hint := 0
			for i, name := range names {
				if got[name] || !want[name] {
					t.Fatalf("%s: %q, twice or unknown", x.name, name)
				}
				got[name] = true
				hint += 12 + (len(name)+3)&^3
				if len(as[i]) != len(x.attrs) {
					t.Fatalf("%s: %d attributes of %d", x.name, len(as[i]), len(x.attrs))
				}
			}
			if x.dirCount != 0 && len(names) > 1 && hint > int(x.dirCount) {
				t.Fatalf("%s: %d bytes of cookies and names, dircount %d", x.name, hint, x.dirCount)
			}
			if fs.pages.Load() != page {
				t.Fatalf("%s: %d calls to the file system for %d pages", x.name, fs.pages.Load(), page)
			}
			if ok.Reply.Eof {
				break
			}
			if len(names) == 0 {
				t.Fatalf("%s: an empty page that is not the last", x.name)
			}
			cookie, verf = cookies[len(cookies)-1], ok.Cookieverf
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d of %d names", x.name, len(got), len(want))
		}
		if (fs.withAttrs.Load() > 0) != x.withAttrs {
			t.Errorf("%s: attributes were asked of the file system %d times", x.name, fs.withAttrs.Load())
		}
	}
}

func TestReadDirRefuses(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	w.mk(vfs.RootIno, "l", vfs.TypeSymlink, 0o777, 0)
	w.mk(vfs.RootIno, "empty", vfs.TypeDir, 0o755, 0)
	w.mk(vfs.RootIno, "private", vfs.TypeDir, 0o711, 0)
	c := w.connect("a", 1)
	good := readDirOK(last(c.ok(ops(root(), readDir(0, [8]byte{}, 0, 4096))...)))
	cookie := good.Reply.Entries.Cookie
	// The smallest page that holds the first entry, and one byte less.
	first := 8 + 4 + 8 + 4 + (len(good.Reply.Entries.Name)+3)&^3 + 4 + 4 + 8
	c.ok(ops(root(), readDir(0, [8]byte{}, 0, uint32(first)))...)
	c.ok(ops(at("empty"), readDir(0, [8]byte{}, 0, 16))...)
	for name, x := range map[string]struct {
		who  *client
		ops  []nfsv4.NfsArgop4
		want nfsv4.Nfsstat4
	}{
		"no room for an entry":   {c, ops(root(), readDir(0, [8]byte{}, 0, uint32(first-1))), nfsv4.NFS4ERR_TOOSMALL},
		"no room for anything":   {c, ops(root(), readDir(0, [8]byte{}, 0, 15)), nfsv4.NFS4ERR_TOOSMALL},
		"cookie 1":               {c, ops(root(), readDir(1, good.Cookieverf, 0, 4096)), nfsv4.NFS4ERR_BAD_COOKIE},
		"cookie 2":               {c, ops(root(), readDir(2, good.Cookieverf, 0, 4096)), nfsv4.NFS4ERR_BAD_COOKIE},
		"another verifier":       {c, ops(root(), readDir(cookie, [8]byte{1}, 0, 4096)), nfsv4.NFS4ERR_NOT_SAME},
		"a file":                 {c, ops(at("f"), readDir(0, [8]byte{}, 0, 4096)), nfsv4.NFS4ERR_NOTDIR},
		"a symlink":              {c, ops(at("l"), readDir(0, [8]byte{}, 0, 4096)), nfsv4.NFS4ERR_SYMLINK},
		"a write-only attribute": {c, ops(root(), readDir(0, [8]byte{}, 0, 4096, nfsv4.FATTR4_TIME_ACCESS_SET)), nfsv4.NFS4ERR_INVAL},
		"without permission":     {c.as(1000, 1000), ops(at("private"), readDir(0, [8]byte{}, 0, 4096)), nfsv4.NFS4ERR_ACCESS},
	} {
		if res := x.who.do(x.ops...); res.Status != x.want {
			t.Errorf("%s: %v, want %v", name, nfsv4.Nfsstat4_name[res.Status], nfsv4.Nfsstat4_name[x.want])
		}
	}
}

// vanishingFS lists entries whose inodes are gone by the time their attributes are read.
type vanishingFS struct{ *memfs.FS }

func (f vanishingFS) ReadDir(ctx context.Context, c *vfs.Cred, dir vfs.Ino, cookie uint64, n int, attrs bool) (vfs.DirPage, error) {
	p, err := f.FS.ReadDir(ctx, c, dir, cookie, min(n, 2), attrs)
	for i := range p.Entries {
		if p.Entries[i].Name != "stays" {
			p.Entries[i].Attr = nil
		}
	}
	return p, err
}

func TestReadDirOfVanishedEntries(t *testing.T) {
	mem := memfs.New(memfs.Options{})
	w := newWorldOf(t, mem, vanishingFS{mem}, 0)
	for _, n := range []string{"a", "b", "c", "d", "stays"} {
		w.mk(vfs.RootIno, n, vfs.TypeFile, 0o644, 0)
	}
	c := w.connect("a", 1)
	list := func(attrs ...int) (all []string, errs int) {
		var cookie uint64
		var verf [8]byte
		for {
			ok := readDirOK(last(c.ok(ops(root(), readDir(cookie, verf, 0, 4096, attrs...))...)))
			names, cookies, as := entries(t, ok)
			for i := range names {
				if e, _ := as[i][nfsv4.FATTR4_RDATTR_ERROR].(uint32); e != 0 {
					errs++
					if len(as[i]) != 1 {
						t.Errorf("%s: attributes %v beside an error", names[i], as[i])
					}
				}
			}
			all = append(all, names...)
			if ok.Reply.Eof {
				return all, errs
			}
			if len(names) == 0 {
				t.Fatal("an empty page that is not the last")
			}
			cookie, verf = cookies[len(cookies)-1], ok.Cookieverf
		}
	}
	if names, _ := list(nfsv4.FATTR4_SIZE); !slices.Equal(names, []string{"stays"}) {
		t.Errorf("without rdattr_error: %v", names)
	}
	if names, errs := list(nfsv4.FATTR4_SIZE, nfsv4.FATTR4_RDATTR_ERROR); len(names) != 5 || errs != 4 {
		t.Errorf("with rdattr_error: %v, %d errors", names, errs)
	}
}

// A file has at most vfs.LinkMax links, which PATHCONF tells as maxlink; removing one makes room for another.
func TestLinkLimit(t *testing.T) {
	w := newWorld(t)
	c := w.connect("a", 2)
	f := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	d := w.mk(vfs.RootIno, "d", vfs.TypeDir, 0o755, 0)
	for i := range vfs.LinkMax - 1 {
		if _, _, err := w.fs.Link(t.Context(), &vfs.Root, f, d, strconv.Itoa(i)); err != nil {
			t.Fatal(err)
		}
	}
	a := attrsOK(t, last(c.ok(ops(at("f"), getAttr(nfsv4.FATTR4_MAXLINK, nfsv4.FATTR4_NUMLINKS))...)))
	if a[nfsv4.FATTR4_MAXLINK] != uint32(vfs.LinkMax) || a[nfsv4.FATTR4_NUMLINKS] != uint32(vfs.LinkMax) {
		t.Errorf("%v", a)
	}
	more := ops(at("f"), &nfsv4.NfsArgop4_OP_SAVEFH{}, root(), link("one more"))
	c.fails(nfsv4.NFS4ERR_MLINK, more...)
	c.ok(ops(at("d"), remove("7"))...)
	c.ok(more...)
	c.fails(nfsv4.NFS4ERR_MLINK, ops(at("f"), &nfsv4.NfsArgop4_OP_SAVEFH{}, root(), link("two more"))...)
}
