package kclient

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

//go:embed preload/xstate.c
var xstateSource []byte

// wideState reports whether programs of this machine have registers that the
// kernel of User Mode Linux does not know, see preload/xstate.c.
func wideState() bool {
	b, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && strings.Contains(string(b), " amx_tile ")
}

// kernelEnv is the environment of linux.uml: on processors that need it, with
// the preload of preload/xstate.c, which is compiled for this guest.
func kernelEnv(t testing.TB) ([]string, error) {
	env := os.Environ()
	if !wideState() {
		return env, nil
	}
	dir := t.TempDir()
	source, library := filepath.Join(dir, "xstate.c"), filepath.Join(dir, "xstate.so")
	if err := os.WriteFile(source, xstateSource, 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.Command("gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the preload for this processor: %w:\n%s", err, out)
	}
	return append(env, "LD_PRELOAD="+library), nil
}
