package rpc

import (
	"context"
	"log/slog"
	"net"
)

// ClientConfig configures the calling side of a connection.
type ClientConfig struct {
	Limits Limits
	Logger *slog.Logger

	// Callbacks, if set, serves versions CallbackLow to CallbackHigh of
	// program CallbackProg, called by the peer.
	Callbacks                               Program
	CallbackProg, CallbackLow, CallbackHigh uint32
}

// NewClientConn makes nc a connection for Call. The caller ends it with Close
// and waits for Done. Without traffic it stays open.
func NewClientConn(nc net.Conn, cfg ClientConfig) *Conn {
	if cfg.Limits.IdleTimeout == 0 {
		cfg.Limits.IdleTimeout = noIdleTimeout
	}
	ctx, cancel := context.WithCancel(context.Background())
	ep := newEndpoint(ctx, cfg.Limits, cfg.Logger)
	if cfg.Callbacks != nil {
		ep.programs = programs{{cfg.CallbackProg, versionRange{cfg.CallbackLow, cfg.CallbackHigh}, cfg.Callbacks}}
	}
	c := newConn(ep, 1, nc)
	go func() {
		defer cancel()
		c.serve()
	}()
	return c
}

// noIdleTimeout is long enough to mean never.
const noIdleTimeout = 1 << 62
