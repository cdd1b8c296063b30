//go:build linux

package web

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/test/s3server"
)

// Objects of a real S3 server, by the form of S3 and by that of R2.
func importPage(t *testing.T, r *rig) {
	p := r.tab
	s3 := s3server.Start(t)
	const bucket = "pictures"
	objects := map[string][]byte{"a.txt": []byte("from a bucket"), "2026/large.bin": noise(6<<20+1, 11), "2026/11/empty": {}, "<img src=x onerror=window.pwned=1>": []byte("x")}
	s3.Bucket(t, bucket)
	for key, data := range objects {
		if err := s3.Put(t.Context(), bucket, key, data); err != nil {
			t.Fatal(err)
		}
	}
	same := func(dir string) {
		t.Helper()
		for key, data := range objects {
			if got := r.read(t, dir+"/"+key); !bytes.Equal(got, data) {
				t.Errorf("%s/%s has %d bytes that are not the %d of the object", dir, key, len(got), len(data))
			}
		}
	}
	over := "document.querySelector(" + quote(test("import-running")) + ")?.dataset.state === 'done'"

	// S3, of an endpoint that is not Amazon's; counted first.
	p.visit(t, "/files/default/default")
	p.clickOn(t, "upload")
	p.clickOn(t, "from-cloud")
	p.typeIn(t, test("import-bucket"), bucket)
	p.typeIn(t, test("import-access"), s3server.AccessKey)
	p.typeIn(t, test("import-secret"), "wrong")
	p.typeIn(t, test("import-dest"), "/imported/s3")
	p.clickOn(t, "import-more")
	p.typeIn(t, test("import-s3-endpoint"), s3.URL)
	p.shot(t, "import-s3")
	p.clickOn(t, "import-check")
	if s := p.text(t, "import-totals"); strings.Contains(s, "would be imported") || len(s) < 20 {
		t.Errorf("with a wrong key it says %q", s)
	}
	p.typeIn(t, test("import-secret"), s3server.SecretKey)
	p.clickOn(t, "import-check")
	p.until(t, p.has("import-totals", "4 objects of 6.0 MiB would be imported"))
	p.shot(t, "import-counted")
	p.clickOn(t, "import-start")
	p.until(t, over)
	p.until(t, p.has("import-report", "4 objects imported"))
	p.shot(t, "import-done")
	same("/imported/s3")
	p.clickOn(t, "import-close")
	p.seeRow(t, "imported")

	// R2: the endpoint is without the bucket's name.
	p.clickOn(t, "upload")
	p.clickOn(t, "from-cloud")
	p.clickText(t, "Cloudflare R2")
	p.typeIn(t, test("import-bucket"), bucket)
	p.typeIn(t, test("import-endpoint"), s3.URL+"/"+bucket)
	p.typeIn(t, test("import-access"), s3server.AccessKey)
	p.typeIn(t, test("import-secret"), s3server.SecretKey)
	p.typeIn(t, test("import-dest"), "/imported/r2")
	p.clickOn(t, "import-start")
	p.until(t, p.has("import-error", "bucket"))
	p.shot(t, "import-r2")
	p.typeIn(t, test("import-endpoint"), s3.URL)
	p.clickOn(t, "import-start")
	p.until(t, over)
	same("/imported/r2")

	// The keys are nowhere in the browser.
	var left string
	p.eval(t, "document.documentElement.outerHTML + [...document.querySelectorAll('input')].map(i => i.value).join() + document.cookie + JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage}) + location.href", &left)
	for _, secret := range []string{s3server.SecretKey, s3server.AccessKey} {
		if strings.Contains(left, secret) {
			t.Errorf("a key is still in the browser: %s", secret)
		}
	}
	p.clickOn(t, "import-close")
	p.visit(t, "/jobs")
	p.clickText(t, "Details")
	p.until(t, p.has("import-report", "4 objects imported"))
	p.keys(t, "Escape", 0)
}
