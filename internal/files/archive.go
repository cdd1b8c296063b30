package files

import (
	"archive/tar"
	"archive/zip"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"io"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxDepth bounds the directories above a file in an archive or in a recursive removal.
	maxDepth = 1000
	// listEntries is how many entries of a directory are asked for at once.
	listEntries = 1000
)

// Archive formats.
const (
	TarGz = "tar.gz"
	Zip   = "zip"
)

// Archive writes a directory and all that is in it to w. Symbolic links are written as such, hard links as files of their own; sockets, pipes and devices are only in
// a tar. A file that changes while it is read ends the archive with KindChanged.
func (t *Tree) Archive(ctx context.Context, w io.Writer, p Path, format string) error {
	const op = "archive"
	n, err := t.dir(ctx, p, op)
	if err != nil {
		return err
	}
	top := n.Name
	if top == "" {
		top = "files"
	}
	switch format {
	case TarGz:
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			return err
		}
		a := tar.NewWriter(z)
		if err := t.each(ctx, n, top, 0, op, func(n *Node, name string) error { return t.tarOne(ctx, a, n, name) }); err != nil {
			return err
		}
		return errors.Join(a.Close(), z.Close())
	case Zip:
		a := zip.NewWriter(w)
		a.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed) })
		if err := t.each(ctx, n, top, 0, op, func(n *Node, name string) error { return t.zipOne(ctx, a, n, name) }); err != nil {
			return err
		}
		return a.Close()
	}
	return vfs.Errorf(vfs.KindInvalid, op, "format %q: use %s or %s", format, TarGz, Zip)
}

// each calls do for n and all below it, directories first.
func (t *Tree) each(ctx context.Context, n *Node, name string, depth int, op string, do func(*Node, string) error) error {
	if depth > maxDepth {
		return vfs.Errorf(vfs.KindTooMany, op, "%s: more than %d directories deep", n.Path.Shown(), maxDepth)
	}
	if err := do(n, name); err != nil || !n.Attr.IsDir() {
		return err
	}
	for cookie := uint64(0); ; {
		page, err := t.FS.ReadDir(ctx, &t.Cred, n.Attr.Ino, cookie, listEntries, true)
		if err != nil {
			return about(err, op, n.Path)
		}
		for _, e := range page.Entries {
			cookie = e.Cookie
			if e.Attr == nil {
				continue // it went away
			}
			c := &Node{Path: n.Path.Join(e.Name), Name: e.Name, Dir: n.Attr.Ino, Attr: *e.Attr}
			if err := t.each(ctx, c, name+"/"+e.Name, depth+1, op, do); err != nil {
				return err
			}
		}
		if page.EOF || len(page.Entries) == 0 {
			return nil
		}
	}
}

func (t *Tree) tarOne(ctx context.Context, w *tar.Writer, n *Node, name string) error {
	h := &tar.Header{Name: name, Mode: int64(n.Attr.Mode), Uid: int(n.Attr.UID), Gid: int(n.Attr.GID), ModTime: n.Attr.Mtime, Format: tar.FormatPAX}
	switch n.Attr.Type {
	case vfs.TypeDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case vfs.TypeSymlink:
		target, err := t.FS.ReadLink(ctx, n.Attr.Ino)
		if err != nil {
			return about(err, "archive", n.Path)
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case vfs.TypeFIFO:
		h.Typeflag = tar.TypeFifo
	case vfs.TypeChar, vfs.TypeBlock:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(n.Attr.Dev.Major), int64(n.Attr.Dev.Minor)
		if n.Attr.Type == vfs.TypeBlock {
			h.Typeflag = tar.TypeBlock
		}
	case vfs.TypeFile:
		f, err := t.open(ctx, n, "archive")
		if vfs.KindOf(err) == vfs.KindStale {
			return nil // it went away
		}
		if err != nil {
			return err
		}
		defer f.Close()
		h.Typeflag, h.Size = tar.TypeReg, int64(f.Node.Attr.Size)
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		return f.Copy(ctx, w, 0, f.Node.Attr.Size)
	default:
		return nil // a socket is nothing without who listens
	}
	return w.WriteHeader(h)
}

func (t *Tree) zipOne(ctx context.Context, w *zip.Writer, n *Node, name string) error {
	h := &zip.FileHeader{Name: name, Method: zip.Store, Modified: n.Attr.Mtime.UTC()}
	const unixDir, unixFile, unixLink = 0o040000, 0o100000, 0o120000
	kind := uint32(unixFile)
	var body []byte
	var f *File
	switch n.Attr.Type {
	case vfs.TypeDir:
		h.Name, kind = name+"/", unixDir
	case vfs.TypeSymlink:
		target, err := t.FS.ReadLink(ctx, n.Attr.Ino)
		if err != nil {
			return about(err, "archive", n.Path)
		}
		body, kind = []byte(target), unixLink
	case vfs.TypeFile:
		var err error
		if f, err = t.open(ctx, n, "archive"); vfs.KindOf(err) == vfs.KindStale {
			return nil // it went away
		}
		if err != nil {
			return err
		}
		defer f.Close()
		h.Method = zip.Deflate
	default:
		return nil
	}
	const byUnix = 3 // who made it, for the mode to be taken as Unix has it
	h.CreatorVersion, h.ExternalAttrs = byUnix<<8, (kind|n.Attr.Mode)<<16
	out, err := w.CreateHeader(h)
	if err != nil {
		return err
	}
	if f != nil {
		return f.Copy(ctx, out, 0, f.Node.Attr.Size)
	}
	_, err = out.Write(body)
	return err
}
