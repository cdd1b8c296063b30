package vfstest

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// Crasher is an implementation that can lose everything that is not durable, as
// if the machine that serves it had lost power, and go on.
type Crasher interface {
	Crash()
}

// Disturber is an implementation on machines that can fail without its users
// seeing more of it than a wait. Model calls it with a source of numbers below n.
type Disturber interface {
	Disturb(draw func(n int, what string) int)
}

// Run checks every rule of package vfs. fresh returns a file system, which may
// be the same one every time.
func Run(t *testing.T, fresh func(t *testing.T) vfs.FS) {
	for _, c := range []struct {
		name string
		test func(*env)
	}{
		{"Root", testRoot},
		{"Names", testNames},
		{"CreateUnchecked", testCreateUnchecked},
		{"CreateGuarded", testCreateGuarded},
		{"CreateByVerifier", testCreateByVerifier},
		{"CreateAttributes", testCreateAttributes},
		{"CreateInSetgidDirectory", testCreateInSetgidDirectory},
		{"MakeNode", testMakeNode},
		{"Symlink", testSymlink},
		{"PermissionsOfNames", testPermissionsOfNames},
		{"PermissionsOfOpen", testPermissionsOfOpen},
		{"SetAttrPermissions", testSetAttrPermissions},
		{"SetAttrMode", testSetAttrMode},
		{"SetAttrOwner", testSetAttrOwner},
		{"SetAttrTimes", testSetAttrTimes},
		{"TimesOfDirectories", testTimesOfDirectories},
		{"TimesOfData", testTimesOfData},
		{"TimeOfAccess", testTimeOfAccess},
		{"ChangeIsStable", testChangeIsStable},
		{"ReadDir", testReadDir},
		{"ReadDirWhileChanging", testReadDirWhileChanging},
		{"Link", testLink},
		{"Remove", testRemove},
		{"RemoveSticky", testRemoveSticky},
		{"Rename", testRename},
		{"RenameOver", testRenameOver},
		{"RenameDirectories", testRenameDirectories},
		{"RenamePermissions", testRenamePermissions},
		{"ReadWrite", testReadWrite},
		{"Overwrite", testOverwrite},
		{"Sparse", testSparse},
		{"Truncate", testTruncate},
		{"WriteClearsSetuid", testWriteClearsSetuid},
		{"WriteLimits", testWriteLimits},
		{"WrongTypes", testWrongTypes},
		{"UnlinkedOpen", testUnlinkedOpen},
		{"RenamedOverOpen", testRenamedOverOpen},
		{"Commit", testCommit},
		{"CrashKeepsCommitted", testCrashKeepsCommitted},
		{"CrashChangesVerifier", testCrashChangesVerifier},
		{"Allocate", testAllocate},
		{"Deallocate", testDeallocate},
		{"Seek", testSeek},
		{"Clone", testClone},
		{"StatFS", testStatFS},
		{"Xattr", testXattr},
		{"XattrChange", testXattrChange},
		{"XattrOfDirtyFile", testXattrOfDirtyFile},
		{"XattrPermissions", testXattrPermissions},
		{"XattrLimits", testXattrLimits},
		{"XattrLives", testXattrLives},
		{"XattrListWhileChanging", testXattrListWhileChanging},
		{"XattrConcurrent", testXattrConcurrent},
		{"CanceledContext", testCanceledContext},
		{"ConcurrentGuarded", testConcurrentGuarded},
		{"ConcurrentNames", testConcurrentNames},
		{"ConcurrentWrites", testConcurrentWrites},
		{"ConcurrentWriteTruncateRead", testConcurrentWriteTruncateRead},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(newEnv(t, fresh(t))) })
	}
}

var (
	root  = &vfs.Cred{}
	alice = &vfs.Cred{UID: 1000, GID: 1000, Groups: []uint32{2000}}
	bob   = &vfs.Cred{UID: 1001, GID: 1001}
	carol = &vfs.Cred{UID: 1002, GID: 1002, Groups: []uint32{1000}} // in alice's group
)

// env is one test's file system, and a directory of mode 0777 in it.
type env struct {
	*testing.T
	ctx context.Context
	fs  vfs.FS
	dir vfs.Ino

	bounds Bounds
}

func newEnv(t *testing.T, fs vfs.FS) *env {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	e := &env{T: t, ctx: ctx, fs: fs, bounds: boundsOf(fs)}
	e.dir = e.mkdirIn(vfs.RootIno, fmt.Sprintf("%s-%d", t.Name()[len("Test"):], time.Now().UnixNano()), 0o777)
	return e
}

func p[T any](v T) *T { return &v }

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) want(k vfs.Kind, err error) {
	e.Helper()
	if got := vfs.KindOf(err); got != k {
		e.Fatalf("got %v (%v), want %v", got, err, k)
	}
}

func (e *env) mkdirIn(dir vfs.Ino, name string, mode uint32) vfs.Ino {
	e.Helper()
	for i := 0; i < len(name); i++ {
		if name[i] == '/' {
			name = name[:i] + "_" + name[i+1:]
		}
	}
	r, err := e.fs.MakeNode(e.ctx, root, dir, name, vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: &mode}})
	e.ok(err)
	return r.Attr.Ino
}

func (e *env) mkdir(name string, mode uint32) vfs.Ino {
	e.Helper()
	return e.mkdirIn(e.dir, name, mode)
}

func (e *env) createIn(c *vfs.Cred, dir vfs.Ino, name string, mode uint32) vfs.Attr {
	e.Helper()
	r, err := e.fs.Create(e.ctx, c, dir, name, vfs.CreateArgs{Exclusive: vfs.Guarded, Attr: vfs.SetAttr{Mode: &mode}})
	e.ok(err)
	if !r.New {
		e.Fatal("guarded create of a new name was not new")
	}
	return r.Attr
}

func (e *env) create(c *vfs.Cred, name string, mode uint32) vfs.Attr {
	e.Helper()
	return e.createIn(c, e.dir, name, mode)
}

func (e *env) attr(ino vfs.Ino) vfs.Attr {
	e.Helper()
	a, err := e.fs.GetAttr(e.ctx, ino)
	e.ok(err)
	return a
}

// links is how many links a directory has, or, where all have one, as many as it should have for what is in it.
func (e *env) links(dir vfs.Ino) uint32 {
	e.Helper()
	a := e.attr(dir)
	if !e.bounds.OneLink {
		return a.Nlink
	}
	if a.Nlink != 1 {
		e.Fatalf("a directory with %d links", a.Nlink)
	}
	n := uint32(2)
	for _, d := range e.list(dir, 100) {
		if d.Type == vfs.TypeDir {
			n++
		}
	}
	return n
}

func (e *env) lookup(dir vfs.Ino, name string) vfs.Attr {
	e.Helper()
	a, err := e.fs.Lookup(e.ctx, root, dir, name)
	e.ok(err)
	return a
}

func (e *env) absent(dir vfs.Ino, name string) {
	e.Helper()
	_, err := e.fs.Lookup(e.ctx, root, dir, name)
	e.want(vfs.KindNotFound, err)
}

func (e *env) open(ino vfs.Ino, f vfs.OpenFlags) {
	e.Helper()
	_, err := e.fs.Open(e.ctx, root, ino, f, false)
	e.ok(err)
}

func (e *env) close(ino vfs.Ino, f vfs.OpenFlags) {
	e.Helper()
	e.ok(e.fs.Close(e.ctx, ino, f))
}

func (e *env) write(ino vfs.Ino, off uint64, data []byte, s vfs.Stable) vfs.Verifier {
	e.Helper()
	got, v, err := e.fs.Write(e.ctx, root, ino, off, data, s)
	e.ok(err)
	if got < s {
		e.Fatalf("asked for stability %d, got %d", s, got)
	}
	return v
}

func (e *env) commit(ino vfs.Ino) vfs.Verifier {
	e.Helper()
	v, err := e.fs.Commit(e.ctx, ino, 0, 0)
	e.ok(err)
	return v
}

// read reads n bytes, checks eof against the size, and returns what it got.
func (e *env) read(ino vfs.Ino, off uint64, n int) []byte {
	e.Helper()
	buf := bytes.Repeat([]byte{0xEE}, n)
	got, eof, err := e.fs.Read(e.ctx, ino, off, buf)
	e.ok(err)
	size := e.attr(ino).Size
	wantN := uint64(0)
	if off < size {
		wantN = min(uint64(n), size-off)
	}
	if uint64(got) != wantN || eof != (off+wantN >= size) {
		e.Fatalf("read %d at %d of %d bytes: n %d eof %v", n, off, size, got, eof)
	}
	if x, ok := optional[vfs.Viewer](e.fs); ok {
		seen := bytes.Repeat([]byte{0xEE}, n)
		k, viewEOF, err := view(e.ctx, x, ino, off, seen)
		e.ok(err)
		if k != got || viewEOF != eof || !bytes.Equal(seen[:k], buf[:got]) {
			e.Fatalf("view of %d at %d of %d bytes: n %d eof %v, unlike what was read", n, off, size, k, viewEOF)
		}
	}
	return buf[:got]
}

// view is View as Read: what is lent is copied to p.
func view(ctx context.Context, fs vfs.Viewer, ino vfs.Ino, off uint64, p []byte) (int, bool, error) {
	w, err := fs.View(ctx, ino, off, p)
	if err != nil {
		return 0, false, err
	}
	defer w.End()
	n := 0
	for _, b := range w.Lent {
		n += copy(p[n:], b)
	}
	if w.Lent != nil && n != w.N {
		return n, w.EOF, fmt.Errorf("%d bytes were lent, for %d", n, w.N)
	}
	return w.N, w.EOF, nil
}

// holds checks the whole content of a file.
func (e *env) holds(ino vfs.Ino, want []byte) {
	e.Helper()
	got := e.read(ino, 0, len(want)+1)
	e.same(got, want)
}

func (e *env) same(got, want []byte) {
	e.Helper()
	if len(got) != len(want) {
		e.Fatalf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			e.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
}

// list is the whole listing of dir, by pages of n.
func (e *env) list(dir vfs.Ino, n int) []vfs.Dirent {
	e.Helper()
	var all []vfs.Dirent
	cookie := uint64(0)
	for {
		page, err := e.fs.ReadDir(e.ctx, root, dir, cookie, n, true)
		e.ok(err)
		all = append(all, page.Entries...)
		if page.EOF {
			return all
		}
		if len(page.Entries) == 0 {
			e.Fatal("a page without entries that is not the last")
		}
		if len(page.Entries) > n {
			e.Fatalf("%d entries, asked for %d", len(page.Entries), n)
		}
		cookie = page.Entries[len(page.Entries)-1].Cookie
	}
}

// changes runs f and returns the attributes of ino before and after, which it
// checks to have a larger Change if it did change.
func (e *env) changes(ino vfs.Ino, f func()) (before, after vfs.Attr) {
	e.Helper()
	before = e.attr(ino)
	e.tick(before.Ctime)
	f()
	after = e.attr(ino)
	if after.Change < before.Change {
		e.Fatalf("change went from %d to %d", before.Change, after.Change)
	}
	return before, after
}

// tick waits until the clock has passed t, so that a later time is larger.
func (e *env) tick(t time.Time) {
	for !time.Now().After(t.Add(time.Microsecond)) {
		time.Sleep(time.Millisecond)
	}
}

// touched checks which times of an inode moved together with Change.
func (e *env) touched(before, after vfs.Attr, mtime bool) {
	e.Helper()
	if after.Change <= before.Change {
		e.Fatalf("change stayed %d", after.Change)
	}
	if !after.Ctime.After(before.Ctime) {
		e.Fatalf("ctime stayed %v", after.Ctime)
	}
	if moved := after.Mtime.After(before.Mtime); moved != mtime {
		e.Fatalf("mtime moved: %v, want %v", moved, mtime)
	}
}

// untouched checks that nothing an NFS client caches by has moved.
func (e *env) untouched(before, after vfs.Attr) {
	e.Helper()
	if before.Change != after.Change || !before.Ctime.Equal(after.Ctime) || !before.Mtime.Equal(after.Mtime) {
		e.Fatalf("changed:\n%+v\n%+v", before, after)
	}
}

// pattern is n bytes that differ by seed and position.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x>>24) | 1 // never zero, so that a lost byte shows
	}
	return b
}
