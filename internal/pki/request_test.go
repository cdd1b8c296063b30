package pki

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// A node makes its key, a CA signs what the CA decides, and a renewal is for the same key.
func TestRequest(t *testing.T) {
	now := time.Now()
	ca, err := NewCA("c", now)
	if err != nil {
		t.Fatal(err)
	}
	files := vfile.NewMem(1 << 20)
	if _, err := LoadRequest(files, "/n/pki", "n1"); vfs.KindOf(err) != vfs.KindNotFound {
		t.Errorf("no key: %v", err)
	}
	made, err := NewRequest("n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Save(files, "/n/pki"); err != nil {
		t.Fatal(err)
	}
	req, err := LoadRequest(files, "/n/pki", "n1")
	if err != nil {
		t.Fatal(err)
	}
	a, err := RequestKey(made.DER)
	b, err2 := RequestKey(req.DER)
	if errors.Join(err, err2) != nil || string(a) != string(b) || len(a) != 32 {
		t.Errorf("keys %x %x, %v %v", a, b, err, err2)
	}
	cert, err := ca.Sign(req.DER, "other", []string{"block"}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	id, err := req.Identity(ca.CACert(), cert)
	if err != nil || id.Name() != "other" || strings.Join(id.Roles(), " ") != "block" {
		t.Fatalf("%v %v", id, err)
	}
	if err := id.Save(files, "/n/pki"); err != nil {
		t.Fatal(err)
	}
	again, err := id.Renewal()
	if err != nil {
		t.Fatal(err)
	}
	later := now.Add(NodeValidity / 2)
	if cert, err = ca.Sign(again.DER, "other", []string{"block"}, nil, later); err != nil {
		t.Fatal(err)
	}
	fresh, err := again.Identity(ca.CACert(), cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.SaveCert(files, "/n/pki"); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadIdentity(files, "/n/pki"); err != nil || !got.NotAfter().After(id.NotAfter()) {
		t.Errorf("renewed: %v", err)
	}

	foreign, err := NewCA("d", now)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := NewRequest("n2")
	if err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func() error{
		"another CA":     func() error { _, err := again.Identity(foreign.CACert(), cert); return err },
		"another key":    func() error { _, err := stranger.Identity(ca.CACert(), cert); return err },
		"no certificate": func() error { _, err := again.Identity(ca.CACert(), []byte("x")); return err },
		"no request":     func() error { _, err := ca.Sign([]byte("x"), "n", nil, nil, now); return err },
		"changed request": func() error {
			d := append([]byte(nil), req.DER...)
			d[len(d)-1] ^= 1
			_, err := ca.Sign(d, "n", nil, nil, now)
			return err
		},
		"a bad name": func() error { _, err := ca.Sign(req.DER, "N/1", nil, nil, now); return err },
		"a bad role": func() error { _, err := ca.Sign(req.DER, "n", []string{"A"}, nil, now); return err },
	} {
		if f() == nil {
			t.Errorf("%s is accepted", what)
		}
	}

	// The CA's key makes another directory one that issues; a key of another CA does not.
	for _, c := range []*CA{foreign, ca} {
		key, err := c.KeyPEM()
		if err != nil {
			t.Fatal(err)
		}
		if err := SaveCAKey(files, "/n/pki", key); (err == nil) != (c == ca) {
			t.Errorf("key of CA %s: %v", c.Fingerprint(), err)
		}
	}
	if got, err := LoadCA(files, "/n/pki"); err != nil || got.Fingerprint() != ca.Fingerprint() {
		t.Errorf("the CA in the other directory: %v", err)
	}
	if _, err := files.Stat(filepath.Join("/n/pki", CAKeyFile)); errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Who knows the fingerprint only speaks to a node of that CA with that role, at a time at which its certificate is valid.
func TestPinned(t *testing.T) {
	now := time.Now()
	ca, err := NewCA("c", now)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewCA("c", now)
	if err != nil {
		t.Fatal(err)
	}
	handshake := func(ca *CA, roles []string, pin string, at time.Time) error {
		id, err := ca.Issue("n1", roles, nil, now)
		if err != nil {
			t.Fatal(err)
		}
		cfg := NewHolder(id).ServerTLS()
		cfg.ClientAuth = tls.VerifyClientCertIfGiven
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = tls.Server(a, cfg).Handshake()
			a.Close()
		}()
		var found []byte
		err = tls.Client(b, PinnedTLS(pin, "meta", func() time.Time { return at }, func(c []byte) { found = c })).Handshake()
		b.Close()
		<-done
		if (err == nil) != (string(found) == string(ca.CACert())) {
			t.Errorf("the CA that was found: %d bytes, after %v", len(found), err)
		}
		return err
	}
	if err := handshake(ca, []string{"meta"}, ca.Fingerprint(), now); err != nil {
		t.Error(err)
	}
	for what, c := range map[string]struct {
		err  error
		says string
	}{
		"another CA":   {handshake(other, []string{"meta"}, ca.Fingerprint(), now), "fingerprint"},
		"another role": {handshake(ca, []string{"block"}, ca.Fingerprint(), now), "not meta"},
		"an old clock": {handshake(ca, []string{"meta"}, ca.Fingerprint(), now.Add(-2*clockSlack)), "clock"},
		"too late":     {handshake(ca, []string{"meta"}, ca.Fingerprint(), now.Add(2*NodeValidity)), "clock"},
	} {
		if vfs.KindOf(c.err) != vfs.KindUnauthorized || !strings.Contains(c.err.Error(), c.says) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
}
