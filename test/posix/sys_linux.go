package posix

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawSetgroups sets the supplementary groups of the calling thread only.
func rawSetgroups(groups []uint32) error {
	var p unsafe.Pointer
	if len(groups) > 0 {
		p = unsafe.Pointer(&groups[0])
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(p), 0); e != 0 {
		return e
	}
	return nil
}

// direntNames parses a buffer of getdents64 into names with their types.
func direntNames(b []byte, each func(name string, typ byte)) {
	for len(b) > 0 {
		reclen := int(*(*uint16)(unsafe.Pointer(&b[16])))
		name := b[19:reclen]
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		each(string(name), b[18])
		b = b[reclen:]
	}
}
