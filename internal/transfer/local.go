package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// local is a directory of this machine. Paths are relative to it; nothing leads out of it.
type local struct {
	root *os.Root
	at   string // as it was named
}

// localError says which file an error is about, and what kind it is.
func localError(op, name string, err error) error {
	var own *vfs.Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	var errno unix.Errno
	kind := vfs.KindIO
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind = vfs.KindNotFound
	case errors.Is(err, fs.ErrPermission):
		kind = vfs.KindAccess
	case errors.Is(err, fs.ErrExist):
		kind = vfs.KindExists
	case errors.As(err, &errno) && errno == unix.ENOSPC:
		kind = vfs.KindNoSpace
	case errors.As(err, &errno) && errno == unix.EDQUOT:
		kind = vfs.KindQuota
	case errors.As(err, &errno) && errno == unix.EISDIR:
		kind = vfs.KindIsDir
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	var le *os.LinkError
	if errors.As(err, &le) {
		err = le.Err
	}
	out := &vfs.Error{Kind: kind, Op: op, Text: name + " (on this machine)"}
	if err.Error() != kind.String() {
		out.Err = err
	}
	return out
}

// partPrefix begins the names of what is being downloaded.
const partPrefix = ".rackfs-part-"

// isPart reports whether a name is that of a file that is being downloaded. Those are in no listing.
func isPart(name string) bool { return strings.HasPrefix(name, partPrefix) }

// partOf is the name of the part of a file: it has room for any name.
func partOf(p string) string {
	dir, name := path.Split(p)
	sum := sha256.Sum256([]byte(name))
	return dir + fmt.Sprintf("%s%x", partPrefix, sum[:12])
}

// umask is what new files of this process are not permitted. To ask the kernel for it is to change it, for all threads; /proc only shows it.
func umask() uint32 {
	const private = 0o077 // where it cannot be seen
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return private
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(v), 8, 32); err == nil {
				return uint32(n) & 0o777
			}
		}
	}
	return private
}

func openLocal(dir string) (*local, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, localError("open", dir, err)
	}
	return &local{root: r, at: dir}, nil
}

func (l *local) close() { l.root.Close() }

// here is a path as an os.Root has it.
func here(p string) string {
	if p == "" {
		return "."
	}
	return p
}

func (l *local) shown(p string) string { return path.Join(l.at, p) }

func localEntry(fi fs.FileInfo) Entry {
	e := Entry{Name: fi.Name(), Size: fi.Size(), Mode: uint32(fi.Mode().Perm()), Mtime: fi.ModTime()}
	switch fi.Mode().Type() {
	case 0:
		e.Type = File
	case fs.ModeDir:
		e.Type = Dir
	case fs.ModeSymlink:
		e.Type = Link
	default:
		e.Type = Other
	}
	return e
}

func (l *local) stat(_ context.Context, p string) (Entry, error) {
	fi, err := l.root.Lstat(here(p))
	if err != nil {
		return Entry{}, localError("stat", l.shown(p), err)
	}
	return localEntry(fi), nil
}

func (l *local) list(_ context.Context, dir string) (out []Entry, err error) {
	const op, names = "list", 1024 // at once
	sub, err := l.root.OpenRoot(here(dir))
	if err != nil {
		return nil, localError(op, l.shown(dir), err)
	}
	defer sub.Close()
	f, err := sub.Open(".")
	if err != nil {
		return nil, localError(op, l.shown(dir), err)
	}
	defer f.Close()
	for {
		page, err := f.Readdirnames(names)
		for _, name := range page {
			if isPart(name) {
				continue
			}
			fi, err := sub.Lstat(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it went away
			}
			if err != nil {
				return nil, localError(op, l.shown(path.Join(dir, name)), err)
			}
			e := localEntry(fi)
			e.Name = name
			out = append(out, e)
		}
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return nil, localError(op, l.shown(dir), err)
		}
	}
}

func (l *local) sum(ctx context.Context, p string, _ Entry, off, n int64) ([]byte, error) {
	f, err := l.open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return sumOf(ctx, f, l.shown(p), off, n)
}

// sumOf is the SHA-256 of n bytes of f.
func sumOf(ctx context.Context, f *os.File, name string, off, n int64) ([]byte, error) {
	h := sha256.New()
	got, err := io.Copy(h, &upTo{ctx: ctx, r: io.NewSectionReader(f, off, n)})
	if err == nil && got < n {
		err = vfs.Errorf(vfs.KindChanged, "read", "%s became shorter while it was read: run it again", name)
	}
	if err != nil {
		return nil, localError("read", name, err)
	}
	return h.Sum(nil), nil
}

// upTo reads until its context ends.
type upTo struct {
	ctx context.Context
	r   io.Reader
}

func (u *upTo) Read(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, vfs.Wrap("read", context.Cause(u.ctx))
	}
	return u.r.Read(b)
}

// open opens a regular file; one that turned into something else meanwhile is no reason to wait for whom opens the other end of a pipe.
func (l *local) open(p string) (*os.File, error) {
	f, err := l.root.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, localError("read", l.shown(p), err)
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		if err == nil {
			err = vfs.Errorf(vfs.KindChanged, "read", "%s is no file any more: run it again", l.shown(p))
		}
		return nil, localError("read", l.shown(p), err)
	}
	return f, nil
}

func (l *local) mkdir(_ context.Context, p string, mode uint32) error {
	err := l.root.Mkdir(p, fs.FileMode(mode)&fs.ModePerm|0o700) // its owner has to get in
	if errors.Is(err, fs.ErrExist) {
		if fi, serr := l.root.Lstat(p); serr == nil && fi.IsDir() {
			return nil
		}
	}
	return localError("mkdir", l.shown(p), err)
}

func (l *local) change(_ context.Context, p string, e Entry) error {
	if err := l.root.Chmod(p, fs.FileMode(e.Mode)); err != nil {
		return localError("chmod", l.shown(p), err)
	}
	if e.Type == Dir {
		return nil
	}
	return localError("set the time of", l.shown(p), l.root.Chtimes(p, e.Mtime, e.Mtime))
}

func (l *local) remove(_ context.Context, p string, dir bool) error {
	if dir {
		return localError("remove", l.shown(p), l.root.RemoveAll(p))
	}
	err := l.root.Remove(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return localError("remove", l.shown(p), err)
}

// flush makes all that was written durable.
func (l *local) flush() error {
	f, err := l.root.Open(".")
	if err != nil {
		return localError("sync", l.at, err)
	}
	defer f.Close()
	return localError("sync", l.at, unix.Syncfs(int(f.Fd())))
}
