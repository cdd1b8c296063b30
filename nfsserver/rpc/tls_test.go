package rpc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/rackfs/rackfs/nfsserver/rpc"
)

// RFC 9289, 4.1: after the probe and STARTTLS everything is encrypted.
func TestStartTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"server"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	f := start(t, rpc.Config{StartTLS: func(ctx context.Context, nc net.Conn) (net.Conn, error) {
		c := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
		return c, c.HandshakeContext(ctx)
	}})
	probe := func(proc uint32) []byte {
		return record(words(7, 0, 2, progTest, 3, proc, uint32(rpc.AuthTLS), 0, 0, 0), 1000)
	}
	send := func(nc net.Conn, p, want []byte) {
		t.Helper()
		if _, err := nc.Write(p); err != nil {
			t.Fatal(err)
		}
		if got := readRecord(t, nc); !bytes.Equal(got, want) {
			t.Fatalf("reply %x, want %x", got, want)
		}
	}
	refused := words(7, 1, 1, 1, 1) // AUTH_ERROR, AUTH_BADCRED
	nc := f.raw(t)
	send(nc, probe(procEcho), refused) // only NULL may carry it
	// A call counts as under way until its worker is done, a moment after its
	// reply, and nothing may be under way: as clients do, probe first.
	nc = f.raw(t)
	send(nc, probe(0), slices.Concat(words(7, 1, 0, 0, 8), []byte("STARTTLS"), words(0)))
	c := tls.Client(nc, &tls.Config{RootCAs: roots, ServerName: "server", NextProtos: []string{"sunrpc"}})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	null := record(words(7, 0, 2, progTest, 3, 0, 0, 0, 0, 0), 1000)
	send(c, null, words(7, 1, 0, 0, 0, 0))
	send(c, probe(0), refused) // not twice
	big := slices.Concat(words(7, 0, 2, progTest, 3, procEcho, 0, 0, 0, 0), pattern(300000))
	send(c, record(big, 1<<20), slices.Concat(words(7, 1, 0, 0, 0, 0), pattern(300000)))

	// A handshake that fails ends the connection.
	nc = f.raw(t)
	send(nc, probe(0), slices.Concat(words(7, 1, 0, 0, 8), []byte("STARTTLS"), words(0)))
	if _, err := nc.Write(null); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; { // an alert may come first
		_, err = nc.Read(make([]byte, 100))
	}
}
