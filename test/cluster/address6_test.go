//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/kclient"
)

// An address of IPv6 moves from a gateway that is killed, and back from one that is paused. The client goes on, with its lock and each rename done once, and
// a connection on which nothing is sent ends when its gateway is paused: only who took the address can have ended it.
func TestIPv6AddressMoves(t *testing.T) {
	kclient.RequireNet(t)
	t.Parallel()
	const first, second = kclient.Network6 + "f0", kclient.Network6 + "f1"
	rack := kclient.NewNet(t).NewRack(t)
	dir := t.TempDir()
	var all []*machine
	for i, addresses := range []string{"", first + "/64", second + "/64, " + first + "/64"} {
		h := rack.NewHost(t)
		h.AddIPv6(t)
		m := &machine{t: t, name: fmt.Sprintf("n%d", i+1), dir: dir, host: h.Addr(), base: 7000, at: h}
		m.conf = configuration{roles: "gateway", disks: 3, anywhere: true, allow: ", " + kclient.Network6 + "/64", more: "log: {level: debug}",
			nfs: ", several: true, lease: 5m, gateway_lease: 6s, addresses: [" + addresses + "]"}
		if i == 0 {
			m.conf.roles, m.conf.nfs = "meta, block", ""
		}
		m.log = filepath.Join(t.ArtifactDir(), m.name+".log")
		m.configure()
		all = append(all, m)
	}
	t.Cleanup(func() { end(t, all) })
	n1, n2, n3 := all[0], all[1], all[2]
	n1.must("cluster", "init", "--profile", "2+1", "--domain", "disk", "--nodes", "1")
	n1.start()
	here := func(m *machine, address string) string {
		return fmt.Sprintf(`msg="gateway: an address is here" node=%s address=%s `, m.name, address)
	}
	// says waits for a line of a log after the first so many bytes of it.
	says := func(m *machine, after int, text string) {
		t.Helper()
		m.await("its log has "+text, func() (bool, string) {
			b, err := os.ReadFile(m.log)
			return err == nil && strings.Contains(string(b[min(after, len(b)):]), text), fmt.Sprint(err)
		})
	}
	for i, m := range all[1:] {
		m.must("node", "join", "--token", n1.must("cluster", "token", "--roles", "gateway"))
		m.start()
		says(m, 0, here(m, []string{first, second}[i]))
	}
	machineOfClient := rack.NewHost(t)
	machineOfClient.AddIPv6(t)
	dial := func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		return machineOfClient.Dial(ctx, net.JoinHostPort(first, "2049"))
	}
	a := &moving{t: t}
	a.mount("a", dial)
	locked, mine := a.create("locked"), a.create("mine")
	_, err := a.LockRange(a.ctx(), locked, &nfsclient.Lock{Owner: "l"}, nfsv4.WRITE_LT, 0, 10)
	a.ok(err, "lock")
	a.create("r0")
	round := 0
	steps := func() {
		t.Helper()
		for range 10 {
			p := fmt.Appendf(nil, "round %06d", round)
			a.write(mine, nfsv4.FILE_SYNC4, p)
			a.ok(a.Rename(a.ctx(), a.root, fmt.Sprint("r", round), a.root, fmt.Sprint("r", round+1)), "rename %d", round)
			a.read(mine, p)
			round++
		}
	}
	steps()
	a.stall()
	n2.kill()
	steps()
	t.Logf("a gateway was killed: nothing was answered to its client for %v", a.stall())
	says(n3, 0, here(n3, first))

	n2.start()
	said, err := os.ReadFile(n3.log)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := silent.(*net.TCPConn).SetKeepAlive(false); err != nil {
		t.Fatal(err)
	}
	says(n3, len(said), `msg="gateway: the leader knows who is connected" node=n3 address=`+first+" connections=2") // that one, and the client's
	steps()
	a.stall()
	n3.signal(syscall.SIGSTOP)
	_ = silent.SetReadDeadline(time.Now().Add(patience)) // ends a test that hangs
	if _, err := silent.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection with a gateway that was paused: %v", err)
	}
	steps()
	t.Logf("a gateway was paused: nothing was answered to its client for %v", a.stall())
	n3.signal(syscall.SIGCONT)
	steps()

	b := &moving{t: t}
	b.mount("b", dial)
	if b.locks(b.open("locked")) {
		t.Error("the lock of a client was lost when its address moved")
	}
	for _, m := range []*machine{n3, n2, n1} {
		m.stop()
	}
}
