package raftmeta

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sinceBoot is a clock that only runs forward, also while the machine is suspended. Go's own monotonic time stands still
// then: who holds a lease would wake up and take it for valid, while the leader, who was awake, has ended it.
func sinceBoot() time.Duration {
	var t unix.Timespec
	// It never waits, so the scheduler need not know of it: that would cost as much again.
	if _, _, e := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&t)), 0); e != 0 {
		return forever // no lease is valid by a clock that cannot be read
	}
	return time.Duration(t.Nano())
}
