//go:build linux

package web

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/faultproxy"
)

// sentHook keeps what uploads ask for: "METHOD Upload-Offset" of each request.
const sentHook = `(() => {
  window.asked = [];
  const open = XMLHttpRequest.prototype.open, set = XMLHttpRequest.prototype.setRequestHeader;
  XMLHttpRequest.prototype.open = function (method) { this.at = asked.push(method) - 1; return open.apply(this, arguments); };
  XMLHttpRequest.prototype.setRequestHeader = function (name, value) { if (name === "Upload-Offset") asked[this.at] += " " + value; return set.apply(this, arguments); };
  return true;
})()`

// A large file that is paused, or whose connection breaks, goes on from what has come; one that came into the way of another in the meantime is asked about.
func TestUploadsGoOn(t *testing.T) {
	t.Parallel()
	r := start(t)
	p := r.tab
	proxy, err := faultproxy.Listen(faultproxy.To(strings.TrimPrefix(r.c.APIURL(), "https://")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	p.base = "https://" + proxy.Addr()
	p.visit(t, "/")
	p.typeIn(t, test("token"), r.c.Token())
	p.clickOn(t, "log-in")
	p.until(t, "location.pathname === '/fs'")
	p.visit(t, "/files/default/default")
	p.until(t, "document.querySelector('"+test("status")+"')?.dataset.done === 'true'")
	p.eval(t, sentHook, nil)

	const size, part, slow = 32<<20 + 11, 4 << 20, 2 << 20
	data := noise(size, 31)
	dir := t.TempDir()
	// begin chooses a file, on a slow network, and returns when a part of it has come.
	begin := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		p.eval(t, "asked.length = 0", nil)
		before := map[*faultproxy.Conn]int64{}
		for _, c := range proxy.Conns() {
			before[c] = c.Passed(faultproxy.ToTarget)
		}
		proxy.Set(faultproxy.Conditions{BytesPerSecond: slow}, faultproxy.ToTarget)
		p.choose(t, test("input-files"), filepath.Join(dir, name))
		for end := patience(t); ; time.Sleep(20 * time.Millisecond) {
			var came int64
			for _, c := range proxy.Conns() {
				came += c.Passed(faultproxy.ToTarget) - before[c]
			}
			if came > part {
				return
			}
			if time.Now().After(end) {
				p.fail(t, "only %d bytes of %s came", came, name)
			}
		}
	}
	// whole looks at a file that is complete: its upload was begun so many times, and the last request went on behind what had come.
	whole := func(name string, begun int) {
		t.Helper()
		p.see(t, "1 file uploaded")
		if got := r.read(t, "/"+name); !bytes.Equal(got, data) {
			t.Errorf("%s has %d bytes by NFS that are not the %d that were uploaded", name, len(got), len(data))
		}
		var asked []string
		p.eval(t, "asked", &asked)
		posts := 0
		for _, a := range asked {
			if strings.HasPrefix(a, "POST") {
				posts++
			}
		}
		if posts != begun {
			t.Errorf("%s was begun %d times: %q", name, posts, asked)
		}
		if last := asked[len(asked)-1]; begun == 1 && (!strings.HasPrefix(last, "PATCH ") || last == "PATCH 0") {
			t.Errorf("%s was sent again from its beginning: %q", name, asked)
		}
		p.click(t, "document.querySelector('[aria-label=\"Clear finished uploads\"]')")
	}
	fast := func() { proxy.Set(faultproxy.Conditions{}, faultproxy.ToTarget) }

	begin("paused.bin")
	p.click(t, "document.querySelector('[aria-label=\"Pause paused.bin\"]')")
	p.see(t, "paused at")
	r.gone(t, "/paused.bin")
	fast()
	p.click(t, "document.querySelector('[aria-label=\"Resume paused.bin\"]')")
	whole("paused.bin", 1)

	begin("broken.bin")
	proxy.Cut()
	fast()
	whole("broken.bin", 1)

	// Another one takes the name while it is sent.
	begin("taken.bin")
	r.write(t, r.fs, "taken.bin", []byte("mine"))
	fast()
	p.see(t, "There is one of this name already.")
	p.until(t, "asked.includes('DELETE')") // what came of it would be charged to the quota for a day
	if got := r.read(t, "/taken.bin"); string(got) != "mine" {
		t.Errorf("it was replaced without being asked: %d bytes", len(got))
	}
	p.clickText(t, "Replace")
	whole("taken.bin", 2)

	// What is canceled is ended at the gateway.
	begin("canceled.bin")
	p.click(t, "document.querySelector('[aria-label=\"Cancel canceled.bin\"]')")
	fast()
	p.until(t, "asked.includes('DELETE')")
	r.gone(t, "/canceled.bin")
	p.clean(t)
}
