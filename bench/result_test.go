package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// fixed is a meter of processes that do nothing.
type fixed struct{}

func (fixed) Read(context.Context) (Usage, error) { return Usage{CPU: time.Second, Resident: 5}, nil }

// TestResultsComeBack: what a run of two targets emits is read again as it was, samples are grouped by repeat, and ratios are of pairs.
func TestResultsComeBack(t *testing.T) {
	a, d := plainDir(t)
	b, _ := plainDir(t)
	w, err := WorkloadsNamed([]string{"small-files"})
	if err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	enc := json.NewEncoder(&lines)
	var order []string
	stronger := d
	stronger.Names = Disk
	r := Run{
		Targets: []*Target{{Name: "a", FS: a, Durability: d, CPU: fixed{}}, {Name: "b", FS: b, Durability: stronger}}, Workloads: w, Options: tiny, Workers: []int{1, 2}, Repeats: 2,
		Emit: func(x Record) error {
			if x.Sample != nil && x.Sample.Phase == "write" && x.Sample.Workers == 1 {
				order = append(order, x.Sample.Target)
			}
			return enc.Encode(x)
		},
	}
	if err := r.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "a b b a" {
		t.Errorf("the targets were run in the order %s", got)
	}
	text := lines.String()
	out, err := ReadResults(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Targets) != 2 || !out.Targets[0].Durability.Equal(d) || !out.Targets[0].Metered || out.Targets[1].Metered || len(out.Samples) != 2*2*2*2 || out.Run.Repeats != 2 {
		t.Errorf("%d samples of %+v, %+v", len(out.Samples), out.Targets, out.Run)
	}
	for _, s := range out.Samples {
		if _, known := s.ServerPerOp(); known != (s.Target == "a") {
			t.Errorf("server CPU of %s: %v", s.Target, known)
		}
	}
	series := Group(out.Samples)
	if len(series) != 8 || len(series[0].Samples) != 2 || series[0].Samples[0].Repeat != 0 {
		t.Errorf("%d series", len(series))
	}
	all := Compare(out, out)
	if len(all) != 4 || all[0].Base != "a" || all[0].Name != "b" || all[0].Rate.N != 2 || !all[0].Paired || all[0].EqualPromise || all[0].ServerCPU.N != 0 {
		t.Errorf("%+v", all)
	}
	metered := *out
	metered.Samples = nil
	for _, s := range out.Samples {
		cpu := 0.1
		if s.Workers == 1 && s.Target == "b" && s.Repeat == 1 {
			cpu = 0.09
		}
		s.ServerCPU = &cpu
		metered.Samples = append(metered.Samples, s)
	}
	for _, c := range Compare(&metered, &metered) {
		if few := c.Workers == 1; c.Coarse != few || (c.ServerCPU.N == 0) != few || c.Rate.N != 2 {
			t.Errorf("CPU of few steps of its clock: %+v", c)
		}
	}
	other := *out
	other.Run.ID = "another"
	if all := Compare(out, &other); len(all) != 8 || all[0].Paired {
		t.Errorf("of two runs: %+v", all)
	}
	for name, x := range map[string]struct {
		text string
		kind vfs.Kind
	}{
		"nothing":         {"", vfs.KindInvalid},
		"no JSON":         {"x\n", vfs.KindInvalid},
		"no head":         {text[strings.Index(text, "\n")+1:], vfs.KindInvalid},
		"something else":  {`{"run":{"format":"fio"}}`, vfs.KindInvalid},
		"two runs":        {text + text, vfs.KindInvalid},
		"a newer version": {strings.Replace(text, `"version":1`, `"version":2`, 1), vfs.KindIncompatible},
		"a long line":     {text + strings.Repeat(" ", maxLine+1), vfs.KindInvalid},
		"no time":         {text + `{"sample":{"target":"a","ops":1}}`, vfs.KindInvalid},
	} {
		if _, err := ReadResults(strings.NewReader(x.text)); vfs.KindOf(err) != x.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestInterruptedRunLeavesNothing: a run that fails in the middle removes what it made.
func TestInterruptedRunLeavesNothing(t *testing.T) {
	fs, d := plainDir(t)
	w, err := WorkloadsNamed([]string{"training"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := collected(t, &liar{FS: fs, lie: flips}, d, w); vfs.KindOf(err) != vfs.KindCorrupt {
		t.Fatal(err)
	}
	root, err := fs.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.List(t.Context(), root, func(e Entry) error { t.Errorf("%s was left", e.Name); return nil }); err != nil {
		t.Error(err)
	}
}

// TestPhaseEnds: each worker does at least one operation and at most its count, whatever the time.
func TestPhaseEnds(t *testing.T) {
	e := &Env{Workers: 3, Options: tiny}
	e.Options.Time = time.Nanosecond
	done := make([]int, 3)
	op := func(w int) { done[w]++ }
	for name, x := range map[string]struct {
		p    Phase
		want int
	}{
		"out of time": {Phase{}, 1},
		"whole":       {Phase{Whole: true, Count: func(int) int { return 7 }}, 7},
		"nothing":     {Phase{Count: func(int) int { return 0 }}, 0},
	} {
		clear(done)
		p := x.p
		p.Op = func(_ context.Context, w, _ int) (Work, error) { op(w); return Work{Ops: 2, Bytes: 3}, nil }
		m, err := (&phaseRun{env: e}).run(t.Context(), &p)
		if err != nil || m.ops != int64(2*3*x.want) || m.bytes != int64(3*3*x.want) || m.latency.TotalCount() != int64(3*x.want) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
		for w, n := range done {
			if n != x.want {
				t.Errorf("%s: worker %d did %d operations", name, w, n)
			}
		}
	}
}
