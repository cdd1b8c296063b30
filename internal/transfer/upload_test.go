package transfer

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rackfs/rackfs/api"
)

// A file of which all has come is not taken for uploaded before it is at its place: a gateway that could not put it there, and says only how much has come, is told to once more.
func TestFileIsPutToItsPlace(t *testing.T) {
	const size = smallFile + 1
	var came int64
	published := false
	refuse := func(w http.ResponseWriter, status int, kind string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"status":%d,"kind":%q,"detail":"not now"}`, status, kind)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/files/default/default/stat", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 404, "no such file or directory") })
	mux.HandleFunc("POST /api/v1/uploads/default/default", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/api/v1/uploads/default/default/1")
		w.WriteHeader(http.StatusCreated)
	})
	mux.HandleFunc("HEAD /api/v1/uploads/default/default/1", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Upload-Offset", strconv.FormatInt(came, 10))
		w.Header().Set("Upload-Length", strconv.Itoa(size))
	})
	mux.HandleFunc("PATCH /api/v1/uploads/default/default/1", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upload-Offset") != strconv.FormatInt(came, 10) {
			t.Errorf("a piece for %s, %d bytes have come", r.Header.Get("Upload-Offset"), came)
		}
		whole := came == size
		n, _ := io.Copy(io.Discard, r.Body)
		if came += n; came == size && !whole {
			refuse(w, 503, "temporarily unavailable")
			return
		}
		published = came == size
		w.Header().Set("Upload-Offset", strconv.FormatInt(came, 10))
		w.WriteHeader(http.StatusNoContent)
	})
	socket := filepath.Join(t.TempDir(), "socket")
	ln, err := api.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := api.Serve(ln, mux, slog.New(slog.DiscardHandler))
	k := api.Dial(socket)
	defer func() {
		k.Close()
		if err := srv.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	from := filepath.Join(t.TempDir(), "file")
	write(t, from, make([]byte, size))
	sum, err := Upload(t.Context(), from, End{Client: k, Tree: k.Tree("", "default"), FileSystem: "default/default", Path: "/file"}, false, Options{})
	if err != nil || sum.Sent != 1 || !published {
		t.Errorf("%+v %v, at its place: %v", sum, err, published)
	}
}
