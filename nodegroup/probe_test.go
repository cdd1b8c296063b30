package nodegroup

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// silentConn answers some of its calls only, and none while the caller waits for others.
type silentConn struct {
	calls   atomic.Int32
	answers func(call int32) bool
	second  func() // if set, is called when a second call has begun
}

func (c *silentConn) Close() {}

func (c *silentConn) Call(ctx context.Context, _ wire.Op, _ []byte, _ net.Buffers, _ []byte) (*wire.Reply, error) {
	n := c.calls.Add(1)
	if n == 2 && c.second != nil {
		c.second()
	}
	if !c.answers(n) {
		<-ctx.Done()
		return nil, vfs.Wrap("test", ctx.Err())
	}
	info := blockstore.InfoReply{Store: segment.ID{1}, Writable: true}
	return &wire.Reply{Meta: info.Append(nil)}, nil
}

// A store whose machine says nothing is down after one turn of the leader; one that answers a second probe is not.
func TestSilentStore(t *testing.T) {
	uuid := segment.ID{1}
	for _, c := range []struct {
		name    string
		answers func(call int32) bool
		calls   int32
		want    State
	}{
		{"answers", func(int32) bool { return true }, 1, Up},
		{"answers the second", func(n int32) bool { return n == 2 }, 2, Up},
		{"silent", func(int32) bool { return false }, 2, Down},
	} {
		t.Run(c.name, func(t *testing.T) {
			timing := DefaultTiming
			timing.FailAfter = time.Millisecond
			o := Options{Timing: timing, ProbeTimeout: time.Hour}
			if c.calls == 1 {
				o.Timing.FailAfter = time.Hour
			}
			m := New(o)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			conn := &silentConn{answers: c.answers}
			if c.want == Down {
				conn.second = cancel // the time of both is over
			}
			var h health
			for _, x := range m.probeStore(ctx, conn, &metapb.Store{Id: 1, Uuid: uuid[:]}) {
				h.observe(timing, x, m.o.Now())
			}
			if h.state != c.want || conn.calls.Load() != c.calls {
				t.Errorf("%v after %d probes, want %v after %d", h.state, conn.calls.Load(), c.want, c.calls)
			}
		})
	}
}
