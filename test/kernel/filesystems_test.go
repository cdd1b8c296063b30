//go:build linux

package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/kclient"
)

// TestFileSystems has the kernel's client see file systems come and go in a running cluster: one that is created is there, one that is deleted is
// stale, with files open and without, and when it is brought back the same mount works on, with all that was in it.
func TestFileSystems(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	if os.Getenv(envServer) != "" {
		t.Skip("another server has one file system")
	}
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	data := dataDir(t)
	srv.start(t, n, data)
	admin := api.Dial(filepath.Join(data, api.SocketName))
	defer admin.Close()
	ctx := t.Context()
	g := n.Boot(t, kclient.Guest{Name: "client", MemoryMiB: 384})
	if _, err := admin.CreateWorkspace(ctx, api.NewWorkspace{Name: "lab"}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CreateFileSystem(ctx, api.NewFileSystem{Name: "scratch", Workspace: "lab", FileSystemSettings: api.FileSystemSettings{QuotaBytes: 1 << 30}}); err != nil {
		t.Fatal(err)
	}
	// The root of the server shows what there is to be mounted, to a client that had it mounted before.
	srv.export = "/"
	g.Mount(t, srv.mount(n.Addr(), freshMount, "4.2", "actimeo=0"))
	c := client{t, g}
	until := func(script string) {
		t.Helper()
		g.MustRun(t, twoClientsDeadline, kclient.Command("sh", "-c", "for i in $(seq 600); do "+script+" && exit 0; sleep 0.1; done; exit 1"))
	}
	until("ls " + freshMount + "/lab 2>/dev/null | grep -q scratch")
	srv.export = "/lab/scratch"
	g.Mount(t, srv.mount(n.Addr(), mountpoint, "4.2"))
	if got := strings.Fields(c.sh("df -B1 --output=size . | tail -1")); len(got) != 1 || got[0] != "1073741824" {
		t.Errorf("df says %v, the quota is 1 GiB", got)
	}
	c.sh("mkdir d && for i in 1 2 3; do dd if=/dev/urandom of=d/f$i bs=1M count=3 2>/dev/null; done && sync && cat d/* | md5sum >/run/sums && cp -r d " + freshMount + "/default/")

	if _, err := admin.DeleteFileSystem(ctx, "lab", "scratch", time.Hour); err != nil {
		t.Fatal(err)
	}
	until("echo 3 >/proc/sys/vm/drop_caches; ! LC_ALL=C ls " + mountpoint + "/d >/dev/null 2>/run/why && grep -q 'Stale file handle' /run/why")
	until("cat " + freshMount + "/default/d/* | md5sum | diff - /run/sums") // the other one is served as before
	until("! ls " + freshMount + "/lab 2>/dev/null | grep -q scratch")

	if _, err := admin.UndeleteFileSystem(ctx, "lab", "scratch"); err != nil {
		t.Fatal(err)
	}
	until("ls " + mountpoint + "/d >/dev/null 2>&1")
	c.sh("cat d/* | md5sum | diff - /run/sums && echo more >d/more && sync")
	readOnly := true
	if _, err := admin.ChangeFileSystem(ctx, "lab", "scratch", api.FileSystemChange{ReadOnly: &readOnly}); err != nil {
		t.Fatal(err)
	}
	until("! LC_ALL=C touch " + mountpoint + "/d/no 2>/run/why && grep -q 'Read-only' /run/why")
	c.sh("cat d/more")
}
