package v3ro_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/nfsserver/rpc"
	"github.com/rackfs/rackfs/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Statuses.
const (
	noent, io3, acces, notdir, isdir, inval, rofs, nametoolong, stale, badhandle, toosmall, jukebox = 2, 5, 13, 20, 21, 22, 30, 63, 70, 10001, 10005, 10008
)

var user = vfs.Cred{UID: 1000, GID: 1000}

// What is told of a file is what the vfs says, whichever procedure is asked.
func TestAttributes(t *testing.T) {
	w := newWorld(t)
	ino := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o4755, 12)
	w.write(ino, []byte("hello"))
	at, mt := time.Unix(1000, 5), time.Unix(2000, 999999999)
	if _, err := w.fs.SetAttr(t.Context(), &vfs.Root, ino, vfs.SetAttr{AtimeSet: vfs.TimeClient, Atime: at, MtimeSet: vfs.TimeClient, Mtime: mt}, false); err != nil {
		t.Fatal(err)
	}
	c := w.dial(user)
	root := c.mount("/default")
	if !bytes.Equal(root, w.ring.Append(nil, handle.Handle{Kind: handle.Inode, FS: 1, Export: 1, Ino: 1})) {
		t.Errorf("the root's handle is %x", root)
	}
	h, got := c.lookup(root, "f")
	a, err := w.fs.GetAttr(t.Context(), ino)
	if err != nil {
		t.Fatal(err)
	}
	want := fattr{
		typ: 1, mode: 0o4755, nlink: 1, uid: 12, gid: a.GID, size: 5, used: a.Used, fsid: got.fsid, fileid: uint64(ino),
		atime: at, mtime: mt, ctime: time.Unix(a.Ctime.Unix(), int64(a.Ctime.Nanosecond())),
	}
	if got != want || got.fsid == 0 {
		t.Errorf("LOOKUP says %+v, want %+v", got, want)
	}
	if got := c.getattr(h); got != want {
		t.Errorf("GETATTR says %+v, want %+v", got, want)
	}
	for _, e := range c.list(root, 4096, true) {
		if e.name == "f" && (e.attr == nil || *e.attr != want || !bytes.Equal(e.handle, h) || e.ino != uint64(ino)) {
			t.Errorf("READDIRPLUS says %+v of %x, want %+v of %x", e.attr, e.handle, want, h)
		}
	}
	for typ, want := range map[vfs.Type]uint32{vfs.TypeDir: 2, vfs.TypeBlock: 3, vfs.TypeChar: 4, vfs.TypeSymlink: 5, vfs.TypeSocket: 6, vfs.TypeFIFO: 7} {
		w.mk(vfs.RootIno, typ.String(), typ, 0o755, 0)
		h, a := c.lookup(root, typ.String())
		if a.typ != want || c.getattr(h) != a {
			t.Errorf("%v is %d", typ, a.typ)
		}
	}
	// Another file system has another fsid.
	other := w.whole(w.fs)
	other.ID, other.FSID, other.Path = 2, 2, "/other"
	w.exports.Replace(w.table(w.whole(w.fs), other))
	if c.getattr(c.mount("/other")).fsid == want.fsid {
		t.Error("two file systems with one fsid")
	}
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	dir := w.mk(vfs.RootIno, "dir", vfs.TypeDir, 0o755, 0)
	w.mk(dir, "sub", vfs.TypeDir, 0o755, 0)
	w.mk(dir, "file", vfs.TypeFile, 0o644, 0)
	w.mk(dir, "link", vfs.TypeSymlink, 0o777, 0)
	w.mk(dir, "secret", vfs.TypeDir, 0o700, 0)
	c := w.dial(user)
	root := c.mount("/default")
	d, _ := c.lookup(root, "dir")
	sub, _ := c.lookup(d, "sub")
	if h, a := c.lookup(sub, ".."); !bytes.Equal(h, d) || a.fileid != uint64(dir) {
		t.Error("the parent")
	}
	if h, _ := c.lookup(sub, "."); !bytes.Equal(h, sub) {
		t.Error("the directory itself")
	}
	look := func(h []byte, name string) []byte { return xdr.AppendString(fh(h), name) }
	c.fails(acces, nfs, pLookup, look(root, ".."))
	c.fails(noent, nfs, pLookup, look(d, "none"))
	c.fails(nametoolong, nfs, pLookup, look(d, string(bytes.Repeat([]byte("x"), 256))))
	c.fails(acces, nfs, pLookup, look(d, "a/b"))
	c.fails(acces, nfs, pLookup, look(d, ""))
	file, _ := c.lookup(d, "file")
	c.fails(notdir, nfs, pLookup, look(file, "x"))
	secret, _ := c.lookup(d, "secret")
	c.fails(acces, nfs, pLookup, look(secret, "x"))
	link, _ := c.lookup(d, "link")
	r := c.ok(nfs, pReadLink, fh(link))
	if postOp(r); r.String(4096) != "the/target" {
		t.Error("READLINK")
	}
	c.end(r)
	c.fails(inval, nfs, pReadLink, fh(file))
	c.fails(inval, nfs, pRead, readArgs(link, 0, 1))
	c.fails(isdir, nfs, pRead, readArgs(d, 0, 1))

	// What can be mounted.
	if !bytes.Equal(c.mount("/default/dir/sub"), sub) || !bytes.Equal(c.mount("default//dir/"), d) {
		t.Error("a directory is mounted as another one")
	}
	for path, want := range map[string]uint32{
		"/": noent, "": noent, "/none": noent, "/default/none": noent, "/default/dir/file": notdir, "/default/dir/link": notdir,
		"/default/dir/file/x": notdir, "/default/dir/../dir": inval, "/default/dir/secret/x": acces,
	} {
		c.fails(want, mount, 1, xdr.AppendString(nil, path))
	}
}

// Data of all sizes and places, also of several calls at once.
func TestRead(t *testing.T) {
	w := newWorld(t)
	data := make([]byte, 3<<20+17)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data)
	ino := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	w.write(ino, data)
	c := w.dial(user)
	h, _ := c.lookup(c.mount("/default"), "f")
	for _, x := range []struct {
		off  uint64
		n    uint32
		want int
		eof  bool
	}{
		{0, 0, 0, false}, {0, 1, 1, false}, {3, 4097, 4097, false}, {1 << 20, 1 << 20, 1 << 20, false}, {0, 8 << 20, 1 << 20, false}, {0, 1<<32 - 1, 1 << 20, false},
		{3 << 20, 17, 17, true}, {3 << 20, 1 << 20, 17, true}, {3<<20 + 17, 10, 0, true}, {1 << 40, 10, 0, true}, {1<<64 - 1, 10, 0, true},
	} {
		p, eof := c.read(h, x.off, x.n)
		if len(p) != x.want || eof != x.eof || len(p) > 0 && !bytes.Equal(p, data[x.off:x.off+uint64(len(p))]) {
			t.Errorf("READ %d+%d: %d bytes, end %v, want %d, %v", x.off, x.n, len(p), eof, x.want, x.eof)
		}
	}
	var all sync.WaitGroup
	for i := range 100 { // more than there are engines
		all.Go(func() {
			off := uint64(i * 31337)
			if p, _ := c.read(h, off, 4096*uint32(1+i%64)); !bytes.Equal(p, data[off:off+uint64(len(p))]) {
				t.Errorf("READ %d beside others", off)
			}
		})
	}
	all.Wait()
}

// Everybody is nobody.
func TestSquash(t *testing.T) {
	w := newWorld(t)
	for name, mode := range map[string]uint32{"open": 0o604, "closed": 0o660, "program": 0o601, "opendir": 0o705} {
		typ := vfs.TypeFile
		if name == "opendir" {
			typ = vfs.TypeDir
		}
		w.mk(vfs.RootIno, name, typ, mode, 1000)
	}
	access := func(c *client, h []byte) uint32 {
		d := c.ok(nfs, pAccess, xdr.AppendUint32(fh(h), 0x3f))
		postOp(d)
		got := d.Uint32()
		c.end(d)
		return got
	}
	for _, cred := range []vfs.Cred{{UID: 1000, GID: 1000}, {}} {
		c := w.dial(cred)
		root := c.mount("/default")
		if got := access(c, root); got != 3 {
			t.Errorf("%d may do %#x with the root", cred.UID, got)
		}
		for name, want := range map[string]uint32{"open": 1, "closed": 0, "program": 0x20, "opendir": 3} {
			h, _ := c.lookup(root, name)
			if got := access(c, h); got != want {
				t.Errorf("%d may do %#x with %s, want %#x", cred.UID, got, name, want)
			}
			switch {
			case name == "closed":
				c.fails(acces, nfs, pRead, readArgs(h, 0, 1))
			case name != "opendir":
				c.read(h, 0, 1)
			}
		}
	}
}

func TestListing(t *testing.T) {
	w := newWorld(t)
	dir := w.mk(vfs.RootIno, "dir", vfs.TypeDir, 0o755, 0)
	const files = 800
	for i := range files {
		w.mk(dir, fmt.Sprintf("file-%04d", i), vfs.TypeFile, 0o644, 0)
	}
	c := w.dial(user)
	h, _ := c.lookup(c.mount("/default"), "dir")
	for _, plus := range []bool{false, true} {
		for _, count := range []uint32{512, 4096, 32 << 10, 1 << 31} {
			seen := map[string]int{}
			for _, e := range c.list(h, count, plus) {
				seen[e.name]++
			}
			for name, n := range seen {
				if n != 1 {
					t.Errorf("%s is listed %d times", name, n)
				}
			}
			if len(seen) != files+2 || seen["."] != 1 || seen[".."] != 1 {
				t.Errorf("pages of %d, plus %v: %d names", count, plus, len(seen))
			}
		}
	}
	// Entries come and go between pages; what stays is listed once.
	seen := map[string]int{}
	for cookie, n := uint64(0), 0; ; n++ {
		page, eof := c.page(h, cookie, 4096, true)
		for _, e := range page {
			seen[e.name]++
			cookie = e.cookie
		}
		if eof {
			break
		}
		if _, err := w.fs.Remove(t.Context(), &vfs.Root, dir, fmt.Sprintf("file-%04d", 2*n), vfs.RemoveAny); err != nil {
			t.Fatal(err)
		}
		w.mk(dir, fmt.Sprintf("new-%04d", n), vfs.TypeFile, 0o644, 0)
	}
	for i := 1; i < files; i += 2 {
		if seen[fmt.Sprintf("file-%04d", i)] != 1 {
			t.Errorf("file %d is listed %d times", i, seen[fmt.Sprintf("file-%04d", i)])
		}
	}
	args := xdr.AppendUint64(xdr.AppendUint64(fh(h), 0), 0)
	c.fails(toosmall, nfs, pReadDir, xdr.AppendUint32(args, 20))
	c.fails(notdir, nfs, pReadDir, xdr.AppendUint32(xdr.AppendUint64(xdr.AppendUint64(fh(c.list(h, 4096, true)[5].handle), 0), 0), 4096))
	closed := w.mk(vfs.RootIno, "closed", vfs.TypeDir, 0o711, 0)
	c.fails(acces, nfs, pReadDir, xdr.AppendUint32(xdr.AppendUint64(xdr.AppendUint64(fh(w.handle(1, closed)), 0), 0), 4096))
	// Who may list but not search gets names without attributes.
	w.mk(w.mk(vfs.RootIno, "names", vfs.TypeDir, 0o744, 0), "x", vfs.TypeFile, 0o644, 0)
	names, _ := c.lookup(c.mount("/default"), "names")
	for _, e := range c.list(names, 4096, true) {
		if e.attr != nil || e.handle != nil {
			t.Errorf("%q with attributes", e.name)
		}
	}
}

func (w *world) handle(export uint32, ino vfs.Ino) []byte {
	return w.ring.Append(nil, handle.Handle{Kind: handle.Inode, FS: 1, Export: export, Ino: uint64(ino)})
}

// Whatever would change something is refused, whatever it is about.
func TestReadOnly(t *testing.T) {
	w := newWorld(t)
	ino := w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o666, 0)
	w.write(ino, []byte("content"))
	before, err := w.fs.GetAttr(t.Context(), ino)
	if err != nil {
		t.Fatal(err)
	}
	c := w.dial(vfs.Cred{})
	root := c.mount("/default")
	h, _ := c.lookup(root, "f")
	entry := func(name string) []byte { return xdr.AppendString(fh(root), name) }
	for proc, args := range map[uint32][]byte{
		pSetAttr:  append(fh(h), make([]byte, 28)...),
		pWrite:    xdr.AppendOpaque(xdr.AppendUint32(xdr.AppendUint32(xdr.AppendUint64(fh(h), 0), 60000), 2), make([]byte, 60000)),
		pCreate:   append(entry("new"), make([]byte, 28)...),
		pMkdir:    append(entry("new"), make([]byte, 24)...),
		pSymlink:  append(entry("new"), make([]byte, 28)...),
		pMknod:    append(entry("new"), make([]byte, 28)...),
		pRemove:   entry("f"),
		pRmdir:    entry("f"),
		pRename:   append(entry("f"), entry("g")...),
		pLink:     append(fh(h), entry("g")...),
		pCommit:   append(fh(h), make([]byte, 12)...),
		pSetAttr2: nil,
	} {
		if proc == pSetAttr2 { // without arguments
			proc = pSetAttr
		}
		st, d := c.call(nfs, proc, args)
		words := 2
		switch proc {
		case pRename:
			words = 4
		case pLink:
			words = 3
		}
		if st != rofs || len(d.Rest()) != 4*words {
			t.Errorf("procedure %d: status %d and %d bytes", proc, st, len(d.Rest()))
		}
	}
	after, err := w.fs.GetAttr(t.Context(), ino)
	if err != nil || after.Change != before.Change {
		t.Errorf("the file changed: %v", err)
	}
	if page, err := w.fs.ReadDir(t.Context(), &vfs.Root, vfs.RootIno, 0, 10, false); err != nil || len(page.Entries) != 1 {
		t.Errorf("the directory changed: %v", err)
	}
}

const pSetAttr2 = 1000

func TestFileSystem(t *testing.T) {
	w := newWorld(t)
	c := w.dial(user)
	root := c.mount("/default")
	d := c.ok(nfs, pFSInfo, fh(root))
	postOp(d)
	for i, want := range []uint32{1 << 20, 1 << 20, 4096, 64 << 10, 64 << 10, 4096, 64 << 10} {
		if got := d.Uint32(); got != want {
			t.Errorf("FSINFO %d: %d, want %d", i, got, want)
		}
	}
	if d.Uint64() != vfs.MaxSize || d.Uint64() != 1 {
		t.Error("the largest file, and the grain of times")
	}
	if props := d.Uint32(); props != 0x1|0x2|0x8 { // links, symbolic links, the same everywhere; times cannot be set
		t.Errorf("properties %#x", props)
	}
	c.end(d)
	d = c.ok(nfs, pFSStat, fh(root))
	postOp(d)
	st, err := w.fs.StatFS(t.Context(), vfs.RootIno)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []uint64{st.TotalBytes, st.FreeBytes, st.AvailBytes, st.TotalFiles, st.FreeFiles, st.FreeFiles} {
		if got := d.Uint64(); got != want {
			t.Errorf("FSSTAT %d: %d, want %d", i, got, want)
		}
	}
	d.Uint32()
	c.end(d)
	d = c.ok(nfs, pPathConf, fh(root))
	postOp(d)
	if d.Uint32() != vfs.LinkMax || d.Uint32() != vfs.NameMax {
		t.Error("PATHCONF")
	}
}

// Handles are those of NFSv4: good after a restart, checked at each use, and of no use outside of a project.
func TestHandles(t *testing.T) {
	w := newWorld(t)
	outside := w.mk(vfs.RootIno, "outside", vfs.TypeFile, 0o644, 0)
	team := w.mk(vfs.RootIno, "team", vfs.TypeDir, 0o755, 0)
	if err := w.fs.SetProject(team, 5); err != nil {
		t.Fatal(err)
	}
	inside := w.mk(team, "inside", vfs.TypeFile, 0o644, 0)
	nested := w.mk(team, "nested", vfs.TypeDir, 0o755, 0)
	if err := w.fs.SetProject(nested, 6); err != nil {
		t.Fatal(err)
	}
	c := w.dial(user)
	h, _ := c.lookup(c.mount("/default"), "outside")
	w.stop()
	w.start()
	c = w.dial(user)
	c.getattr(h)

	forged := bytes.Clone(h)
	forged[35]++
	c.fails(badhandle, nfs, pGetAttr, fh(forged))
	c.fails(badhandle, nfs, pGetAttr, fh(h[:40]))
	c.fails(badhandle, nfs, pGetAttr, fh(nil))
	other := newRing(t, [16]byte{9})
	c.fails(stale, nfs, pGetAttr, fh(other.Append(nil, handle.Handle{Kind: handle.Inode, FS: 1, Export: 1, Ino: 2})))
	c.fails(badhandle, nfs, pGetAttr, fh(w.ring.Append(nil, handle.Handle{Kind: handle.Pseudo, Ino: 1})))
	c.fails(stale, nfs, pGetAttr, fh(w.handle(1, 9999)))
	c.fails(stale, nfs, pGetAttr, fh(w.handle(7, 2)))

	whole := w.whole(w.fs)
	secured := whole
	secured.ID, secured.Path, secured.Root, secured.Project = 2, "/default/team", team, 5
	elsewhere := []export.Rule{{Clients: netip.MustParsePrefix("203.0.113.0/24")}}
	whole.Rules = elsewhere
	w.exports.Replace(w.table(whole, secured))
	c.fails(acces, nfs, pGetAttr, fh(h))
	root := c.mount("/default/team")
	in, _ := c.lookup(root, "inside")
	if !bytes.Equal(in, w.handle(2, inside)) {
		t.Error("the handle of what is inside")
	}
	c.getattr(in)
	c.fails(acces, nfs, pLookup, xdr.AppendString(fh(root), ".."))
	c.fails(acces, nfs, pLookup, xdr.AppendString(fh(root), "nested"))
	for _, ino := range []vfs.Ino{vfs.RootIno, outside, nested} {
		c.fails(stale, nfs, pGetAttr, fh(w.handle(2, ino)))
		c.fails(stale, nfs, pRead, readArgs(w.handle(2, ino), 0, 10))
	}
	for _, e := range c.list(root, 4096, true) {
		if e.name == "nested" && (e.attr != nil || e.handle != nil) {
			t.Error("a listing tells of another project's directory")
		}
	}
	c.fails(noent, mount, 1, xdr.AppendString(nil, "/default"))
	c.fails(noent, mount, 1, xdr.AppendString(nil, "/default/outside"))
	c.fails(acces, mount, 1, xdr.AppendString(nil, "/default/team/nested"))
	if _, err := w.fs.Remove(t.Context(), &vfs.Root, team, "inside", vfs.RemoveAny); err != nil {
		t.Fatal(err)
	}
	c.fails(stale, nfs, pRead, readArgs(in, 0, 10))

	// Groups are those of the caller, before it is squashed.
	whole = w.whole(w.fs)
	whole.Groups = []uint32{70}
	w.exports.Replace(w.table(whole))
	c.fails(acces, nfs, pGetAttr, fh(h))
	c.fails(acces, mount, 1, xdr.AppendString(nil, "/default"))
	w.dial(vfs.Cred{UID: 5, GID: 5, Groups: []uint32{70}}).read(h, 0, 1)
	mounter := w.dial(vfs.Cred{})
	mounter.getattr(mounter.mount("/default"))
	mounter.fails(acces, nfs, pRead, readArgs(h, 0, 1))
	mounter.fails(acces, nfs, pReadDir, xdr.AppendUint32(xdr.AppendUint64(xdr.AppendUint64(fh(w.handle(1, 1)), 0), 0), 4096))
}

// Other programs, versions and procedures are answered as such.
func TestDispatch(t *testing.T) {
	w := newWorld(t)
	c := w.dial(user)
	for _, prog := range []uint32{nfs, mount} {
		if b, err := c.raw(prog, 3, pNull, nil); err != nil || len(b) != 0 {
			t.Errorf("NULL of %d: %x, %v", prog, b, err)
		}
	}
	if b, err := c.raw(mount, 3, 3, xdr.AppendString(nil, "/default")); err != nil || len(b) != 0 {
		t.Errorf("UMNT: %x, %v", b, err)
	}
	for _, x := range [][3]uint32{{nfs, 4, 1}, {nfs, 2, 1}, {mount, 1, 1}, {100021, 4, 1}, {nfs, 3, 22}, {mount, 3, 6}} {
		if _, err := c.raw(x[0], x[1], x[2], make([]byte, 64)); err == nil {
			t.Errorf("%v was answered", x)
		}
	}
}

// failing is a file system whose calls fail, or panic.
type failing struct {
	vfs.FS
	err func() error
}

func (f failing) GetAttr(ctx context.Context, ino vfs.Ino) (vfs.Attr, error) {
	return f.FS.GetAttr(ctx, ino)
}
func (f failing) Read(context.Context, vfs.Ino, uint64, []byte) (int, bool, error) {
	return 0, false, f.err()
}
func (f failing) Lookup(context.Context, *vfs.Cred, vfs.Ino, string) (vfs.Attr, error) {
	return vfs.Attr{}, f.err()
}

func TestErrors(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	c := w.dial(user)
	root := c.mount("/default")
	h, _ := c.lookup(root, "f")
	w.write(2, []byte("data"))
	for _, x := range []struct {
		err  error
		want uint32
	}{
		{vfs.KindUnavailable.Err("test"), jukebox}, {vfs.KindCorrupt.Err("test"), io3}, {errors.New("odd"), io3}, {vfs.KindStale.Err("test"), stale},
	} {
		w.exports.Replace(w.table(w.whole(failing{w.fs, func() error { return x.err }})))
		c.fails(x.want, nfs, pRead, readArgs(h, 0, 4))
		c.fails(x.want, nfs, pLookup, xdr.AppendString(fh(root), "f"))
	}
	w.exports.Replace(w.table(w.whole(failing{w.fs, func() error { panic("a bug") }})))
	for range 100 { // more than there is memory for, if one kept its
		if _, err := c.raw(nfs, 3, pRead, readArgs(h, 0, 4)); err == nil {
			t.Fatal("a READ that panicked was answered")
		}
	}
	if _, err := c.raw(nfs, 3, pLookup, xdr.AppendString(fh(root), "f")); err == nil {
		t.Error("a call that panicked was answered")
	}
	w.exports.Replace(w.table(w.whole(w.fs)))
	c.read(h, 0, 4)
}

// Bytes that are no calls, lengths that nobody has, calls whose arguments are anything: the server stays, with the memory it had.
func TestGarbage(t *testing.T) {
	w := newWorld(t)
	w.mk(vfs.RootIno, "f", vfs.TypeFile, 0o644, 0)
	c := w.dial(user)
	root := c.mount("/default")
	good := xdr.AppendString(fh(root), "f")
	var before runtime.MemStats
	runtime.ReadMemStats(&before)

	huge := []byte{0xff, 0xff, 0xff, 0xff}
	w.send(huge)                                        // a record of 2 GiB
	w.send([]byte{0x80, 0, 0, 8, 0, 0, 0, 1, 0, 0})     // one that does not come
	w.send(bytes.Repeat([]byte{0}, 100000))             // empty fragments
	w.send([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")) // another protocol
	for proc := range uint32(24) {
		for _, args := range [][]byte{nil, huge, append(bytes.Clone(huge), good...), append(fh(root), huge...), append(fh(root), 0x7f, 0xff, 0xff, 0xff, 1, 2, 3, 4)} {
			_, _ = c.raw(nfs, 3, proc, args)
		}
	}
	for _, args := range [][]byte{nil, huge, xdr.AppendString(nil, string(bytes.Repeat([]byte("/"), 1024))), xdr.AppendString(nil, "/default/\x00/x")} {
		_, _ = c.raw(mount, 3, 1, args)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		args := bytes.Clone(good)
		for range 1 + r.IntN(4) {
			args[r.IntN(len(args))] = byte(r.UintN(256))
		}
		args = append(args[:r.IntN(len(args)+1)], make([]byte, r.IntN(40))...)
		if _, err := c.raw(nfs, 3, uint32(1+r.IntN(21)), args); err != nil {
			var remote *rpc.RemoteError
			if !errors.As(err, &remote) {
				t.Fatalf("the connection ended: %v", err)
			}
		}
	}
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	if grown := int64(after.TotalAlloc - before.TotalAlloc); grown > 256<<20 {
		t.Errorf("garbage had %d MiB allocated", grown>>20)
	} else {
		t.Logf("garbage had %d KiB allocated", grown>>10)
	}
	c.lookup(root, "f")
}

// The list of exports has what its client may use, and who else may not be told.
func TestExportList(t *testing.T) {
	w := newWorld(t)
	c := w.dial(user)
	list := func() (out []string) {
		t.Helper()
		b, err := c.raw(mount, 3, 5, nil)
		if err != nil {
			t.Fatal(err)
		}
		d := xdr.NewDecoder(b)
		for d.Bool() {
			at := d.String(1024)
			for d.Bool() {
				at += " " + d.String(1024)
			}
			out = append(out, at)
		}
		c.end(&d)
		slices.Sort(out)
		return out
	}
	if got, want := list(), []string{"/default"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	near, far := w.whole(w.fs), w.whole(w.fs)
	near.ID, near.Path = 7, "/w/near"
	near.Rules = []export.Rule{{Clients: netip.MustParsePrefix("127.0.0.0/8")}}
	far.ID, far.Path = 8, "/w/far"
	far.Rules = []export.Rule{{Clients: netip.MustParsePrefix("203.0.113.0/24")}}
	w.exports.Replace(w.table(w.whole(w.fs), near, far))
	if got, want := list(), []string{"/default", "/w/near 127.0.0.0/8"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if b, err := c.raw(mount, 3, 2, nil); err != nil || !bytes.Equal(b, []byte{0, 0, 0, 0}) {
		t.Errorf("DUMP: %x, %v", b, err)
	}
	for _, proc := range []uint32{3, 4} {
		if b, err := c.raw(mount, 3, proc, xdr.AppendString(nil, "/default")); err != nil || len(b) != 0 {
			t.Errorf("procedure %d: %x, %v", proc, b, err)
		}
	}
	// However many there are, the list is one reply.
	var many []export.Export
	for i := range 2000 {
		e := w.whole(w.fs)
		e.ID, e.Path = uint32(i+1), fmt.Sprintf("/many/%060d", i)
		many = append(many, e)
	}
	w.exports.Replace(w.table(many...))
	if n := len(list()); n < 500 || n >= 2000 {
		t.Errorf("%d exports in one list", n)
	}
}
