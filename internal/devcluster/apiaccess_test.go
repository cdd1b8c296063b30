package devcluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/vfs"
)

// where says what an operation is about; who has to have it.
type where int

const (
	operatorOnly   where = iota // by the socket
	open                        // nobody has to say who he is
	anywhere                    // who has anything
	cluster                     // who has all
	workspace                   // who has all of workspace a
	seesWorkspace               // who has a part of it
	fileSystem                  // who has all of a/data
	seesFileSystem              // who has a part of it
	path                        // who has /in/f
	entry                       // who has /in, in which that is
)

// need is who may call an operation, written down apart from the rules of package api. An operation that is not here fails the test.
type need struct {
	role accounts.Role
	at   where
	body string
}

var needs = map[string]need{
	"cluster-status": {accounts.Viewer, cluster, ""}, "can-stop": {accounts.Viewer, cluster, ""}, "list-voters": {accounts.Viewer, cluster, ""},
	"get-level": {accounts.Viewer, cluster, ""}, "raise-level": {accounts.Admin, cluster, "{}"}, "make-token": {accounts.Admin, cluster, `{"roles":["meta"]}`}, "rotate-gossip-key": {accounts.Admin, cluster, ""}, "get-profile": {accounts.Admin, cluster, ""},
	"allow-deletion": {accounts.Admin, cluster, "{}"}, "backup-cluster": {0, operatorOnly, ""}, "check-cluster": {0, operatorOnly, ""},
	"list-nodes": {accounts.Viewer, cluster, ""}, "get-node": {accounts.Viewer, cluster, ""}, "drain-node": {accounts.Admin, cluster, "{}"},
	"undrain-node": {accounts.Admin, cluster, ""}, "remove-node": {accounts.Admin, cluster, "{}"},
	"list-groups": {accounts.Viewer, cluster, ""}, "get-group": {accounts.Viewer, cluster, ""}, "create-group": {accounts.Admin, cluster, ""},
	"delete-group": {accounts.Admin, cluster, ""}, "reserve-racks": {accounts.Admin, cluster, `{"racks":["r"]}`}, "release-racks": {accounts.Admin, cluster, `{"racks":["r"]}`},
	"add-nodes": {accounts.Admin, cluster, `{"nodes":["ghost"]}`}, "remove-nodes": {accounts.Admin, cluster, `{"nodes":["ghost"]}`},

	"list-filesystems": {accounts.Viewer, anywhere, ""}, "create-filesystem": {accounts.Admin, workspace, `{"name":"","workspace":"a"}`},
	"show-filesystem": {accounts.Viewer, seesFileSystem, ""}, "change-filesystem": {accounts.Admin, fileSystem, `{}`},
	"delete-filesystem": {accounts.Admin, fileSystem, ""}, "undelete-filesystem": {accounts.Admin, fileSystem, ""},
	"list-exports": {accounts.Viewer, fileSystem, ""}, "create-export": {accounts.Admin, fileSystem, "{}"}, "delete-export": {accounts.Admin, fileSystem, ""},
	"list-quotas": {accounts.Viewer, fileSystem, ""}, "set-quota": {accounts.Admin, fileSystem, "{}"}, "find-directory": {accounts.Viewer, fileSystem, ""},

	"log-in": {0, open, ""}, "log-out": {0, open, ""}, "who-am-i": {accounts.Viewer, anywhere, ""},
	"list-workspaces": {accounts.Viewer, anywhere, ""}, "show-workspace": {accounts.Viewer, seesWorkspace, ""}, "create-workspace": {accounts.Admin, cluster, `{"name":""}`},
	"change-workspace": {accounts.Admin, cluster, `{}`}, "delete-workspace": {accounts.Admin, cluster, ""},
	"list-tokens": {accounts.Admin, anywhere, ""}, "create-token": {accounts.Admin, workspace, `{"name":"NEW","role":"viewer","scopes":["a"]}`}, "revoke-token": {accounts.Admin, anywhere, ""},

	"list-files": {accounts.Viewer, path, ""}, "stat-file": {accounts.Viewer, path, ""}, "download-file": {accounts.Viewer, path, ""}, "archive-files": {accounts.Viewer, path, ""}, "checksum-file": {accounts.Viewer, path, ""},
	"make-directory": {accounts.Editor, entry, ""}, "rename-file": {accounts.Editor, entry, ""}, "change-file": {accounts.Editor, path, `{}`},
	"delete-file": {accounts.Editor, entry, ""}, "upload-file": {accounts.Editor, entry, "x"},

	"describe-uploads": {0, open, ""}, "begin-upload": {accounts.Editor, entry, ""}, "show-upload": {accounts.Editor, seesFileSystem, ""},
	"continue-upload": {accounts.Editor, seesFileSystem, ""}, "end-upload": {accounts.Editor, seesFileSystem, ""},
	"list-jobs": {accounts.Viewer, anywhere, ""}, "show-job": {accounts.Viewer, anywhere, ""}, "cancel-job": {accounts.Editor, anywhere, ""},
	"start-import": {accounts.Editor, path, `{"source":"s3","bucket":"","access_key":"","secret_key":""}`},
}

// scopes are those that tokens of the test have, and what each has.
var scopes = []struct {
	spec string // "": the whole cluster
	has  []where
}{
	{"", []where{anywhere, cluster, workspace, seesWorkspace, fileSystem, seesFileSystem, path, entry}},
	{"a", []where{anywhere, workspace, seesWorkspace, fileSystem, seesFileSystem, path, entry}},
	{"a/data", []where{anywhere, seesWorkspace, fileSystem, seesFileSystem, path, entry}},
	{"a/data:/in", []where{anywhere, seesWorkspace, seesFileSystem, path, entry}},
	{"a/data:/in/f", []where{anywhere, seesWorkspace, seesFileSystem, path}},
	{"a/data:/i", []where{anywhere, seesWorkspace, seesFileSystem}},
	{"a/other", []where{anywhere, seesWorkspace}},
	{"b", []where{anywhere}},
}

type operation struct{ method, path, id string }

// operations are those of the API's own description.
func operations(t *testing.T, u *user) (out []operation) {
	t.Helper()
	resp, err := u.client.Get(strings.TrimSuffix(u.base, "/v1") + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct{ OperationID string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Fatal(doc.OpenAPI, err)
	}
	for p, item := range doc.Paths {
		for method, op := range item {
			out = append(out, operation{strings.ToUpper(method), strings.TrimPrefix(p, "/api/v1"), op.OperationID})
		}
	}
	slices.SortFunc(out, func(a, b operation) int { return strings.Compare(a.id, b.id) })
	return out
}

// call calls an operation about workspace a, file system data and /in/f in it.
func (o operation) call(u *user, n int) reply {
	p := strings.NewReplacer("{workspace}", "a", "{filesystem}", "data", "{name}", "data", "{upload}", strings.Repeat("0", 32), "{token}", "ghost", "{id}", "1").Replace(o.path)
	// What would end or move too much for the calls after it gets as far as the check of its parameters, which comes after the one of rights.
	p += "?path=/in/f&to=/in/g"
	if o.id == "delete-filesystem" {
		p += "&keep_seconds=x"
	}
	body := strings.ReplaceAll(needs[o.id].body, "NEW", fmt.Sprint("new", n))
	headers := []string{"Tus-Resumable", "1.0.0", "Upload-Length", "3"}
	if strings.HasPrefix(body, "{") {
		headers = append(headers, "Content-Type", "application/json")
	}
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	return u.do(o.method, p, r, headers...)
}

// Every operation refuses whoever has not the role or not the place, and nobody else.
func TestAccess(t *testing.T) {
	t.Parallel()
	c := startQuick(t, apiConfig(t))
	defer c.mustStop(t)
	admin := api.Dial(c.dir.sub(api.SocketName))
	defer admin.Close()
	ctx := t.Context()
	for _, w := range []string{"a", "b"} {
		if _, err := admin.CreateWorkspace(ctx, api.NewWorkspace{Name: w}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []api.NewFileSystem{{Name: "data", Workspace: "a"}, {Name: "other", Workspace: "a"}, {Name: "data", Workspace: "b"}} {
		if _, err := admin.CreateFileSystem(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	root := c.user(t, c.Token())
	for _, fs := range []string{"a/data", "a/other", "b/data"} {
		await(t, func() string {
			if fs, _ := c.gateway.Find(fs[:1], fs[2:]); fs == nil {
				return "it is not served"
			}
			return ""
		})
		for _, d := range []string{"/in/f/x", "/out", "/into"} {
			root.do("POST", at(fs, "/directory", d, "parents", "true"), nil).want(t, "mkdir", 200)
		}
	}
	ops := operations(t, root)
	if len(ops) < 40 {
		t.Fatalf("%d operations", len(ops))
	}
	for id := range needs {
		if !slices.ContainsFunc(ops, func(o operation) bool { return o.id == id }) {
			t.Errorf("there is no operation %s", id)
		}
	}
	users := map[string]*user{}
	as := func(role accounts.Role, spec string) *user {
		k := role.String() + spec
		if users[k] == nil {
			if spec == "" {
				users[k] = c.as(t, role)
			} else {
				users[k] = c.as(t, role, spec)
			}
		}
		return users[k]
	}
	calls := 0
	for _, o := range ops {
		n, known := needs[o.id]
		if !known {
			t.Errorf("%s is not in the table of this test: say who may call it, here and in api/rules.go", o.id)
			continue
		}
		nobody := c.user(t, "")
		if r := o.call(nobody, 0); n.at != open && r.status != http.StatusUnauthorized {
			t.Errorf("%s without a token: %d %s", o.id, r.status, r.body)
		}
		if n.at == open {
			continue
		}
		for _, s := range scopes {
			for _, role := range []accounts.Role{accounts.Viewer, accounts.Editor, accounts.Admin} {
				calls++
				r := o.call(as(role, s.spec), calls)
				allowed := n.at != operatorOnly && role >= n.role && slices.Contains(s.has, n.at)
				if refused := r.status == http.StatusForbidden || r.status == http.StatusUnauthorized; refused == allowed {
					t.Errorf("%s as %v of %q: %d %s, allowed: %v", o.id, role, s.spec, r.status, r.body, allowed)
				}
			}
		}
	}
	t.Logf("%d operations, %d calls", len(ops), calls)

	t.Run("a viewer writes nothing", func(t *testing.T) {
		before, err := admin.FileSystem(ctx, "a", "data")
		if err != nil {
			t.Fatal(err)
		}
		tree := listing(root, "a/data", "/")
		viewer := as(accounts.Viewer, "")
		for _, o := range ops {
			if o.method != "GET" && o.id != "log-in" && o.id != "log-out" {
				o.call(viewer, 0)
			}
		}
		after, err := admin.FileSystem(ctx, "a", "data")
		if now := listing(root, "a/data", "/"); err != nil || now != tree || after.UsedInodes != before.UsedInodes {
			t.Errorf("%v: %s, before it was %s", err, now, tree)
		}
	})

	t.Run("profiles", func(t *testing.T) {
		root.do("GET", "/profiles/goroutine?debug=1", nil).want(t, "goroutines", 200, "goroutine profile: total")
		root.do("GET", "/profiles/profile?seconds=1", nil).want(t, "CPU", 200)
		root.do("GET", "/profiles/profile?seconds=31", nil).want(t, "for too long", 400, "from 1 to 30")
		root.do("GET", "/profiles/ghost", nil).want(t, "none", 404, "heap")
		as(accounts.Editor, "").do("GET", "/profiles/heap", nil).want(t, "an editor", 403)
	})

	t.Run("other workspaces are not there", func(t *testing.T) {
		b := as(accounts.Admin, "b")
		for _, p := range []string{"/filesystems", "/workspaces", "/tokens", "/jobs", "/session"} {
			r := b.do("GET", p, nil).want(t, p, 200)
			for _, s := range []string{`"workspace":"a"`, `"name":"a"`, `"a/data`, `"default"`, `"dev"`} {
				if strings.Contains(string(r.body), s) {
					t.Errorf("%s tells of another workspace: %s", p, r.body)
				}
			}
		}
		if r := b.do("GET", "/filesystems", nil); !strings.Contains(string(r.body), `"workspace":"b"`) {
			t.Errorf("its own are missing: %s", r.body)
		}
		// What is there and what is not is refused alike.
		there, not := b.do("GET", at("a/data", "/stat", "/in"), nil), b.do("GET", at("a/ghost", "/stat", "/in"), nil)
		if there.status != not.status || strings.ReplaceAll(string(there.body), "data", "ghost") != string(not.body) {
			t.Errorf("%s and %s differ", there.body, not.body)
		}
		r := root.do("DELETE", at("a/data", "", "/into", "recursive", "true"), nil).want(t, "delete", 202)
		var j struct{ ID int }
		if err := json.Unmarshal(r.body, &j); err != nil {
			t.Fatal(err)
		}
		job := fmt.Sprintf("/jobs/%d", j.ID)
		b.do("GET", job, nil).want(t, "a job", 404)
		b.do("POST", job+"/cancel", nil).want(t, "a job", 404)
		as(accounts.Viewer, "a").do("GET", job, nil).want(t, "its own", 200)
		as(accounts.Viewer, "a").do("POST", job+"/cancel", nil).want(t, "a viewer", 403)
		up := root.tus("POST", "/uploads/b/data?path=/in/up", nil, "Upload-Length", "5").want(t, "begin", 201).header.Get("Location")
		b.tus("HEAD", strings.TrimPrefix(up, "/api/v1"), nil).want(t, "another token's upload", 404)
		b.do("DELETE", "/tokens/dev", nil).want(t, "another's token", 404)
	})

	t.Run("a token makes none that may more", func(t *testing.T) {
		a := as(accounts.Admin, "a/data:/in")
		for _, s := range []string{`[]`, `["a"]`, `["a/data"]`, `["a/data:/out"]`, `["a/data:/into"]`, `["a/data:/in","b"]`} {
			a.do("POST", "/tokens", strings.NewReader(`{"name":"x","role":"viewer","scopes":`+s+`}`), "Content-Type", "application/json").want(t, s, 403)
		}
		a.do("POST", "/tokens", strings.NewReader(`{"name":"x","role":"admin","scopes":["a/data:/in/deep"]}`), "Content-Type", "application/json").want(t, "a part of it", 200)
		a.do("POST", "/tokens", strings.NewReader(`{"name":"y","role":"admin","scopes":["a/data:/in/../out"]}`), "Content-Type", "application/json").want(t, "a detour", 400)
	})

	t.Run("nothing leads out of a prefix", func(t *testing.T) {
		in := as(accounts.Editor, "a/data:/in")
		fs, _ := c.gateway.Find("a", "data")
		d, err := fs.Lookup(ctx, &vfs.Root, vfs.RootIno, "in")
		if err != nil {
			t.Fatal(err)
		}
		for name, target := range map[string]string{"link": "../out", "abs": "/out"} {
			if _, err := fs.MakeNode(ctx, &vfs.Root, d.Ino, name, vfs.NodeArgs{Type: vfs.TypeSymlink, Target: target}); err != nil {
				t.Fatal(err)
			}
		}
		refused := func(what, method, address string, statuses ...int) {
			t.Helper()
			if r := in.do(method, address, nil); !slices.Contains(statuses, r.status) {
				t.Errorf("%s: %d %s", what, r.status, r.body)
			}
		}
		for _, p := range []string{"/in/../out", "/in/..", "/in/x/../../out", "/out", "/", "/inside", "/in\x00/x", "in"} {
			refused(p, "GET", at("a/data", "", p), 400, 403)
			refused(p, "PUT", at("a/data", "/content", p+"/new"), 400, 403)
		}
		refused("dots that are escaped twice", "GET", "/files/a/data?path=/in/%252e%252e/out", 404)
		refused("two paths", "GET", "/files/a/data/stat?path=/in&path=/out", 200) // the first one counts, for the check and for what is done
		for _, sub := range []string{"", "/stat", "/content", "/archive"} {       // what one parser sees and another does not
			for _, q := range []string{"path=/in/x;&path=/out", "path=/in/x%zz&path=/out", "path=/out;&path=/in", "path=/in;path=/out"} {
				refused(sub+" "+q, "GET", "/files/a/data"+sub+"?"+q, 400)
			}
		}
		refused("upload out by two parsers", "PUT", "/files/a/data/content?path=/in/x;&path=/out/x", 400)
		refused("move out by two parsers", "POST", "/files/a/data/rename?path=/in/g&to=/in/x;&to=/out/g", 400)
		for _, l := range []string{"/in/link", "/in/abs"} {
			refused("list "+l, "GET", at("a/data", "", l), 400)
			refused("through "+l, "PUT", at("a/data", "/content", l+"/new"), 400)
			refused("archive "+l, "GET", at("a/data", "/archive", l), 400)
		}
		refused("move out", "POST", at("a/data", "/rename", "/in/g", "to", "/out/g"), 403)
		refused("move in", "POST", at("a/data", "/rename", "/out", "to", "/in/out"), 403)
		refused("move the prefix", "POST", at("a/data", "/rename", "/in", "to", "/in/in"), 403)
		refused("delete the prefix", "DELETE", at("a/data", "", "/in", "recursive", "true"), 403)
		if r := in.tus("POST", "/uploads/a/data?path=/out/x", nil, "Upload-Length", "1"); r.status != 403 {
			t.Errorf("upload out: %d %s", r.status, r.body)
		}
		if r := in.tus("POST", "/uploads/a/data", nil, "Upload-Length", "1", "Upload-Metadata", "path L291dC94"); r.status != 403 { // "/out/x"
			t.Errorf("upload out by metadata: %d %s", r.status, r.body)
		}
		if names := listing(root, "a/data", "/out"); names != "[]" {
			t.Errorf("/out has %s", names)
		}
	})
}

// listing is what a directory has.
func listing(u *user, fs, p string) string {
	r := u.do("GET", at(fs, "", p), nil).want(u.t, "list", 200)
	var page struct{ Files json.RawMessage }
	_ = json.Unmarshal(r.body, &page)
	return string(page.Files)
}

// Browsers: a token in a cookie that scripts and other sites cannot use, and failed attempts that cost.
func TestLogin(t *testing.T) {
	t.Parallel()
	c := startQuick(t, apiConfig(t))
	defer c.mustStop(t)
	u := c.user(t, "")
	body := func(token string) io.Reader { return strings.NewReader(`{"token":"` + token + `"}`) }
	json := []string{"Content-Type", "application/json"}
	u.do("POST", "/session", body("rackfs_x"), json...).want(t, "no token", 401)
	u.do("POST", "/session", body(c.Token()), append(json, "Origin", "http://elsewhere")...).want(t, "from another site", 403)
	r := u.do("POST", "/session", body(c.Token()), append(json, "Origin", strings.TrimSuffix(u.base, "/api/v1"))...).want(t, "log in", 200, `"dev"`)
	set := r.header.Get("Set-Cookie")
	for _, s := range []string{"rackfs_session=" + c.Token(), "HttpOnly", "SameSite=Strict", "Path=/"} {
		if !strings.Contains(set, s) {
			t.Errorf("cookie %q, want %s", set, s)
		}
	}
	cookie, _, _ := strings.Cut(set, ";")
	u.do("GET", "/session", nil, "Cookie", cookie).want(t, "with the cookie", 200, `"dev"`)
	for what, h := range map[string][]string{
		"no origin": nil, "another site": {"Sec-Fetch-Site", "cross-site"}, "the same site": {"Sec-Fetch-Site", "same-site"}, "another origin": {"Origin", "http://elsewhere"}, "null": {"Origin", "null"},
	} {
		u.do("POST", at("default/default", "/directory", "/x"), nil, append(h, "Cookie", cookie)...).want(t, what, 403)
	}
	u.do("POST", at("default/default", "/directory", "/x"), nil, "Cookie", cookie, "Sec-Fetch-Site", "same-origin").want(t, "from our page", 200)
	if set := u.do("DELETE", "/session", nil, "Cookie", cookie, "Sec-Fetch-Site", "same-origin").want(t, "log out", 200).header.Get("Set-Cookie"); !strings.Contains(set, "Max-Age=0") {
		t.Errorf("cookie after that: %q", set)
	}
	// An answer says by which id its request is found in the audit log, which is not what its sender calls it.
	refused := u.do("DELETE", "/tokens/x", nil, api.RequestIDHeader, "mine").want(t, "without a token", 401).header.Get(api.RequestIDHeader)
	log, err := os.ReadFile(filepath.Join(c.cfg.DataDir, accounts.AuditName))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), `"request":"`+refused+`"`); n != 1 || len(refused) != 16 {
		t.Errorf("%d lines of the audit log are about request %q:\n%s", n, refused, log)
	}
	// A token that is revoked is refused at once.
	gone := c.as(t, accounts.Viewer, "default")
	gone.do("GET", "/session", nil).want(t, "a token", 200)
	c.user(t, c.Token()).do("DELETE", "/tokens/"+"viewer%20of%20default", nil).want(t, "revoke", 200)
	gone.do("GET", "/session", nil).want(t, "after that", 401, "revoked")
	// Attempts run out, but not for who has a token.
	bad := c.user(t, "rackfs_"+strings.Repeat("A", 43))
	last := 0
	for range 12 {
		last = bad.do("GET", "/session", nil).status
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("the twelfth attempt is answered with %d", last)
	}
	if r := bad.do("GET", "/session", nil).want(t, "and the next", 429); r.header.Get("Retry-After") == "" {
		t.Error("it is not said when to try again")
	}
	c.user(t, c.Token()).do("GET", "/session", nil).want(t, "with a token that was good before", 200)
}

// A client on another machine trusts the gateway by the fingerprint of the cluster's CA.
func TestClientOverTLS(t *testing.T) {
	t.Parallel()
	cfg := apiConfig(t)
	cfg.APIAddr = "0.0.0.0:0"
	c := startQuick(t, cfg)
	defer c.mustStop(t)
	ctx := t.Context()
	_, port, err := net.SplitHostPort(c.apiLn.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	address := "https://127.0.0.1:" + port
	dial := func(e api.Endpoint) *api.Client {
		t.Helper()
		k, err := api.Connect(e)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Close)
		return k
	}
	for what, e := range map[string]api.Endpoint{"no trust": {URL: address, Token: c.Token()}, "another CA": {URL: address, Token: c.Token(), CA: strings.Repeat("0", 64)}} {
		if _, err := dial(e).WhoAmI(ctx); err == nil || strings.Contains(err.Error(), c.Token()) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, url := range []string{"http://192.0.2.1:7443", "ftp://x", "127.0.0.1", "https://u:p@x"} {
		if _, err := api.Connect(api.Endpoint{URL: url}); err == nil {
			t.Errorf("%s is connected to", url)
		}
	}
	k := dial(api.Endpoint{URL: address, Token: c.Token(), CA: c.ca.Fingerprint()})
	if w, err := k.WhoAmI(ctx); err != nil || w.Name != "dev" || w.Role != "admin" {
		t.Fatalf("%+v %v", w, err)
	}
	tree := k.Tree("", "default")
	data := noise(5, 2<<20+1)
	sum := sha256.Sum256(data)
	if _, err := tree.Upload(ctx, "/a/b", bytes.NewReader(data), api.Put{Length: int64(len(data)), Digest: sum[:], Parents: true, Mode: "0600", Mtime: time.Unix(1e9, 5)}); err != nil {
		t.Fatal(err)
	}
	f, err := tree.Stat(ctx, "/a/b")
	if err != nil || f.Size != uint64(len(data)) || !f.Mtime.Equal(time.Unix(1e9, 5)) || f.Mode != "0600" {
		t.Fatalf("%+v %v", f, err)
	}
	in, err := tree.Download(ctx, "/a/b", 1<<20, f.ETag)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(in); err != nil || !bytes.Equal(b, data[1<<20:]) || in.Size != f.Size {
		t.Errorf("%d bytes of %d, %v", len(b), in.Size, err)
	}
	in.Close()
	if _, err := tree.Rename(ctx, "/a/b", "/a/c", true); err != nil {
		t.Error(err)
	}
	if _, err := tree.Download(ctx, "/a/c", 0, `"1-1"`); vfs.KindOf(err) != vfs.KindChanged {
		t.Errorf("another ETag: %v", err)
	}
	if l, err := tree.List(ctx, "/a", "", 0); err != nil || len(l.Files) != 1 || l.Files[0].Name != "c" {
		t.Errorf("%+v %v", l, err)
	}
	if j, err := tree.DeleteAll(ctx, "/a/c"); err != nil || j != nil {
		t.Errorf("%+v %v", j, err)
	}
	if j, err := tree.DeleteAll(ctx, "/a"); err != nil || j == nil || j.Kind != api.JobDelete {
		t.Errorf("%+v %v", j, err)
	}
	if _, err := k.ChangeWorkspace(ctx, "default", api.WorkspaceChange{Features: map[string]bool{"rsync": false}}); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Upload(ctx, "/x", nil, api.Put{Sync: true}); vfs.KindOf(err) != vfs.KindPerm || !strings.Contains(err.Error(), "rsync is switched off") {
		t.Errorf("a feature that is off: %v", err)
	}
}
