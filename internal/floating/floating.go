// Package floating moves addresses between the gateways of a node group: each address that clients mount is on the network interface of one of
// them, and comes to another one when that has died, was cut off or stops.
//
// # Who has an address
//
// An address is a name that is registered at shard 0 with a lease, as gateways are (raftmeta.Lease): one registration at a time, which ends when it was not
// renewed for a lease, or was given up. So nobody takes an address while its holder may still think that it is his. Every gateway looks which names
// are free, and registers one that is. The first of its list is its own: for settleTime after its start it takes no other one that it has not seen in use, so that gateways that begin together have
// one each. A gateway that may not answer clients for now, as its own lease is over, takes none. An address stays where it is, also when the gateway whose own it is comes back; it moves when its holder stops.
//
// # On the interface
//
// An interface without a carrier, as when its cable is out, has no address that moves: who has one there gives it up after carrierGrace, so that clients find it elsewhere although
// the metadata is reached by another interface. That a switch behind it loses what is sent nobody can see here.
//
// The address is put on the interface that has another one of its network, with a lifetime of a few seconds in the kernel, and renewed as long as the lease is valid: a process that was
// killed or stands still loses it by itself. What remains of an earlier process is removed at the start. While it is held, neighbours are told once a second, by gratuitous ARP or an unsolicited
// neighbour advertisement, as one message may be lost, and a machine that was cut off may still answer for the address. An address of IPv6 is deprecated
// as long as it is there: it answers, but is not chosen for connections that the machine begins, which would end when it moves.
//
// # The clients' connections
//
// A client whose gateway stands still, or was cut off, has a connection that does not end: what it sent was acknowledged, or is sent again in ever longer
// intervals, until its NFS asks after a minute. So the holder tells the leader of shard 0 which connections there are at its address (Connections), when they
// change and once a second if that leader does not know; others ask once a second, so that they know even if the leader dies too. Who takes an address has
// these connections ended: tickle says how. All this is a hint that may be missing or old. One that is late by some milliseconds makes a client wait for its own timeout.
//
// What is served at the address is not this package's: a gateway that has it answers nothing it may not.
package floating

import (
	"context"
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	clusterShard = 0
	// lookEvery is how often it is looked for addresses that nobody has.
	lookEvery = 200 * time.Millisecond
	// renewEvery is how often the lifetime of an address in the kernel is renewed, announceEvery how often neighbours are told.
	renewEvery    = 500 * time.Millisecond
	announceEvery = time.Second
	// lifetime is that of an address in the kernel. It is shorter than any lease.
	lifetime = 2 * time.Second
	// carrierGrace is for how long an interface may be without a carrier: links flap, and an address that moves is a pause for its clients.
	carrierGrace = time.Second
	// settleTime is for how long a gateway that has begun takes its own address only.
	settleTime = 10 * time.Second
	// hearEvery is how often it is asked who is connected at addresses that others have, and tellEvery how often the leader is asked whether it knows.
	hearEvery = time.Second
	tellEvery = time.Second
	// tellPause is between two lists of connections that changed at once.
	tellPause = 20 * time.Millisecond
	// tickleEvery is between two tries to have clients see that their connections ended, tickles how many there are: answers may be lost, and a
	// client answers one such segment in half a second. Neighbours are told with each.
	tickleEvery = 550 * time.Millisecond
	tickles     = 5
	// endTimeout bounds giving an address up at the end.
	endTimeout = 5 * time.Second
)

// Config of a Pool. All fields but the last are required.
type Config struct {
	Addresses []netip.Prefix // of the group's gateways, with the length of their network; the gateway's own first
	// Ready says whether the gateway may answer clients now. One that may not takes no address.
	Ready func() bool
	// Client makes a client of the metadata; each address has one of its own.
	Client      func() (*raftmeta.Client, error)
	Connections *Connections // of clients, with all addresses
	Logger      *slog.Logger
	Lease       time.Duration // of an address, 0: as meta nodes are configured
}

// Pool takes part in having a group's addresses. Close it.
type Pool struct {
	cfg    Config
	cancel context.CancelFunc
	wg     sync.WaitGroup

	retired atomic.Bool

	mu   sync.Mutex // guards held
	held []netip.Addr
}

// Start begins to look for addresses.
func Start(cfg Config) (*Pool, error) {
	p := &Pool{cfg: cfg}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	for i, a := range cfg.Addresses {
		if i, err := interfaceOf(a); err == nil {
			_ = removeAddress(i.Index, a.Addr()) // of a process that was killed
		}
		client, err := cfg.Client()
		if err != nil {
			p.Close()
			return nil, err
		}
		h := &holder{pool: p, address: a, own: i == 0, meta: client, log: cfg.Logger.With("address", a.Addr())}
		p.wg.Go(func() {
			defer client.Close()
			h.run(ctx)
		})
	}
	return p, nil
}

// Retire has no more addresses taken: what this gateway took now it would give up a moment later, and clients that came meanwhile would have to go on.
func (p *Pool) Retire() {
	if p != nil {
		p.retired.Store(true)
	}
}

// Close gives up what is held, and waits for that.
func (p *Pool) Close() {
	if p == nil {
		return
	}
	p.cancel()
	p.wg.Wait()
}

// Held are the addresses that are on this machine now.
func (p *Pool) Held() []netip.Addr {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.held)
}

func (p *Pool) holds(a netip.Addr, is bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held = slices.DeleteFunc(p.held, func(x netip.Addr) bool { return x == a }); is {
		p.held = append(p.held, a)
	}
}

// holder is one address.
type holder struct {
	pool    *Pool
	address netip.Prefix
	own     bool
	meta    *raftmeta.Client
	log     *slog.Logger
	told    string // the last trouble, which is told once
	used    bool   // somebody had it since this gateway began
	heard   time.Time
	version uint64    // of peers
	peers   []byte    // who is connected, as its holder told last
	forget  time.Time // until when those are told of by this holder, too
}

// name is what is registered at shard 0; no node is called so.
func (h *holder) name() string { return "address " + h.address.Addr().String() }

func (h *holder) run(ctx context.Context) {
	began := time.Now()
	for pause(ctx, lookEvery) {
		l, ifc, err := h.take(ctx, h.own || time.Since(began) >= settleTime)
		switch {
		case l != nil && ctx.Err() != nil:
			h.end(l)
		case err != nil && ctx.Err() == nil && err.Error() != h.told:
			h.told = err.Error()
			h.log.Warn("gateway: an address cannot be taken; will be tried again", "err", err)
		case l != nil:
			h.told = ""
			h.hold(ctx, l, ifc)
		}
	}
}

// take registers the address if nobody has it, and it may be taken; nil if not.
func (h *holder) take(ctx context.Context, settled bool) (*raftmeta.Lease, *net.Interface, error) {
	ifc, err := interfaceOf(h.address)
	if err != nil {
		return nil, nil, err
	}
	if !hasCarrier(ifc) {
		return nil, nil, vfs.Errorf(vfs.KindUnavailable, "floating address", "interface %s has no carrier: look after its cable", ifc.Name)
	}
	if h.pool.retired.Load() || !h.pool.cfg.Ready() {
		return nil, nil, nil
	}
	r, err := h.meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Origins{Origins: &metapb.OriginsQ{Names: true}}})
	if err != nil {
		return nil, nil, err
	}
	if slices.Contains(r.GetOrigins().GetNames(), h.name()) {
		h.used = true
		if time.Since(h.heard) >= hearEvery {
			h.hear(ctx)
		}
		return nil, nil, nil
	}
	if !settled && !h.used {
		return nil, nil, nil
	}
	var incarnation [16]byte
	rand.Read(incarnation[:])
	// Not given up half-way: what is registered then would be nobody's for a lease.
	whole, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(endTimeout, cancel) })()
	l, err := h.meta.Reregister(whole, clusterShard, h.name(), incarnation[:], raftmeta.LeaseOptions{Length: h.pool.cfg.Lease})
	if k := vfs.KindOf(err); k == vfs.KindExists || k == vfs.KindSuperseded { // another one was faster
		h.used = true
		return nil, nil, nil
	}
	return l, ifc, err
}

// hear asks who is connected at the address. What was heard before stays if nobody knows.
func (h *holder) hear(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, hearEvery)
	defer cancel()
	h.heard = time.Now()
	if version, peers, err := h.meta.Connected(ctx, h.name(), h.version); err == nil && version != 0 && version != h.version {
		h.version, h.peers = version, peers
	}
}

// tell has the leader of shard 0 know who is connected while the address is held by origin, until ctx ends. At first it tells those of the former holder too: should the address go on before they have
// found out, its next holder tells them.
func (h *holder) tell(ctx context.Context, origin uint64) {
	both := len(h.peers) > 0
	var (
		items   []byte
		changed <-chan struct{}
		version uint64
		known   uint64
	)
	for ctx.Err() == nil {
		select {
		case <-changed:
			changed = nil
		default:
		}
		if both && time.Now().After(h.forget) {
			both, changed = false, nil
		}
		if changed == nil {
			items, changed = h.connected()
			version = mathrand.Uint64() | 1
		}
		if k, err := h.meta.TellConnected(ctx, h.name(), origin, version, version != known, items); err == nil {
			told := known
			if known = k; known != version {
				continue // it is told the whole now
			}
			if told != known {
				h.log.Debug("gateway: the leader knows who is connected", "connections", len(items)/itemLen(h.address.Addr()))
			}
		}
		if !pause(ctx, tellPause) {
			return
		}
		wait := time.NewTimer(tellEvery)
		select {
		case <-changed:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
}

// connected are the connections at the address, with those of its former holder at first, and a channel that is closed when there are others.
func (h *holder) connected() (items []byte, changed <-chan struct{}) {
	items, changed = h.pool.cfg.Connections.list(h.address.Addr(), raftmeta.MaxConnected)
	if time.Now().Before(h.forget) {
		items = append(items, h.peers[:min(len(h.peers), raftmeta.MaxConnected*itemLen(h.address.Addr())-len(items))]...)
	}
	return items, changed
}

// tellLast has the leader know those who came at last, when no more can come.
func (h *holder) tellLast(origin uint64) {
	time.Sleep(tellPause) // they are being accepted
	ctx, cancel := context.WithTimeout(context.Background(), tellEvery)
	defer cancel()
	items, _ := h.connected()
	if _, err := h.meta.TellConnected(ctx, h.name(), origin, mathrand.Uint64()|1, true, items); err != nil {
		h.log.Info("gateway: clients of an address that is given up may notice after their timeout only", "err", err)
	}
}

// tickle has those who were connected with the former holder find out, some times until ctx ends, or this process stood still and another one may have the address.
func (h *holder) tickle(ctx context.Context, l *raftmeta.Lease, ifc *net.Interface, list []connection) {
	for try := range tickles {
		if !l.Valid() {
			return
		}
		if try > 0 { // the first announcement may be lost, and with it the answers to the first segment
			_ = announce(ifc, h.address.Addr())
		}
		err := tickle(h.address.Addr(), list)
		if vfs.KindOf(err) == vfs.KindPerm {
			h.log.Warn("gateway: clients of an address that came here may notice after their timeout only", "err", err)
			return
		}
		if !pause(ctx, tickleEvery) {
			return
		}
	}
}

// end gives a registration up.
func (h *holder) end(l *raftmeta.Lease) {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if err := l.End(ctx, true); err != nil {
		h.log.Warn("gateway: others wait for an address until its lease is over", "err", err)
	}
}

// hold has the address on the interface while its lease is valid, until that ended, or ctx.
func (h *holder) hold(ctx context.Context, l *raftmeta.Lease, ifc *net.Interface) {
	address := h.address.Addr()
	h.hear(ctx)
	former := decodeItems(address, h.peers)
	holding, let := context.WithCancel(ctx)
	var helpers, telling sync.WaitGroup
	defer helpers.Wait()
	defer telling.Wait()
	defer let()
	h.forget = time.Now().Add(tickles * tickleEvery)
	telling.Go(func() { h.tell(holding, l.Origin()) })
	placed := false
	var announced time.Time
	remove := func() {
		if placed {
			placed = false
			h.pool.holds(address, false)
			if err := removeAddress(ifc.Index, address); err != nil {
				h.log.Warn("gateway: an address is not taken off its interface; the kernel does it in some seconds", "err", err)
			}
			h.log.Info("gateway: an address is not here any more", "interface", ifc.Name)
		}
	}
	ends := func(last func(origin uint64)) {
		let()
		telling.Wait() // the next holder is to know those that end here now
		remove()
		last(l.Origin())
		h.pool.cfg.Connections.end(address)
	}
	give := func() {
		ends(h.tellLast)
		h.end(l)
	}
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	carried := time.Now() // when the interface had a carrier
	for {
		if now, err := net.InterfaceByIndex(ifc.Index); err == nil && hasCarrier(now) {
			carried = time.Now()
		} else if time.Since(carried) > carrierGrace {
			h.log.Warn("gateway: an address is given up, for its interface has no carrier", "interface", ifc.Name)
			give()
			return
		}
		if l.Valid() {
			err := putAddress(ifc.Index, address, lifetime)
			if err == nil && !placed {
				placed, announced = true, time.Time{}
				h.pool.holds(address, true)
				h.log.Info("gateway: an address is here", "interface", ifc.Name, "connections", len(former))
			}
			if err == nil && time.Since(announced) >= announceEvery {
				announced = time.Now()
				err = announce(ifc, address)
			}
			if placed && len(former) > 0 {
				list := former
				former = nil
				helpers.Go(func() { h.tickle(holding, l, ifc, list) })
			}
			if err != nil && err.Error() != h.told {
				h.told = err.Error()
				h.log.Error("gateway: an address cannot be put on its interface, or not be announced", "interface", ifc.Name, "err", err)
			}
		} else {
			remove()
		}
		select {
		case <-tick.C:
		case <-l.Ended():
			ends(func(uint64) {}) // another one tells
			return
		case <-ctx.Done():
			give()
			return
		}
	}
}

// hasCarrier says whether an interface is up and its cable is in, as far as the machine can see.
func hasCarrier(i *net.Interface) bool { return i.Flags&net.FlagRunning != 0 }

// interfaceOf is the interface that has another address of a's network.
func interfaceOf(a netip.Prefix) (*net.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInternal, "floating address", "%w", err)
	}
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, x := range addrs {
			n, ok := x.(*net.IPNet)
			if !ok {
				continue
			}
			if there := unmap(n.IP); a.Masked().Contains(there) && there != a.Addr() {
				return &i, nil
			}
		}
	}
	return nil, vfs.Errorf(vfs.KindInvalid, "floating address", "no interface of this machine has an address in %v: give it one there", a.Masked())
}

func unmap(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
