package wire

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// direct writes to a socket without ever waiting for it.
type direct struct {
	raw  syscall.RawConn
	fn   func(fd uintptr) bool // made once, so that a write allocates nothing
	bufs [][]byte
	n    int
	err  error
}

// newDirect returns nil if nc is not a socket.
func newDirect(nc net.Conn) *direct {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	d := &direct{raw: raw}
	d.fn = func(fd uintptr) bool {
		for {
			d.n, d.err = unix.Writev(int(fd), d.bufs)
			if d.err != unix.EINTR {
				return true
			}
		}
	}
	return d
}

// maxDirectBufs is IOV_MAX; more buffers are left for the waiting path.
const maxDirectBufs = 1024

// write returns how much of bufs the socket took at once, possibly nothing.
func (d *direct) write(bufs [][]byte) (int, error) {
	d.bufs = bufs[:min(len(bufs), maxDirectBufs)]
	err := d.raw.Write(d.fn)
	d.bufs = nil
	if err == nil && d.err != unix.EAGAIN {
		err = d.err
	}
	return max(d.n, 0), err
}

const (
	// userTimeout is how long sent data may be unacknowledged. Without it that keeps a dead connection for a quarter of an hour.
	userTimeout = 25 * time.Second
	// maxRetransmission is the longest pause between two tries to send the same data. Pauses that double are as long as the network was away:
	// a gateway that was cut off from the metadata for 6 s was measured to be heard there 2 to 9 s after that had ended.
	maxRetransmission = time.Second
)

// tune sets the socket options of a data connection. Cubic because the
// default of some kernels, bbr, was measured to stall short bursts on a LAN.
// Failures leave the kernel's defaults, which work as well, only slower.
func tune(nc net.Conn) {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	tc.SetNoDelay(true)
	tc.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3})
	raw, err := tc.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic")
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, int(maxRetransmission.Milliseconds())) // from Linux 6.15 on
	})
}
