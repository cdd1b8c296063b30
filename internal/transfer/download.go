package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// down is a transfer from a file system.
type down struct {
	*run
	from *remote
	to   *local
	end  *End
	mask uint32 // the umask
}

// Download gets a file, or a directory and all that is in it. The content of a directory becomes that of to, which is made if it is not there; a file becomes to,
// or comes into it if that is a directory or ends with '/'.
func Download(ctx context.Context, from End, to string, recursive bool, o Options) (Summary, error) {
	const op = "download"
	src, err := from.remote()
	if err != nil {
		return Summary{}, err
	}
	f, err := from.stat(ctx, string(src.at), o.Rules)
	if err != nil {
		return Summary{}, err
	}
	if f == nil {
		return Summary{}, vfs.Errorf(vfs.KindNotFound, op, "%s: `rackfs storage ls` shows what there is", src.at.Shown())
	}
	e, err := remoteEntry(f.Name, f)
	if err != nil {
		return Summary{}, err
	}
	if to == "" {
		return Summary{}, vfs.Errorf(vfs.KindInvalid, op, "the name of the place for it is empty; . is this directory")
	}
	fi, err := os.Stat(to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Summary{}, localError(op, to, err)
	}
	if to == "-" || fi != nil && !fi.IsDir() && !fi.Mode().IsRegular() {
		return Summary{}, vfs.Errorf(vfs.KindNotSupported, op, "%s is no file: `rackfs storage cat PATH >%s` writes there (a file named - is ./-)", to, to)
	}
	if e.Type == Dir {
		if !recursive {
			return Summary{}, vfs.Errorf(vfs.KindIsDir, op, "%s: use -r to get a directory with all that is in it", src.at.Shown())
		}
		if fi != nil && !fi.IsDir() {
			return Summary{}, vfs.Errorf(vfs.KindNotDir, op, "%s is a file: name a directory, or a path that is not there", to)
		}
		if fi == nil && o.DryRun {
			d := newDown(src, nil, &from, o)
			d.dst = nil
			return d.tree(ctx, true)
		}
		if fi == nil {
			if err := os.MkdirAll(to, 0o755); err != nil {
				return Summary{}, localError(op, to, err)
			}
		}
		dst, err := openLocal(to)
		if err != nil {
			return Summary{}, err
		}
		defer dst.close()
		return newDown(src, dst, &from, o).whole(func(d *down) (Summary, error) { return d.tree(ctx, fi == nil) })
	}
	_, name := src.at.Split()
	if fi != nil && fi.IsDir() || to[len(to)-1] == '/' {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return Summary{}, localError(op, to, err)
		}
		to = filepath.Join(to, name)
	}
	dst, err := openLocal(filepath.Dir(to))
	if err != nil {
		return Summary{}, err
	}
	defer dst.close()
	here := filepath.Base(to)
	var was *Entry
	if w, err := dst.stat(ctx, here); err == nil {
		was = &w
	} else if vfs.KindOf(err) != vfs.KindNotFound {
		return Summary{}, err
	}
	e.Name = name
	o.Delete = false
	src.at, _ = src.at.Split()
	d := newDown(src, dst, &from, o)
	if here != name {
		d.dst = &renamedHere{dst, here}
		d.send = func(ctx context.Context, p string, s *Step, t *track) error { return d.get(ctx, p, here, s, t) }
	}
	return d.whole(func(d *down) (Summary, error) { return d.single(ctx, step(e, was, o.Rules), name) })
}

func newDown(src *remote, dst *local, end *End, o Options) *down {
	d := &down{from: src, to: dst, end: end, mask: umask()}
	d.run = &run{o: o, src: src, dst: dst, send: func(ctx context.Context, p string, s *Step, t *track) error { return d.get(ctx, p, p, s, t) }}
	return d
}

// whole is a transfer after which all is on the disk.
func (d *down) whole(fn func(*down) (Summary, error)) (Summary, error) {
	sum, err := fn(d)
	if d.o.DryRun {
		return sum, err
	}
	if ferr := d.to.flush(); err == nil {
		err = ferr
	}
	return sum, err
}

// renamedHere is a directory in which one file has another name.
type renamedHere struct {
	*local
	name string
}

func (r *renamedHere) sum(ctx context.Context, _ string, e Entry, off, n int64) ([]byte, error) {
	return r.local.sum(ctx, r.name, e, off, n)
}

func (r *renamedHere) change(ctx context.Context, _ string, e Entry) error {
	return r.local.change(ctx, r.name, e)
}

// get downloads a file to the path here.
func (d *down) get(ctx context.Context, p, here string, s *Step, t *track) error {
	name := d.to.shown(here)
	part := partOf(here)
	f, err := d.lockPart(part)
	if err != nil {
		return err
	}
	defer f.Close()
	at := newPlace(d.end, d.from.path(p), name)
	large := s.Src.Size > smallFile
	off := int64(0)
	if large {
		if off, err = d.usable(ctx, f, p, s, at); err != nil {
			return err
		}
		t.skip(off)
		if err := d.o.Journal.put(at, note{ETag: s.Src.ETag}); err != nil {
			return err
		}
	}
	err = d.content(ctx, f, p, name, off, s, t)
	if vfs.KindOf(err) == vfs.KindChanged { // it may have been before, or only its attributes
		now, serr := d.from.stat(ctx, p)
		if serr == nil && now.Type == File {
			now.Name, s.Src = s.Src.Name, now
			err = d.content(ctx, f, p, name, 0, s, t)
		}
	}
	if err == nil {
		err = d.publish(f, part, here, s)
	}
	if err != nil && (!large || vfs.KindOf(err) == vfs.KindChanged) {
		_ = d.to.root.Remove(part) // nothing of it is of use
	}
	if err == nil || vfs.KindOf(err) == vfs.KindChanged {
		d.o.Journal.drop(at)
	}
	return err
}

// partMode is the mode of parts: what comes may be private there, and gets its mode when it is whole.
const partMode = 0o600

// lockPart opens the part of a file for this process alone.
func (d *down) lockPart(part string) (*os.File, error) {
	const op = "download"
	for {
		f, err := d.to.root.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, partMode)
		made := err == nil
		if errors.Is(err, fs.ErrExist) {
			f, err = d.to.root.OpenFile(part, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, partMode)
		}
		if err != nil {
			return nil, localError(op, d.to.shown(part), err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			return nil, vfs.Errorf(vfs.KindBusy, op, "another process is downloading to %s: wait for it", d.to.shown(part))
		}
		mine, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, localError(op, d.to.shown(part), err)
		}
		if now, err := d.to.root.Lstat(part); err == nil && os.SameFile(mine, now) {
			if err := f.Chmod(partMode); made || err == nil || errors.Is(err, errors.ErrUnsupported) {
				return f, nil
			}
			// It is somebody else's, who could read what comes: another one takes its place.
			if err := d.to.root.Remove(part); err != nil {
				f.Close()
				return nil, localError(op, d.to.shown(part), err)
			}
		}
		f.Close() // or whoever had it has put it to its place
	}
}

// usable is how much of a part is the beginning of the file as it is now.
func (d *down) usable(ctx context.Context, f *os.File, p string, s *Step, at place) (int64, error) {
	n := d.o.Journal.find(at)
	fi, err := f.Stat()
	if err != nil || n == nil || n.ETag != s.Src.ETag {
		return 0, nil
	}
	have := min(fi.Size(), s.Src.Size)
	for off := int64(0); off < have; off += sumRange {
		n := min(sumRange, have-off)
		mine, err := sumOf(ctx, f, d.to.shown(p), off, n)
		if err != nil {
			return 0, err
		}
		theirs, err := d.from.sum(ctx, p, s.Src, off, n)
		if vfs.KindOf(err) == vfs.KindChanged {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		if !bytes.Equal(mine, theirs) {
			return off, nil
		}
	}
	return have, nil
}

// content gets the bytes from off on.
func (d *down) content(ctx context.Context, f *os.File, p, name string, off int64, s *Step, t *track) error {
	err := f.Truncate(off)
	if err == nil {
		_, err = f.Seek(off, io.SeekStart)
	}
	if err != nil {
		return localError("download", name, err)
	}
	out := &sink{f: f, name: name, at: off, t: t}
	return patiently(ctx, func() error {
		if out.at == s.Src.Size && out.at > 0 {
			return nil
		}
		in, err := d.from.tree.Download(ctx, d.from.path(p), uint64(out.at), s.Src.ETag)
		if err != nil {
			return err
		}
		defer in.Close()
		_, err = io.Copy(out, in)
		if out.err != nil {
			return out.err
		}
		if err != nil { // of the connection
			return vfs.Errorf(vfs.KindUnavailable, "download", "%s broke off after %d bytes: %w", d.from.path(p), out.at, err)
		}
		if out.at != s.Src.Size {
			return vfs.Errorf(vfs.KindChanged, "download", "%s: %d bytes came, it had %d: run it again", d.from.path(p), out.at, s.Src.Size)
		}
		return nil
	}, func() int64 { return out.at })
}

// sink writes to a file, and tells its errors from those of the connection.
type sink struct {
	f    *os.File
	name string
	at   int64
	t    *track
	err  error
}

func (s *sink) Write(b []byte) (int, error) {
	n, err := s.f.Write(b)
	s.at += int64(n)
	s.t.add(int64(n))
	if err != nil {
		s.err = localError("write", s.name, err)
	}
	return n, err
}

// publish gives a part its mode, its time and its name.
func (d *down) publish(f *os.File, part, here string, s *Step) error {
	var err error
	switch {
	case d.o.Sync:
		err = f.Chmod(fs.FileMode(s.Src.Mode))
	case s.Dst != nil && s.Dst.Type == File:
		err = f.Chmod(fs.FileMode(s.Dst.Mode))
	default: // that of any new file
		if err = f.Chmod(fs.FileMode(0o666 &^ d.mask)); errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
			err = nil // this file system has no modes, such as FAT
		}
	}
	if err == nil && d.o.Sync {
		err = d.to.root.Chtimes(part, s.Src.Mtime, s.Src.Mtime)
	}
	if err == nil {
		err = d.to.root.Rename(part, here)
	}
	return localError("download", d.to.shown(here), err)
}
