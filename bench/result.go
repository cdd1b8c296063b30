package bench

import (
	"bufio"
	"encoding/json"
	"io"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"github.com/rackfs/rackfs/vfs"
)

// Results are lines of JSON, each a Record with one of its parts: first the run, then its targets, then samples as they come.
const (
	formatName    = "rackfs-bench"
	formatVersion = 1
	maxLine       = 4 << 20
)

// Record is a line of results.
type Record struct {
	Run     *RunInfo    `json:"run,omitempty"`
	Target  *TargetInfo `json:"target,omitempty"`
	Sample  *Sample     `json:"sample,omitempty"`
	Skipped *Skipped    `json:"skipped,omitempty"`
}

// RunInfo is what all samples of a run have in common.
type RunInfo struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Begin   time.Time `json:"begin"`
	Command []string  `json:"command"`
	Release string    `json:"release"`
	Host    Host      `json:"host"`
	Options Options   `json:"options"`
	Repeats int       `json:"repeats"`
	Drops   bool      `json:"drops_caches"`
}

// TargetInfo is a target of a run.
type TargetInfo struct {
	Name       string     `json:"name"`
	Spec       string     `json:"spec"`
	Durability Durability `json:"durability"`
	Metered    bool       `json:"metered"`           // whether server CPU is known
	Options    *Options   `json:"options,omitempty"` // if they are not those of the run
}

// Sample is what one phase did.
type Sample struct {
	Target   string  `json:"target"`
	Workload string  `json:"workload"`
	Phase    string  `json:"phase"`
	Unit     string  `json:"unit"`
	Workers  int     `json:"workers"`
	Repeat   int     `json:"repeat"` // samples of one repeat are pairs
	Cold     bool    `json:"cold,omitempty"`
	Ops      int64   `json:"ops"`
	Bytes    int64   `json:"bytes,omitempty"`
	Seconds  float64 `json:"seconds"`
	Latency  Latency `json:"latency"`

	ServerCPU *float64 `json:"server_cpu_seconds,omitempty"`
	ClientCPU float64  `json:"client_cpu_seconds"`
	Resident  int64    `json:"server_resident_bytes,omitempty"`
	Held      []Held   `json:"held,omitempty"` // by a phase that was to last
}

// Latency is that of calls, in seconds. Histogram has it in nanoseconds, in the compressed encoding of HdrHistogram V2.
type Latency struct {
	Calls     int64   `json:"calls"`
	Mean      float64 `json:"mean"`
	P50       float64 `json:"p50"`
	P90       float64 `json:"p90"`
	P99       float64 `json:"p99"`
	P999      float64 `json:"p999"`
	Max       float64 `json:"max"`
	Histogram []byte  `json:"histogram"`
}

// Skipped is a phase that a target cannot do.
type Skipped struct {
	Target   string `json:"target"`
	Workload string `json:"workload"`
	Phase    string `json:"phase"`
	Why      string `json:"why"`
}

// Rate is operations a second.
func (s *Sample) Rate() float64 { return float64(s.Ops) / s.Seconds }

// Throughput is bytes a second.
func (s *Sample) Throughput() float64 { return float64(s.Bytes) / s.Seconds }

// ServerPerOp is server CPU seconds of an operation; known is false if nobody measured it.
func (s *Sample) ServerPerOp() (seconds float64, known bool) {
	if s.ServerCPU == nil || s.Ops == 0 {
		return 0, false
	}
	return *s.ServerCPU / float64(s.Ops), true
}

// ServerPerGiB is server CPU seconds of a GiB.
func (s *Sample) ServerPerGiB() (seconds float64, known bool) {
	if s.ServerCPU == nil || s.Bytes == 0 {
		return 0, false
	}
	return *s.ServerCPU / float64(s.Bytes) * (1 << 30), true
}

func latencyOf(h *hdr.Histogram) (Latency, error) {
	raw, err := h.Encode(hdr.V2CompressedEncodingCookieBase)
	if err != nil {
		return Latency{}, vfs.Errorf(vfs.KindInternal, "bench.histogram", "%w", err)
	}
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e9 }
	return Latency{Calls: h.TotalCount(), Mean: h.Mean() / 1e9, P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1e9, Histogram: raw}, nil
}

// Decode is the whole histogram.
func (l *Latency) Decode() (*hdr.Histogram, error) {
	h, err := hdr.Decode(l.Histogram)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindCorrupt, "bench.histogram", "%w", err)
	}
	return h, nil
}

// sampleOf makes a sample of what was measured.
func sampleOf(m *measured) (*Sample, error) {
	l, err := latencyOf(m.latency)
	if err != nil {
		return nil, err
	}
	s := &Sample{Ops: m.ops, Bytes: m.bytes, Seconds: m.elapsed.Seconds(), Latency: l, ClientCPU: m.client.Seconds(), Held: m.held}
	if m.server != nil {
		cpu := m.server.CPU.Seconds()
		s.ServerCPU, s.Resident = &cpu, m.server.Resident
	}
	return s, nil
}

// Results are those of one run.
type Results struct {
	Run     RunInfo
	Targets []TargetInfo
	Samples []Sample
	Skipped []Skipped
}

// ReadResults reads the lines of one run.
func ReadResults(r io.Reader) (*Results, error) {
	const op = "bench.results"
	var out Results
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxLine)
	n := 0
	for in.Scan() {
		n++
		var x Record
		if err := json.Unmarshal(in.Bytes(), &x); err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "line %d: %w", n, err)
		}
		if (n == 1) != (x.Run != nil) || n == 1 && x.Run.Format != formatName {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "line %d: results of one run of `rackfs bench` begin with a line about it", n)
		}
		if n == 1 && x.Run.Version > formatVersion {
			return nil, vfs.Errorf(vfs.KindIncompatible, op, "made by %s in version %d of the format, this release knows up to %d", x.Run.Release, x.Run.Version, formatVersion)
		}
		switch {
		case x.Run != nil:
			out.Run = *x.Run
		case x.Target != nil:
			out.Targets = append(out.Targets, *x.Target)
		case x.Sample != nil:
			if x.Sample.Seconds <= 0 || x.Sample.Ops < 0 {
				return nil, vfs.Errorf(vfs.KindInvalid, op, "line %d: a sample of %v s and %d operations", n, x.Sample.Seconds, x.Sample.Ops)
			}
			out.Samples = append(out.Samples, *x.Sample)
		case x.Skipped != nil:
			out.Skipped = append(out.Skipped, *x.Skipped)
		}
	}
	if err := in.Err(); err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "line %d: %w", n+1, err)
	}
	if n == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "no results")
	}
	return &out, nil
}
