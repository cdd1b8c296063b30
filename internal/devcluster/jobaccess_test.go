package devcluster

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/jobs"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// bucketThatHangs is an endpoint of one bucket with one object, of which half comes.
func bucketThatHangs(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Trim(r.URL.Path, "/") == "bucket" {
			fmt.Fprint(w, `<ListBucketResult><Name>bucket</Name><Contents><Key>k</Key><LastModified>2026-01-02T03:04:05Z</LastModified><ETag>"x"</ETag><Size>8</Size></Contents></ListBucketResult>`)
			return
		}
		w.Header().Set("ETag", `"x"`)
		w.Header().Set("Last-Modified", "Fri, 02 Jan 2026 03:04:05 GMT")
		w.Header().Set("Content-Length", "8")
		_, _ = w.Write([]byte("half"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	return s
}

// An import ends when whoever began it may not do it any more: his token is revoked, while it runs or while no gateway does, or the workspace's switch is turned off. Another's goes on.
func TestImportEndsWithItsToken(t *testing.T) {
	t.Parallel()
	cfg := apiConfig(t)
	cfg.ImportAllow, cfg.recheck = []string{"127.0.0.1"}, time.Hour // what happens in its first life is found out in its second
	c := startQuick(t, cfg)
	stop := func() {
		if err := c.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
	defer func() { stop() }()
	s3 := bucketThatHangs(t)
	begin := func(token, dir string) uint64 {
		t.Helper()
		k, err := api.Connect(api.Endpoint{URL: c.APIURL(), Token: token})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		j, err := k.Tree("", "default").Import(t.Context(), dir, api.NewImport{Source: "s3", Endpoint: s3.URL, Bucket: "bucket", AccessKey: "AKIAEXAMPLE000000000", SecretKey: "secret", Region: "r"})
		if err != nil {
			t.Fatal(err)
		}
		return j.ID
	}
	until := func(id uint64, what string, ok func(*metapb.Job) bool) *metapb.Job {
		t.Helper()
		var j *metapb.Job
		await(t, func() string {
			var err error
			if j, err = jobs.Find(t.Context(), c.meta, id); err != nil || !ok(j) {
				return fmt.Sprintf("%s: %v, %v", what, j, err)
			}
			return ""
		})
		return j
	}
	runs := func(id uint64) {
		t.Helper()
		until(id, "it does not run", func(j *metapb.Job) bool {
			if jobs.Over(j.State) {
				t.Fatalf("it is over: %v", j)
			}
			return j.State == metapb.JobState_JOB_RUNNING && j.RunnerOrigin == c.gateway.Origin(clusterShard) && j.BytesDone == 4
		})
	}
	stopped := func(id uint64, why string) {
		t.Helper()
		j := until(id, "it goes on", func(j *metapb.Job) bool { return jobs.Over(j.State) })
		if j.State != metapb.JobState_JOB_FAILED || !strings.Contains(j.Error, "stopped: ") || !strings.Contains(j.Error, why) || len(j.Sealed) > 0 {
			t.Errorf("%v, want that it says %q", j, why)
		}
	}
	revoke := func(name string) {
		t.Helper()
		if _, err := accounts.RevokeToken(t.Context(), c.meta, accounts.Operator(), name); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"/a", "/b"} {
		c.user(t, c.Token()).do("POST", at("default/default", "/directory", dir), nil).want(t, "mkdir "+dir, 200)
	}
	goesOn := begin(c.Token(), "/goes-on")
	runs(goesOn)
	editor := c.as(t, accounts.Editor, "default/default:/a")
	id := begin(editor.token, "/a")
	runs(id)
	revoke("editor of default.default:.a")
	runs(id)
	stop()

	cfg.recheck = 20 * time.Millisecond
	c = startQuick(t, cfg)
	stopped(id, "was revoked")
	runs(goesOn)
	editor = c.as(t, accounts.Editor, "default/default:/b")
	id = begin(editor.token, "/b")
	runs(id)
	revoke("editor of default.default:.b")
	stopped(id, "was revoked")
	runs(goesOn)
	off := func(s *accounts.Settings) { s.Off = []string{accounts.FeatureImport} }
	if _, err := accounts.ChangeWorkspace(t.Context(), c.meta, "default", off); err != nil {
		t.Fatal(err)
	}
	stopped(goesOn, "cloud-import is switched off")
	if left := c.staged(t); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}

	// What a token has to be for each kind of job.
	token := func(role accounts.Role, scope string) string {
		t.Helper()
		p, err := accounts.ParsePlace(scope)
		if err != nil {
			t.Fatal(err)
		}
		n := accounts.NewToken{Name: fmt.Sprint(role, " of ", strings.ReplaceAll(scope, "/", ".")), Role: role, Scopes: []accounts.Place{p}, Expires: c.now().Add(time.Hour)}
		_, rec, err := accounts.CreateToken(t.Context(), c.meta, accounts.Operator(), n, c.now())
		if err != nil {
			t.Fatal(err)
		}
		return rec.Id
	}
	deep, viewer, other := token(accounts.Editor, "default/default:/in"), token(accounts.Viewer, "default"), token(accounts.Editor, "default/another")
	for _, x := range []struct {
		token, kind, path string
		later             time.Duration
		want              vfs.Kind
	}{
		{"", api.JobDelete, "/in", 0, vfs.KindOK},
		{"", api.JobImport, "/in", 0, vfs.KindPerm}, // switched off
		{deep, api.JobDelete, "/in/d", 0, vfs.KindOK},
		{deep, api.JobDelete, "/in/d", 2 * time.Hour, vfs.KindUnauthorized},
		{deep, api.JobDelete, "/in", 0, vfs.KindPerm},
		{deep, api.JobDelete, "/inside", 0, vfs.KindPerm},
		{viewer, api.JobDelete, "/in/d", 0, vfs.KindPerm},
		{other, api.JobDelete, "/in/d", 0, vfs.KindPerm},
		{"0000000000000000", api.JobDelete, "/in/d", 0, vfs.KindUnauthorized},
	} {
		may := api.JobAccess(c.meta, func() time.Time { return c.now().Add(x.later) })
		err := may(t.Context(), &metapb.Job{Kind: x.kind, Workspace: "default", FileSystem: "default", Path: []byte(x.path), Token: x.token, AskedBy: "who"})
		if vfs.KindOf(err) != x.want {
			t.Errorf("%s of %s by %q: %v, want %v", x.kind, x.path, x.token, err, x.want)
		}
	}
}
