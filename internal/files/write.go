package files

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// undoTimeout bounds the removal of what a failed upload has left; what it does not manage Collect finds.
	undoTimeout = 10 * time.Second

	defaultMode = 0o644
)

// Put says what a file is to be.
type Put struct {
	Path    Path
	Length  int64  // bytes that are to come; -1: as many as there are
	Digest  []byte // SHA-256 that they must have; nil: any
	Parents bool   // directories that are missing are made
	Keep    bool   // KindExists if there is something at Path
	Mode    *uint32
	Mtime   time.Time // zero: now
	Origin  uint64    // the gateway's at the file system's shard
}

// Write makes a file of all that r has. It appears at its path when it is whole and durable, or not at all.
func (t *Tree) Write(ctx context.Context, r io.Reader, p Put) (*Node, error) {
	const op = "upload"
	if p.Length >= 0 && uint64(p.Length) > vfs.MaxSize {
		return nil, vfs.Errorf(vfs.KindTooBig, op, "%s: %d bytes", p.Path.Shown(), p.Length)
	}
	d, err := t.place(ctx, p.Path, p.Parents, p.Keep, op)
	if err != nil {
		return nil, err
	}
	var random [16]byte
	rand.Read(random[:])
	s, err := t.stageFile(ctx, d, fmt.Sprintf("p-%x-%x", p.Origin, random), op)
	if err != nil {
		return nil, about(err, op, p.Path)
	}
	defer s.close()
	var h hash.Hash
	if p.Digest != nil {
		h = sha256.New()
	}
	n, err := s.fill(ctx, r, 0, p.Length, h)
	switch {
	case err != nil:
	case p.Length >= 0 && n != uint64(p.Length):
		err = vfs.Errorf(vfs.KindInvalid, op, "%s: %d bytes came, %d were announced: send it again", p.Path.Shown(), n, p.Length)
	case p.Digest != nil && !bytes.Equal(p.Digest, h.Sum(nil)):
		err = vfs.Errorf(vfs.KindInvalid, op, "%s: its SHA-256 is %x, announced was %x: it was damaged on the way, send it again", p.Path.Shown(), h.Sum(nil), p.Digest)
	}
	if err != nil {
		s.drop()
		return nil, about(err, op, p.Path)
	}
	node, err := s.publish(ctx, p)
	if err != nil {
		s.drop()
	}
	return node, err
}

// place is the directory that a new file comes into, with keep not in the place of another one.
func (t *Tree) place(ctx context.Context, p Path, parents, keep bool, op string) (*Node, error) {
	up, name := p.Split()
	if name == "" {
		return nil, vfs.Errorf(vfs.KindIsDir, op, "/")
	}
	d, err := t.dir(ctx, up, op)
	if parents && vfs.KindOf(err) == vfs.KindNotFound {
		d, err = t.Mkdir(ctx, up, true, 0o755)
	}
	if err != nil {
		return nil, err
	}
	old, err := t.FS.Lookup(ctx, &t.Cred, d.Attr.Ino, name)
	switch {
	case vfs.KindOf(err) == vfs.KindNotFound:
		// Whether the name may be made is found out now, not after a gigabyte.
		return d, about(d.Attr.CheckAccess(&t.Cred, vfs.AccessWrite|vfs.AccessExec, op), op, p)
	case err != nil:
		return nil, about(err, op, p)
	case old.IsDir():
		return nil, vfs.Errorf(vfs.KindIsDir, op, "%s", p.Shown())
	case keep: // at the end it is asked again; now, before a gigabyte has come, it costs nothing
		return nil, vfs.Errorf(vfs.KindExists, op, "%s", p.Shown())
	}
	return d, about(d.Attr.CheckAccess(&t.Cred, vfs.AccessWrite|vfs.AccessExec, op), op, p)
}

// staged is a file in a hidden directory, open for writing.
type staged struct {
	t    *Tree
	dir  vfs.Ino
	name string
	ino  vfs.Ino
	open bool
	verf *vfs.Verifier // of what was written and is not durable yet
}

// staging is the hidden directory of a project.
func (t *Tree) staging(ctx context.Context, project uint32, op string) (vfs.Ino, error) {
	ino := vfs.StagingIno(project)
	_, err := t.FS.GetAttr(ctx, ino)
	if vfs.KindOf(err) != vfs.KindStale {
		return ino, err
	}
	s, ok := t.FS.(vfs.Stager)
	if !ok {
		return 0, vfs.Errorf(vfs.KindNotSupported, op, "this file system has no place for what is not complete yet")
	}
	return ino, s.Stage(ctx, project)
}

// stageFile makes a file for what is to come into directory d.
func (t *Tree) stageFile(ctx context.Context, d *Node, name, op string) (*staged, error) {
	dir, err := t.staging(ctx, d.Attr.Project, op)
	if err != nil {
		return nil, err
	}
	mode := uint32(defaultMode)
	r, err := t.FS.Create(ctx, &t.Cred, dir, name, vfs.CreateArgs{Exclusive: vfs.Guarded, Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenWrite})
	if err != nil {
		return nil, err
	}
	return &staged{t: t, dir: dir, name: name, ino: r.Attr.Ino, open: true}, nil
}

// close ends the open.
func (s *staged) close() {
	if s.open {
		s.open = false
		_ = s.t.FS.Close(context.Background(), s.ino, vfs.OpenWrite) // what is durable was found out by commit
	}
}

// drop removes the file.
func (s *staged) drop() {
	s.close()
	ctx, cancel := context.WithTimeout(context.Background(), undoTimeout)
	defer cancel()
	_, _ = s.t.FS.Remove(ctx, &s.t.Cred, s.dir, s.name, vfs.RemoveFile)
}

// fill writes what r has from off on, at most limit bytes if limit is not negative, feeds h with it, and makes it durable. It returns how many bytes came; with
// an error what came before it was written, and may not be durable.
func (s *staged) fill(ctx context.Context, r io.Reader, off uint64, limit int64, h hash.Hash) (n uint64, err error) {
	const op = "upload"
	buf := make([]byte, pieceBytes)
	for err == nil {
		b := buf
		if limit >= 0 {
			b = buf[:min(uint64(len(buf)), uint64(limit)-n+1)] // one more, to see that there is none
		}
		var got int
		got, err = readFull(r, b)
		if limit >= 0 && n+uint64(got) > uint64(limit) {
			return n, vfs.Errorf(vfs.KindInvalid, op, "more came than the %d bytes that were announced: send it again", limit)
		}
		if got > 0 {
			if h != nil {
				h.Write(b[:got])
			}
			if err := s.write(ctx, off+n, b[:got]); err != nil {
				return n, err
			}
			n += uint64(got)
		}
	}
	if !errors.Is(err, io.EOF) {
		return n, vfs.Errorf(vfs.KindCanceled, op, "the sender went away after %d bytes: %w", n, err)
	}
	return n, s.commit(ctx)
}

// readFull fills b; less only with the error of the reader, io.EOF at its proper end.
func readFull(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	if n == len(b) {
		err = nil
	}
	return n, err
}

func (s *staged) write(ctx context.Context, off uint64, b []byte) error {
	_, v, err := s.t.FS.Write(ctx, &s.t.Cred, s.ino, off, b, vfs.Unstable)
	if err != nil {
		return err
	}
	if s.verf != nil && *s.verf != v {
		return lost()
	}
	s.verf = &v
	return nil
}

func lost() error {
	return vfs.Errorf(vfs.KindUnavailable, "upload", "the gateway lost what it had buffered: send it again")
}

// commit makes all that was written durable.
func (s *staged) commit(ctx context.Context) error {
	v, err := s.t.FS.Commit(ctx, s.ino, 0, 0)
	if err != nil {
		return err
	}
	if s.verf != nil && *s.verf != v {
		return lost()
	}
	s.verf = nil
	return nil
}

// publish gives the file its attributes, and its name.
func (s *staged) publish(ctx context.Context, p Put) (*Node, error) {
	const op = "upload"
	t := s.t
	d, err := t.place(ctx, p.Path, p.Parents, false, op) // it may have gone elsewhere
	if err != nil {
		return nil, err
	}
	_, name := p.Path.Split()
	c := Change{Mode: p.Mode, Mtime: p.Mtime}
	if old, err := t.FS.Lookup(ctx, &t.Cred, d.Attr.Ino, name); err == nil && old.Type == vfs.TypeFile && !p.Keep {
		// A file that is replaced keeps whose it is and who may use it.
		if c.Mode == nil {
			c.Mode = &old.Mode
		}
		if t.Cred.IsRoot() {
			c.UID, c.GID = &old.UID, &old.GID
		}
	}
	before, err := t.FS.GetAttr(ctx, s.ino)
	if err != nil {
		return nil, about(err, op, p.Path)
	}
	// What it has already costs no command.
	if c.UID != nil && *c.UID == before.UID && *c.GID == before.GID {
		c.UID, c.GID = nil, nil
	}
	if c.Mode != nil && *c.Mode == before.Mode && c.UID == nil {
		c.Mode = nil
	}
	for _, set := range []vfs.SetAttr{{UID: c.UID, GID: c.GID}, (&Change{Mode: c.Mode, Mtime: c.Mtime}).set()} {
		if set.Empty() {
			continue
		}
		if before, err = t.FS.SetAttr(ctx, &t.Cred, s.ino, set, true); err != nil {
			return nil, about(err, op, p.Path)
		}
	}
	s.close()
	if p.Keep {
		_, _, err := t.FS.Link(ctx, &t.Cred, s.ino, d.Attr.Ino, name)
		if vfs.KindOf(err) == vfs.KindExists {
			// Perhaps it is this very file, of a gateway that ended before it noted that.
			if a, lerr := t.FS.Lookup(ctx, &t.Cred, d.Attr.Ino, name); lerr == nil && a.Ino == s.ino {
				err = nil
			}
		}
		if err != nil {
			return nil, about(err, op, p.Path)
		}
		s.drop() // its hidden name only
	} else if _, _, err := t.FS.Rename(ctx, &t.Cred, s.dir, s.name, d.Attr.Ino, name); err != nil {
		return nil, about(err, op, p.Path)
	}
	attr, err := t.FS.GetAttr(ctx, s.ino)
	if vfs.KindOf(err) == vfs.KindStale {
		attr, err = before, nil // it was there, and was replaced by somebody else already
	}
	if err != nil {
		return nil, about(err, op, p.Path)
	}
	return &Node{Path: p.Path, Name: name, Dir: d.Attr.Ino, Attr: attr}, nil
}

// uploadName is the hidden name of an upload in pieces.
func uploadName(id []byte) string { return "u-" + hex.EncodeToString(id) }
