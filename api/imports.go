package api

import (
	"context"
	"net/http"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/cloudimport"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/jobs"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// JobImport is the kind of jobs that copy the objects of a bucket into a directory.
const JobImport = "import"

// NewImport says what is to be imported.
type NewImport struct {
	Source       string `json:"source" enum:"s3,r2" doc:"s3: Amazon S3, or with an endpoint anything that speaks its protocol; r2: Cloudflare R2"`
	Endpoint     string `json:"endpoint,omitempty" doc:"URL without the bucket's name. Of r2 it is needed; of s3 absent: Amazon's" example:"https://ACCOUNT.r2.cloudflarestorage.com"`
	Bucket       string `json:"bucket"`
	AccessKey    string `json:"access_key" doc:"Kept encrypted while the job is not over, and in no answer"`
	SecretKey    string `json:"secret_key" doc:"As access_key"`
	SessionToken string `json:"session_token,omitempty" doc:"As access_key"`
	Region       string `json:"region,omitempty" doc:"Absent: Amazon is asked; others get auto (r2) or us-east-1"`
	Prefix       string `json:"prefix,omitempty" doc:"Of keys. The directory that it names is cut off"`
	Conflict     string `json:"conflict,omitempty" enum:"skip,overwrite,if-newer" doc:"If there is a file already; absent: skip. if-newer: it is overwritten if the object was changed later than the file"`
	DryRun       bool   `json:"dry_run,omitempty" doc:"Only list, and count what would be imported"`
	NoETagCheck  bool   `json:"no_etag_check,omitempty" doc:"Do not compare content with ETags: of an endpoint whose ETags look like an MD5 and are none"`
}

func (a *API) imports() {
	handle(a, "POST /files/{workspace}/{filesystem}/imports", "start-import", "Import the objects of a bucket into a directory: the answer is the job that does it", a.startImport)
}

func (a *API) startImport(ctx context.Context, in *struct {
	PathInput
	Body NewImport
}) (*jobOutput, error) {
	const op = "import"
	if a.opt.Imports == nil {
		return nil, vfs.Errorf(vfs.KindNotSupported, op, "this node does not import: ask a gateway")
	}
	t, rec, dest, err := a.at(ctx, &in.PathInput, true)
	if err != nil {
		return nil, err
	}
	if err := accounts.Allows(ctx, a.opt.Meta, rec.Workspace, accounts.FeatureImport); err != nil {
		return nil, err
	}
	b := &in.Body
	keys := cloudimport.Secrets{AccessKey: b.AccessKey, SecretKey: b.SecretKey, SessionToken: b.SessionToken}
	spec, err := a.opt.Imports.Prepare(cloudimport.Spec{
		Source:   cloudimport.Source{Kind: b.Source, Endpoint: b.Endpoint, Bucket: b.Bucket, Region: b.Region, Prefix: b.Prefix},
		Conflict: cloudimport.Conflict(b.Conflict), DryRun: b.DryRun, NoETagCheck: b.NoETagCheck,
	}, &keys)
	if err != nil {
		return nil, err
	}
	if w := callerOf(ctx).answer; w != nil {
		w.detail = "from " + spec.Source.Shown()
	}
	if err := mayImportTo(ctx, t, dest); err != nil {
		return nil, err
	}
	j, err := a.newJob(ctx, JobImport, rec, dest, spec, func(j *metapb.Job) error {
		j.Report = spec.Report().Encode()
		return a.opt.Imports.Seal(ctx, j, keys)
	})
	if err != nil {
		return nil, err
	}
	return &jobOutput{http.StatusAccepted, jobOf(j)}, nil
}

// mayImportTo refuses a destination that is no directory, or that does not exist and may not be made by who calls: in the nearest directory above it that there is.
func mayImportTo(ctx context.Context, t *files.Tree, dest files.Path) error {
	n, err := t.Walk(ctx, dest, "import")
	for at := dest; vfs.KindOf(err) == vfs.KindNotFound && at != "/"; {
		at, _ = at.Split()
		if _, err = t.Walk(ctx, at, "import"); err == nil {
			return t.MayMake(at)
		}
	}
	switch {
	case err != nil:
		return err
	case !n.Attr.IsDir():
		return vfs.Errorf(vfs.KindNotDir, "import", "%s: the destination is a directory", dest.Shown())
	}
	return n.Attr.CheckAccess(&t.Cred, vfs.AccessWrite|vfs.AccessExec, "import")
}

// importation does jobs of imports.
type importation struct {
	served Files
	engine *cloudimport.Engine
}

// Importation does the jobs that start-import makes.
func Importation(served Files, e *cloudimport.Engine) jobs.Kind { return &importation{served, e} }

// AtMost implements jobs.Limited.
func (i *importation) AtMost() int { return cloudimport.Jobs }

// Run implements jobs.Kind.
func (i *importation) Run(ctx context.Context, j *jobs.Job) error {
	rec := j.Record()
	fs, now := i.served.FS(rec.Fs)
	if fs == nil {
		return vfs.Errorf(vfs.KindUnavailable, "job", "file system %s is not served here now", rec.FileSystem)
	}
	if err := writable(now); err != nil { // by now
		return err
	}
	return i.engine.Run(ctx, j, cloudimport.Target{
		Tree:   &files.Tree{FS: fs, Cred: vfs.Cred{UID: rec.Uid, GID: rec.Gid}},
		Origin: func() uint64 { return i.served.Origin(uint16(now.Shard)) },
	})
}

// Import begins an import into a directory; the job's progress is Client.Job.
func (t *Tree) Import(ctx context.Context, path string, n NewImport) (out Job, err error) {
	err = t.c.call(ctx, http.MethodPost, t.address("/imports", path, nil), n, &out)
	return out, err
}
