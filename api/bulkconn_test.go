package api

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// counted counts writes.
type counted struct {
	net.Conn
	writes atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// endless has bytes for ever.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// A body arrives as it was sent, over TLS too, by few system calls; a connection that nobody reads from is closed at once.
func TestBulk(t *testing.T) {
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	defer certs.Close()
	roots := x509.NewCertPool()
	roots.AddCert(certs.Certificate())
	for what, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(what, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			if secure {
				ln = tls.NewListener(ln, &tls.Config{Certificates: certs.TLS.Certificates})
			}
			d := &dialer{tls: &tls.Config{RootCAs: roots, ServerName: "example.com"}, buffers: newBulkBuffers()}
			dial := d.dial
			if secure {
				dial = d.dialTLS
			}
			peers := make(chan net.Conn, 2)
			go func() {
				for range cap(peers) {
					c, err := ln.Accept()
					if err != nil {
						close(peers)
						return
					}
					if tc, ok := c.(*tls.Conn); ok {
						_ = tc.HandshakeContext(t.Context())
					}
					peers <- c
				}
			}()
			c, err := dial(t.Context(), "tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			peer := <-peers
			bulk := c.(*bulkConn)
			n := &counted{}
			if secure {
				n.Conn = bulk.below.Conn
				bulk.below.Conn = n
			} else {
				n.Conn = bulk.Conn
				bulk.Conn = n
			}
			data := bytes.Repeat([]byte("0123456789abcde"), 1<<20/15)
			go func() {
				_, _ = io.WriteString(c, "head ")
				_, _ = bulk.ReadFrom(onlyReader{bytes.NewReader(data)})
				_, _ = io.WriteString(c, " tail")
				_ = bulk.Close()
			}()
			got, _ := io.ReadAll(peer) // over TLS it ends without a goodbye
			if want := "head " + string(data) + " tail"; string(got) != want {
				t.Errorf("%d bytes came, not the %d that were sent", len(got), len(want))
			}
			if w := n.writes.Load(); w > 8 {
				t.Errorf("%d writes", w)
			}
			peer.Close()

			if c, err = dial(t.Context(), "tcp", ln.Addr().String()); err != nil {
				t.Fatal(err)
			}
			peer = <-peers
			defer peer.Close()
			ended := make(chan error)
			go func() {
				_, err := c.(*bulkConn).ReadFrom(endless{})
				ended <- err
			}()
			if _, err := io.ReadFull(peer, make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
			c.Close()
			if err := <-ended; err == nil {
				t.Error("an endless body has come to its end")
			}
		})
	}
}

type onlyReader struct{ io.Reader }
