package bench

import "fmt"

// growthWorkloads are those whose cost could grow with what is there, each with a number of files, of entries or of bytes.
var growthWorkloads = []string{"metadata-private", "metadata-shared", "small-files", "streams", "random", "large-directory"}

// GrowthWorkloads are the workloads whose sizes Grow multiplies, each with one number of workers: its largest.
func GrowthWorkloads(names []string) ([]Workload, error) {
	if len(names) == 0 {
		names = growthWorkloads
	}
	out, err := WorkloadsNamed(names)
	for i, w := range out {
		out[i].Workers = w.Workers[len(w.Workers)-1:]
	}
	return out, err
}

// Grow makes two targets of one: the same place with sizes as they are, and factor times as large. Phases that have a number of operations do all
// of them, so that what they leave for those after them is as large as it is said to be.
func Grow(t *Target, o Options, factor int) (small, large *Target) {
	o.Complete = true
	grown := o
	grown.Files *= factor
	grown.TreeFiles *= factor
	grown.Entries *= factor
	grown.Shards *= factor
	grown.StreamSize *= int64(factor)
	grown.RandomSize *= int64(factor)
	grown.CheckpointSize *= int64(factor)
	a, b := *t, *t
	a.Name, a.Options = "x1", &o
	b.Name, b.Options = fmt.Sprintf("x%d", factor), &grown
	return &a, &b
}
