package floating

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
)

// connection is one of a client with an address here.
type connection struct {
	port uint16 // here
	peer netip.AddrPort
}

// A list of connections, as raftmeta.Client.TellConnected has it, has an item for each, all of the family of the address that it is about:
// port here, address and port there for IPv4; address there, port here and there, and zeros for IPv6. So a leader need not know which
// addresses are of which family, and a gateway that knows of no IPv6 asks for no such list.
const (
	itemLen4 = 8
	itemLen6 = 24
)

// itemLen is the length of an item in the list of an address.
func itemLen(of netip.Addr) int {
	if of.Is4() {
		return itemLen4
	}
	return itemLen6
}

func appendItem(b []byte, c connection) []byte {
	e := binary.BigEndian
	if peer := c.peer.Addr(); peer.Is4() {
		b = append(e.AppendUint16(b, c.port), peer.AsSlice()...)
		return e.AppendUint16(b, c.peer.Port())
	}
	b = append(b, c.peer.Addr().AsSlice()...)
	b = e.AppendUint16(e.AppendUint16(b, c.port), c.peer.Port())
	return append(b, 0, 0, 0, 0)
}

// decodeItems is the connections in the list of an address. What others say is not trusted: a list of another length is one of none.
func decodeItems(of netip.Addr, b []byte) (list []connection) {
	n, e := itemLen(of), binary.BigEndian
	if len(b)%n != 0 {
		return nil
	}
	for ; len(b) > 0; b = b[n:] {
		if of.Is4() {
			list = append(list, connection{e.Uint16(b), netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[2:6])), e.Uint16(b[6:]))})
			continue
		}
		if peer := netip.AddrFrom16([16]byte(b)); !peer.Is4In6() {
			list = append(list, connection{e.Uint16(b[16:]), netip.AddrPortFrom(peer, e.Uint16(b[18:]))})
		}
	}
	return list
}

// Connections knows the connections of clients at all addresses of this machine. The zero value is ready.
type Connections struct {
	mu sync.Mutex // guards the following
	at map[netip.Addr]*connections
}

type connections struct {
	open    map[*tracked]connection
	changed chan struct{} // closed at the next change
}

// Listen is ln, with its connections known here.
func (c *Connections) Listen(ln net.Listener) net.Listener { return &listener{ln, c} }

type listener struct {
	net.Listener
	all *Connections
}

func (l *listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nc, nil
	}
	local, okLocal := addrPort(tcp.LocalAddr())
	peer, okPeer := addrPort(tcp.RemoteAddr())
	if !okLocal || !okPeer || local.Addr().Is4() != peer.Addr().Is4() || peer.Addr().Zone() != "" {
		return nc, nil // the last is at a link-local address, which does not move
	}
	t := &tracked{TCPConn: tcp}
	t.closed = sync.OnceFunc(func() { l.all.remove(local.Addr(), t) })
	l.all.add(local.Addr(), t, connection{port: local.Port(), peer: peer})
	return t, nil
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port()), true
}

// tracked is a connection that says when it is closed.
type tracked struct {
	*net.TCPConn
	closed func()
}

// Close implements net.Conn.
func (t *tracked) Close() error {
	t.closed()
	return t.TCPConn.Close()
}

// here is what is known of an address. c.mu is held.
func (c *Connections) here(a netip.Addr) *connections {
	if c.at == nil {
		c.at = make(map[netip.Addr]*connections)
	}
	h := c.at[a]
	if h == nil {
		h = &connections{open: make(map[*tracked]connection), changed: make(chan struct{})}
		c.at[a] = h
	}
	return h
}

func (h *connections) change() {
	close(h.changed)
	h.changed = make(chan struct{})
}

func (c *Connections) add(a netip.Addr, t *tracked, k connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.here(a)
	h.open[t] = k
	h.change()
}

func (c *Connections) remove(a netip.Addr, t *tracked) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.here(a)
	delete(h.open, t)
	h.change()
}

// list is the connections of an address, at most some, and a channel that is closed when there are others.
func (c *Connections) list(a netip.Addr, limit int) (items []byte, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.here(a)
	for _, k := range h.open {
		if limit--; limit < 0 {
			break
		}
		items = appendItem(items, k)
	}
	return items, h.changed
}

// end closes the connections of an address that is not here any more, without a word to the clients, who talk to its next holder.
func (c *Connections) end(a netip.Addr) {
	c.mu.Lock()
	var all []*tracked
	for t := range c.here(a).open {
		all = append(all, t)
	}
	c.mu.Unlock()
	for _, t := range all {
		_ = t.SetLinger(0) // nothing stays of it here, should the address come back
		_ = t.Close()
	}
}
