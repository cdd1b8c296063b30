package web_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rackfs/rackfs/web"
)

// What is committed is what the sources give. Where node is missing, or npm cannot install the pinned packages, only the digest of the sources is compared.
func TestDistIsReproduced(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v: only TestDistIsOfTheSources compares here", err)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"index.html", ".npmrc", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts"} {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"src", "public"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(name)); err != nil {
			t.Fatal(err)
		}
	}
	npm := func(patience time.Duration, args ...string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "npm", args...)
		cmd.Dir, cmd.WaitDelay = dir, time.Second
		return cmd.CombinedOutput()
	}
	// The network may be missing; that decides nothing but whether there is this test.
	if out, err := npm(2*time.Minute, "ci", "--ignore-scripts", "--prefer-offline"); err != nil {
		t.Skipf("npm cannot install the packages here, only TestDistIsOfTheSources compares: %v\n%s", err, out)
	}
	if out, err := npm(5*time.Minute, "run", "build"); err != nil {
		t.Fatalf("the build fails: %v\n%s", err, out)
	}
	built, committed := files(t, os.DirFS(filepath.Join(dir, "dist"))), files(t, web.Dist())
	for name, raw := range built {
		if !bytes.Equal(committed[name], raw) {
			t.Errorf("%s is not what is committed: run `make web`, and commit dist", name)
		}
	}
	for name := range committed {
		if _, ok := built[name]; !ok {
			t.Errorf("%s is committed and not built: run `make web`, and commit dist", name)
		}
	}
	if len(built) < 3 || !slices.ContainsFunc(names(built), func(n string) bool { return filepath.Ext(n) == ".js" }) {
		t.Errorf("only %v were built", names(built))
	}
}

func files(t *testing.T, tree fs.FS) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		out[name], err = fs.ReadFile(tree, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func names(m map[string][]byte) (out []string) {
	for n := range m {
		out = append(out, n)
	}
	return out
}
