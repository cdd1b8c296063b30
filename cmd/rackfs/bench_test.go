package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/bench"
	"github.com/rackfs/rackfs/vfs"
)

// TestBench measures two directories with the least there is, and makes a page of it; what makes no sense is refused with what to do instead.
func TestBench(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) (string, error) {
		cmd := newRootCommand()
		var out bytes.Buffer
		cmd.SetArgs(append([]string{"bench"}, args...))
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	results, page := filepath.Join(dir, "results.json"), filepath.Join(dir, "page.html")
	promise := []string{"--durability", "names=memory,data=disk,losses=0", "--durability", "b=names=disk,data=disk,losses=0"}
	small := []string{"--short", "--time", "2ms", "--workload", "small-files,tree", "--tree-files", "20", "--workers", "2", "--files", "3"}
	out, err := run(append(append([]string{"compare", "a=dir:" + dir, "b=dir-sync:" + dir, "--json", results}, small...), promise...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"a: dir:" + dir, "promises names in disk", "small-files", "b / a", "they promise different things"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	f, err := os.Open(results)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := bench.ReadResults(f)
	if err != nil || len(r.Samples) != 3*2*(2+6) || r.Run.Options.Files != 3 {
		t.Errorf("%d samples, %v", len(r.Samples), err)
	}
	if out, err = run("report", results, "--out", page); err != nil || !strings.Contains(out, page) {
		t.Errorf("%s, %v", out, err)
	}
	goals := filepath.Join(dir, "goals.json")
	if err := os.WriteFile(goals, []byte(`[{"what": "writes", "target": "a", "workload": "small-files", "phase": "write", "rate": 1}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err = run("report", results, "--goals", goals, "--markdown"); err != nil || !strings.Contains(out, "| writes |  |  | 1 /s | ") {
		t.Errorf("%s, %v", out, err)
	}
	if err := os.Remove(goals); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(page); err != nil || !bytes.Contains(b, []byte("<svg")) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if out, err = run(append(append([]string{"run", "dir:" + dir, "--json", "-"}, small...), promise[:2]...)...); err != nil {
		t.Fatal(err)
	}
	if r, err := bench.ReadResults(strings.NewReader(out)); err != nil || len(r.Samples) != 2+6 {
		t.Errorf("%v in\n%s", err, out)
	}
	out, err = run(append(append([]string{"growth", "dir:" + dir, "--repeat", "2", "--factor", "3", "--workload", "metadata-shared"}, small[:3]...), append(promise[:2], "--workers", "2", "--files", "4")...)...)
	if err != nil || !strings.Contains(out, "x3 / x1") {
		t.Fatalf("%v\n%s", err, out)
	}
	made := regexp.MustCompile(`(?m)^(x1|x3) +metadata-shared +create +2 +(\d+) `).FindAllStringSubmatch(out, -1)
	if len(made) != 4 || made[0][2] != "8" || made[1][2] != "24" || made[2][1] != "x3" {
		t.Errorf("files made: %v in\n%s", made, out)
	}
	if out, err = run("list"); err != nil || !strings.Contains(out, "large-directory") {
		t.Errorf("%s, %v", out, err)
	}
	for _, x := range []struct {
		args, says string
		kind       vfs.Kind
	}{
		{"run /a", "[NAME=]KIND:PLACE", vfs.KindInvalid},
		{"run dir:/does/not/exist", "/does/not/exist", vfs.KindNotFound},
		{"run dir:" + dir + " --workload x", `no workload "x"`, vfs.KindNotFound},
		{"run dir:" + dir + " --file-size lots", "--file-size", 0},
		{"run dir:" + dir + " --file-size 5", "multiple of 4 KiB", vfs.KindInvalid},
		{"run dir:" + dir + " --durability safe", "write names=", vfs.KindInvalid},
		{"run dir:" + dir + " --pid 0", "--pid", 0},
		{"run dir:" + dir + " --client-pid x", "--client-pid", 0},
		{"run dir:" + dir + " --rate -1", "rate -1", vfs.KindInvalid},
		{"growth dir:" + dir + " --factor 1", "--factor 1", 0},
		{"growth dir:" + dir + " --factor 0", "--factor 0", 0},
		{"growth dir:" + dir + " --factor 1000 --durability names=disk,data=disk", "tree files 2000000", vfs.KindInvalid},
		{"meter", "name processes", 0},
		{"meter --pid 1073741824", "process 1073741824", vfs.KindNotFound},
		{"run dir:" + dir + " --workers 0", "use 1 to 4096", vfs.KindInvalid},
		{"compare dir:" + dir, "requires at least 2 arg(s)", 0},
		{"compare dir:" + dir + " dir:" + dir + " --durability names=disk,data=disk", "two targets are named dir", vfs.KindInvalid},
		{"report " + page, "line 1", vfs.KindInvalid},
		{"report /does/not/exist", "/does/not/exist", 0},
	} {
		out, err := run(strings.Fields(x.args)...)
		if err == nil || !strings.Contains(err.Error(), x.says) || x.kind != 0 && vfs.KindOf(err) != x.kind {
			t.Errorf("%s: %v, want %v saying %q\n%s", x.args, err, x.kind, x.says, out)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("%v was left, %v", left, err)
	}
}

// TestTokenIsNotKept: results and pages have the command line without it.
func TestTokenIsNotKept(t *testing.T) {
	args := []string{"rackfs", "bench", "run", "api:x", "--token", "rackfs_a", "--token=rackfs_b", "--short", "--token"}
	if got := strings.Join(withoutToken(args), " "); got != "rackfs bench run api:x --token *** --token=*** --short --token" {
		t.Error(got)
	}
	if args[5] != "rackfs_a" {
		t.Error("the command line was changed")
	}
}

// TestMeter: what a process uses is read from elsewhere, and ends with the command.
func TestMeter(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	cmd := newRootCommand()
	cmd.SetArgs([]string{"bench", "meter", "--pid", strconv.Itoa(os.Getpid())})
	cmd.SetOut(w)
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx); w.Close() }()
	url, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err, <-done)
	}
	u, err := bench.Metrics{URL: strings.TrimSpace(url)}.Read(t.Context())
	if err != nil || u.CPU <= 0 || u.Started <= 0 || u.Resident < 1<<20 || u.Files < 3 {
		t.Errorf("%+v, %v", u, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
