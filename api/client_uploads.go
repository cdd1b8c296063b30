package api

import (
	"context"
	"encoding/hex"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/vfs"
)

// Upload is one that comes in pieces and can be resumed, also by another process that knows its address. It waits a day for its next piece.
type Upload struct {
	t *Tree
	// Address is where it goes on: a path of the API.
	Address string
	Offset  uint64 // bytes that have come, durably
	Length  uint64
}

const uploadsPrefix = prefix + "/uploads/"

// BeginUpload begins one of p.Length bytes. Of nothing it is complete at once.
func (t *Tree) BeginUpload(ctx context.Context, path string, p Put) (*Upload, error) {
	q := url.Values{"path": {path}, "parents": {strconv.FormatBool(p.Parents)}, "keep": {strconv.FormatBool(p.Keep)}}
	if p.Mode != "" {
		q.Set("mode", p.Mode)
	}
	if !p.Mtime.IsZero() {
		q.Set(files.MetaMtime, p.Mtime.UTC().Format(time.RFC3339Nano))
	}
	if p.Sync {
		q.Set("sync", "true")
	}
	if p.Digest != nil {
		q.Set("sha256", hex.EncodeToString(p.Digest))
	}
	u := &Upload{t: t, Length: uint64(max(p.Length, 0))}
	resp, err := t.tus(ctx, http.MethodPost, uploadsPrefix+url.PathEscape(t.workspace)+"/"+url.PathEscape(t.name)+"?"+q.Encode(), nil, 0, http.Header{"Upload-Length": {strconv.FormatInt(p.Length, 10)}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := answered(resp, nil); err != nil {
		return nil, err
	}
	u.Address = resp.Header.Get("Location")
	if !strings.HasPrefix(u.Address, uploadsPrefix) {
		return nil, vfs.Errorf(vfs.KindInvalid, "", "malformed answer: the upload's Location is %q", u.Address)
	}
	return u, nil
}

// ResumeUpload finds how far an upload has come. KindNotFound, KindStale: it is not there any more, begin another one.
func (t *Tree) ResumeUpload(ctx context.Context, address string) (*Upload, error) {
	if !strings.HasPrefix(address, uploadsPrefix) {
		return nil, vfs.Errorf(vfs.KindInvalid, "", "%q is no address of an upload", address)
	}
	resp, err := t.tus(ctx, http.MethodHead, address, nil, 0, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 { // without a body there is no reason
		return nil, vfs.Errorf(headKind(resp.StatusCode), "", "the upload cannot be resumed: %s", resp.Status)
	}
	u := &Upload{t: t, Address: address}
	if u.Offset, err = strconv.ParseUint(resp.Header.Get("Upload-Offset"), 10, 64); err == nil {
		u.Length, err = strconv.ParseUint(resp.Header.Get("Upload-Length"), 10, 64)
	}
	if err != nil || u.Offset > u.Length {
		return nil, vfs.Errorf(vfs.KindInvalid, "", "malformed answer: offset %q of an upload of %q bytes", resp.Header.Get("Upload-Offset"), resp.Header.Get("Upload-Length"))
	}
	return u, nil
}

// headKind is the kind of a refusal that has a status only.
func headKind(status int) vfs.Kind {
	switch status {
	case http.StatusNotFound:
		return vfs.KindNotFound
	case http.StatusGone:
		return vfs.KindStale
	case http.StatusUnauthorized:
		return vfs.KindUnauthorized
	case http.StatusForbidden:
		return vfs.KindPerm
	case http.StatusLocked:
		return vfs.KindLocked
	case http.StatusBadRequest, http.StatusConflict, http.StatusPreconditionFailed:
		return vfs.KindInvalid
	}
	return vfs.KindUnavailable
}

// Send sends the next n bytes, which r has. If it fails, some of them may have come: ResumeUpload says how many. The file is at its path when Send has succeeded and Offset is Length;
// of an upload of which all has come before 0 bytes are sent for that.
func (u *Upload) Send(ctx context.Context, r io.Reader, n int64) error {
	if n == 0 {
		r = http.NoBody
	}
	resp, err := u.t.tus(ctx, http.MethodPatch, u.Address, r, n, http.Header{"Upload-Offset": {strconv.FormatUint(u.Offset, 10)}, "Content-Type": {tusBody}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := answered(resp, nil); err != nil {
		return err
	}
	off, err := strconv.ParseUint(resp.Header.Get("Upload-Offset"), 10, 64)
	if err != nil || off > u.Length {
		return vfs.Errorf(vfs.KindInvalid, "", "malformed answer: Upload-Offset %q", resp.Header.Get("Upload-Offset"))
	}
	u.Offset = off
	return nil
}

// Discard gives it up.
func (u *Upload) Discard(ctx context.Context) error {
	resp, err := u.t.tus(ctx, http.MethodDelete, u.Address, nil, 0, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return answered(resp, nil)
}

func (t *Tree) tus(ctx context.Context, method, address string, body io.Reader, n int64, h http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, t.c.base+address, body)
	if err != nil {
		return nil, err
	}
	if h != nil {
		req.Header = h
	}
	req.Header.Set("Tus-Resumable", tusVersion)
	if body != nil {
		req.ContentLength = n
		if n > expectAbove {
			req.Header.Set("Expect", "100-continue")
		}
	}
	return t.c.do(req)
}
