//go:build linux

package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"github.com/rackfs/rackfs/bench"
	"github.com/rackfs/rackfs/internal/kclient"
)

// BenchmarkKernelClient measures rackfs, and NFS-Ganesha on a plain directory if it is installed (Debian: nfs-ganesha-vfs), through the NFS client
// of a real Linux kernel, in turn, with the server's CPU:
//
//	TMPDIR=/path/on/the/disk go test -run '^$' -bench BenchmarkKernelClient -benchtime 1x ./test/kernel
//
// It unpacks a tree of 2,000 small files with tar, lists a directory with attributes that another client has filled (RACKFS_BENCH_ENTRIES, 100,000) and
// runs `rackfs bench compare` in the guest: a source tree, and streams. RACKFS_BENCH_FLAGS are more flags of that, RACKFS_BENCH_OUT is a file for all
// results, where the first two are workload kernel-client.
//
// The guest has one processor and shares the machine's: rates are its own, only the server's CPU is comparable with other clients'. The directory below
// Ganesha has ext4's attribute D, so that changes of names are on its disk before they are answered, as ours are.
func BenchmarkKernelClient(b *testing.B) {
	kclient.Require(b)
	for range b.N {
		kernelClient(b)
	}
}

const (
	untarFiles = 2000
	fillers    = 16 // that create entries of the directory at once
	speedWait  = 30 * time.Minute
)

// measured is a server under measurement.
type measured struct {
	name, mount, promise string
	addr, export         string
	pid                  int
	meter                string
}

// sample is one of something that was done once.
func (m *measured) sample(phase, unit string, ops int, took, cpu time.Duration) (bench.Record, error) {
	h := hdr.New(1, int64(time.Hour), 3)
	if err := h.RecordValue(int64(took)); err != nil {
		return bench.Record{}, err
	}
	raw, err := h.Encode(hdr.V2CompressedEncodingCookieBase)
	s, used := took.Seconds(), cpu.Seconds()
	return bench.Record{Sample: &bench.Sample{
		Target: m.name, Workload: "kernel-client", Phase: phase, Unit: unit, Workers: 1, Ops: int64(ops), Seconds: s, ServerCPU: &used,
		Latency: bench.Latency{Calls: 1, Mean: s, P50: s, P90: s, P99: s, P999: s, Max: s, Histogram: raw},
	}}, err
}

func kernelClient(b *testing.B) {
	dir := b.TempDir()
	n := kclient.NewNet(b)
	g := n.Boot(b, kclient.Guest{Name: "client", MemoryMiB: 2048, Writable: []string{dir}})
	binary := os.Getenv(envBinary)
	var all []measured
	add := func(name, export, promise string, port, pid int) {
		m := measured{name: name, mount: "/mnt/" + name, promise: promise, pid: pid, addr: fmt.Sprintf("%s:%d", n.Addr(), port), export: export}
		g.Mount(b, kclient.NFS(n.Addr(), port, export, m.mount, "4.2"))
		p := n.Start(b, kclient.Process{Args: []string{binary, "bench", "meter", "--listen", n.Addr() + ":0", "--pid", fmt.Sprint(pid)}, Name: "meter of " + name})
		m.meter = strings.TrimSpace(p.WaitOutput(b, "/metrics", readyDeadline))
		all = append(all, m)
	}
	s := serverUnderTest(b)
	ours := s.start(b, n, filepath.Join(dir, "rackfs"))
	add("kernel", s.export, "names=disk,data=disk,losses=2", nfsPort, ours.Pid())
	if _, err := exec.LookPath("ganesha.nfsd"); err != nil {
		b.Log("install nfs-ganesha-vfs to compare with it")
	} else {
		data, port := filepath.Join(dir, "ganesha"), nfsPort+1
		if err := os.Mkdir(data, 0o777); err != nil {
			b.Fatal(err)
		}
		promise := "names=disk,data=disk,losses=0"
		if out, err := exec.Command("chattr", "+D", data).CombinedOutput(); err != nil {
			b.Logf("names are not synced: %s", out)
			promise = "names=memory,data=disk,losses=0"
		}
		p := n.Start(b, kclient.Process{Args: ganeshaOn(b, data, n.Addr(), port), Name: "ganesha"})
		p.WaitOutput(b, "NFS SERVER INITIALIZED", readyDeadline)
		add("kernel-ganesha", "/default", promise, port, p.Pid())
	}
	archive := filepath.Join(dir, "tree.tar")
	if err := writeTree(archive); err != nil {
		b.Fatal(err)
	}
	entries := 100_000
	if s := os.Getenv("RACKFS_BENCH_ENTRIES"); s != "" {
		var err error
		if entries, err = strconv.Atoi(s); err != nil {
			b.Fatalf("RACKFS_BENCH_ENTRIES: %v", err)
		}
	}
	var once []bench.Record
	run := func(m *measured, phase, unit string, ops int, c kclient.Cmd) {
		asked := m.asked(b, g)
		before, begin := cpuTime(b, m.pid), time.Now()
		g.MustRun(b, speedWait, c)
		took, cpu := time.Since(begin), cpuTime(b, m.pid)-before
		each := float64(cpu.Microseconds()) / float64(ops)
		fmt.Printf("%s: %s of %d: %.1f us of the server's CPU each, %.2f s in all; the kernel asked%s\n", m.name, phase, ops, each, took.Seconds(), since(asked, m.asked(b, g)))
		b.ReportMetric(each, m.name+"-us/"+unit)
		r, err := m.sample(phase, unit, ops, took, cpu)
		if err != nil {
			b.Fatal(err)
		}
		once = append(once, r)
	}
	for i := range all {
		m := &all[i]
		g.MustRun(b, speedWait, kclient.Command("/bin/mkdir", m.mount+"/untar"))
		// -m: the guest's clock is behind the host's, and tar would say so of each file.
		run(m, "untar", "file", untarFiles, kclient.Command("/bin/tar", "-xmf", archive, "-C", m.mount+"/untar"))
		p := n.Start(b, kclient.Process{
			Args: []string{"/proc/self/exe", m.addr, m.export, "listed", strconv.Itoa(entries)}, Env: []string{kclient.ProgramEnv("fill-directory")}, Name: "fill " + m.name,
		})
		ctx, cancel := context.WithTimeout(b.Context(), speedWait)
		code, err := p.Wait(ctx)
		cancel()
		if err != nil || code != 0 {
			b.Fatalf("%s could not be filled: status %d, %v", m.name, code, err)
		}
		run(m, "list", "entry", entries, kclient.Program("list-directory", m.mount, "listed", strconv.Itoa(entries)))
	}
	results := filepath.Join(dir, "results.json")
	args := []string{"bench", "compare", "--drop-caches", "--workload", "tree,streams", "--workers", "4", "--time", "3s", "--stream-size", "64MiB", "--json", results}
	args = append(args, strings.Fields(os.Getenv("RACKFS_BENCH_FLAGS"))...)
	for _, m := range all {
		args = append(args, m.name+"=dir:"+m.mount, "--metrics", m.name+"="+m.meter, "--durability", m.name+"="+m.promise)
	}
	if len(all) == 1 {
		args[1] = "run"
	}
	c := kclient.Command(binary, args...)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr // as it goes: it takes minutes
	g.MustRun(b, speedWait, c)
	if out := os.Getenv("RACKFS_BENCH_OUT"); out != "" {
		raw, err := os.ReadFile(results)
		for i := range once {
			var line []byte
			if line, err = json.Marshal(once[i]); err == nil {
				raw = append(append(raw, line...), '\n')
			}
		}
		if err == nil {
			err = os.WriteFile(out, raw, 0o644)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// asked is how often the guest's kernel has asked the server for what, by /proc/self/mountstats.
func (m *measured) asked(b *testing.B, g *kclient.Running) map[string]int {
	var out bytes.Buffer
	c := kclient.Command("/bin/cat", "/proc/self/mountstats")
	c.Stdout = &out
	g.MustRun(b, speedWait, c)
	all, here := map[string]int{}, false
	for line := range strings.Lines(out.String()) {
		f := strings.Fields(line)
		switch {
		case len(f) > 4 && f[0] == "device":
			here = f[4] == m.mount
		case here && len(f) > 1 && strings.HasSuffix(f[0], ":") && strings.ToUpper(f[0]) == f[0]:
			if n, err := strconv.Atoi(f[1]); err == nil {
				all[strings.TrimSuffix(f[0], ":")] = n
			}
		}
	}
	return all
}

// since says what was asked between two looks.
func since(before, after map[string]int) (text string) {
	for _, op := range slices.Sorted(maps.Keys(after)) {
		if n := after[op] - before[op]; n > 0 {
			text += fmt.Sprintf(" %s %d", op, n)
		}
	}
	return text
}

// fillDirectory makes a directory of empty files by NFS, without a kernel: ADDRESS EXPORT NAME ENTRIES.
func fillDirectory(args []string) int {
	err := func() error {
		n, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		ctx := context.Background()
		fs, err := bench.NewNFS(ctx, bench.NFSConfig{Addr: args[0], Path: args[1], Sessions: 4})
		if err != nil {
			return err
		}
		root, err := fs.Root(ctx)
		if err != nil {
			return err
		}
		dir, err := fs.Mkdir(ctx, root, args[2])
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		failed := make(chan error, fillers)
		for w := range fillers {
			wg.Go(func() {
				for i := w; i < n; i += fillers {
					if err := fs.Create(ctx, dir, fmt.Sprintf("entry-%08d.dat", i)); err != nil {
						failed <- err
						return
					}
				}
			})
		}
		wg.Wait()
		select {
		case err := <-failed:
			return err
		default:
			_ = fs.Close(ctx) // Ganesha refuses the end of sessions from here now and then; whether all are there the listing tells
			return nil
		}
	}()
	return status(err)
}

// listDirectory lists a directory with the attributes of all that is in it, after what the kernel knows of it is dropped: MOUNT NAME ENTRIES.
func listDirectory(args []string) int {
	err := func() error {
		if err := bench.DropPageCache(); err != nil {
			return err
		}
		fs, _, err := bench.NewDir(args[0], false)
		if err != nil {
			return err
		}
		ctx := context.Background()
		root, err := fs.Root(ctx)
		if err != nil {
			return err
		}
		dir, err := fs.Enter(ctx, root, args[1])
		if err != nil {
			return err
		}
		seen := 0
		if err := fs.List(ctx, dir, func(bench.Entry) error { seen++; return nil }); err != nil {
			return err
		}
		if strconv.Itoa(seen) != args[2] {
			return fmt.Errorf("%d entries are listed, %s are there", seen, args[2])
		}
		return nil
	}()
	return status(err)
}

func status(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// writeTree makes an archive of small files, twelve to a directory, as source trees have them.
func writeTree(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	now := time.Now()
	for i := range untarFiles {
		folder := fmt.Sprintf("package-%d/", i/12)
		if i%12 == 0 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: 0o755, ModTime: now}); err != nil {
				return err
			}
		}
		size := int64(512 + i*2654435761%8192)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%ssource-%d.go", folder, i), Mode: 0o644, Size: size, ModTime: now}); err != nil {
			return err
		}
		if _, err := io.WriteString(w, strings.Repeat("x", int(size))); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return f.Sync()
}
