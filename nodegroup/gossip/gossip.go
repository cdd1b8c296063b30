package gossip

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"log"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// DefaultProbeEvery is how often a node probes one other. A node that is silent is dead after about 5 s in a small cluster.
	DefaultProbeEvery = time.Second
	// DefaultRejoinEvery is how often it joins those that are not alive.
	DefaultRejoinEvery = 5 * time.Second

	// joinsAtOnce bounds the attempts of one round.
	joinsAtOnce = 8
	// streamTimeout bounds the exchange of states with one node.
	streamTimeout = 2 * time.Second
	// leaveTimeout bounds the wait for saying goodbye.
	leaveTimeout = 500 * time.Millisecond
	// deadKept is how long a member that is gone is remembered.
	deadKept = 24 * time.Hour
	// reclaimAfter is how long a node must be dead until its name is taken from another address.
	reclaimAfter = time.Second
)

// Options of a Gossip. Those of the first group are required.
type Options struct {
	Self    Member
	Listen  string   // host:port, TCP and UDP
	Keys    [][]byte // 16, 24 or 32 bytes; the first one encrypts
	Cluster string   // keeps clusters apart

	// Seeds are where nodes that are in the cluster may gossip, by name.
	Seeds func() map[string]string
	// OnChange is told that a member is alive or not any more. It must not block.
	OnChange func(m Member, alive bool)

	ProbeEvery  time.Duration // 0: DefaultProbeEvery
	RejoinEvery time.Duration // 0: DefaultRejoinEvery
	Logger      *slog.Logger

	// transport, if set, replaces memberlist's own; tests cut it.
	transport func(*memberlist.NetTransportConfig) (memberlist.Transport, error)
}

// Gossip is a node's part in it.
type Gossip struct {
	o    Options
	list *memberlist.Memberlist
	ring *memberlist.Keyring
	stop context.CancelFunc
	done sync.WaitGroup

	closing sync.Once
	closed  error

	mu   sync.Mutex // guards the following
	seen map[string]Seen
}

// Start begins to gossip until Close.
func Start(o Options) (*Gossip, error) {
	const op = "gossip"
	o.ProbeEvery, o.RejoinEvery = cmp.Or(o.ProbeEvery, DefaultProbeEvery), cmp.Or(o.RejoinEvery, DefaultRejoinEvery)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnChange == nil {
		o.OnChange = func(Member, bool) {}
	}
	meta, err := o.Self.append(nil)
	if err != nil {
		return nil, err
	}
	if len(o.Keys) == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "no key")
	}
	ring, err := memberlist.NewKeyring(o.Keys, o.Keys[0])
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "port %q", port)
	}
	ip, err := advertised(o.Self.Host)
	if err != nil {
		return nil, err
	}
	g := &Gossip{o: o, ring: ring, seen: map[string]Seen{}}
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label, c.Keyring = o.Self.Name, "rackfs "+o.Cluster, ring
	c.BindAddr, c.BindPort, c.AdvertiseAddr, c.AdvertisePort = cmp.Or(host, "0.0.0.0"), int(number), ip, int(number)
	c.ProbeInterval, c.ProbeTimeout = o.ProbeEvery, o.ProbeEvery/2
	c.GossipInterval = min(c.GossipInterval, o.ProbeEvery/2)
	c.TCPTimeout, c.DeadNodeReclaimTime = streamTimeout, reclaimAfter
	c.Delegate, c.Events = delegate(meta), events{g}
	c.Logger = log.New(logWriter{o.Logger}, "", 0)
	if o.transport != nil {
		if c.Transport, err = o.transport(&memberlist.NetTransportConfig{BindAddrs: []string{c.BindAddr}, BindPort: c.BindPort, Logger: c.Logger}); err != nil {
			return nil, err
		}
	}
	if g.list, err = memberlist.Create(c); err != nil {
		return nil, vfs.Errorf(vfs.KindUnavailable, op, "%w", err)
	}
	run, stop := context.WithCancel(context.Background())
	g.stop = stop
	g.done.Go(func() { g.rejoin(run) })
	return g, nil
}

// advertised is the address of a host: memberlist wants a number.
func advertised(host string) (string, error) {
	if net.ParseIP(host) != nil {
		return host, nil
	}
	addrs, err := net.LookupHost(host)
	if err != nil || len(addrs) == 0 {
		return "", vfs.Errorf(vfs.KindUnavailable, "gossip", "the address of %s: %w", host, err)
	}
	return addrs[0], nil
}

// rejoin joins those that are not alive, until ctx ends.
func (g *Gossip) rejoin(ctx context.Context) {
	tick := time.NewTicker(g.o.RejoinEvery)
	defer tick.Stop()
	for {
		var joins sync.WaitGroup
		for _, addr := range g.absent() {
			joins.Go(func() {
				if _, err := g.list.Join([]string{addr}); err != nil {
					g.o.Logger.Debug("gossip: rejoin", "addr", addr, "err", err)
				}
			})
		}
		joins.Wait()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// absent are addresses of some nodes that are not alive as far as is known here.
func (g *Gossip) absent() []string {
	where := map[string]string{}
	if g.o.Seeds != nil {
		maps.Copy(where, g.o.Seeds())
	}
	g.mu.Lock()
	for name, s := range g.seen {
		switch {
		case s.State == Alive:
			delete(where, name)
		case time.Since(s.Since) > deadKept:
			delete(g.seen, name)
		case where[name] == "":
			where[name] = s.Addr
		}
	}
	g.mu.Unlock()
	delete(where, g.o.Self.Name)
	out := slices.Sorted(maps.Values(where))
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out[:min(len(out), joinsAtOnce)]
}

// View is all members that are known, by name, this one too.
func (g *Gossip) View() []Seen {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.SortedFunc(maps.Values(g.seen), func(a, b Seen) int { return cmp.Compare(a.Name, b.Name) })
}

// Alive is a member, if it is alive.
func (g *Gossip) Alive(name string) (Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.seen[name]
	return s.Member, s.State == Alive
}

// SetKeys changes the keys: the first one encrypts, all are understood.
func (g *Gossip) SetKeys(keys [][]byte) error {
	const op = "gossip keys"
	if len(keys) == 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "no key")
	}
	for _, k := range keys {
		if err := g.ring.AddKey(k); err != nil {
			return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
		}
	}
	if err := g.ring.UseKey(keys[0]); err != nil {
		return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
	}
	for _, old := range g.ring.GetKeys() {
		if slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, old) }) {
			continue
		}
		if err := g.ring.RemoveKey(old); err != nil {
			return vfs.Errorf(vfs.KindInvalid, op, "%w", err)
		}
	}
	return nil
}

// Keys is how many are understood.
func (g *Gossip) Keys() int { return len(g.ring.GetKeys()) }

// Close says goodbye and ends it. It may be called again.
func (g *Gossip) Close() error {
	g.closing.Do(func() {
		g.stop()
		g.done.Wait()
		if err := g.list.Leave(leaveTimeout); err != nil {
			g.o.Logger.Debug("gossip: leave", "err", err)
		}
		g.closed = vfs.Wrap("gossip", g.list.Shutdown())
	})
	return g.closed
}

// events are told by memberlist, one at a time.
type events struct{ g *Gossip }

func (e events) NotifyJoin(n *memberlist.Node)   { e.g.note(n, Alive) }
func (e events) NotifyUpdate(n *memberlist.Node) { e.g.note(n, Alive) }
func (e events) NotifyLeave(n *memberlist.Node)  { e.g.note(n, Dead) } // whether it said goodbye is not told

func (g *Gossip) note(n *memberlist.Node, s State) {
	m, err := decode(n.Name, n.Meta)
	if err != nil {
		g.o.Logger.Debug("gossip", "err", err)
	}
	x := Seen{Member: m, State: s, Since: time.Now(), Addr: n.Address()}
	g.mu.Lock()
	if old, had := g.seen[n.Name]; had && old.State == s {
		x.Since = old.Since
	}
	g.seen[n.Name] = x
	g.mu.Unlock()
	if m.Name != g.o.Self.Name {
		g.o.OnChange(m, s == Alive)
	}
}

// delegate is the meta data of this node.
type delegate []byte

func (d delegate) NodeMeta(int) []byte             { return d }
func (delegate) NotifyMsg([]byte)                  {}
func (delegate) GetBroadcasts(_, _ int) [][]byte   { return nil }
func (delegate) LocalState(bool) []byte            { return nil }
func (delegate) MergeRemoteState(_ []byte, _ bool) {}

// logWriter passes lines of memberlist on. What it calls errors is mostly that others are away, which the state of members says.
type logWriter struct{ log *slog.Logger }

var _ io.Writer = logWriter{}

func (w logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelDebug
	if strings.HasPrefix(line, "[ERR]") {
		level = slog.LevelInfo
	}
	if i := strings.IndexByte(line, ']'); i >= 0 {
		line = strings.TrimSpace(line[i+1:])
	}
	w.log.Log(context.Background(), level, line)
	return len(b), nil
}
