//go:build linux

package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	// envFaults sets what happens instead, in random order: names of faults and how often each, as in "kill:3,metadata:20".
	envFaults = "RACKFS_TEST_FAULTS"
)

// Addresses that move: the second one is of the gateway that nothing happens to.
const firstAddress, secondAddress, thirdAddress = "10.77.0.240", "10.77.0.241", "10.77.0.242"

// twoGuests are clients in two real kernels, a at an address that moves, b at another gateway.
type twoGuests struct {
	t               *testing.T
	meta, at, spare *machine // the gateway that a's address is at, and the one that it goes to
	client          *kclient.Running
	peer            string                     // a's address, as gateways see it
	writer          *kernelWriter              // at a
	holder, prober  *talker                    // at a, at b
	changes, tries  int                        // between which things happen
	goOn            bool                       // both were seen to, since something happened
	stalls          map[string][]time.Duration // how long the client at a was without an answer, by what happened
	longest         map[string][]time.Duration // and what its longest call took
}

// newTwoGuests begins a cluster of a metadata node, with the blocks, and three gateways, which have these addresses, and the clients' programs. mount has a mount
// the file system at /mnt/a, and returns its address as gateways see it.
func newTwoGuests(t *testing.T, addresses [3]string, mount func(*kclient.Net, *kclient.Running) (peer string)) *twoGuests {
	network := kclient.NewNet(t)
	dirs := map[string]string{"a": t.TempDir(), "b": t.TempDir()}
	booting := map[string]func(testing.TB) *kclient.Running{}
	for name, dir := range dirs {
		booting[name] = network.Booting(t, kclient.Guest{Name: name, MemoryMiB: 512, Writable: []string{dir}})
	}
	rack := network.NewRack(t)
	dir := t.TempDir()
	var all []*machine
	for i, addresses := range append([]string{""}, addresses[:]...) {
		h := rack.NewHost(t)
		m := &machine{t: t, name: fmt.Sprintf("n%d", i+1), dir: dir, host: h.AddInner(t), base: 7000, at: h}
		m.conf = configuration{roles: "gateway", disks: 3, anywhere: true, http: "127.0.0.1:7070", nfs: ", several: true, lease: 5m, addresses: [" + addresses + "]"}
		if i == 0 {
			m.conf.roles, m.conf.nfs = "meta, block", ""
		}
		m.log = filepath.Join(t.ArtifactDir(), m.name+".log")
		m.configure()
		all = append(all, m)
	}
	t.Cleanup(func() { end(t, all) })
	x := &twoGuests{t: t, meta: all[0], at: all[1], spare: all[3], changes: 40, tries: 5, stalls: map[string][]time.Duration{}, longest: map[string][]time.Duration{}}
	x.meta.must("cluster", "init", "--profile", "2+1", "--domain", "disk", "--nodes", "1")
	x.meta.start()
	for _, m := range all[1:] {
		m.must("node", "join", "--token", x.meta.must("cluster", "token", "--roles", "gateway"))
		m.start()
	}
	a, b := booting["a"](t), booting["b"](t)
	x.client = a
	x.peer = mount(network, a)
	b.Mount(t, kclient.NFS(secondAddress, 2049, "/default", "/mnt/a", "4.2"))
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
		x.writer.say("resume", "")
		x.writer.say(fmt.Sprintf("alarm %d", x.changes), "")
		for _, k := range []*talker{x.prober, x.holder} { // the locks are held, whether their holder goes on or not
			k.say(fmt.Sprintf("alarm %d", x.tries), "")
		}
		for _, k := range []*talker{x.prober, x.writer.talker, x.holder} {
			k.says("alarm")
		}
		x.prober.alarm(x.tries)
	}
	if long || !x.goOn { // else they just did
		goOn()
	}
	for _, k := range []*talker{x.writer.talker, x.holder, x.prober} {
		k.mark()
	}
	fault()
	goOn()
	x.goOn = true
	m := x.writer.mark()
	x.stalls[what] = append(x.stalls[what], m.None.Round(10*time.Millisecond))
	x.longest[what] = append(x.longest[what], m.All.Longest.Round(10*time.Millisecond))
	x.t.Logf("%s %s: the client that writes: %v; that keeps: %v; at the other gateway: %v", time.Now().Format("15:04:05.000"), what, m, x.holder.mark(), x.prober.mark())
}

// mute loses what a gateway sends to a: what a has sent is done, and a does not know.
func (x *twoGuests) mute(m *machine, lose bool) { m.at.Mute(x.t, x.peer, lose) }

// withoutMeta cuts a gateway from the metadata and the blocks in both directions, or ends that.
func (x *twoGuests) withoutMeta(m *machine, cut bool) {
	m.at.Mute(x.t, x.meta.host, cut)
	x.meta.at.Mute(x.t, m.host, cut)
}

// fault is something that happens to the gateway at which a's address is.
type fault struct {
	name  string // in envFaults
	what  string
	long  int  // how often it happens in the long run
	moves bool // the address
	begin func(m *machine)
	end   func(m *machine) // nil: there is nothing to undo
}

// faults are all, the first ones those of the short run.
func (x *twoGuests) faults() (all []fault, short int) {
	t := x.t
	// lost is a fault after a moment in which the gateway's replies are lost, which they stay until its end: its kernel would send them again, also for a process that was killed.
	lost := func(name, what string, long int, begin, end func(m *machine)) fault {
		return fault{name, what, long, true, func(m *machine) {
			x.mute(m, true)
			time.Sleep(lostReplies)
			begin(m)
		}, func(m *machine) {
			x.mute(m, false)
			end(m)
		}}
	}
	return []fault{
		lost("kill", "killed", 12, (*machine).kill, func(m *machine) { m.start() }),
		lost("pause", "paused", 12, func(m *machine) { m.signal(syscall.SIGSTOP) }, func(m *machine) { m.signal(syscall.SIGCONT) }),
		{"stop", "stopped", 12, true, (*machine).stop, func(m *machine) { m.start() }},
		lost("cut", "cut off", 6, func(m *machine) { m.at.Cut(t, true) }, func(m *machine) { m.at.Cut(t, false) }),
		lost("cable", "without the cable of its clients' network", 4, func(m *machine) { m.at.Unplug(t, true) }, func(m *machine) { m.at.Unplug(t, false) }),
		{"metadata", "cut off from the metadata, and not from its clients", 8, true, func(m *machine) { x.withoutMeta(m, true) }, func(m *machine) { x.withoutMeta(m, false) }},
		{"switch", fmt.Sprintf("cut off from its clients for %v, by a switch, and not from the metadata", cutOff), 3, false, func(m *machine) {
			x.mute(m, true)
			time.Sleep(cutOff)
			x.mute(m, false)
		}, nil},
		{"replies", "left without its replies for a moment", 3, false, func(m *machine) {
			x.mute(m, true)
			time.Sleep(lostReplies)
			x.mute(m, false)
		}, nil},
	}, 5
}

// plan is what happens: each fault of the short run once, then, in the long run, all in random order.
func (x *twoGuests) plan() (plan []fault) {
	all, short := x.faults()
	often := map[string]int{}
	for _, f := range all {
		often[f.name] = f.long
	}
	if wanted := os.Getenv(envFaults); wanted != "" {
		short = 0
		clear(often)
		for w := range strings.SplitSeq(wanted, ",") {
			name, times, _ := strings.Cut(w, ":")
			n, err := strconv.Atoi(times)
			if err != nil || !slices.ContainsFunc(all, func(f fault) bool { return f.name == name }) {
				x.t.Fatalf("%s=%s: %q is no name of a fault and how often", envFaults, wanted, w)
			}
			often[name] = n
		}
	} else if !long {
		return all[:short]
	}
	for _, f := range all {
		plan = append(plan, slices.Repeat([]fault{f}, often[f.name])...)
	}
	seed := uint64(time.Now().UnixNano())
	x.t.Logf("seed %d", seed)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
	return append(slices.Clone(all[:short]), plan...)
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
	both := firstAddress + "/24, " + thirdAddress + "/24"
	x := newTwoGuests(t, [3]string{both, secondAddress + "/24", both}, func(_ *kclient.Net, a *kclient.Running) string {
		a.Mount(t, kclient.NFS(firstAddress, 2049, "/default", "/mnt/a", "4.2"))
		return a.Addr()
	})
	for _, f := range x.plan() {
		x.happens(f)
	}
	x.ends()
}

// ends reports what was measured, and checks what was acknowledged, and that the locks were held until now.
func (x *twoGuests) ends() {
	t := x.t
	t.Helper()
	for what, all := range x.stalls {
		slices.Sort(all)
		slices.Sort(x.longest[what])
		t.Logf("%s: without an answer for %v; longest calls %v", what, all, x.longest[what])
	}
	x.writer.verify()
	x.writer.say("quit", "")
	x.holder.say("quit", "ended ")
	if said := x.prober.says("error: "); !strings.Contains(said, "it is free") { // it would have noticed
		t.Errorf("at the end of the locks the prober says %q", said)
	}
}
