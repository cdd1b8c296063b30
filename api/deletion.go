package api

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/jobs"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

type deleteOutput struct {
	Status int
	Body   *Job
}

// deletion is the spec of a job.
type deletion struct {
	Inode uint64 `json:"inode"` // it is removed only if the path still leads to this
}

// deleteTree removes a file, or queues a job that removes a directory.
func (a *API) deleteTree(ctx context.Context, t *files.Tree, rec *metapb.FileSystem, p files.Path) (*deleteOutput, error) {
	n, err := t.Walk(ctx, p, "remove")
	if err != nil {
		return nil, err
	}
	if n.Name == "" {
		return nil, vfs.Errorf(vfs.KindBusy, "remove", "/ stays: end the file system with `rackfs fs delete`")
	}
	if !n.Attr.IsDir() {
		return &deleteOutput{Status: http.StatusNoContent}, t.Remove(ctx, p, vfs.RemoveFile)
	}
	j, err := a.newJob(ctx, JobDelete, rec, p, deletion{uint64(n.Attr.Ino)})
	if err != nil {
		return nil, err
	}
	job := jobOf(j)
	return &deleteOutput{http.StatusAccepted, &job}, nil
}

// Deletion does the jobs that deleteTree makes.
func Deletion(served Files) jobs.Kind {
	return jobs.Func(func(ctx context.Context, j *jobs.Job) error {
		rec := j.Record()
		var spec deletion
		if err := json.Unmarshal(rec.Spec, &spec); err != nil {
			return vfs.Errorf(vfs.KindCorrupt, "job", "its spec: %w", err)
		}
		fs, now := served.FS(rec.Fs)
		if fs == nil {
			return vfs.Errorf(vfs.KindUnavailable, "job", "file system %s is not served here now", rec.FileSystem)
		}
		if err := writable(now); err != nil { // by now
			return err
		}
		t := &files.Tree{FS: fs, Cred: vfs.Cred{UID: rec.Uid, GID: rec.Gid}}
		before := j.Progress()
		sum, err := t.RemoveAll(ctx, files.Path(rec.Path), vfs.Ino(spec.Inode), func(r files.Removal, at files.Path) { j.Report(removed(before, r, at.Shown())) })
		j.Report(removed(before, sum, ""))
		return err
	})
}

func removed(before jobs.Progress, r files.Removal, at string) jobs.Progress {
	p := jobs.Progress{ItemsDone: before.ItemsDone + r.Removed, ItemsFailed: r.Failed, Note: at}
	if r.First != nil {
		p.Error = r.First.Error()
	}
	return p
}
