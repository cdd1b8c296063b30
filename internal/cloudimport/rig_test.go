package cloudimport

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/jobs"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// stagingFS is the file system in memory with a directory in the place of the hidden one, and a quota.
type stagingFS struct {
	vfs.FS
	hidden vfs.Ino
	mu     sync.Mutex // guards left
	left   int64      // bytes that may be written; negative at first: any
}

func (s *stagingFS) at(ino vfs.Ino) vfs.Ino {
	if ino == vfs.StagingIno(0) {
		return s.hidden
	}
	return ino
}

func (s *stagingFS) GetAttr(ctx context.Context, ino vfs.Ino) (vfs.Attr, error) {
	return s.FS.GetAttr(ctx, s.at(ino))
}

func (s *stagingFS) Create(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	return s.FS.Create(ctx, c, s.at(dir), name, a)
}

func (s *stagingFS) Remove(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	return s.FS.Remove(ctx, c, s.at(dir), name, what)
}

func (s *stagingFS) Rename(ctx context.Context, c *vfs.Cred, from vfs.Ino, name string, to vfs.Ino, toName string) (vfs.DirChange, vfs.DirChange, error) {
	return s.FS.Rename(ctx, c, s.at(from), name, s.at(to), toName)
}

func (s *stagingFS) Write(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, b []byte, how vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	s.mu.Lock()
	full := s.left >= 0 && s.left < int64(len(b))
	if s.left >= 0 && !full {
		s.left -= int64(len(b))
	}
	s.mu.Unlock()
	if full {
		return 0, vfs.Verifier{}, vfs.Errorf(vfs.KindQuota, "write", "")
	}
	return s.FS.Write(ctx, c, ino, off, b, how)
}

// journal keeps a job's record as shard 0 would.
type journal struct {
	mu    sync.Mutex // guards the following
	now   *metapb.Job
	saved *metapb.Job
	saves int
	hold  chan struct{} // Save waits for it; nil: it does not
}

func (j *journal) Record() *metapb.Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.now.CloneVT()
}

func (j *journal) Report(p jobs.Progress) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.now.ItemsDone, j.now.ItemsFailed, j.now.BytesDone, j.now.Note, j.now.Error = p.ItemsDone, p.ItemsFailed, p.BytesDone, p.Note, p.Error
	j.now.ItemsTotal, j.now.BytesTotal = p.ItemsTotal, p.BytesTotal
}

func (j *journal) Stand(p jobs.Progress, checkpoint, report []byte) {
	j.Report(p)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.now.Checkpoint, j.now.Report = checkpoint, report
}

func (j *journal) Save(ctx context.Context) error {
	j.mu.Lock()
	hold := j.hold
	rec := j.now.CloneVT()
	j.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return vfs.Wrap("test", ctx.Err())
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.saved = rec
	j.saves++
	return nil
}

// rig imports from an endpoint into a file system in memory.
type rig struct {
	*testing.T
	e       *endpoint
	engine  *Engine
	fs      *stagingFS
	tree    *files.Tree
	secrets Secrets
	spec    Spec
}

var testKey = bytes.Repeat([]byte{1}, 32)

func newTestRig(t *testing.T) *rig {
	reach, err := ParseReach([]string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	fs := &stagingFS{FS: memfs.New(memfs.Options{}), left: -1}
	r := &rig{T: t, e: newEndpoint(t), fs: fs, tree: &files.Tree{FS: fs, Cred: vfs.Root}, secrets: Secrets{AccessKey: "AKIAEXAMPLE000000000", SecretKey: "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"}}
	d, err := r.tree.Mkdir(t.Context(), "/hidden", false, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	fs.hidden = d.Attr.Ino
	r.engine = New(Options{Reach: reach, Parallel: 4, Pause: time.Millisecond, Key: func(context.Context) ([]byte, error) { return testKey, nil }})
	r.spec = Spec{Source: Source{Kind: S3, Endpoint: r.e.URL, Bucket: "bucket"}}
	return r
}

// job makes the record of one.
func (r *rig) job() *journal {
	r.Helper()
	spec, err := r.engine.Prepare(r.spec, &r.secrets)
	if err != nil {
		r.Fatal(err)
	}
	rec := &metapb.Job{Kind: "import", Fs: 1, Path: []byte("/to"), Spec: encode(spec), Report: spec.Report().Encode()}
	if err := r.engine.Seal(r.Context(), rec, r.secrets); err != nil {
		r.Fatal(err)
	}
	return &journal{now: rec, saved: rec}
}

func (r *rig) target() Target { return Target{Tree: r.tree, Origin: func() uint64 { return 7 }} }

// run runs a job to its end.
func (r *rig) run() (*Report, *metapb.Job, error) {
	r.Helper()
	j := r.job()
	err := r.engine.Run(r.Context(), j, r.target())
	rep := ReadReport(j.now.Report)
	if rep == nil {
		r.Fatal("no report")
	}
	r.noSecrets(string(encode(j.now)), fmt.Sprint(err))
	if n := j.now.SizeVT(); n > 60<<10 {
		r.Errorf("a record of %d bytes", n)
	}
	r.nothingLeft()
	return rep, j.now, err
}

func (r *rig) noSecrets(texts ...string) {
	r.Helper()
	for _, s := range texts {
		if strings.Contains(s, r.secrets.SecretKey) || strings.Contains(s, r.secrets.AccessKey) || r.secrets.SessionToken != "" && strings.Contains(s, r.secrets.SessionToken[:12]) {
			r.Errorf("secrets in %s", s)
		}
	}
}

// nothingLeft looks for hidden files.
func (r *rig) nothingLeft() {
	r.Helper()
	page, err := r.tree.List(r.Context(), "/hidden", 0, 1000)
	if err != nil || len(page.Entries) > 0 {
		r.Errorf("left over: %v %v", page.Entries, err)
	}
}

// tree lists what is below a directory: paths with the size of files.
func (r *rig) listing(dir files.Path) (out []string) {
	r.Helper()
	page, err := r.tree.List(r.Context(), dir, 0, 10000)
	if err != nil {
		r.Fatal(err)
	}
	for _, e := range page.Entries {
		p := dir.Join(e.Name)
		if e.Attr.IsDir() {
			out = append(append(out, string(p)+"/"), r.listing(p)...)
			continue
		}
		out = append(out, fmt.Sprintf("%s %d", p, e.Attr.Size))
	}
	slices.Sort(out)
	return out
}

func (r *rig) content(p files.Path) string {
	r.Helper()
	f, err := r.tree.Open(r.Context(), p)
	if err != nil {
		r.Fatal(err)
	}
	defer f.Close()
	var b bytes.Buffer
	if err := f.Copy(r.Context(), &b, 0, f.Node.Attr.Size); err != nil {
		r.Fatal(err)
	}
	return b.String()
}

// wants checks a report.
func (r *rig) wants(rep *Report, err error, imported, skipped, dirs, refused, failed uint64) {
	r.Helper()
	if (err != nil) != (failed > 0) {
		r.Errorf("error %v", err)
	}
	if rep.Imported != imported || rep.Skipped != skipped || rep.Directories != dirs || rep.Refused != refused || rep.Failed != failed || rep.Objects != imported+skipped+dirs+refused+failed {
		r.Errorf("%+v, want %d imported, %d skipped, %d directories, %d refused, %d failed", rep, imported, skipped, dirs, refused, failed)
	}
}
