package files

import (
	"context"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/vfs"
)

// busyFS is one in which somebody else does something right before and after a file gets another name.
type busyFS struct {
	vfs.FS
	before, after func()
}

func (b *busyFS) Link(ctx context.Context, c *vfs.Cred, ino, dir vfs.Ino, name string) (vfs.Attr, vfs.DirChange, error) {
	b.before()
	defer b.after()
	return b.FS.Link(ctx, c, ino, dir, name)
}

func (b *busyFS) Rename(ctx context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (vfs.DirChange, vfs.DirChange, error) {
	b.before()
	defer b.after()
	return b.FS.Rename(ctx, c, fromDir, from, toDir, to)
}

// What is not to be replaced is not, whenever it appears, and what comes to the old name of a file stays.
func TestRenameKeeps(t *testing.T) {
	ctx := t.Context()
	start := func(t *testing.T) (*Tree, *busyFS, func(name string) vfs.Ino, func() string) {
		mem := memfs.New(memfs.Options{})
		fs := &busyFS{mem, func() {}, func() {}}
		create := func(name string) vfs.Ino {
			r, err := mem.Create(ctx, &vfs.Root, vfs.RootIno, name, vfs.CreateArgs{Exclusive: vfs.Guarded})
			if err != nil {
				t.Fatal(err)
			}
			return r.Attr.Ino
		}
		names := func() string {
			page, err := mem.ReadDir(ctx, &vfs.Root, vfs.RootIno, 0, 100, false)
			if err != nil {
				t.Fatal(err)
			}
			var list []string
			for _, e := range page.Entries {
				list = append(list, e.Name)
			}
			return strings.Join(list, " ")
		}
		return &Tree{FS: fs, Cred: vfs.Root}, fs, create, names
	}
	is := func(t *testing.T, tree *Tree, name string, want vfs.Ino) {
		t.Helper()
		if n, err := tree.Walk(ctx, Path("/"+name), "test"); err != nil || n.Attr.Ino != want || n.Attr.Nlink != 1 {
			t.Errorf("%s is %+v %v, want inode %d", name, n, err, want)
		}
	}
	t.Run("moved", func(t *testing.T) {
		tree, _, create, names := start(t)
		a := create("a")
		if err := tree.Rename(ctx, "/a", "/b", true); err != nil || names() != "b" {
			t.Fatal(err, names())
		}
		is(t, tree, "b", a)
		if err := tree.Rename(ctx, "/b", "/b", true); vfs.KindOf(err) != vfs.KindExists {
			t.Errorf("to where it is: %v", err)
		}
		if err := tree.Rename(ctx, "/none", "/c", true); vfs.KindOf(err) != vfs.KindNotFound || !strings.Contains(err.Error(), "/none") {
			t.Errorf("what is not there: %v", err)
		}
	})
	t.Run("one appears", func(t *testing.T) {
		tree, fs, create, _ := start(t)
		a, b := create("a"), vfs.Ino(0)
		fs.before = func() { b = create("b") }
		if err := tree.Rename(ctx, "/a", "/b", true); vfs.KindOf(err) != vfs.KindExists {
			t.Errorf("it is replaced: %v", err)
		}
		is(t, tree, "a", a)
		is(t, tree, "b", b)
	})
	t.Run("another one comes to the old name", func(t *testing.T) {
		tree, fs, create, _ := start(t)
		a, next := create("a"), create("next")
		fs.after = func() {
			if _, _, err := fs.FS.Rename(ctx, &vfs.Root, vfs.RootIno, "next", vfs.RootIno, "a"); err != nil {
				t.Error(err)
			}
		}
		if err := tree.Rename(ctx, "/a", "/b", true); err != nil {
			t.Fatal(err)
		}
		is(t, tree, "b", a)
		is(t, tree, "a", next)
	})
	t.Run("it may not go", func(t *testing.T) {
		tree, _, create, names := start(t)
		create("a")
		mode := uint32(vfs.ModeSticky | 0o777)
		if _, err := tree.FS.SetAttr(ctx, &vfs.Root, vfs.RootIno, vfs.SetAttr{Mode: &mode}, false); err != nil {
			t.Fatal(err)
		}
		tree.Cred = vfs.Cred{UID: 7, GID: 7}
		if err := tree.Rename(ctx, "/a", "/b", true); vfs.KindOf(err) != vfs.KindPerm || names() != "a" {
			t.Errorf("%v, there are %s", err, names())
		}
	})
	t.Run("a directory", func(t *testing.T) {
		tree, _, create, names := start(t)
		create("b")
		if _, err := tree.Mkdir(ctx, "/d", false, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := tree.Rename(ctx, "/d", "/b", true); vfs.KindOf(err) != vfs.KindExists {
			t.Errorf("onto a file: %v", err)
		}
		if err := tree.Rename(ctx, "/d", "/e", true); err != nil || names() != "b e" {
			t.Errorf("%v, there are %s", err, names())
		}
	})
}
