//go:build linux

package kclient

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"testing"
)

// modulesRoot is where Debian's user-mode-linux keeps the modules of its kernel, one folder per release.
const modulesRoot = "/usr/lib/uml/modules"

// Require ends the test unless this machine can run guests: it skips with the reason, or fails when CI=true, so that a
// continuous build cannot pass by not testing. Extra names are programs that the test also needs in PATH.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	if err := available(programs); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("kernel client tests cannot run here: %v", err)
		}
		t.Skipf("kernel client tests cannot run here: %v", err)
	}
}

// Available says why this machine cannot run guests, nil if it can: for a test of which a guest is only a part, and which begins to boot it early.
func Available() error { return available(nil) }

func available(programs []string) error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces and taps need root")
	}
	need := append([]string{"linux.uml", "ip"}, programs...)
	if wideState() {
		need = append(need, "gcc")
	}
	for _, p := range need {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w; scripts/setup-test.sh installs it", err)
		}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("no tap devices: %w", err)
	}
	_, err := modulesDir()
	return err
}

// modulesDir finds the modules of the installed kernel. The newest wins should several be installed; the guest's init
// checks that the choice is its own release.
func modulesDir() (string, error) {
	dirs, err := filepath.Glob(filepath.Join(modulesRoot, "*", "modules.dep"))
	if err != nil {
		return "", err
	}
	if len(dirs) == 0 {
		return "", fmt.Errorf("no kernel modules under %s; scripts/setup-test.sh installs them", modulesRoot)
	}
	sort.Strings(dirs)
	return filepath.Dir(dirs[len(dirs)-1]), nil
}
