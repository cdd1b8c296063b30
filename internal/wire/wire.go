package wire

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// Op names an operation of the service behind a connection. Wire does not
// interpret it.
type Op uint16

// Handler serves one call. The context ends with the caller's deadline, its
// cancel frame, its connection, or the server. An error becomes an error reply:
// the kind of a vfs.Error and its text cross the wire, any other error arrives
// as vfs.KindIO. A handler that returns nil without having called Reply
// sends an empty reply. An error returned after Reply is only logged. The context is about the
// user's request that the caller's was about (vfs.RequestOf).
type Handler func(ctx context.Context, call *Call) error

// Peer is who is at the other end of a connection. In ModeTLS and ModeMAC
// it comes from the verified certificate.
type Peer struct {
	Name  string   // node name
	Roles []string // roles the certificate was issued for
}

// HasRole reports whether the peer was certified for role.
func (p Peer) HasRole(role string) bool { return slices.Contains(p.Roles, role) }

// Defaults and hard bounds.
const (
	// MaxMeta and MaxPayload bound the two parts of any frame, in bytes.
	MaxMeta    = 1<<20 + 64<<10
	MaxPayload = 4<<20 + 64<<10

	// DefaultCallsPerConn is how many calls a server runs at once for one connection.
	DefaultCallsPerConn = 64
	// DefaultMaxCalls is how many calls a server runs at once in total.
	DefaultMaxCalls = 1024
	// DefaultMaxRequestBytes bounds the bytes of requests a server holds.
	DefaultMaxRequestBytes = 256 << 20
	// DefaultMaxConns bounds the connections of a server.
	DefaultMaxConns = 4096

	// DefaultSmallConns and DefaultBulkConns are a client's connections per class.
	DefaultSmallConns = 2
	DefaultBulkConns  = 4
	// DefaultBulkBytes is the payload (sent or expected) from which on a call is bulk.
	DefaultBulkBytes = 16 << 10

	// DefaultHandshakeTimeout bounds dial and handshake.
	DefaultHandshakeTimeout = 5 * time.Second
	// DefaultStallTimeout is how long a started frame may make no progress in
	// either direction before its connection is given up.
	DefaultStallTimeout = 30 * time.Second
	// DefaultCancelGrace is how long a cancelled Call waits for the transport to
	// let go of the caller's buffers before it breaks the connection.
	DefaultCancelGrace = 250 * time.Millisecond
	// DefaultBackoffMin and DefaultBackoffMax bound the pause after a failed dial.
	DefaultBackoffMin = 50 * time.Millisecond
	DefaultBackoffMax = 2 * time.Second
)

// ServerOptions configures a Server. Zero values mean the defaults; Security has none.
type ServerOptions struct {
	Security Security

	MaxMeta, MaxPayload int   // bytes per frame; lower than the package's bounds or 0
	CallsPerConn        int   // handlers at once for one connection
	MaxCalls            int   // handlers at once in total
	MaxRequestBytes     int64 // bytes of requests held until their handler returns or takes them
	MaxConns            int   // connections, including those in their handshake

	HandshakeTimeout time.Duration
	StallTimeout     time.Duration
	Logger           *slog.Logger // default slog.Default()
}

// ClientOptions configures a Client. Zero values mean the defaults; Security has none.
type ClientOptions struct {
	Security Security

	MaxMeta, MaxPayload   int // bytes per frame; lower than the package's bounds or 0
	SmallConns, BulkConns int // connections per class
	BulkBytes             int // payload from which on a call goes to the bulk class

	HandshakeTimeout time.Duration // dial and handshake
	StallTimeout     time.Duration
	CancelGrace      time.Duration
	BackoffMin       time.Duration
	BackoffMax       time.Duration
	Logger           *slog.Logger // default slog.Default()
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

func (o ServerOptions) withDefaults() ServerOptions {
	o.MaxMeta = min(orDefault(o.MaxMeta, MaxMeta), MaxMeta)
	o.MaxPayload = min(orDefault(o.MaxPayload, MaxPayload), MaxPayload)
	o.CallsPerConn = orDefault(o.CallsPerConn, DefaultCallsPerConn)
	o.MaxCalls = orDefault(o.MaxCalls, DefaultMaxCalls)
	o.MaxRequestBytes = max(orDefault(o.MaxRequestBytes, DefaultMaxRequestBytes), int64(o.MaxMeta+o.MaxPayload))
	o.MaxConns = orDefault(o.MaxConns, DefaultMaxConns)
	o.HandshakeTimeout = orDefault(o.HandshakeTimeout, DefaultHandshakeTimeout)
	o.StallTimeout = orDefault(o.StallTimeout, DefaultStallTimeout)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

func (o ClientOptions) withDefaults() ClientOptions {
	o.MaxMeta = min(orDefault(o.MaxMeta, MaxMeta), MaxMeta)
	o.MaxPayload = min(orDefault(o.MaxPayload, MaxPayload), MaxPayload)
	o.SmallConns = orDefault(o.SmallConns, DefaultSmallConns)
	o.BulkConns = orDefault(o.BulkConns, DefaultBulkConns)
	o.BulkBytes = orDefault(o.BulkBytes, DefaultBulkBytes)
	o.HandshakeTimeout = orDefault(o.HandshakeTimeout, DefaultHandshakeTimeout)
	o.StallTimeout = orDefault(o.StallTimeout, DefaultStallTimeout)
	o.CancelGrace = orDefault(o.CancelGrace, DefaultCancelGrace)
	o.BackoffMin = orDefault(o.BackoffMin, DefaultBackoffMin)
	o.BackoffMax = max(orDefault(o.BackoffMax, DefaultBackoffMax), o.BackoffMin)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}
