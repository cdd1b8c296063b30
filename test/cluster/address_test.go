//go:build linux

package cluster

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
)

const (
	// lostReplies is for how long a gateway's replies are lost before it is: what clients have sent then is done, and they do not know.
	lostReplies = 300 * time.Millisecond
	// cutOff is for how long a gateway does not reach its clients where that moves nothing.
	cutOff = 8 * time.Second
)

// twoGuests are clients in two real kernels, a at an address that moves, b at another gateway.
type twoGuests struct {
	t               *testing.T
	meta, at, spare *machine // the gateway that a's address is at, and the one that it goes to
	client          *kclient.Running
	writer          *kernelWriter // at a
	holder, prober  *talker       // at a, at b
	changes, tries  int           // between which things happen
}

// newTwoGuests begins a cluster of a metadata node, with the blocks, and three gateways, and the clients' programs.
func newTwoGuests(t *testing.T) *twoGuests {
	const first, second, third = "10.77.0.240", "10.77.0.241", "10.77.0.242"
	network := kclient.NewNet(t)
	dirs := map[string]string{"a": t.TempDir(), "b": t.TempDir()}
	booting := map[string]func(testing.TB) *kclient.Running{}
	for name, dir := range dirs {
		booting[name] = network.Booting(t, kclient.Guest{Name: name, MemoryMiB: 384, Writable: []string{dir}})
	}
	rack := network.NewRack(t)
	dir := t.TempDir()
	var all []*machine
	for i, addresses := range []string{"", first + "/24, " + third, second, first + "/24, " + third} {
		h := rack.NewHost(t)
		m := &machine{t: t, name: fmt.Sprintf("n%d", i+1), dir: dir, host: h.Addr(), base: 7000, at: h}
		m.conf = configuration{roles: "gateway", disks: 3, anywhere: true, nfs: fmt.Sprintf(", several: true, lease: 5m, addresses: [%s/24]", addresses)}
		if i == 0 {
			m.conf.roles, m.conf.nfs = "meta, block", ""
		}
		m.log = filepath.Join(t.ArtifactDir(), m.name+".log")
		m.configure()
		all = append(all, m)
	}
	t.Cleanup(func() { end(t, all) })
	x := &twoGuests{t: t, meta: all[0], at: all[1], spare: all[3], changes: 60, tries: 5}
	x.meta.must("cluster", "init", "--profile", "2+1", "--domain", "disk", "--nodes", "1")
	x.meta.start()
	for _, m := range all[1:] {
		m.must("node", "join", "--token", x.meta.must("cluster", "token", "--roles", "gateway"))
		m.start()
	}
	a, b := booting["a"](t), booting["b"](t)
	x.client = a
	a.Mount(t, kclient.NFS(first, 2049, "/default", "/mnt/a", "4.2"))
	b.Mount(t, kclient.NFS(second, 2049, "/default", "/mnt/a", "4.2"))
	a.MustRun(t, patience, kclient.Command("mkdir", "/mnt/a/kept"))
	x.holder = talk(t, a, kclient.Program("keep", "hold", "-dir", "/mnt/a/kept"))
	x.holder.says("ready")
	x.prober = talk(t, b, kclient.Program("keep", "probe", "-dir", "/mnt/a/kept"))
	x.prober.says("ready")
	x.writer = kernelWriterIn(t, a, dirs["a"])
	return x
}

// during makes something happen while both clients work, and says how long they were without an answer.
func (x *twoGuests) during(what string, fault func()) {
	x.t.Helper()
	goOn := func() {
		x.t.Helper()
		x.prober.alarm(x.tries) // the locks are held, whether their holder goes on or not
		x.writer.goesOn(x.changes)
		x.holder.alarm(x.tries)
		x.prober.alarm(x.tries)
	}
	goOn()
	for _, k := range []*talker{x.writer.talker, x.holder, x.prober} {
		k.mark()
	}
	fault()
	goOn()
	x.t.Logf("%s: the client that writes: %v; that keeps: %v; at the other gateway: %v", what, x.writer.mark(), x.holder.mark(), x.prober.mark())
}

// moved is that a's address is at the other gateway from now on.
func (x *twoGuests) moved() { x.at, x.spare = x.spare, x.at }

// loseReplies has a's gateway do what a has sent, and a not know.
func (x *twoGuests) loseReplies() {
	x.at.at.Mute(x.t, x.client.Addr(), true)
	time.Sleep(lostReplies)
}

func (x *twoGuests) heal(m *machine) { m.at.Mute(x.t, x.client.Addr(), false) }

// withoutMeta cuts a gateway from the metadata and the blocks in both directions, or ends that.
func (x *twoGuests) withoutMeta(m *machine, cut bool) {
	m.at.Mute(x.t, x.meta.host, cut)
	x.meta.at.Mute(x.t, m.host, cut)
}

// Two clients in real kernels, each at a gateway of its own. One writes with a journal, holds locks and open files, some of which have no name any more, and makes, renames and removes
// names, through an address that moves: its gateway is killed, stopped, and, in the long run, paused and cut off, after a moment in which its replies are lost. No call fails, none is done twice, the other client never
// gets a lock that is held, open files stay, and all that was acknowledged is there.
func TestAddressMoves(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	x := newTwoGuests(t)
	x.during("the gateway was killed", func() {
		x.loseReplies()
		x.at.kill()
		x.heal(x.at)
	})
	x.at.start()
	x.moved()
	x.during("the gateway was stopped", x.at.stop)
	x.at.start()
	x.moved()
	if long {
		x.long()
	}
	x.writer.verify()
	x.writer.say("quit", "")
	x.holder.say("quit", "ended ")
	if said := x.prober.says("error: "); !strings.Contains(said, "it is free") { // it would have noticed
		t.Errorf("at the end of the locks the prober says %q", said)
	}
}

// long are the faults that take longer: what a silent machine's TCP has acknowledged Linux sends again after a minute.
func (x *twoGuests) long() {
	t := x.t
	// A gateway that began a moment ago takes its own address only.
	time.Sleep(11 * time.Second)
	paused := x.at
	x.during("the gateway was paused", func() {
		x.loseReplies()
		paused.signal(syscall.SIGSTOP)
		x.heal(paused)
	})
	x.moved()
	x.during("the gateway that was paused is back", func() { paused.signal(syscall.SIGCONT) })

	cut := x.at
	x.during("the gateway was cut off", func() {
		x.loseReplies()
		cut.at.Cut(t, true)
		x.heal(cut)
	})
	x.moved()
	x.during("the gateway that was cut off is back", func() { cut.at.Cut(t, false) })

	cut = x.at
	x.during("the gateway was cut off from the metadata, and not from its clients", func() { x.withoutMeta(cut, true) })
	x.moved()
	x.during("the gateway that had no metadata is back", func() { x.withoutMeta(cut, false) })

	cut = x.at
	x.during(fmt.Sprintf("for %v the gateway was cut off from its clients, and not from the metadata: its address stays", cutOff), func() {
		cut.at.Mute(t, x.client.Addr(), true)
		time.Sleep(cutOff)
		cut.at.Mute(t, x.client.Addr(), false)
	})

	x.during("the gateway was killed", func() {
		x.loseReplies()
		x.at.kill()
		x.heal(x.at)
	})
	x.at.start()
	x.moved()
}
