package fsm

import (
	"bytes"
	"encoding/binary"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of jobs.
const (
	maxJobs      = 2000 // records
	maxJobsOver  = 1000 // of them over
	maxJobRecord = 64 << 10
	jobNonceLen  = 16
	answerJobs   = 1000
)

const jobPrefix = "j/j/"

func appendJob(id uint64) []byte { return appendID(nil, jobPrefix, id) }

func jobOver(s metapb.JobState) bool { return s >= metapb.JobState_JOB_DONE }

func jobResult(j *metapb.Job) *metapb.Result {
	return &metapb.Result{Of: &metapb.Result_Job{Job: &metapb.JobResult{Job: j}}}
}

func checkJob(j *metapb.Job, op string) error {
	if j == nil || len(j.Nonce) != jobNonceLen || j.State <= metapb.JobState_JOB_UNKNOWN || j.State > metapb.JobState_JOB_CANCELED {
		return vfs.Errorf(vfs.KindInvalid, op, "a job has a state and a nonce of %d bytes", jobNonceLen)
	}
	if err := checkRecordName(op, "kind", j.Kind); err != nil {
		return err
	}
	if n := j.SizeVT(); n > maxJobRecord {
		return vfs.Errorf(vfs.KindTooMany, op, "a record of %d bytes, at most %d", n, maxJobRecord)
	}
	for _, t := range []*metapb.Time{j.Created, j.Started, j.Finished} {
		if err := checkTime(t); err != nil {
			return err
		}
	}
	return nil
}

func (x *call) putJob(c *metapb.PutJob) (*metapb.Result, error) {
	const op = "job.put"
	j := c.Job.CloneVT()
	if err := checkJob(j, op); err != nil {
		return nil, err
	}
	if jobOver(j.State) {
		j.Sealed = nil // nobody needs it any more
	}
	if j.Version == 0 {
		return x.newJob(j, op)
	}
	var old metapb.Job
	if had, err := x.getRecord(appendJob(j.Id), &old); err != nil {
		return nil, err
	} else if !had {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "there is no job %d", j.Id)
	}
	expect := j.Version
	j.Version = old.Version
	switch {
	case old.Version == expect+1 && proto.Equal(&old, j):
		return jobResult(&old), nil // a repeated command
	case old.Version != expect || jobOver(old.State):
		return nil, vfs.Errorf(vfs.KindChanged, op, "job %d is at version %d, not %d, or is over: look at it again", j.Id, old.Version, expect)
	case j.Kind != old.Kind || !bytes.Equal(j.Nonce, old.Nonce) || j.Fs != old.Fs || j.Runner != old.Runner || j.RunnerOrigin != old.RunnerOrigin:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "kind, nonce, file system and runner of a job are not changed by this")
	}
	j.Version++
	return jobResult(j), x.setRecord(appendJob(j.Id), j)
}

func (x *call) newJob(j *metapb.Job, op string) (*metapb.Result, error) {
	list, err := records(x, jobPrefix, func(*metapb.Job) bool { return true })
	if err != nil {
		return nil, err
	}
	var over []*metapb.Job
	for _, o := range list {
		if bytes.Equal(o.Nonce, j.Nonce) {
			return jobResult(o), nil // a repeated command
		}
		if jobOver(o.State) {
			over = append(over, o)
		}
	}
	if j.State != metapb.JobState_JOB_QUEUED || j.Runner != "" || j.RunnerOrigin != 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a new job is queued, and nobody has it")
	}
	if len(list)-len(over) >= maxJobs-maxJobsOver {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d jobs are queued or running already: wait until some are over, or cancel some", len(list)-len(over))
	}
	for len(over) >= maxJobsOver { // by id, so the oldest first
		x.del(appendJob(over[0].Id))
		over = over[1:]
	}
	if j.Id, err = x.next(counterKey{what: counterJob}); err != nil {
		return nil, err
	}
	j.Version = 1
	return jobResult(j), x.setRecord(appendJob(j.Id), j)
}

func (x *call) takeJob(c *metapb.TakeJob) (*metapb.Result, error) {
	const op = "job.take"
	j := new(metapb.Job)
	if had, err := x.getRecord(appendJob(c.Id), j); err != nil {
		return nil, err
	} else if !had {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "there is no job %d", c.Id)
	}
	if err := checkRecordName(op, "runner", c.Runner); err != nil {
		return nil, err
	}
	if alive, err := x.registered(c.Origin); err != nil {
		return nil, err
	} else if !alive {
		return nil, vfs.Errorf(vfs.KindUnknownOrigin, op, "origin %d", c.Origin)
	}
	if j.Version == c.Version+1 && j.RunnerOrigin == c.Origin && j.State == metapb.JobState_JOB_RUNNING {
		return jobResult(j), nil // a repeated command
	}
	if j.Version != c.Version || jobOver(j.State) {
		return nil, vfs.Errorf(vfs.KindChanged, op, "job %d is at version %d, not %d, or is over", j.Id, j.Version, c.Version)
	}
	if j.RunnerOrigin != 0 {
		if alive, err := x.registered(j.RunnerOrigin); err != nil {
			return nil, err
		} else if alive {
			return nil, vfs.Errorf(vfs.KindBusy, op, "%s runs job %d", j.Runner, j.Id)
		}
	}
	j.State, j.Runner, j.RunnerOrigin = metapb.JobState_JOB_RUNNING, c.Runner, c.Origin
	if j.Started == nil {
		j.Started = x.wire
	}
	j.Version++
	return jobResult(j), x.setRecord(appendJob(j.Id), j)
}

func (r *reader) jobs(q *metapb.JobsQ) (*metapb.QueryResult, error) {
	res := &metapb.JobsR{}
	if q.Id != 0 {
		j := new(metapb.Job)
		if ok, err := r.record(appendJob(q.Id), j); err != nil {
			return nil, err
		} else if !ok {
			return nil, vfs.Errorf(vfs.KindNotFound, "job", "there is no job %d; of those that are over the newest %d are kept", q.Id, maxJobsOver)
		}
		res.Jobs = append(res.Jobs, j)
	} else {
		list, err := all(r, []byte(jobPrefix), func() *metapb.Job { return new(metapb.Job) })
		if err != nil {
			return nil, err
		}
		limit := answerJobs
		if q.Limit > 0 {
			limit = min(limit, int(q.Limit))
		}
		size := 0
		for i := len(list) - 1; i >= 0; i-- {
			j := list[i]
			if q.Before != 0 && j.Id >= q.Before || q.Active && jobOver(j.State) {
				continue
			}
			j.Sealed, j.Report = nil, nil // who wants them asks for the one
			if size += j.SizeVT(); len(res.Jobs) > 0 && (len(res.Jobs) == limit || size > answerBytes) {
				res.Next = res.Jobs[len(res.Jobs)-1].Id
				break
			}
			res.Jobs = append(res.Jobs, j)
		}
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Jobs{Jobs: res}}, nil
}

// origins lists who is registered.
func (r *reader) origins(q *metapb.OriginsQ) (*metapb.QueryResult, error) {
	res := &metapb.OriginsR{}
	lo := []byte("g/")
	var bad error
	err := r.view.Scan(lo, prefixEnd(lo), func(k, b []byte) bool {
		res.Origins = append(res.Origins, binary.BigEndian.Uint64(k[len(lo):]))
		if q.GetNames() {
			var o metapb.OriginRecord
			if bad = o.UnmarshalVT(b); bad != nil {
				return false
			}
			res.Names = append(res.Names, o.Name)
		}
		return true
	})
	if bad != nil {
		return nil, corrupt("origins: %w", bad)
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Origins{Origins: res}}, err
}
