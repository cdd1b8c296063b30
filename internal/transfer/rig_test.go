package transfer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/devcluster"
	"github.com/rackfs/rackfs/internal/faultproxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scaled is a number for `make test`, or that of the long run.
func scaled(short, long int) int {
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		return long
	}
	return short
}

func nobody(t *testing.T) *api.Client {
	t.Helper()
	c, err := api.Connect(api.Endpoint{URL: "https://192.0.2.1:7443"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rig is a cluster whose API is served over TLS, through a proxy.
type rig struct {
	*testing.T
	proxy   *faultproxy.Proxy
	end     api.Endpoint
	client  *api.Client
	journal *Journal
}

func newRig(t *testing.T) *rig {
	t.Helper()
	c, err := devcluster.Start(t.Context(), devcluster.Config{
		DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", APIAddr: "0.0.0.0:0", Voters: 1, BlockStores: 1, Profile: "1+0",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	port := c.APIURL()[strings.LastIndexByte(c.APIURL(), ':')+1:]
	r := &rig{T: t}
	if r.proxy, err = faultproxy.Listen(faultproxy.To(net.JoinHostPort("127.0.0.1", port))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.proxy.Close)
	r.end = api.Endpoint{URL: "https://" + r.proxy.Addr(), Token: c.Token(), CA: c.CAFingerprint()}
	r.client = r.connect()
	if r.journal, err = OpenJournal(filepath.Join(t.TempDir(), "journal")); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) connect() *api.Client {
	r.Helper()
	k, err := api.Connect(r.end)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(k.Close)
	return k
}

func (r *rig) at(p string) End { return r.in("default", p) }

func (r *rig) in(name, p string) End {
	return End{Client: r.client, Tree: r.client.Tree("", name), FileSystem: "default/" + name, Path: p}
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// write makes a file of this machine; directories are made.
func write(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	x := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = x.Read(b)
	return b
}

// tree is all that is in a directory of this machine.
func tree(t testing.TB, dir string, exact bool) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if d.IsDir() {
			out[rel] = "directory"
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		out[rel] = fmt.Sprintf("%x", sha256.Sum256(b))
		if exact {
			out[rel] += fmt.Sprint(" ", fi.Mode(), " ", fi.ModTime().UTC())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sameTree(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Fatalf("%s: %q is %q, want %q", what, k, got[k], v)
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			t.Fatalf("%s: %q is too much", what, k)
		}
	}
}

// remoteTree is all that is in a directory of a file system, with ETags.
func (r *rig) remoteTree(p string) map[string]string {
	r.Helper()
	out := map[string]string{}
	err := Walk(r.Context(), r.client.Tree("", "default"), p, func(p string, f *api.FileInfo) error {
		out[p] = f.Type
		if f.Type != "directory" {
			out[p] = f.ETag
		}
		return nil
	}, func(p string, err error) { r.Errorf("%s: %v", p, err) })
	if err != nil {
		r.Fatal(err)
	}
	return out
}

// readBack is a file as the file system has it.
func (r *rig) readBack(name, p string) []byte {
	r.Helper()
	to := filepath.Join(r.TempDir(), "back")
	must[Summary](r)(Download(r.Context(), r.in(name, p), to, false, Options{}))
	return must[[]byte](r)(os.ReadFile(to))
}
