package transfer

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// What is downloaded is nobody else's while it comes, whatever the mode is that it gets in the end; a part that others could read is closed to them before more comes.
func TestPartIsPrivate(t *testing.T) {
	r := newRig(t)
	dir := r.TempDir()
	mode := func(name string) fs.FileMode {
		r.Helper()
		return must[fs.FileInfo](r)(os.Stat(name)).Mode()
	}
	probe := filepath.Join(dir, "probe") // made as any program makes a file
	must[*os.File](r)(os.OpenFile(probe, os.O_CREATE|os.O_WRONLY, 0o666)).Close()
	usual := mode(probe)

	sync := Options{Rules: Rules{Sync: true}}
	data := noise(5, smallFile+1<<20) // large: its part outlives a broken download
	if err := os.Mkdir(filepath.Join(dir, "back"), 0o755); err != nil {
		r.Fatal(err)
	}
	for name, m := range map[string]fs.FileMode{"private": 0o600, "closed": 0, "open": 0o644} {
		from := filepath.Join(dir, name)
		write(r, from, data)
		if err := os.Chmod(from, m); err != nil {
			r.Fatal(err)
		}
		if m == 0 && os.Geteuid() != 0 {
			continue // its owner cannot read it
		}
		must[Summary](r)(Upload(r.Context(), from, r.at("/private/"+name), false, sync))
		to := filepath.Join(dir, "back", name)
		part := filepath.Join(dir, "back", partOf(name))
		// get downloads, looks at the part as soon as something has come, and breaks off there if it is told to.
		get := func(o Options, breakOff bool) {
			r.Helper()
			ctx, kill := context.WithCancel(r.Context())
			defer kill()
			var seen fs.FileMode
			looked := false
			o.Journal = r.journal
			o.Begin = func(Action) (func(int64), func()) {
				return func(int64) {
					if fi, err := os.Stat(part); err == nil && fi.Size() > 0 && !looked {
						seen, looked = fi.Mode(), true
						if breakOff {
							kill()
						}
					}
				}, func() {}
			}
			if _, err := Download(ctx, r.at("/private/"+name), to, false, o); (err != nil) != breakOff {
				r.Fatalf("%s: %v", name, err)
			}
			if !looked || seen != partMode {
				r.Errorf("%s: a part was seen: %v, with mode %v", name, looked, seen)
			}
		}
		get(sync, true)
		if err := os.Chmod(part, 0o644); err != nil {
			r.Fatal(err)
		}
		get(sync, false)
		if got := mode(to); got != m {
			r.Errorf("%s has the mode %v, its source %v", name, got, m)
		}
		// Without --rsync a new file has the mode of any new one, and one that was there keeps its own.
		if err := os.Remove(to); err != nil {
			r.Fatal(err)
		}
		get(Options{}, false)
		if got := mode(to); got != usual {
			r.Errorf("%s, as a new file, has the mode %v, others %v", name, got, usual)
		}
		if err := os.Chmod(to, 0o640); err != nil {
			r.Fatal(err)
		}
		get(Options{}, false)
		if got := mode(to); got != 0o640 {
			r.Errorf("%s, over one of mode 0640, has %v", name, got)
		}
	}
}
