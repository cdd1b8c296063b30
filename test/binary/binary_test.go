package binary

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSources(t *testing.T) {
	files, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, f := range files {
		rel, err := filepath.Rel(root, f)
		if err != nil || strings.HasPrefix(rel, "..") {
			t.Fatalf("%s is not of this module, where Go does not look: %v", f, err)
		}
		if strings.HasSuffix(f, "_test.go") {
			t.Errorf("the program is not made of %s", rel)
		}
		if has[rel] = true; len(has) > len(files) {
			t.Fatal("a file is there twice")
		}
	}
	for _, want := range []string{"go.mod", "cmd/rackfs", "cmd/rackfs/main.go", "nfsserver/server.go", "raftmeta/metapb/meta.pb.go", "web/dist/index.html"} {
		if !has[want] {
			t.Errorf("%s is missing", want)
		}
	}
}

// Go runs a test again that said what it starts, when a file of that changed, and not otherwise.
func TestCachedResults(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Hour) // of a file just written Go does not trust the time
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
		return path
	}
	us, err := os.ReadFile("binary.go")
	if err != nil {
		t.Fatal(err)
	}
	write("go.mod", "module example.org/m\n\ngo 1.26\n")
	write("binary/binary.go", string(us))
	source := write("cmd/main.go", "package main\n\nfunc main() {}\n")
	started := filepath.Join(t.TempDir(), "program") // it need not be there
	if err := os.WriteFile(started+sourcesSuffix, []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	write("test/test_test.go", `package test

import (
	"testing"

	"example.org/m/binary"
)

func TestProgram(t *testing.T) {
	if err := binary.Started("`+started+`"); err != nil {
		t.Fatal(err)
	}
}
`)
	cached := func() bool {
		t.Helper()
		run := exec.Command("go", "test", "-vet=off", "./test")
		run.Dir = root
		run.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
		out, err := run.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.Contains(string(out), "(cached)")
	}
	if cached() {
		t.Fatal("the first result is of a run before it")
	}
	if !cached() {
		t.Fatal("nothing changed, and it ran again")
	}
	write("cmd/main.go", "package main\n\nfunc main() { println() }\n")
	if cached() {
		t.Fatal("the result is of another program")
	}
}

// The program is linked once, however many packages' tests start it, and each has a copy.
func TestLinkedOnce(t *testing.T) {
	made := func() (path string, linked os.FileInfo) {
		t.Helper()
		path, err := Build(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(path, "--help").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		shared, unlock, err := shared()
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		if linked, err = os.Stat(shared); err != nil {
			t.Fatal(err)
		}
		return path, linked
	}
	_, first := made()
	path, second := made()
	if !os.SameFile(first, second) { // go build sets the time of one that it leaves alone
		t.Errorf("linked at %v, and again at %v", first.ModTime(), second.ModTime())
	}
	if own, err := os.Stat(path); err != nil || os.SameFile(own, second) {
		t.Errorf("%s is not a copy, %v", path, err)
	}
}
