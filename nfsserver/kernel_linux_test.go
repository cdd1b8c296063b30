package nfsserver_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/internal/kclient"
	"github.com/rackfs/rackfs/internal/memfs"
	"github.com/rackfs/rackfs/nfsserver"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/test/posix"
	"github.com/rackfs/rackfs/vfs"
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
			kclient.AgainIfHangs(t, func(t testing.TB) { kernelClient(t, version, source, entries, long) })
		})
	}
}

func kernelClient(t testing.TB, version, source, entries string, long bool) {
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

	g := n.Boot(t, kclient.Guest{Name: "client", Modules: []string{"nfsv3"}})
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
	readOnlyV3(t, n, g, mem, "/mnt/n/tree")
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
}

// readOnlyV3 mounts mem by the read-only NFSv3 too, from a server of its own, which is restarted while it is mounted. tree is a directory of mem
// that the guest has mounted by NFSv4.
func readOnlyV3(t testing.TB, n *kclient.Net, g *kclient.Running, mem *memfs.FS, tree string) {
	start := func() (stop func()) {
		srv, err := nfsserver.New(context.Background(), nfsserver.Config{
			Cluster: [16]byte{1}, Keys: []handle.Key{{ID: 1, Secret: [16]byte{7}}}, Store: newMemStore(), Name: "v3",
			Exports: []export.Export{{ID: 1, FSID: 1, Path: "/default", FS: mem, Rules: export.Everyone(export.ReadWrite, export.SquashNone)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		var ln net.Listener
		if err := n.Do(func() (err error) {
			ln, err = net.Listen("tcp", n.Addr()+":2050")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- srv.ServeV3(ln) }()
		return func() {
			if err := errors.Join(srv.Shutdown(context.Background()), <-served); err != nil {
				t.Error(err)
			}
		}
	}
	stop := start()
	defer func() { stop() }()
	fillTree(t, mem, filepath.Base(tree))
	readOnly := kclient.NFS3(n.Addr(), 2050, "/default/"+filepath.Base(tree), "/mnt/v3")
	readOnly.Flags = unix.MS_RDONLY
	g.Mount(t, readOnly)
	compare := func() { g.MustRun(t, guestDeadline, kclient.Program("posix", "compare", tree, "/mnt/v3")) }
	compare()

	// On a mount that the client would write to it is the server that refuses.
	g.Mount(t, kclient.NFS3(n.Addr(), 2050, "/default", "/mnt/w3"))
	g.MustRun(t, guestDeadline, kclient.Program("posix", "read-only", "/mnt/w3/"+filepath.Base(tree)))

	// What is open and what is cached goes on with another server.
	stop()
	stop = start()
	g.MustRun(t, guestDeadline, kclient.Command("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches"))
	compare()
	g.Unmount(t, "/mnt/w3")
	g.Unmount(t, "/mnt/v3")
}

// fillTree adds what Go's source does not have: a directory of several pages, data of several calls, odd modes.
func fillTree(t testing.TB, mem *memfs.FS, dir string) {
	at, err := mem.Lookup(t.Context(), &vfs.Root, vfs.RootIno, dir)
	if err != nil {
		t.Fatal(err)
	}
	file := func(dir vfs.Ino, name string, mode uint32, content []byte) {
		made, err := mem.Create(t.Context(), &vfs.Root, dir, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}})
		if err == nil {
			_, _, err = mem.Write(t.Context(), &vfs.Root, made.Attr.Ino, 0, content, vfs.FileSync)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mode := uint32(0o755)
	many, err := mem.MakeNode(t.Context(), &vfs.Root, at.Ino, "many", vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: &mode}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		file(many.Attr.Ino, fmt.Sprintf("%d-%s", i, strings.Repeat("x", i%100)), 0o644, nil)
	}
	data := make([]byte, 5<<20+123)
	_, _ = rand.NewChaCha8([32]byte{5}).Read(data)
	file(at.Ino, "large", 0o4755, data)
	if _, err := mem.MakeNode(t.Context(), &vfs.Root, at.Ino, "link", vfs.NodeArgs{Type: vfs.TypeSymlink, Target: "many/0-"}); err != nil {
		t.Fatal(err)
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
