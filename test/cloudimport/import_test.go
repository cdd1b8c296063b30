package cloudimport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/test/s3server"
)

const (
	// childDir names, to a child of the test, the data directory to serve.
	childDir = "RACKFS_TEST_CHILD_DIR"
	// patience ends a test that hangs.
	patience = 5 * time.Minute
	// workers is how many objects are read at a time.
	workers = 8
)

func TestMain(m *testing.M) {
	dir := os.Getenv(childDir)
	if dir == "" {
		os.Exit(m.Run())
	}
	err := devcluster.Run(context.Background(), devcluster.Config{
		DataDir: dir, NFSAddr: "127.0.0.1:0", APIAddr: "127.0.0.1:0", Voters: 1, BlockStores: 3, Profile: "2+1", ImportAllow: []string{"127.0.0.1"},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}, os.Stdout, time.Minute)
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// cluster is one in a process of its own.
type cluster struct {
	t    *testing.T
	dir  string
	logs string // file with all that it says
	cmd  *exec.Cmd
	api  *api.Client
	at   api.Endpoint
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, dir: filepath.Join(t.TempDir(), "data"), logs: filepath.Join(t.TempDir(), "log")}
	c.start()
	t.Cleanup(func() { c.kill() })
	return c
}

func (c *cluster) start() {
	c.t.Helper()
	log, err := os.OpenFile(c.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	c.cmd = exec.Command(os.Args[0])
	c.cmd.Env = append(os.Environ(), childDir+"="+c.dir)
	c.cmd.Stderr = log
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	var e api.Endpoint
	for s := bufio.NewScanner(out); s.Scan(); {
		switch word, value, _ := strings.Cut(strings.TrimSpace(s.Text()), " "); word {
		case "api":
			e.URL = strings.TrimSpace(value)
		case "token":
			e.Token = strings.TrimSpace(value)
		case "stop":
			c.at = e
			if c.api, err = api.Connect(e); err != nil {
				c.t.Fatal(err)
			}
			return
		}
	}
	said, _ := os.ReadFile(c.logs)
	c.t.Fatalf("the cluster did not start:\n%s", said)
}

func (c *cluster) kill() {
	c.api.Close()
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// begin begins an import.
func (c *cluster) begin(to string, n api.NewImport) api.Job {
	c.t.Helper()
	j, err := c.api.Tree("default", "default").Import(c.t.Context(), to, n)
	if err != nil {
		c.t.Fatal(err)
	}
	return j
}

// until waits for a job.
func (c *cluster) until(id uint64, ok func(api.Job) bool) api.Job {
	c.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		j, err := c.api.Job(c.t.Context(), id)
		if err == nil && ok(j) {
			return j
		}
		if time.Now().After(end) {
			c.t.Fatalf("waited in vain: %+v %v", j, err)
		}
	}
}

func over(j api.Job) bool { return j.State != "queued" && j.State != "running" }

// download reads a file.
func download(ctx context.Context, tree *api.Tree, path string, to io.Writer) error {
	r, err := tree.Download(ctx, path, 0, "")
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(to, r)
	return err
}

// noise is n bytes that are the same for a seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// objects are what the test imports: many small ones, a large one, and a directory.
func objects() (keys []string, sizes map[string]int) {
	count, large := 200, 32<<20
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		count, large = 2000, 1<<30
	}
	sizes = map[string]int{}
	for i := range count - 2 {
		key := fmt.Sprintf("photos/%c%d/%04d ä+&.jpg", 'a'+i%5, i%9, i)
		keys, sizes[key] = append(keys, key), i*37%20_000
	}
	keys = append(keys, "photos/c4/large", "photos/empty/")
	sizes["photos/c4/large"] = large
	return keys, sizes
}

func TestImport(t *testing.T) {
	s := s3server.Start(t)
	c := newCluster(t)
	const bucket = "bucket-of-the-test"
	s.Bucket(t, bucket)
	keys, sizes := objects()
	var total uint64
	var wg sync.WaitGroup
	room := make(chan struct{}, 8)
	for i, k := range keys {
		total += uint64(sizes[k])
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			if err := s.Put(t.Context(), bucket, k, noise(uint64(i), sizes[k])); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	s.Forget()
	s3 := api.NewImport{Source: "s3", Endpoint: s.URL, Bucket: bucket, AccessKey: s3server.AccessKey, SecretKey: s3server.SecretKey, Prefix: "photos/"}

	dry := s3
	dry.DryRun = true
	j := c.until(c.begin("/dry", dry).ID, over)
	if r := j.Import; j.State != "done" || r.Objects != uint64(len(keys)) || r.Bytes != total || r.Imported != uint64(len(keys)-1) || r.Directories != 1 || len(s.Reads()) > 0 {
		t.Fatalf("dry run: %+v %+v, %d objects, %d bytes; read %d", j, j.Import, len(keys), total, len(s.Reads()))
	}

	// The gateway, and all of the cluster with it, is killed in the middle.
	s.Hold(len(keys) / 2)
	j = c.begin("/in/photos", s3)
	c.until(j.ID, func(j api.Job) bool {
		return j.ItemsDone >= uint64(len(keys)/2) && len(s.Reads()) >= len(keys)/2+workers
	})
	c.kill()
	s.Release()
	c.start()
	j = c.until(j.ID, over)
	if r := j.Import; j.State != "done" || r.Imported != uint64(len(keys)-1) || r.ImportedBytes != total || r.Directories != 1 || r.Skipped != 0 {
		t.Fatalf("%+v %+v", j, j.Import)
	}
	again := 0
	for _, k := range keys {
		n := s.Reads()[bucket+"/"+k]
		if sizes[k] > 0 && n == 0 || n > 2 {
			t.Errorf("%s was read %d times", k, n)
		}
		again += max(n-1, 0)
	}
	if again > workers {
		t.Errorf("%d objects were read twice, %d were in progress", again, workers)
	}
	if r := j.Import; r.BySizeOnly > 0 || r.Verified != uint64(len(keys)-1) {
		t.Errorf("verified %d, by size only %d", r.Verified, r.BySizeOnly)
	}
	tree := c.api.Tree("default", "default")
	for i, k := range keys {
		if strings.HasSuffix(k, "/") {
			if f, err := tree.Stat(t.Context(), "/in/"+strings.TrimSuffix(k, "/")); err != nil || f.Type != "directory" {
				t.Errorf("%s: %+v %v", k, f, err)
			}
			continue
		}
		got := sha256.New()
		if err := download(t.Context(), tree, "/in/"+k, got); err != nil {
			t.Errorf("%s: %v", k, err)
			continue
		}
		if want := sha256.Sum256(noise(uint64(i), sizes[k])); !bytes.Equal(got.Sum(nil), want[:]) {
			t.Errorf("%s has another content", k)
		}
	}
	t.Logf("%d objects, %d bytes, %d were read twice", len(keys), total, again)

	t.Run("R2", func(t *testing.T) {
		r2 := s3
		r2.Source, r2.Prefix = "r2", "photos/a"
		j := c.until(c.begin("/r2", r2).ID, over)
		if j.State != "done" || j.Import.Imported == 0 || j.Import.Failed+j.Import.Refused > 0 {
			t.Errorf("%+v %+v", j, j.Import)
		}
		r2.Endpoint += "/" + bucket
		if _, err := c.api.Tree("default", "default").Import(t.Context(), "/r2", r2); err == nil || !strings.Contains(err.Error(), s.URL+" is the endpoint") {
			t.Errorf("with the bucket in the endpoint: %v", err)
		}
	})
	t.Run("wrong keys", func(t *testing.T) {
		for what, edit := range map[string]func(*api.NewImport){
			"access key": func(n *api.NewImport) { n.AccessKey = "AKIANOBODY0000000000" },
			"secret key": func(n *api.NewImport) { n.SecretKey = "anotherSecretThatNobodyMay+See" },
		} {
			n := s3
			edit(&n)
			if j := c.until(c.begin("/wrong", n).ID, over); j.State != "failed" || !strings.Contains(j.Error, "the endpoint refuses the keys") {
				t.Errorf("%s: %+v", what, j)
			}
		}
		n := s3
		n.Bucket = "no-such-bucket"
		if j := c.until(c.begin("/wrong", n).ID, over); j.State != "failed" || !strings.Contains(j.Error, "no bucket no-such-bucket") {
			t.Errorf("%+v", j)
		}
	})
	t.Run("quota", func(t *testing.T) {
		if _, err := c.api.CreateFileSystem(t.Context(), api.NewFileSystem{Name: "small", FileSystemSettings: api.FileSystemSettings{QuotaBytes: 256 << 10}}); err != nil {
			t.Fatal(err)
		}
		var j api.Job
		for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // until it is served
			var err error
			if j, err = c.api.Tree("default", "small").Import(t.Context(), "/", s3); err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatal(err)
			}
		}
		if j = c.until(j.ID, over); j.State != "failed" || !strings.Contains(j.Error, "disk quota exceeded") || !strings.Contains(j.Error, "make room") {
			t.Errorf("%+v", j)
		}
		n := 0
		small := c.api.Tree("default", "small")
		for _, k := range keys {
			f, err := small.Stat(t.Context(), "/"+strings.TrimPrefix(strings.TrimSuffix(k, "/"), "photos/"))
			if err != nil || f.Type == "directory" {
				continue
			}
			n++
			if f.Size != uint64(sizes[k]) {
				t.Errorf("%s: %d bytes of %d", k, f.Size, sizes[k])
			}
		}
		// What was being given its name when the job ended is there, and not counted.
		if n == 0 || n >= len(keys)-1 || uint64(n) < j.Import.Imported || uint64(n) > j.Import.Imported+workers {
			t.Errorf("%d files, %+v", n, j.Import)
		}
	})
	t.Run("internal address", func(t *testing.T) {
		n := s3
		n.Endpoint = strings.Replace(s.URL, "127.0.0.1", "127.0.0.2", 1)
		if _, err := c.api.Tree("default", "default").Import(t.Context(), "/x", n); err == nil || !strings.Contains(err.Error(), "internal address") {
			t.Errorf("%v", err)
		}
	})
	t.Run("switched off", func(t *testing.T) {
		if _, err := c.api.ChangeWorkspace(t.Context(), "default", api.WorkspaceChange{Features: map[string]bool{"cloud-import": false}}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.api.Tree("default", "default").Import(t.Context(), "/x", s3); err == nil || !strings.Contains(err.Error(), "cloud-import is switched off") {
			t.Errorf("%v", err)
		}
	})
	t.Run("malformed", func(t *testing.T) {
		for _, body := range []string{`{"source":"s3","bucket":"b","access_key":"a","secret_key":["AbCdEfGhSecret"]}`, `{"source":"s3","bucket":7,"access_key":"a","secret_key":"AbCdEfGhSecret","more":"AbCdEfGhSecret"}`, `{"secret_key":"AbCdEfGhSecret"}`, `{"secret_key":"AbCdEfGhSecret"`} {
			r, err := http.NewRequestWithContext(t.Context(), "POST", c.at.URL+"/api/v1/files/default/default/imports?path=/x", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+c.at.Token)
			r.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode/100 != 4 || bytes.Contains(answer, []byte("AbCdEfGhSecret")) {
				t.Errorf("%s: %d %s %v", body, resp.StatusCode, answer, err)
			}
		}
	})
	t.Run("secrets", func(t *testing.T) {
		page, err := c.api.Jobs(t.Context(), false, 0)
		if err != nil || len(page.Jobs) < 6 {
			t.Fatalf("%d jobs: %v", len(page.Jobs), err)
		}
		records, err := json.Marshal(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range page.Jobs {
			one, err := c.api.Job(t.Context(), j.ID)
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(one)
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, b...)
		}
		c.kill()
		found := map[string][]string{}
		look := func(name string, b []byte) {
			for _, secret := range []string{s3server.SecretKey, s3server.AccessKey, "anotherSecretThatNobodyMay+See", "AKIANOBODY0000000000", "AbCdEfGhSecret"} {
				for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))[:16]} {
					if bytes.Contains(b, []byte(form)) {
						t.Errorf("a secret is in %s", name)
					}
				}
			}
			for _, word := range []string{bucket, "start-import"} {
				if bytes.Contains(b, []byte(word)) {
					found[word] = append(found[word], name)
				}
			}
		}
		look("the records of jobs", records)
		files := 0
		for _, dir := range []string{c.dir, c.logs} {
			err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
				if err != nil || !e.Type().IsRegular() {
					return err
				}
				b, err := os.ReadFile(p)
				files++
				look(p, b)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		// The search finds what there is: bucket and audit lines.
		if files < 20 || len(found[bucket]) < 3 || len(found["start-import"]) == 0 {
			t.Errorf("%d files, found %v", files, found)
		}
		audit, err := os.ReadFile(filepath.Join(c.dir, "audit.log"))
		if err != nil || !strings.Contains(string(audit), `path=\"/in/photos\" from `+bucket+"/photos/ at ") {
			t.Errorf("%v\n%s", err, audit)
		}
		c.start() // for the end of the test
	})
}
