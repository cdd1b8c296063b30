package mount

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// Host is a machine that is to mount.
type Host struct {
	Root   string // "/"; tests have another
	UID    int    // who runs this
	Kernel string // release
}

// ThisHost is the machine that this runs on.
func ThisHost() Host {
	h := Host{Root: "/", UID: os.Geteuid()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return h
}

// Addresses are those of this machine.
func Addresses() (out []netip.Addr, err error) {
	list, err := net.InterfaceAddrs()
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, err
}

func (h *Host) path(p string) string { return filepath.Join(h.Root, p) }

func (h *Host) exists(p string) bool {
	_, err := os.Stat(h.path(p))
	return err == nil
}

// Check says what the machine lacks to mount: nothing if it is nil.
func (h *Host) Check() error {
	const op = "mount"
	var lacks []string
	if h.UID != 0 {
		lacks = append(lacks, "only root can mount: run this with sudo, or let root put it into /etc/fstab with --fstab")
	}
	if !h.exists("/sbin/mount.nfs") && !h.exists("/usr/sbin/mount.nfs") {
		lacks = append(lacks, "there is no /sbin/mount.nfs: install the NFS client, package nfs-common (Debian, Ubuntu) or nfs-utils (Fedora, RHEL, SUSE, Alpine, Arch)")
	}
	if !h.kernelHas("nfs4", "nfsv4") {
		lacks = append(lacks, fmt.Sprintf("kernel %s has neither NFSv4 nor a module nfsv4 in /lib/modules: install its package of extra modules, or use a kernel with CONFIG_NFS_V4", h.Kernel))
	}
	if len(lacks) > 0 {
		return vfs.Errorf(vfs.KindNotSupported, op, "this machine cannot mount yet: %s", strings.Join(lacks, "; "))
	}
	return nil
}

// kernelHas reports whether the kernel knows a file system, or finds a module for it.
func (h *Host) kernelHas(filesystem, module string) bool {
	if known, err := os.ReadFile(h.path("/proc/filesystems")); err == nil {
		for line := range bytes.Lines(known) {
			if f := bytes.Fields(line); len(f) > 0 && string(f[len(f)-1]) == filesystem {
				return true
			}
		}
	}
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		b, err := os.ReadFile(h.path(filepath.Join("/lib/modules", h.Kernel, list)))
		if err == nil && bytes.Contains(b, []byte("/"+module+".ko")) {
			return true
		}
	}
	return false
}

// MakeTarget makes the directory to mount on. One that has files is refused, for they would be hidden.
func (h *Host) MakeTarget(m *Mount) error {
	const op = "mount"
	if err := h.makeDir(m); err != nil {
		return err
	}
	list, err := os.ReadDir(h.path(m.Target))
	if err != nil {
		return vfs.Errorf(vfs.KindOf(err), op, "look at %s: %w", m.Target, err)
	}
	if len(list) > 0 {
		return vfs.Errorf(vfs.KindNotEmpty, op, "%s has files, which a mount would hide (%s and %d more): choose an empty directory", m.Target, list[0].Name(), len(list)-1)
	}
	return nil
}

// makeDir makes the directory to mount on, if it is not there.
func (h *Host) makeDir(m *Mount) error {
	if err := os.MkdirAll(h.path(m.Target), 0o755); err != nil {
		return vfs.Errorf(vfs.KindOf(err), "mount", "make the directory %s: %w", m.Target, err)
	}
	return nil
}

// fstabPath and unitDir are where a machine keeps its mounts.
const (
	fstabPath = "/etc/fstab"
	unitDir   = "/etc/systemd/system"
	fileMode  = 0o644
)

// WriteFSTab adds the mount to /etc/fstab, and makes the directory to mount on. A line that is there already is left; another one for the directory is refused.
func (h *Host) WriteFSTab(m *Mount) (added bool, err error) {
	const op = "fstab"
	line := m.FSTab()
	file := h.path(fstabPath)
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	target := strings.Fields(line)[1]
	for l := range strings.Lines(string(old)) {
		switch f := strings.Fields(l); {
		case strings.TrimSpace(l) == strings.TrimSpace(line):
			return false, nil
		case len(f) >= 2 && !strings.HasPrefix(f[0], "#") && f[1] == target:
			return false, vfs.Errorf(vfs.KindExists, op, "%s has a line for %s already: take it out first: %s", fstabPath, m.Target, strings.TrimSpace(l))
		}
	}
	if err := h.makeDir(m); err != nil { // mount -a makes none
		return false, err
	}
	if len(old) > 0 && !bytes.HasSuffix(old, []byte("\n")) {
		old = append(old, '\n')
	}
	return true, vfs.Wrap(op, vfile.WriteFileModeAtomic(vfile.OS{}, h.path("/etc"), filepath.Base(fstabPath), append(old, line...), fileMode))
}

// WriteUnit writes the mount's systemd unit and returns its name. One with another text is refused.
func (h *Host) WriteUnit(m *Mount) (name string, err error) {
	const op = "systemd unit"
	name, text := m.Unit()
	file := h.path(filepath.Join(unitDir, name))
	switch old, err := os.ReadFile(file); {
	case err == nil && string(old) == text:
		return name, nil
	case err == nil:
		return name, vfs.Errorf(vfs.KindExists, op, "%s exists and is another one: remove it first", filepath.Join(unitDir, name))
	case !errors.Is(err, fs.ErrNotExist):
		return name, vfs.Errorf(vfs.KindOf(err), op, "%w", err)
	}
	return name, vfs.Wrap(op, vfile.WriteFileModeAtomic(vfile.OS{}, h.path(unitDir), name, []byte(text), fileMode))
}
