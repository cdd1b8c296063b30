package transfer

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// fakeSide is a side in memory: directories with what is in them.
type fakeSide struct {
	dirs map[string][]Entry
	did  *journaled
	bad  string // the file that cannot be read
}

func (f *fakeSide) stat(_ context.Context, p string) (Entry, error) {
	return Entry{}, vfs.KindNotFound.Err("fake")
}

func (f *fakeSide) list(_ context.Context, dir string) ([]Entry, error) {
	if f.bad != "" && dir == f.bad {
		return nil, vfs.KindAccess.Err("fake")
	}
	return f.dirs[dir], nil
}

func (f *fakeSide) sum(_ context.Context, p string, _ Entry, _, _ int64) ([]byte, error) {
	if p == f.bad {
		return nil, vfs.KindAccess.Err("fake")
	}
	return nil, nil
}

func (f *fakeSide) mkdir(_ context.Context, p string, _ uint32) error { return f.do("mkdir", p) }

func (f *fakeSide) change(_ context.Context, p string, _ Entry) error { return f.do("change", p) }

func (f *fakeSide) remove(_ context.Context, p string, _ bool) error { return f.do("remove", p) }

func (f *fakeSide) do(what, p string) error {
	f.did.add(what + " " + p)
	return nil
}

// journaled is what was done: by the walker, and by workers.
type journaled struct {
	mu   sync.Mutex
	done []string
}

func (j *journaled) add(what string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.done = append(j.done, what)
}

// of are those that are sends, or those that are not.
func (j *journaled) of(sends bool) string {
	var out []string
	for _, d := range j.done {
		if strings.HasPrefix(d, "send ") == sends {
			out = append(out, d)
		}
	}
	return strings.Join(out, ", ")
}

// TestWhatIsInTheWay is removed when all else was done, if nothing failed and what comes in its place can be read: else it would be lost for nothing.
func TestWhatIsInTheWay(t *testing.T) {
	now := time.Now()
	entry := func(name string, k Type) Entry { return Entry{Name: name, Type: k, Size: 5, Mtime: now} }
	for _, x := range []struct {
		what, bad, fails string // the file that cannot be read, and the one that cannot be sent
		sends, others    string
		failed, removed  int64
	}{
		{"all is well", "", "", "send z/new, send a, send d/x", "remove a, remove d, mkdir d, remove extra", 0, 3},
		{"the file cannot be read", "a", "", "send z/new, send d/x", "remove d, mkdir d", 2, 1},
		{"the directory cannot be read", "d", "", "send z/new, send a", "remove a", 2, 1},
		{"another file cannot be sent", "", "z/new", "send z/new", "", 3, 0},
	} {
		var did journaled
		src := &fakeSide{did: &did, bad: x.bad, dirs: map[string][]Entry{
			"": {entry("a", File), entry("d", Dir), entry("z", Dir)}, "d": {entry("x", File)}, "z": {entry("new", File)},
		}}
		dst := &fakeSide{did: &did, dirs: map[string][]Entry{"": {entry("a", Dir), entry("d", File), entry("z", Dir), entry("extra", File)}, "a": {entry("precious", File)}}}
		r := &run{o: Options{Rules: Rules{Sync: true, Delete: true}, Parallel: 1}, src: src, dst: dst}
		r.send = func(_ context.Context, p string, _ *Step, _ *track) error {
			did.add("send " + p)
			if p == x.fails {
				return vfs.KindIO.Err("fake")
			}
			return nil
		}
		sum, err := r.tree(t.Context(), false)
		if did.of(true) != x.sends || did.of(false) != x.others || did.done[0] != "send z/new" || sum.Failed != x.failed || sum.Removed != x.removed || (err == nil) != (x.failed == 0) {
			t.Errorf("%s: %v; %+v, %v", x.what, did.done, sum, err)
		}
	}
}
