package files

import (
	"context"
	"io"

	"github.com/rackfs/rackfs/vfs"
)

// pieceBytes is how much is read or written at once.
const pieceBytes = 1 << 20

// File is a regular file that is open for reading.
type File struct {
	t    *Tree
	Node *Node
}

// Open opens a regular file for reading; Close ends it.
func (t *Tree) Open(ctx context.Context, p Path) (*File, error) {
	const op = "read"
	n, err := t.Walk(ctx, p, op)
	if err != nil {
		return nil, err
	}
	return t.open(ctx, n, op)
}

func (t *Tree) open(ctx context.Context, n *Node, op string) (*File, error) {
	switch n.Attr.Type {
	case vfs.TypeFile:
	case vfs.TypeDir:
		return nil, vfs.Errorf(vfs.KindIsDir, op, "%s: a directory is downloaded as an archive", n.Path.Shown())
	case vfs.TypeSymlink:
		return nil, vfs.Errorf(vfs.KindWrongType, op, "%s is a symbolic link, and those are not followed here: use the path that it leads to", n.Path.Shown())
	default:
		return nil, vfs.Errorf(vfs.KindWrongType, op, "%s is a %v", n.Path.Shown(), n.Attr.Type)
	}
	attr, err := t.FS.Open(ctx, &t.Cred, n.Attr.Ino, vfs.OpenRead, false)
	if err != nil {
		return nil, about(err, op, n.Path)
	}
	n.Attr = attr
	return &File{t: t, Node: n}, nil
}

// Close ends it.
func (f *File) Close() {
	_ = f.t.FS.Close(context.Background(), f.Node.Attr.Ino, vfs.OpenRead) // of an open for reading nothing can be lost
}

// piece is what was read ahead.
type piece struct {
	b   []byte
	err error
}

// Copy sends n bytes from off to w; the next piece is read while one is sent. Before the last piece it looks whether the file is still what it was when
// it was opened, so that nobody takes a mixture for the file: KindChanged.
func (f *File) Copy(ctx context.Context, w io.Writer, off, n uint64) error {
	const op = "read"
	ctx, cancel := context.WithCancel(ctx)
	pieces, free := make(chan piece), make(chan []byte, 2)
	for range cap(free) {
		free <- make([]byte, min(pieceBytes, n))
	}
	done := make(chan struct{})
	defer func() {
		cancel()
		<-done
	}()
	go func() {
		defer close(done)
		for left := n; left > 0; {
			var b []byte
			select {
			case b = <-free:
			case <-ctx.Done():
				return
			}
			b = b[:min(uint64(cap(b)), left)]
			got, _, err := f.t.FS.Read(ctx, f.Node.Attr.Ino, off, b)
			if err == nil && got < len(b) {
				err = vfs.Errorf(vfs.KindChanged, op, "%s became shorter while it was read", f.Node.Path.Shown())
			}
			off, left = off+uint64(got), left-uint64(got)
			select {
			case pieces <- piece{b[:got], err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for left := n; left > 0; {
		var p piece
		select {
		case p = <-pieces:
		case <-ctx.Done():
			return vfs.Wrap(op, context.Cause(ctx))
		}
		if p.err != nil {
			return about(p.err, op, f.Node.Path)
		}
		if left -= uint64(len(p.b)); left == 0 {
			if err := f.Unchanged(ctx); err != nil {
				return err
			}
		}
		if _, err := w.Write(p.b); err != nil {
			return vfs.Errorf(vfs.KindCanceled, op, "whoever reads %s went away: %w", f.Node.Path.Shown(), err)
		}
		free <- p.b[:cap(p.b)]
	}
	return nil
}

// Unchanged refuses a file that is another one than when it was opened.
func (f *File) Unchanged(ctx context.Context) error {
	a, err := f.t.FS.GetAttr(ctx, f.Node.Attr.Ino)
	if err != nil {
		return about(err, "read", f.Node.Path)
	}
	if a.Change != f.Node.Attr.Change && (a.Size != f.Node.Attr.Size || !a.Mtime.Equal(f.Node.Attr.Mtime)) {
		return vfs.Errorf(vfs.KindChanged, "read", "%s was changed while it was read: read it again", f.Node.Path.Shown())
	}
	return nil
}
