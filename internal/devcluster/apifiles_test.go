package devcluster

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/gateway"
	"github.com/rackfs/rackfs/jobs"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// noise is n bytes that are the same for a seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b)
	return b
}

func sumOf(b []byte) string {
	s := sha256.Sum256(b)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(s[:]) + ":"
}

// Files by HTTP: what is put is what NFS clients and the API see, whole or not at all, and nothing is left of what went wrong.
func TestFilesByHTTP(t *testing.T) {
	t.Parallel()
	c := startQuick(t, apiConfig(t))
	defer c.mustStop(t)
	u := c.user(t, c.Token())
	ctx := t.Context()

	t.Run("names", func(t *testing.T) {
		u := c.user(t, c.Token())
		u.do("POST", at("default/default", "/directory", "/a/b/c"), nil).want(t, "without parents", 404)
		u.do("POST", at("default/default", "/directory", "/a/b/c", "parents", "true", "mode", "0700"), nil).want(t, "with parents", 200, `"0700"`)
		u.do("POST", at("default/default", "/directory", "/a/b"), nil).want(t, "again", 409)
		for i := range 20 {
			u.put(fmt.Sprintf("/a/f%02d", i), []byte("x")).want(t, "put", 201)
		}
		names := u.names("/a")
		slices.Sort(names)
		if len(names) != 21 || names[0] != "b" || names[20] != "f19" {
			t.Errorf("listed by sevens: %q", names)
		}
		odd := "/a/\xff\xfe\n"
		u.put(odd, []byte("odd")).want(t, "a name that is no text", 201, `%FF%FE%0A`)
		if a, err := c.fs().Lookup(ctx, &vfs.Root, 2, odd[3:]); err != nil || a.Size != 3 {
			t.Errorf("as NFS clients see it: %+v %v", a, err)
		}
		u.get(odd).want(t, "get", 200, "odd")
		u.do("POST", at("default/default", "/rename", odd, "to", "/a/even"), nil).want(t, "rename", 200, `"even"`)
		u.do("POST", at("default/default", "/rename", "/a/even", "to", "/a/f00", "keep", "true"), nil).want(t, "rename, keeping", 409)
		u.do("PATCH", at("default/default", "", "/a/even"), strings.NewReader(`{"mode":"0600","uid":7,"gid":8,"mtime":"2001-02-03T04:05:06Z"}`), "Content-Type", "application/json").
			want(t, "change", 200, `"0600"`, `"uid":7`, `"gid":8`, "2001-02-03T04:05:06Z")
		u.do("DELETE", at("default/default", "", "/a/b"), nil).want(t, "a directory with something in it", 409)
		u.do("DELETE", at("default/default", "", "/a/even"), nil).want(t, "delete", 204)
		u.get("/a/even").want(t, "after that", 404)
		for what, p := range map[string]string{"up": "/a/../a/f00", "dot": "/a/./f00", "relative": "a/f00", "empty": "", "double": "/a//f00", "nul": "/a/\x00"} {
			u.get(p).want(t, what, 400)
			u.put(p, nil).want(t, what, 400)
			u.do("POST", at("default/default", "/rename", "/a/f00", "to", p), nil).want(t, what, 400)
		}
		u.get("/"+strings.Repeat("n", 256)).want(t, "a long name", 400, "255")
		u.get("/"+strings.Repeat("n/", 2100)).want(t, "a long path", 400, "4096")
		u.get("/a").want(t, "content of a directory", 400, "archive")
		u.put("/a", nil).want(t, "a file in place of a directory", 400)
		u.put("/a/f00/x", nil).want(t, "below a file", 400)
	})

	big := noise(1, 5<<20+123)
	t.Run("content", func(t *testing.T) {
		u := c.user(t, c.Token())
		r := u.put("/big", big, "Content-Digest", sumOf(big)).want(t, "put", 201)
		tag := r.header.Get("ETag")
		if r := u.get("/big").want(t, "get", 200); !bytes.Equal(r.body, big) || r.header.Get("ETag") != tag || !strings.HasPrefix(r.header.Get("Content-Disposition"), "attachment") || !strings.Contains(r.header.Get("Content-Security-Policy"), "sandbox") {
			t.Errorf("get: %d bytes, %v", len(r.body), r.header)
		}
		get := func(headers ...string) reply {
			return u.do("GET", at("default/default", "/content", "/big"), nil, headers...)
		}
		for _, x := range []struct {
			spec     string
			from, to int
		}{{"bytes=0-0", 0, 1}, {"bytes=1048570-1048580", 1048570, 1048581}, {"bytes=5242880-", 5 << 20, len(big)}, {"bytes=-5", len(big) - 5, len(big)}, {"bytes=5-99999999", 5, len(big)}} {
			if r := get("Range", x.spec).want(t, x.spec, 206); !bytes.Equal(r.body, big[x.from:x.to]) || r.header.Get("Content-Range") != fmt.Sprintf("bytes %d-%d/%d", x.from, x.to-1, len(big)) {
				t.Errorf("%s: %d bytes, %v", x.spec, len(r.body), r.header)
			}
		}
		get("Range", "bytes=99999999-").want(t, "behind the end", 416)
		for _, spec := range []string{"bytes=5-4", "lines=1-2", "bytes=a-b", "bytes=0-1,3-4"} {
			if r := get("Range", spec).want(t, spec, 200); len(r.body) != len(big) {
				t.Errorf("%s: %d bytes", spec, len(r.body))
			}
		}
		get("If-None-Match", tag).want(t, "what the client has", 304)
		get("If-Match", `"other"`).want(t, "another one", 412)
		get("Range", "bytes=0-0", "If-Range", `"other"`).want(t, "a range of another one", 200)
		u.do("HEAD", at("default/default", "/content", "/big"), nil).want(t, "head", 200)
		u.put("/big", []byte("kept"), "If-None-Match", "*").want(t, "must not be there", 409)
		u.put("/new", []byte("made"), "If-None-Match", "*").want(t, "is not there", 201)
		u.get("/new").want(t, "it", 200, "made")
		u.do("PATCH", at("default/default", "", "/new"), strings.NewReader(`{"mode":"0640","uid":9}`), "Content-Type", "application/json").want(t, "change", 200)
		u.put("/new", []byte("over")).want(t, "over it: mode and owner stay", 201, `"0640"`, `"uid":9`)
		if names := c.staged(t); len(names) > 0 {
			t.Errorf("left: %q", names)
		}
	})

	t.Run("archives", func(t *testing.T) {
		u := c.user(t, c.Token())
		u.do("POST", at("default/default", "/directory", "/tree/sub", "parents", "true"), nil).want(t, "mkdir", 200)
		u.put("/tree/sub/one", big).want(t, "put", 201)
		d, err := c.fs().Lookup(ctx, &vfs.Root, vfs.RootIno, "tree")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.fs().MakeNode(ctx, &vfs.Root, d.Ino, "link", vfs.NodeArgs{Type: vfs.TypeSymlink, Target: "/etc/passwd"}); err != nil {
			t.Fatal(err)
		}
		r := u.do("GET", at("default/default", "/archive", "/tree"), nil).want(t, "tar", 200)
		z, err := gzip.NewReader(bytes.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]string{}
		for tr := tar.NewReader(z); ; {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(tr)
			seen[h.Name] = h.Linkname + hex.EncodeToString(b)
		}
		if len(seen) != 4 || seen["tree/sub/one"] != hex.EncodeToString(big) || seen["tree/link"] != "/etc/passwd" {
			t.Errorf("%d entries in the tar", len(seen))
		}
		r = u.do("GET", at("default/default", "/archive", "/tree", "format", "zip"), nil).want(t, "zip", 200)
		zr, err := zip.NewReader(bytes.NewReader(r.body), int64(len(r.body)))
		if err != nil || len(zr.File) != 4 {
			t.Fatalf("zip: %v", err)
		}
		for _, f := range zr.File {
			rc, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(rc)
			if f.Name == "tree/sub/one" && !bytes.Equal(b, big) {
				t.Error("zip: another content")
			}
		}
		u.do("GET", at("default/default", "/archive", "/tree", "format", "rar"), nil).want(t, "rar", 400)
		// Links are not followed, wherever they lead.
		u.get("/tree/link").want(t, "a link", 400, "symbolic link")
		u.do("GET", at("default/default", "/stat", "/tree/link"), nil).want(t, "stat of a link", 200, "/etc/passwd")
		u.do("GET", at("default/default", "", "/tree/link/x"), nil).want(t, "through a link", 400, "symbolic link")
		u.put("/tree/link/x", nil).want(t, "through a link", 400, "symbolic link")
	})

	// Whoever makes a link does not write to the terminals of those who list it.
	t.Run("control characters", func(t *testing.T) {
		const name, target = "l\u009b31m", "/x\x1b]0;owned\a\u009b2J\xff"
		if _, err := c.fs().MakeNode(ctx, &vfs.Root, vfs.RootIno, name, vfs.NodeArgs{Type: vfs.TypeSymlink, Target: target}); err != nil {
			t.Fatal(err)
		}
		var f api.FileInfo
		if err := json.Unmarshal(u.do("GET", at("default/default", "/stat", "/"+name), nil).want(t, "stat", 200).body, &f); err != nil {
			t.Fatal(err)
		}
		if f.Name != "l\ufffd31m" || f.Escaped != "l%C2%9B31m" || f.Target != "/x\ufffd]0;owned\ufffd\ufffd2J\ufffd" {
			t.Errorf("the link is %q (%q) to %q", f.Name, f.Escaped, f.Target)
		}
		u.do("DELETE", at("default/default", "", "/"+name), nil).want(t, "delete", 204)
	})

	// Everything from here on goes wrong, and nothing is to be seen of it.
	before, inodes := c.usage(t)
	t.Run("refused uploads", func(t *testing.T) {
		u := c.user(t, c.Token())
		u.put("/bad", big, "Content-Digest", sumOf(big[1:])).want(t, "another digest", 400, "SHA-256")
		u.put("/bad", big, "Content-Digest", "md5=:AAAA:").want(t, "another algorithm", 400, "sha-256")
		u.put("/bad", big, "Content-Encoding", "gzip").want(t, "encoded", 415)
		u.put("/bad", big, "If-Match", `"x"`).want(t, "if match", 501)
		u.put("/none/bad", big).want(t, "no directory", 404)
		for what, sent := range map[string]string{
			"shorter than announced":  "PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 50000),
			"a chunk that breaks off": "PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + strings.Repeat("x", 5000),
			"no chunk":                "PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzzz\r\n",
		} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(c.APIURL(), "http://"))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, sent, "/api/v1"+at("default/default", "/content", "/bad"), c.Token())
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(conn)
			conn.Close()
			if s := string(b); s != "" && !strings.Contains(s, " 499 ") && !strings.Contains(s, " 400 ") {
				t.Errorf("%s: %q", what, s)
			}
		}
		await(t, func() string {
			if left := c.staged(t); len(left) > 0 {
				return fmt.Sprintf("left: %q", left)
			}
			return ""
		})
		u.get("/bad").want(t, "what was refused", 404)
	})
	t.Run("a full quota", func(t *testing.T) {
		u := c.user(t, c.Token())
		limit := func(bytes uint64) {
			t.Helper()
			if err := c.meta.SetLimits(ctx, namespaceShard, defaultFS, 0, raftmeta.Limits{Bytes: bytes}); err != nil {
				t.Fatal(err)
			}
		}
		limit(before + 1<<20)
		defer limit(0)
		u.put("/small", []byte("x")).want(t, "what tells the gateway of the limit", 201)
		u.put("/bad", big).want(t, "more than the quota", 507, "quota")
		u.get("/bad").want(t, "it", 404)
		u.put("/small", []byte("fits")).want(t, "what fits", 201)
		u.do("DELETE", at("default/default", "", "/small"), nil).want(t, "delete", 204)
	})
	await(t, func() string {
		if b, i := c.usage(t); b != before || i != inodes {
			return fmt.Sprintf("%d bytes and %d inodes are used, before it was %d and %d", b, i, before, inodes)
		}
		return ""
	})

	t.Run("many at once", func(t *testing.T) {
		var bodies [][]byte
		for i := range 20 {
			bodies = append(bodies, noise(uint64(i), 300_000+i))
		}
		var wg sync.WaitGroup
		for _, b := range bodies {
			u := c.user(t, c.Token())
			wg.Go(func() {
				if r := u.put("/one", b, "Content-Digest", sumOf(b)); r.status != 201 && r.status != 410 {
					t.Errorf("put: %d %s", r.status, r.body)
				}
			})
		}
		wg.Wait()
		r := u.get("/one").want(t, "get", 200)
		if !slices.ContainsFunc(bodies, func(b []byte) bool { return bytes.Equal(b, r.body) }) {
			t.Errorf("%d bytes that nobody has sent", len(r.body))
		}
		if names := u.names("/"); slices.Contains(names, "") || len(names) != 5 { // a, big, new, tree, one
			t.Errorf("%q", names)
		}
		if left := c.staged(t); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// tusUser sends uploads in pieces.
func (u *user) tus(method, where string, body io.Reader, headers ...string) reply {
	u.t.Helper()
	return u.do(method, where, body, append([]string{"Tus-Resumable", "1.0.0", "Content-Type", "application/offset+octet-stream"}, headers...)...)
}

// An upload in pieces goes on after its connection was lost, and after the gateway was started anew; what nobody ends is removed.
func TestResumedUploads(t *testing.T) {
	t.Parallel()
	cfg := apiConfig(t)
	c := startQuick(t, cfg)
	stop := func() { c.mustStop(t) }
	defer func() { stop() }()
	u := c.user(t, c.Token())
	data := noise(3, 3<<20+7)
	sum := sha256.Sum256(data)
	create := func(path string, length int, more ...string) string {
		t.Helper()
		q := url.Values{"path": {path}}
		for i := 0; i < len(more); i += 2 {
			q.Set(more[i], more[i+1])
		}
		r := u.tus("POST", "/uploads/default/default?"+q.Encode(), nil, "Upload-Length", fmt.Sprint(length)).want(t, "begin", 201)
		return strings.TrimPrefix(r.header.Get("Location"), "/api/v1")
	}
	offset := func(up string) string {
		t.Helper()
		return u.tus("HEAD", up, nil).want(t, "how far", 200).header.Get("Upload-Offset")
	}
	up := create("/resumed", len(data), "sha256", hex.EncodeToString(sum[:]), "mode", "0600")
	u.tus("PATCH", up, bytes.NewReader(data[:1000]), "Upload-Offset", "0").want(t, "a piece", 204)
	u.tus("PATCH", up, bytes.NewReader(data[:1000]), "Upload-Offset", "0").want(t, "again", 409, "1000 bytes")
	u.tus("PATCH", up, bytes.NewReader(data), "Upload-Offset", "1000").want(t, "too much", 413)
	u.tus("PATCH", up, struct{ io.Reader }{bytes.NewReader(data)}, "Upload-Offset", "1000").want(t, "too much, not announced", 400, "missing")
	u.tus("PATCH", up, bytes.NewReader(data[1000:2000]), "Upload-Offset", "1000", "Upload-Checksum", "sha1 "+base64.StdEncoding.EncodeToString(make([]byte, 20))).want(t, "another checksum", 460)
	one := sha256.Sum256(data[1000:2000])
	u.tus("PATCH", up, bytes.NewReader(data[1000:2000]), "Upload-Offset", "1000", "Upload-Checksum", "sha256 "+base64.StdEncoding.EncodeToString(one[:])).want(t, "the checksum", 204)
	u.do("PATCH", up, nil, "Tus-Resumable", "0.9").want(t, "another version", 412)
	if o := offset(up); o != "2000" {
		t.Fatalf("at %s", o)
	}
	u.get("/resumed").want(t, "what is not complete", 404)

	// The connection is lost in the middle of a piece: what came is kept.
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.APIURL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PATCH /api/v1%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nTus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\nUpload-Offset: 2000\r\nContent-Length: %d\r\n\r\n", up, c.Token(), len(data)-2000)
	if _, err := conn.Write(data[2000:1_500_000]); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	await(t, func() string {
		r := u.tus("PATCH", up, nil, "Upload-Offset", "1500000")
		if r.status != 204 {
			return fmt.Sprintf("%d %s", r.status, r.body)
		}
		return ""
	})

	// The gateway is started anew.
	c.mustStop(t)
	c = startQuick(t, cfg)
	u = c.user(t, c.Token())
	if o := offset(up); o != "1500000" {
		t.Fatalf("at %s", o)
	}
	u.tus("PATCH", up, bytes.NewReader(data[1_500_000:]), "Upload-Offset", "1500000").want(t, "the rest", 204)
	if r := u.get("/resumed").want(t, "get", 200); !bytes.Equal(r.body, data) {
		t.Error("another content")
	}
	u.do("GET", at("default/default", "/stat", "/resumed"), nil).want(t, "stat", 200, `"0600"`)
	if o := offset(up); o != fmt.Sprint(len(data)) {
		t.Errorf("at %s", o)
	}
	if left := c.staged(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}

	// All has come, and is another one than announced.
	bad := create("/damaged", 10, "sha256", hex.EncodeToString(sum[:]))
	u.tus("PATCH", bad, bytes.NewReader(data[:10]), "Upload-Offset", "0").want(t, "another digest", 400, "SHA-256")
	u.tus("HEAD", bad, nil).want(t, "it", 404)
	// Nothing is complete at once.
	create("/empty", 0)
	u.get("/empty").want(t, "get", 200)
	// What is there and is to stay is known before anything is sent; conditions that are not honoured are refused.
	begin := "/uploads/default/default?path=/empty"
	u.tus("POST", begin+"&keep=true", nil, "Upload-Length", "10").want(t, "keep", 409, "file exists")
	u.tus("POST", begin, nil, "Upload-Length", "10", "If-None-Match", "*").want(t, "if none match", 409, "file exists")
	u.tus("POST", begin, nil, "Upload-Length", "10", "If-Match", `"x"`).want(t, "if match", 501, "If-Match")
	// One that is made meanwhile stays as well.
	late := create("/late", 3, "keep", "true")
	u.put("/late", []byte("first")).want(t, "put", 201)
	u.tus("PATCH", late, bytes.NewReader(data[:3]), "Upload-Offset", "0").want(t, "keep", 409, "file exists")
	if r := u.get("/late"); string(r.body) != "first" {
		t.Errorf("it is %q", r.body)
	}
	u.tus("DELETE", late, nil).want(t, "give up", 204)
	// All has come, and its directory is gone: nobody is told that it is complete before it is at its place.
	u.do("POST", at("default/default", "/directory", "/there"), nil).want(t, "mkdir", 200)
	home := create("/there/it", 5)
	u.do("POST", at("default/default", "/rename", "/there", "to", "/elsewhere"), nil).want(t, "move its directory", 200)
	u.tus("PATCH", home, bytes.NewReader(data[:5]), "Upload-Offset", "0").want(t, "all of it", 404, "/there")
	u.tus("HEAD", home, nil).want(t, "how far", 404)
	u.do("POST", at("default/default", "/rename", "/elsewhere", "to", "/there"), nil).want(t, "move it back", 200)
	if o := offset(home); o != "5" {
		t.Errorf("at %s", o)
	}
	u.get("/there/it").want(t, "it", 200, string(data[:5]))
	// One is given up.
	gone := create("/gone", 10)
	u.tus("PATCH", gone, bytes.NewReader(data[:5]), "Upload-Offset", "0").want(t, "a piece", 204)
	u.tus("DELETE", gone, nil).want(t, "give up", 204)
	u.tus("HEAD", gone, nil).want(t, "it", 404)

	// What a crash has left: files of an origin that has ended and of no upload go, those of this gateway and of uploads stay.
	live := create("/live", 10)
	u.tus("PATCH", live, bytes.NewReader(data[:5]), "Upload-Offset", "0").want(t, "a piece", 204)
	other := api.New(api.Options{Meta: c.meta, Files: func() api.Files { return successor{c.gateway} }})
	req := httptest.NewRequest("PATCH", "/api/v1"+live, strings.NewReader("later"))
	for k, v := range map[string]string{"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream", "Upload-Offset": "5", "Authorization": "Bearer " + c.Token()} {
		req.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	if other.Public(nil).ServeHTTP(w, req); w.Code != 410 || !strings.Contains(w.Body.String(), "another one has its name") {
		t.Errorf("a piece for the successor of its file system: %d %s", w.Code, w.Body)
	}
	origin := c.gateway.Origin(namespaceShard)
	mine := fmt.Sprintf("p-%x-1", origin)
	for _, name := range []string{fmt.Sprintf("p-%x-1", origin+1000), "u-" + strings.Repeat("ab", 16), mine, "later"} {
		if _, err := c.fs().Create(t.Context(), &vfs.Root, vfs.StagingIno(0), name, vfs.CreateArgs{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.gate.Collect(t.Context()); n != 2 {
		t.Errorf("%d removed", n)
	}
	left := c.staged(t)
	slices.Sort(left)
	if want := []string{"later", mine, "u-" + live[strings.LastIndexByte(live, '/')+1:]}; !slices.Equal(left, want) {
		t.Errorf("left: %q, want %q", left, want)
	}
}

// successor serves another file system under each name.
type successor struct{ *gateway.Gateway }

func (s successor) Find(workspace, name string) (vfs.FS, *metapb.FileSystem) {
	fs, rec := s.Gateway.Find(workspace, name)
	rec = rec.CloneVT()
	rec.Id++
	return fs, rec
}

// A directory is removed by a job, with what is in it, and what may not be removed is told.
func TestRecursiveDelete(t *testing.T) {
	t.Parallel()
	c := startQuick(t, apiConfig(t))
	defer c.mustStop(t)
	u := c.user(t, c.Token())
	for i := range 40 {
		u.do("PUT", at("default/default", "/content", fmt.Sprintf("/tree/d%d/e/f%d", i%3, i), "parents", "true"), strings.NewReader("x")).want(t, "put", 201)
	}
	r := u.do("DELETE", at("default/default", "", "/tree", "recursive", "true"), nil).want(t, "delete", 202)
	type job struct {
		ID        uint64
		State     string
		ItemsDone uint64 `json:"items_done"`
		Path      string
	}
	var j job
	if err := json.Unmarshal(r.body, &j); err != nil || j.ID == 0 {
		t.Fatalf("%s %v", r.body, err)
	}
	await(t, func() string {
		r := u.do("GET", fmt.Sprintf("/jobs/%d", j.ID), nil).want(t, "job", 200)
		if err := json.Unmarshal(r.body, &j); err != nil {
			t.Fatal(err)
		}
		if j.State != "done" {
			return string(r.body)
		}
		return ""
	})
	if j.ItemsDone != 40+1+3+3 || j.Path != "/tree" {
		t.Errorf("%+v", j)
	}
	u.do("GET", at("default/default", "/stat", "/tree"), nil).want(t, "it", 404)
	u.do("GET", "/jobs", nil).want(t, "history", 200, `"done"`)
	u.do("POST", fmt.Sprintf("/jobs/%d/cancel", j.ID), nil).want(t, "one that is over", 200, `"done"`)
	u.do("DELETE", at("default/default", "", "/", "recursive", "true"), nil).want(t, "the root", 409)

	// Since it was queued the file system may only be read.
	u.do("POST", at("default/default", "/directory", "/kept/d", "parents", "true"), nil).want(t, "mkdir", 200)
	d, err := c.fs().Lookup(t.Context(), &vfs.Root, vfs.RootIno, "kept")
	if err != nil {
		t.Fatal(err)
	}
	u.do("PATCH", "/filesystems/default/default", strings.NewReader(`{"read_only":true}`), "Content-Type", "application/json").want(t, "set", 200)
	await(t, func() string {
		if _, rec := c.gateway.FS(defaultFS); !rec.ReadOnly {
			return "the gateway has not heard of it"
		}
		return ""
	})
	late, err := jobs.Create(t.Context(), c.meta, &metapb.Job{Kind: api.JobDelete, Fs: defaultFS, Path: []byte("/kept"), Spec: fmt.Appendf(nil, `{"inode":%d}`, d.Ino)}, c.now())
	if err != nil {
		t.Fatal(err)
	}
	await(t, func() string {
		j, err := jobs.Find(t.Context(), c.meta, late.Id)
		if err != nil {
			t.Fatal(err)
		}
		if j.State != metapb.JobState_JOB_FAILED || !strings.Contains(j.Error, "may only be read") {
			return j.String()
		}
		return ""
	})
}
