package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/cloudimport"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/jobs"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// JobDelete is the kind of jobs that remove a directory and all that is in it.
const JobDelete = "delete"

// Job is a piece of work that outlives who asked for it.
type Job struct {
	ID          uint64    `json:"id"`
	Kind        string    `json:"kind" doc:"What it does: delete or import"`
	State       string    `json:"state" enum:"queued,running,done,failed,canceled"`
	Canceling   bool      `json:"canceling,omitempty" doc:"It was asked to end, and has not yet"`
	Workspace   string    `json:"workspace"`
	FileSystem  string    `json:"file_system"`
	Path        string    `json:"path" doc:"What it is about"`
	AskedBy     string    `json:"asked_by"`
	ItemsDone   uint64    `json:"items_done"`
	ItemsTotal  uint64    `json:"items_total,omitempty" doc:"0: not known"`
	ItemsFailed uint64    `json:"items_failed,omitempty"`
	BytesDone   uint64    `json:"bytes_done"`
	BytesTotal  uint64    `json:"bytes_total,omitempty" doc:"0: not known"`
	Note        string    `json:"note,omitempty" doc:"What it is at"`
	Error       string    `json:"error,omitempty" doc:"Why it failed, or the first thing that did"`
	Created     time.Time `json:"created"`
	Started     time.Time `json:"started,omitzero"`
	Finished    time.Time `json:"finished,omitzero"`
	Gateway     string    `json:"gateway,omitempty" doc:"That has it, or had it"`
	// Import is what became of the objects of an import.
	Import *cloudimport.Report `json:"import,omitempty" doc:"Of an import, in answers about one job: what became of its objects"`
}

// Jobs is a page of jobs, newest first.
type Jobs struct {
	Jobs []Job  `json:"jobs"`
	Next uint64 `json:"next,omitempty" doc:"Pass it as before to get older ones; absent: this is all"`
}

type jobOutput struct {
	Status int
	Body   Job
}

type jobInput struct {
	ID uint64 `path:"id"`
}

func jobOf(j *metapb.Job) Job {
	out := Job{
		ID: j.Id, Kind: j.Kind, State: jobs.StateName(j.State), Canceling: j.Cancel && !jobs.Over(j.State), Workspace: j.Workspace, FileSystem: j.FileSystem, Path: files.Path(j.Path).Shown(),
		AskedBy: j.AskedBy, ItemsDone: j.ItemsDone, ItemsTotal: j.ItemsTotal, ItemsFailed: j.ItemsFailed, BytesDone: j.BytesDone, BytesTotal: j.BytesTotal,
		Note: j.Note, Error: j.Error, Created: instant(j.Created), Gateway: j.Runner,
	}
	if j.Kind == JobImport {
		out.Import = cloudimport.ReadReport(j.Report)
	}
	if j.Started != nil {
		out.Started = instant(j.Started)
	}
	if j.Finished != nil {
		out.Finished = instant(j.Finished)
	}
	return out
}

func placeOfJob(j *metapb.Job) accounts.Place {
	at := accounts.Place{Workspace: j.Workspace, FileSystem: j.FileSystem, Path: string(j.Path)}
	if at.Path == "/" {
		at.Path = ""
	}
	return at
}

func (a *API) jobs() {
	handle(a, "GET /jobs", "list-jobs", "List the jobs that are about what one's token is for, newest first", a.listJobs)
	handle(a, "GET /jobs/{id}", "show-job", "Show a job", func(ctx context.Context, in *jobInput) (*jobOutput, error) {
		j, err := a.findJob(ctx, in.ID, accounts.Viewer)
		if err != nil {
			return nil, err
		}
		return &jobOutput{http.StatusOK, jobOf(j)}, nil
	})
	handle(a, "POST /jobs/{id}/cancel", "cancel-job", "Have a job end; what it has done stays done", func(ctx context.Context, in *jobInput) (*jobOutput, error) {
		if _, err := a.findJob(ctx, in.ID, accounts.Editor); err != nil {
			return nil, err
		}
		j, err := jobs.Cancel(ctx, a.opt.Meta, in.ID, a.opt.Now())
		if err != nil {
			return nil, err
		}
		a.nudge()
		return &jobOutput{http.StatusOK, jobOf(j)}, nil
	})
}

// findJob is a job that who calls may see; others are not there for him.
func (a *API) findJob(ctx context.Context, id uint64, need accounts.Role) (*metapb.Job, error) {
	j, err := jobs.Find(ctx, a.opt.Meta, id)
	if err == nil {
		err = accounts.Of(ctx).May(accounts.Viewer, placeOfJob(j))
	}
	if k := vfs.KindOf(err); k == vfs.KindNotFound || k == vfs.KindPerm {
		return nil, vfs.Errorf(vfs.KindNotFound, "job", "there is no job %d that this token is for", id)
	}
	if err != nil {
		return nil, err
	}
	return j, accounts.Of(ctx).May(need, placeOfJob(j))
}

func (a *API) listJobs(ctx context.Context, in *struct {
	Active     bool   `query:"active" doc:"Those that are not over"`
	Workspace  string `query:"workspace"`
	FileSystem string `query:"filesystem"`
	Before     uint64 `query:"before" doc:"What next of the page before was"`
	Limit      int    `query:"limit" default:"100" minimum:"1" maximum:"1000"`
}) (*struct{ Body Jobs }, error) {
	out := &struct{ Body Jobs }{Jobs{Jobs: []Job{}}}
	before := in.Before
	for {
		list, next, err := jobs.List(ctx, a.opt.Meta, in.Active, before, 0)
		if err != nil {
			return nil, err
		}
		for _, j := range list {
			if in.Workspace != "" && j.Workspace != in.Workspace || in.FileSystem != "" && j.FileSystem != in.FileSystem || accounts.Of(ctx).May(accounts.Viewer, placeOfJob(j)) != nil {
				continue
			}
			if len(out.Body.Jobs) == in.Limit {
				out.Body.Next = out.Body.Jobs[in.Limit-1].ID
				return out, nil
			}
			out.Body.Jobs = append(out.Body.Jobs, jobOf(j))
		}
		if before = next; before == 0 {
			return out, nil
		}
	}
}

// newJob queues a job for who calls, after edits of its record.
func (a *API) newJob(ctx context.Context, kind string, rec *metapb.FileSystem, p files.Path, spec any, edits ...func(*metapb.Job) error) (*metapb.Job, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	who := accounts.Of(ctx)
	j := &metapb.Job{
		Kind: kind, Workspace: rec.Workspace, Fs: rec.Id, FileSystem: rec.Name, Path: []byte(p), Token: who.Token, AskedBy: who.Name, Uid: who.UID, Gid: who.GID, Spec: raw,
	}
	for _, edit := range edits {
		if err := edit(j); err != nil {
			return nil, err
		}
	}
	j, err = jobs.Create(ctx, a.opt.Meta, j, a.opt.Now())
	if err == nil {
		a.nudge()
	}
	return j, err
}

func (a *API) nudge() {
	if fn := a.newJobs.Load(); fn != nil {
		(*fn)()
	}
}

// Jobs lists jobs, newest first, with ids below before, if that is not 0.
func (c *Client) Jobs(ctx context.Context, active bool, before uint64) (out Jobs, err error) {
	q := url.Values{"active": {strconv.FormatBool(active)}, "before": {strconv.FormatUint(before, 10)}}
	err = c.call(ctx, http.MethodGet, "/jobs?"+q.Encode(), nil, &out)
	return out, err
}

// Job shows one.
func (c *Client) Job(ctx context.Context, id uint64) (out Job, err error) {
	err = c.call(ctx, http.MethodGet, "/jobs/"+strconv.FormatUint(id, 10), nil, &out)
	return out, err
}

// CancelJob has one end.
func (c *Client) CancelJob(ctx context.Context, id uint64) (out Job, err error) {
	err = c.call(ctx, http.MethodPost, "/jobs/"+strconv.FormatUint(id, 10)+"/cancel", nil, &out)
	return out, err
}
