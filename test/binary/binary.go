// Package binary builds rackfs for tests that start it as a program.
//
// Go keeps the result of a package's tests until something changes that the test binary is made of, or a file of this module that the tests looked at. A program that
// they start is neither. So a test that starts one says so with Started, which looks at each file that the program was made of: then a change of one of them, or a new
// file beside them, is a reason to run the tests again. Only what is looked at while tests run counts, which is why Build cannot do it.
package binary

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	program = "github.com/rackfs/rackfs/cmd/rackfs"
	// sourcesSuffix makes the name of the list of files that a program was made of, beside the program.
	sourcesSuffix = ".sources"
)

// Build makes the program in a folder and returns its path. It is linked once for all test processes of this copy of the module, as long as nothing changes: go build leaves a
// program alone that is what it would make, and is asked in one folder of the user's cache. Its flags are those of `make test`, so that what the tests compiled is used (0099).
func Build(dir string) (string, error) {
	path := filepath.Join(dir, "rackfs")
	if err := build(path); err != nil {
		return "", fmt.Errorf("build rackfs: %w", err)
	}
	list, err := sources()
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path+sourcesSuffix, []byte(strings.Join(list, "\n")), 0o644)
}

func build(path string) error {
	linked, unlock, err := shared()
	if err != nil {
		return err
	}
	defer unlock()
	build := exec.Command("go", "build", "-o", linked, program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	// A copy, for the next one that builds may replace it by another one.
	from, err := os.Open(linked)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return err
	}
	return to.Close()
}

// shared is where the program of this copy of the module is linked, for one process at a time: until unlock.
func shared() (path string, unlock func(), err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", nil, err
	}
	here, err := os.Getwd() // of a package of it
	if err != nil {
		return "", nil, err
	}
	root := here
	for _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil; _, err = os.Stat(filepath.Join(root, "go.mod")) {
		if root == filepath.Dir(root) {
			return "", nil, fmt.Errorf("%s is in no module", here)
		}
		root = filepath.Dir(root)
	}
	sum := sha256.Sum256([]byte(root))
	dir := filepath.Join(cache, "rackfs-test", hex.EncodeToString(sum[:8]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		lock.Close()
		return "", nil, err
	}
	return filepath.Join(dir, "rackfs"), func() { lock.Close() }, nil
}

// sources lists the files of this module that the program is made of, and their folders.
func sources() ([]string, error) {
	const format = `{{if .Module}}{{if .Module.Main}}{{.Module.GoMod}}
{{.Dir}}
{{$dir := .Dir}}{{range .GoFiles}}{{$dir}}/{{.}}
{{end}}{{range .SFiles}}{{$dir}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$dir}}/{{.}}
{{end}}{{end}}{{end}}`
	list := exec.Command("go", "list", "-deps", "-f", format, program)
	list.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("what rackfs is made of: %w\n%s", err, stderr.Bytes())
	}
	seen := map[string]bool{}
	var files []string
	for _, file := range strings.Fields(string(out)) {
		if !seen[file] {
			seen[file] = true
			files = append(files, file)
		}
	}
	return files, nil
}

// Started says that the running test starts the program of Build, or another one that has no list of what it was made of.
func Started(path string) error {
	list, err := os.ReadFile(path + sourcesSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, file := range append(strings.Fields(string(list)), path) {
		if _, err := os.Stat(file); err != nil && !errors.Is(err, fs.ErrNotExist) { // one that is gone is a change, and was looked at
			return err
		}
	}
	return nil
}
