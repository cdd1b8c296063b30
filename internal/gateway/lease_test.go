package gateway

import (
	"context"
	"slices"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

// unsure is a file system whose removals end with these errors, one after the other, then succeed.
type unsure struct {
	vfs.FS
	errs  []error
	calls []uint32 // numbers of the mutations
}

func (u *unsure) Remove(ctx context.Context, _ *vfs.Cred, _ vfs.Ino, _ string, _ vfs.RemoveKind) (vfs.DirChange, error) {
	if c := vfs.CallOf(ctx); c != nil {
		u.calls = append(u.calls, c.Next())
	}
	if len(u.errs) == 0 {
		return vfs.DirChange{After: 7}, nil
	}
	err := u.errs[0]
	u.errs = u.errs[1:]
	return vfs.DirChange{}, err
}

// A change whose outcome nobody knows, because the gateway's origin ended, is sent again as the same step of the client's call, until that is answered. If it was surely not carried
// out, or is nobody's call, it is not.
func TestUnknownChangeIsRepeated(t *testing.T) {
	unknown, ended, away := vfs.KindUnknown.Err("x"), vfs.KindUnknownOrigin.Err("x"), vfs.KindUnavailable.Err("x")
	for name, c := range map[string]struct {
		errs  []error
		call  bool
		want  vfs.Kind
		calls []uint32
	}{
		"answered":             {nil, true, vfs.KindOK, []uint32{1}},
		"unknown, then a leap": {[]error{unknown, ended, away, unknown}, true, vfs.KindOK, []uint32{1, 1, 1, 1, 1}},
		"unknown, then none":   {[]error{unknown, vfs.KindNotFound.Err("x")}, true, vfs.KindNotFound, []uint32{1, 1}},
		"not carried out":      {[]error{ended}, true, vfs.KindUnavailable, []uint32{1}},
		"nobody's call":        {[]error{unknown}, false, vfs.KindUnknown, nil},
	} {
		u := &unsure{errs: c.errs}
		f := &leasedFS{fs: u}
		ctx := t.Context()
		if c.call {
			call := new(vfs.Call)
			call.Next() // another step came before
			ctx = vfs.WithCall(ctx, call)
		}
		d, err := f.Remove(ctx, &vfs.Root, 1, "f", vfs.RemoveAny)
		if vfs.KindOf(err) != c.want || (err == nil) != (d.After == 7) || !slices.Equal(u.calls, c.calls) {
			t.Errorf("%s: %+v, %v, made as the steps %v; want %v and %v", name, d, err, u.calls, c.want, c.calls)
		}
	}
	ctx, cancel := context.WithCancel(vfs.WithCall(t.Context(), new(vfs.Call)))
	cancel()
	if _, err := (&leasedFS{fs: &unsure{errs: []error{unknown}}}).Remove(ctx, &vfs.Root, 1, "f", vfs.RemoveAny); vfs.KindOf(err) != vfs.KindUnknown {
		t.Errorf("after the end of the call: %v", err)
	}
}
