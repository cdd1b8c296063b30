package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// patienceWithPeer is how long a peer may neither send nor take anything.
const patienceWithPeer = time.Minute

func writeRaw(w http.ResponseWriter, p *Problem) {
	for k, v := range p.header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.Header().Del("Content-Disposition")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// rawParams documents what raw operations take, by the names that they use.
func rawParams(route, id string) (out []*huma.Param) {
	text := &huma.Schema{Type: huma.TypeString}
	for part := range strings.SplitSeq(route, "/") {
		if strings.HasPrefix(part, "{") {
			out = append(out, &huma.Param{Name: strings.Trim(part, "{}"), In: "path", Required: true, Schema: text})
		}
	}
	query := map[string][][2]string{
		"download-file": {{"path", "Absolute, in the file system; percent-encoded bytes"}, {"inline", "true: a browser may show it, without scripts; else it saves it"}},
		"checksum-file": {{"path", "Absolute, in the file system; percent-encoded bytes"}, {"offset", "Of the range; default 0"}, {"length", "Bytes of the range, at most 1 GiB; default: the rest of the file"}},
		"get-profile":   {{"seconds", "How long to look, from 1 to 30; of profile and trace"}, {"debug", "1 or 2: as text"}},
		"archive-files": {{"path", "A directory"}, {"format", "tar.gz (default) or zip"}},
		"upload-file": {{"path", "Absolute, in the file system; percent-encoded bytes"}, {"parents", "true: directories that are missing are made"},
			{"sync", "true: the transfer is one that sends only what differs, which may be switched off in the workspace"}, {"mode", "Octal; default: that of the file that is replaced, else 0644"}, {"mtime", "RFC 3339; default: now"}},
	}
	for _, q := range query[id] {
		out = append(out, &huma.Param{Name: q[0], In: "query", Description: q[1], Required: q[0] == "path", Schema: text})
	}
	header := map[string][][2]string{
		"download-file": {{"Range", "One range of bytes; more than one: the whole file is answered"}, {"If-None-Match", "ETag of what the client has"}, {"If-Match", "ETag"}, {"If-Range", "ETag"}},
		"checksum-file": {{"If-Match", "ETag"}},
		"upload-file":   {{"Content-Digest", "sha-256=:BASE64: that the content must have (RFC 9530)"}, {"If-None-Match", "*: it is an error if there is something at the path"}},
	}
	for _, q := range header[id] {
		out = append(out, &huma.Param{Name: q[0], In: "header", Description: q[1], Schema: text})
	}
	return out
}

// flag is a parameter that is true or false.
func flag(r *http.Request, name string) (bool, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, vfs.Errorf(vfs.KindInvalid, "query", "%s=%q: use true or false", name, s)
	}
	return b, nil
}

// patienceStep is how old a deadline may be before it is moved: what comes in small pieces would set a timer for each.
const patienceStep = time.Second

// patient writes to somebody for as long as he takes it.
type patient struct {
	w     io.Writer
	rc    *http.ResponseController
	below *heldConn // nil: none
}

func newPatient(ctx context.Context, w http.ResponseWriter) *patient {
	below, _ := ctx.Value(belowKey{}).(*heldConn)
	return &patient{w: w, rc: http.NewResponseController(w), below: below}
}

func (p *patient) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		_ = p.rc.SetWriteDeadline(time.Now().Add(patienceWithPeer))
		piece := b[:min(len(b), bulkBytes)]
		var m int
		if p.below == nil {
			m, err = p.w.Write(piece)
		} else {
			m, err = p.below.holding(func() (int, error) { return p.w.Write(piece) })
		}
		n, b = n+m, b[m:]
	}
	return n, err
}

// patientBody reads from somebody for as long as he sends.
type patientBody struct {
	r     io.Reader
	rc    *http.ResponseController
	begun bool
	moved time.Time
}

func (p *patientBody) Read(b []byte) (int, error) {
	p.begun = true
	if now := time.Now(); now.Sub(p.moved) >= patienceStep {
		p.moved = now
		_ = p.rc.SetReadDeadline(now.Add(patienceWithPeer))
	}
	return p.r.Read(b)
}

// drainBytes is how much of a body that is not wanted any more is read all the same.
const drainBytes = 64 << 20

// drain reads what is still coming of a request that is refused in the middle: a connection that is closed with unread bytes is reset, and who sends would
// see that instead of the reason.
// A body that nobody has begun to read is left: a sender who waits for leave to send (100-continue) does not get it.
func drain(body *patientBody) {
	if body.begun {
		_, _ = io.CopyN(io.Discard, body, drainBytes)
	}
}

func attachment(name string, inline bool) string {
	kind := "attachment"
	if inline {
		kind = "inline"
	}
	ascii := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' || r == '%' {
			return '_'
		}
		return r
	}, name)
	return fmt.Sprintf(`%s; filename="%s"; filename*=UTF-8''%s`, kind, ascii, strings.ReplaceAll(url.QueryEscape(strings.ToValidUTF8(name, "_")), "+", "%20"))
}

// open opens the file at the path in the query, which has to be what If-Match says, and returns its ETag, too. The caller closes it.
func (a *API) open(r *http.Request, op string) (*files.File, string, error) {
	ctx := r.Context()
	p, err := files.ParsePath(r.URL.Query().Get("path"))
	if err != nil {
		return nil, "", err
	}
	t, _, err := a.tree(ctx, r.PathValue("workspace"), r.PathValue("filesystem"), false)
	if err != nil {
		return nil, "", err
	}
	f, err := t.Open(ctx, p)
	if err != nil {
		return nil, "", err
	}
	tag := etag(&f.Node.Attr)
	if m := r.Header.Get("If-Match"); m != "" && !matches(m, tag) {
		f.Close()
		return nil, "", vfs.Errorf(vfs.KindChanged, op, "%s is not what it was: its ETag is %s", p.Shown(), tag)
	}
	return f, tag, nil
}

func (a *API) download(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	inline, err := flag(r, "inline")
	if err != nil {
		return err
	}
	f, tag, err := a.open(r, "read")
	if err != nil {
		return err
	}
	defer f.Close()
	attr := &f.Node.Attr
	h := w.Header()
	h.Set("ETag", tag)
	h.Set("Last-Modified", attr.Mtime.UTC().Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	h.Set("Cache-Control", "private, no-cache")
	if m := r.Header.Get("If-None-Match"); m != "" && matches(m, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	kind := mime.TypeByExtension(path.Ext(f.Node.Name))
	if kind == "" {
		kind = "application/octet-stream"
	}
	h.Set("Content-Type", kind)
	h.Set("Content-Disposition", attachment(f.Node.Name, inline))
	off, n, status := uint64(0), attr.Size, http.StatusOK
	if s := r.Header.Get("Range"); s != "" && (r.Header.Get("If-Range") == "" || r.Header.Get("If-Range") == tag) {
		first, last, ok := parseRange(s, attr.Size)
		switch {
		case ok && first > last:
			h.Set("Content-Range", fmt.Sprintf("bytes */%d", attr.Size))
			h.Del("Content-Type")
			return &statusError{http.StatusRequestedRangeNotSatisfiable, vfs.Errorf(vfs.KindInvalid, "read", "range %q of %s, which has %d bytes", s, f.Node.Path.Shown(), attr.Size)}
		case ok:
			off, n, status = first, last-first+1, http.StatusPartialContent
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, attr.Size))
		}
	}
	h.Set("Content-Length", strconv.FormatUint(n, 10))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	out := newPatient(ctx, w)
	return f.Copy(ctx, out, off, n)
}

// matches reports whether a list of ETags has one.
func matches(list, tag string) bool {
	for m := range strings.SplitSeq(list, ",") {
		if m = strings.TrimPrefix(strings.TrimSpace(m), "W/"); m == "*" || m == tag {
			return true
		}
	}
	return false
}

// parseRange reads one range of bytes. ok is false for what is to be passed over (RFC 9110, 14.2); first > last is a range that there is nothing of.
func parseRange(s string, size uint64) (first, last uint64, ok bool) {
	spec, found := strings.CutPrefix(s, "bytes=")
	from, to, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !found || !dash || strings.Contains(spec, ",") {
		return 0, 0, false
	}
	if from == "" {
		n, err := strconv.ParseUint(to, 10, 63)
		if err != nil {
			return 0, 0, false
		}
		if n == 0 || size == 0 {
			return 1, 0, true
		}
		return size - min(n, size), size - 1, true
	}
	first, err := strconv.ParseUint(from, 10, 63)
	if err != nil {
		return 0, 0, false
	}
	last = size - 1
	if to != "" {
		if last, err = strconv.ParseUint(to, 10, 63); err != nil || last < first {
			return 0, 0, false
		}
		last = min(last, size-1)
	}
	if first >= size {
		return 1, 0, true
	}
	return first, last, true
}

func (a *API) archive(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	q := r.URL.Query()
	p, err := files.ParsePath(q.Get("path"))
	if err != nil {
		return err
	}
	format, kind := files.TarGz, "application/gzip"
	switch q.Get("format") {
	case "", files.TarGz:
	case files.Zip:
		format, kind = files.Zip, "application/zip"
	default:
		return vfs.Errorf(vfs.KindInvalid, "archive", "format %q: use %s or %s", q.Get("format"), files.TarGz, files.Zip)
	}
	t, rec, err := a.tree(ctx, r.PathValue("workspace"), r.PathValue("filesystem"), false)
	if err != nil {
		return err
	}
	n, err := t.Walk(ctx, p, "archive")
	if err != nil {
		return err
	}
	if !n.Attr.IsDir() {
		return vfs.Errorf(vfs.KindNotDir, "archive", "%s: download its content", p.Shown())
	}
	name := n.Name
	if name == "" {
		name = rec.Name
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", attachment(name+"."+format, false))
	if r.Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	out := newPatient(ctx, w)
	return t.Archive(ctx, out, p, format)
}

// digest is the SHA-256 in a Content-Digest or Repr-Digest (RFC 9530), nil if it names none.
func digest(h http.Header) ([]byte, error) {
	for _, name := range []string{"Content-Digest", "Repr-Digest"} {
		for d := range strings.SplitSeq(h.Get(name), ",") {
			alg, v, ok := strings.Cut(strings.TrimSpace(d), "=")
			if !ok || !strings.EqualFold(alg, "sha-256") {
				continue
			}
			sum, err := base64.StdEncoding.DecodeString(strings.Trim(v, ":"))
			if err != nil || len(sum) != 32 {
				return nil, vfs.Errorf(vfs.KindInvalid, "upload", "%s: %q: write sha-256=:BASE64:", name, d)
			}
			return sum, nil
		}
		if h.Get(name) != "" {
			return nil, vfs.Errorf(vfs.KindInvalid, "upload", "%s: %q: only sha-256 is known here", name, h.Get(name))
		}
	}
	return nil, nil
}

// maySync refuses a transfer that sends only what differs, if that is switched off.
func (a *API) maySync(r *http.Request, workspace string) error {
	sync, err := flag(r, "sync")
	if err != nil || !sync {
		return err
	}
	return accounts.Allows(r.Context(), a.opt.Meta, workspace, accounts.FeatureSync)
}

// origin is that of this gateway at a file system's shard.
func (a *API) origin(rec *metapb.FileSystem) (uint64, error) {
	served, err := a.served()
	if err != nil {
		return 0, err
	}
	o := served.Origin(uint16(rec.Shard))
	if o == 0 {
		return 0, vfs.Errorf(vfs.KindUnavailable, "upload", "this gateway's lease ended: try again")
	}
	return o, nil
}

// keeping reports whether an upload is not to replace a file. What is not honoured is refused, or somebody would rely on it.
func keeping(r *http.Request) (bool, error) {
	if r.Header.Get("If-Match") != "" || r.Header.Get("If-Unmodified-Since") != "" {
		return false, vfs.Errorf(vfs.KindNotSupported, "upload", "If-Match and If-Unmodified-Since are not known here: an upload replaces whatever is there, or nothing (If-None-Match: *)")
	}
	switch r.Header.Get("If-None-Match") {
	case "":
		return false, nil
	case "*":
		return true, nil
	}
	return false, vfs.Errorf(vfs.KindNotSupported, "upload", "If-None-Match: only * is known here")
}

func (a *API) upload(w http.ResponseWriter, r *http.Request) (err error) {
	ctx := r.Context()
	q := r.URL.Query()
	put := files.Put{Length: r.ContentLength}
	if put.Path, err = files.ParsePath(q.Get("path")); err != nil {
		return err
	}
	if put.Digest, err = digest(r.Header); err != nil {
		return err
	}
	if put.Parents, err = flag(r, "parents"); err != nil {
		return err
	}
	if s := q.Get("mode"); s != "" {
		m, err := parseMode(s)
		if err != nil {
			return err
		}
		put.Mode = &m
	}
	if s := q.Get("mtime"); s != "" {
		if put.Mtime, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return vfs.Errorf(vfs.KindInvalid, "upload", "mtime %q: write it as 2026-11-26T20:00:00Z", s)
		}
	}
	if put.Keep, err = keeping(r); err != nil {
		return err
	}
	if r.Header.Get("Content-Range") != "" {
		return vfs.Errorf(vfs.KindNotSupported, "upload", "Content-Range is not known here: files are replaced as a whole")
	}
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return &statusError{http.StatusUnsupportedMediaType, vfs.Errorf(vfs.KindNotSupported, "upload", "Content-Encoding %q: send the file as it is", e)}
	}
	t, rec, err := a.tree(ctx, r.PathValue("workspace"), r.PathValue("filesystem"), true)
	if err != nil {
		return err
	}
	if err := a.maySync(r, rec.Workspace); err != nil {
		return err
	}
	if put.Origin, err = a.origin(rec); err != nil {
		return err
	}
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(time.Time{}) // nothing is answered before all has come
	body := &patientBody{r: r.Body, rc: rc}
	n, err := t.Write(ctx, body, put)
	if err != nil {
		drain(body)
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", etag(&n.Attr))
	w.WriteHeader(http.StatusCreated)
	return json.NewEncoder(w).Encode(fileInfo(n.Name, &n.Attr, ""))
}
