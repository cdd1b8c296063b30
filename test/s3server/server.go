package s3server

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	// AccessKey and SecretKey are those of the server's owner.
	AccessKey = "AKIARACKFSTEST000001"
	SecretKey = "tE5tKeyOfTheServer/thatNobodyMay+See00"
	// Region is the server's.
	Region = "us-east-1"

	// patience ends a test that hangs.
	patience = 5 * time.Minute
)

// Server is a running one.
type Server struct {
	URL    string // of the proxy
	Client *minio.Client

	mu     sync.Mutex     // guards the following
	reads  map[string]int // GETs of objects, by "BUCKET/KEY"
	answer int            // GETs of objects that were answered
	gate   chan struct{}  // answers to further ones wait until it is closed; nil: none do
	after  int
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "s3") // the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, d := range []string{"data", "meta"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "socket")
	var said bytes.Buffer
	cmd := exec.Command(program(t), "--port", socket, "--region", Region, "--quiet", "posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "data"))
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+AccessKey, "ROOT_SECRET_ACCESS_KEY="+SecretKey)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the server said:\n%s", said.Bytes())
		}
	})
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			break
		}
		select {
		case <-ended:
			t.Fatalf("the server ended:\n%s", said.Bytes())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("the server does not start: %v", err)
		}
	}
	s := &Server{reads: map[string]int{}}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}, DisableCompression: true}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", "gateway", r.In.Host
		}, // the host is signed
		Transport: transport, FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.pass(r) {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		s.Release()
		front.Close()
		transport.CloseIdleConnections()
	})
	s.URL = front.URL
	u, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	s.Client, err = minio.New(u.Host, &minio.Options{Creds: credentials.NewStaticV4(AccessKey, SecretKey, ""), Region: Region, BucketLookup: minio.BucketLookupPath})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// program builds the server, if it is not built yet.
func program(t testing.TB) string {
	t.Helper()
	_, self, _, _ := runtime.Caller(0)
	cmd := exec.Command("go", "tool", "-n", "versitygw")
	cmd.Dir = filepath.Join(filepath.Dir(self), "gateway")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build the S3 server: %v\n%s", err, errs.Bytes())
	}
	return strings.TrimSpace(string(out))
}

// pass counts, and holds back.
func (s *Server) pass(r *http.Request) bool {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if r.Method != http.MethodGet || key == "" {
		return true
	}
	s.mu.Lock()
	s.reads[bucket+"/"+key]++
	var gate chan struct{}
	if s.gate != nil && s.answer >= s.after {
		gate = s.gate
	} else {
		s.answer++
	}
	s.mu.Unlock()
	if gate == nil {
		return true
	}
	select {
	case <-gate:
		return true
	case <-r.Context().Done():
		return false
	}
}

// Hold lets n more objects be read; then reads wait until Release.
func (s *Server) Hold(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate, s.after = make(chan struct{}), s.answer+n
}

// Release ends Hold.
func (s *Server) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate != nil {
		close(s.gate)
		s.gate = nil
	}
}

// Reads is how often each object was read, by "BUCKET/KEY", since Forget.
func (s *Server) Reads() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for k, n := range s.reads {
		out[k] = n
	}
	return out
}

// Forget begins to count anew.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.reads)
}

// Bucket makes one.
func (s *Server) Bucket(t testing.TB, name string) {
	t.Helper()
	if err := s.Client.MakeBucket(t.Context(), name, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Put makes an object; large ones are put in parts.
func (s *Server) Put(ctx context.Context, bucket, key string, content []byte) error {
	_, err := s.Client.PutObject(ctx, bucket, key, bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{PartSize: 8 << 20})
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return nil
}
