package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/vfs"
)

// Tree is a file system as the client sees it. Paths are absolute bytes.
type Tree struct {
	c         *Client
	workspace string
	name      string
}

// Tree is a file system of a workspace; "": the default one.
func (c *Client) Tree(workspace, name string) *Tree {
	if workspace == "" {
		workspace = filesystem.DefaultWorkspace
	}
	return &Tree{c, workspace, name}
}

func (t *Tree) address(sub, path string, q url.Values) string {
	if q == nil {
		q = url.Values{}
	}
	q.Set("path", path)
	return "/files/" + url.PathEscape(t.workspace) + "/" + url.PathEscape(t.name) + sub + "?" + q.Encode()
}

// List lists a page of a directory: after is what Next of the page before was, limit 0 the default.
func (t *Tree) List(ctx context.Context, path, after string, limit int) (out FileList, err error) {
	q := url.Values{"after": {after}}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	err = t.c.call(ctx, http.MethodGet, t.address("", path, q), nil, &out)
	return out, err
}

// Stat looks at one file.
func (t *Tree) Stat(ctx context.Context, path string) (out FileInfo, err error) {
	err = t.c.call(ctx, http.MethodGet, t.address("/stat", path, nil), nil, &out)
	return out, err
}

// StatToSync is Stat at the beginning of a transfer that sends only what differs, which a workspace may have switched off.
func (t *Tree) StatToSync(ctx context.Context, path string) (out FileInfo, err error) {
	err = t.c.call(ctx, http.MethodGet, t.address("/stat", path, url.Values{"sync": {"true"}}), nil, &out)
	return out, err
}

// Mkdir makes a directory, with parents also those above it.
func (t *Tree) Mkdir(ctx context.Context, path string, parents bool) (FileInfo, error) {
	return t.MkdirMode(ctx, path, parents, "")
}

// MkdirMode is Mkdir with a mode, in octal.
func (t *Tree) MkdirMode(ctx context.Context, path string, parents bool, mode string) (out FileInfo, err error) {
	q := url.Values{"parents": {strconv.FormatBool(parents)}}
	if mode != "" {
		q.Set("mode", mode)
	}
	err = t.c.call(ctx, http.MethodPost, t.address("/directory", path, q), nil, &out)
	return out, err
}

// Rename moves a file or directory; keep: not in place of another one.
func (t *Tree) Rename(ctx context.Context, path, to string, keep bool) (out FileInfo, err error) {
	err = t.c.call(ctx, http.MethodPost, t.address("/rename", path, url.Values{"to": {to}, "keep": {strconv.FormatBool(keep)}}), nil, &out)
	return out, err
}

// Change changes attributes.
func (t *Tree) Change(ctx context.Context, path string, ch FileChange) (out FileInfo, err error) {
	err = t.c.call(ctx, http.MethodPatch, t.address("", path, nil), ch, &out)
	return out, err
}

// Delete removes a file or an empty directory.
func (t *Tree) Delete(ctx context.Context, path string) error {
	return t.c.call(ctx, http.MethodDelete, t.address("", path, nil), nil, nil)
}

// DeleteDirectory removes an empty directory.
func (t *Tree) DeleteDirectory(ctx context.Context, path string) error {
	return t.c.call(ctx, http.MethodDelete, t.address("", path, url.Values{"directory": {"true"}}), nil, nil)
}

// DeleteAll removes a directory and all that is in it: by a job, which is returned. Of a file that is gone already the job is nil.
func (t *Tree) DeleteAll(ctx context.Context, path string) (*Job, error) {
	var raw json.RawMessage
	err := t.c.call(ctx, http.MethodDelete, t.address("", path, url.Values{"recursive": {"true"}}), nil, &raw)
	if err != nil || len(raw) == 0 || string(raw) == "null" {
		return nil, err
	}
	j := new(Job)
	return j, json.Unmarshal(raw, j)
}

// expectAbove is the length of a body from which on it is asked before whether it will be taken. A server reads that much of a request that it has
// refused; of more the sender might see a connection that was reset in place of the reason.
const expectAbove = 128 << 10

// Put says how a file is uploaded.
type Put struct {
	Length  int64  // -1: not known
	Digest  []byte // SHA-256; nil: it is not checked
	Parents bool
	Keep    bool // not in place of another one
	Mode    string
	Mtime   time.Time // zero: now
	Sync    bool      // the transfer is one of rsync's kind, which a workspace may have switched off
}

// Upload makes a file of all that r has: it appears whole or not at all.
func (t *Tree) Upload(ctx context.Context, path string, r io.Reader, p Put) (out FileInfo, err error) {
	q := url.Values{"parents": {strconv.FormatBool(p.Parents)}}
	if p.Mode != "" {
		q.Set("mode", p.Mode)
	}
	if !p.Mtime.IsZero() {
		q.Set("mtime", p.Mtime.UTC().Format(time.RFC3339Nano))
	}
	if p.Sync {
		q.Set("sync", "true")
	}
	if p.Length == 0 {
		r = http.NoBody
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, t.c.base+prefix+t.address("/content", path, q), r)
	if err != nil {
		return out, err
	}
	req.ContentLength = p.Length
	req.Header.Set("Content-Type", "application/octet-stream")
	if p.Length < 0 || p.Length > expectAbove {
		req.Header.Set("Expect", "100-continue")
	}
	if p.Digest != nil {
		req.Header.Set("Content-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(p.Digest)+":")
	}
	if p.Keep {
		req.Header.Set("If-None-Match", "*")
	}
	resp, err := t.c.do(req)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	return out, answered(resp, &out)
}

// Content is a file, or its rest, that is being downloaded; the caller closes it. A read ends with an error, not io.EOF, if the file does not come whole.
type Content struct {
	io.ReadCloser
	ETag   string
	Offset uint64 // of the first byte
	Size   uint64 // of the whole file
}

// Download begins to download a file from off on. With etag, only if it is still what had that: KindChanged.
func (t *Tree) Download(ctx context.Context, path string, off uint64, etag string) (*Content, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.c.base+prefix+t.address("/content", path, nil), nil)
	if err != nil {
		return nil, err
	}
	if off > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	if etag != "" {
		req.Header.Set("If-Match", etag)
	}
	resp, err := t.c.do(req)
	if err != nil {
		return nil, err
	}
	out := &Content{ReadCloser: resp.Body, ETag: resp.Header.Get("ETag"), Size: uint64(max(resp.ContentLength, 0))}
	switch resp.StatusCode {
	case http.StatusOK:
		return out, nil
	case http.StatusPartialContent:
		var first, last uint64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &out.Size); err == nil && first == off {
			out.Offset = off
			return out, nil
		}
		resp.Body.Close()
		return nil, vfs.Errorf(vfs.KindInvalid, "", "malformed answer: Content-Range %q", resp.Header.Get("Content-Range"))
	}
	defer resp.Body.Close()
	if err := answered(resp, nil); err != nil {
		return nil, err
	}
	return nil, vfs.Errorf(vfs.KindInvalid, "", "malformed answer: its status is %s", resp.Status)
}
