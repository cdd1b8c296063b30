//go:build linux

package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/localssd"
	"github.com/rackfs/rackfs/vfs"
)

const (
	diskQuotaBytes   = 8 << 20 // of the user
	diskQuotaInodes  = 10
	diskProjectBytes = 4 << 20 // of the directory
	diskProject      = 7
)

// TestLocalQuota has a local volume meet the quotas of its disk's own file system, of a user and of a project, in a guest whose kernel has them.
func TestLocalQuota(t *testing.T) {
	kclient.Require(t, "mkfs.ext4")
	t.Parallel()
	if os.Getenv(envServer) != "" {
		t.Skip("about our local volumes")
	}
	n := kclient.NewNet(t)
	disk := filepath.Join(t.TempDir(), "disk")
	kclient.NewDisk(t, disk, "ext4", 256<<20, "-m", "0", "-O", "quota,project", "-E", "quotatype=usrquota:prjquota")
	g := n.Boot(t, kclient.Guest{Name: "machine", MemoryMiB: 256, Disk: disk, Modules: []string{"quota_v2"}})
	g.Mount(t, kclient.Mount{Type: "ext4", Source: "/dev/ubda", Target: diskMount, Data: "usrquota,prjquota"})
	g.MustRun(t, time.Minute, kclient.Program("local-quota", diskMount))
}

// localQuota is the program of TestLocalQuota.
func localQuota(args []string) int { return report(runLocalQuota, args) }

// setQuota sets hard limits on a file system.
func setQuota(kind int, id uint32, bytes, inodes uint64) error {
	const setQuota, limits = 0x800008, 1 | 4 // Q_SETQUOTA; QIF_BLIMITS | QIF_ILIMITS
	d := struct {
		blocks, blocksSoft, space, inodes, inodesSoft, used, blockTime, inodeTime uint64
		valid                                                                     uint32
	}{blocks: bytes / 1024, inodes: inodes, valid: limits}
	dev, err := unix.BytePtrFromString("/dev/ubda")
	if err != nil {
		return err
	}
	_, _, no := unix.Syscall6(unix.SYS_QUOTACTL, uintptr(setQuota<<8|kind), uintptr(unsafe.Pointer(dev)), uintptr(id), uintptr(unsafe.Pointer(&d)), 0, 0)
	if no != 0 {
		return fmt.Errorf("quotactl of kind %d, id %d: %w", kind, id, no)
	}
	return nil
}

// setProject makes a directory the root of a project.
func setProject(path string, id uint32) error {
	const fsSetXattr, inherit = 0x401c5820, 0x200 // FS_IOC_FSSETXATTR, FS_XFLAG_PROJINHERIT
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	x := struct {
		flags, extent, extents, project, cow uint32
		pad                                  [8]byte
	}{flags: inherit, project: id}
	if _, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsSetXattr, uintptr(unsafe.Pointer(&x))); no != 0 {
		return fmt.Errorf("project of %s: %w", path, no)
	}
	return nil
}

func runLocalQuota(dir string) error {
	const user, project = 0, 2 // kinds of quotas
	fs, err := localssd.Open(filepath.Join(dir, "volume"), localssd.Options{RootMode: 0o1777})
	if err != nil {
		return err
	}
	alice, bob := &vfs.Cred{UID: 1000, GID: 1000}, &vfs.Cred{UID: 1001, GID: 1001}
	ctx := context.Background()
	open := uint32(0o777)
	made, err := fs.MakeNode(ctx, &vfs.Root, vfs.RootIno, "project", vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: &open}})
	if err != nil {
		return err
	}
	if err := errors.Join(setProject(filepath.Join(dir, "volume", "data", "project"), diskProject),
		setQuota(user, alice.UID, diskQuotaBytes, diskQuotaInodes), setQuota(project, diskProject, diskProjectBytes, 0)); err != nil {
		return err
	}
	create := func(c *vfs.Cred, in vfs.Ino, name string) (vfs.Ino, error) {
		m := uint32(0o644)
		r, err := fs.Create(ctx, c, in, name, vfs.CreateArgs{Exclusive: vfs.Guarded, Attr: vfs.SetAttr{Mode: &m}})
		return r.Attr.Ino, err
	}
	// fill writes until it is refused, and returns how many bytes were written.
	fill := func(c *vfs.Cred, f vfs.Ino, most uint64) (n uint64, err error) {
		for p := make([]byte, 64<<10); err == nil && n < most; {
			_, _, err = fs.Write(ctx, c, f, n, p, vfs.Unstable)
			var short *vfs.ShortWrite
			if errors.As(err, &short) {
				n += uint64(short.N)
			} else if err == nil {
				n += uint64(len(p))
			}
		}
		return n, err
	}
	limited := func(what string, c *vfs.Cred, f vfs.Ino, limit uint64) error {
		n, err := fill(c, f, 2*limit)
		if vfs.KindOf(err) != vfs.KindQuota || n < limit/2 || n > limit {
			return fmt.Errorf("%s: %d bytes written at a limit of %d, then %v", what, n, limit, err)
		}
		return nil
	}

	f, err := create(alice, vfs.RootIno, "alice")
	if err != nil {
		return err
	}
	if err := limited("a user", alice, f, diskQuotaBytes); err != nil {
		return err
	}
	g, err := create(bob, vfs.RootIno, "bob")
	if err != nil {
		return err
	}
	if _, err := fill(bob, g, 2*diskQuotaBytes); err != nil {
		return fmt.Errorf("another user is limited too: %w", err)
	}
	// Every way to take space is refused to the one and open to the other.
	if err := fs.Allocate(ctx, alice, f, 2*diskQuotaBytes, diskQuotaBytes); vfs.KindOf(err) != vfs.KindQuota {
		return fmt.Errorf("allocate: %v", err)
	}
	copied, _, err := fs.Copy(ctx, alice, g, 0, f, diskQuotaBytes, diskQuotaBytes)
	if vfs.KindOf(err) != vfs.KindQuota {
		return fmt.Errorf("copy of %d bytes: %v", copied, err)
	}
	uid := alice.UID
	if _, err := fs.SetAttr(ctx, &vfs.Root, g, vfs.SetAttr{UID: &uid}, false); err != nil {
		return fmt.Errorf("root gives a file to a user whose quota is used up, which root may: %w", err)
	}
	if _, err := fs.Commit(ctx, f, 0, 0); err != nil {
		return err
	}

	// Files count as well, and what was refused is not there.
	n := 0
	for err = nil; n <= diskQuotaInodes && err == nil; n++ {
		_, err = create(alice, vfs.RootIno, fmt.Sprint("f", n))
	}
	if vfs.KindOf(err) != vfs.KindQuota || n < diskQuotaInodes-2 {
		return fmt.Errorf("file %d of %d: %v", n, diskQuotaInodes, err)
	}
	if _, err := fs.Lookup(ctx, alice, vfs.RootIno, fmt.Sprint("f", n-1)); vfs.KindOf(err) != vfs.KindNotFound {
		return fmt.Errorf("a file that was refused: %v", err)
	}

	// A project's limit is everybody's, and its border is one of names.
	h, err := create(bob, made.Attr.Ino, "in")
	if err != nil {
		return err
	}
	if err := limited("a project", bob, h, diskProjectBytes); err != nil {
		return err
	}
	if _, _, err := fs.Rename(ctx, bob, vfs.RootIno, "f0", made.Attr.Ino, "f0"); err == nil {
		return errors.New("bob renamed what is alice's")
	}
	if _, _, err := fs.Rename(ctx, &vfs.Root, vfs.RootIno, "f0", made.Attr.Ino, "f0"); vfs.KindOf(err) != vfs.KindXDev {
		return fmt.Errorf("a rename into a project: %v", err)
	}
	if _, _, err := fs.Link(ctx, &vfs.Root, f, made.Attr.Ino, "alice"); vfs.KindOf(err) != vfs.KindXDev {
		return fmt.Errorf("a link into a project: %v", err)
	}
	return fs.Stop()
}
