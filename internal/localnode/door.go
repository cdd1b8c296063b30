package localnode

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// refusalEvery is how often a refusal of one address is logged, refusalsKept how many addresses are remembered for that.
	refusalEvery = time.Minute
	refusalsKept = 1024
)

// doorkeeper closes connections that are not from the node's own workloads.
type doorkeeper struct {
	net.Listener
	s *Server
}

// Accept implements net.Listener.
func (d *doorkeeper) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, perr := netip.ParseAddrPort(c.RemoteAddr().String())
		if perr == nil && d.s.mayMount(from.Addr()) {
			return c, nil
		}
		c.Close()
		if from.IsValid() && d.s.refused.first(from.Addr(), time.Now()) {
			d.s.log.Warn("local volumes: a connection was refused: only workloads of this node may mount them; their networks are set by local.clients", "from", from)
		}
	}
}

// refusals remembers which refusals were logged lately.
type refusals struct {
	mu   sync.Mutex
	told map[netip.Addr]time.Time
}

func (r *refusals) init() { r.told = map[netip.Addr]time.Time{} }

// first reports whether the refusal is to be logged.
func (r *refusals) first(a netip.Addr, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.told[a]; ok && now.Sub(t) < refusalEvery {
		return false
	}
	if len(r.told) >= refusalsKept {
		clear(r.told)
	}
	r.told[a] = now
	return true
}
