package rpc

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Limits bound what a connection costs. Zero fields take the defaults.
type Limits struct {
	MaxRecord      int           // bytes of one record, default 1 MiB + 64 KiB
	Workers        int           // concurrent calls of one connection, default 64
	MaxConns       int           // connections of a server, default 4096
	Memory         int           // bytes of call records held, all connections together, default 512 MiB
	IdleTimeout    time.Duration // without a call before the connection is closed, default 15 min
	RecordTimeout  time.Duration // for the rest of a record that has begun, default 1 min
	CrowdedTimeout time.Duration // for the same while others wait for Memory, default 5 s
	WriteTimeout   time.Duration // for the peer to take one batch of replies, or half of it, default 1 min
}

const (
	defaultMaxRecord      = 1<<20 + 64<<10
	defaultWorkers        = 64
	defaultMaxConns       = 4096
	defaultMemory         = 512 << 20
	defaultIdleTimeout    = 15 * time.Minute
	defaultRecordTimeout  = time.Minute
	defaultCrowdedTimeout = 5 * time.Second
	defaultWriteTimeout   = time.Minute

	// maxFragments of one record; a sender that needs more is not honest.
	maxFragments = 4096

	// cancelGrace is how long Shutdown waits for calls whose context it ended.
	cancelGrace = 5 * time.Second

	// maxIdleWorkers is how many goroutines of a connection wait for the next call, in any case, and maxIdleShared of all
	// connections together: a new one for each call would have to grow its stack again.
	maxIdleWorkers = 4
	maxIdleShared  = 256

	// maxBatchBytes and maxBatchSlices end one writev.
	maxBatchBytes  = 4 << 20
	maxBatchSlices = 512
)

func (l Limits) withDefaults() Limits {
	or := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	orTime := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	or(&l.MaxRecord, defaultMaxRecord)
	or(&l.Workers, defaultWorkers)
	or(&l.MaxConns, defaultMaxConns)
	or(&l.Memory, defaultMemory)
	orTime(&l.IdleTimeout, defaultIdleTimeout)
	orTime(&l.RecordTimeout, defaultRecordTimeout)
	orTime(&l.CrowdedTimeout, defaultCrowdedTimeout)
	orTime(&l.WriteTimeout, defaultWriteTimeout)
	return l
}

// Config of a Server.
type Config struct {
	Limits Limits

	// Accept decides by address whether a new connection is served (CIDR
	// rules); a refused one is closed without a word. nil accepts all.
	Accept func(remote netip.AddrPort) bool

	// Opened and Closed, if set, are called once for each connection; Closed
	// after its last call ended.
	Opened, Closed func(*Conn)

	// StartTLS upgrades a connection after an AUTH_TLS probe (RFC 9289, 4.1).
	// It returns after the handshake. nil: the server has no TLS.
	StartTLS func(ctx context.Context, nc net.Conn) (net.Conn, error)

	Logger *slog.Logger // nil: nothing is logged
}

// Stats are what a Server did since its start, and does now.
type Stats struct {
	Conns        int64 // open now
	Running      int64 // calls running now
	Accepted     int64 // connections
	Refused      int64 // connections, by Accept or MaxConns
	Calls        int64
	Stalled      int64 // calls that waited for Limits.Memory before they were read
	BytesRead    int64 // whole records
	BytesWritten int64
	BadRecords   int64 // connections closed because of what they sent
}
