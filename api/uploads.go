package api

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Uploads that can be resumed: the tus protocol 1.0.0, core with creation, creation-with-upload, termination, checksum and expiration.
const (
	tusVersion    = "1.0.0"
	tusExtensions = "creation,creation-with-upload,termination,checksum,expiration"
	tusAlgorithms = "sha256,sha1,md5"
	// tusMismatch is the status of a piece that does not have its checksum.
	tusMismatch = 460
)

func (a *API) uploads() {
	const all = "/uploads/{workspace}/{filesystem}"
	raw(a, "OPTIONS "+all, "describe-uploads", "What of the tus protocol is known here", a.tus(a.tusOptions))
	raw(a, "POST "+all, "begin-upload", "Begin an upload that can be resumed (tus 1.0.0): Upload-Length, and Upload-Metadata or the query with the path", a.tus(a.bounded(a.tusCreate)))
	const one = all + "/{upload}"
	raw(a, "HEAD "+one, "show-upload", "How much of an upload has come", a.tus(a.tusHead))
	raw(a, "PATCH "+one, "continue-upload", "Send the next piece", a.tus(a.bounded(a.tusPatch)))
	raw(a, "DELETE "+one, "end-upload", "Give an upload up", a.tus(a.tusDelete))
}

func (a *API) tus(fn func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Tus-Resumable", tusVersion)
		if v := r.Header.Get("Tus-Resumable"); v != tusVersion && r.Method != http.MethodOptions {
			w.Header().Set("Tus-Version", tusVersion)
			return &statusError{http.StatusPreconditionFailed, vfs.Errorf(vfs.KindIncompatible, "upload", "Tus-Resumable %q: this server speaks %s", v, tusVersion)}
		}
		return fn(w, r)
	}
}

func (a *API) tusOptions(w http.ResponseWriter, _ *http.Request) error {
	h := w.Header()
	h.Set("Tus-Version", tusVersion)
	h.Set("Tus-Extension", tusExtensions)
	h.Set("Tus-Checksum-Algorithm", tusAlgorithms)
	h.Set("Tus-Max-Size", strconv.FormatUint(vfs.MaxSize, 10))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// number is a header that is a number of bytes.
func number(r *http.Request, name string) (uint64, error) {
	n, err := strconv.ParseUint(r.Header.Get(name), 10, 64)
	if err != nil || n > vfs.MaxSize {
		return 0, vfs.Errorf(vfs.KindInvalid, "upload", "%s %q: a number of bytes, at most %d, is needed", name, r.Header.Get(name), uint64(vfs.MaxSize))
	}
	return n, nil
}

func (a *API) tusCreate(w http.ResponseWriter, r *http.Request) (err error) {
	const op = "upload"
	ctx := r.Context()
	who := accounts.Of(ctx)
	s := files.Start{Token: who.Token, Metadata: r.Header.Get("Upload-Metadata")}
	if v := r.URL.Query().Get(files.MetaMtime); v != "" { // the record has it there
		s.Metadata = strings.TrimPrefix(s.Metadata+","+files.MetaMtime+" "+base64.StdEncoding.EncodeToString([]byte(v)), ",")
	}
	meta, err := files.ParseMetadata(s.Metadata)
	if err != nil {
		return err
	}
	// The path is in the query, or in the metadata, where clients that make one request after the other to one address can put it.
	param := func(name string) string {
		if v := r.URL.Query().Get(name); v != "" {
			return v
		}
		return meta[name]
	}
	if s.Path, err = files.ParsePath(param("path")); err != nil {
		return err
	}
	audited(ctx, s.Path)
	dir, _ := s.Path.Split()
	workspace, name := r.PathValue("workspace"), r.PathValue("filesystem")
	if err := who.May(accounts.Editor, accounts.Place{Workspace: workspace, FileSystem: name, Path: string(dir)}); err != nil {
		return err
	}
	if r.Header.Get("Upload-Defer-Length") != "" {
		return vfs.Errorf(vfs.KindNotSupported, op, "Upload-Defer-Length is not known here: announce the length")
	}
	if r.Header.Get("Upload-Concat") != "" {
		return vfs.Errorf(vfs.KindNotSupported, op, "Upload-Concat is not known here: send one upload")
	}
	if s.Length, err = number(r, "Upload-Length"); err != nil {
		return err
	}
	if v := param("mode"); v != "" {
		m, err := parseMode(v)
		if err != nil {
			return err
		}
		s.Mode = &m
	}
	if v := param("sha256"); v != "" {
		if s.Digest, err = hex.DecodeString(v); err != nil || len(s.Digest) != sha256.Size {
			return vfs.Errorf(vfs.KindInvalid, op, "sha256 %.80q: write it in hex", v)
		}
	}
	keep, err := keeping(r)
	if err != nil {
		return err
	}
	var sync bool
	for name, to := range map[string]*bool{"parents": &s.Parents, "keep": &s.Keep, "sync": &sync} {
		if v := param(name); v != "" {
			if *to, err = strconv.ParseBool(v); err != nil {
				return vfs.Errorf(vfs.KindInvalid, op, "%s %q: use true or false", name, v)
			}
		}
	}
	s.Keep = s.Keep || keep
	t, rec, err := a.tree(ctx, workspace, name, true)
	if err != nil {
		return err
	}
	if sync {
		if err := accounts.Allows(ctx, a.opt.Meta, rec.Workspace, accounts.FeatureSync); err != nil {
			return err
		}
	}
	s.FS = rec
	up, err := a.pieces.Begin(ctx, t, s)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", prefix+"/uploads/"+url.PathEscape(workspace)+"/"+url.PathEscape(name)+"/"+hex.EncodeToString(up.Id))
	if r.Header.Get("Content-Type") == tusBody && r.ContentLength != 0 {
		if up, err = a.append(w, r, t, up); err != nil {
			return err
		}
	}
	tusState(h, up)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// tusState puts into headers how an upload stands.
func tusState(h http.Header, up *metapb.Upload) {
	h.Set("Upload-Offset", strconv.FormatUint(up.Offset, 10))
	h.Set("Upload-Expires", instant(up.Expires).Format(http.TimeFormat))
}

// audited puts into the audit log which path a request is about that does not have it in its query, or something else.
func audited(ctx context.Context, p files.Path) {
	if w := callerOf(ctx).answer; w != nil {
		w.path = string(p)
	}
}

// tusBody is the type of pieces.
const tusBody = "application/offset+octet-stream"

// findUpload is the upload that a request names, if it is his who calls.
func (a *API) findUpload(ctx context.Context, r *http.Request) (*metapb.Upload, error) {
	const op = "upload"
	none := vfs.Errorf(vfs.KindNotFound, op, "there is no upload %.40q of this token", r.PathValue("upload"))
	id, err := hex.DecodeString(r.PathValue("upload"))
	if err != nil || len(id) != 16 {
		return nil, none
	}
	up, err := a.pieces.Find(ctx, id)
	if vfs.KindOf(err) == vfs.KindNotFound {
		return nil, none
	}
	if err != nil {
		return nil, err
	}
	who := accounts.Of(ctx)
	if up.Workspace != r.PathValue("workspace") || up.FileSystem != r.PathValue("filesystem") || up.Token != who.Token {
		return nil, none
	}
	audited(ctx, files.Path(up.Path))
	// What the token is for may have become less.
	dir, _ := files.Path(up.Path).Split()
	return up, who.May(accounts.Editor, accounts.Place{Workspace: up.Workspace, FileSystem: up.FileSystem, Path: string(dir)})
}

// treeOf is the file system of an upload: that which it was begun in, not another one that got its name.
func (a *API) treeOf(ctx context.Context, up *metapb.Upload) (*files.Tree, error) {
	t, rec, err := a.tree(ctx, up.Workspace, up.FileSystem, true)
	if err == nil && rec.Id != up.Fs {
		return nil, vfs.Errorf(vfs.KindStale, "upload", "the file system %s that it was begun in has ended, and another one has its name: begin again", up.FileSystem)
	}
	return t, err
}

func (a *API) tusHead(w http.ResponseWriter, r *http.Request) error {
	up, err := a.findUpload(r.Context(), r)
	if err == nil && up.Offset == up.Length && !up.Done {
		up, err = a.finish(r.Context(), up)
	}
	if err != nil {
		return err
	}
	h := w.Header()
	tusState(h, up)
	h.Set("Upload-Length", strconv.FormatUint(up.Length, 10))
	if up.Metadata != "" {
		h.Set("Upload-Metadata", up.Metadata)
	}
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	return nil
}

// finish puts a file to its place of which all has come: whoever took the last piece ended before that, or the metadata did not answer. Clients take an upload for complete
// when they hear that all has come, so they must not hear it before.
func (a *API) finish(ctx context.Context, up *metapb.Upload) (*metapb.Upload, error) {
	if w := callerOf(ctx).answer; w != nil {
		w.changed = true
	}
	t, err := a.treeOf(ctx, up)
	if err != nil {
		return nil, err
	}
	now, err := a.pieces.Append(ctx, t, up, http.NoBody, nil)
	k := vfs.KindOf(err)
	if k != vfs.KindNotFound && k != vfs.KindChanged {
		return now, err
	}
	// Another gateway may be at it, to which the connection broke.
	found, ferr := a.pieces.Find(ctx, up.Id)
	switch {
	case ferr != nil:
		return nil, err
	case found.Done:
		return found, nil
	case k == vfs.KindChanged:
		return nil, vfs.Errorf(vfs.KindLocked, "upload", "another gateway is putting it to its place: %w", err)
	}
	return a.pieces.Append(ctx, t, found, http.NoBody, nil)
}

func (a *API) tusPatch(w http.ResponseWriter, r *http.Request) error {
	const op = "upload"
	ctx := r.Context()
	if r.Header.Get("Content-Type") != tusBody {
		return &statusError{http.StatusUnsupportedMediaType, vfs.Errorf(vfs.KindInvalid, op, "Content-Type %q: a piece is %s", r.Header.Get("Content-Type"), tusBody)}
	}
	up, err := a.findUpload(ctx, r)
	if err != nil {
		return err
	}
	off, err := number(r, "Upload-Offset")
	if err != nil {
		return err
	}
	if off != up.Offset {
		tusState(w.Header(), up)
		return &statusError{http.StatusConflict, vfs.Errorf(vfs.KindChanged, op, "Upload-Offset %d: %d bytes have come", off, up.Offset)}
	}
	t, err := a.treeOf(ctx, up)
	if err != nil {
		return err
	}
	up, err = a.append(w, r, t, up)
	if err != nil {
		return err
	}
	tusState(w.Header(), up)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// append takes a piece.
func (a *API) append(w http.ResponseWriter, r *http.Request, t *files.Tree, up *metapb.Upload) (*metapb.Upload, error) {
	var check *files.Check
	if s := r.Header.Get("Upload-Checksum"); s != "" {
		alg, v, _ := strings.Cut(s, " ")
		make := map[string]func() hash.Hash{"sha256": sha256.New, "sha1": sha1.New, "md5": md5.New}[alg]
		sum, err := base64.StdEncoding.DecodeString(v)
		if make == nil || err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, "upload", "Upload-Checksum %.80q: write one of %s, a space, and base64", s, tusAlgorithms)
		}
		check = &files.Check{Hash: make(), Sum: sum}
	}
	if r.ContentLength > 0 && uint64(r.ContentLength) > up.Length-up.Offset {
		return nil, &statusError{http.StatusRequestEntityTooLarge, vfs.Errorf(vfs.KindInvalid, "upload", "a piece of %d bytes, only %d are missing", r.ContentLength, up.Length-up.Offset)}
	}
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Time{})
	body := &patientBody{r: r.Body, rc: rc}
	up, err := a.pieces.Append(r.Context(), t, up, body, check)
	if err != nil {
		drain(body)
	}
	if errors.Is(err, files.ErrSum) {
		err = &statusError{tusMismatch, err}
	}
	return up, err
}

func (a *API) tusDelete(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	up, err := a.findUpload(ctx, r)
	if err != nil {
		return err
	}
	t, err := a.treeOf(ctx, up)
	if err != nil {
		return err
	}
	if err := a.pieces.End(ctx, t, up); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
