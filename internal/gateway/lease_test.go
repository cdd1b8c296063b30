package gateway

import (
	"context"
	"log/slog"
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

// leaves is the front end of a client that goes to another gateway.
type leaves struct{ gone bool }

func (l *leaves) Serving() bool  { return !l.gone }
func (l *leaves) Ended() bool    { return l.gone }
func (l *leaves) Answered() bool { return false }

// leaving is a file system whose gateway loses its origin, and the client with it, while an open is recorded.
type leaving struct {
	vfs.Keeper
	by      *leaves
	records int
}

func (l *leaving) OpenShared(context.Context, *vfs.Cred, vfs.Ino, vfs.OpenFlags, bool, vfs.Share) (vfs.Attr, error) {
	l.records++
	l.by.gone = true
	return vfs.Attr{}, vfs.KindUnknown.Err("open")
}

// What became of an open is not asked, nor is it recorded again, for a client that another gateway has taken: that one would not know of the record, and it would stay as long as the client.
func TestChangeOfClientThatIsGoneIsNotRepeated(t *testing.T) {
	call := new(vfs.Call)
	by := &leaves{}
	call.By = by
	ctx, cancel := context.WithTimeout(vfs.WithCall(t.Context(), call), 10*repeatPause)
	defer cancel()
	fs := &leaving{by: by}
	if _, err := (&leasedFS{fs: fs}).OpenShared(ctx, &vfs.Root, 1, vfs.OpenWrite, false, vfs.Share{}); vfs.KindOf(err) != vfs.KindUnknown || fs.records != 1 {
		t.Errorf("%v, recorded %d times", err, fs.records)
	}
}

// unsureWrites is a file system whose writes end with these errors, one after the other, then succeed.
type unsureWrites struct {
	vfs.FS
	errs  []error
	takes bool     // the bytes may be part of the file
	how   []string // each was done as
}

func (u *unsureWrites) Write(ctx context.Context, _ *vfs.Cred, _ vfs.Ino, _ uint64, _ []byte, s vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	c := vfs.CallOf(ctx)
	if u.takes {
		c.Begin()
	}
	if c.Repeated() {
		u.how = append(u.how, "again")
	} else {
		u.how = append(u.how, "new")
	}
	if len(u.errs) == 0 {
		return s, vfs.Verifier{7}, nil
	}
	err := u.errs[0]
	u.errs = u.errs[1:]
	return 0, vfs.Verifier{}, err
}

// gone is the front end of a client that another gateway serves.
type gone struct{}

func (gone) Serving() bool  { return false }
func (gone) Ended() bool    { return true }
func (gone) Answered() bool { return false }

// A WRITE that may have been done is repeated as such until it is answered, whatever is in the way. One that nothing was taken of is to be tried again by the client.
func TestUnknownWriteIsRepeated(t *testing.T) {
	unknown, ended, away, fenced := vfs.KindUnknown.Err("x"), vfs.KindUnknownOrigin.Err("x"), vfs.KindUnavailable.Err("x"), vfs.KindFenced.Err("x")
	short := &vfs.ShortWrite{N: 1, Err: vfs.KindQuota.Err("x")}
	for name, c := range map[string]struct {
		errs  []error
		takes bool
		call  *vfs.Call
		want  vfs.Kind
		how   []string
	}{
		"answered":                  {nil, true, new(vfs.Call), vfs.KindOK, []string{"new"}},
		"unknown, then a leap":      {[]error{unknown, ended, away, fenced}, true, new(vfs.Call), vfs.KindOK, []string{"new", "again", "again", "again", "again"}},
		"buffered, and no disks":    {[]error{away}, true, new(vfs.Call), vfs.KindOK, []string{"new", "again"}},
		"then no space":             {[]error{away, vfs.KindNoSpace.Err("x")}, true, new(vfs.Call), vfs.KindNoSpace, []string{"new", "again"}},
		"a part":                    {[]error{short}, true, new(vfs.Call), vfs.KindQuota, []string{"new"}},
		"nothing taken":             {[]error{ended}, false, new(vfs.Call), vfs.KindUnavailable, []string{"new"}},
		"nothing taken, unknown":    {[]error{unknown}, false, new(vfs.Call), vfs.KindUnknown, []string{"new"}},
		"nobody's call":             {[]error{ended}, true, nil, vfs.KindUnavailable, []string{"new"}},
		"client is at another one":  {[]error{away, away, away}, true, &vfs.Call{By: gone{}}, vfs.KindUnknown, []string{"new"}},
		"may have been done before": {[]error{away}, false, repeated(), vfs.KindOK, []string{"again", "again"}},
	} {
		u := &unsureWrites{errs: c.errs, takes: c.takes}
		ctx := t.Context()
		if c.call != nil {
			ctx = vfs.WithCall(ctx, c.call)
		}
		_, v, err := (&leasedFS{fs: u}).Write(ctx, &vfs.Root, 1, 0, []byte("x"), vfs.FileSync)
		if vfs.KindOf(err) != c.want || (err == nil) != (v[0] == 7) || !slices.Equal(u.how, c.how) {
			t.Errorf("%s: %v, %v, done as %v; want %v and %v", name, v, err, u.how, c.want, c.how)
		}
	}
	ctx, cancel := context.WithCancel(vfs.WithCall(t.Context(), new(vfs.Call)))
	cancel()
	if _, _, err := (&leasedFS{fs: &unsureWrites{errs: []error{away}, takes: true}}).Write(ctx, &vfs.Root, 1, 0, []byte("x"), vfs.FileSync); vfs.KindOf(err) != vfs.KindUnknown {
		t.Errorf("after the end of the request: %v", err)
	}
}

func repeated() *vfs.Call {
	c := new(vfs.Call)
	c.Repeat()
	return c
}

// What the former origin served is asked for until it is known, unless the origin that asks ends, too: then it is registered anew before.
func TestRetakenUntilTheEnd(t *testing.T) {
	ended := make(chan struct{})
	tries := 0
	m := &membership{log: slog.New(slog.DiscardHandler), retake: func(context.Context) error {
		if tries++; tries == 1 {
			close(ended)
		}
		return vfs.KindUnknownOrigin.Err("take clients")
	}}
	if retaken, over := m.retaken(t.Context(), ended); retaken || !over || tries != 1 {
		t.Errorf("ended: %v, %v after %d tries", retaken, over, tries)
	}
	m.retake = func(context.Context) error {
		if tries++; tries == 3 {
			return nil
		}
		return vfs.KindUnavailable.Err("take clients")
	}
	if retaken, over := m.retaken(t.Context(), make(chan struct{})); !retaken || over || tries != 3 {
		t.Errorf("%v, %v after %d tries", retaken, over, tries)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.retake = func(context.Context) error { return ctx.Err() }
	if retaken, over := m.retaken(ctx, make(chan struct{})); retaken || over {
		t.Errorf("cancelled: %v, %v", retaken, over)
	}
}
