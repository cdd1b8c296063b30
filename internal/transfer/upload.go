package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// smallFile is what is read whole and sent by one request.
	smallFile = 8 << 20
	// pieceBytes is how much of a large file is sent by one request: as much as the server makes durable at once.
	pieceBytes = 64 << 20
)

// End is a path in a file system.
type End struct {
	Client     *api.Client
	Tree       *api.Tree
	FileSystem string // WORKSPACE/NAME, for the journal
	Path       string
}

func (e *End) remote() (*remote, error) {
	p, err := files.ParsePath(e.Path)
	if err != nil {
		return nil, err
	}
	return &remote{e.Client, e.Tree, p}, nil
}

// stat looks at a path; nil: there is nothing. A transfer of Sync's kind has to be allowed, too.
func (e *End) stat(ctx context.Context, p string, r Rules) (*api.FileInfo, error) {
	stat := e.Tree.Stat
	if r.Sync {
		stat = e.Tree.StatToSync
	}
	f, err := stat(ctx, p)
	if vfs.KindOf(err) == vfs.KindNotFound {
		return nil, nil
	}
	return &f, err
}

// up is a transfer to a file system.
type up struct {
	*run
	from *local
	to   *remote
	end  *End
}

// Upload sends a file, or a directory and all that is in it. The content of a directory becomes that of to, which is made if it is not there; a file becomes to,
// or comes into it if that is a directory or ends with '/'.
func Upload(ctx context.Context, from string, to End, recursive bool, o Options) (Summary, error) {
	const op = "upload"
	if from == "" {
		return Summary{}, vfs.Errorf(vfs.KindInvalid, op, "the name of what is to be sent is empty; . is this directory")
	}
	name := filepath.Base(from)
	from, err := filepath.EvalSymlinks(from)
	if err != nil {
		return Summary{}, localError(op, name, err)
	}
	fi, err := os.Stat(from)
	if err != nil {
		return Summary{}, localError(op, from, err)
	}
	dst, err := to.remote()
	if err != nil {
		return Summary{}, err
	}
	there, err := to.stat(ctx, string(dst.at), o.Rules)
	if err != nil {
		return Summary{}, err
	}
	if fi.IsDir() {
		if !recursive {
			return Summary{}, vfs.Errorf(vfs.KindIsDir, op, "%s: use -r to send a directory with all that is in it", from)
		}
		if there != nil && there.Type != "directory" {
			return Summary{}, vfs.Errorf(vfs.KindNotDir, op, "%s is a %s: name a directory, or a path that is not there", dst.at.Shown(), there.Type)
		}
		src, err := openLocal(from)
		if err != nil {
			return Summary{}, err
		}
		defer src.close()
		u := newUp(src, dst, &to, o)
		if there == nil && !o.DryRun {
			if err := dst.mkdir(ctx, "", uint32(fi.Mode().Perm())); err != nil {
				return Summary{}, err
			}
		}
		return u.tree(ctx, there == nil)
	}
	if !fi.Mode().IsRegular() {
		return Summary{}, vfs.Errorf(vfs.KindNotSupported, op, "%s is a device, pipe or socket: `rackfs storage upload - PATH` sends what is piped into it", from)
	}
	if intoDir := there != nil && there.Type == "directory"; intoDir || to.Path[len(to.Path)-1] == '/' {
		dst.at = dst.at.Join(name)
		if there, err = to.stat(ctx, string(dst.at), Rules{}); err != nil {
			return Summary{}, err
		}
	}
	src, err := openLocal(filepath.Dir(from))
	if err != nil {
		return Summary{}, err
	}
	defer src.close()
	e := localEntry(fi)
	dst.at, name = dst.at.Split()
	u := newUp(src, dst, &to, o)
	u.alias(filepath.Base(from), name)
	var d *Entry
	if there != nil {
		was, err := remoteEntry(name, there)
		if err != nil {
			return Summary{}, err
		}
		d = &was
	}
	e.Name = name
	o.Delete = false
	return u.single(ctx, step(e, d, o.Rules), name)
}

func newUp(src *local, dst *remote, end *End, o Options) *up {
	u := &up{from: src, to: dst, end: end}
	u.run = &run{o: o, src: src, dst: dst, send: u.file}
	return u
}

// alias is for the transfer of one file that has another name here than there.
func (u *up) alias(here, there string) {
	if here != there {
		u.src = &renamed{u.from, here}
		u.send = func(ctx context.Context, p string, s *Step, t *track) error { return u.sendAs(ctx, here, p, s, t) }
	}
}

// renamed is a directory in which one file has another name.
type renamed struct {
	*local
	name string
}

func (r *renamed) sum(ctx context.Context, _ string, e Entry, off, n int64) ([]byte, error) {
	return r.local.sum(ctx, r.name, e, off, n)
}

func (u *up) file(ctx context.Context, p string, s *Step, t *track) error {
	return u.sendAs(ctx, p, p, s, t)
}

func (u *up) sendAs(ctx context.Context, here, p string, s *Step, t *track) error {
	f, err := u.from.open(here)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return localError("read", u.from.shown(here), err)
	}
	e := localEntry(fi) // as it is now
	put := api.Put{Length: e.Size, Parents: true, Sync: u.o.Sync}
	if u.o.Sync {
		put.Mode, put.Mtime = octal(e.Mode), e.Mtime
	} else if s.Dst == nil && e.Mode&0o111 != 0 {
		put.Mode = octal(e.Mode)
	}
	in := &source{f: f, name: u.from.shown(here), was: e}
	if e.Size <= smallFile {
		return u.small(ctx, p, in, put, t)
	}
	return u.large(ctx, p, in, put, t)
}

// source is a file that must not change while it is read.
type source struct {
	f    *os.File
	name string
	was  Entry
}

// unchanged refuses a file that is not what it was.
func (s *source) unchanged() error {
	fi, err := s.f.Stat()
	if err != nil {
		return localError("read", s.name, err)
	}
	if fi.Size() != s.was.Size || !fi.ModTime().Equal(s.was.Mtime) {
		return vfs.Errorf(vfs.KindChanged, "read", "%s was changed while it was read: run it again", s.name)
	}
	return nil
}

func (u *up) small(ctx context.Context, p string, in *source, put api.Put, t *track) error {
	b := make([]byte, in.was.Size)
	if _, err := io.ReadFull(in.f, b); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return vfs.Errorf(vfs.KindChanged, "read", "%s became shorter while it was read: run it again", in.name)
	} else if err != nil {
		return localError("read", in.name, err)
	}
	if err := in.unchanged(); err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	put.Digest = sum[:]
	err := patiently(ctx, func() error {
		_, err := u.to.tree.Upload(ctx, u.to.path(p), bytes.NewReader(b), put)
		return err
	}, nil)
	if err == nil {
		t.add(int64(len(b)))
	}
	return err
}

func (u *up) large(ctx context.Context, p string, in *source, put api.Put, t *track) error {
	at := newPlace(u.end, u.to.path(p), in.name)
	at.Size, at.Mtime = in.was.Size, in.was.Mtime
	var upload *api.Upload
	if n := u.o.Journal.find(at); n != nil && n.Upload != "" {
		err := patiently(ctx, func() (err error) {
			upload, err = u.to.tree.ResumeUpload(ctx, n.Upload)
			return err
		}, nil)
		switch k := vfs.KindOf(err); {
		case err == nil && upload.Length == uint64(in.was.Size):
			t.skip(int64(upload.Offset))
		case err == nil || k == vfs.KindNotFound || k == vfs.KindStale || k == vfs.KindInvalid:
			upload = nil
		default:
			return err
		}
	}
	if upload == nil {
		err := patiently(ctx, func() (err error) {
			upload, err = u.to.tree.BeginUpload(ctx, u.to.path(p), put)
			return err
		}, nil)
		if err != nil {
			return err
		}
		if err := u.o.Journal.put(at, note{Upload: upload.Address}); err != nil {
			return err
		}
	}
	err := u.pieces(ctx, in, upload, t)
	switch k := vfs.KindOf(err); {
	case err == nil:
		u.o.Journal.drop(at)
	case k == vfs.KindNotFound || k == vfs.KindStale || k == vfs.KindInvalid || k == vfs.KindChanged || k == vfs.KindQuota || k == vfs.KindNoSpace:
		// It cannot be continued, or takes the space that is missing. What is left of it there ends with its time, if this cannot be said.
		u.o.Journal.drop(at)
		_ = upload.Discard(context.WithoutCancel(ctx))
	}
	return err
}

// pieces sends the rest of a file. If nothing is left it sends that: gateways of older releases say that all has come before the file is at its path, and put it there when they
// are sent another piece.
func (u *up) pieces(ctx context.Context, in *source, upload *api.Upload, t *track) error {
	sent := int64(upload.Offset)
	again, read := false, int64(0) // of the request that failed
	return patiently(ctx, func() error {
		if again { // how much of what was sent has come
			now, err := u.to.tree.ResumeUpload(ctx, upload.Address)
			if err != nil {
				return err
			}
			if more := int64(now.Offset) - int64(upload.Offset) - read; more > 0 { // from a connection of before, which had not ended
				t.skip(more)
			}
			*upload, sent = *now, int64(now.Offset)
		}
		again = true
		for whole := false; !whole; whole = upload.Offset == upload.Length {
			off := int64(upload.Offset)
			n := min(pieceBytes, int64(upload.Length)-off)
			body := &piece{source: in, off: off, end: off + n, t: t}
			err := upload.Send(ctx, body, n)
			var why error
			if read, why = body.stop(); why != nil {
				return why
			}
			if vfs.KindOf(err) == vfs.KindChanged { // there is more than was known
				err = &vfs.Error{Kind: vfs.KindLocked, Op: "upload", Err: err}
			}
			if err != nil {
				return err
			}
			sent = int64(upload.Offset)
		}
		return nil
	}, func() int64 { return sent })
}

// piece reads a part of a file; before the end of the file it makes sure that that is what it was. A request that was answered early may still read it for
// a while, until stop.
type piece struct {
	*source
	t *track

	mu       sync.Mutex // guards what follows
	off, end int64
	read     int64
	stopped  bool
	err      error // of the file
}

// stop ends reading, and returns how much was read, and why the file could not be.
func (p *piece) stop() (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	return p.read, p.err
}

func (p *piece) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return 0, io.ErrClosedPipe
	}
	if p.off == p.end {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.end-p.off)]
	n, err := p.f.ReadAt(b, p.off)
	switch {
	case n < len(b) && (err == nil || errors.Is(err, io.EOF)):
		err = vfs.Errorf(vfs.KindChanged, "read", "%s became shorter while it was read: run it again", p.name)
	case n < len(b):
		err = localError("read", p.name, err)
	case p.off+int64(n) == p.was.Size:
		err = p.unchanged()
	default:
		err = nil
	}
	if err != nil {
		p.err = err
		return 0, err
	}
	p.off += int64(n)
	p.read += int64(n)
	p.t.add(int64(n))
	return n, nil
}

// newPlace is where a file is and goes, in text that tells all names apart.
func newPlace(end *End, remote, here string) place {
	if abs, err := filepath.Abs(here); err == nil {
		here = abs
	}
	return place{Server: end.Client.Server(), FileSystem: end.FileSystem, Remote: strconv.QuoteToASCII(path.Clean(remote)), Local: strconv.QuoteToASCII(here)}
}
