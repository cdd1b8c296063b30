package bench

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// Series are the samples of one phase with one number of workers on one target.
type Series struct {
	Target, Workload, Phase, Unit string
	Workers                       int
	Samples                       []Sample // by repeat
}

// Group puts samples together, in the order of their first appearance.
func Group(samples []Sample) (out []Series) {
	type key struct {
		target, workload, phase string
		workers                 int
	}
	at := map[key]int{}
	for _, s := range samples {
		k := key{s.Target, s.Workload, s.Phase, s.Workers}
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, Series{Target: s.Target, Workload: s.Workload, Phase: s.Phase, Unit: s.Unit, Workers: s.Workers})
		}
		out[i].Samples = append(out[i].Samples, s)
	}
	for i := range out {
		slices.SortStableFunc(out[i].Samples, func(a, b Sample) int { return a.Repeat - b.Repeat })
	}
	return out
}

// of are values of the samples that have them.
func (s *Series) of(value func(*Sample) (float64, bool)) (out []float64) {
	for i := range s.Samples {
		if v, ok := value(&s.Samples[i]); ok {
			out = append(out, v)
		}
	}
	return out
}

// Mean is the geometric mean of a value, and whether any sample has it.
func (s *Series) Mean(value func(*Sample) (float64, bool)) (float64, bool) {
	v := s.of(value)
	return geometricMean(v), len(v) > 0
}

// Values of a sample, for Mean.
var (
	RateOf         = func(s *Sample) (float64, bool) { return s.Rate(), true }
	ThroughputOf   = func(s *Sample) (float64, bool) { return s.Throughput(), s.Bytes > 0 }
	ServerPerOpOf  = (*Sample).ServerPerOp
	ServerPerGiBOf = (*Sample).ServerPerGiB
	ClientPerOpOf  = func(s *Sample) (float64, bool) { return s.ClientCPU / float64(max(s.Ops, 1)), true }
	P50Of          = func(s *Sample) (float64, bool) { return s.Latency.P50, true }
	P99Of          = func(s *Sample) (float64, bool) { return s.Latency.P99, true }
)

// leastCPU is how much CPU, ten steps of its clock, says something about how many times as much it is.
const leastCPU = 10 * tick

// coarse reports whether a sample has less of it.
func (s *Series) coarse() bool {
	return slices.ContainsFunc(s.Samples, func(x Sample) bool { return x.ServerCPU != nil && *x.ServerCPU < leastCPU.Seconds() })
}

// Comparison is what one target does of what another does.
type Comparison struct {
	Workload, Phase, Unit string
	Workers               int
	Base, Name            string // targets; Name's rate is divided by Base's
	Rate                  Ratio
	ServerCPU             Ratio // of an operation; N is 0 where it is not known of both, or Coarse
	Coarse                bool  // some sample's CPU is so few steps of its clock that a ratio would say little
	EqualPromise          bool
	Paired                bool // of one run, interleaved
}

// Compare divides the rates of b's targets by that of a's first. a and b may be one run, whose repeats are pairs then; else samples of the same
// workload, phase and number of workers are compared as they are.
func Compare(a, b *Results) (out []Comparison) {
	if len(a.Targets) == 0 {
		return nil
	}
	base := a.Targets[0]
	paired := a == b || a.Run.ID == b.Run.ID
	ours := Group(a.Samples)
	for _, s := range Group(b.Samples) {
		if paired && s.Target == base.Name {
			continue
		}
		i := slices.IndexFunc(ours, func(x Series) bool {
			return x.Target == base.Name && x.Workload == s.Workload && x.Phase == s.Phase && x.Workers == s.Workers
		})
		if i < 0 {
			continue
		}
		ratio := UnpairedRatio
		if paired {
			ratio = PairedRatio
		}
		c := Comparison{Workload: s.Workload, Phase: s.Phase, Unit: s.Unit, Workers: s.Workers, Base: base.Name, Name: s.Target, Paired: paired}
		c.Rate = ratio(s.of(RateOf), ours[i].of(RateOf))
		cpu, theirs := s.of(ServerPerOpOf), ours[i].of(ServerPerOpOf)
		c.ServerCPU = unknownRatio
		if c.Coarse = len(cpu) > 0 && len(theirs) > 0 && (s.coarse() || ours[i].coarse()); !c.Coarse {
			c.ServerCPU = ratio(cpu, theirs)
		}
		if j := slices.IndexFunc(b.Targets, func(t TargetInfo) bool { return t.Name == s.Target }); j >= 0 {
			c.EqualPromise = b.Targets[j].Durability.Equal(base.Durability)
		}
		out = append(out, c)
	}
	return out
}

// DropPageCache makes the kernel of this machine forget what it keeps of files, of all processes.
func DropPageCache() error {
	unix.Sync() // only what is clean can be dropped
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0); err != nil {
		return vfs.Errorf(vfs.KindOf(err), "bench.drop", "%w: run as root, or name a command with --drop-command", err)
	}
	return nil
}
