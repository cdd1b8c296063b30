package cloudimport

import "encoding/json"

// Outcomes of objects that a report names.
const (
	Refused = "refused" // its key is no path, or something is in the way: nothing was tried
	Failed  = "failed"  // it could not be read, verified or written
)

const (
	// reportKeys is how many objects a report names.
	reportKeys = 40
	// longestWhy bounds what is said of each.
	longestWhy = 160
)

// KeyReport is an object of which nothing came.
type KeyReport struct {
	Key     string `json:"key" doc:"What cannot be shown is percent-encoded; long ones are cut"`
	Outcome string `json:"outcome" enum:"refused,failed"`
	Why     string `json:"why"`
}

// Report is what became of the objects of an import.
type Report struct {
	DryRun        bool   `json:"dry_run,omitempty" doc:"Nothing was read or written: imported is what would be"`
	From          string `json:"from" doc:"Bucket, prefix and endpoint"`
	Conflict      string `json:"conflict" enum:"skip,overwrite,if-newer"`
	Objects       uint64 `json:"objects" doc:"That were listed; 0: not known"`
	Bytes         uint64 `json:"bytes"`
	Imported      uint64 `json:"imported"`
	ImportedBytes uint64 `json:"imported_bytes"`
	Skipped       uint64 `json:"skipped" doc:"There was a file already"`
	SkippedBytes  uint64 `json:"skipped_bytes"`
	Directories   uint64 `json:"directories" doc:"Objects whose key ends with '/'"`
	Refused       uint64 `json:"refused" doc:"Their keys are no paths, or something is in the way"`
	Failed        uint64 `json:"failed" doc:"They could not be read, verified or written"`
	Verified      uint64 `json:"verified" doc:"Of those that were imported: by a checksum or an ETag"`
	BySizeOnly    uint64 `json:"by_size_only" doc:"Of those that were imported: the endpoint has nothing to verify their content by"`

	Keys        []KeyReport `json:"keys,omitempty" doc:"The first of those that were refused or failed"`
	KeysLeftOut uint64      `json:"keys_left_out,omitempty" doc:"How many more there are"`
}

// miss notes an object of which nothing came.
func (r *Report) miss(key, outcome, why string) {
	if outcome == Refused {
		r.Refused++
	} else {
		r.Failed++
	}
	if len(r.Keys) >= reportKeys {
		r.KeysLeftOut++
		return
	}
	if len(why) > longestWhy {
		why = clip(why)
		why = why[:min(len(why), longestWhy)]
	}
	r.Keys = append(r.Keys[:len(r.Keys):len(r.Keys)], KeyReport{Shown(key), outcome, why})
}

// done is how many objects are.
func (r *Report) done() uint64 { return r.Imported + r.Skipped + r.Directories }

// settle makes the totals those of what was listed at last. What failed or was refused has a size that nobody counted, so bytes are those that were planned, or more.
func (r *Report) settle() {
	r.Objects = r.done() + r.Refused + r.Failed
	r.Bytes = max(r.Bytes, r.ImportedBytes+r.SkippedBytes)
}

// Encode is the report as it stands in a job's record.
func (r *Report) Encode() []byte { return encode(r) }

// ReadReport reads the report of a job's record; nil if there is none.
func ReadReport(b []byte) *Report {
	r := new(Report)
	if len(b) == 0 || json.Unmarshal(b, r) != nil {
		return nil
	}
	return r
}
