// Package jobs runs work that outlives who asked for it, and the gateway that does it.
//
// A job is a record of shard 0 (metapb.Job): what is to be done, for whom, how far it is. A Runner, one in each gateway, looks for jobs once a second. It takes
// those that are queued, and those whose runner has ended, which shard 0 knows by its origin (TakeJob): a job has one runner at a time. It runs what is registered for the
// job's kind, and writes progress and checkpoint down every two seconds, each time naming the version that it knows, so a runner that
// was succeeded writes nothing any more and stops.
//
// # Who asked for it
//
// What a job does is done for whoever asked for it, for as long as he may do it: before it is begun or gone on with, and every five seconds while it runs, the runner asks (Options.May). If
// he may not any more, the job ends as failed, and says why.
//
// # Kinds
//
// A Kind is told a Job and does it, from the checkpoint on, if there is one: after a crash a part of what came after the last checkpoint may have been done, so steps are
// such that they can be done twice. Its context ends with the cause ErrCanceled if somebody cancels the job, or else because the gateway stops, or the job is
// another's by now; then the job stays as it is, for the next runner. An error that may pass (vfs.Kind.Retryable) makes the runner begin again
// after a while, a few times. Any other is the end of the job.
//
// Specs, checkpoints and reports are the kind's own encoding. They are read by whoever may see the job, so they hold no secrets. Those are sealed, by the kind, with a key that
// is not in the metadata; the state machine drops them when the job is over.
package jobs
