package jobs

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	clusterShard = 0
	// changeTries is how often a change is made again from a record that somebody else has changed meanwhile.
	changeTries = 16
)

// Meta is the metadata client.
type Meta interface {
	Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error)
	Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error)
}

// Over reports whether a job has ended.
func Over(s metapb.JobState) bool { return s >= metapb.JobState_JOB_DONE }

// StateName is a state as people write it.
func StateName(s metapb.JobState) string {
	switch s {
	case metapb.JobState_JOB_QUEUED:
		return "queued"
	case metapb.JobState_JOB_RUNNING:
		return "running"
	case metapb.JobState_JOB_DONE:
		return "done"
	case metapb.JobState_JOB_FAILED:
		return "failed"
	case metapb.JobState_JOB_CANCELED:
		return "canceled"
	}
	return "unknown"
}

// Create queues a job. The caller says kind, place, spec, and for whom; the rest is filled in.
func Create(ctx context.Context, meta Meta, j *metapb.Job, now time.Time) (*metapb.Job, error) {
	j = j.CloneVT()
	j.Nonce = make([]byte, 16)
	rand.Read(j.Nonce)
	j.State, j.Created = metapb.JobState_JOB_QUEUED, stamp(now)
	return put(ctx, meta, j, "create job")
}

func put(ctx context.Context, meta Meta, j *metapb.Job, op string) (*metapb.Job, error) {
	r, err := meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutJob{PutJob: &metapb.PutJob{Job: j}}})
	return r.GetJob().GetJob(), vfs.Wrap(op, err)
}

// Find returns one.
func Find(ctx context.Context, meta Meta, id uint64) (*metapb.Job, error) {
	if id == 0 {
		return nil, vfs.Errorf(vfs.KindNotFound, "job", "there is no job 0")
	}
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Jobs{Jobs: &metapb.JobsQ{Id: id}}})
	if err != nil {
		return nil, err
	}
	return r.GetJobs().GetJobs()[0], nil
}

// List returns a page of jobs, newest first, with ids below before, if that is not 0; next is the before of the page after it, 0 if there is none.
func List(ctx context.Context, meta Meta, active bool, before uint64, limit uint32) (list []*metapb.Job, next uint64, err error) {
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Jobs{Jobs: &metapb.JobsQ{Active: active, Before: before, Limit: limit}}})
	return r.GetJobs().GetJobs(), r.GetJobs().GetNext(), err
}

// active are all jobs that are not over.
func active(ctx context.Context, meta Meta) (out []*metapb.Job, err error) {
	for before := uint64(0); ; {
		page, next, err := List(ctx, meta, true, before, 0)
		if err != nil {
			return nil, err
		}
		out = append(out, page...)
		if before = next; before == 0 {
			return out, nil
		}
	}
}

// Cancel asks for the end of a job. One that nobody runs ends at once, others when their runner has heard of it. One that is over stays as it is.
func Cancel(ctx context.Context, meta Meta, id uint64, now time.Time) (*metapb.Job, error) {
	const op = "cancel job"
	for try := 1; ; try++ {
		j, err := Find(ctx, meta, id)
		if err != nil || Over(j.State) || j.Cancel {
			return j, err
		}
		j.Cancel = true
		if j.State == metapb.JobState_JOB_QUEUED {
			j.State, j.Finished = metapb.JobState_JOB_CANCELED, stamp(now)
		}
		j, err = put(ctx, meta, j, op)
		if err == nil || vfs.KindOf(err) != vfs.KindChanged || try == changeTries {
			return j, err
		}
	}
}

func stamp(t time.Time) *metapb.Time {
	return &metapb.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}
