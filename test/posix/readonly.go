//go:build linux

package posix

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// mainReadOnly tries to change a directory that has a file, in every way. Each has to be refused, because the file system is read-only or because
// the server's answer to ACCESS says so.
func mainReadOnly(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: read-only DIRECTORY")
	}
	dir, file := args[0], ""
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			file = p
			return fs.SkipAll
		}
		return err
	})
	if err != nil {
		return err
	}
	if file == "" {
		return fmt.Errorf("%s has no file", dir)
	}
	before, err := checksum(file)
	if err != nil {
		return err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	tries := map[string]func() error{
		"create":   func() error { return os.WriteFile(at("new"), nil, 0o644) },
		"write":    func() error { return os.WriteFile(file, []byte("x"), 0o644) },
		"truncate": func() error { return os.Truncate(file, 0) },
		"append": func() error {
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.Write([]byte("x"))
			return errors.Join(err, f.Close())
		},
		"mkdir":   func() error { return os.Mkdir(at("new"), 0o755) },
		"symlink": func() error { return os.Symlink("x", at("new")) },
		"mkfifo":  func() error { return unix.Mkfifo(at("new"), 0o644) },
		"link":    func() error { return os.Link(file, at("new")) },
		"rename":  func() error { return os.Rename(file, at("new")) },
		"unlink":  func() error { return os.Remove(file) },
		"rmdir":   func() error { return unix.Rmdir(dir) },
		"chmod":   func() error { return os.Chmod(file, 0o777) },
		"chown":   func() error { return os.Chown(file, 1, 1) },
		"utimes":  func() error { return os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)) },
	}
	var wrong []error
	for name, try := range tries {
		if err := try(); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EACCES) {
			wrong = append(wrong, fmt.Errorf("%s: %v", name, err))
		}
	}
	if after, err := checksum(file); err != nil || string(after) != string(before) {
		wrong = append(wrong, fmt.Errorf("%s changed: %v", file, err))
	}
	fmt.Printf("%d ways to change %s were tried\n", len(tries), dir)
	return errors.Join(wrong...)
}
