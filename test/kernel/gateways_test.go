//go:build linux

package kernel

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
)

// TestTwoGateways has two machines work in one file system, each at a gateway of its own: what TestContention does at one gateway, and programs that rely on a file system: a
// database, a version control system, mail.
func TestTwoGateways(t *testing.T) {
	if os.Getenv(envServer) != "" {
		t.Skip("the other server has one gateway")
	}
	kclient.Require(t, "git", "sqlite3")
	t.Parallel()
	locks, names, transactions, commits, messages := 25, 40, 20, 2, 40 // of each machine; names of both
	if long() {
		locks, names, transactions, commits, messages = 3000, 3000, 1000, 100, 3000
	}
	const lease = 20 * time.Second
	srv := serverUnderTest(t)
	n := kclient.NewNet(t)
	data := dataDir(t)
	all := clients{}
	waits := map[string]func(testing.TB) *kclient.Running{}
	for _, name := range []string{"a", "b"} {
		waits[name] = n.Booting(t, kclient.Guest{Name: name, MemoryMiB: 384})
	}
	srv.start(t, n, data, append(srv.lease(lease), "--gateways", "2")...)
	for i, name := range []string{"a", "b"} {
		g := waits[name](t)
		g.Mount(t, kclient.NFS(n.Addr(), nfsPort+i, srv.export, mountpoint, "4.2"))
		g.Mount(t, kclient.NFS(n.Addr(), nfsPort+i, srv.export, databaseMount, "4.2", "lookupcache=positive"))
		all[name] = client{t, g}
	}
	a, b := all["a"], all["b"]
	t.Run("close to open", func(t *testing.T) {
		for i := range 10 {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			want := fmt.Sprintf("round %d", i)
			from.sh("echo " + want + " >shared")
			if got := to.sh("cat shared"); got != want+"\n" {
				t.Fatalf("the other machine reads %q, want %q", got, want)
			}
		}
	})
	t.Run("contention", func(t *testing.T) { all.contention(t, locks, names, lease) })
	t.Run("database", func(t *testing.T) { all.database(t, transactions) })
	t.Run("repository", func(t *testing.T) { all.pushes(t, commits) })
	t.Run("mail", func(t *testing.T) { all.mail(t, messages) })
}
