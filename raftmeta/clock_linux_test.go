package raftmeta

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/wire"
)

// The validity of leases is told by the time since the machine was booted, in which it may have been suspended.
func TestLeaseClock(t *testing.T) {
	c, err := NewClient(ClientOptions{Nodes: []string{"n"}, Resolver: ResolverFunc(func(context.Context, string) (string, error) { return "", nil }), Security: func(string) wire.Security { return wire.Security{} }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	var up float64
	if _, err := fmt.Sscan(string(b), &up); err != nil {
		t.Fatal(err)
	}
	from := time.Duration(up * float64(time.Second))
	if now := c.opt.Monotonic(); now < from-time.Second || now > from+time.Minute {
		t.Fatalf("the clock of leases is at %v, the machine was booted %v ago", now, from)
	}
}

func BenchmarkLeaseClock(b *testing.B) {
	for b.Loop() {
		sinceBoot()
	}
}
