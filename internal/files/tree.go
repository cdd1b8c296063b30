package files

import (
	"context"
	"errors"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// Tree is a file system as somebody sees it.
type Tree struct {
	FS   vfs.FS
	Cred vfs.Cred
	// MayMake refuses directories that are made in one; nil: all may be made. A path that leads to somebody's directory leads, when that is gone, to one above it.
	MayMake func(in Path) error
}

// Node is what a path leads to.
type Node struct {
	Path Path
	Name string  // "" of the root
	Dir  vfs.Ino // that it is in
	Attr vfs.Attr
}

// about adds to an error which path it is about.
func about(err error, op string, p Path) error {
	if err == nil {
		return nil
	}
	var e *vfs.Error
	if errors.As(err, &e) && e.Text == "" && e.Err == nil {
		return vfs.Errorf(e.Kind, op, "%s", p.Shown())
	}
	return vfs.Errorf(vfs.KindOf(err), op, "%s: %w", p.Shown(), err)
}

// Walk finds what p leads to.
func (t *Tree) Walk(ctx context.Context, p Path, op string) (*Node, error) {
	attr, err := t.FS.GetAttr(ctx, vfs.RootIno)
	if err != nil {
		return nil, about(err, op, "/")
	}
	n := &Node{Path: "/", Dir: vfs.RootIno, Attr: attr}
	for _, name := range p.names() {
		switch n.Attr.Type {
		case vfs.TypeDir:
		case vfs.TypeSymlink:
			return nil, vfs.Errorf(vfs.KindNotDir, op, "%s is a symbolic link, and those are not followed here: use the path that it leads to", n.Path.Shown())
		default:
			return nil, vfs.Errorf(vfs.KindNotDir, op, "%s", n.Path.Shown())
		}
		next := n.Path.Join(name)
		attr, err := t.FS.Lookup(ctx, &t.Cred, n.Attr.Ino, name)
		if err != nil {
			return nil, about(err, op, next)
		}
		n = &Node{Path: next, Name: name, Dir: n.Attr.Ino, Attr: attr}
	}
	return n, nil
}

// dir is Walk to a directory.
func (t *Tree) dir(ctx context.Context, p Path, op string) (*Node, error) {
	n, err := t.Walk(ctx, p, op)
	if err == nil && !n.Attr.IsDir() {
		if n.Attr.Type == vfs.TypeSymlink {
			return nil, vfs.Errorf(vfs.KindNotDir, op, "%s is a symbolic link, and those are not followed here: use the path that it leads to", p.Shown())
		}
		return nil, vfs.Errorf(vfs.KindNotDir, op, "%s", p.Shown())
	}
	return n, err
}

// Stat looks at one file, and reads the target of a symbolic link.
func (t *Tree) Stat(ctx context.Context, p Path) (n *Node, target string, err error) {
	const op = "stat"
	if n, err = t.Walk(ctx, p, op); err != nil {
		return nil, "", err
	}
	if n.Attr.Type == vfs.TypeSymlink {
		if target, err = t.FS.ReadLink(ctx, n.Attr.Ino); err != nil {
			return nil, "", about(err, op, p)
		}
	}
	return n, target, nil
}

// List returns a page of a directory: entries after cookie.
func (t *Tree) List(ctx context.Context, p Path, cookie uint64, limit int) (vfs.DirPage, error) {
	const op = "list"
	n, err := t.dir(ctx, p, op)
	if err != nil {
		return vfs.DirPage{}, err
	}
	page, err := t.FS.ReadDir(ctx, &t.Cred, n.Attr.Ino, cookie, limit, true)
	return page, about(err, op, p)
}

// Mkdir makes a directory; with parents also those above it that are missing, and it is no error if it is there.
func (t *Tree) Mkdir(ctx context.Context, p Path, parents bool, mode uint32) (*Node, error) {
	const op = "mkdir"
	up, name := p.Split()
	if name == "" {
		if parents {
			return t.Walk(ctx, p, op)
		}
		return nil, vfs.Errorf(vfs.KindExists, op, "/")
	}
	d, err := t.dir(ctx, up, op)
	if parents && vfs.KindOf(err) == vfs.KindNotFound {
		d, err = t.Mkdir(ctx, up, true, mode)
	}
	if err == nil && t.MayMake != nil {
		err = t.MayMake(up)
	}
	if err != nil {
		return nil, err
	}
	r, err := t.FS.MakeNode(ctx, &t.Cred, d.Attr.Ino, name, vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: &mode}})
	if parents && vfs.KindOf(err) == vfs.KindExists {
		return t.dir(ctx, p, op)
	}
	if err != nil {
		return nil, about(err, op, p)
	}
	return &Node{Path: p, Name: name, Dir: d.Attr.Ino, Attr: r.Attr}, nil
}

// Remove drops a name: a file's, or an empty directory's.
func (t *Tree) Remove(ctx context.Context, p Path, what vfs.RemoveKind) error {
	const op = "remove"
	up, name := p.Split()
	if name == "" {
		return vfs.Errorf(vfs.KindBusy, op, "/ stays: end the file system with `rackfs fs delete`")
	}
	d, err := t.dir(ctx, up, op)
	if err != nil {
		return err
	}
	_, err = t.FS.Remove(ctx, &t.Cred, d.Attr.Ino, name, what)
	return about(err, op, p)
}

// Rename moves from to to. If there is something it is replaced as by rename(2), unless keep forbids that.
func (t *Tree) Rename(ctx context.Context, from, to Path, keep bool) error {
	const op = "rename"
	up, name := from.Split()
	toUp, toName := to.Split()
	if name == "" || toName == "" {
		return vfs.Errorf(vfs.KindBusy, op, "/ stays where it is")
	}
	d, err := t.dir(ctx, up, op)
	if err != nil {
		return err
	}
	td, err := t.dir(ctx, toUp, op)
	if err != nil {
		return err
	}
	if keep {
		a, err := t.FS.Lookup(ctx, &t.Cred, d.Attr.Ino, name)
		if err != nil {
			return about(err, op, from)
		}
		if !a.IsDir() {
			return t.renameKeeping(ctx, &Node{Path: from, Name: name, Dir: d.Attr.Ino, Attr: a}, d, td, to)
		}
		// Of what appears behind this a directory replaces at most an empty one.
		if _, err := t.FS.Lookup(ctx, &t.Cred, td.Attr.Ino, toName); err == nil {
			return vfs.Errorf(vfs.KindExists, op, "%s", to.Shown())
		} else if vfs.KindOf(err) != vfs.KindNotFound {
			return about(err, op, to)
		}
	}
	_, _, err = t.FS.Rename(ctx, &t.Cred, d.Attr.Ino, name, td.Attr.Ino, toName)
	return about(err, op, to)
}

// renameKeeping moves a file out of d into td, where nothing is replaced: it gets the new name by a link, which finds out in one step whether that is taken, and then loses the old one.
// If that goes wrong it has both.
func (t *Tree) renameKeeping(ctx context.Context, n, d, td *Node, to Path) error {
	const op = "rename"
	// What would keep it from losing the old name is found out before it has the new one.
	err := d.Attr.CheckAccess(&t.Cred, vfs.AccessWrite|vfs.AccessExec, op)
	if err == nil {
		err = vfs.CheckSticky(&t.Cred, &d.Attr, &n.Attr, op)
	}
	if err != nil {
		return about(err, op, n.Path)
	}
	_, toName := to.Split()
	if _, _, err := t.FS.Link(ctx, &t.Cred, n.Attr.Ino, td.Attr.Ino, toName); err != nil {
		return about(err, op, to)
	}
	// Whoever asked may be gone: it is brought to its end. What has come to the old name by now stays there.
	work, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	a, err := t.FS.Lookup(work, &t.Cred, d.Attr.Ino, n.Name)
	if err == nil && a.Ino == n.Attr.Ino {
		_, err = t.FS.Remove(work, &t.Cred, d.Attr.Ino, n.Name, vfs.RemoveFile)
	}
	if vfs.KindOf(err) == vfs.KindNotFound {
		err = nil
	}
	return about(err, op, n.Path)
}

// Change says what is to be another of a file; nil and zero stay.
type Change struct {
	Mode     *uint32
	UID, GID *uint32
	Mtime    time.Time
}

func (c *Change) set() vfs.SetAttr {
	s := vfs.SetAttr{Mode: c.Mode, UID: c.UID, GID: c.GID}
	if !c.Mtime.IsZero() {
		s.MtimeSet, s.Mtime = vfs.TimeClient, c.Mtime
	}
	return s
}

// SetAttr changes attributes of what a path leads to.
func (t *Tree) SetAttr(ctx context.Context, p Path, c Change) (*Node, error) {
	const op = "setattr"
	n, err := t.Walk(ctx, p, op)
	if err != nil {
		return nil, err
	}
	if n.Attr.Type == vfs.TypeSymlink && c.Mode != nil {
		return nil, vfs.Errorf(vfs.KindNotSupported, op, "%s is a symbolic link, which has no mode of its own", p.Shown())
	}
	// First the owner, for that takes setuid and setgid from the mode.
	if c.UID != nil || c.GID != nil {
		if n.Attr, err = t.FS.SetAttr(ctx, &t.Cred, n.Attr.Ino, vfs.SetAttr{UID: c.UID, GID: c.GID}, false); err != nil {
			return nil, about(err, op, p)
		}
	}
	rest := Change{Mode: c.Mode, Mtime: c.Mtime}
	if s := rest.set(); !s.Empty() {
		if n.Attr, err = t.FS.SetAttr(ctx, &t.Cred, n.Attr.Ino, s, false); err != nil {
			return nil, about(err, op, p)
		}
	}
	return n, nil
}
