package v3ro

import (
	"context"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5"
	nfs "github.com/willscott/go-nfs"
	"github.com/willscott/go-nfs/file"

	"github.com/rackfs/rackfs/vfs"
)

// The paths that go-nfs knows of a call: its object, and an entry of that.
const (
	objectPath = "."
	childPath  = "./entry"
	entryName  = "entry"
)

// view is what go-nfs sees of the file system during one call: an object and, of LOOKUP, an entry in it, both found already. It is a
// billy.Filesystem that can be read only.
type view struct {
	object vfs.Attr
	child  *vfs.Attr
	handle []byte // of the child, or of the object in MNT
	target string // of a symbolic link
	stat   vfs.StatFS
}

// handler is the nfs.Handler of an engine.
type handler struct{ view *view }

var (
	_ nfs.Handler      = (*handler)(nil)
	_ billy.Filesystem = (*view)(nil)
	_ billy.Capable    = (*view)(nil)
)

func (h *handler) Mount(context.Context, net.Conn, nfs.MountRequest) (nfs.MountStatus, billy.Filesystem, []nfs.AuthFlavor) {
	return nfs.MountStatusOk, h.view, []nfs.AuthFlavor{nfs.AuthFlavorUnix, nfs.AuthFlavorNull}
}

func (h *handler) Change(billy.Filesystem) billy.Change { return nil }

func (h *handler) FSStat(_ context.Context, _ billy.Filesystem, s *nfs.FSStat) error {
	st := &h.view.stat
	s.TotalSize, s.FreeSize, s.AvailableSize = st.TotalBytes, st.FreeBytes, st.AvailBytes
	s.TotalFiles, s.FreeFiles, s.AvailableFiles = st.TotalFiles, st.FreeFiles, st.FreeFiles
	s.CacheHint = 0
	return nil
}

func (h *handler) ToHandle(billy.Filesystem, []string) []byte { return h.view.handle }

func (h *handler) FromHandle([]byte) (billy.Filesystem, []string, error) {
	return h.view, []string{objectPath}, nil
}

func (h *handler) InvalidateHandle(billy.Filesystem, []byte) error { return nil }

func (h *handler) HandleLimit() int { return 1 << 30 }

// Capabilities keeps go-nfs from offering to write.
func (v *view) Capabilities() billy.Capability { return billy.ReadCapability | billy.SeekCapability }

func (v *view) Join(parts ...string) string { return strings.Join(parts, "/") }

func (v *view) Root() string { return objectPath }

func (v *view) Lstat(path string) (os.FileInfo, error) {
	switch {
	case path == objectPath:
		return info{&v.object}, nil
	case path == childPath && v.child != nil:
		return info{v.child}, nil
	}
	return nil, os.ErrNotExist
}

func (v *view) Stat(path string) (os.FileInfo, error) { return v.Lstat(path) }

func (v *view) Readlink(string) (string, error) { return v.target, nil }

// What would change something, list or read; it is never asked for.

func (v *view) Open(string) (billy.File, error)                       { return nil, billy.ErrNotSupported }
func (v *view) OpenFile(string, int, os.FileMode) (billy.File, error) { return nil, billy.ErrReadOnly }
func (v *view) Create(string) (billy.File, error)                     { return nil, billy.ErrReadOnly }
func (v *view) Rename(string, string) error                           { return billy.ErrReadOnly }
func (v *view) Remove(string) error                                   { return billy.ErrReadOnly }
func (v *view) TempFile(string, string) (billy.File, error)           { return nil, billy.ErrReadOnly }
func (v *view) MkdirAll(string, os.FileMode) error                    { return billy.ErrReadOnly }
func (v *view) Symlink(string, string) error                          { return billy.ErrReadOnly }
func (v *view) ReadDir(string) ([]os.FileInfo, error)                 { return nil, billy.ErrNotSupported }
func (v *view) Chroot(string) (billy.Filesystem, error)               { return nil, billy.ErrNotSupported }

// info are attributes as go-nfs takes them. Of what it makes of them only the type and the file id stay.
type info struct{ a *vfs.Attr }

func (i info) Name() string       { return entryName }
func (i info) Size() int64        { return int64(min(i.a.Size, vfs.MaxSize)) }
func (i info) ModTime() time.Time { return i.a.Mtime }
func (i info) IsDir() bool        { return i.a.IsDir() }
func (i info) Sys() any {
	return &file.FileInfo{Nlink: i.a.Nlink, UID: i.a.UID, GID: i.a.GID, Major: i.a.Dev.Major, Minor: i.a.Dev.Minor, Fileid: uint64(i.a.Ino)}
}

func (i info) Mode() fs.FileMode {
	mode := fs.FileMode(i.a.Mode & 0o777)
	switch i.a.Type {
	case vfs.TypeDir:
		mode |= fs.ModeDir
	case vfs.TypeSymlink:
		mode |= fs.ModeSymlink
	case vfs.TypeBlock:
		mode |= fs.ModeDevice
	case vfs.TypeChar:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case vfs.TypeSocket:
		mode |= fs.ModeSocket
	case vfs.TypeFIFO:
		mode |= fs.ModeNamedPipe
	}
	return mode
}
