package localssd

import (
	"bytes"
	"context"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

const (
	direntBytes  = 32 << 10 // of one getdents64
	maxPage      = 1 << 16  // entries of one page
	maxDirCookie = 1<<63 - 1
)

// ReadDir implements vfs.FS. Cookies are the kernel's, which are stable: it has to serve NFS itself. Entries that cannot be used (something is mounted there, or a
// subvolume begins) are left out.
func (fs *FS) ReadDir(_ context.Context, c *vfs.Cred, dir vfs.Ino, cookie uint64, maxEntries int, attrs bool) (vfs.DirPage, error) {
	const op = "readdir"
	d, err := fs.getDir(dir, op)
	if err != nil {
		return vfs.DirPage{}, err
	}
	defer fs.put(d)
	if maxEntries < 1 {
		return vfs.DirPage{}, vfs.Errorf(vfs.KindInvalid, op, "at most %d entries", maxEntries)
	}
	if cookie > maxDirCookie {
		return vfs.DirPage{}, vfs.Errorf(vfs.KindBadCookie, op, "cookie %d", cookie)
	}
	maxEntries = min(maxEntries, maxPage)
	fd := -1
	err = fs.identity.as(c, 0, func() (err error) { // listing needs read permission
		fd, err = unix.Open(procPath(d.fd), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return vfs.DirPage{}, fail(op, err)
	}
	defer unix.Close(fd)
	if cookie != 0 {
		if _, err := unix.Seek(fd, int64(cookie), unix.SEEK_SET); err != nil {
			return vfs.DirPage{}, vfs.Errorf(vfs.KindBadCookie, op, "cookie %d", cookie)
		}
	}
	page := vfs.DirPage{EOF: true}
	buf := make([]byte, min(direntBytes, 512+maxEntries*64))
read:
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINVAL && len(buf) < direntBytes { // one entry does not fit
			buf = make([]byte, direntBytes)
			continue
		}
		if err != nil {
			return vfs.DirPage{}, fail(op, err)
		}
		if n == 0 {
			break
		}
		for rest := buf[:n]; len(rest) > 0; {
			name, next, left := parseDirent(rest)
			rest = left
			if name == "." || name == ".." {
				continue
			}
			if len(page.Entries) == maxEntries {
				page.EOF = false
				break read
			}
			e, err := fs.dirent(fd, name, attrs)
			if notListed(err) {
				continue
			}
			if err != nil {
				return vfs.DirPage{}, err
			}
			e.Cookie = next
			page.Entries = append(page.Entries, e)
		}
	}
	page.Dir, err = fs.attr(d, op)
	return page, err
}

// parseDirent takes the first linux_dirent64 off b: its name and where the listing goes on behind it.
func parseDirent(b []byte) (name string, next uint64, rest []byte) {
	const header = 19 // d_ino, d_off, d_reclen, d_type
	size := int(binary.NativeEndian.Uint16(b[16:]))
	raw := b[header:size]
	if i := bytes.IndexByte(raw, 0); i >= 0 {
		raw = raw[:i]
	}
	return string(raw), binary.NativeEndian.Uint64(b[8:]), b[size:]
}

// notListed reports whether an entry has an error that leaves it out: it is gone, not part of the volume, or cannot be made part of it now. With any other
// one the listing fails, for who copies or removes what is listed takes what is left out for not there.
func notListed(err error) bool {
	switch vfs.KindOf(err) {
	case vfs.KindNotFound, vfs.KindStale, vfs.KindAccess, vfs.KindNotSupported, vfs.KindReadOnly, vfs.KindNoSpace:
		return true
	}
	return false
}

// dirent is the entry of name in the directory fd.
func (fs *FS) dirent(fd int, name string, attrs bool) (vfs.Dirent, error) {
	const op = "readdir"
	ino, err := fs.inoOf(fd, name, op)
	if err != nil {
		return vfs.Dirent{}, err
	}
	a, err := fs.marking(fd, name, ino, op)
	if err != nil {
		return vfs.Dirent{}, err
	}
	e := vfs.Dirent{Name: name, Ino: ino, Type: a.Type}
	if attrs {
		e.Attr = &a
	}
	return e, nil
}

// marking are the attributes of a listed entry, which is marked: its inode number may be used from now on.
func (fs *FS) marking(fd int, name string, ino vfs.Ino, op string) (vfs.Attr, error) {
	if n := fs.nodes.use(ino); n != nil {
		defer fs.put(n)
		return fs.attr(n, op)
	}
	p, err := openat2(fd, name, &named)
	if err != nil {
		return vfs.Attr{}, fail(op, err)
	}
	n, err := fs.found(p, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer fs.put(n)
	if n.ino != ino {
		return vfs.Attr{}, vfs.KindNotFound.Err(op) // another file has the name by now, and is listed next time
	}
	return fs.attr(n, op)
}
