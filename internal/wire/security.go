package wire

import (
	"crypto/tls"
)

// Mode says how a connection is protected.
type Mode uint8

const (
	// ModeTLS is mutual TLS 1.3 for everything.
	ModeTLS Mode = iota + 1
	// ModeMAC is a mutual TLS 1.3 handshake, then readable frames with a MAC each.
	ModeMAC
	// ModeInsecure protects nothing and believes any name. Unit tests only.
	ModeInsecure
)

func (m Mode) String() string {
	switch m {
	case ModeTLS:
		return "tls"
	case ModeMAC:
		return "mac"
	case ModeInsecure:
		return "insecure"
	}
	return "unset"
}

// Security is how one side protects its connections. Both sides must name the
// same mode. The zero value refuses every connection.
type Security struct {
	Mode Mode
	// TLS is the side's configuration in ModeTLS and ModeMAC, as package
	// pki builds it: own certificate, the cluster's CA, and, for a client, the
	// node name it expects. Versions, ALPN and tickets are set by this package. A server asks VerifyConnection at each request again: a peer
	// that is not accepted any more is cut off.
	TLS *tls.Config
	// Self is what this side claims to be in ModeInsecure.
	Self Peer
}
