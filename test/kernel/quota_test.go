//go:build linux

package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/internal/kclient"
)

const (
	quotaLimit    = 16 << 20 // of /team
	quotaDeadline = 5 * time.Minute
	quotaPage     = 4 << 10
	quotaUnit     = 64 << 10 // bytes of one write(2)
)

// TestQuota has the kernel's client meet the limit of a directory, and then a secured export of it.
func TestQuota(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	if os.Getenv(envServer) != "" {
		t.Skip("another server has no such limits")
	}
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	data := dataDir(t)
	p := srv.start(t, n, data, "--project-quota", fmt.Sprintf("default:/team=%d", quotaLimit), "--project-quota", "default:/other=1GiB,inodes=3")
	g := n.Boot(t, kclient.Guest{Name: "client", MemoryMiB: 512})
	g.Mount(t, srv.mount(n.Addr(), mountpoint, "4.2"))
	c := client{t, g}
	g.MustRun(t, quotaDeadline, kclient.Program("quota", mountpoint+"/team", mountpoint+"/other"))

	// mv copies where rename(2) is EXDEV, and df shows the directory's numbers.
	c.sh("echo moved > team/m && mv team/m other/m && test ! -e team/m && grep -q moved other/m && rm other/m")
	if got := strings.Fields(c.sh("df -B1 --output=size team | tail -1")); len(got) != 1 || got[0] != fmt.Sprint(quotaLimit) {
		t.Errorf("df of the directory says %v", got)
	}
	c.sh("echo secret > outside && echo ours > team/inside && sync")

	// The same cluster for clients that may use only the directory.
	p.Signal(t, syscall.SIGTERM)
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := srv.args
	srv.args = func(t testing.TB, data, addr string) []string {
		var out []string
		for _, a := range all(t, data, addr) {
			if a == "--allow" || strings.Contains(a, "/24") {
				continue
			}
			out = append(out, a)
		}
		return out
	}
	srv.start(t, n, data, "--export", "default:/team=10.77.0.0/24")
	c.sh("! cat outside && ! cat team/inside") // handles of the whole export
	srv.export = "/default/team"
	g.Mount(t, srv.mount(n.Addr(), freshMount, "4.2"))
	c.sh("grep -q ours " + freshMount + "/inside && echo new > " + freshMount + "/new && test $(stat -c %i " + freshMount + ") -gt 1")
	srv.export = "/"
	g.Mount(t, srv.mount(n.Addr(), mountpoint+"0", "4.1"))
	if got := c.sh("ls " + mountpoint + "0/default && grep -q new " + mountpoint + "0/default/team/new"); strings.TrimSpace(got) != "team" {
		t.Errorf("beside the directory there is %q", got)
	}
}

// quota is the program of TestQuota: a directory with a limit of quotaLimit bytes, one of three inodes.
func quota(args []string) int {
	if err := runQuota(args[0], args[1]); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func runQuota(team, other string) error {
	// write(2) with O_SYNC is refused itself, within a page of the limit; what was written before is there.
	name := filepath.Join(team, "sync")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_SYNC, 0o644)
	if err != nil {
		return err
	}
	wrote, err := fillUp(f)
	if err := refused(wrote, err); err != nil {
		return fmt.Errorf("O_SYNC: %w", err)
	}
	if err := isFull(team); err != nil {
		return err
	}
	// What exists can be overwritten.
	if _, err := f.WriteAt(bytes.Repeat([]byte{9}, 1<<20), 12345); err != nil {
		return fmt.Errorf("overwriting at a full quota: %w", err)
	}
	// Room is there again at once.
	if err := f.Truncate(0); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}

	// Without O_SYNC write(2) or, at the latest, fsync(2) says it, and what fsync(2) confirmed stays.
	f, err = os.Create(filepath.Join(team, "buffered"))
	if err != nil {
		return err
	}
	const confirmed = 1 << 20
	if _, err := f.Write(bytes.Repeat([]byte{1}, confirmed)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	for p := bytes.Repeat([]byte{2}, quotaUnit); err == nil && at < 2*quotaLimit; at += quotaUnit {
		_, err = f.Write(p)
	}
	if err == nil {
		err = f.Sync()
	}
	if !errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%d bytes were written and synced at a limit of %d: %v", at, quotaLimit, err)
	}
	_ = f.Close()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return err
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		return err
	}
	if len(got) < confirmed || !bytes.Equal(got[:confirmed], bytes.Repeat([]byte{1}, confirmed)) {
		return fmt.Errorf("what fsync confirmed is not there: %d bytes", len(got))
	}
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	again, err := os.Create(filepath.Join(team, "again"))
	if err != nil {
		return err
	}
	if _, err := again.Write(make([]byte, quotaLimit-1<<20)); err != nil {
		return fmt.Errorf("after an unlink: %w", err)
	}
	if err := errors.Join(again.Sync(), again.Close()); err != nil {
		return fmt.Errorf("after an unlink: %w", err)
	}

	// Names do not cross.
	if err := os.Rename(again.Name(), filepath.Join(other, "again")); !errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("rename: %w", err)
	}
	if err := os.Link(again.Name(), filepath.Join(other, "again")); !errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("link: %w", err)
	}
	if err := os.Remove(again.Name()); err != nil {
		return err
	}
	// Inodes: the directory itself and two more.
	for _, d := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(other, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(other, "c"), nil, 0o644); !errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("a fourth inode: %w", err)
	}
	return errors.Join(os.Remove(filepath.Join(other, "a")), os.Remove(filepath.Join(other, "b")))
}

// fillUp writes until it is refused.
func fillUp(f *os.File) (wrote int, err error) {
	for p := bytes.Repeat([]byte{3}, quotaUnit); wrote < 2*quotaLimit; {
		n, err := f.Write(p)
		wrote += max(n, 0)
		if err != nil {
			return wrote, err
		}
	}
	return wrote, nil
}

func refused(wrote int, err error) error {
	if !errors.Is(err, unix.EDQUOT) || wrote > quotaLimit || wrote < quotaLimit-quotaUnit {
		return fmt.Errorf("%d bytes of %d, %w", wrote, quotaLimit, err)
	}
	return nil
}

// isFull checks what statfs(2) says of a full directory.
func isFull(dir string) error {
	var s, up unix.Statfs_t
	if err := errors.Join(unix.Statfs(dir, &s), unix.Statfs(filepath.Dir(dir), &up)); err != nil {
		return err
	}
	unit := uint64(s.Bsize)
	if s.Blocks*unit != quotaLimit || s.Bavail*unit > quotaUnit+quotaPage || up.Blocks*uint64(up.Bsize) == quotaLimit {
		return fmt.Errorf("statfs: %d blocks, %d free, of %d bytes; above %d of %d", s.Blocks, s.Bavail, s.Bsize, up.Blocks, up.Bsize)
	}
	return nil
}
