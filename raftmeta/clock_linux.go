package raftmeta

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot is a clock that only runs forward, also while the machine is suspended. Go's own monotonic time stands still
// then: who holds a lease would wake up and take it for valid, while the leader, who was awake, has ended it.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return forever // no lease is valid by a clock that cannot be read
	}
	return time.Duration(t.Nano())
}
