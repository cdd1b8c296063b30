package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// Usage is what processes have used since they started, and hold now.
type Usage struct {
	CPU        time.Duration
	Started    float64 // when they were started, added up: another number is another process
	Resident   int64   // bytes
	Heap       int64   // bytes in use of Go's heap
	Goroutines int64
	Files      int64 // open ones, connections among them
}

// Meter tells what the processes of a target use.
type Meter interface {
	Read(ctx context.Context) (Usage, error)
}

// Meters is their sum.
type Meters []Meter

// Read adds them up.
func (m Meters) Read(ctx context.Context) (sum Usage, err error) {
	for _, x := range m {
		u, err := x.Read(ctx)
		if err != nil {
			return sum, err
		}
		sum.CPU += u.CPU
		sum.Started += u.Started
		sum.Resident += u.Resident
		sum.Heap += u.Heap
		sum.Goroutines += u.Goroutines
		sum.Files += u.Files
	}
	return sum, nil
}

const (
	metricCPU      = "process_cpu_seconds_total"
	metricStart    = "process_start_time_seconds"
	metricResident = "process_resident_memory_bytes"
	metricHeap     = "go_memstats_heap_inuse_bytes"
	metricRoutines = "go_goroutines"
	metricFiles    = "process_open_fds"
	maxMetrics     = 16 << 20 // bytes of an answer
	metricsTimeout = 10 * time.Second
)

// Metrics is a meter of a process that serves metrics in Prometheus' text format at a URL.
type Metrics struct{ URL string }

func (m Metrics) Read(ctx context.Context) (Usage, error) {
	body, err := get(ctx, m.URL)
	if err != nil {
		return Usage{}, err
	}
	return parseMetrics(m.URL, string(body))
}

// get fetches a small document.
func get(ctx context.Context, url string) ([]byte, error) {
	const op = "bench.metrics"
	ctx, cancel := context.WithTimeout(ctx, metricsTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%q: %w", url, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindUnavailable, op, "%w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%s answers %s", url, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMetrics+1))
	if err == nil && len(body) > maxMetrics {
		err = vfs.Errorf(vfs.KindInvalid, op, "%s answers more than %d MiB", url, maxMetrics>>20)
	}
	return body, vfs.Wrap(op, err)
}

func parseMetrics(url, text string) (u Usage, err error) {
	const op = "bench.metrics"
	found := false
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		var to *int64
		switch name {
		case metricCPU, metricStart:
		case metricResident:
			to = &u.Resident
		case metricHeap:
			to = &u.Heap
		case metricRoutines:
			to = &u.Goroutines
		case metricFiles:
			to = &u.Files
		default:
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil || v < 0 || v > 1e18 {
			return u, vfs.Errorf(vfs.KindInvalid, op, "%s: %s is %q", url, name, value)
		}
		switch {
		case to != nil:
			*to = int64(v)
		case name == metricStart:
			u.Started = v
		default:
			u.CPU, found = time.Duration(v*float64(time.Second)), true
		}
	}
	if !found {
		return u, vfs.Errorf(vfs.KindInvalid, op, "%s has no %s: name the address of metrics in Prometheus' text format", url, metricCPU)
	}
	return u, nil
}

// FormatUsage writes what Metrics reads.
func FormatUsage(u Usage) string {
	return fmt.Sprintf("%s %g\n%s %g\n%s %d\n%s %d\n", metricCPU, u.CPU.Seconds(), metricStart, u.Started, metricResident, u.Resident, metricFiles, u.Files)
}

// PID is a meter of a process of this machine.
type PID int

// tick is the unit of /proc/PID/stat, fixed for user space.
const tick = 10 * time.Millisecond

func (p PID) Read(context.Context) (Usage, error) {
	const op = "bench.pid"
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", int(p)))
	if err != nil {
		return Usage{}, vfs.Errorf(vfs.KindNotFound, op, "process %d: %w", int(p), err)
	}
	// The name of the program may have spaces; what follows its closing bracket is numbers. See proc_pid_stat(5).
	text := string(raw)
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 22 {
		return Usage{}, vfs.Errorf(vfs.KindInvalid, op, "process %d: /proc has %d fields", int(p), len(f))
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	started, err3 := strconv.ParseInt(f[19], 10, 64)
	pages, err4 := strconv.ParseInt(f[21], 10, 64)
	if errors.Join(err1, err2, err3, err4) != nil {
		return Usage{}, vfs.Errorf(vfs.KindInvalid, op, "process %d: fields of /proc are not numbers", int(p))
	}
	u := Usage{CPU: time.Duration(user+system) * tick, Started: float64(started), Resident: pages * int64(os.Getpagesize())}
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", int(p))); err == nil { // another user's are not shown
		u.Files = int64(len(files))
	}
	return u, nil
}

// ownCPU is what this process has used.
func ownCPU() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // fails for no argument of ours
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Host is the machine that the client runs on.
type Host struct {
	CPUs   int    `json:"cpus"`
	Model  string `json:"model"`
	Memory int64  `json:"memory_bytes"`
	Kernel string `json:"kernel"`
}

// cpuModel is the first of /proc/cpuinfo.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if key, value, ok := strings.Cut(in.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
