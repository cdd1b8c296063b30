package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/vfs"
)

func TestTransfer(t *testing.T) {
	r := newRig(t)
	for name, fn := range map[string]func(*rig){
		"only what differs is sent": onlyWhatDiffers, "sync --delete": syncDelete, "an upload is resumed": resumeUpload, "a download is resumed": resumeDownload,
		"one name": oneName, "names": names, "what cannot be sent": refused, "a quota": quota, "one file": oneFile,
	} {
		t.Run(name, func(t *testing.T) {
			x := *r
			x.T = t
			fn(&x)
		})
	}
	t.Run("a switch", func(t *testing.T) { // last, for it is of the workspace
		x := *r
		x.T = t
		switchedOff(&x)
	})
}

func onlyWhatDiffers(r *rig) {
	ctx, n, dir := r.Context(), scaled(500, 5000), r.TempDir()
	name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("d%d/e%d/f%d", i%7, i%3, i)) }
	for i := range n {
		write(r, name(i), noise(uint64(i), i%97*50))
	}
	if err := os.Chmod(name(5), 0o640); err != nil {
		r.Fatal(err)
	}
	o := Options{Rules: Rules{Sync: true}, Journal: r.journal}
	sum := must[Summary](r)(Upload(ctx, dir, r.at("/many/files"), true, o))
	if sum.Sent != int64(n) || sum.Dirs != 7+21 || sum.Same != 0 {
		r.Fatalf("%+v", sum)
	}
	size := int64(0)
	for i := range 10 {
		b := noise(uint64(i+1000), (i*n/10)%97*50+3)
		write(r, name(i*n/10), b)
		size += int64(len(b))
	}
	if sum = must[Summary](r)(Upload(ctx, dir, r.at("/many/files"), true, o)); sum.Sent != 10 || sum.Bytes != size || sum.Same != int64(n)-10 || sum.Dirs != 0 {
		r.Fatalf("ten were changed: %+v", sum)
	}
	if sum = must[Summary](r)(Upload(ctx, dir, r.at("/many/files"), true, o)); sum.Sent != 0 || sum.Bytes != 0 || sum.Same != int64(n) {
		r.Fatalf("nothing was changed: %+v", sum)
	}
	if err := os.Chmod(name(1), 0o600); err != nil {
		r.Fatal(err)
	}
	// The same size and time, another content: seen by checksums only.
	fi := must[fs.FileInfo](r)(os.Stat(name(11)))
	write(r, name(11), noise(4711, int(fi.Size())))
	if err := os.Chtimes(name(11), fi.ModTime(), fi.ModTime()); err != nil {
		r.Fatal(err)
	}
	if sum = must[Summary](r)(Upload(ctx, dir, r.at("/many/files"), true, o)); sum.Sent != 0 || sum.Changed != 1 || sum.Bytes != 0 {
		r.Fatalf("a mode was changed: %+v", sum)
	}
	o.Checksum = true
	if sum = must[Summary](r)(Upload(ctx, dir, r.at("/many/files"), true, o)); sum.Sent != 1 || sum.Changed != 0 || sum.Bytes != fi.Size() {
		r.Fatalf("a content was changed: %+v", sum)
	}
	back := filepath.Join(r.TempDir(), "back")
	o.Checksum = false
	if sum = must[Summary](r)(Download(ctx, r.at("/many/files"), back, true, o)); sum.Sent != int64(n) {
		r.Fatalf("%+v", sum)
	}
	sameTree(r, "what came back", tree(r, back, true), tree(r, dir, true))
	if sum = must[Summary](r)(Download(ctx, r.at("/many/files"), back, true, o)); sum.Sent != 0 || sum.Same != int64(n) {
		r.Fatalf("nothing was changed: %+v", sum)
	}
}

func syncDelete(r *rig) {
	ctx, dir := r.Context(), r.TempDir()
	for i, name := range []string{"same", "changed", "d/same", "d/new", "file", "dir/x"} {
		write(r, filepath.Join(dir, name), noise(uint64(i), 100))
	}
	up := Options{Rules: Rules{Sync: true}}
	must[Summary](r)(Upload(ctx, dir, r.at("/sync"), true, up))
	// There: more, less, another content, and files and directories in each other's place.
	other := r.TempDir()
	for _, name := range []string{"extra", "e/x/y", "changed", "d/extra", "dir"} {
		write(r, filepath.Join(other, name), []byte(name))
	}
	k := r.client.Tree("", "default")
	for _, p := range []string{"/sync/dir", "/sync/file", "/sync/d/new"} {
		if err := RemoveAll(ctx, r.client, k, p, nil); err != nil {
			r.Fatal(err)
		}
	}
	must[Summary](r)(Upload(ctx, other, r.at("/sync"), true, Options{}))
	must[api.FileInfo](r)(k.Mkdir(ctx, "/sync/file/deep", true))

	var did []string
	o := Options{Rules: Rules{Sync: true, Delete: true}, DryRun: true, Did: func(a Action, err error) {
		did = append(did, fmt.Sprint(a.Does, " ", a.Path, " ", a.Dir, " ", a.Size, " ", err))
	}}
	run := func() (Summary, []string) {
		did = nil
		sum := must[Summary](r)(Upload(ctx, dir, r.at("/sync"), true, o))
		slices.Sort(did)
		return sum, slices.Clone(did)
	}
	before := r.remoteTree("/sync")
	sum, said := run()
	sameTree(r, "after a dry run", r.remoteTree("/sync"), before)
	if sum.Removed != 5 || sum.Sent != 4 || sum.Dirs != 1 || !sum.DryRun {
		r.Fatalf("%+v\n%s", sum, strings.Join(said, "\n"))
	}
	o.DryRun = false
	real, done := run()
	sum.DryRun = false
	if real != sum || !slices.Equal(done, said) {
		r.Fatalf("said was %+v\n%s\ndone was %+v\n%s", sum, strings.Join(said, "\n"), real, strings.Join(done, "\n"))
	}
	// The other way: a copy with too much in it becomes what is there.
	write(r, filepath.Join(other, "e/more"), nil)
	down, before := o, tree(r, other, true)
	down.DryRun = true
	said = nil
	down.Did = func(a Action, err error) { said = append(said, fmt.Sprint(a.Does, a.Path, err)) }
	must[Summary](r)(Download(ctx, r.at("/sync"), other, true, down))
	sameTree(r, "after a dry run here", tree(r, other, true), before)
	planned := said
	said, down.DryRun = nil, false
	must[Summary](r)(Download(ctx, r.at("/sync"), other, true, down))
	slices.Sort(planned)
	if slices.Sort(said); !slices.Equal(said, planned) {
		r.Errorf("said was %q, done was %q", planned, said)
	}
	sameTree(r, "after sync", tree(r, other, true), tree(r, dir, true))
	// What could not be read is not taken for missing.
	if err := os.Symlink("same", filepath.Join(dir, "extra")); err != nil {
		r.Fatal(err)
	}
	write(r, filepath.Join(other, "extra"), nil)
	must[Summary](r)(Upload(ctx, filepath.Join(other, "extra"), r.at("/sync/extra"), false, Options{}))
	if sum, err := Upload(ctx, dir, r.at("/sync"), true, Options{Rules: o.Rules}); err == nil || sum.Refused != 1 || sum.Removed != 0 {
		r.Errorf("a name that is here, but cannot be sent: %+v %v", sum, err)
	}
}

// big is the size of a file that is broken off.
func big() int { return scaled(64<<20, 1<<30) }

func resumeUpload(r *rig) {
	dir := r.TempDir()
	data := noise(7, big())
	from, size := filepath.Join(dir, "big"), int64(len(data))
	write(r, from, data)
	broken := func(size int64) error { // all connections are cut in the middle, and the process ends
		ctx, kill := context.WithCancel(r.Context())
		defer kill()
		var moved int64
		sum, err := Upload(ctx, from, r.at("/big"), false, Options{Journal: r.journal, Begin: func(Action) (func(int64), func()) {
			return func(n int64) {
				if moved += n; moved >= size/2 {
					r.proxy.Cut()
					kill()
				}
			}, func() {}
		}})
		if sum.Sent != 0 || sum.Bytes < size/2 || sum.Bytes == size {
			r.Errorf("it was to be broken off in the middle: %+v", sum)
		}
		return err
	}
	if err := broken(size); err == nil {
		r.Fatal("it was not broken off")
	}
	if f, err := r.client.Tree("", "default").Stat(r.Context(), "/big"); vfs.KindOf(err) != vfs.KindNotFound {
		r.Fatalf("half of it is seen: %+v %v", f, err)
	}
	r.client = r.connect()
	sum := must[Summary](r)(Upload(r.Context(), from, r.at("/big"), false, Options{Journal: r.journal}))
	if sum.Sent != 1 || sum.Resumed == 0 || sum.Bytes+sum.Resumed != size {
		r.Fatalf("only the rest was to be sent: %+v of %d", sum, size)
	}
	r.Logf("%d of %d bytes were sent again", sum.Bytes-size/2, size)
	if !bytes.Equal(r.readBack("default", "/big"), data) {
		r.Fatal("what came back is something else")
	}
	// A file that was changed meanwhile is another one.
	small := data[:20<<20]
	write(r, from, small)
	if err := broken(int64(len(small))); err == nil {
		r.Fatal("it was not broken off")
	}
	small[0]++
	write(r, from, small)
	if sum = must[Summary](r)(Upload(r.Context(), from, r.at("/big"), false, Options{Journal: r.journal})); sum.Resumed != 0 || sum.Bytes != int64(len(small)) {
		r.Fatalf("%+v", sum)
	}
	if !bytes.Equal(r.readBack("default", "/big"), small) {
		r.Fatal("what came back is something else, after it was changed")
	}
	// A lost connection is no error.
	write(r, from, data)
	var moved int64
	cut := false
	sum = must[Summary](r)(Upload(r.Context(), from, r.at("/big2"), false, Options{Begin: func(Action) (func(int64), func()) {
		return func(n int64) {
			if moved += n; moved >= size/2 && !cut {
				cut = true
				r.proxy.Cut()
			}
		}, func() {}
	}}))
	if sum.Sent != 1 || sum.Bytes >= size+size/2 || sum.Bytes < size {
		r.Fatalf("half of it was there already: %+v", sum)
	}
	if !bytes.Equal(r.readBack("default", "/big2"), data) {
		r.Fatal("what came back is something else, after a lost connection")
	}
}

func resumeDownload(r *rig) {
	dir := r.TempDir()
	data := noise(8, scaled(20<<20, 1<<30))
	from, size := filepath.Join(dir, "big"), int64(len(data))
	write(r, from, data)
	must[Summary](r)(Upload(r.Context(), from, r.at("/down"), false, Options{}))
	to := filepath.Join(dir, "copy")
	parts := func() []string { return must[[]string](r)(filepath.Glob(filepath.Join(dir, partPrefix+"*"))) }
	broken := func() {
		r.Helper()
		ctx, kill := context.WithCancel(r.Context())
		defer kill()
		var moved int64
		sum, err := Download(ctx, r.at("/down"), to, false, Options{Journal: r.journal, Begin: func(Action) (func(int64), func()) {
			return func(n int64) {
				if moved += n; moved >= size/2 {
					r.proxy.Cut()
					kill()
				}
			}, func() {}
		}})
		if err == nil || sum.Sent != 0 || sum.Bytes == size || len(parts()) != 1 {
			r.Fatalf("%+v %v %v", sum, err, parts())
		}
		if _, err := os.Stat(to); !errors.Is(err, fs.ErrNotExist) {
			r.Fatalf("half of it is seen: %v", err)
		}
	}
	get := func(o Options) Summary {
		r.Helper()
		o.Journal = r.journal
		sum := must[Summary](r)(Download(r.Context(), r.at("/down"), to, false, o))
		if got := must[[]byte](r)(os.ReadFile(to)); !bytes.Equal(got, data) || len(parts()) != 0 {
			r.Fatalf("what came is something else: %d bytes, %v", len(got), parts())
		}
		os.Remove(to)
		return sum
	}
	broken()
	r.client = r.connect()
	if sum := get(Options{}); sum.Resumed < size/2 || sum.Bytes+sum.Resumed != size {
		r.Fatalf("only the rest was to be sent: %+v", sum)
	}
	// A part that does not hold what it seems to: zeros, as after a crash.
	broken()
	f := must[*os.File](r)(os.OpenFile(parts()[0], os.O_RDWR, 0))
	must[int](r)(f.WriteAt(make([]byte, 1<<20), 1<<20))
	f.Close()
	if sum := get(Options{}); sum.Resumed >= 2<<20 || sum.Bytes+sum.Resumed != size {
		r.Fatalf("a damaged part was used: %+v", sum)
	}
	// A file that is another one by now.
	broken()
	data[size-1]++
	write(r, from, data)
	must[Summary](r)(Upload(r.Context(), from, r.at("/down"), false, Options{}))
	if sum := get(Options{}); sum.Resumed != 0 || sum.Bytes != size {
		r.Fatalf("%+v", sum)
	}
	// Two at once do not write into each other's part.
	lock := must[*os.File](r)(os.Create(filepath.Join(dir, partOf("copy"))))
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		r.Fatal(err)
	}
	if _, err := Download(r.Context(), r.at("/down"), to, false, Options{}); err == nil {
		r.Error("two wrote one part")
	}
	lock.Close()
	get(Options{})
}

// Many uploads of one name leave one whole file.
func oneName(r *rig) {
	const writers = 20
	dir := r.TempDir()
	var all sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		from := filepath.Join(dir, fmt.Sprint(i))
		size := 300_000 + i
		if i%5 == 0 {
			size += smallFile // by the other way
		}
		write(r, from, noise(uint64(i), size))
		all.Go(func() { _, errs[i] = Upload(r.Context(), from, r.at("/one"), false, Options{Journal: r.journal}) })
	}
	all.Wait()
	got := r.readBack("default", "/one")
	for i, err := range errs {
		if err != nil {
			r.Errorf("upload %d: %v", i, err)
		}
	}
	for i := range writers {
		if b := must[[]byte](r)(os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))); bytes.Equal(b, got) {
			return
		}
	}
	r.Errorf("%d bytes that nobody sent", len(got))
}

// Names are bytes, but for those that are no names.
func names(r *rig) {
	ctx, dir := r.Context(), r.TempDir()
	odd := []string{"latin1-\xe9", "new\nline", "per%20cent", strings.Repeat("n", 255), "ü ?&#", "-r", "\\back"}
	for i, name := range odd {
		write(r, filepath.Join(dir, "d\xff", name), []byte{byte(i)})
	}
	o := Options{Rules: Rules{Sync: true}}
	must[Summary](r)(Upload(ctx, dir, r.at("/names"), true, o))
	back := filepath.Join(r.TempDir(), "back")
	must[Summary](r)(Download(ctx, r.at("/names"), back, true, o))
	sameTree(r, "odd names", tree(r, back, true), tree(r, dir, true))

	from := filepath.Join(dir, "f")
	write(r, from, []byte("x"))
	for p, kind := range map[string]vfs.Kind{
		"/names/../out": vfs.KindBadName, "/names/..": vfs.KindBadName, "/./x": vfs.KindBadName, "/a\x00b": vfs.KindBadName, "": vfs.KindBadName, "x": vfs.KindBadName,
		"/" + strings.Repeat("n", 256): vfs.KindNameTooLong, strings.Repeat("/nnn", 1025): vfs.KindNameTooLong,
	} {
		if _, err := Upload(ctx, from, r.at(p), false, Options{}); vfs.KindOf(err) != kind {
			r.Errorf("upload to %.20q: %v, want %v", p, err, kind)
		}
		if _, err := Download(ctx, r.at(p), filepath.Join(dir, "never"), false, Options{}); vfs.KindOf(err) != kind {
			r.Errorf("download of %.20q: %v, want %v", p, err, kind)
		}
	}
}

// What cannot be transferred is named, and the rest comes.
func refused(r *rig) {
	ctx, dir := r.Context(), r.TempDir()
	write(r, filepath.Join(dir, "a"), []byte("a"))
	write(r, filepath.Join(dir, "z/b"), []byte("b"))
	if err := errors.Join(os.Symlink("/etc", filepath.Join(dir, "link")), os.Symlink("../a", filepath.Join(dir, "z", "link")), syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)); err != nil {
		r.Fatal(err)
	}
	var failed []string
	o := Options{Did: func(a Action, err error) {
		if err != nil {
			failed = append(failed, a.Path)
		}
	}}
	sum, err := Upload(ctx, dir, r.at("/refused"), true, o)
	slices.Sort(failed)
	var p *Partial
	if !errors.As(err, &p) || sum.Refused != 3 || sum.Sent != 2 || !slices.Equal(failed, []string{"link", "pipe", "z/link"}) {
		r.Errorf("%+v %v, named were %q", sum, err, failed)
	}
	if got := r.readBack("default", "/refused/z/b"); string(got) != "b" {
		r.Errorf("the rest: %q", got)
	}
	for what, err := range map[string]error{
		"a directory without -r": second(Upload(ctx, dir, r.at("/x"), false, Options{})),
		"nothing":                second(Upload(ctx, filepath.Join(dir, "none"), r.at("/x"), true, Options{})),
		"a pipe":                 second(Upload(ctx, filepath.Join(dir, "pipe"), r.at("/x"), true, Options{})),
		"onto a file":            second(Upload(ctx, dir, r.at("/refused/a"), true, Options{})),
		"below a file":           second(Upload(ctx, filepath.Join(dir, "a"), r.at("/refused/a/b"), true, Options{})),
		"nothing there":          second(Download(ctx, r.at("/none"), filepath.Join(dir, "x"), true, Options{})),
		"into a file":            second(Download(ctx, r.at("/refused"), filepath.Join(dir, "a"), true, Options{})),
		"another file system":    second(Upload(ctx, dir, r.in("none", "/x"), true, Options{})),
	} {
		if err == nil || vfs.KindOf(err).Retryable() {
			r.Errorf("%s: %v", what, err)
		}
	}
	// A link here is not written through.
	out := filepath.Join(r.TempDir(), "out")
	write(r, out, []byte("mine"))
	to := r.TempDir()
	if err := errors.Join(os.Symlink(out, filepath.Join(to, "a")), os.Symlink(filepath.Dir(out), filepath.Join(to, "z"))); err != nil {
		r.Fatal(err)
	}
	_, err = Download(ctx, r.at("/refused"), to, true, Options{Rules: Rules{Sync: true}})
	if b := must[[]byte](r)(os.ReadFile(out)); string(b) != "mine" || err == nil {
		r.Errorf("%q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(out), "b")); err == nil {
		r.Error("a file was written through a link to a directory")
	}
	if b := must[[]byte](r)(os.ReadFile(filepath.Join(to, "a"))); string(b) != "a" {
		r.Errorf("a link to a file was to be replaced: %q", b)
	}
}

func second[T any](_ T, err error) error { return err }

// A file system that is full says so of each file that does not fit, keeps nothing of it, and takes what does.
func quota(r *rig) {
	ctx, dir := r.Context(), r.TempDir()
	limit := uint64(16 << 20)
	if _, err := r.client.CreateFileSystem(ctx, api.NewFileSystem{Name: "full", FileSystemSettings: api.FileSystemSettings{QuotaBytes: limit}}); err != nil {
		r.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := r.client.Tree("", "full").Stat(ctx, "/"); err == nil {
			break
		} else if time.Now().After(deadline) {
			r.Fatal(err)
		}
	}
	want := map[string]string{".": "directory"}
	for name, n := range map[string]int{"a": 5 << 20, "b": 17 << 20, "c": 100} {
		write(r, filepath.Join(dir, name), noise(3, n))
		if name != "b" {
			want[name] = fmt.Sprintf("%x", sha256.Sum256(noise(3, n)))
		}
	}
	var failed []error
	sum, err := Upload(ctx, dir, r.in("full", "/"), true, Options{Parallel: 1, Journal: r.journal, Did: func(_ Action, err error) {
		if err != nil {
			failed = append(failed, err)
		}
	}})
	if err == nil || sum.Sent != 2 || len(failed) != 1 || vfs.KindOf(failed[0]) != vfs.KindQuota {
		r.Fatalf("%+v %v %v", sum, err, failed)
	}
	back := filepath.Join(r.TempDir(), "back")
	must[Summary](r)(Download(ctx, r.in("full", "/"), back, true, Options{}))
	sameTree(r, "what is there", tree(r, back, false), want)
	// What did not fit takes no space: as much as there is still goes in.
	write(r, filepath.Join(dir, "rest"), noise(4, 10<<20))
	must[Summary](r)(Upload(ctx, filepath.Join(dir, "rest"), r.in("full", "/rest"), false, Options{}))
	// A small one, which goes by the other way.
	write(r, filepath.Join(dir, "more"), noise(4, 7<<20))
	if _, err := Upload(ctx, filepath.Join(dir, "more"), r.in("full", "/more"), false, Options{}); vfs.KindOf(err) != vfs.KindQuota {
		r.Errorf("a small file that does not fit: %v", err)
	}
}

// Where one file comes, under which name.
func oneFile(r *rig) {
	ctx, dir := r.Context(), r.TempDir()
	from := filepath.Join(dir, "f")
	write(r, from, []byte("content"))
	if err := os.Chmod(from, 0o750); err != nil {
		r.Fatal(err)
	}
	o := Options{Rules: Rules{Sync: true, Checksum: true}}
	for to, at := range map[string]string{"/one-file/new": "/one-file/new", "/one-file/": "/one-file/f", "/one-file": "/one-file/f"} {
		if to == "/one-file" {
			must[api.FileInfo](r)(r.client.Tree("", "default").Mkdir(ctx, to, true))
		}
		must[Summary](r)(Upload(ctx, from, r.at(to), false, o))
		f := must[api.FileInfo](r)(r.client.Tree("", "default").Stat(ctx, at))
		if f.Mode != "0750" || f.Size != 7 {
			r.Errorf("%s: %+v", to, f)
		}
		if sum := must[Summary](r)(Upload(ctx, from, r.at(at), false, o)); sum.Same != 1 || sum.Sent != 0 {
			r.Errorf("%s again: %+v", to, sum)
		}
	}
	for to, at := range map[string]string{"new": "new", "sub/": "sub/f"} {
		write(r, filepath.Join(dir, "back", "other"), nil)
		must[Summary](r)(Download(ctx, r.at("/one-file/f"), filepath.Join(dir, "back")+"/"+to, false, o))
		if fi := must[fs.FileInfo](r)(os.Stat(filepath.Join(dir, "back", at))); fi.Mode() != 0o750 || fi.Size() != 7 {
			r.Errorf("%s: %v", to, fi)
		}
		if sum := must[Summary](r)(Download(ctx, r.at("/one-file/f"), filepath.Join(dir, "back", at), false, o)); sum.Same != 1 || sum.Sent != 0 {
			r.Errorf("%s again: %+v", to, sum)
		}
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		r.Fatal(err)
	}
	for to, kind := range map[string]vfs.Kind{pipe: vfs.KindNotSupported, "-": vfs.KindNotSupported, "": vfs.KindInvalid} {
		if _, err := Download(ctx, r.at("/one-file/f"), to, false, o); vfs.KindOf(err) != kind {
			r.Errorf("to %q: %v", to, err)
		}
	}
	if fi := must[fs.FileInfo](r)(os.Lstat(pipe)); fi.Mode()&fs.ModeNamedPipe == 0 {
		r.Errorf("the pipe is %v now", fi.Mode())
	}
	if _, err := Upload(ctx, "", r.at("/one-file"), true, o); vfs.KindOf(err) != vfs.KindInvalid {
		r.Errorf("of nothing: %v", err)
	}
	// A checksum is of the range that was asked for, of the file that was meant.
	k := r.client.Tree("", "default")
	f := must[api.FileInfo](r)(k.Stat(ctx, "/one-file/f"))
	if c := must[api.Checksum](r)(k.Checksum(ctx, "/one-file/f", 3, 2, f.ETag)); c.SHA256 != fmt.Sprintf("%x", sha256.Sum256([]byte("te"))) || c.Length != 2 || c.Size != 7 {
		r.Errorf("%+v", c)
	}
	if c := must[api.Checksum](r)(k.Checksum(ctx, "/one-file/f", 5, 100, "")); c.Length != 2 {
		r.Errorf("a range that goes over the end: %+v", c)
	}
	for what, err := range map[string]error{
		"behind the end": second(k.Checksum(ctx, "/one-file/f", 8, 1, "")), "a directory": second(k.Checksum(ctx, "/one-file", 0, 1, "")),
		"another file": second(k.Checksum(ctx, "/one-file/f", 0, 7, `"1-1"`)), "nothing": second(k.Checksum(ctx, "/one-file/none", 0, 1, "")),
	} {
		if err == nil || vfs.KindOf(err).Retryable() {
			r.Errorf("%s: %v", what, err)
		}
	}
	// A link at the top is what the user named.
	if err := os.Symlink("f", filepath.Join(dir, "l")); err != nil {
		r.Fatal(err)
	}
	must[Summary](r)(Upload(ctx, filepath.Join(dir, "l"), r.at("/one-file/"), false, o))
	if got := r.readBack("default", "/one-file/l"); string(got) != "content" {
		r.Errorf("%q", got)
	}
}

// A workspace without rsync: whoever tries is told the name of the switch, and the rest works.
func switchedOff(r *rig) {
	ctx, from := r.Context(), filepath.Join(r.TempDir(), "f")
	write(r, from, []byte("x"))
	if _, err := r.client.ChangeWorkspace(ctx, "default", api.WorkspaceChange{Features: map[string]bool{"rsync": false}}); err != nil {
		r.Fatal(err)
	}
	o := Options{Rules: Rules{Sync: true}}
	for what, err := range map[string]error{
		"up": second(Upload(ctx, from, r.at("/off"), false, o)), "down": second(Download(ctx, r.at("/"), r.TempDir(), true, o)),
		"a large file": second(r.client.Tree("", "default").BeginUpload(ctx, "/off", api.Put{Length: 5, Sync: true})),
	} {
		if vfs.KindOf(err) != vfs.KindPerm || !strings.Contains(err.Error(), "rsync is switched off") {
			r.Errorf("%s: %v", what, err)
		}
	}
	must[Summary](r)(Upload(ctx, from, r.at("/off"), false, Options{}))
}
