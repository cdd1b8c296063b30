package cloudimport

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// endpoint is a server of one bucket, "bucket", whose answers a test may make wrong. What a right one answers is tested with a real server (test/cloudimport).
type endpoint struct {
	*httptest.Server
	mu      sync.Mutex // guards the following
	objects map[string][]byte
	etags   map[string]string // that are not the MD5
	reads   map[string]int    // GETs of objects, and of listings under ""
	ranges  []string          // of GETs, with the key
	// wrong may answer in place of the server.
	wrong func(w http.ResponseWriter, r *http.Request, key string) bool
	page  int // keys of a page; 0: 1,000
}

func newEndpoint(t *testing.T) *endpoint {
	e := &endpoint{objects: map[string][]byte{}, etags: map[string]string{}, reads: map[string]int{}}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) put(key string, content string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.objects[key] = []byte(content)
}

func (e *endpoint) count(key string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reads[key]
}

func (e *endpoint) etag(key string) string {
	if s, ok := e.etags[key]; ok {
		return s
	}
	s := md5.Sum(e.objects[key])
	return hex.EncodeToString(s[:])
}

func (e *endpoint) failure(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
}

type listed struct {
	Key, LastModified, ETag string
	Size                    int
}

type listing struct {
	XMLName                       xml.Name `xml:"ListBucketResult"`
	Name, Prefix, EncodingType    string
	KeyCount, MaxKeys             int
	IsTruncated                   bool
	ContinuationToken, StartAfter string
	NextContinuationToken         string `xml:",omitempty"`
	Contents                      []listed
	CommonPrefixes                []struct{ Prefix string }
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/bucket"), "/")
	e.mu.Lock()
	wrong := e.wrong
	e.mu.Unlock()
	if r.Method == http.MethodGet {
		e.mu.Lock()
		e.reads[key]++
		if key != "" {
			e.ranges = append(e.ranges, key+" "+r.Header.Get("Range"))
		}
		e.mu.Unlock()
	}
	if wrong != nil && wrong(w, r, key) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !strings.HasPrefix(r.URL.Path, "/bucket/") {
		e.failure(w, http.StatusNotFound, "NoSuchBucket", "no such bucket")
		return
	}
	if key == "" {
		e.list(w, r.URL.Query())
		return
	}
	b, ok := e.objects[key]
	if !ok {
		e.failure(w, http.StatusNotFound, "NoSuchKey", "no such key")
		return
	}
	if m := r.Header.Get("If-Match"); m != "" && strings.Trim(m, `"`) != e.etag(key) {
		e.failure(w, http.StatusPreconditionFailed, "PreconditionFailed", "changed")
		return
	}
	w.Header().Set("ETag", `"`+e.etag(key)+`"`)
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", modified, strings.NewReader(string(b)))
}

var modified = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (e *endpoint) list(w http.ResponseWriter, q url.Values) {
	keys := make([]string, 0, len(e.objects))
	after := max(q.Get("start-after"), q.Get("continuation-token"))
	for k := range e.objects {
		if strings.HasPrefix(k, q.Get("prefix")) && k > after {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	out := listing{Name: "bucket", EncodingType: "url", MaxKeys: 1000}
	most := 1000
	if e.page > 0 {
		most = e.page
	}
	if len(keys) > most {
		keys = keys[:most]
		out.IsTruncated, out.NextContinuationToken = true, keys[most-1]
	}
	for _, k := range keys {
		out.Contents = append(out.Contents, listed{Key: url.QueryEscape(k), LastModified: modified.Format(time.RFC3339), ETag: `"` + e.etag(k) + `"`, Size: len(e.objects[k])})
	}
	out.KeyCount = len(keys)
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(out)
}
