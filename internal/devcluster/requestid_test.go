package devcluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/accounts"
)

// logged is what a process logs, as lines of JSON.
type logged struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// lines are those with a message, as far as they are there.
func (l *logged) lines(t *testing.T, message string) (out []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		x := map[string]any{}
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatal(err)
		}
		if x["msg"] == message {
			out = append(out, x)
		}
	}
	return out
}

// about waits for a line with a message about a request.
func (l *logged) about(t *testing.T, message, request string) (line map[string]any) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q about request %s", message, request), func() bool {
		for _, x := range l.lines(t, message) {
			if x["request"] == request {
				line = x
				return true
			}
		}
		return false
	})
	return line
}

// What a voter or a store logs about a call that fails has the id that its sender got from the API, or that the gateway logs beside the xid of an NFS request.
func TestLogsNameTheRequest(t *testing.T) {
	t.Parallel()
	log := new(logged)
	cfg := apiConfig(t)
	cfg.Logger = slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	c := startQuick(t, cfg)
	u := c.as(t, accounts.Editor)

	// A voter.
	mkdir := at("default/default", "/directory", "/d")
	u.do("POST", mkdir, nil).want(t, "mkdir", http.StatusOK)
	id := u.do("POST", mkdir, nil).want(t, "mkdir again", http.StatusConflict).header.Get(api.RequestIDHeader)
	if x := log.about(t, "raftmeta: no success", id); x["op"] != "create" || x["shard"] != 1.0 {
		t.Errorf("the voter logs %v", x)
	}
	n, err := nfsclient.Dial(t.Context(), nfsclient.Config{Addr: c.NFSAddr(), Owner: "n"})
	if err != nil {
		t.Fatal(err)
	}
	root, _, err := n.Walk(t.Context(), "/default")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.Mkdir(t.Context(), root, "d", 0o755); err == nil {
		t.Fatal("mkdir again by NFS: no error")
	}
	var answered map[string]any
	for _, x := range log.lines(t, "nfs: answered") {
		if x["op"] == "OP_CREATE" || x["op"] == 6.0 {
			answered = x
		}
	}
	if answered == nil {
		t.Fatalf("the gateway does not log it: %v", log.lines(t, "nfs: answered"))
	}
	id = answered["request"].(string)
	if xid := fmt.Sprintf("%08x", uint32(answered["xid"].(float64))); !strings.HasSuffix(id, xid) {
		t.Errorf("request %s does not end with the xid %s", id, xid)
	}
	log.about(t, "raftmeta: no success", id)

	// A store, while what was written waits for nothing but the disk.
	content := make([]byte, 100<<10)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(content)
	u.put("/f", content).want(t, "upload", http.StatusCreated)
	n.Disconnect()
	c.mustStop(t)
	names, err := filepath.Glob(filepath.Join(cfg.DataDir, storeName(0), "segments", "*.seg"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = f.WriteAt(make([]byte, 4<<20), 4096); err == nil {
			err = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c = startQuick(t, cfg)
	defer func() { c.mustStop(t) }()
	u.base = c.user(t, "").base
	var x map[string]any
	// The first ones may fail because a store is not there yet, and the scrubber may find the bad shard before them.
	eventually(t, "a bad shard in the log about a failed download", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), "GET", u.base+at("default/default", "/content", "/f"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+u.token)
		if resp, err := u.client.Do(req); err == nil { // it may end before its headers
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && bytes.Equal(got, content) {
				t.Fatal("a file without its data is read")
			}
		}
		failed := map[any]bool{}
		for _, x := range log.lines(t, "api: answered") {
			failed[x["request"]] = x["operation"] == "download-file" && x["err"] != nil
		}
		for _, bad := range append(log.lines(t, "bad shard"), log.lines(t, "a bad shard is asked for")...) {
			if failed[bad["request"]] {
				x = bad
			}
		}
		return x != nil
	})
	if x["node"] != storeName(0) {
		t.Errorf("the store logs %v", x)
	}
}
