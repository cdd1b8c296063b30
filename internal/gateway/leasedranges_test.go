package gateway

import (
	"context"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

// unsureRanges is a file system whose Deallocate does a piece, then ends with these errors, one after the other, then succeeds.
type unsureRanges struct {
	vfs.FS
	vfs.Allocator
	errs  []error
	takes bool // a piece is done before the first error
	tries int
	made  []uint32 // numbers of each try's first command
}

func (u *unsureRanges) Deallocate(ctx context.Context, _ *vfs.Cred, _ vfs.Ino, _, _ uint64) error {
	c := vfs.CallOf(ctx)
	u.tries++
	if c != nil {
		u.made = append(u.made, c.Next())
		c.Next()
	}
	if u.takes {
		c.Begin()
	}
	if len(u.errs) == 0 {
		return nil
	}
	err := u.errs[0]
	u.errs = u.errs[1:]
	return err
}

// A DEALLOCATE of which a piece was done is repeated until the rest is, by the same steps. To NFS4ERR_DELAY its client would make a new call of it, which would do that piece again, over what others
// have written since. One of which nothing was done is to be tried again by the client.
func TestPartOfRangeIsNotLeft(t *testing.T) {
	ended, away := vfs.KindUnknownOrigin.Err("x"), vfs.KindUnavailable.Err("x")
	for name, c := range map[string]struct {
		errs  []error
		takes bool
		call  *vfs.Call
		want  vfs.Kind
		tries int
	}{
		"done":                     {nil, true, new(vfs.Call), vfs.KindOK, 1},
		"a piece done":             {[]error{ended, away}, true, new(vfs.Call), vfs.KindOK, 3},
		"then no space":            {[]error{away, vfs.KindNoSpace.Err("x")}, true, new(vfs.Call), vfs.KindNoSpace, 2},
		"nothing done":             {[]error{ended}, false, new(vfs.Call), vfs.KindUnavailable, 1},
		"nobody's call":            {[]error{ended}, false, nil, vfs.KindUnavailable, 1},
		"may be done before":       {[]error{away}, false, repeated(), vfs.KindOK, 2},
		"client is at another one": {[]error{away, away}, true, &vfs.Call{By: gone{}}, vfs.KindUnknown, 1},
	} {
		u := &unsureRanges{errs: c.errs, takes: c.takes}
		ctx := t.Context()
		if c.call != nil {
			ctx = vfs.WithCall(ctx, c.call)
		}
		err := (&leasedFS{fs: u}).Deallocate(ctx, &vfs.Root, 1, 0, 100)
		if vfs.KindOf(err) != c.want || u.tries != c.tries {
			t.Errorf("%s: %v after %d tries, want %v after %d", name, err, u.tries, c.want, c.tries)
		}
		for _, n := range u.made {
			if n != 0 {
				t.Errorf("%s: the steps begin at %v", name, u.made)
			}
		}
	}
}
