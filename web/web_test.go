package web_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/web"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// calls are the operations that the dashboard calls.
var calls = []string{
	"who-am-i", "log-in", "log-out", "list-workspaces", "list-filesystems", "show-filesystem", "find-directory",
	"list-files", "stat-file", "make-directory", "rename-file", "delete-file", "download-file", "archive-files", "upload-file", "begin-upload",
	"list-jobs", "show-job", "cancel-job", "start-import", "list-tokens", "create-token", "revoke-token", "cluster-status", "list-groups",
}

// served is the document of the API, as JSON values.
func served(t *testing.T) map[string]any {
	t.Helper()
	w := httptest.NewRecorder()
	api.New(api.Options{}).ServeHTTP(w, httptest.NewRequest("GET", "/api/openapi.json", nil))
	var doc map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// called is the part of a document that has the operations in calls, and the schemas that they need. Texts are left out: they are for people.
func called(t *testing.T, doc map[string]any) map[string]any {
	t.Helper()
	paths := map[string]any{}
	missing := slices.Clone(calls)
	for p, item := range doc["paths"].(map[string]any) {
		kept := map[string]any{}
		for method, op := range item.(map[string]any) {
			id := op.(map[string]any)["operationId"].(string)
			if i := slices.Index(missing, id); i >= 0 {
				missing = slices.Delete(missing, i, i+1)
				kept[method] = op
			}
		}
		if len(kept) > 0 {
			paths[p] = kept
		}
	}
	if len(missing) > 0 {
		t.Fatalf("the API has no operation %s", missing)
	}
	all := doc["components"].(map[string]any)["schemas"].(map[string]any)
	schemas := map[string]any{}
	var follow func(v any)
	follow = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				follow(e)
			}
		case map[string]any:
			for _, k := range []string{"description", "summary", "examples", "example"} {
				if _, text := v[k].(string); text || k == "examples" {
					delete(v, k)
				}
			}
			for _, e := range v {
				follow(e)
			}
			ref, _ := v["$ref"].(string)
			if name, ok := strings.CutPrefix(ref, "#/components/schemas/"); ok && schemas[name] == nil {
				schemas[name] = all[name]
				follow(all[name])
			}
		}
	}
	follow(paths)
	return map[string]any{"openapi": doc["openapi"], "info": map[string]any{"title": "rackfs", "version": "dashboard"}, "paths": paths, "components": map[string]any{"schemas": schemas}}
}

// What the dashboard was built for is still served: an operation or a field that it knows may not go or become another. The API may have more.
func TestAPIHasWhatIsCalled(t *testing.T) {
	now := called(t, served(t))
	if *update {
		raw, err := json.MarshalIndent(now, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("openapi.json", append(raw, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var built map[string]any
	if err := json.Unmarshal(raw, &built); err != nil {
		t.Fatal(err)
	}
	for _, d := range lacks("", built, now) {
		t.Errorf("%s: the dashboard was built for it, and the API does not have it: adapt web/src, and run `make web`", d)
	}
	if built := called(t, built); len(built["paths"].(map[string]any)) != len(now["paths"].(map[string]any)) {
		t.Error("openapi.json has other operations than the list in this test: run `make web`")
	}
}

// lacks is what of want is not in have. Lists of schemas may be longer; what is required of answers may become more, of requests it may not, so lists of that
// have to be the same.
func lacks(at string, want, have any) (out []string) {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok {
			return []string{at}
		}
		for k, v := range w {
			out = append(out, lacks(at+"/"+k, v, h[k])...)
		}
	case []any:
		h, _ := have.([]any)
		for i, v := range w {
			if !slices.ContainsFunc(h, func(e any) bool { return len(lacks("", v, e)) == 0 }) {
				out = append(out, fmt.Sprintf("%s/%d", at, i))
			}
		}
	default:
		if want != have {
			out = append(out, fmt.Sprintf("%s: %v, now %v", at, want, have))
		}
	}
	return out
}

func TestLacks(t *testing.T) {
	var a, b any
	_ = json.Unmarshal([]byte(`{"x":{"type":"string"},"l":[1,{"in":"query","name":"p"}]}`), &a)
	_ = json.Unmarshal([]byte(`{"x":{"type":"string"},"y":1,"l":[0,{"in":"query","name":"p","more":1},1]}`), &b)
	if d := lacks("", a, b); len(d) != 0 {
		t.Errorf("more than was wanted: %v", d)
	}
	if d := lacks("", b, a); len(d) != 3 {
		t.Errorf("less than was wanted: %v", d)
	}
}

// Somebody changed the sources: the build has to follow.
func TestDistIsOfTheSources(t *testing.T) {
	want, err := web.SourcesDigest(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	got, err := fs.ReadFile(web.Dist(), web.SourcesFile)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(got)) != want {
		t.Errorf("dist was built from other sources than those that are here: run `make web`, and commit dist (built from %s, here is %s)", got, want)
	}
}

func get(t *testing.T, h http.Handler, method, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestHandler(t *testing.T) {
	h := web.Handler()
	page, err := io.ReadAll(get(t, h, "GET", "/").Body)
	if err != nil {
		t.Fatal(err)
	}
	script := regexp.MustCompile(`src="(/assets/[^"]+\.js)"`).FindSubmatch(page)
	if script == nil {
		t.Fatalf("the page names no script: %s", page)
	}
	t.Run("the page has a nonce of its own for each answer, and runs nothing that is in it", func(t *testing.T) {
		seen := map[string]bool{}
		for _, p := range []string{"/", "/index.html", "/files/default/x", "/../../etc/passwd", "/SOURCES", "/assets", "/%00"} {
			resp := get(t, h, "GET", p)
			body, _ := io.ReadAll(resp.Body)
			m := regexp.MustCompile(`nonce-([A-Z2-7]{20,})'`).FindStringSubmatch(resp.Header.Get("Content-Security-Policy"))
			if resp.StatusCode != 200 || m == nil || seen[m[1]] || !bytes.Contains(body, []byte(m[1])) || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %d %v", p, resp.StatusCode, resp.Header)
				continue
			}
			seen[m[1]] = true
		}
		if bytes.Contains(page, []byte("<script>")) || bytes.Contains(page, []byte("<style")) || bytes.Contains(page, []byte("http:")) || bytes.Contains(page, []byte("https:")) {
			t.Errorf("the page has something in line or from elsewhere: %s", page)
		}
	})
	t.Run("files of the build stay in the browser", func(t *testing.T) {
		name := string(script[1])
		plain := get(t, h, "GET", name)
		raw, _ := io.ReadAll(plain.Body)
		packed := get(t, h, "GET", name, "Accept-Encoding", "br, gzip")
		z, err := gzip.NewReader(packed.Body)
		if err != nil {
			t.Fatal(err)
		}
		if un, err := io.ReadAll(z); err != nil || !bytes.Equal(un, raw) || packed.Header.Get("Content-Encoding") != "gzip" {
			t.Errorf("compressed it is another: %v %v", err, packed.Header)
		}
		if plain.Header.Get("Content-Type") != "text/javascript; charset=utf-8" || !strings.Contains(plain.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%v", plain.Header)
		}
		if r := get(t, h, "GET", name, "If-None-Match", plain.Header.Get("ETag")); r.StatusCode != http.StatusNotModified {
			t.Errorf("%d", r.StatusCode)
		}
		if r := get(t, h, "HEAD", name); r.StatusCode != 200 || r.ContentLength != int64(len(raw)) {
			t.Errorf("HEAD: %d, %d bytes", r.StatusCode, r.ContentLength)
		}
	})
	for path, want := range map[string]int{"/assets/none.js": 404, "/assets/../SOURCES": 200, "/icon.svg": 200} {
		if r := get(t, h, "GET", path); r.StatusCode != want {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	if r := get(t, h, "POST", "/"); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", r.StatusCode)
	}
}
