//go:build linux

package kernel

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
)

const (
	checksDeadline = 10 * time.Minute
	fillMounts     = 7                // more mounts that fill the large directory together with the first
	treeDeadline   = 60 * time.Minute // of the whole of GOROOT/src
)

func TestPosix(t *testing.T) {
	kclient.Require(t, "git")
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	data := dataDir(t)
	p := srv.start(t, n, data)
	idle, _ := residentMiB(t, p.Pid())
	t.Logf("server: %d MiB resident when idle", idle)
	goRoot, goCache := prepareGo(t)
	tree, entries := filepath.Join(goRoot, "src", "net", "http"), 3000 // of the large directory: several answers to READDIR, hundreds of getdents
	if long() {
		tree, entries = filepath.Join(goRoot, "src"), 10_000
	}

	versions := []string{"4.1", "4.2"}
	guests := map[string]*kclient.Running{}
	for _, version := range versions {
		g := n.Boot(t, kclient.Guest{Name: "client-" + version, MemoryMiB: 1536, Modules: []string{"overlay"}})
		guests[version] = g
		mount := srv.mount(n.Addr(), mountpoint, version)
		g.Mount(t, mount)
		dir := mountpoint + "/v" + version
		g.MustRun(t, time.Minute, kclient.Command("mkdir", dir))
		// What is measured runs alone.
		t.Run("tree/vers="+version, func(t *testing.T) {
			cpu := cpuTime(t, p.Pid())
			g.MustRun(t, treeDeadline, kclient.Program("posix", "copy", tree, dir+"/tree"))
			t.Logf("server: %v CPU for the copy", cpuTime(t, p.Pid())-cpu)
			g.Unmount(t, mountpoint)
			g.Mount(t, mount)
			g.MustRun(t, treeDeadline, kclient.Program("posix", "compare", tree, dir+"/tree"))
		})
		t.Run("create/vers="+version, func(t *testing.T) {
			const files = 500
			cpu := cpuTime(t, p.Pid())
			g.MustRun(t, checksDeadline, kclient.Program("posix", "create", "-dir", dir+"/empty-files", "-n", strconv.Itoa(files)))
			t.Logf("server: %.0f us CPU for a file created and closed", float64((cpuTime(t, p.Pid())-cpu).Microseconds())/files)
		})
		t.Run("stream/vers="+version, func(t *testing.T) {
			const mib = 256
			resetPeak(t, p.Pid())
			cpu := cpuTime(t, p.Pid())
			g.MustRun(t, checksDeadline, kclient.Program("posix", "fill", "-file", dir+"/large", "-mib", strconv.Itoa(mib), "-drop-caches"))
			used := cpuTime(t, p.Pid()) - cpu
			_, peak := residentMiB(t, p.Pid())
			t.Logf("server: %.2f CPU seconds for a GiB written and read, %d MiB resident at the peak", used.Seconds()*1024/mib, peak)
		})
	}
	t.Run("checks", func(t *testing.T) {
		for _, version := range versions {
			t.Run("vers="+version, func(t *testing.T) {
				t.Parallel()
				g := guests[version]
				checks := "/v" + version + "/checks"
				g.MustRun(t, time.Minute, kclient.Command("mkdir", mountpoint+checks))
				also := []string{"-entries", strconv.Itoa(entries)}
				if os.Getenv(envServer) == "" {
					also = append(also, "-keeps-unlinked")
				}
				for i := range fillMounts {
					m := srv.mount(n.Addr(), fmt.Sprint(mountpoint, i), version, "nosharecache")
					g.Mount(t, m)
					also = append(also, "-also", m.Target+checks)
				}
				runChecks(t, g, mountpoint+checks, also, goForGuest(t, g, goRoot, goCache))
			})
		}
	})
	t.Run("xattr-survives", func(t *testing.T) {
		g := guests["4.2"]
		args := []string{"-file", mountpoint + "/v4.2", "-name", "user.kept", "-value", "value"}
		g.MustRun(t, time.Minute, kclient.Program("posix", append([]string{"xattr", "-set"}, args...)...))
		p.Kill(t)
		srv.start(t, n, data)
		// A new mount knows nothing but what the server tells.
		g.Unmount(t, mountpoint)
		g.Mount(t, srv.mount(n.Addr(), mountpoint, "4.2"))
		g.MustRun(t, time.Minute, kclient.Program("posix", append([]string{"xattr"}, args...)...))
	})
}

// dataDir is a new directory for a server's data.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// runChecks runs the checks of test/posix in the guest; each is a subtest.
func runChecks(t *testing.T, g *kclient.Running, dir string, args, env []string) {
	type result struct{ verdict, name, detail string }
	var results []result
	c := kclient.Program("posix", "run", "-dir", dir, "-scratch", "/run/tmp", "-drop-caches", "-keep")
	c.Args = append(c.Args, args...)
	if s := os.Getenv(envSeed); s != "" {
		c.Args = append(c.Args, "-seed", s)
	}
	c.Env = append(c.Env, env...)
	c.Stdout = &lines{each: func(line string) {
		verdict, rest, _ := strings.Cut(line, " ")
		switch verdict {
		case "PASS", "FAIL", "SKIP":
			name, detail, _ := strings.Cut(rest, " ")
			results = append(results, result{verdict, name, detail})
		case "seed":
			t.Log(envSeed + "=" + rest)
		default: // a detail of several lines
			if n := len(results); n > 0 {
				results[n-1].detail += "\n" + line
			}
		}
	}}
	c.Stderr = io.Discard // of the processes that take locks
	ctx, cancel := context.WithTimeout(context.Background(), checksDeadline)
	defer cancel()
	status, err := g.Run(ctx, t, c)
	passed := 0
	for _, r := range results {
		t.Run(r.name, func(t *testing.T) {
			switch r.verdict {
			case "PASS":
				passed++
				t.Log(r.detail)
			case "SKIP":
				t.Skip(r.detail)
			default:
				t.Error(r.detail)
			}
		})
	}
	if err != nil || status > 1 || passed == 0 {
		t.Errorf("the checks ended early: status %d, %v, %d passed", status, err, passed)
	}
}

// prepareGo fills the host's build cache with what a small program needs, so that the guest, which has one slow CPU,
// compiles only that program.
func prepareGo(t *testing.T) (goRoot, goCache string) {
	t.Helper()
	env := func(name string) string {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatalf("go env %s: %v", name, err)
		}
		return strings.TrimSpace(string(out))
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"go.mod": "module m\n\ngo 1.21\n", "main.go": "package main\n\nfunc main() { println(0) }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "m"), ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return env("GOROOT"), env("GOCACHE")
}

// goForGuest gives the guest's Go tool the host's build cache, with a layer of its own above it, and returns its
// environment.
func goForGuest(t *testing.T, g *kclient.Running, goRoot, goCache string) []string {
	t.Helper()
	g.Mount(t, kclient.Mount{Type: "tmpfs", Source: "go", Target: "/mnt/go"})
	g.MustRun(t, time.Minute, kclient.Command("mkdir", "/mnt/go/upper", "/mnt/go/work", "/mnt/go/tmp"))
	g.Mount(t, kclient.Mount{Type: "overlay", Source: "overlay", Target: "/mnt/go/cache", Data: "lowerdir=" + goCache + ",upperdir=/mnt/go/upper,workdir=/mnt/go/work"})
	return []string{"GOROOT=" + goRoot, "GOCACHE=/mnt/go/cache", "GOTMPDIR=/mnt/go/tmp", "GOPATH=/mnt/go/path", "GOENV=off"}
}
