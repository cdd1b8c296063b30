package localssd_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/localssd"
	"github.com/rackfs/rackfs/vfs"
)

// A listing for which descriptors do not suffice fails. It does not leave out what it could not look at.
func TestListWithoutDescriptors(t *testing.T) {
	needRoot(t)
	const files = 5
	fs := reopen(t, nil, t.TempDir(), localssd.Options{Descriptors: 1})
	defer fs.Stop()
	dir := mkdir(t, fs, vfs.RootIno, "d")
	for i := range files {
		create(t, fs, dir, fmt.Sprint(i), "x")
	}
	if _, err := fs.GetAttr(t.Context(), dir); err != nil { // the one inode that keeps its descriptor
		t.Fatal(err)
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(len(fds) + 64), Max: was.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	var held []int
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	for {
		fd, err := unix.Dup(0)
		if err == unix.EMFILE {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, fd)
	}
	free := func(n int) {
		for range n {
			unix.Close(held[len(held)-1])
			held = held[:len(held)-1]
		}
	}
	free(1) // enough for the directory, not for what is in it
	if page, err := fs.ReadDir(t.Context(), &vfs.Root, dir, 0, 100, true); vfs.KindOf(err) != vfs.KindUnavailable {
		t.Errorf("%d of %d entries, %v", len(page.Entries), files, err)
	}
	free(8)
	if page, err := fs.ReadDir(t.Context(), &vfs.Root, dir, 0, 100, true); err != nil || len(page.Entries) != files || !page.EOF {
		t.Errorf("%d of %d entries, %v", len(page.Entries), files, err)
	}
}
