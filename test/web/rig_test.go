//go:build linux

package web

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/dom"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/vfs"
)

// hang ends a test whose page never shows what is waited for.
const hang = 5 * time.Minute

// patience is when a wait ends: soon enough before the end of the whole run that there is a picture of what is seen instead.
func patience(t *testing.T) time.Time {
	end := time.Now().Add(hang)
	if d, ok := t.Deadline(); ok && d.Add(-10*time.Second).Before(end) {
		end = d.Add(-10 * time.Second)
	}
	return end
}

// requireChromium is as kclient.Require: without the browser the test skips, or fails with CI=true.
func requireChromium(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err == nil {
		return path
	}
	const text = "the dashboard cannot be tested here: %v; scripts/setup-test.sh installs it (Debian's package chromium)"
	if os.Getenv("CI") == "true" {
		t.Fatalf(text, err)
	}
	t.Skipf(text, err)
	return ""
}

// certificate makes a certificate for 127.0.0.1 that nobody has signed but itself, and returns the files and the digest of its key.
func certificate(t *testing.T) (cert, key, digest string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha256.Sum256(spki)
	return cert, key, base64.StdEncoding.EncodeToString(sum[:])
}

// rig is a cluster and a browser at it.
type rig struct {
	c    *devcluster.Cluster
	data string // its directory
	nfs  *nfsclient.Client
	fs   nfsclient.FH // the root of the file system default
	tab  *tab
}

func start(t *testing.T) *rig {
	t.Helper()
	chromium := requireChromium(t)
	cert, key, digest := certificate(t)
	cfg := devcluster.Config{
		DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", APIAddr: "127.0.0.1:0", APICert: cert, APIKey: key,
		Voters: 1, ImportAllow: []string{"127.0.0.1"}, Quotas: []devcluster.Quota{quota(t, "default=10GiB")},
	}
	if os.Geteuid() == 0 {
		cfg.LocalListen = "127.0.0.1:0"
	}
	c, err := devcluster.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	if !strings.HasPrefix(c.APIURL(), "https://") {
		t.Fatalf("the API is at %s", c.APIURL())
	}
	r := &rig{c: c, data: cfg.DataDir}
	if r.nfs, err = nfsclient.Dial(t.Context(), nfsclient.Config{Addr: c.NFSAddr(), Owner: t.Name(), Patient: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.nfs.Close(context.Background()) })
	if r.fs, _, err = r.nfs.Walk(t.Context(), "/default"); err != nil {
		t.Fatal(err)
	}
	r.tab = open(t, chromium, c.APIURL(), digest)
	return r
}

func quota(t *testing.T, s string) devcluster.Quota {
	t.Helper()
	q, err := devcluster.ParseQuota(s, false)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// api is the operator's, by the socket.
func (r *rig) api(t *testing.T) *api.Client {
	t.Helper()
	c := api.Dial(filepath.Join(r.data, api.SocketName))
	t.Cleanup(c.Close)
	return c
}

// write writes a file by NFS.
func (r *rig) write(t *testing.T, dir nfsclient.FH, name string, data []byte) {
	t.Helper()
	ctx := t.Context()
	f, err := r.nfs.Create(ctx, dir, name, 0o644)
	if err != nil {
		t.Fatalf("create %q: %v", name, err)
	}
	if len(data) > 0 {
		if _, err := r.nfs.Write(ctx, f, 0, nfsv4.FILE_SYNC4, data); err != nil {
			t.Fatalf("write %q: %v", name, err)
		}
	}
	if err := r.nfs.CloseFile(ctx, f); err != nil {
		t.Fatalf("close %q: %v", name, err)
	}
}

// read reads a file by NFS.
func (r *rig) read(t *testing.T, path string) []byte {
	t.Helper()
	ctx := t.Context()
	fh, a, err := r.nfs.Walk(ctx, "/default"+path)
	if err != nil {
		t.Fatalf("%s by NFS: %v", path, err)
	}
	f, err := r.nfs.Open(ctx, fh, nfsclient.OpenArgs{})
	if err != nil {
		t.Fatalf("%s by NFS: %v", path, err)
	}
	out := make([]byte, a.Size)
	for off := 0; off < len(out); {
		n, _, err := r.nfs.Read(ctx, f, uint64(off), out[off:min(off+1<<20, len(out))])
		if err != nil || n == 0 {
			t.Fatalf("%s by NFS: %d bytes, %v", path, off, err)
		}
		off += n
	}
	if err := r.nfs.CloseFile(ctx, f); err != nil {
		t.Fatal(err)
	}
	return out
}

// gone fails unless NFS has nothing at a path.
func (r *rig) gone(t *testing.T, path string) {
	t.Helper()
	if _, _, err := r.nfs.Walk(t.Context(), "/default"+path); vfs.KindOf(err) != vfs.KindNotFound && !strings.Contains(fmt.Sprint(err), "NOENT") {
		t.Errorf("%s by NFS: %v, want that it is gone", path, err)
	}
}

// tab is a page of the browser.
type tab struct {
	ctx       context.Context
	base      string
	downloads string
	shots     string

	mu sync.Mutex
	// Fields protected by mu.
	trouble []string          // what the page must not do
	saved   map[string]string // files that were downloaded whole, by the name that was suggested
	names   map[string]string // of downloads that have begun, by id
}

// open starts a browser. digest is of the key that it trusts.
func open(t *testing.T, chromium, base, digest string) *tab {
	t.Helper()
	p := &tab{base: base, downloads: t.TempDir(), saved: map[string]string{}, names: map[string]string{}}
	var err error
	if p.shots, err = filepath.Abs("../../bin/screenshots"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(p.shots, 0o755); err != nil {
		t.Fatal(err)
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()), chromedp.WindowSize(1280, 900),
		chromedp.Flag("ignore-certificate-errors-spki-list", digest), chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(hang),
		chromedp.Flag("force-color-profile", "srgb"), chromedp.Flag("lang", "en-US"), chromedp.Env("TZ=UTC"),
	)
	alloc, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, closeTab := chromedp.NewContext(alloc)
	p.ctx = ctx
	t.Cleanup(func() {
		closeTab()
		stop()
	})
	chromedp.ListenTarget(ctx, p.hear)
	chromedp.ListenTarget(ctx, p.hearDownloads)
	// The context of the first run is the browser's: it has no end of its own.
	if err := chromedp.Run(ctx, log.Enable(), media(), browser.SetDownloadBehavior(browser.SetDownloadBehaviorBehaviorAllowAndName).WithDownloadPath(p.downloads).WithEventsEnabled(true)); err != nil {
		t.Fatalf("chromium does not start: %v", err)
	}
	return p
}

// media has the page show no motion, which would move what is clicked, and what else is asked for.
func media(more ...*emulation.MediaFeature) *emulation.SetEmulatedMediaParams {
	return emulation.SetEmulatedMedia().WithFeatures(append(more, &emulation.MediaFeature{Name: "prefers-reduced-motion", Value: "reduce"}))
}

// hear notes what goes wrong in the page.
func (p *tab) hear(ev any) {
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		p.note("not caught: %s", ev.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		if ev.Type == runtime.APITypeError {
			var text []string
			for _, a := range ev.Args {
				text = append(text, string(a.Value)+a.Description)
			}
			p.note("console: %s", strings.Join(text, " "))
		}
	case *log.EventEntryAdded:
		if e := ev.Entry; e.Source == log.SourceSecurity || e.Source == log.SourceViolation && strings.Contains(e.Text, "Policy") || e.Level == log.LevelError && e.Source != log.SourceNetwork {
			p.note("%s: %s %s", e.Source, e.Text, e.URL)
		}
	case *page.EventJavascriptDialogOpening:
		p.note("a dialog of a script: %s", ev.Message)
		go func() { _ = chromedp.Run(p.ctx, page.HandleJavaScriptDialog(true)) }() // or the page stands still
	}
}

func (p *tab) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trouble = append(p.trouble, fmt.Sprintf(format, args...))
}

func (p *tab) hearDownloads(ev any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch ev := ev.(type) {
	case *browser.EventDownloadWillBegin:
		p.names[ev.GUID] = ev.SuggestedFilename
	case *browser.EventDownloadProgress:
		switch name := p.names[ev.GUID]; ev.State {
		case browser.DownloadProgressStateCompleted:
			p.saved[name] = filepath.Join(p.downloads, ev.GUID)
		case browser.DownloadProgressStateCanceled:
			p.trouble = append(p.trouble, "the download of "+name+" broke off")
		}
	}
}

// clean fails if something went wrong in the page since it was asked last.
func (p *tab) clean(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.trouble {
		t.Errorf("in the page: %s", s)
	}
	p.trouble = nil
}

func (p *tab) run(t *testing.T, what string, actions ...chromedp.Action) {
	t.Helper()
	ctx, cancel := context.WithDeadline(p.ctx, patience(t))
	defer cancel()
	if err := chromedp.Run(ctx, actions...); err != nil {
		p.fail(t, "%s: %v", what, err)
	}
}

func (p *tab) fail(t *testing.T, format string, args ...any) {
	t.Helper()
	if p.ctx.Err() == nil {
		var png []byte
		if chromedp.Run(p.ctx, chromedp.CaptureScreenshot(&png)) == nil {
			_ = os.WriteFile(filepath.Join(p.shots, "failed.png"), png, 0o644)
		}
	}
	p.clean(t)
	t.Fatalf(format+" (see bin/screenshots/failed.png)", args...)
}

// eval is the value of an expression in the page.
func (p *tab) eval(t *testing.T, js string, out any) {
	t.Helper()
	p.run(t, js, chromedp.Evaluate(js, out))
}

// until waits until an expression is true.
func (p *tab) until(t *testing.T, js string) {
	t.Helper()
	for end := patience(t); ; {
		var ok bool
		if err := chromedp.Run(p.ctx, chromedp.Evaluate("!!("+js+")", &ok)); err != nil {
			p.fail(t, "%s: %v", js, err)
		}
		if ok {
			return
		}
		if time.Now().After(end) {
			p.fail(t, "it never became true: %s", js)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// test is the selector of an element by its mark for tests.
func test(name string) string { return `[data-test="` + name + `"]` }

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// see waits for a text in the page.
func (p *tab) see(t *testing.T, text string) {
	t.Helper()
	p.until(t, "document.body.innerText.includes("+quote(text)+")")
}

// row is an expression for the row of a file.
func row(name string) string {
	return "[...document.querySelectorAll('.row')].find(r => r.dataset.name === " + quote(name) + ")"
}

func (p *tab) seeRow(t *testing.T, name string) { t.Helper(); p.until(t, row(name)) }
func (p *tab) noRow(t *testing.T, name string) {
	t.Helper()
	p.until(t, "document.querySelector('"+test("status")+"')?.dataset.done === 'true' && !("+row(name)+")")
}

// click clicks as a mouse does, in the middle of what an expression finds; it has to be seen and nothing may cover it.
func (p *tab) click(t *testing.T, js string) {
	t.Helper()
	p.until(t, `(e => { if (!e) return false; e.scrollIntoView({block: "nearest"}); const r = e.getBoundingClientRect(); const at = document.elementFromPoint(r.x + r.width/2, r.y + r.height/2); return at && (e.contains(at) || at.contains(e)) })(`+js+`)`)
	var at []float64
	p.eval(t, `(r => [r.x + r.width/2, r.y + r.height/2])((`+js+`).getBoundingClientRect())`, &at)
	p.run(t, "click "+js, chromedp.MouseClickXY(at[0], at[1]))
}

func (p *tab) clickOn(t *testing.T, mark string) {
	t.Helper()
	p.click(t, "document.querySelector("+quote(test(mark))+")")
}

// clickText clicks what has exactly this text.
func (p *tab) clickText(t *testing.T, text string) {
	t.Helper()
	p.click(t, "[...document.querySelectorAll('a,button,label,[role=menuitem],[role=option],[role=tab]')].find(e => e.innerText.trim() === "+quote(text)+" && e.getClientRects().length > 0)")
}

// typeIn types into an input in place of what is there.
func (p *tab) typeIn(t *testing.T, selector, text string) {
	t.Helper()
	p.until(t, "document.querySelector("+quote(selector)+")")
	p.eval(t, "document.querySelector("+quote(selector)+").select() ?? true", nil)
	p.run(t, "type into "+selector, chromedp.SendKeys(selector, text, chromedp.ByQuery))
}

// ctrl is held while a key is pressed.
const ctrl = input.ModifierCtrl

// keys presses a key, by its name.
func (p *tab) keys(t *testing.T, key string, held input.Modifier) {
	t.Helper()
	codes := map[string]int64{"Delete": 46, "Escape": 27, "End": 35, "Home": 36, "Enter": 13, "a": 65, "F2": 113}
	down := input.DispatchKeyEvent(input.KeyRawDown).WithKey(key).WithWindowsVirtualKeyCode(codes[key]).WithModifiers(held)
	up := input.DispatchKeyEvent(input.KeyUp).WithKey(key).WithWindowsVirtualKeyCode(codes[key]).WithModifiers(held)
	p.run(t, "press "+key, down, up)
}

// choose gives files to an input.
func (p *tab) choose(t *testing.T, selector string, paths ...string) {
	t.Helper()
	p.until(t, "document.querySelector("+quote(selector)+")")
	p.run(t, "choose files", chromedp.QueryAfter(selector, func(ctx context.Context, _ runtime.ExecutionContextID, nodes ...*cdp.Node) error {
		return dom.SetFileInputFiles(paths).WithNodeID(nodes[0].NodeID).Do(ctx)
	}, chromedp.ByQuery, chromedp.NodeReady))
}

// drop drags files and folders from outside onto the middle of an element.
func (p *tab) drop(t *testing.T, mark string, paths ...string) {
	t.Helper()
	var at []float64
	p.eval(t, "(r => [r.x + r.width/2, r.y + r.height/2])(document.querySelector("+quote(test(mark))+").getBoundingClientRect())", &at)
	data := &input.DragData{Items: []*input.DragDataItem{}, Files: paths, DragOperationsMask: 1}
	for _, kind := range []input.DispatchDragEventType{input.DragEnter, input.DragOver, input.Drop} {
		p.run(t, "drop", input.DispatchDragEvent(kind, at[0], at[1], data))
	}
}

// visit opens a page of the dashboard.
func (p *tab) visit(t *testing.T, path string) {
	t.Helper()
	p.run(t, "visit "+path, chromedp.Navigate(p.base+path))
}

// downloaded waits for a file that was downloaded whole.
func (p *tab) downloaded(t *testing.T, name string) []byte {
	t.Helper()
	for end := patience(t); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		p.mu.Lock()
		path := p.saved[name]
		delete(p.saved, name)
		p.mu.Unlock()
		if path == "" {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	p.fail(t, "%s was not downloaded; what was: %v", name, p.saved)
	return nil
}

// shot keeps a picture of the page.
func (p *tab) shot(t *testing.T, name string) {
	t.Helper()
	var png []byte
	p.run(t, "screenshot", chromedp.CaptureScreenshot(&png))
	if !bytes.HasPrefix(png, []byte("\x89PNG")) {
		t.Fatalf("%d bytes are no picture", len(png))
	}
	if err := os.WriteFile(filepath.Join(p.shots, name+".png"), png, 0o644); err != nil {
		t.Fatal(err)
	}
}
