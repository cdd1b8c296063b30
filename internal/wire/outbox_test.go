package wire

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// failingConn takes a number of bytes and then fails. Its first Write waits for gate.
type failingConn struct {
	net.Conn
	gate chan struct{}
	left int
}

func (c *failingConn) Write(b []byte) (int, error) {
	<-c.gate
	n := min(len(b), c.left)
	c.left -= n
	if n < len(b) {
		return n, errors.New("cable cut")
	}
	return n, nil
}

func (*failingConn) SetWriteDeadline(time.Time) error { return nil }
func (*failingConn) Close() error                     { return nil }

// What is known about each frame after a write failed in the middle of a batch.
func TestFrameStatesAfterAFailedWrite(t *testing.T) {
	for _, c := range []struct {
		tls   bool
		taken int // bytes of the three frames of 64 that the connection took
		want  [3]uint8
	}{
		{false, 64 + 64 + 63, [3]uint8{frameWritten, frameUnknown, frameUnsent}},
		{false, 64 + 63, [3]uint8{frameWritten, frameUnsent, frameUnsent}},
		{false, 63, [3]uint8{frameUnsent, frameUnsent, frameUnsent}},
		{false, 3 * 64, [3]uint8{frameWritten, frameWritten, frameWritten}},
		{true, 64 + 64 + 63, [3]uint8{frameWritten, frameUnknown, frameUnknown}}, // TLS's count proves nothing
	} {
		nc := &failingConn{gate: make(chan struct{}), left: c.taken}
		o := newOutbox(&transport{raw: nc, nc: nc, tls: c.tls, out: guard{flags: flagCRC}}, time.Minute)
		var wg sync.WaitGroup
		wg.Go(o.run)
		var f [3]outFrame
		for i := range f {
			f[i].init(&header{typ: typeCancel, id: uint64(i)}, nil, nil)
			if err := o.send(&f[i]); err != nil {
				t.Fatal(err)
			}
		}
		close(nc.gate) // the first frame is being written, the others are queued
		o.drain()
		for i := range f {
			state, ch := o.settled(&f[i])
			if ch != nil {
				<-ch
				state, _ = o.settled(&f[i])
			}
			if state != c.want[i] {
				t.Errorf("%+v: frame %d is in state %d, want %d", c, i, state, c.want[i])
			}
		}
		o.fail(net.ErrClosed)
		late := outFrame{}
		late.init(&header{typ: typeCancel}, nil, nil)
		if err := o.send(&late); err == nil || late.state != frameUnsent {
			t.Errorf("%+v: sent after the end", c)
		}
		wg.Wait()
	}
}

func TestTakeBack(t *testing.T) {
	nc := &failingConn{gate: make(chan struct{}), left: 1 << 20}
	o := newOutbox(&transport{raw: nc, nc: nc, out: guard{flags: flagCRC}}, time.Minute)
	var wg sync.WaitGroup
	wg.Go(o.run)
	var f [3]outFrame
	for i := range f {
		f[i].init(&header{typ: typeCancel, id: uint64(i)}, nil, nil)
		if err := o.send(&f[i]); err != nil {
			t.Fatal(err)
		}
	}
	if o.takeBack(&f[0]) {
		t.Error("took back what is being written")
	}
	if !o.takeBack(&f[1]) || o.takeBack(&f[1]) {
		t.Error("a queued frame is taken back once")
	}
	close(nc.gate)
	o.drain()
	if f[0].state != frameWritten || f[1].state != frameUnsent || f[2].state != frameWritten || nc.left != 1<<20-2*headerLen {
		t.Errorf("states %d %d %d, %d bytes left", f[0].state, f[1].state, f[2].state, nc.left)
	}
	o.fail(net.ErrClosed)
	wg.Wait()
}
