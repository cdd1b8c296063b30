package memfs

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Xattrs = (*FS)(nil)

// xattr is one extended attribute.
type xattr struct {
	cookie uint64
	value  []byte
}

// GetXattr implements vfs.Xattrs.
func (fs *FS) GetXattr(_ context.Context, c *vfs.Cred, ino vfs.Ino, name string) ([]byte, error) {
	const op = "getxattr"
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.getXattrs(c, ino, name, vfs.AccessRead, op)
	if err != nil {
		return nil, err
	}
	x, ok := n.xattrs[name]
	if !ok {
		return nil, vfs.KindNoAttr.Err(op)
	}
	return bytes.Clone(x.value), nil
}

// getXattrs is get for who may do want with the extended attribute name.
func (fs *FS) getXattrs(c *vfs.Cred, ino vfs.Ino, name string, want vfs.Access, op string) (*inode, error) {
	if err := vfs.CheckXattrName(name, op); err != nil {
		return nil, err
	}
	n, err := fs.get(ino, op)
	if err != nil {
		return nil, err
	}
	return n, vfs.CheckXattr(c, &n.attr, want, op)
}

// SetXattr implements vfs.Xattrs.
func (fs *FS) SetXattr(_ context.Context, c *vfs.Cred, ino vfs.Ino, name string, value []byte, how vfs.XattrHow) (vfs.DirChange, error) {
	const op = "setxattr"
	if err := vfs.CheckXattrValue(value, how, op); err != nil {
		return vfs.DirChange{}, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.getXattrs(c, ino, name, vfs.AccessWrite, op)
	if err != nil {
		return vfs.DirChange{}, err
	}
	x, ok := n.xattrs[name]
	old := -1
	if ok {
		old = len(x.value)
	}
	then := n.totals.Replace(name, old, len(value))
	if err := vfs.CheckXattrSet(then, ok, how, op); err != nil {
		return vfs.DirChange{}, err
	}
	if !ok {
		n.lastXattr++
		x.cookie = n.lastXattr
	}
	x.value = append([]byte{}, value...)
	if n.xattrs == nil {
		n.xattrs = make(map[string]xattr)
	}
	n.xattrs[name], n.totals = x, then
	return fs.xattrsChanged(n), nil
}

// RemoveXattr implements vfs.Xattrs.
func (fs *FS) RemoveXattr(_ context.Context, c *vfs.Cred, ino vfs.Ino, name string) (vfs.DirChange, error) {
	const op = "removexattr"
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.getXattrs(c, ino, name, vfs.AccessWrite, op)
	if err != nil {
		return vfs.DirChange{}, err
	}
	x, ok := n.xattrs[name]
	if !ok {
		return vfs.DirChange{}, vfs.KindNoAttr.Err(op)
	}
	delete(n.xattrs, name)
	n.totals = n.totals.Remove(name, len(x.value))
	return fs.xattrsChanged(n), nil
}

func (fs *FS) xattrsChanged(n *inode) vfs.DirChange {
	before := n.attr.Change
	n.changed(fs.now())
	return vfs.DirChange{Before: before, After: n.attr.Change}
}

// ListXattrs implements vfs.Xattrs.
func (fs *FS) ListXattrs(_ context.Context, c *vfs.Cred, ino vfs.Ino, cookie uint64, maxBytes int) (vfs.XattrPage, error) {
	const op = "listxattrs"
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino, op)
	if err != nil {
		return vfs.XattrPage{}, err
	}
	if err := vfs.CheckXattrList(c, &n.attr, op); err != nil {
		return vfs.XattrPage{}, err
	}
	var list []vfs.XattrName
	for name, x := range n.xattrs {
		if x.cookie > cookie {
			list = append(list, vfs.XattrName{Cookie: x.cookie, Name: name})
		}
	}
	slices.SortFunc(list, func(a, b vfs.XattrName) int { return cmp.Compare(a.Cookie, b.Cookie) })
	for i, size := 0, 0; i < len(list); i++ {
		if size += len(list[i].Name); size > maxBytes && i > 0 {
			return vfs.XattrPage{Names: list[:i]}, nil
		}
	}
	return vfs.XattrPage{Names: list, EOF: true}, nil
}
