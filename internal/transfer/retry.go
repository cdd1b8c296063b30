package transfer

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
	// attempts is how often something is tried without getting any further: some 25 s of a server that does not answer.
	attempts = 10
	// attemptsLocked is for what is held by a connection that the server does not know to be dead yet: it does after a minute.
	attemptsLocked = 22
)

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return vfs.Wrap("transfer", context.Cause(ctx))
	case <-t.C:
		return nil
	}
}

// patiently calls fn until it succeeds, fails for good, or fails too often; whenever progress, which may be nil, returns more than before, counting begins again.
func patiently(ctx context.Context, fn func() error, progress func() int64) error {
	var before int64
	for failed, d := 0, firstPause; ; {
		err := fn()
		k := vfs.KindOf(err)
		if err == nil || !k.Retryable() && k != vfs.KindLocked || ctx.Err() != nil {
			return err
		}
		if progress != nil {
			if now := progress(); now > before {
				before, failed, d = now, 0, firstPause
			}
		}
		if failed++; k == vfs.KindLocked && failed >= attemptsLocked || k != vfs.KindLocked && failed >= attempts {
			return err
		}
		if err := pause(ctx, d); err != nil {
			return err
		}
		d = min(2*d, maxPause)
	}
}
