package accounts

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// Authenticator finds out who calls.
type Authenticator struct {
	meta   Meta
	now    func() time.Time
	fails  limiter
	recent recent
}

// NewAuthenticator asks meta.
func NewAuthenticator(meta Meta, now func() time.Time) *Authenticator {
	return &Authenticator{meta: meta, now: now}
}

// TooManyFailures is the error of an attempt that was not even looked at.
type TooManyFailures struct{ Wait time.Duration }

func (e *TooManyFailures) Error() string {
	return fmt.Sprintf("too many attempts with tokens that are not good: try again in %v", e.Wait.Round(time.Second))
}

// Check is who has the token secret. from is where he calls from.
func (a *Authenticator) Check(ctx context.Context, secret string, from netip.Addr) (*Principal, error) {
	hash := string(hashOf(secret))
	if hash == "" || !a.recent.has(hash) {
		if w := a.fails.wait(from, a.now()); w > 0 {
			return nil, &TooManyFailures{Wait: w}
		}
	}
	p, err := find(ctx, a.meta, secret, a.now())
	switch {
	case err == nil:
		a.recent.add(hash)
	case vfs.KindOf(err) == vfs.KindUnauthorized:
		a.fails.failed(from, a.now())
	}
	return p, err
}
