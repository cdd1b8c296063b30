package localssd

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestWhatTellsOfLoss: a sync within a write tells what happened to bytes that were written before, once and in whatever words the device has; what a write finds
// wrong by itself tells nothing of them.
func TestWhatTellsOfLoss(t *testing.T) {
	for _, x := range []struct {
		err                     error
		plain, synced, unstable bool // of a write that is not synced, of one that is, and of one that is while there are unstable bytes
	}{
		{nil, false, false, false},
		{unix.EIO, true, true, true},
		{unix.ENODATA, false, true, true}, // a medium
		{unix.EREMOTEIO, false, true, true},
		{unix.ETIMEDOUT, false, true, true},
		{unix.ENOSPC, false, false, true}, // a thin pool, or the write's own
		{unix.EDQUOT, false, false, true},
		{unix.EFBIG, false, false, false},
		{unix.EINVAL, false, false, false},
	} {
		for dirty, want := range map[bool]bool{false: x.synced, true: x.unstable} {
			if got := mayLose(x.err, true, func() bool { return dirty }); got != want {
				t.Errorf("%v of a synced write, unstable bytes %v: %v", x.err, dirty, got)
			}
		}
		if got := mayLose(x.err, false, func() bool { return true }); got != x.plain {
			t.Errorf("%v of a plain write: %v", x.err, got)
		}
	}
}
