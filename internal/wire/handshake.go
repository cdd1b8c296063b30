package wire

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
	"github.com/rackfs/rackfs/vfs"
)

// transport is a connection after its handshake.
type transport struct {
	raw   net.Conn // the connection itself
	nc    net.Conn // where frames are read and written: the TLS connection in ModeTLS, else the raw one
	tls   bool
	in    guard
	out   guard
	peer  Peer
	hello hello // the peer's
	// verify says whether the peer is still accepted; nil: always.
	verify func() error
}

const (
	helloMagic   = 0x53484b52 // "RKHS"
	helloLen     = 32
	maxSelfBytes = 4096
)

// Flags of a hello.
const (
	helloUser = 1 << iota // requests may say of which user's request they are part: earlier releases close the connection then
)

// hello is the message with which each side ends its handshake:
//
//	 0 u32 magic "RKHS" | 4 u8 version | 5 u8 mode | 6 u16 length of self | 8 u32 max meta | 12 u32 max payload
//	16 u32 calls served at a time | 20 u32 flags, unknown ones are ignored | 24 8 B zero | self: name and roles, one a line, ModeInsecure only
type hello struct {
	mode                Mode
	maxMeta, maxPayload uint32
	calls               uint32
	flags               uint32
	self                Peer
}

func (h hello) append(b []byte) ([]byte, error) {
	self := ""
	if h.mode == ModeInsecure {
		self = strings.Join(append([]string{h.self.Name}, h.self.Roles...), "\n")
	}
	if len(self) > maxSelfBytes {
		return nil, vfs.Errorf(vfs.KindInvalid, "wire.handshake", "own name and roles take %d bytes, limit %d", len(self), maxSelfBytes)
	}
	var f [helloLen]byte
	le.PutUint32(f[0:], helloMagic)
	f[4], f[5] = frameVersion, byte(h.mode)
	le.PutUint16(f[6:], uint16(len(self)))
	le.PutUint32(f[8:], h.maxMeta)
	le.PutUint32(f[12:], h.maxPayload)
	le.PutUint32(f[16:], h.calls)
	le.PutUint32(f[20:], h.flags)
	return append(append(b, f[:]...), self...), nil
}

func readHello(r io.Reader, mode Mode) (h hello, err error) {
	var f [helloLen]byte
	if _, err := io.ReadFull(r, f[:]); err != nil {
		return h, err
	}
	if le.Uint32(f[:]) != helloMagic {
		return h, protocolErrorf("the peer does not speak this protocol")
	}
	if f[4] != frameVersion {
		return h, protocolErrorf("peer speaks version %d, this release %d", f[4], frameVersion)
	}
	if Mode(f[5]) != mode {
		return h, protocolErrorf("peer uses security mode %v, we use %v", Mode(f[5]), mode)
	}
	h = hello{mode: mode, maxMeta: le.Uint32(f[8:]), maxPayload: le.Uint32(f[12:]), calls: le.Uint32(f[16:]), flags: le.Uint32(f[20:])}
	n := int(le.Uint16(f[6:]))
	if n > maxSelfBytes || (n > 0 && mode != ModeInsecure) || h.calls == 0 {
		return h, protocolErrorf("malformed hello")
	}
	self := make([]byte, n)
	if _, err := io.ReadFull(r, self); err != nil {
		return h, err
	}
	if n > 0 {
		parts := strings.Split(string(self), "\n")
		h.self = Peer{Name: parts[0], Roles: parts[1:]}
	}
	return h, nil
}

// handshake makes a transport of nc, or an error and leaves nc to the caller.
// It ends with ctx.
func (s Security) handshake(ctx context.Context, nc net.Conn, server bool, mine hello) (*transport, error) {
	mine.mode, mine.self, mine.flags = s.Mode, s.Self, helloUser
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	t, err := s.run(ctx, nc, server, mine)
	if !stop() && err == nil {
		err = context.Cause(ctx) // the deadline may be set already, or a moment later
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return t, nil
}

func (s Security) run(ctx context.Context, nc net.Conn, server bool, mine hello) (*transport, error) {
	if s.Mode == ModeInsecure {
		t := &transport{raw: nc, nc: nc, in: guard{flags: flagCRC}, out: guard{flags: flagCRC}}
		if err := t.greet(nc, server, mine); err != nil {
			return nil, err
		}
		t.peer = t.hello.self
		return t, nil
	}
	cfg, err := s.config(server)
	if err != nil {
		return nil, err
	}
	under := nc
	if s.Mode == ModeMAC {
		under = &recordConn{Conn: nc}
	}
	tc := tls.Client(under, cfg)
	if server {
		tc = tls.Server(under, cfg)
	}
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	cs := tc.ConnectionState()
	if cs.NegotiatedProtocol != cfg.NextProtos[0] {
		return nil, protocolErrorf("the peer did not agree to security mode %v", s.Mode)
	}
	if len(cs.PeerCertificates) == 0 {
		return nil, protocolErrorf("the peer showed no certificate")
	}
	t := &transport{raw: nc, nc: tc, tls: true}
	if t.peer.Name, t.peer.Roles, err = pki.Subject(cs.PeerCertificates[0]); err != nil {
		return nil, err
	}
	if err := t.greet(tc, server, mine); err != nil {
		return nil, err
	}
	if cfg.VerifyConnection != nil {
		t.verify = func() error { return cfg.VerifyConnection(cs) }
	}
	if s.Mode == ModeMAC {
		t.nc, t.tls = nc, false
		if err := t.deriveKeys(&cs, server); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// greet exchanges hellos, the server's first: in TLS 1.3 the client learns only
// from it, or from the alert in its place, whether its certificate was accepted.
func (t *transport) greet(rw io.ReadWriter, server bool, mine hello) (err error) {
	b, err := mine.append(nil)
	if err != nil {
		return err
	}
	send := func() error { _, err := rw.Write(b); return err }
	if server {
		if err := send(); err != nil {
			return err
		}
	}
	if t.hello, err = readHello(rw, mine.mode); err != nil {
		return err
	}
	if !server {
		return send()
	}
	return nil
}

// config is s.TLS with everything set that this protocol's security rests on.
func (s Security) config(server bool) (*tls.Config, error) {
	if s.Mode != ModeTLS && s.Mode != ModeMAC {
		return nil, vfs.Errorf(vfs.KindInvalid, "wire.handshake", "no security mode set")
	}
	if s.TLS == nil || len(s.TLS.Certificates) == 0 && s.TLS.GetCertificate == nil && s.TLS.GetClientCertificate == nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "wire.handshake", "security mode %v needs a TLS configuration with a certificate", s.Mode)
	}
	if server && s.TLS.ClientCAs == nil || !server && s.TLS.RootCAs == nil {
		// The system's roots would let in anybody with a certificate from any of them.
		return nil, vfs.Errorf(vfs.KindInvalid, "wire.handshake", "the TLS configuration names no CA")
	}
	if !server && (s.TLS.ServerName == "" || s.TLS.InsecureSkipVerify) {
		return nil, vfs.Errorf(vfs.KindInvalid, "wire.handshake", "the TLS configuration does not check the node's name")
	}
	cfg := s.TLS.Clone()
	cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	cfg.NextProtos = []string{fmt.Sprintf("rackfs-wire/%d-%v", frameVersion, s.Mode)}
	cfg.SessionTicketsDisabled = true
	cfg.ClientSessionCache = nil
	cfg.DynamicRecordSizingDisabled = true
	cfg.GetConfigForClient = nil
	if server {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return cfg, nil
}

func (t *transport) deriveKeys(cs *tls.ConnectionState, server bool) error {
	const n = 16
	k, err := cs.ExportKeyingMaterial("EXPORTER-rackfs-wire-mac", nil, 4*n)
	if err != nil {
		return err
	}
	toServer, err := newMACGuard(k[:n], k[n:2*n])
	if err != nil {
		return err
	}
	toClient, err := newMACGuard(k[2*n:3*n], k[3*n:])
	if err != nil {
		return err
	}
	t.in, t.out = toClient, toServer
	if server {
		t.in, t.out = toServer, toClient
	}
	return nil
}

func newMACGuard(frameKey, bodyKey []byte) (g guard, err error) {
	g.flags = flagMAC
	for i, k := range [2][]byte{frameKey, bodyKey} {
		b, err := aes.NewCipher(k)
		if err != nil {
			return g, err
		}
		a, err := cipher.NewGCM(b)
		if err != nil {
			return g, err
		}
		if i == 0 {
			g.frame = a
		} else {
			g.body = a
		}
	}
	return g, nil
}

// recordConn gives crypto/tls, which reads ahead, only what belongs to the TLS
// record it is in, so that nothing of the stream after the last one is lost.
type recordConn struct {
	net.Conn
	head [5]byte
	pend []byte // part of head not yet passed on
	left int    // bytes of the record after head not yet read
}

func (c *recordConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.pend) == 0 && c.left == 0 {
		if _, err := io.ReadFull(c.Conn, c.head[:]); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = io.EOF // as a plain connection would end
			}
			return 0, err
		}
		c.pend, c.left = c.head[:], int(c.head[3])<<8|int(c.head[4])
	}
	if len(c.pend) > 0 {
		n := copy(p, c.pend)
		c.pend = c.pend[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}
