package nfsserver_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/test/posix"
)

func TestMain(m *testing.M) {
	kclient.Main(m, kclient.Programs{"posix": posix.Main})
}

// guestDeadline is for everything one guest does; it only ends what hangs.
const guestDeadline = 10 * time.Minute

// TestKernelClient mounts the server over the reference file system in a real
// Linux kernel: what fails here is the front end's fault. RACKFS_TEST_LONG=1
// adds minor version 1, the whole of Go's network code, and large files over
// several connections.
func TestKernelClient(t *testing.T) {
	kclient.Require(t)
	long := os.Getenv("RACKFS_TEST_LONG") != ""
	versions, entries := []string{"4.2"}, "500"
	if long {
		versions, entries = []string{"4.1", "4.2"}, "10000"
	}
	source := sourceTree(t, long)
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			n := kclient.NewNet(t)
			var ln net.Listener
			if err := n.Do(func() (err error) {
				ln, err = net.Listen("tcp", n.Addr()+":2049")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			mem := memfs.New(memfs.Options{RootMode: 0o777})
			srv, err := nfsserver.New(context.Background(), nfsserver.Config{
				Cluster: [16]byte{1}, Keys: []handle.Key{{ID: 1, Secret: [16]byte{7}}}, Store: newMemStore(), Name: "kernel",
				Exports: []export.Export{{ID: 1, FSID: 1, Path: "/default", FS: mem, Rules: export.Everyone(export.ReadWrite, export.SquashNone)}},
			})
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(ln) }()
			defer func() {
				if err := srv.Shutdown(context.Background()); err != nil {
					t.Error(err)
				}
				if err := <-served; err != nil {
					t.Error(err)
				}
			}()

			g := n.Boot(t, kclient.Guest{Name: "client"})
			g.Mount(t, kclient.NFS(n.Addr(), 2049, "/default", "/mnt/n", version))
			checks := kclient.Program("posix", "run", "-dir", "/mnt/n", "-drop-caches", "-entries", entries)
			if long {
				checks.Env = append(checks.Env, "PATH="+os.Getenv("PATH")) // the check that builds a program finds go
			}
			g.MustRun(t, guestDeadline, checks)
			g.MustRun(t, guestDeadline, kclient.Program("posix", "copy", source, "/mnt/n/tree"))
			g.Unmount(t, "/mnt/n")
			g.Mount(t, kclient.NFS(n.Addr(), 2049, "/default", "/mnt/n", version))
			g.MustRun(t, guestDeadline, kclient.Program("posix", "compare", source, "/mnt/n/tree"))
			if long {
				g.Mount(t, kclient.NFS(n.Addr(), 2049, "/", "/mnt/root", version, "nconnect=4"))
				g.MustRun(t, guestDeadline, kclient.Program("posix", "fill", "-file", "/mnt/root/default/large", "-mib", "512"))
				g.Unmount(t, "/mnt/root")
			}
			g.MustRun(t, guestDeadline, kclient.Command("dmesg", "--level=emerg,alert,crit,err,warn"))
			g.Shutdown(t)
			if st := srv.State(); st.Opens != 0 || st.Locks != 0 {
				t.Errorf("after unmount: %d opens, %d locks", st.Opens, st.Locks)
			}
		})
	}
}

// sourceTree is some of Go's own source.
func sourceTree(t *testing.T, long bool) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatalf("go env GOROOT: %v", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "src", "net")
	if !long {
		dir = filepath.Join(dir, "url")
	}
	return dir
}
