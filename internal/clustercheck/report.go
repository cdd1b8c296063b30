package clustercheck

import (
	"fmt"
	"time"
)

// Severity of a finding.
type Severity string

// Severities.
const (
	Error  Severity = "error"
	Notice Severity = "notice"
)

// Kinds of findings.
const (
	KindState       = "state"       // an invariant of a shard's state
	KindDigest      = "digest"      // a voter has another state than the others
	KindFileSystem  = "filesystem"  // shard 0 and a namespace shard disagree about a file system
	KindPlacement   = "placement"   // a slot is where it must not be
	KindReservation = "reservation" // a slot is on a store that is not eligible for its pool
	KindStore       = "store"       // a store does not answer or is another one
	KindMoving      = "moving"      // a slot is being filled or moved
	KindDeletion    = "deletion"    // a store belongs to another incarnation of the metadata, and deletes nothing
	KindMissing     = "missing"     // a shard of a live block is not where it should be
	KindLost        = "lost"        // fewer shards of a live block than it takes to read it
	KindMisplaced   = "misplaced"   // a shard of a live block is somewhere else too
	KindAbandoned   = "abandoned"   // a shard of a live block that is in another placement group: of an attempt to write it that was given up
	KindOrphan      = "orphan"      // a shard of a block that no file has
	KindUnknown     = "unknown"     // a shard of a block that the metadata never gave out
)

// Values of Report.Deletion.
const (
	DeletionOn      = "on"
	DeletionStopped = "stopped"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Severity Severity `json:"severity" enum:"error,notice"`
	Kind     string   `json:"kind" doc:"What kind of thing is wrong"`
	Text     string   `json:"text" doc:"What is wrong, with what"`
}

// Report is the result of a check.
type Report struct {
	Errors    int            `json:"errors" doc:"Invariants that do not hold, and what could not be checked"`
	Notices   int            `json:"notices" doc:"What the cluster is about to put right"`
	Counts    map[string]int `json:"counts" doc:"How many findings there are of each kind"`
	Findings  []Finding      `json:"findings" doc:"The first ones of each kind"`
	Inodes    uint64         `json:"inodes" doc:"Files, directories and so on that were looked at"`
	Blocks    uint64         `json:"blocks" doc:"Live blocks that were looked at"`
	Shards    uint64         `json:"shards" doc:"Shards that stores listed"`
	Orphans   Orphans        `json:"orphans" doc:"What stores have of blocks that no file has"`
	Deletion  string         `json:"deletion" enum:"on,stopped" doc:"stopped: the metadata was restored from a backup, and nothing is deleted until an operator allows it"`
	Stopped   int            `json:"stopped" doc:"Errors that are only that deletion is stopped: of kinds deletion and orphan"`
	Metadata  uint64         `json:"incarnation" doc:"Incarnation of the metadata; a restore raises it"`
	TookNanos time.Duration  `json:"took_ns"`

	told map[string]int // findings by severity and kind that are in Findings
}

// Orphans sums orphaned shards up.
type Orphans struct {
	Blocks uint64 `json:"blocks" doc:"Blocks, each counted once for each range of ids and placement group"`
	Shards uint64 `json:"shards"`
	Bytes  uint64 `json:"bytes"`
}

// findingsKept bounds the findings of one kind and severity that are told of one by one.
const findingsKept = 100

func (r *Report) add(s Severity, kind, format string, args ...any) {
	if r.Counts == nil {
		r.Counts, r.told = map[string]int{}, map[string]int{}
	}
	r.Counts[kind]++
	if s == Error {
		r.Errors++
		if kind == KindDeletion || kind == KindOrphan {
			r.Stopped++
		}
	} else {
		r.Notices++
	}
	if r.kept(s, kind) {
		r.told[string(s)+kind]++
		r.Findings = append(r.Findings, Finding{s, kind, fmt.Sprintf(format, args...)})
	}
}

// kept reports whether another finding of the kind would be told of.
func (r *Report) kept(s Severity, kind string) bool { return r.told[string(s)+kind] < findingsKept }
