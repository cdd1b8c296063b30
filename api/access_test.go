package api

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/vfs"
)

// auditLog is one, and what it has.
func auditLog(t *testing.T) (*accounts.Audit, func() []accounts.Event) {
	path := filepath.Join(t.TempDir(), accounts.AuditName)
	a, err := accounts.OpenAudit(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a, func() (out []accounts.Event) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			var e accounts.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			out = append(out, e)
		}
		return out
	}
}

// Who has no token cannot fill the audit log, neither by what is refused nor by what needs none. What others do is in it.
func TestAuditIsNotFilled(t *testing.T) {
	audit, events := auditLog(t)
	now := time.Unix(1000, 0)
	g := newTestGateway(t, Options{Audit: audit, Now: func() time.Time { return now }})
	public := g.Public(nil)
	const calls = 300
	knock := func() {
		for _, r := range [][2]string{{"GET", "/filesystems"}, {"DELETE", "/session"}} {
			public.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(r[0], prefix+r[1], nil))
		}
	}
	for range calls {
		knock()
	}
	if w := g.call("POST", prefix+"/files/w/f/directory?path=/made", nil); w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	list := events()
	if n := len(list); n > calls || list[n-1].Who != "operator" || list[n-1].To != `/files/w/f/directory path="/made"` {
		t.Errorf("%d lines, the last is %+v", n, list[n-1])
	}
	strangers := len(list) - 1
	now = now.Add(time.Minute)
	knock()
	if n := events()[len(list)].Suppressed; n != 2*calls-strangers {
		t.Errorf("%d calls of strangers have no line, told is of %d", 2*calls-strangers, n)
	}
}

// What is done to an upload is in the audit log with its path, wherever the request has that and whatever else it names.
func TestUploadsAreAudited(t *testing.T) {
	audit, events := auditLog(t)
	g := newTestGateway(t, Options{Audit: audit})
	g.call("POST", prefix+"/uploads/w/f", nil, "Upload-Length", "7", "Upload-Metadata", "path "+base64.StdEncoding.EncodeToString([]byte("/none/created")))
	up := g.begun("/file", 7)
	g.call("PATCH", up+"?path=/another", []byte("con"), "Upload-Offset", "0")
	down := true
	g.fs.move = func() error {
		if down {
			return vfs.Errorf(vfs.KindUnavailable, "test", "nobody answers")
		}
		return nil
	}
	g.call("PATCH", up, []byte("tent"), "Upload-Offset", "3")
	g.call("HEAD", up, nil)
	down = false
	g.call("HEAD", up, nil) // puts it to its place
	g.call("HEAD", up, nil) // only looks
	g.call("DELETE", up, nil)
	var got []string
	for _, e := range events() {
		_, path, _ := strings.Cut(e.To, " ")
		got = append(got, e.Did+" "+path+" "+e.Outcome)
	}
	want := []string{
		`begin-upload path="/none/created" refused`, `begin-upload path="/file" ok`, `continue-upload path="/file" ok`, `continue-upload path="/file" refused`,
		`show-upload path="/file" refused`, `show-upload path="/file" ok`, `end-upload path="/file" ok`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A path in a token's scope gives it nothing outside of that: when the directory of the scope was moved away, it is not made anew.
func TestMissingDirectoriesOfScope(t *testing.T) {
	g := newTestGateway(t, Options{})
	who := &accounts.Principal{Token: "t", Name: "t", Role: accounts.Editor, Scopes: []accounts.Place{{Workspace: "w", FileSystem: "f", Path: "/team"}}}
	imports := func() error {
		ctx := accounts.With(t.Context(), who)
		tree, _, err := g.API.tree(ctx, "w", "f", true)
		if err != nil {
			t.Fatal(err)
		}
		return mayImportTo(ctx, tree, "/team/d/e")
	}
	all := func(made ...int) {
		t.Helper()
		for i, r := range [][2]string{{"PUT", "/files/w/f/content?path=/team/a/x"}, {"POST", "/files/w/f/directory?path=/team/b/y"}, {"POST", "/uploads/w/f?path=/team/c/z"}} {
			if w := g.as(who, r[0], prefix+r[1]+"&parents=true", nil, "Upload-Length", "1"); w.Code != made[i] {
				t.Errorf("%s %s: %d %s", r[0], r[1], w.Code, w.Body)
			}
		}
	}
	all(403, 403, 403)
	if err := imports(); vfs.KindOf(err) != vfs.KindPerm {
		t.Errorf("import: %v", err)
	}
	if _, err := g.tree.Walk(t.Context(), "/team", "test"); vfs.KindOf(err) != vfs.KindNotFound {
		t.Errorf("/team: %v", err)
	}
	if _, err := g.tree.FS.MakeNode(t.Context(), &vfs.Root, vfs.RootIno, "team", vfs.NodeArgs{Type: vfs.TypeDir}); err != nil {
		t.Fatal(err)
	}
	all(201, 200, 201)
	if err := imports(); err != nil {
		t.Errorf("import: %v", err)
	}
}
