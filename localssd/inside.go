package localssd

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// markName is the extended attribute of everything in a volume: the volume's id, and of a file that was made by an exclusive create, until its
	// attributes are set, the verifier of that. User programs neither see nor set attributes of this name space.
	markName = "trusted.rackfs.volume"

	// maxDepth is how many directories may lie above one.
	maxDepth = 10_000
)

// mark says of what fd is open for that it is in the volume.
func (fs *FS) mark(fd int, verifier *[8]byte) error {
	value := fs.id[:]
	if verifier != nil {
		value = append(append([]byte(nil), value...), verifier[:]...)
	}
	err := unix.Setxattr(procPath(fd), markName, value, 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return vfs.Errorf(vfs.KindNotSupported, opOpen, "the file system of %s has no extended attributes: use ext4, xfs or btrfs", fs.data)
	}
	if err != nil {
		return fail("mark", err)
	}
	return nil
}

// marked reads a mark; errNoMark if there is none of this volume.
func (fs *FS) marked(fd int) (verifier *[8]byte, err error) {
	var buf [64]byte
	n, err := unix.Getxattr(procPath(fd), markName, buf[:])
	switch {
	case errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ERANGE) || err == nil && (n < len(fs.id) || [16]byte(buf[:16]) != fs.id):
		return nil, errNoMark
	case err != nil:
		return nil, fail("mark", err)
	case n == len(fs.id)+8:
		v := [8]byte(buf[16:24])
		return &v, nil
	}
	return nil, nil
}

// inside checks that what the handle h was opened as is a file of the volume, and what type it has.
func (fs *FS) inside(fd int, h *kernelHandle) (vfs.Type, *[8]byte, error) {
	stale := func(why string) error { return vfs.Errorf(vfs.KindStale, "handle", "%s", why) }
	got, mount, err := handleAt(fd, "")
	if err != nil {
		return 0, nil, fail("handle", err)
	}
	if !got.same(h) || mount != fs.mountID {
		return 0, nil, stale("it names another file")
	}
	st, err := statxOf(fd, "")
	if err != nil {
		return 0, nil, fail("handle", err)
	}
	if st.Nlink == 0 {
		return 0, nil, stale("it has no name any more")
	}
	typ := typeOf(st.Mode)
	verifier, err := fs.marked(fd)
	if errors.Is(err, errNoMark) {
		return 0, nil, stale(err.Error())
	}
	if err == nil && typ == vfs.TypeDir {
		err = fs.below(fd)
	}
	return typ, verifier, err
}

// below checks that the way up from a directory comes to the root.
func (fs *FS) below(fd int) error {
	var root, st unix.Stat_t
	if err := unix.Fstat(fs.rootFD, &root); err != nil {
		return fail("handle", err)
	}
	at, err := unix.Dup(fd)
	for range maxDepth {
		if err != nil {
			break
		}
		if err = unix.Fstat(at, &st); err != nil || st.Dev != root.Dev {
			break
		}
		if st.Ino == root.Ino {
			return unix.Close(at)
		}
		var up int
		was := st.Ino
		up, err = unix.Openat(at, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(at)
		if err != nil {
			return fail("handle", err)
		}
		at = up
		if err = unix.Fstat(at, &st); err == nil && st.Ino == was && st.Dev == root.Dev {
			break // the root of everything
		}
	}
	unix.Close(at)
	if err != nil {
		return fail("handle", err)
	}
	return vfs.Errorf(vfs.KindStale, "handle", "the directory is not in the volume any more")
}

// named is how openat2 looks a name up.
var named = unix.OpenHow{
	Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
	Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
}

// child is the node of name in dir, found as c; the caller puts it back.
func (fs *FS) child(c *vfs.Cred, dir *node, name, op string) (*node, error) {
	fd := -1
	err := fs.identity.as(c, 0, func() (err error) {
		fd, err = openat2(dir.fd, name, &named)
		return err
	})
	if err != nil {
		return nil, fail(op, err)
	}
	return fs.found(fd, op)
}

// openat2 opens again what was renamed or mounted over while it was looked for.
func openat2(dir int, name string, how *unix.OpenHow) (fd int, err error) {
	for range 1000 {
		fd, err = unix.Openat2(dir, name, how)
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return fd, err
}

// found is the node of what was opened by a name in the volume. It takes fd over.
func (fs *FS) found(fd int, op string) (*node, error) {
	ino, err := fs.inoOf(fd, "", op)
	if err == nil {
		if n := fs.nodes.use(ino); n != nil {
			unix.Close(fd)
			return n, nil
		}
	}
	var verifier *[8]byte
	if err == nil {
		if verifier, err = fs.marked(fd); errors.Is(err, errNoMark) {
			err = fs.mark(fd, nil)
		}
	}
	var st unix.Statx_t
	if err == nil {
		st, err = statxOf(fd, "")
	}
	if err != nil {
		unix.Close(fd)
		return nil, fail(op, err)
	}
	return fs.nodes.adopt(ino, fd, typeOf(st.Mode), verifier), nil
}

// inoOf is the inode number of name in the directory fd, or of fd itself.
func (fs *FS) inoOf(fd int, name, op string) (vfs.Ino, error) {
	h, mount, err := handleAt(fd, name)
	if err != nil {
		return 0, fail(op, err)
	}
	if mount != fs.mountID {
		return 0, fail(op, unix.EXDEV)
	}
	ino, err := fs.codec.ino(&h)
	return ino, vfs.Wrap(op, err)
}
