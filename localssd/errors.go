package localssd

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

const opOpen = "local volume"

// fail is the error of a system call.
func fail(op string, err error) error {
	if err == nil {
		return nil
	}
	var no unix.Errno
	if !errors.As(err, &no) {
		return vfs.Wrap(op, err)
	}
	k := vfs.KindOf(no)
	switch no {
	case unix.EXDEV: // openat2 met a mount point; rename and link say it themselves
		return &vfs.Error{Kind: vfs.KindAccess, Op: op, Text: "another file system is mounted here; it is not part of this volume", Err: no}
	case unix.ENODATA:
		k = vfs.KindNoAttr
	case unix.ETXTBSY:
		k = vfs.KindBusy
	case unix.ENXIO, unix.EBADF:
		k = vfs.KindIO
	case unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		k = vfs.KindUnavailable
	}
	return &vfs.Error{Kind: k, Op: op, Err: no}
}
