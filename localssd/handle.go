package localssd

import (
	"encoding/binary"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// kernelHandle is a handle as name_to_handle_at(2) makes it and open_by_handle_at(2) takes it.
type kernelHandle struct {
	bytes uint32
	typ   int32
	data  [maxKernelHandle]byte
}

const maxKernelHandle = 128 // MAX_HANDLE_SZ

func (h *kernelHandle) same(o *kernelHandle) bool {
	return h.typ == o.typ && h.bytes == o.bytes && h.data == o.data
}

// handleAt is the handle of name in the directory fd, or of fd itself if name is empty, and the mount that it is on. Symlinks are not followed.
func handleAt(fd int, name string) (h kernelHandle, mount int32, err error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return h, 0, unix.EINVAL
	}
	flags := 0
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	h.bytes = maxKernelHandle
	_, _, no := unix.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(fd), uintptr(unsafe.Pointer(p)),
		uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&mount)), uintptr(flags), 0)
	if no != 0 {
		return h, 0, no
	}
	return h, mount, nil
}

// memoryTries is how often a handle is opened that the kernel says it has no memory for. It also says so, of ext4, while a new file is being made with the inode number
// of the handle's, which is gone then: that takes microseconds. The last try is some 50 ms after the first.
const memoryTries = 10

// openHandle opens what a handle names in the file system of mountFD.
func openHandle(mountFD int, h *kernelHandle, flags int) (int, error) {
	for try := 1; ; {
		fd, _, no := unix.Syscall(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(mountFD), uintptr(unsafe.Pointer(h)), uintptr(flags|unix.O_CLOEXEC))
		switch no {
		case 0:
			return int(fd), nil
		case unix.EINTR:
		case unix.ENOMEM:
			if try == memoryTries {
				return -1, no
			}
			time.Sleep(50 * time.Microsecond << try)
			try++
		default:
			return -1, no
		}
	}
}

// layout is how a kernel file system writes inode number and generation into its handles.
type layout uint8

const (
	layoutGeneric layout = iota + 1 // ino32, gen32: ext3, ext4, f2fs, xfs with small inode numbers
	layoutShmem                     // gen32, ino lower and upper half: tmpfs
	layoutXFS                       // ino64, gen32
	layoutBtrfs                     // object 64, subvolume 64, gen32
)

// Types of kernel handles (include/linux/exportfs.h).
const (
	fileidIno32Gen = 0x01
	fileidXFS64    = 0x81
	fileidBtrfs    = 0x4d
)

// codec turns kernel handles into inode numbers and back: see the package comment.
type codec struct {
	layout    layout
	subvolume uint64 // of btrfs: that of the root
	root      kernelHandle
}

// newCodec learns the layout from the handle of a volume's root.
func newCodec(root kernelHandle, magic int64) (*codec, error) {
	c := &codec{root: root}
	switch {
	case root.typ == fileidIno32Gen && root.bytes == 12 && magic == unix.TMPFS_MAGIC:
		c.layout = layoutShmem
	case root.typ == fileidIno32Gen && root.bytes == 8:
		c.layout = layoutGeneric
	case root.typ == fileidXFS64 && root.bytes == 12:
		c.layout = layoutXFS
	case root.typ == fileidBtrfs && root.bytes == 20:
		c.layout = layoutBtrfs
		c.subvolume = binary.NativeEndian.Uint64(root.data[8:])
	default:
		return nil, vfs.Errorf(vfs.KindNotSupported, opOpen, "handles of this file system (type %#x, %d bytes) are not known: use ext4, xfs, btrfs or tmpfs", root.typ, root.bytes)
	}
	return c, nil
}

// ino is the inode number of what h names.
func (c *codec) ino(h *kernelHandle) (vfs.Ino, error) {
	if h.same(&c.root) {
		return vfs.RootIno, nil
	}
	if h.typ != c.root.typ || h.bytes != c.root.bytes {
		return 0, vfs.Errorf(vfs.KindStale, "handle", "a handle of another kind of file system")
	}
	var ino uint64
	var gen uint32
	d := h.data[:]
	switch c.layout {
	case layoutGeneric:
		ino, gen = uint64(binary.NativeEndian.Uint32(d)), binary.NativeEndian.Uint32(d[4:])
	case layoutShmem:
		gen = binary.NativeEndian.Uint32(d)
		ino = uint64(binary.NativeEndian.Uint32(d[4:])) | uint64(binary.NativeEndian.Uint32(d[8:]))<<32
	case layoutXFS:
		ino, gen = binary.NativeEndian.Uint64(d), binary.NativeEndian.Uint32(d[8:])
	case layoutBtrfs:
		ino, gen = binary.NativeEndian.Uint64(d), binary.NativeEndian.Uint32(d[16:])
		if binary.NativeEndian.Uint64(d[8:]) != c.subvolume {
			return 0, vfs.Errorf(vfs.KindAccess, "handle", "another subvolume begins here; it is not part of this volume")
		}
	}
	if ino == 0 || ino>>32 != 0 {
		return 0, vfs.Errorf(vfs.KindNotSupported, "handle", "inode number %d does not fit in 32 bits: mount xfs with inode32, or use ext4", ino)
	}
	return vfs.Ino(ino<<32 | uint64(gen)), nil
}

// handle is the handle of ino; there may be no such inode.
func (c *codec) handle(i vfs.Ino) (h kernelHandle, ok bool) {
	if i == vfs.RootIno {
		return c.root, true
	}
	ino, gen := uint64(i>>32), uint32(i)
	if ino == 0 {
		return h, false
	}
	h.typ, h.bytes = c.root.typ, c.root.bytes
	d := h.data[:]
	switch c.layout {
	case layoutGeneric:
		binary.NativeEndian.PutUint32(d, uint32(ino))
		binary.NativeEndian.PutUint32(d[4:], gen)
	case layoutShmem:
		binary.NativeEndian.PutUint32(d, gen)
		binary.NativeEndian.PutUint32(d[4:], uint32(ino))
	case layoutXFS:
		binary.NativeEndian.PutUint64(d, ino)
		binary.NativeEndian.PutUint32(d[8:], gen)
	case layoutBtrfs:
		binary.NativeEndian.PutUint64(d, ino)
		binary.NativeEndian.PutUint64(d[8:], c.subvolume)
		binary.NativeEndian.PutUint32(d[16:], gen)
	}
	return h, !h.same(&c.root) // which has another number
}
