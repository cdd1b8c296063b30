package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

type thingInput struct {
	Name string `path:"name" maxLength:"8"`
	Body struct {
		Size int `json:"size" minimum:"1"`
	}
}

// deadlines are those of a connection, as they are set.
type deadlines struct {
	*httptest.ResponseRecorder
	write time.Time
}

func (d *deadlines) SetWriteDeadline(t time.Time) error { d.write = t; return nil }

// What takes long is answered, whatever the answer is: there is a minute for it from when it begins.
func TestLongOperations(t *testing.T) {
	a := New(Options{Release: "test"})
	conn := &deadlines{}
	long := func() { conn.write = time.Now().Add(-time.Second) } // as if it took longer than a minute
	handle(a, "GET /things", "list-things", "For the test", func(context.Context, *struct{}) (*struct{ Body int }, error) {
		long()
		return &struct{ Body int }{}, nil
	})
	handle(a, "DELETE /things", "delete-things", "For the test", func(context.Context, *struct{}) (*struct{}, error) {
		long()
		return nil, vfs.Errorf(vfs.KindUnavailable, "delete", "not now")
	})
	raw(a, "GET /raw", "get-raw", "For the test", func(w http.ResponseWriter, _ *http.Request) error {
		long()
		_, err := w.Write([]byte("x"))
		return err
	})
	raw(a, "HEAD /raw", "head-raw", "For the test", func(w http.ResponseWriter, _ *http.Request) error {
		long()
		w.WriteHeader(http.StatusNoContent)
		return nil
	})
	raw(a, "DELETE /raw", "delete-raw", "For the test", func(http.ResponseWriter, *http.Request) error {
		long()
		return vfs.Errorf(vfs.KindUnavailable, "raw", "not now")
	})
	for _, x := range []struct {
		method, path string
		status       int
	}{{"GET", "/things", 200}, {"DELETE", "/things", 503}, {"GET", "/raw", 200}, {"HEAD", "/raw", 204}, {"DELETE", "/raw", 503}} {
		*conn = deadlines{ResponseRecorder: httptest.NewRecorder()}
		a.ServeHTTP(conn, httptest.NewRequest(x.method, prefix+x.path, nil))
		if left := time.Until(conn.write); left < patienceWithPeer/2 || conn.Code != x.status {
			t.Errorf("%s %s: %d, and %v for it", x.method, x.path, conn.Code, left)
		}
	}
}

// TestRefusals checks that every way to refuse a request arrives at the client as an error with its kind and reason, and that what the
// document forbids does not reach a handler.
func TestRefusals(t *testing.T) {
	a := New(Options{Release: "test"})
	reached := 0
	handle(a, "PUT /things/{name}", "put-thing", "For the test", func(_ context.Context, in *thingInput) (*struct{}, error) {
		reached++
		switch in.Name {
		case "busy":
			return nil, vfs.Errorf(vfs.KindBusy, "put thing", "%s is in use: stop it first", in.Name)
		case "full":
			return nil, vfs.Errorf(vfs.KindNoSpace, "put thing", "no room for %d", in.Body.Size)
		}
		return nil, nil
	})
	path := filepath.Join(t.TempDir(), SocketName)
	if err := os.WriteFile(path, nil, 0o666); err != nil { // left by a process that was killed
		t.Fatal(err)
	}
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(ln, a, slog.New(slog.DiscardHandler))
	defer s.Close(t.Context())
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", st.Mode(), err)
	}
	c := Dial(path)
	defer c.Close()
	put := func(name string, body any) error {
		return c.call(t.Context(), http.MethodPut, "/things/"+name, body, nil)
	}
	type thing struct {
		Size any `json:"size"`
	}
	if err := put("fine", thing{1}); err != nil {
		t.Fatal(err)
	}
	for what, x := range map[string]struct {
		err  error
		kind vfs.Kind
		says string
	}{
		"busy":        {put("busy", thing{1}), vfs.KindBusy, "busy is in use: stop it first"},
		"full":        {put("full", thing{2}), vfs.KindNoSpace, "no room for 2"},
		"too small":   {put("fine", thing{0}), vfs.KindInvalid, "size"},
		"not a size":  {put("fine", thing{"big"}), vfs.KindInvalid, "size"},
		"missing":     {put("fine", map[string]int{}), vfs.KindInvalid, "size"},
		"unknown key": {put("fine", map[string]int{"size": 1, "colour": 2}), vfs.KindInvalid, "colour"},
		"long name":   {put("much-too-long", thing{1}), vfs.KindInvalid, "name"},
		"too big":     {put("fine", map[string]string{"size": strings.Repeat("x", maxBody+1)}), vfs.KindInvalid, "large"},
		"no such":     {c.call(t.Context(), http.MethodGet, "/nothing", nil, nil), vfs.KindUnavailable, "404"},
	} {
		if strings.Count(x.err.Error(), x.kind.String()) > 1 {
			t.Errorf("%s: says its kind twice: %v", what, x.err)
		}
		if vfs.KindOf(x.err) != x.kind || !strings.Contains(x.err.Error(), x.says) {
			t.Errorf("%s: %v, want %v saying %q", what, x.err, x.kind, x.says)
		}
	}
	if reached != 3 {
		t.Errorf("the handler was reached %d times, want 3", reached)
	}
	resp, err := c.http.Get(c.base + "/api/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if doc, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(doc), `"list-filesystems"`) {
		t.Errorf("the document: %v %.200s", err, doc)
	}
	nobody := Dial(path + "x")
	if _, err := nobody.FileSystems(t.Context()); vfs.KindOf(err) != vfs.KindUnavailable || !strings.Contains(err.Error(), "--socket") {
		t.Errorf("without a server: %v", err)
	}
}
