//go:build linux

package cluster

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
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
	// longFaults is how much happens in the long run: longEach of what is measured each, and as many of any kind.
	longEach   = 10
	longFaults = 6 * longEach
)

// twoGuests are clients in two real kernels, a at an address that moves, b at another gateway.
type twoGuests struct {
	t               *testing.T
	meta, at, spare *machine // the gateway that a's address is at, and the one that it goes to
	client          *kclient.Running
	writer          *kernelWriter              // at a
	holder, prober  *talker                    // at a, at b
	changes, tries  int                        // between which things happen
	stalls          map[string][]time.Duration // how long the client at a was without an answer, by what happened
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
		m := &machine{t: t, name: fmt.Sprintf("n%d", i+1), dir: dir, host: h.AddInner(t), base: 7000, at: h}
		m.conf = configuration{roles: "gateway", disks: 3, anywhere: true, nfs: fmt.Sprintf(", several: true, lease: 5m, addresses: [%s/24]", addresses)}
		if i == 0 {
			m.conf.roles, m.conf.nfs = "meta, block", ""
		}
		m.log = filepath.Join(t.ArtifactDir(), m.name+".log")
		m.configure()
		all = append(all, m)
	}
	t.Cleanup(func() { end(t, all) })
	x := &twoGuests{t: t, meta: all[0], at: all[1], spare: all[3], changes: 40, tries: 5, stalls: map[string][]time.Duration{}}
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
	m := x.writer.mark()
	x.stalls[what] = append(x.stalls[what], m.None.Round(10*time.Millisecond))
	x.t.Logf("%s %s: the client that writes: %v; that keeps: %v; at the other gateway: %v", time.Now().Format("15:04:05.000"), what, m, x.holder.mark(), x.prober.mark())
}

// mute loses what a gateway sends to a: what a has sent is done, and a does not know.
func (x *twoGuests) mute(m *machine, lose bool) { m.at.Mute(x.t, x.client.Addr(), lose) }

// withoutMeta cuts a gateway from the metadata and the blocks in both directions, or ends that.
func (x *twoGuests) withoutMeta(m *machine, cut bool) {
	m.at.Mute(x.t, x.meta.host, cut)
	x.meta.at.Mute(x.t, m.host, cut)
}

// fault is something that happens to the gateway at which a's address is.
type fault struct {
	what  string
	moves bool // the address
	begin func(m *machine)
	end   func(m *machine) // nil: there is nothing to undo
}

// faults are all, the first ones those of the short run.
func (x *twoGuests) faults() (all []fault, short int) {
	t := x.t
	// lost is a fault after a moment in which the gateway's replies are lost, which they stay until its end: its kernel would send them again, also for a process that was killed.
	lost := func(what string, begin, end func(m *machine)) fault {
		return fault{what, true, func(m *machine) {
			x.mute(m, true)
			time.Sleep(lostReplies)
			begin(m)
		}, func(m *machine) {
			x.mute(m, false)
			end(m)
		}}
	}
	return []fault{
		lost("killed", (*machine).kill, func(m *machine) { m.start() }),
		lost("paused", func(m *machine) { m.signal(syscall.SIGSTOP) }, func(m *machine) { m.signal(syscall.SIGCONT) }),
		{"stopped", true, (*machine).stop, func(m *machine) { m.start() }},
		lost("cut off", func(m *machine) { m.at.Cut(t, true) }, func(m *machine) { m.at.Cut(t, false) }),
		lost("without the cable of its clients' network", func(m *machine) { m.at.Unplug(t, true) }, func(m *machine) { m.at.Unplug(t, false) }),
		{"cut off from the metadata, and not from its clients", true, func(m *machine) { x.withoutMeta(m, true) }, func(m *machine) { x.withoutMeta(m, false) }},
		{fmt.Sprintf("cut off from its clients for %v, by a switch, and not from the metadata", cutOff), false, func(m *machine) {
			x.mute(m, true)
			time.Sleep(cutOff)
			x.mute(m, false)
		}, nil},
		{"left without its replies for a moment", false, func(m *machine) {
			x.mute(m, true)
			time.Sleep(lostReplies)
			x.mute(m, false)
		}, nil},
	}, 5
}

// happens is that a fault begins and ends, while both clients go on.
func (x *twoGuests) happens(f fault) {
	x.t.Helper()
	m := x.at
	x.during("the gateway was "+f.what, func() { f.begin(m) })
	if f.moves {
		x.at, x.spare = x.spare, m
	}
	if f.end != nil {
		x.during("it is back", func() { f.end(m) })
	}
}

// Two clients in real kernels, each at a gateway of its own. One writes with a journal, holds locks and open files, some of which have no name any more, and makes, renames and removes
// names, through an address that moves: its gateway is killed, paused, cut off and stopped, and, in the long run, whatever comes, after a moment in which its replies are lost. No call fails, none is done twice, the other client never
// gets a lock that is held, open files stay, and all that was acknowledged is there. How long nothing was answered is reported.
func TestAddressMoves(t *testing.T) {
	kclient.Require(t)
	t.Parallel()
	x := newTwoGuests(t)
	all, n := x.faults()
	for _, f := range all[:n] {
		x.happens(f)
	}
	if long {
		seed := time.Now().UnixNano()
		t.Logf("seed %d", seed)
		rng := rand.New(rand.NewPCG(uint64(seed), 0))
		for i := range longFaults {
			f := all[rng.IntN(len(all))]
			if i%2 == 0 {
				f = all[i/2%3] // killed, paused, stopped
			}
			x.happens(f)
		}
		for what, all := range x.stalls {
			slices.Sort(all)
			t.Logf("%s: without an answer for %v", what, all)
		}
	}
	x.writer.verify()
	x.writer.say("quit", "")
	x.holder.say("quit", "ended ")
	if said := x.prober.says("error: "); !strings.Contains(said, "it is free") { // it would have noticed
		t.Errorf("at the end of the locks the prober says %q", said)
	}
}
