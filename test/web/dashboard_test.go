//go:build linux

package web

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/bench/nfsclient"
)

func noise(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// picture is a PNG.
func picture(t *testing.T) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, 320, 200))
	for x := range 320 {
		for y := range 200 {
			m.Set(x, y, color.RGBA{uint8(x), uint8(y), 160, 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The dashboard in a browser, from the login on.
func TestDashboard(t *testing.T) {
	t.Parallel()
	r := start(t)
	k := bootKernel(t, r)
	p := r.tab
	step := func(name string, fn func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			fn(t)
			p.clean(t)
		})
		if t.Failed() {
			t.FailNow() // the steps after it begin where it ends
		}
	}
	step("log in", func(t *testing.T) { logIn(t, r) })
	step("file systems", func(t *testing.T) { fileSystems(t, r) })
	step("upload, download, rename, delete", func(t *testing.T) { manage(t, r) })
	step("NFS and browser", func(t *testing.T) { bothWays(t, r) })
	step("kernel and browser", func(t *testing.T) { kernelAndBrowser(t, r, k) })
	step("names that are HTML", func(t *testing.T) { hostileNames(t, r) })
	step("preview", func(t *testing.T) { previews(t, r) })
	step("a long directory", func(t *testing.T) { longDirectory(t, r) })
	step("import from cloud", func(t *testing.T) { importPage(t, r) })
	step("jobs", func(t *testing.T) { jobsPage(t, r) })
	step("cluster", func(t *testing.T) { clusterPage(t, r) })
	step("mount", func(t *testing.T) { mountPage(t, r) })
	step("tokens and roles", func(t *testing.T) { tokensPage(t, r) })
}

func logIn(t *testing.T, r *rig) {
	p := r.tab
	p.visit(t, "/")
	p.see(t, "Log in")
	p.shot(t, "login")
	p.typeIn(t, test("token"), "rackfs_wrong")
	p.clickOn(t, "log-in")
	p.see(t, "This token is not known here")
	p.typeIn(t, test("token"), r.c.Token())
	p.clickOn(t, "log-in")
	p.until(t, "location.pathname === '/fs'")
	// Scripts have neither the token nor a place where it was left.
	var left string
	p.eval(t, "document.cookie + JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})", &left)
	if strings.Contains(left, r.c.Token()) {
		t.Errorf("scripts can read the token: %s", left)
	}
	p.visit(t, "/") // the cookie outlives the page
	p.until(t, "document.querySelector("+quote(test("fs-default"))+")")
}

func fileSystems(t *testing.T, r *rig) {
	p := r.tab
	p.visit(t, "/fs")
	p.until(t, "document.querySelector("+quote(test("fs-default"))+")?.innerText.includes('10.0 GiB')")
	if os.Geteuid() == 0 {
		p.until(t, "(e => e && e.className.includes('greyed') && e.innerText.includes('Only workloads on that node reach them') && !e.querySelector('a'))(document.querySelector("+quote(test("fs-scratch"))+"))")
	}
	p.shot(t, "filesystems")
	// Who sees several workspaces chooses.
	if _, err := r.api(t).CreateWorkspace(t.Context(), api.NewWorkspace{Name: "team"}); err != nil {
		t.Fatal(err)
	}
	p.visit(t, "/fs")
	p.pick(t, "workspace", "team")
	p.see(t, "There is none in the workspace team")
	p.visit(t, "/fs")
	p.see(t, "There is none in the workspace team")
	p.pick(t, "workspace", "default")
	p.until(t, "document.querySelector("+quote(test("fs-default"))+")")
}

func manage(t *testing.T, r *rig) {
	p := r.tab
	small, large := []byte("hello, rackfs\n"), noise(5<<20+123, 1)
	dir := t.TempDir()
	files := map[string][]byte{"small.txt": small, "large.bin": large, "tree/a.txt": []byte("a"), "tree/sub/deep/b.bin": noise(70_000, 2), "tree/sub/empty": {}}
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	p.visit(t, "/files/default/default")
	p.clickOn(t, "new")
	p.clickOn(t, "new-folder")
	p.typeIn(t, test("name"), "a/b")
	p.clickOn(t, "submit")
	p.see(t, "A name has no slash.")
	p.typeIn(t, test("name"), "work & play")
	p.clickOn(t, "submit")
	p.seeRow(t, "work & play")
	p.click(t, row("work & play")+"?.querySelector('button.cell')")
	p.see(t, "This folder is empty.")

	// Two files, and a folder.
	p.choose(t, test("input-files"), filepath.Join(dir, "small.txt"), filepath.Join(dir, "large.bin"))
	p.seeRow(t, "small.txt")
	p.seeRow(t, "large.bin")
	p.choose(t, test("input-folder"), filepath.Join(dir, "tree"))
	p.seeRow(t, "tree")
	p.until(t, "document.querySelector("+quote(test("uploads"))+")?.innerText.includes('5 files uploaded')")
	p.shot(t, "browser")
	p.click(t, "document.querySelector('[aria-label=\"Clear finished uploads\"]')")
	for name, data := range files {
		if got := r.read(t, "/work & play/"+name); !bytes.Equal(got, data) {
			t.Errorf("%s has %d bytes by NFS that are not the %d that were uploaded", name, len(got), len(data))
		}
	}

	// Dropped, with a directory that has nothing in it.
	if err := os.MkdirAll(filepath.Join(dir, "dropped", "nothing"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dropped", "x"), []byte("dropped"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.drop(t, "drop", filepath.Join(dir, "dropped"))
	p.seeRow(t, "dropped")
	p.see(t, "1 file uploaded")
	if got := r.read(t, "/work & play/dropped/x"); string(got) != "dropped" {
		t.Errorf("what was dropped is %q", got)
	}
	p.click(t, row("dropped")+"?.querySelector('button.cell')")
	p.seeRow(t, "nothing")
	p.visit(t, "/files/default/default?path=/work%20%26%20play")
	p.seeRow(t, "dropped")
	p.click(t, row("dropped")+"?.querySelector('.num')")
	p.clickOn(t, "delete")
	p.clickOn(t, "confirm")
	p.noRow(t, "dropped")

	// One that is there already is not replaced without being asked.
	if err := os.WriteFile(filepath.Join(dir, "small.txt"), []byte("another"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.choose(t, test("input-files"), filepath.Join(dir, "small.txt"))
	p.see(t, "There is one of this name already.")
	if got := r.read(t, "/work & play/small.txt"); !bytes.Equal(got, small) {
		t.Errorf("it was replaced: %q", got)
	}
	p.clickText(t, "Replace")
	p.see(t, "1 file uploaded")
	if got := r.read(t, "/work & play/small.txt"); string(got) != "another" {
		t.Errorf("it was not replaced: %q", got)
	}
	p.click(t, "document.querySelector('[aria-label=\"Clear finished uploads\"]')")

	// Download a file and the folder, as both kinds of archive.
	p.click(t, row("large.bin")+"?.querySelector('.num')")
	p.clickOn(t, "download")
	if got := p.downloaded(t, "large.bin"); !bytes.Equal(got, large) {
		t.Errorf("large.bin: %d bytes were downloaded that are not the %d that were uploaded", len(got), len(large))
	}
	want := map[string]string{}
	for name, data := range files {
		if rest, ok := strings.CutPrefix(name, "tree/"); ok {
			want[rest] = string(data)
		}
	}
	p.click(t, row("tree")+"?.querySelector('.num')")
	p.clickOn(t, "download")
	p.clickOn(t, "download-targz")
	sameTree(t, "tar.gz", untar(t, p.downloaded(t, "tree.tar.gz")), want)
	p.clickOn(t, "download")
	p.clickOn(t, "download-zip")
	sameTree(t, "zip", unzip(t, p.downloaded(t, "tree.zip")), want)

	// Rename, not onto another one.
	p.click(t, row("large.bin")+"?.querySelector('.num')")
	p.clickOn(t, "rename")
	p.typeIn(t, test("name"), "small.txt")
	p.clickOn(t, "submit")
	p.see(t, "file exists")
	p.typeIn(t, test("name"), "größer 😀.bin")
	p.clickOn(t, "submit")
	p.seeRow(t, "größer 😀.bin")
	p.noRow(t, "large.bin")
	if got := r.read(t, "/work & play/größer 😀.bin"); !bytes.Equal(got, large) {
		t.Error("after the rename it is another file")
	}

	// Delete by keyboard: all, after a question, the folder by a job.
	p.eval(t, "document.querySelector("+quote(test("files"))+").focus() ?? true", nil)
	p.keys(t, "a", ctrl)
	p.see(t, "3 of 3 entries selected")
	p.keys(t, "Delete", 0)
	p.see(t, "Folders go with all that is in them.")
	p.shot(t, "delete")
	p.clickOn(t, "confirm")
	for _, name := range []string{"größer 😀.bin", "small.txt", "tree"} {
		p.noRow(t, name)
		r.gone(t, "/work & play/"+name)
	}
}

func untar(t *testing.T, b []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for in := tar.NewReader(z); ; {
		h, err := in.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			data, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			out[h.Name] = string(data)
		}
	}
}

func unzip(t *testing.T, b []byte) map[string]string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range z.File {
		if f.FileInfo().IsDir() {
			continue
		}
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		out[f.Name] = string(data)
	}
	return out
}

// sameTree compares archives; whether their names begin with the folder's is left to them.
func sameTree(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %d files, want %d", what, len(got), len(want))
	}
	for name, data := range got {
		if w, ok := want[strings.TrimPrefix(strings.TrimPrefix(name, "./"), "tree/")]; !ok || w != data {
			t.Errorf("%s: %s is not what was uploaded", what, name)
		}
	}
}

// What NFS clients do is seen without loading the page again, and the other way round.
func bothWays(t *testing.T, r *rig) {
	p := r.tab
	p.visit(t, "/files/default/default")
	p.until(t, "document.querySelector('"+test("status")+"')?.dataset.done === 'true'")
	r.write(t, r.fs, "from-nfs.txt", []byte("written by an NFS client"))
	p.seeRow(t, "from-nfs.txt")
	p.click(t, row("from-nfs.txt")+"?.querySelector('button.cell')")
	p.see(t, "written by an NFS client")
	p.keys(t, "Escape", 0)
	p.clickOn(t, "new")
	p.clickOn(t, "new-file")
	p.typeIn(t, test("name"), "from-browser")
	p.clickOn(t, "submit")
	p.seeRow(t, "from-browser")
	if got := r.read(t, "/from-browser"); len(got) != 0 {
		t.Errorf("it has %d bytes", len(got))
	}
	if err := r.nfs.Remove(t.Context(), r.fs, "from-nfs.txt"); err != nil {
		t.Fatal(err)
	}
	p.noRow(t, "from-nfs.txt")
}

// hostile are names that would do something if they were taken for anything but text.
var hostile = []string{
	`<img src=x onerror=window.pwned=1>`, `"><script>window.pwned=1<`, `javascript:window.pwned=1`, "{{constructor.constructor('window.pwned=1')()}}", `%3Cb%3E`, "back\\slash", "new\nline", "bad \xff utf-8", "a;b&c=d?e#f%g+h", " spaces ", "\u202egnp.exe",
}

func hostileNames(t *testing.T, r *rig) {
	p := r.tab
	ctx := t.Context()
	dir, _, err := r.nfs.Mkdir(ctx, r.fs, hostile[0], 0o755)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range hostile {
		r.write(t, dir, name, []byte(fmt.Sprint("content ", i)))
	}
	p.visit(t, "/files/default/default")
	p.seeRow(t, hostile[0])
	p.click(t, row(hostile[0])+"?.querySelector('button.cell')")
	p.until(t, fmt.Sprintf("document.querySelectorAll('.row').length === %d", len(hostile)))
	p.until(t, "document.querySelector('"+test("crumbs")+"').innerText.includes("+quote(hostile[0])+")")
	p.shot(t, "names")
	for i, name := range hostile {
		shown := strings.NewReplacer("\n", "\ufffd", "\u202e", "\ufffd").Replace(strings.ToValidUTF8(name, "\ufffd"))
		p.click(t, row(shown)+"?.querySelector('button.cell')")
		p.until(t, fmt.Sprintf("document.querySelector('.preview pre')?.innerText === 'content %d'", i))
		p.keys(t, "Escape", 0)
		p.until(t, "!document.querySelector('.preview')")
	}
	var pwned bool
	p.eval(t, "'pwned' in window || [...document.images].some(i => i.src.endsWith('/x')) || document.querySelector('.row script, .row img, .row b') !== null", &pwned)
	if pwned {
		t.Error("a name was taken for more than text")
	}
	// Renaming finds the very file: the one that has no form as text.
	p.click(t, row("bad \ufffd utf-8")+"?.querySelector('.num')")
	p.clickOn(t, "rename")
	p.typeIn(t, test("name"), "good now")
	p.clickOn(t, "submit")
	p.seeRow(t, "good now")
	p.noRow(t, "bad \ufffd utf-8")
}

func previews(t *testing.T, r *rig) {
	p := r.tab
	dir, _, err := r.nfs.Mkdir(t.Context(), r.fs, "preview", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	r.write(t, dir, "page.html", []byte(`<!doctype html><script>window.pwned=1</script><h1 id=pwned>page</h1>`))
	r.write(t, dir, "drawing.svg", []byte(`<svg xmlns="http://www.w3.org/2000/svg" onload="window.pwned=1"><script>window.pwned=1</script></svg>`))
	r.write(t, dir, "picture", picture(t))
	r.write(t, dir, "noise", append([]byte{0}, noise(1000, 3)...))
	r.write(t, dir, "long.txt", bytes.Repeat([]byte("0123456789abcdef"), 20<<10)[:300<<10])
	p.visit(t, "/files/default/default?path=/preview")
	look := func(name, until string) {
		t.Helper()
		p.click(t, row(name)+"?.querySelector('button.cell')")
		p.until(t, until)
		if name == "picture" {
			p.shot(t, "preview")
		}
		p.keys(t, "Escape", 0)
		p.until(t, "!document.querySelector('.preview')")
	}
	look("page.html", "document.querySelector('.preview pre')?.innerText.includes('<script>')")
	look("drawing.svg", "document.querySelector('.preview pre')?.innerText.includes('onload')")
	look("picture", "(i => i && i.complete && i.naturalWidth === 320 && i.src.startsWith('blob:'))(document.querySelector('.preview img'))")
	look("noise", "document.querySelector('.preview')?.innerText.includes('neither text nor an image')")
	look("long.txt", "document.querySelector('.preview')?.innerText.includes('first 256 KiB') && document.querySelector('.preview pre').innerText.length === 256*1024")
	var pwned bool
	p.eval(t, "'pwned' in window", &pwned)
	if pwned {
		t.Error("a file that was looked at ran a script")
	}
}

// How many entries the long directory has, here and with RACKFS_TEST_LONG=1; and how many rows may be in the page at once.
const (
	entries     = 5_000
	entriesLong = 100_000
	rowsAtMost  = 80
)

func longDirectory(t *testing.T, r *rig) {
	p := r.tab
	n := entries
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		n = entriesLong
	}
	dir, _, err := r.nfs.Mkdir(t.Context(), r.fs, "long", 0o755)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, r.nfs, dir, n)
	p.visit(t, "/files/default/default?path=/long")
	p.until(t, "document.querySelector('"+test("status")+"')?.dataset.done === 'true'")
	p.until(t, fmt.Sprintf("document.querySelector('.files [role=grid]').ariaRowCount === '%d'", n+1))
	// From the begin to the end, by steps of many rows: each shows the rows that are there, and few.
	const steps = 40
	p.eval(t, `window.most = 0; new MutationObserver(() => { window.most = Math.max(window.most, document.querySelectorAll('.row').length) }).observe(document.querySelector('.files .space'), {childList: true}); true`, nil)
	for i := 1; i <= steps; i++ {
		at := (n - 1) * i / steps
		p.eval(t, fmt.Sprintf("(s => { s.scrollTop = %d * 36; return true })(document.querySelector('.files .scroll'))", at), nil)
		if i < steps {
			p.seeRow(t, fmt.Sprintf("entry %d", at))
		}
	}
	p.seeRow(t, fmt.Sprintf("entry %d", n-1))
	p.shot(t, "long")
	var most int
	p.eval(t, "window.most", &most)
	if most == 0 || most > rowsAtMost {
		t.Errorf("up to %d rows were in the page, want at most %d and some", most, rowsAtMost)
	}
	// Another order, and by keys to the end.
	p.clickText(t, "Name ↑")
	p.until(t, "document.querySelector('.files .scroll').scrollTop === 0 && "+row(fmt.Sprintf("entry %d", n-1)))
	p.eval(t, "document.querySelector("+quote(test("files"))+").focus() ?? true", nil)
	p.keys(t, "End", 0)
	p.seeRow(t, "entry 0")
	p.keys(t, "Home", 0)
	p.until(t, "document.querySelector('.row.active')?.dataset.name === "+quote(fmt.Sprintf("entry %d", n-1)))
}

// fill makes entries in a directory, several at a time.
func fill(t *testing.T, c *nfsclient.Client, dir nfsclient.FH, n int) {
	t.Helper()
	const workers = 32
	var wg sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += workers {
				_, _, errs[w] = c.Symlink(context.WithoutCancel(t.Context()), dir, fmt.Sprintf("entry %d", i), "somewhere")
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
