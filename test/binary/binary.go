// Package binary builds rackfs for tests that start it as a program.
//
// Go keeps the result of a package's tests until something changes that the test binary is made of, or a file of this module that the tests looked at. A program that
// they start is neither. So a test that starts one says so with Started, which looks at each file that the program was made of: then a change of one of them, or a new
// file beside them, is a reason to run the tests again. Only what is looked at while tests run counts, which is why Build cannot do it.
package binary

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	program = "github.com/rackfs/rackfs/cmd/rackfs"
	// sourcesSuffix makes the name of the list of files that a program was made of, beside the program.
	sourcesSuffix = ".sources"
)

// Build makes the program in a folder and returns its path.
func Build(dir string) (string, error) {
	path := filepath.Join(dir, "rackfs")
	build := exec.Command("go", "build", "-o", path, program)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build rackfs: %w\n%s", err, out)
	}
	list, err := sources()
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path+sourcesSuffix, []byte(strings.Join(list, "\n")), 0o644)
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
