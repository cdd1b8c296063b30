//go:build linux

package posix

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/internal/kclient"
)

func TestMain(m *testing.M) {
	kclient.Main(m, kclient.Programs{"posix": Main})
}

// self is this test binary as the program.
func self(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Env = append(os.Environ(), kclient.ProgramEnv("posix"))
	return c
}

// TestChecksPassLocally runs the checks on the host's own file systems: what fails there is wrong in the check.
func TestChecksPassLocally(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the checks take other identities and need root")
	}
	for _, base := range []string{os.TempDir(), "/dev/shm"} {
		t.Run(strings.ReplaceAll(base, "/", "_"), func(t *testing.T) {
			if unix.Access(base, unix.W_OK) != nil {
				t.Skip("no such directory to write to")
			}
			dir, err := os.MkdirTemp(base, "posix")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			out, err := self("run", "-dir", dir, "-scratch", t.TempDir(), "-entries", "3000", "-keeps-unlinked").CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(out, []byte("\nPASS ")); n < len(Checks())-4 {
				t.Fatalf("%d of %d checks passed; more than 4 were skipped", n, len(Checks()))
			}
		})
	}
}

func TestCopyAndCompare(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	write := func(name, content string) {
		p := filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write("a", "one")
	write("d/b", strings.Repeat("two", 1000))
	if err := os.Symlink("a", filepath.Join(from, "s")); err != nil {
		t.Fatal(err)
	}
	files, size, err := copyTree(from, to)
	if err != nil || files != 2 || size != 3003 {
		t.Fatalf("copy: %d files, %d bytes, %v", files, size, err)
	}
	compare := func() []string {
		_, _, differences, err := compareTrees(from, to)
		if err != nil {
			t.Fatal(err)
		}
		return differences
	}
	if d := compare(); len(d) != 0 {
		t.Fatalf("copy differs: %v", d)
	}
	for what, change := range map[string]func(p string) error{
		"content": func(p string) error {
			st, err := os.Stat(p)
			if err != nil {
				return err
			}
			if err := os.WriteFile(p, []byte("eno"), 0o640); err != nil {
				return err
			}
			return os.Chtimes(p, st.ModTime(), st.ModTime())
		},
		"mode":    func(p string) error { return os.Chmod(p, 0o600) },
		"missing": os.Remove,
		"extra":   func(p string) error { return os.WriteFile(p+"x", nil, 0o600) },
		"size":    func(p string) error { return os.Truncate(p, 2) },
	} {
		if err := os.RemoveAll(to); err != nil {
			t.Fatal(err)
		}
		if _, _, err := copyTree(from, to); err != nil {
			t.Fatal(err)
		}
		if err := change(filepath.Join(to, "a")); err != nil {
			t.Fatal(err)
		}
		if len(compare()) == 0 {
			t.Errorf("comparison does not notice a change of %s", what)
		}
	}
}

// TestFailuresAreReported shows that a check that fails, and one that panics, make the run fail.
func TestFailuresAreReported(t *testing.T) {
	for name, check := range map[string]func(*T){
		"fails":  func(t *T) { t.Content(t.Make("f", "a"), "b") },
		"panics": func(*T) { panic("at the disco") },
		"wants":  func(t *T) { t.Want(nil, "no error", unix.ENOENT) },
	} {
		o := Options{Dir: t.TempDir()}
		if verdict, text := runOne(Check{Name: name, Run: check}, filepath.Join(o.Dir, "x"), &o); verdict != "FAIL" || text == "" {
			t.Errorf("%s: verdict %s %q", name, verdict, text)
		}
	}
}
