package api

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// records are those of uploads, as shard 0 keeps them.
type records struct {
	mu sync.Mutex // guards by
	by map[string]*metapb.Upload
}

func (r *records) Apply(_ context.Context, _ uint16, c *metapb.Command) (*metapb.Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if up := c.GetPutUpload().GetUpload(); up != nil {
		old := r.by[string(up.Id)]
		if old.GetVersion() != up.Version {
			return nil, vfs.Errorf(vfs.KindChanged, "test", "it is at version %d, not %d", old.GetVersion(), up.Version)
		}
		up = up.CloneVT()
		up.Version++
		r.by[string(up.Id)] = up
	}
	if end := c.GetRemoveUpload(); end != nil {
		delete(r.by, string(end.Id))
	}
	return &metapb.Result{}, nil
}

func (r *records) Query(_ context.Context, _ uint16, q *metapb.Query) (*metapb.QueryResult, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	up := r.by[string(q.GetUploads().GetId())]
	if up == nil {
		return nil, vfs.Errorf(vfs.KindNotFound, "test", "no upload")
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Uploads{Uploads: &metapb.UploadsR{Uploads: []*metapb.Upload{up.CloneVT()}}}}, nil
}

// testFS has a directory in the place of the hidden one, and asks before it moves a file.
type testFS struct {
	*memfs.FS
	hidden vfs.Ino
	move   func() error
}

func (f *testFS) at(ino vfs.Ino) vfs.Ino {
	if ino == vfs.StagingIno(0) {
		return f.hidden
	}
	return ino
}

func (f *testFS) GetAttr(ctx context.Context, ino vfs.Ino) (vfs.Attr, error) {
	return f.FS.GetAttr(ctx, f.at(ino))
}

func (f *testFS) Lookup(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string) (vfs.Attr, error) {
	return f.FS.Lookup(ctx, c, f.at(dir), name)
}

func (f *testFS) Create(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	return f.FS.Create(ctx, c, f.at(dir), name, a)
}

func (f *testFS) Remove(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	return f.FS.Remove(ctx, c, f.at(dir), name, what)
}

func (f *testFS) Rename(ctx context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (a, b vfs.DirChange, err error) {
	if err := f.move(); err != nil {
		return a, b, err
	}
	return f.FS.Rename(ctx, c, f.at(fromDir), from, f.at(toDir), to)
}

// testGateway serves one file system in memory, w/f.
type testGateway struct {
	*testing.T
	*API
	fs   *testFS
	tree *files.Tree
}

func (g *testGateway) Find(string, string) (vfs.FS, *metapb.FileSystem) { return g.FS(1) }
func (g *testGateway) FS(uint32) (vfs.FS, *metapb.FileSystem) {
	return g.fs, &metapb.FileSystem{Id: 1, Workspace: "w", Name: "f"}
}
func (g *testGateway) Origin(uint16) uint64 { return 1 }
func (g *testGateway) Name() string         { return "gateway" }

func newTestGateway(t *testing.T, o Options) *testGateway {
	g := &testGateway{T: t, fs: &testFS{FS: memfs.New(memfs.Options{}), move: func() error { return nil }}}
	g.tree = &files.Tree{FS: g.fs, Cred: vfs.Root}
	n, err := g.tree.Mkdir(t.Context(), "/hidden", false, 0o777)
	if err != nil {
		t.Fatal(err)
	}
	g.fs.hidden = n.Attr.Ino
	o.Release, o.Files = "test", func() Files { return g }
	g.API = New(o)
	g.pieces.Meta = &records{by: map[string]*metapb.Upload{}}
	return g
}

// as sends a request of somebody; headers are pairs.
func (g *testGateway) as(who *accounts.Principal, method, address string, body []byte, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, address, bytes.NewReader(body))
	r.Header.Set("Tus-Resumable", tusVersion)
	r.Header.Set("Content-Type", tusBody)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	rec := &answer{ResponseWriter: w}
	ctx := context.WithValue(newRequest(r.Context(), w), callerKey{}, caller{answer: rec})
	g.mux.ServeHTTP(rec, r.WithContext(accounts.With(ctx, who)))
	return w
}

// call sends one of the operator.
func (g *testGateway) call(method, address string, body []byte, headers ...string) *httptest.ResponseRecorder {
	return g.as(accounts.Operator(), method, address, body, headers...)
}

// begun is the address of an upload to path that has begun.
func (g *testGateway) begun(path string, length int) string {
	g.Helper()
	w := g.call("POST", prefix+"/uploads/w/f?path="+path, nil, "Upload-Length", strconv.Itoa(length))
	if w.Code != http.StatusCreated {
		g.Fatal(w.Code, w.Body)
	}
	return w.Header().Get("Location")
}

// content is what a file has.
func (g *testGateway) content(path string) string {
	w := g.call("GET", prefix+"/files/w/f/content?path="+path, nil)
	if w.Code == http.StatusNotFound {
		return "nothing"
	}
	return w.Body.String()
}

// dial is a client of it.
func (g *testGateway) dial() *Client {
	g.Helper()
	path := filepath.Join(g.TempDir(), SocketName)
	ln, err := Listen(path)
	if err != nil {
		g.Fatal(err)
	}
	s := Serve(ln, g.API, slog.New(slog.DiscardHandler))
	k := Dial(path)
	g.Cleanup(func() {
		k.Close()
		if err := s.Close(context.Background()); err != nil {
			g.Error(err)
		}
	})
	return k
}
