//go:build linux

package kclient

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"
)

// NewDisk makes a disk image for Guest.Disk with an empty file system (ext4, ext2, ...); mkfs options may follow. The
// image is sparse.
func NewDisk(t testing.TB, path, fsType string, sizeBytes int64, mkfsOptions ...string) {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		err = errors.Join(f.Truncate(sizeBytes), f.Close())
	}
	if err != nil {
		t.Fatalf("kclient: disk: %v", err)
	}
	args := append([]string{"-q", "-F"}, mkfsOptions...)
	if out, err := exec.Command("mkfs."+fsType, append(args, path)...).CombinedOutput(); err != nil {
		t.Fatalf("kclient: mkfs.%s: %v: %s", fsType, err, out)
	}
}

// CheckDisk repairs an ext2/3/4 image after a power cut, as a machine does at boot. Errors that cannot be repaired fail
// the test.
func CheckDisk(t testing.TB, path string) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fy", path).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() <= 2 { // 1: errors corrected, 2: corrected, reboot advised
		// Free counts are off after every power cut; the whole report only matters to whoever looks for what was lost.
		t.Logf("e2fsck repaired the disk (%d lines of report)", bytes.Count(out, []byte("\n")))
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("e2fsck:\n%s", out)
			}
		})
		return
	}
	if err != nil {
		t.Fatalf("kclient: e2fsck %s: %v:\n%s", path, err, out)
	}
}
