//go:build linux

package cluster

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// trouble is something bad that happens to one node, and ends.
type trouble struct {
	name  string
	with  string // more of the name
	node  *machine
	count int // of faults that it is
	begin func()
	hold  time.Duration
	end   func()
	// back reports whether the node is what it was.
	back func() bool
	// away says that a load balancer sends the gateway's clients to others.
	away bool
}

// lane has one fault after another happen to some nodes. Lanes run beside each other, of the same nodes never two.
type lane struct {
	f      *fleet
	name   string
	r      *rand.Rand
	choose func() *trouble

	now     *trouble
	phase   int // of now
	until   time.Time
	ops     int64 // calls that have to be answered before the next one
	waiting time.Time
	done    int            // faults
	kinds   map[string]int // how many of them, by name
}

// Phases of a fault.
const (
	resting = iota
	happening
	healing
)

// between is a duration of a lane's choice.
func (l *lane) between(from, to time.Duration) time.Duration {
	return from + time.Duration(l.r.Int64N(int64(to-from)))
}

// healOps is how many calls must be answered after a fault before the next one of the lane.
const healOps = 20

// step moves the lane on, if it is time. more says whether another fault may begin.
func (l *lane) step(w *work, more bool, happens func(*trouble)) {
	t := l.f.t
	t.Helper()
	now := time.Now()
	switch l.phase {
	case resting:
		if !more || now.Before(l.until) {
			return
		}
		x := l.choose()
		if x == nil {
			return
		}
		l.now, l.phase, l.until = x, happening, now.Add(x.hold)
		l.done += x.count
		l.kinds[x.name] += x.count
		t.Logf("%s %s: %s: %s%s, %v", now.Format("15:04:05.000"), l.name, x.node.name, x.name, x.with, x.hold.Round(time.Millisecond))
		x.begin()
		happens(x)
	case happening:
		if now.Before(l.until) {
			return
		}
		l.now.end()
		l.phase, l.ops, l.waiting = healing, w.ops.Load()+healOps, now
	case healing:
		if l.now.back() && w.ops.Load() >= l.ops {
			l.now, l.phase, l.until = nil, resting, now.Add(l.between(0, 400*time.Millisecond))
			return
		}
		if now.Sub(l.waiting) > patience {
			t.Fatalf("%v after the end of %q at %s: it is back: %v, %d calls were answered since", patience, l.now.name, l.now.node.name, l.now.back(), w.ops.Load()-l.ops+healOps)
		}
	}
}

// running is a node that was not killed, or is ready again.
func running(m *machine) func() bool {
	return func() bool {
		if m.gone() {
			m.t.Fatalf("%s ended by itself", m.name)
		}
		return m.isReady()
	}
}

// kill ends the process without warning, and starts it again.
func killed(m *machine, hold time.Duration) *trouble {
	return &trouble{name: "killed", node: m, count: 1, begin: m.kill, hold: hold, end: func() { m.begin() }, back: func() bool { return running(m)() }}
}

// paused has the process stand still.
func paused(m *machine, hold time.Duration) *trouble {
	return &trouble{name: "paused", node: m, count: 1, begin: func() { m.signal(syscall.SIGSTOP) }, hold: hold, end: func() { m.signal(syscall.SIGCONT) }, back: running(m)}
}

// unplugged takes the host off the network.
func unplugged(m *machine, hold time.Duration) *trouble {
	return &trouble{name: "cut off", node: m, count: 1, begin: func() { m.at.Cut(m.t, true) }, hold: hold, end: func() { m.at.Cut(m.t, false) }, back: running(m)}
}

// muted loses what the host sends to some others; what they send arrives.
func muted(m *machine, to []*machine, hold time.Duration) *trouble {
	var names []string
	for _, o := range to {
		names = append(names, o.name)
	}
	set := func(lose bool) func() {
		return func() {
			for _, o := range to {
				m.at.Mute(m.t, o.host, lose)
			}
		}
	}
	return &trouble{name: "what it sends to some is lost", with: ": " + strings.Join(names, ", "), node: m, count: 1, begin: set(true), hold: hold, end: set(false), back: running(m)}
}

// unheard loses what a gateway sends to clients, until their connections are reset: what they have sent meanwhile is done, and they do not know.
func (f *fleet) unheard(m *machine, hold time.Duration) *trouble {
	return &trouble{name: "its replies are lost", node: m, count: 1, begin: func() { m.at.Mute(m.t, f.net.Addr(), true) }, hold: hold, end: func() {
		f.reset(m)
		m.at.Mute(m.t, f.net.Addr(), false)
	}, back: running(m)}
}

// unnoticed has a gateway's replies be lost for a moment before a fault begins. Its kernel would send them again, also for a process that has ended: so the connections are reset.
func (f *fleet) unnoticed(x *trouble) *trouble {
	begin := x.begin
	x.with = " after its last replies were lost"
	x.begin = func() {
		x.node.at.Mute(f.t, f.net.Addr(), true)
		time.Sleep(lostReplies)
		begin()
		f.reset(x.node)
		x.node.at.Mute(f.t, f.net.Addr(), false)
	}
	return x
}

// nothing is a fault that is over at once, and leaves the node as it is, whatever that is.
func nothing(name string, m *machine, begin func()) *trouble {
	return &trouble{name: name, node: m, count: 1, begin: begin, end: func() {}, back: func() bool { return true }}
}

// reset ends the connections of clients that are at a gateway, or may be.
func (f *fleet) reset(m *machine) {
	for _, c := range f.roamers {
		if c.address != "" || c.at.Load() == m || c.second == m {
			c.Session(0).BreakConnection()
		}
	}
}

// unheardStop is what a node says at its end that could not tell the metadata of it, which was away for as long as that is tried.
const unheardStop = "(nothing acknowledged is lost)"

// lastSaid reports whether the node's log ends with a text.
func (m *machine) lastSaid(text string) bool {
	b, err := os.ReadFile(m.log)
	return err == nil && strings.HasSuffix(strings.TrimSpace(string(b)), text)
}

// stopped ends the process in order, and starts it again.
func stopped(m *machine, hold time.Duration) *trouble {
	begun := false
	return &trouble{name: "stopped", node: m, count: 1, begin: func() { m.signal(syscall.SIGTERM) }, hold: hold, end: func() {}, back: func() bool {
		if !begun {
			if !m.gone() {
				return false
			}
			if code := m.cmd.ProcessState.ExitCode(); code != 0 && !m.lastSaid(unheardStop) {
				m.t.Fatalf("%s was stopped and ended with status %d", m.name, code)
			}
			m.cmd, begun = nil, true
			m.begin()
		}
		return running(m)()
	}}
}

// longestFault is how long a fault of a gateway lasts: longer than its lease. One of a voter lasts a third of that.
const longestFault = fleetLease + 2*time.Second

// gatewayFault happens to one of the gateways that are nothing else.
func (f *fleet) gatewayFault(l *lane) *trouble {
	only := slices.DeleteFunc(slices.Clone(f.gateways), func(m *machine) bool { return slices.Contains(f.stores, m) })
	m, any := only[l.r.IntN(len(only))], f.gateways[l.r.IntN(len(f.gateways))]
	brief := l.between(50*time.Millisecond, 1200*time.Millisecond)
	lasting := l.between(fleetLease, longestFault)
	others := slices.DeleteFunc(slices.Clone(f.stores), func(*machine) bool { return l.r.IntN(2) == 0 })
	if len(others) == 0 {
		others = f.stores
	}
	away := func(x *trouble) *trouble {
		x.away = true
		return x
	}
	switch l.r.IntN(18) {
	case 0:
		return killed(m, brief/4)
	case 1, 2:
		return f.unnoticed(killed(m, brief/4))
	case 3:
		return away(f.unnoticed(killed(m, lasting)))
	case 4, 5:
		return paused(m, brief)
	case 6:
		return away(paused(m, lasting))
	case 7, 8:
		return unplugged(m, brief)
	case 9:
		return away(unplugged(m, lasting))
	case 10, 11:
		return muted(m, others, 2*brief)
	case 12, 13:
		return away(stopped(m, 0))
	case 14:
		return away(nothing("clients are sent to others", any, func() {}))
	case 15:
		return f.unheard(m, brief/4)
	case 16:
		return away(f.unheard(m, brief))
	}
	return nothing("connections of clients are reset", any, func() { f.reset(any) })
}

// storageFault happens to one of the nodes with voters and stores, often to one that leads.
func (f *fleet) storageFault(l *lane) *trouble {
	m := f.stores[l.r.IntN(len(f.stores))]
	if l.r.IntN(2) == 0 {
		if x := f.leads(uint16(l.r.IntN(2)), m); x != nil {
			m = x
		}
	}
	hold := l.between(50*time.Millisecond, longestFault/3)
	others := slices.DeleteFunc(slices.Clone(f.all), func(o *machine) bool { return o == m || l.r.IntN(2) == 0 })
	if len(others) == 0 {
		others = slices.DeleteFunc(slices.Clone(f.all), func(o *machine) bool { return o == m })
	}
	switch l.r.IntN(8) {
	case 0, 1:
		return killed(m, hold/4)
	case 2, 3:
		return paused(m, hold)
	case 4, 5:
		return unplugged(m, hold)
	case 6:
		return muted(m, others, hold)
	}
	return stopped(m, 0)
}

// sendAway sends clients of a gateway to others, as a load balancer does, some later than others, also when the gateway serves again, and lets some stay where they are.
func (f *fleet) sendAway(l *lane, from *machine, later func(time.Duration, func())) {
	others := slices.DeleteFunc(slices.Clone(f.gateways), func(m *machine) bool { return m == from })
	for _, c := range f.roamers {
		if c.address != "" || c.stays || c.at.Load() != from || l.r.IntN(4) == 0 {
			continue
		}
		to := others[l.r.IntN(len(others))]
		later(l.between(0, fleetLease), func() { c.to(to) })
	}
}
