package localssd

import (
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// identity is what a thread of this process has when it acts for itself.
type identity struct {
	groups    []uint32
	permitted [2]uint32 // capabilities
}

// needed are the capabilities without which a volume cannot be served.
var needed = map[uint]string{
	unix.CAP_DAC_OVERRIDE:    "CAP_DAC_OVERRIDE",
	unix.CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
	unix.CAP_FOWNER:          "CAP_FOWNER",
	unix.CAP_CHOWN:           "CAP_CHOWN",
	unix.CAP_SETUID:          "CAP_SETUID",
	unix.CAP_SETGID:          "CAP_SETGID",
	unix.CAP_SYS_ADMIN:       "CAP_SYS_ADMIN",
}

func ownIdentity() (*identity, error) {
	if unix.Geteuid() != 0 {
		return nil, vfs.Errorf(vfs.KindPerm, opOpen, "this process runs as uid %d: a node that serves its SSD acts as its users and runs as root", unix.Geteuid())
	}
	var data [2]unix.CapUserData
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&head, &data[0]); err != nil {
		return nil, fail(opOpen, err)
	}
	id := &identity{permitted: [2]uint32{data[0].Permitted, data[1].Permitted}}
	for c, name := range needed {
		if id.permitted[c/32]&(1<<(c%32)) == 0 {
			return nil, vfs.Errorf(vfs.KindPerm, opOpen, "this process lacks %s, which serving a local volume needs", name)
		}
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return nil, fail(opOpen, err)
	}
	for _, g := range groups {
		id.groups = append(id.groups, uint32(g))
	}
	return id, nil
}

// as runs f as c would: fsuid, fsgid and groups of c, and, unless c is root, no capability but keep. f makes system calls and nothing else: it
// neither starts goroutines nor waits for any.
//
// Not the effective ids, which would save some system calls: a local user with the same one may change the priority and processors of a thread.
// These are properties of a thread (the system calls are made raw, for the wrappers of package syscall change all threads). The
// goroutine stays on its thread meanwhile, and nobody else gets the thread before it is as it was.
func (id *identity) as(c *vfs.Cred, keep uint, f func() error) error {
	if c.UID == 0 && c.GID == 0 {
		return f() // groups mean nothing to root
	}
	runtime.LockOSThread()
	defer func() { // also after a panic of f
		id.restore(c) // if it panics, the thread stays locked, and ends with the goroutine
		runtime.UnlockOSThread()
	}()
	if err := id.become(c, keep); err != nil {
		return err
	}
	return f()
}

// become gives the thread c's identity. After an error it has parts of it.
func (id *identity) become(c *vfs.Cred, keep uint) error {
	if !slices.Equal(c.Groups, id.groups) { // most users have none beside their own, and neither has this process
		if no := setGroups(c.Groups); no != 0 {
			return no
		}
	}
	if !setID(unix.SYS_SETFSGID, c.GID) || !setID(unix.SYS_SETFSUID, c.UID) {
		return vfs.Errorf(vfs.KindPerm, "identity", "this process cannot act as uid %d, gid %d: its user name space does not have them", c.UID, c.GID)
	}
	if c.UID == 0 {
		return nil
	}
	// setfsuid took away what has to do with files; quota and reserved blocks are overridden by others (CAP_SYS_RESOURCE).
	var effective [2]uint32
	if keep != 0 {
		effective[keep/32] = 1 << (keep % 32)
	}
	if no := id.setCaps(effective); no != 0 {
		return no
	}
	return nil
}

// restore gives the thread, which had c's, its own identity back. If that fails the process must not go on, for whatever ran next on this thread would run as somebody else.
func (id *identity) restore(c *vfs.Cred) {
	no := unix.Errno(0)
	if c.UID != 0 {
		no = id.setCaps(id.permitted)
	}
	ok := no == 0 && setID(unix.SYS_SETFSUID, 0) && setID(unix.SYS_SETFSGID, 0)
	if ok && !slices.Equal(c.Groups, id.groups) {
		ok = setGroups(id.groups) == 0
	}
	if !ok {
		panic("localssd: a thread's identity cannot be restored")
	}
}

// setID sets one id of the thread, and reports whether it has it: the calls themselves tell no error.
func setID(call uintptr, id uint32) bool {
	_, _, _ = unix.RawSyscall(call, uintptr(id), 0, 0)
	now, _, _ := unix.RawSyscall(call, uintptr(^uint32(0)), 0, 0) // is no id, so it changes nothing and tells the present one
	return uint32(now) == id
}

func setGroups(groups []uint32) unix.Errno {
	var p unsafe.Pointer
	if len(groups) > 0 {
		p = unsafe.Pointer(&groups[0])
	}
	_, _, no := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(p), 0)
	return no
}

func (id *identity) setCaps(effective [2]uint32) unix.Errno {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: effective[0], Permitted: id.permitted[0]},
		{Effective: effective[1], Permitted: id.permitted[1]},
	}
	_, _, no := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&data[0])), 0)
	return no
}
