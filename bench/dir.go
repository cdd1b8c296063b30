package bench

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// dirFS is a mounted directory, by system calls.
type dirFS struct {
	root string
	// syncNames: each change of names is followed by an fsync of its directory, so that it promises what rackfs does.
	syncNames bool
}

// NewDir is the target of a directory, which has to exist. syncNames makes each change of names durable by an fsync of the directory.
func NewDir(path string, syncNames bool) (FS, Durability, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, Durability{}, vfs.Wrap("bench.dir", err)
	}
	if !st.IsDir() {
		return nil, Durability{}, vfs.Errorf(vfs.KindNotDir, "bench.dir", "%s is no directory: name the one to measure in", path)
	}
	d, err := dirDurability(path)
	if err != nil {
		return nil, Durability{}, err
	}
	if syncNames && d.Known() && d.Data == Disk {
		d.Names, d.Source = Disk, d.Source+" and fsync of directories"
	}
	return &dirFS{root: path, syncNames: syncNames}, d, nil
}

func (d *dirFS) Root(context.Context) (Dir, error) { return d.root, nil }
func (d *dirFS) Close(context.Context) error       { return nil }

// changed makes changes of names in a directory durable, if that is promised.
func (d *dirFS) changed(dirs ...Dir) error {
	if !d.syncNames {
		return nil
	}
	for i, dir := range dirs {
		if i > 0 && dir == dirs[0] {
			continue
		}
		f, err := os.Open(dir.(string))
		if err != nil {
			return err
		}
		err = f.Sync()
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *dirFS) Mkdir(_ context.Context, dir Dir, name string) (Dir, error) {
	path := filepath.Join(dir.(string), name)
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, err
	}
	return path, d.changed(dir)
}

func (d *dirFS) Enter(_ context.Context, dir Dir, name string) (Dir, error) {
	return filepath.Join(dir.(string), name), nil
}

func (d *dirFS) Create(_ context.Context, dir Dir, name string) error {
	f, err := os.OpenFile(filepath.Join(dir.(string), name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return err
	}
	return d.changed(dir)
}

func entryOf(name string, i fs.FileInfo) Entry {
	return Entry{Name: name, Dir: i.IsDir(), Size: i.Size()}
}

func (d *dirFS) Stat(_ context.Context, dir Dir, name string) (Entry, error) {
	i, err := os.Lstat(filepath.Join(dir.(string), name))
	if err != nil {
		return Entry{}, err
	}
	return entryOf(name, i), nil
}

// listPage is how many entries are read at once: few enough that one system call brings them, and that the attributes of all are asked for before the next
// names, as `ls -l` and find do. By that Linux's NFS client sees that a listing is to bring attributes, and asks for each by itself otherwise.
const listPage = 64

func (d *dirFS) List(_ context.Context, dir Dir, each func(Entry) error) error {
	f, err := os.Open(dir.(string))
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		page, err := f.ReadDir(listPage)
		for _, e := range page {
			i, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was removed meanwhile
			}
			if err != nil {
				return err
			}
			if err := each(entryOf(e.Name(), i)); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *dirFS) Rename(_ context.Context, dir Dir, name string, to Dir, newName string) error {
	if err := os.Rename(filepath.Join(dir.(string), name), filepath.Join(to.(string), newName)); err != nil {
		return err
	}
	return d.changed(dir, to)
}

func (d *dirFS) Remove(_ context.Context, dir Dir, name string) error {
	if err := unix.Unlink(filepath.Join(dir.(string), name)); err != nil {
		return err
	}
	return d.changed(dir)
}

func (d *dirFS) Rmdir(_ context.Context, dir Dir, name string) error {
	if err := unix.Rmdir(filepath.Join(dir.(string), name)); err != nil {
		return err
	}
	return d.changed(dir)
}

func (d *dirFS) Put(ctx context.Context, dir Dir, name string, size int64, buf []byte, durable bool, fill func(p []byte, off int64)) error {
	f, err := os.OpenFile(filepath.Join(dir.(string), name), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	if err := putFile(ctx, &dirFile{f: f}, size, buf, durable, fill); err != nil {
		return err
	}
	return d.changed(dir)
}

func (d *dirFS) Get(ctx context.Context, dir Dir, name string, size int64, buf []byte, each func(p []byte, off int64) error) error {
	f, err := os.Open(filepath.Join(dir.(string), name))
	if err != nil {
		return err
	}
	defer f.Close()
	return getFile(name, size, buf, func(p []byte, _ int64) (int, bool, error) {
		n, err := f.Read(p)
		if err == io.EOF {
			return n, true, nil
		}
		return n, false, err
	}, each)
}

// getFile reads a file to its end; read is called with rising offsets.
func getFile(name string, size int64, buf []byte, read func(p []byte, off int64) (n int, eof bool, err error), each func(p []byte, off int64) error) error {
	var off int64
	for n, eof := 0, false; !eof; { // pieces are whole but the last, as content is checked by pages
		k, end, err := read(buf[n:], off+int64(n))
		if err != nil {
			return err
		}
		n, eof = n+k, end
		if n == len(buf) || eof && n > 0 {
			if off+int64(n) > size {
				return short(name, off+int64(n), size)
			}
			if err := each(buf[:n], off); err != nil {
				return err
			}
			off, n = off+int64(n), 0
		}
	}
	if off != size {
		return short(name, off, size)
	}
	return nil
}

func (d *dirFS) Open(_ context.Context, dir Dir, name string, create bool) (File, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(filepath.Join(dir.(string), name), flags, 0o644)
	if err != nil {
		return nil, err
	}
	if create {
		err = d.changed(dir)
	}
	return &dirFile{f: f}, err
}

// dirFile is a file of a dirFS.
type dirFile struct{ f *os.File }

func (f *dirFile) Write(_ context.Context, p []byte, off int64, durable bool) error {
	if _, err := f.f.WriteAt(p, off); err != nil {
		return err
	}
	if durable {
		return f.f.Sync()
	}
	return nil
}

func (f *dirFile) Read(_ context.Context, p []byte, off int64) error {
	n, err := f.f.ReadAt(p, off)
	if err == io.EOF {
		return short(f.f.Name(), off+int64(n), off+int64(len(p)))
	}
	return err
}

func (f *dirFile) Sync(context.Context) error  { return f.f.Sync() }
func (f *dirFile) Close(context.Context) error { return f.f.Close() }

// Lock takes a lock of the open file: those of POSIX belong to a process, which all workers share.
func (f *dirFile) Lock(_ context.Context, off, n int64) error {
	return f.lock(unix.F_OFD_SETLKW, unix.F_WRLCK, off, n)
}

func (f *dirFile) Unlock(_ context.Context, off, n int64) error {
	return f.lock(unix.F_OFD_SETLK, unix.F_UNLCK, off, n)
}

func (f *dirFile) lock(cmd int, kind int16, off, n int64) error {
	for {
		l := unix.Flock_t{Type: kind, Start: off, Len: n}
		if err := unix.FcntlFlock(f.f.Fd(), cmd, &l); err != unix.EINTR {
			return err
		}
	}
}
