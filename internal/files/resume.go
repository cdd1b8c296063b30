package files

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding"
	"errors"
	"hash"
	"io"
	"sync"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	clusterShard = 0
	// UploadLife is how long an upload waits for its next piece.
	UploadLife = 24 * time.Hour
	// pieceDurable is how many bytes of a piece come before they are made durable and noted: what a crash costs at most.
	pieceDurable = 64 << 20
	// recordTimeout bounds one change of a record.
	recordTimeout = 10 * time.Second
)

// Meta is the metadata client.
type Meta interface {
	Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error)
	Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error)
}

// Uploads are those that come in pieces. Their records are in shard 0, so any gateway can take the next piece.
//
// The record says how much is durable. A piece is written behind that; every 64 MiB, and at its end or when the sender goes away, what has come is made durable
// and then noted. What a crash left behind the noted place may have holes: it is cut off before the next piece is written. If the whole must have a SHA-256, that of what is
// noted is kept with it, so that at the end the digest of all is known without reading it again.
type Uploads struct {
	Meta Meta
	Now  func() time.Time

	mu   sync.Mutex // guards busy
	busy map[string]bool
}

// Start says what is to be uploaded.
type Start struct {
	Path     Path
	Length   uint64
	Digest   []byte // SHA-256 that all must have; nil: any
	Mode     *uint32
	Keep     bool
	Parents  bool
	Metadata string // as it was sent
	Token    string // whose it is
	FS       *metapb.FileSystem
}

const modeGiven = 1 << 31 // in a record's mode: it was asked for

// Begin makes an upload. One of nothing is complete at once.
func (u *Uploads) Begin(ctx context.Context, t *Tree, s Start) (*metapb.Upload, error) {
	const op = "upload"
	if s.Length > vfs.MaxSize {
		return nil, vfs.Errorf(vfs.KindTooBig, op, "%s: %d bytes", s.Path.Shown(), s.Length)
	}
	meta, err := ParseMetadata(s.Metadata)
	if err != nil {
		return nil, err
	}
	if _, err := metaTime(meta); err != nil {
		return nil, err
	}
	d, err := t.place(ctx, s.Path, s.Parents, s.Keep, op)
	if err != nil {
		return nil, err
	}
	dir, err := t.staging(ctx, d.Attr.Project, op)
	if err != nil {
		return nil, about(err, op, s.Path)
	}
	now := u.Now()
	rec := &metapb.Upload{
		Id: make([]byte, 16), Workspace: s.FS.Workspace, Fs: s.FS.Id, FileSystem: s.FS.Name, Path: []byte(s.Path), Length: s.Length, Token: s.Token,
		Uid: t.Cred.UID, Gid: t.Cred.GID, Staging: uint64(dir), Digest: s.Digest, Metadata: s.Metadata, Exclusive: s.Keep,
		Created: stamp(now), Expires: stamp(now.Add(UploadLife)),
	}
	rand.Read(rec.Id)
	if s.Mode != nil {
		rec.Mode = *s.Mode | modeGiven
	}
	if err := u.put(ctx, rec); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	if s.Length > 0 {
		return rec, nil
	}
	return u.Append(ctx, t, rec, bytes.NewReader(nil), nil)
}

func stamp(t time.Time) *metapb.Time {
	return &metapb.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// put writes a record down, and sets its version to the new one.
func (u *Uploads) put(ctx context.Context, rec *metapb.Upload) error {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	_, err := u.Meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutUpload{PutUpload: &metapb.PutUpload{Upload: rec}}})
	if err == nil {
		rec.Version++
	}
	return err
}

// Find returns the record of one.
func (u *Uploads) Find(ctx context.Context, id []byte) (*metapb.Upload, error) {
	r, err := u.Meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Uploads{Uploads: &metapb.UploadsQ{Id: id}}})
	if err != nil {
		return nil, err
	}
	rec := r.GetUploads().GetUploads()[0]
	if !u.Now().Before(timeOf(rec.Expires)) {
		return nil, vfs.Errorf(vfs.KindStale, "upload", "it has expired: nothing came for %v; begin again", UploadLife)
	}
	return rec, nil
}

func timeOf(t *metapb.Time) time.Time { return time.Unix(t.GetSec(), int64(t.GetNsec())).UTC() }

// Check is what a piece must have: a sum of its own, by hash.
type Check struct {
	Hash hash.Hash
	Sum  []byte
}

// ErrSum is the cause if a piece does not have its sum.
var ErrSum = errors.New("the piece does not have the checksum that was announced: send it again")

// lock keeps others of this gateway away from an upload; those of another one find a record of another version when they note what has come.
func (u *Uploads) lock(id []byte) (unlock func(), err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.busy[string(id)] {
		return nil, vfs.Errorf(vfs.KindLocked, "upload", "another piece of it is coming in: try again when that has ended")
	}
	if u.busy == nil {
		u.busy = map[string]bool{}
	}
	u.busy[string(id)] = true
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.busy, string(id))
	}, nil
}

// Append takes the next piece, all that r has, and puts the file to its place when it is complete. It returns the record as it is then, also with an error: of a piece that
// broke off what came is kept, unless check is given.
func (u *Uploads) Append(ctx context.Context, t *Tree, rec *metapb.Upload, r io.Reader, check *Check) (*metapb.Upload, error) {
	const op = "upload"
	unlock, err := u.lock(rec.Id)
	if err != nil {
		return rec, err
	}
	defer unlock()
	// While this was waited for, or the record was on its way here, a piece may have come to its end that was noted: it must not be cut off.
	now, err := u.Find(ctx, rec.Id)
	if err != nil {
		return rec, err
	}
	if now.Version != rec.Version {
		return now, vfs.Errorf(vfs.KindLocked, op, "another piece of it came in meanwhile: ask how much has come, and go on behind that")
	}
	rec = now
	if rec.Done {
		return rec, nil
	}
	// What has come is kept although whoever sent it is gone.
	work := context.WithoutCancel(ctx)
	s, err := u.reopen(work, t, rec)
	if err != nil {
		return rec, about(err, op, Path(rec.Path))
	}
	if rec.Done {
		return rec, nil
	}
	defer s.close()
	var sum hash.Hash // nil: nobody asks for it
	if rec.Digest != nil {
		sum = sha256.New()
	}
	if sum != nil && len(rec.DigestState) > 0 {
		if err := sum.(encoding.BinaryUnmarshaler).UnmarshalBinary(rec.DigestState); err != nil {
			return rec, vfs.Errorf(vfs.KindCorrupt, op, "the state of its digest: %w", err)
		}
	}
	if err := u.receive(work, s, rec, r, sum, check); err != nil {
		return rec, about(err, op, Path(rec.Path))
	}
	if rec.Offset < rec.Length {
		return rec, nil
	}
	if rec.Digest != nil && !bytes.Equal(rec.Digest, sum.Sum(nil)) {
		// No further piece can make it good. The record goes first: one of all bytes without a file would say that it is at its place.
		if err := u.remove(work, rec); err != nil {
			return rec, about(err, op, Path(rec.Path))
		}
		s.drop()
		return rec, vfs.Errorf(vfs.KindInvalid, op, "%s: its SHA-256 is %x, announced was %x: it was damaged on the way, begin again", Path(rec.Path).Shown(), sum.Sum(nil), rec.Digest)
	}
	meta, err := ParseMetadata(rec.Metadata)
	if err != nil {
		return rec, err
	}
	p := Put{Path: Path(rec.Path), Keep: rec.Exclusive}
	if p.Mtime, err = metaTime(meta); err != nil {
		return rec, err
	}
	if rec.Mode&modeGiven != 0 {
		m := rec.Mode &^ modeGiven
		p.Mode = &m
	}
	if _, err := s.publish(work, p); err != nil {
		return rec, err
	}
	rec.Done, rec.DigestState = true, nil
	return rec, vfs.Wrap(op, u.put(work, rec))
}

// reopen opens the hidden file of an upload, as long as its record says. If all had come and the file is gone, it was put to its place, and the gateway ended
// before it noted that: it is noted now, and there is nothing to open.
func (u *Uploads) reopen(ctx context.Context, t *Tree, rec *metapb.Upload) (*staged, error) {
	const op = "upload"
	dir, name := vfs.Ino(rec.Staging), uploadName(rec.Id)
	a, err := t.FS.Lookup(ctx, &t.Cred, dir, name)
	if vfs.KindOf(err) == vfs.KindNotFound && rec.Offset == 0 && rec.Version == 1 {
		mode := uint32(defaultMode)
		r, err := t.FS.Create(ctx, &t.Cred, dir, name, vfs.CreateArgs{Exclusive: vfs.Guarded, Attr: vfs.SetAttr{Mode: &mode}, Open: vfs.OpenWrite})
		if err != nil {
			return nil, err
		}
		return &staged{t: t, dir: dir, name: name, ino: r.Attr.Ino, open: true}, nil
	}
	if vfs.KindOf(err) == vfs.KindNotFound {
		if rec.Offset == rec.Length {
			rec.Done, rec.DigestState = true, nil
			return nil, u.put(ctx, rec)
		}
		return nil, vfs.Errorf(vfs.KindStale, op, "what had come is gone: begin again")
	}
	if err != nil {
		return nil, err
	}
	if a, err = t.FS.Open(ctx, &t.Cred, a.Ino, vfs.OpenWrite, true); err != nil {
		return nil, err
	}
	s := &staged{t: t, dir: dir, name: name, ino: a.Ino, open: true}
	if a.Size < rec.Offset { // two gateways took pieces at the same time
		s.close()
		return nil, vfs.Errorf(vfs.KindStale, op, "%d bytes had come, and the file has %d: begin again", rec.Offset, a.Size)
	}
	if a.Size > rec.Offset {
		if err := s.cut(ctx, rec.Offset); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *staged) cut(ctx context.Context, size uint64) error {
	_, err := s.t.FS.SetAttr(ctx, &s.t.Cred, s.ino, vfs.SetAttr{Size: &size}, true)
	return err
}

// tally passes on what it reads, and notes how much that was.
type tally struct {
	r    io.Reader
	n    uint64
	sum  hash.Hash // nil: none
	seen error     // how it ended
}

func (t *tally) Read(b []byte) (int, error) {
	n, err := t.r.Read(b)
	t.n += uint64(n)
	if t.sum != nil {
		t.sum.Write(b[:n])
	}
	if err != nil {
		t.seen = err
	}
	return n, err
}

// receive writes a piece behind what is there, and notes it.
func (u *Uploads) receive(ctx context.Context, s *staged, rec *metapb.Upload, r io.Reader, sum hash.Hash, check *Check) error {
	const op = "upload"
	noted := rec.CloneVT()
	left := rec.Length - rec.Offset
	in := &tally{r: r}
	if check != nil {
		in.sum = check.Hash
	}
	var failed error
	for failed == nil && in.seen == nil {
		var n uint64
		n, failed = s.fill(ctx, io.LimitReader(in, int64(min(pieceDurable, left-min(in.n, left)+1))), rec.Offset, -1, sum) // one more, to see that there is none
		if in.n > left {
			failed = vfs.Errorf(vfs.KindInvalid, op, "more came than the %d bytes that were missing: send what is missing only", left)
		}
		if vfs.KindOf(failed) == vfs.KindInvalid || vfs.KindOf(failed) == vfs.KindCanceled && check != nil {
			break
		}
		if failed != nil && (vfs.KindOf(failed) != vfs.KindCanceled || n == 0 || s.commit(ctx) != nil) {
			break
		}
		if n > 0 {
			rec.Offset += n
			rec.Expires = stamp(u.Now().Add(UploadLife))
			if sum != nil {
				state, err := sum.(encoding.BinaryMarshaler).MarshalBinary()
				if err != nil {
					return vfs.Errorf(vfs.KindInternal, op, "%w", err)
				}
				rec.DigestState = state
			}
		}
		if check != nil && in.seen == nil {
			continue // not before its sum is known
		}
		if check != nil && !bytes.Equal(check.Hash.Sum(nil), check.Sum) {
			failed = &vfs.Error{Kind: vfs.KindInvalid, Op: op, Err: ErrSum}
			break
		}
		if rec.Offset == noted.Offset {
			continue
		}
		if err := u.put(ctx, rec); err != nil {
			return err
		}
		noted = rec.CloneVT()
	}
	if failed == nil {
		return nil
	}
	// What is not noted the next piece cuts off. Not this one: its sender may have gone on at another gateway long ago, and the file is whole by now.
	rec.Offset, rec.DigestState, rec.Expires = noted.Offset, noted.DigestState, noted.Expires
	return failed
}

// End removes an upload.
func (u *Uploads) End(ctx context.Context, t *Tree, rec *metapb.Upload) error {
	unlock, err := u.lock(rec.Id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := u.remove(ctx, rec); err != nil {
		return err
	}
	if !rec.Done { // if this fails, Collect does it
		_, _ = t.FS.Remove(ctx, &t.Cred, vfs.Ino(rec.Staging), uploadName(rec.Id), vfs.RemoveFile)
	}
	return nil
}

func (u *Uploads) remove(ctx context.Context, rec *metapb.Upload) error {
	_, err := u.Meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RemoveUpload{RemoveUpload: &metapb.RemoveUpload{Id: rec.Id}}})
	return err
}
