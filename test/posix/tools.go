//go:build linux

package posix

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func toolChecks() []Check {
	return []Check{
		{"git", gitWorks},
		{"go-build", goBuild},
	}
}

// command runs a program that must succeed and returns what it printed.
func (t *T) command(dir string, env []string, name string, args ...string) string {
	c := exec.Command(name, args...)
	c.Dir, c.Env = dir, append(os.Environ(), env...)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// gitWorks uses git as a developer does: commits, a branch, a merge, a repack (which maps and renames files), a clone.
func gitWorks(t *T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skipf("%v", err)
	}
	repo := t.Mkdir("repo")
	env := []string{
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=c", "GIT_COMMITTER_EMAIL=c@example.org",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_OPTIONAL_LOCKS=0",
	}
	git := func(args ...string) string { return t.command(repo, env, "git", args...) }
	git("init", "-q", "-b", "main")
	for i := range 30 {
		t.Must(os.MkdirAll(fmt.Sprintf("%s/dir%d", repo, i%5), 0o755), "mkdir")
		t.Must(os.WriteFile(fmt.Sprintf("%s/dir%d/file%d", repo, i%5, i), pattern(make([]byte, i*997), 0, byte(i)), 0o644), "write")
	}
	git("-c", "core.fsync=all", "add", ".")
	git("commit", "-q", "-m", "first")
	git("checkout", "-q", "-b", "topic")
	t.Must(os.WriteFile(repo+"/dir1/file1", []byte("changed\n"), 0o755), "write")
	t.Must(os.Remove(repo+"/dir2/file2"), "unlink")
	git("commit", "-q", "-a", "-m", "second")
	git("checkout", "-q", "main")
	t.Must(os.WriteFile(repo+"/new", []byte("new\n"), 0o644), "write")
	git("add", "new")
	git("commit", "-q", "-m", "third")
	git("merge", "-q", "-m", "merge", "topic")
	git("-c", "gc.autoDetach=false", "gc", "-q")
	t.Forget()
	if out := git("status", "--porcelain"); out != "" {
		t.Fatalf("git status is not clean:\n%s", out)
	}
	git("fsck", "--full", "--strict")
	clone := t.Path("clone")
	t.command(t.Dir, env, "git", "clone", "-q", "--no-hardlinks", repo, clone)
	t.command(clone, env, "git", "fsck", "--full", "--strict")
	Equal(t, "head of the clone", t.command(clone, env, "git", "rev-parse", "HEAD"), git("rev-parse", "HEAD"))
}

// goBuild compiles a program of several packages whose source and binary lie on the mount.
func goBuild(t *T) {
	goTool := "go"
	if root := os.Getenv("GOROOT"); root != "" {
		goTool = filepath.Join(root, "bin", "go")
	}
	if _, err := exec.LookPath(goTool); err != nil {
		t.Skipf("%v", err)
	}
	const packages = 6
	files := map[string]string{"go.mod": "module example.org/m\n\ngo 1.21\n"}
	var imports, sum strings.Builder
	for i := range packages {
		files[fmt.Sprintf("p%d/p.go", i)] = fmt.Sprintf("package p%d\n\nfunc Value() int { return value }\n", i)
		files[fmt.Sprintf("p%d/value.go", i)] = fmt.Sprintf("package p%d\n\nconst value = %d\n", i, 1<<i)
		fmt.Fprintf(&imports, "\t\"example.org/m/p%d\"\n", i)
		fmt.Fprintf(&sum, "+p%d.Value()", i)
	}
	files["main.go"] = "package main\n\nimport (\n" + imports.String() + ")\n\nfunc main() { println(0" + sum.String() + ") }\n"
	for name, content := range files {
		p := t.Path("m", name)
		t.Must(os.MkdirAll(filepath.Dir(p), 0o755), "mkdir")
		t.Must(os.WriteFile(p, []byte(content), 0o644), "write")
	}
	t.Forget()
	env := []string{"CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOTOOLCHAIN=local", "GOPROXY=off", "GOTELEMETRY=off"}
	t.command(t.Path("m"), env, goTool, "build", "-o", t.Path("m", "program"), ".")
	t.Forget()
	Equal(t, "output of the program", t.command(t.Dir, nil, t.Path("m", "program")), fmt.Sprintf("%d\n", 1<<packages-1))
}
