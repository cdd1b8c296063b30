//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The programs of TestDiskOptionsHideNothing. The first leaves files behind that were synced in different ways, the
// second says whether exactly what was synced is there after the power cut.

func leaveFiles(args []string) int {
	return report(func(dir string) error {
		for _, name := range []string{"kept", "forgotten"} {
			if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
				return err
			}
		}
		unix.Sync()
		for _, name := range []string{"kept/file", "forgotten/file", "kept/dirty"} {
			f, err := os.Create(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			if _, err := f.WriteString(name); err != nil {
				return err
			}
			if filepath.Base(name) == "file" {
				if err := f.Sync(); err != nil {
					return err
				}
			}
		}
		d, err := os.Open(filepath.Join(dir, "kept"))
		if err != nil {
			return err
		}
		return d.Sync()
	}, args)
}

func findFiles(args []string) int {
	return report(func(dir string) error {
		if b, err := os.ReadFile(filepath.Join(dir, "kept/file")); err != nil || string(b) != "kept/file" {
			return fmt.Errorf("synced with its directory, and lost: %q, %w", b, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "forgotten/file")); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("there, though its directory was never synced: %v", err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "kept/dirty")); err == nil && len(b) > 0 {
			return fmt.Errorf("%q is there, though nobody synced it", b)
		}
		return nil
	}, args)
}

func report(f func(dir string) error, args []string) int {
	if err := f(args[0]); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}
