package localssd

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

var _ vfs.Xattrs = (*FS)(nil)

const userPrefix = "user."

// withXattrs is the node of ino, if c may do want with its extended attribute name. The caller puts it back and unlocks its names.
func (fs *FS) withXattrs(c *vfs.Cred, ino vfs.Ino, name string, want vfs.Access, op string) (*node, vfs.Attr, error) {
	if err := vfs.CheckXattrName(name, op); err != nil {
		return nil, vfs.Attr{}, err
	}
	n, err := fs.get(ino, op)
	if err != nil {
		return nil, vfs.Attr{}, err
	}
	n.names.Lock()
	a, err := fs.attr(n, op)
	if err == nil {
		err = vfs.CheckXattr(c, &a, want, op)
	}
	if err != nil {
		n.names.Unlock()
		fs.put(n)
	}
	return n, a, err
}

// xattrError is fail for what has other names or sizes than this file system's.
func xattrError(op string, err error) error {
	switch {
	case errors.Is(err, unix.ERANGE):
		return vfs.KindNameTooLong.Err(op)
	case errors.Is(err, unix.E2BIG):
		return vfs.Errorf(vfs.KindNoSpace, op, "this file system has no room for a value that large")
	}
	return fail(op, err)
}

// GetXattr implements vfs.Xattrs, as do the methods that follow.
func (fs *FS) GetXattr(_ context.Context, c *vfs.Cred, ino vfs.Ino, name string) ([]byte, error) {
	const op = "getxattr"
	n, _, err := fs.withXattrs(c, ino, name, vfs.AccessRead, op)
	if err != nil {
		return nil, err
	}
	defer fs.put(n)
	defer n.names.Unlock()
	buf := make([]byte, 256)
	for {
		k := 0
		err := fs.identity.as(c, 0, func() (err error) {
			k, err = unix.Getxattr(procPath(n.fd), userPrefix+name, buf)
			return err
		})
		switch {
		case err == nil:
			return buf[:k], nil
		case len(userPrefix+name) > vfs.XattrNameMax: // which is what the kernel says of it
			return nil, vfs.KindNoAttr.Err(op)
		case !errors.Is(err, unix.ERANGE) || len(buf) >= vfs.XattrValueMax:
			return nil, fail(op, err)
		}
		buf = make([]byte, vfs.XattrValueMax)
	}
}

func (fs *FS) SetXattr(_ context.Context, c *vfs.Cred, ino vfs.Ino, name string, value []byte, how vfs.XattrHow) (vfs.DirChange, error) {
	const op = "setxattr"
	if err := vfs.CheckXattrValue(value, how, op); err != nil {
		return vfs.DirChange{}, err
	}
	flags := [...]int{vfs.XattrEither: 0, vfs.XattrCreate: unix.XATTR_CREATE, vfs.XattrReplace: unix.XATTR_REPLACE}[how]
	return fs.setXattr(c, ino, name, op, func(path string) error { return unix.Setxattr(path, userPrefix+name, value, flags) })
}

func (fs *FS) RemoveXattr(_ context.Context, c *vfs.Cred, ino vfs.Ino, name string) (vfs.DirChange, error) {
	return fs.setXattr(c, ino, name, "removexattr", func(path string) error { return unix.Removexattr(path, userPrefix+name) })
}

func (fs *FS) setXattr(c *vfs.Cred, ino vfs.Ino, name, op string, do func(path string) error) (vfs.DirChange, error) {
	n, before, err := fs.withXattrs(c, ino, name, vfs.AccessWrite, op)
	if err != nil {
		return vfs.DirChange{}, err
	}
	defer fs.put(n)
	defer n.names.Unlock()
	if err := fs.identity.as(c, 0, func() error { return do(procPath(n.fd)) }); err != nil {
		return vfs.DirChange{}, xattrError(op, err)
	}
	n.pending.Add(1)
	after, err := fs.attr(n, op)
	if err == nil && after.Ctime.Equal(before.Ctime) {
		// Some kernels take a value that was there already for no change at all.
		if err = fail(op, unix.Chmod(procPath(n.fd), before.Mode)); err == nil {
			after, err = fs.attr(n, op)
		}
	}
	if err == nil {
		err = fs.syncNames(n, op)
	}
	return vfs.DirChange{Before: before.Change, After: after.Change}, err
}

// ListXattrs lists in the order of the names' hashes, which are the cookies.
func (fs *FS) ListXattrs(_ context.Context, c *vfs.Cred, ino vfs.Ino, cookie uint64, maxBytes int) (vfs.XattrPage, error) {
	const op = "listxattrs"
	n, err := fs.get(ino, op)
	if err != nil {
		return vfs.XattrPage{}, err
	}
	defer fs.put(n)
	a, err := fs.attr(n, op)
	if err != nil {
		return vfs.XattrPage{}, err
	}
	if err := vfs.CheckXattrList(c, &a, op); err != nil {
		return vfs.XattrPage{}, err
	}
	if a.Type != vfs.TypeFile && a.Type != vfs.TypeDir {
		return vfs.XattrPage{EOF: true}, nil
	}
	buf := make([]byte, vfs.XattrListMax)
	k, err := unix.Listxattr(procPath(n.fd), buf)
	if err != nil {
		return vfs.XattrPage{}, fail(op, err)
	}
	var list []vfs.XattrName
	for raw := range strings.SplitSeq(string(buf[:k]), "\x00") {
		if name, ok := strings.CutPrefix(raw, userPrefix); ok && name != "" {
			list = append(list, vfs.XattrName{Cookie: xattrCookie(name), Name: name})
		}
	}
	slices.SortFunc(list, func(a, b vfs.XattrName) int {
		return cmp.Or(cmp.Compare(a.Cookie, b.Cookie), cmp.Compare(a.Name, b.Name))
	})
	from, _ := slices.BinarySearchFunc(list, cookie, func(x vfs.XattrName, c uint64) int {
		if x.Cookie <= c {
			return -1
		}
		return 1
	})
	list = list[from:]
	for i, size := 0, 0; i < len(list); i++ {
		if size += len(list[i].Name); size > maxBytes && i > 0 && list[i].Cookie != list[i-1].Cookie {
			return vfs.XattrPage{Names: list[:i]}, nil
		}
	}
	return vfs.XattrPage{Names: list, EOF: true}, nil
}

func xattrCookie(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()>>1 | 1
}
