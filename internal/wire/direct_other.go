//go:build !linux

package wire

import (
	"net"
	"time"
)

// direct exists on Linux only; elsewhere the writer goroutine does all writing.
type direct struct{}

func newDirect(net.Conn) *direct { return nil }

func (*direct) write([][]byte) (int, error) { return 0, nil }

func tune(nc net.Conn) {
	if tc, ok := nc.(*net.TCPConn); ok {
		tc.SetNoDelay(true)
		tc.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
}
