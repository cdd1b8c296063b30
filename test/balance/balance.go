//go:build linux

// Package balance is a load balancer of layer 4 for tests: it spreads connections over servers, whatever is sent by them. It asks no server whether it is
// well: a connection goes to the next one that accepts it.
package balance

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/kclient"
)

// connectTimeout is how long a server may take to accept a connection before the next one is tried.
const connectTimeout = 500 * time.Millisecond

// Balancer of some servers. It ends with the test.
type Balancer struct {
	net     *kclient.Net
	ln      net.Listener
	servers []string // host:port
	wg      sync.WaitGroup

	mu   sync.Mutex // guards the following
	next int
	out  map[string]bool
	open map[net.Conn]string // by server; both sides of each connection
	over bool
}

// New makes one that listens at an address of the network's host side.
func New(t *testing.T, n *kclient.Net, at string, servers ...string) *Balancer {
	t.Helper()
	b := &Balancer{net: n, servers: servers, out: map[string]bool{}, open: map[net.Conn]string{}}
	err := n.Do(func() (err error) {
		b.ln, err = net.Listen("tcp4", at)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	b.wg.Go(func() {
		for {
			c, err := b.ln.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { b.serve(c) })
		}
	})
	t.Cleanup(func() {
		b.ln.Close()
		b.mu.Lock()
		b.over = true
		for c := range b.open {
			c.Close()
		}
		b.mu.Unlock()
		b.wg.Wait()
	})
	return b
}

// pick is the next server in use, "" if there is none.
func (b *Balancer) pick() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.servers {
		b.next = (b.next + 1) % len(b.servers)
		if s := b.servers[b.next]; !b.out[s] {
			return s
		}
	}
	return ""
}

// dial connects to a server, each of them tried once.
func (b *Balancer) dial() (s net.Conn, server string) {
	for range b.servers {
		if server = b.pick(); server == "" {
			break
		}
		ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
		s, err := b.net.Dial(ctx, server)
		cancel()
		if err == nil {
			return s, server
		}
	}
	return nil, ""
}

func (b *Balancer) serve(c net.Conn) {
	defer c.Close()
	s, server := b.dial()
	if s == nil {
		return
	}
	defer s.Close()
	b.mu.Lock()
	if b.over || b.out[server] {
		b.mu.Unlock()
		return
	}
	b.open[c], b.open[s] = server, server
	b.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, s}, {s, c}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			way[0].Close() // NFS has no use for one direction
			way[1].Close()
		})
	}
	both.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, c)
	delete(b.open, s)
}

// Use puts a server in use, or takes it out and ends its connections, as a balancer does with one that has failed.
func (b *Balancer) Use(server string, use bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.out[server] = !use
	for c, s := range b.open {
		if s == server && !use {
			c.Close()
		}
	}
}

// Spread is how many connections each server has.
func (b *Balancer) Spread() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	counts := map[string]int{}
	for _, s := range b.open {
		counts[s]++
	}
	for s := range counts {
		counts[s] /= 2
	}
	return counts
}
