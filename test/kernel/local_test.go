//go:build linux

package kernel

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/kclient"
)

const (
	localPort   = 2050
	localExport = "/scratch"
)

// TestLocal mounts a local volume with the kernel's client: from a configured network of the node's workloads it passes the checks of
// test/posix, goes on over a kill of the server with files open and locked, and from elsewhere it is refused.
func TestLocal(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	srv := serverUnderTest(t)
	if srv.ready != "rackfs ready" {
		t.Skip("another server has no local volumes")
	}
	n := kclient.NewNet(t)
	data := dataDir(t)
	g := n.Boot(t, kclient.Guest{Name: "workload", MemoryMiB: 512})
	outside := n.Boot(t, kclient.Guest{Name: "outside", MemoryMiB: 256})
	args := []string{"--local", fmt.Sprintf("%s:%d", n.Addr(), localPort), "--local-clients", g.Addr()}
	p := srv.start(t, n, data, args...)
	mount := kclient.NFS(n.Addr(), localPort, localExport, mountpoint, "4.2")
	g.Mount(t, mount)
	g.MustRun(t, time.Minute, kclient.Command("mkdir", mountpoint+"/checks"))
	t.Run("checks", func(t *testing.T) {
		runChecks(t, g, mountpoint+"/checks", []string{"-local-limits", "-entries", "500"}, nil)
	})

	t.Run("outside", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		// A mount that the server does not answer is given up by its own options.
		err := outside.TryMount(ctx, kclient.NFS(n.Addr(), localPort, localExport, mountpoint, "4.2", "soft", "timeo=10", "retrans=1", "retry=0"))
		if err == nil {
			t.Fatal("a machine outside of the node's networks mounted its local volume")
		}
		t.Log(err)
		// The file systems of the cluster are not concerned.
		outside.Mount(t, srv.mount(n.Addr(), freshMount, "4.2"))
	})

	whole := t // the server of this part is that of the next one
	t.Run("killed", func(t *testing.T) {
		c := client{t, g}
		c.sh("touch lock && mkdir d && echo moved >d/f && mv d e")
		l := c.lock()
		for said := l.next(t); said != "held"; said = l.next(t) {
			if said != "waiting" {
				t.Fatalf("the lock: %s", said)
			}
		}
		script := kclient.Command("sh", "-c", "exec 9<>held && echo one >&9 && sync held && echo opened && read go && echo two >&9 && sync held && cat held")
		script.Dir = mountpoint
		var out strings.Builder
		said := make(chan string, 8)
		script.Stdout = &lines{each: func(line string) { out.WriteString(line + "\n"); said <- line }}
		task := g.Start(t, script)
		if line := <-said; line != "opened" {
			t.Fatal(line)
		}
		p.Kill(t)
		p = srv.start(whole, n, data, args...)
		if _, err := task.Write([]byte("go\n")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), twoClientsDeadline)
		defer cancel()
		if status, err := task.Wait(ctx); err != nil || status != 0 || out.String() != "opened\none\ntwo\n" {
			t.Errorf("a file that was open: status %d, %v, %q", status, err, out.String())
		}
		if got := c.sh("cat e/f"); got != "moved\n" {
			t.Errorf("a file that was moved: %q", got)
		}
		l.release(t)
	})

	t.Run("status", func(t *testing.T) {
		admin := api.Dial(filepath.Join(data, api.SocketName))
		defer admin.Close()
		fs, err := admin.FileSystem(t.Context(), "", strings.Trim(localExport, "/"))
		if err != nil || len(fs.Nodes) != 1 || fs.Nodes[0].Problem != "" || fs.Nodes[0].TotalBytes == 0 || fs.Unreplicated == "" {
			t.Errorf("%+v, %v", fs, err)
		}
	})
}
