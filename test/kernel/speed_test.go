//go:build linux

package kernel

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
)

// BenchmarkKernelClient measures rackfs, and NFS-Ganesha on a plain directory if it is installed (Debian: nfs-ganesha-vfs), through the NFS client
// of a real Linux kernel, in turn, with the server's CPU:
//
//	TMPDIR=/path/on/the/disk go test -run '^$' -bench BenchmarkKernelClient -benchtime 1x ./test/kernel
//
// It unpacks a tree of 2,000 small files with tar, then runs `rackfs bench compare` in the guest: a source tree, a directory that is listed cold, streams.
// RACKFS_BENCH_ENTRIES is the size of the directory (100,000), RACKFS_BENCH_FLAGS are more flags of `rackfs bench compare`, RACKFS_BENCH_OUT a file for
// its results.
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
	speedWait  = 30 * time.Minute
)

// measured is a server under measurement.
type measured struct {
	name, mount, promise string
	pid                  int
	meter                string
}

func kernelClient(b *testing.B) {
	dir := b.TempDir()
	n := kclient.NewNet(b)
	g := n.Boot(b, kclient.Guest{Name: "client", MemoryMiB: 2048, Writable: []string{dir}})
	binary := os.Getenv(envBinary)
	var all []measured
	add := func(s server, name, export, promise string, port, pid int) {
		m := measured{name: name, mount: "/mnt/" + name, promise: promise, pid: pid}
		g.Mount(b, kclient.NFS(n.Addr(), port, export, m.mount, "4.2"))
		p := n.Start(b, kclient.Process{Args: []string{binary, "bench", "meter", "--listen", n.Addr() + ":0", "--pid", fmt.Sprint(pid)}, Name: "meter of " + name})
		m.meter = strings.TrimSpace(p.WaitOutput(b, "/metrics", readyDeadline))
		all = append(all, m)
	}
	s := serverUnderTest(b)
	ours := s.start(b, n, filepath.Join(dir, "rackfs"))
	add(s, "kernel", s.export, "names=disk,data=disk,losses=2", nfsPort, ours.Pid())
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
		add(s, "kernel-ganesha", "/default", promise, port, p.Pid())
	}
	archive := filepath.Join(dir, "tree.tar")
	if err := writeTree(archive); err != nil {
		b.Fatal(err)
	}
	for _, m := range all {
		g.MustRun(b, speedWait, kclient.Command("/bin/mkdir", m.mount+"/untar"))
		before, begin := cpuTime(b, m.pid), time.Now()
		g.MustRun(b, speedWait, kclient.Command("/bin/tar", "-xf", archive, "-C", m.mount+"/untar"))
		took, cpu := time.Since(begin), cpuTime(b, m.pid)-before
		b.Logf("%s: tar -x of %d small files: %.0f us of the server's CPU each, %.0f files/s", m.name, untarFiles, float64(cpu.Microseconds())/untarFiles, untarFiles/took.Seconds())
		b.ReportMetric(float64(cpu.Microseconds())/untarFiles, m.name+"-us/file")
	}
	entries := os.Getenv("RACKFS_BENCH_ENTRIES")
	if entries == "" {
		entries = "100000"
	}
	results := filepath.Join(dir, "results.json")
	args := []string{"bench", "compare", "--drop-caches", "--workload", "tree,large-directory,streams", "--workers", "4", "--time", "3s", "--entries", entries, "--json", results}
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
		if err == nil {
			err = os.WriteFile(out, raw, 0o644)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
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
