package api

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
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
			d := &dialer{tls: &tls.Config{RootCAs: roots, ServerName: "example.com"}, buffers: newBulkBuffers(), gathers: newGathers()}
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

// What a handler writes in large pieces over TLS goes to the kernel in large pieces, too, and arrives as it was.
func TestBulkAnswers(t *testing.T) {
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	defer certs.Close()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcde"), 1<<20/15)
	n := &countingListener{Listener: inner}
	srv := Serve(TLS(n, &tls.Config{Certificates: certs.TLS.Certificates}), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		before := n.writes.Load()
		out := newPatient(r.Context(), w)
		for b := data; len(b) > 0; {
			m, err := out.Write(b[:min(len(b), 700_000)])
			if err != nil {
				t.Errorf("write: %v", err)
				return
			}
			b = b[m:]
		}
		if w := n.writes.Load() - before; w > 12 {
			t.Errorf("%d writes", w)
		}
	}), slog.New(slog.DiscardHandler))
	defer func() {
		if err := srv.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	client := certs.Client()
	defer client.CloseIdleConnections()
	resp, err := client.Get("https://" + inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came, %v, not the %d that were sent", len(got), err, len(data))
	}
}

// countingListener counts what is written to its connections.
type countingListener struct {
	net.Listener
	writes atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedBy{c, &l.writes}, nil
}

type countedBy struct {
	net.Conn
	writes *atomic.Int64
}

func (c *countedBy) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}
