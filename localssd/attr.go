package localssd

import (
	"context"
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

// procPath names what a descriptor of this process is open for. It works for O_PATH descriptors and every identity.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func statxOf(fd int, name string) (st unix.Statx_t, err error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	return st, unix.Statx(fd, name, flags, statxMask, &st)
}

func typeOf(mode uint16) vfs.Type {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return vfs.TypeFile
	case unix.S_IFDIR:
		return vfs.TypeDir
	case unix.S_IFLNK:
		return vfs.TypeSymlink
	case unix.S_IFBLK:
		return vfs.TypeBlock
	case unix.S_IFCHR:
		return vfs.TypeChar
	case unix.S_IFIFO:
		return vfs.TypeFIFO
	case unix.S_IFSOCK:
		return vfs.TypeSocket
	}
	return vfs.TypeNone
}

func timeOf(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }

func nanos(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

func attrOf(ino vfs.Ino, st *unix.Statx_t, change uint64) vfs.Attr {
	a := vfs.Attr{
		Ino: ino, Type: typeOf(st.Mode), Mode: uint32(st.Mode) & vfs.ModeMask, Nlink: st.Nlink, UID: st.Uid, GID: st.Gid,
		Size: st.Size, Used: st.Blocks * 512, Change: change,
		Atime: timeOf(st.Atime), Mtime: timeOf(st.Mtime), Ctime: timeOf(st.Ctime), Btime: timeOf(st.Btime),
	}
	if a.Type == vfs.TypeBlock || a.Type == vfs.TypeChar {
		a.Dev = vfs.Dev{Major: st.Rdev_major, Minor: st.Rdev_minor}
	}
	if st.Mask&unix.STATX_BTIME == 0 {
		a.Btime = a.Ctime
	}
	return a
}

// attr are the attributes of a node now.
func (fs *FS) attr(n *node, op string) (vfs.Attr, error) {
	n.change.mu.Lock()
	pending := n.pending.Load()
	st, err := statxOf(n.fd, "")
	if err != nil {
		n.change.mu.Unlock()
		return vfs.Attr{}, fail(op, err)
	}
	a := attrOf(n.ino, &st, n.change.next(nanos(st.Ctime), pending, fs.nodes.floor.Load()))
	n.change.mu.Unlock()
	if a.Nlink == 0 && fs.nodes.vanished(n) {
		return vfs.Attr{}, vfs.Errorf(vfs.KindStale, op, "inode %d has no name any more", n.ino)
	}
	return a, nil
}

// GetAttr implements vfs.FS, as do the methods that follow.
func (fs *FS) GetAttr(_ context.Context, ino vfs.Ino) (vfs.Attr, error) {
	const op = "getattr"
	n, err := fs.get(ino, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer fs.put(n)
	return fs.attr(n, op)
}

func (fs *FS) StatFS(context.Context, vfs.Ino) (vfs.StatFS, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fs.rootFD, &st); err != nil {
		return vfs.StatFS{}, fail("statfs", err)
	}
	unit := uint64(st.Bsize)
	return vfs.StatFS{
		TotalBytes: st.Blocks * unit, FreeBytes: st.Bfree * unit, AvailBytes: st.Bavail * unit, UsedBytes: (st.Blocks - st.Bfree) * unit,
		TotalFiles: st.Files, FreeFiles: st.Ffree, UsedFiles: st.Files - st.Ffree,
	}, nil
}

func (fs *FS) SetAttr(_ context.Context, c *vfs.Cred, ino vfs.Ino, s vfs.SetAttr, opened bool) (vfs.Attr, error) {
	const op = "setattr"
	n, err := fs.get(ino, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer fs.put(n)
	n.names.Lock()
	defer n.names.Unlock()
	a, err := fs.attr(n, op)
	if err != nil || s.Empty() {
		return a, err
	}
	if err := vfs.CheckSetAttr(c, &a, &s, opened, op); err != nil {
		return vfs.Attr{}, err
	}
	if s.Btime != nil {
		return vfs.Attr{}, vfs.Errorf(vfs.KindNotSupported, op, "the birth time of a file on a local disk cannot be set")
	}
	if err := fs.unverify(n); err != nil {
		return vfs.Attr{}, vfs.Wrap(op, err)
	}
	if err := fs.apply(c, n, &s, op); err != nil {
		return vfs.Attr{}, err
	}
	if err := fs.syncNames(n, op); err != nil {
		return vfs.Attr{}, err
	}
	return fs.attr(n, op)
}

// unverify forgets the verifier of the exclusive create that made n: its attributes are set. n.names is held.
func (fs *FS) unverify(n *node) error {
	if n.verifier == nil {
		return nil
	}
	if err := fs.mark(n.fd, nil); err != nil {
		return err
	}
	n.verifier = nil
	return nil
}

// apply sets what was allowed, in the order in which one does not undo the other, as c.
func (fs *FS) apply(c *vfs.Cred, n *node, s *vfs.SetAttr, op string) error {
	defer n.pending.Add(1)
	if s.UID != nil || s.GID != nil {
		uid, gid := -1, -1
		if s.UID != nil {
			uid = int(*s.UID)
		}
		if s.GID != nil {
			gid = int(*s.GID)
		}
		err := fs.identity.as(c, 0, func() error {
			return unix.Fchownat(n.fd, "", uid, gid, unix.AT_EMPTY_PATH)
		})
		if err != nil {
			return fail(op, err)
		}
	}
	if s.Size != nil {
		fd, err := n.writer()
		if err == nil {
			err = fs.identity.as(c, 0, func() error { return unix.Ftruncate(fd, int64(*s.Size)) })
		}
		if err != nil {
			return fail(op, err)
		}
	}
	if s.Mode != nil {
		if err := fs.chmod(c, n, *s.Mode&vfs.ModeMask); err != nil {
			return fail(op, err)
		}
	}
	if s.AtimeSet != vfs.TimeKeep || s.MtimeSet != vfs.TimeKeep {
		return fail(op, fs.setTimes(n.fd, s))
	}
	return nil
}

// chmod is the kernel's. It takes setgid from those who are not in the group; a directory keeps it, as the rules of package vfs say.
func (fs *FS) chmod(c *vfs.Cred, n *node, mode uint32) error {
	if n.typ == vfs.TypeSymlink {
		return unix.EOPNOTSUPP
	}
	keep := uint(0)
	if n.typ == vfs.TypeDir {
		keep = unix.CAP_FSETID
	}
	return fs.identity.as(c, keep, func() error { return unix.Chmod(procPath(n.fd), mode) })
}

// setTimes is done by the process: to set one of two times to the present one needs more than write permission in Linux.
func (fs *FS) setTimes(fd int, s *vfs.SetAttr) error {
	spec := func(how vfs.TimeSet, t time.Time) unix.Timespec {
		switch how {
		case vfs.TimeServer:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		case vfs.TimeClient:
			return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
		}
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	ts := []unix.Timespec{spec(s.AtimeSet, s.Atime), spec(s.MtimeSet, s.Mtime)}
	return unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH)
}

func (fs *FS) Open(_ context.Context, c *vfs.Cred, ino vfs.Ino, f vfs.OpenFlags, override bool) (vfs.Attr, error) {
	const op = "open"
	n, err := fs.getFile(ino, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer fs.put(n)
	return fs.open(c, n, f, override, op)
}

func (fs *FS) open(c *vfs.Cred, n *node, f vfs.OpenFlags, override bool, op string) (vfs.Attr, error) {
	fs.nodes.opened(n) // first, so that the file stays
	a, err := fs.attr(n, op)
	if err == nil && !(override && c.UID == a.UID) {
		err = fail(op, fs.identity.as(c, 0, func() error { return access(n.fd, f) }))
	}
	if err == nil && f&vfs.OpenWrite != 0 {
		_, err = n.writer() // what no permission allows: an immutable file, a program that runs, a read-only disk
		err = fail(op, err)
	}
	if err != nil {
		fs.nodes.closed(n)
		return vfs.Attr{}, err
	}
	return a, nil
}

// access asks the kernel for the permission to open.
func access(fd int, f vfs.OpenFlags) error {
	mode := uint32(0)
	if f&vfs.OpenRead != 0 {
		mode |= unix.R_OK
	}
	if f&vfs.OpenWrite != 0 {
		mode |= unix.W_OK
	}
	return unix.Faccessat2(fd, "", mode, unix.AT_EACCESS|unix.AT_EMPTY_PATH)
}

func (fs *FS) Close(_ context.Context, ino vfs.Ino, _ vfs.OpenFlags) error {
	const op = "close"
	n, err := fs.get(ino, op)
	if err != nil {
		return err
	}
	defer fs.put(n)
	if !fs.nodes.closed(n) {
		return vfs.Errorf(vfs.KindInvalid, op, "inode %d is not open", ino)
	}
	return nil
}

// errNoMark is what is found of a file that is not of this volume.
var errNoMark = errors.New("it is not in the volume")
