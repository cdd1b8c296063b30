package web

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

// SourcesFile in dist has the digest of the sources that it was built from.
const SourcesFile = "SOURCES"

// noncePlace is what the page has where the nonce of the answer belongs.
const noncePlace = "NONCE-OF-THE-ANSWER"

//go:embed all:dist
var embedded embed.FS

// Dist is what was built.
func Dist() fs.FS {
	sub, err := fs.Sub(embedded, "dist")
	if err != nil {
		panic(err) // the directory is a part of this package
	}
	return sub
}

// Handler serves the dashboard: files of the build, and for every other path the page, which looks at the path itself.
func Handler() http.Handler { return &handler{dist: Dist(), files: map[string]*file{}} }

type handler struct {
	dist fs.FS

	mu sync.Mutex
	// files that were asked for, protected by mu. There are as many as the build has.
	files map[string]*file
}

// file is one of the build, as it is and compressed.
type file struct {
	raw, packed []byte
	kind, tag   string
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "the dashboard is only read: changes go to /api/", http.StatusMethodNotAllowed)
		return
	}
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	asset := strings.HasPrefix(name, "assets/")
	f := h.file(name)
	if f == nil && asset {
		http.Error(w, "there is no such file in this release: load the page again", http.StatusNotFound)
		return
	}
	if f == nil || name == "index.html" || name == SourcesFile {
		h.page(w, r)
		return
	}
	hd := w.Header()
	hd.Set("ETag", f.tag)
	hd.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
	hd.Set("Cache-Control", "no-cache")
	if asset { // its name changes with its content
		hd.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if r.Header.Get("If-None-Match") == f.tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	send(w, r, f.kind, f.raw, f.packed)
}

// page answers the page itself, with a nonce of its own.
func (h *handler) page(w http.ResponseWriter, r *http.Request) {
	f := h.file("index.html")
	if f == nil {
		http.Error(w, "the dashboard was not built into this binary: `make web` builds it", http.StatusNotFound)
		return
	}
	nonce := rand.Text()
	hd := w.Header()
	hd.Set("Content-Security-Policy", Policy(nonce))
	hd.Set("Cache-Control", "no-store")
	hd.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	hd.Set("Cross-Origin-Opener-Policy", "same-origin")
	hd.Set("Cross-Origin-Resource-Policy", "same-origin")
	send(w, r, f.kind, bytes.ReplaceAll(f.raw, []byte(noncePlace), []byte(nonce)), nil)
}

// Policy is what the page may load and run.
func Policy(nonce string) string {
	return "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-" + nonce + "'; img-src 'self' blob: data:; connect-src 'self'; " +
		"manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
}

func send(w http.ResponseWriter, r *http.Request, kind string, raw, packed []byte) {
	hd := w.Header()
	hd.Set("Content-Type", kind)
	hd.Set("Vary", "Accept-Encoding")
	body := raw
	if packed != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		hd.Set("Content-Encoding", "gzip")
		body = packed
	}
	hd.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // who went away needs no page
	}
}

// file is one of the build, nil if there is none of the name.
func (h *handler) file(name string) *file {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.files[name]; f != nil {
		return f
	}
	if st, err := fs.Stat(h.dist, name); err != nil || !st.Mode().IsRegular() {
		return nil
	}
	raw, err := fs.ReadFile(h.dist, name)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(raw)
	f := &file{raw: raw, kind: kind(name), tag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`}
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is one that there is
	if _, err := z.Write(raw); err == nil && z.Close() == nil && b.Len() < len(raw) {
		f.packed = b.Bytes()
	}
	h.files[name] = f
	return f
}

// kind is the type of a file of the build, whatever types this machine knows.
func kind(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

// sources are what a build is made of, in the order of their names.
var sources = []string{"index.html", "package-lock.json", "package.json", "public", "src", "tsconfig.json", "vite.config.ts"}

// SourcesDigest is the digest of the sources of the build in tree: SHA-256 over, for each file in the order of names, name, NUL, length, NUL and content. The
// build computes the same (vite.config.ts).
func SourcesDigest(tree fs.FS) (string, error) {
	sum := sha256.New()
	for _, top := range sources {
		err := fs.WalkDir(tree, top, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := fs.ReadFile(tree, name)
			if err != nil {
				return err
			}
			_, _ = io.WriteString(sum, name+"\x00"+strconv.Itoa(len(raw))+"\x00")
			sum.Write(raw)
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
