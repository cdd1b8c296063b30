package report

import (
	"encoding/xml"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"github.com/rackfs/rackfs/bench"
	"github.com/rackfs/rackfs/vfs"
)

// results are those of two targets, of which the second is twice as fast and hostile by name.
func results(t *testing.T) *bench.Results {
	t.Helper()
	h := hdr.New(100, 1e9, 3)
	for i := range int64(2000) {
		_ = h.RecordValue(1000 * (i + 1))
	}
	raw, err := h.Encode(hdr.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	disk := bench.Durability{Names: bench.Disk, Data: bench.Disk, Source: "test"}
	memory := disk
	memory.Names = bench.Memory
	r := &bench.Results{
		Run:     bench.RunInfo{ID: "r", Command: []string{"rackfs", "bench", "<b>"}, Repeats: 3},
		Targets: []bench.TargetInfo{{Name: "slow", Spec: "dir:/x", Durability: disk}, {Name: "<script>", Spec: "dir:/y", Durability: memory}},
	}
	for repeat := range 3 {
		for i, target := range []string{"slow", "<script>"} {
			for _, workers := range []int{1, 8} {
				cpu := 0.5
				r.Samples = append(r.Samples, bench.Sample{
					Target: target, Workload: "streams", Phase: "write", Unit: "piece", Workers: workers, Repeat: repeat,
					Ops: int64(1000 * (i + 1) * (repeat + 1)), Bytes: 1 << 30, Seconds: 1, ClientCPU: 0.1, ServerCPU: &cpu,
					Latency: bench.Latency{Calls: 2000, P50: 1e-3, P99: 2e-3, Max: 2e-3, Histogram: raw},
				})
			}
		}
	}
	return r
}

// TestPage: the page has promises, ratios and plots, is complete in itself, and shows what is in the results as text only.
func TestPage(t *testing.T) {
	r := results(t)
	r.Skipped = []bench.Skipped{{Target: "slow", Workload: "random", Phase: "<i>", Why: "it cannot"}}
	page, err := HTML([]*bench.Results{r}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, want := range []string{"names in disk when answered", "promise different things", "streams/write, 8", "&lt;script&gt; / slow", "<td>2</td><td>2 to 2</td><td>0.5</td><td>0.5 to 0.5</td><td class=\"t\">different promises</td>", "random/&lt;i&gt;</td><td class=\"t\">it cannot", "write: scaling", "99.9 %"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if strings.Contains(text, "<script") || strings.Contains(text, "<b>") {
		t.Error("text became markup")
	}
	if m := regexp.MustCompile(`(?i)(src|href)=|@import|url\(`).FindString(text); m != "" {
		t.Errorf("the page needs more than itself: %s", m)
	}
	// rates, throughput, two CPUs, scaling, latency, ratios
	plots := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(text, -1)
	if len(plots) != 7 {
		t.Errorf("%d plots", len(plots))
	}
	for i, p := range plots {
		d := xml.NewDecoder(strings.NewReader(p))
		for {
			_, err := d.Token()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("plot %d: %v", i, err)
			}
		}
		if strings.Contains(p, "NaN") || strings.Contains(p, "Inf") {
			t.Errorf("plot %d has a place that is no number", i)
		}
	}
}

// TestSeveralFiles: what was measured again is told apart and compared with the first; what was measured with other workloads is another part of
// the same.
func TestSeveralFiles(t *testing.T) {
	for workload, again := range map[string]bool{"streams": true, "random": false} {
		a, b := results(t), results(t)
		b.Run.ID = "s"
		for i := range b.Samples {
			b.Samples[i].Workload = workload
		}
		page, err := HTML([]*bench.Results{a, b}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text := string(page)
		if got := strings.Contains(text, "slow (2) / slow") && strings.Contains(text, "&lt;script&gt; (2) / slow"); got != again {
			t.Errorf("%s measured in the second file is told apart: %v", workload, got)
		}
		if got := strings.Contains(text, "random/write, 8</td><td class=\"t\">&lt;script&gt; / slow"); got == again {
			t.Errorf("%s in the second file is part of the same: %v", workload, got)
		}
		if n := strings.Count(text, "dir:/x"); again != (n == 2) {
			t.Errorf("%s: the target is listed %d times", workload, n)
		}
	}
}

// TestWhatCannotBePlotted: zeros and what is not a number are left out, nothing at all gives no plot, and results without samples a page.
func TestWhatCannotBePlotted(t *testing.T) {
	plot, err := dotPlot("t", "u", []string{"a", "b"}, []dots{{"x", []dot{{0, 0, 0, 0}, {1, math.NaN(), 0, 0}, {1, math.Inf(1), 1, 2}}}})
	if err != nil || plot != "" {
		t.Errorf("%q, %v", plot, err)
	}
	plot, err = dotPlot("t", "u", []string{"a"}, []dots{{"x", []dot{{0, 5, math.NaN(), math.NaN()}}}})
	if err != nil || !strings.Contains(string(plot), "<svg") {
		t.Errorf("a value without an interval: %q, %v", plot, err)
	}
	r := results(t)
	r.Samples = nil
	if _, err := HTML([]*bench.Results{r}, nil); err != nil {
		t.Error(err)
	}
	if _, err := HTML(nil, nil); vfs.KindOf(err) != vfs.KindInvalid {
		t.Error(err)
	}
	r = results(t)
	r.Samples[1].Latency.Histogram = []byte("x")
	if _, err := HTML([]*bench.Results{r}, nil); vfs.KindOf(err) != vfs.KindCorrupt {
		t.Error(err)
	}
}

// TestWhatWasHeld: of a phase that lasted the page has curves of memory and goroutines, and the slopes.
func TestWhatWasHeld(t *testing.T) {
	r := results(t)
	s := &r.Samples[0]
	s.Seconds = 3600
	for i := range 360 {
		s.Held = append(s.Held, bench.Held{At: float64(i+1) * 10, Resident: 500<<20 + int64(i)<<20, Goroutines: 77})
	}
	page, err := HTML([]*bench.Results{r}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, want := range []string{"write: resident memory", "write: goroutines", "<td>360 MiB</td><td>360 MiB to 360 MiB</td>", `<tr class="weak"><td class="t">write</td><td class="t">slow</td><td class="t">goroutines</td><td>77</td><td>77</td><td>0</td>`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if strings.Contains(text, "open files") {
		t.Error("what was not looked at is shown")
	}
}

// TestGoals: bounds are compared with means, what misses its goal is bold, what was not measured says so, and text stays text.
func TestGoals(t *testing.T) {
	wanted, err := ReadGoals([]byte(`[
		{"what": "reached <i>", "target": "slow", "workload": "streams", "phase": "write", "workers": 8, "cpu_s_gib": 0.5, "rate": 1000, "why": "a & b"},
		{"what": "missed", "target": "slow", "workload": "streams", "phase": "write", "workers": 8, "cpu_us": 100, "p99_ms": 1, "mib_s": 2000},
		{"what": "absent", "target": "slow", "workload": "random", "phase": "read", "cpu_us": 60},
		{"what": "memory", "target": "slow", "memory_mib": 100}]`))
	if err != nil {
		t.Fatal(err)
	}
	r := results(t)
	r.Samples[0].Resident, r.Samples[0].Held = 50<<20, []bench.Held{{Resident: 200 << 20}, {Resident: 100 << 20}}
	page, err := HTML([]*bench.Results{r}, wanted)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"<td class=\"t\">reached &lt;i&gt;</td><td>0.5 s/GiB</td><td>0.5 s/GiB (0.5 to 0.5)</td><td>1000 /s</td><td>1817 /s (1000 to 3000)</td><td class=\"t\">a &amp; b</td>",
		"<b>275 us (167 to 500)</b><br><b>2 ms (p99) (2 to 2)</b>", "<b>1024 MiB/s (1024 to 1024)</b>", "not measured", "<td><b>200 MiB</b></td>",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in the page", want)
		}
	}
	text := Markdown(wanted, []*bench.Results{r})
	for _, want := range []string{
		"| reached <i> | 0.5 s/GiB | 0.5 s/GiB (0.5 to 0.5) | 1000 /s | 1817 /s (1000 to 3000) | a & b |\n",
		"| missed | 100 us, 1 ms (p99) | **275 us (167 to 500)**, **2 ms (p99) (2 to 2)** | 2000 MiB/s | **1024 MiB/s (1024 to 1024)** |  |\n",
		"| absent | 60 us | not measured |  |  |  |\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for _, bad := range []string{"{}", "[{\"cpu\": 5}]", ""} {
		if _, err := ReadGoals([]byte(bad)); vfs.KindOf(err) != vfs.KindInvalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
