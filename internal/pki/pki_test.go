package pki

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

var now = time.Now()

func newCA(t *testing.T) *CA {
	t.Helper()
	ca, err := NewCA("test", now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *CA, name string, roles ...string) *Identity {
	t.Helper()
	id, err := ca.Issue(name, roles, []net.IP{net.IPv4(127, 0, 0, 1)}, now)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestCASurvivesReload(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	ca, err := LoadOrCreateCA(vfile.OS{}, dir, "test", now)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateCA(vfile.OS{}, dir, "test", now)
	if err != nil {
		t.Fatal(err)
	}
	if ca.Fingerprint() != again.Fingerprint() || len(ca.Fingerprint()) != 64 {
		t.Fatalf("fingerprint %q became %q", ca.Fingerprint(), again.Fingerprint())
	}
	// A node issued before the reload trusts one issued after it.
	if err := handshake(issue(t, ca, "a").ServerTLS(), issue(t, again, "b").ClientTLS("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := CreateCA(vfile.OS{}, dir, "test", now); vfs.KindOf(err) != vfs.KindExists {
		t.Fatalf("second CreateCA: %v", err)
	}
	st, err := os.Stat(filepath.Join(dir, CAKeyFile))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("key mode %v, %v", st.Mode(), err)
	}
	if tmp, _ := filepath.Glob(filepath.Join(dir, "*.tmp*")); len(tmp) != 0 {
		t.Fatalf("left behind: %v", tmp)
	}
}

func TestUnfinishedCreationIsRepeated(t *testing.T) {
	dir := t.TempDir()
	if _, err := CreateCA(vfile.OS{}, dir, "test", now); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, CACertFile)); err != nil { // the state before the last step
		t.Fatal(err)
	}
	if _, err := LoadOrCreateCA(vfile.OS{}, dir, "test", now); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(vfile.OS{}, dir); err != nil {
		t.Fatal(err)
	}
}

func TestIdentitySurvivesReload(t *testing.T) {
	ca, dir := newCA(t), t.TempDir()
	if _, err := LoadIdentity(vfile.OS{}, dir); vfs.KindOf(err) != vfs.KindNotFound {
		t.Fatalf("empty directory: %v", err)
	}
	for _, name := range []string{"node-1", "node-2"} { // the second replaces the first
		if err := issue(t, ca, name, "gateway", "meta").Save(vfile.OS{}, dir); err != nil {
			t.Fatal(err)
		}
		id, err := LoadIdentity(vfile.OS{}, dir)
		if err != nil {
			t.Fatal(err)
		}
		if id.Name() != name || !slices.Equal(id.Roles(), []string{"gateway", "meta"}) || id.CAFingerprint() != ca.Fingerprint() {
			t.Fatalf("loaded %q %v", id.Name(), id.Roles())
		}
	}
}

func TestBadFilesAreRefused(t *testing.T) {
	ca := newCA(t)
	for _, c := range []struct {
		what  string
		spoil func(dir string) error
		kind  vfs.Kind
	}{
		{"open key", func(d string) error { return os.Chmod(filepath.Join(d, NodeKeyFile), 0o644) }, vfs.KindAccess},
		{"garbage certificate", func(d string) error { return os.WriteFile(filepath.Join(d, NodeCertFile), []byte("x"), 0o644) }, vfs.KindCorrupt},
		{"huge certificate", func(d string) error {
			return os.WriteFile(filepath.Join(d, NodeCertFile), make([]byte, 1<<20), 0o644)
		}, vfs.KindCorrupt},
		{"certificate in PEM that is none", func(d string) error {
			return os.WriteFile(filepath.Join(d, NodeCertFile), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o644)
		}, vfs.KindCorrupt},
		{"key of another", func(d string) error { return writeKey(vfile.OS{}, d, NodeKeyFile, issue(t, ca, "b").key) }, vfs.KindInvalid},
		{"another CA", func(d string) error { return writeCert(vfile.OS{}, d, CACertFile, newCA(t).cert) }, vfs.KindInvalid},
		{"no key", func(d string) error { return os.Remove(filepath.Join(d, NodeKeyFile)) }, vfs.KindNotFound},
	} {
		t.Run(c.what, func(t *testing.T) {
			dir := t.TempDir()
			if err := issue(t, ca, "a").Save(vfile.OS{}, dir); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadIdentity(vfile.OS{}, dir); err == nil || vfs.KindOf(err) != c.kind {
				t.Fatalf("LoadIdentity: %v, want kind %v", err, c.kind)
			}
		})
	}
}

func TestNames(t *testing.T) {
	ca := newCA(t)
	for name, ok := range map[string]bool{
		"a": true, "node-1": true, "rack1.node-7": true, strings.Repeat("x", 63): true,
		"": false, "-a": false, "a.": false, "a..b": false, "A": false, "a b": false, "a*": false, "10.0.0.1": false,
		"*.x": false, "ä": false, "a\x00": false, strings.Repeat("x", 64): false,
	} {
		if _, err := ca.Issue(name, nil, nil, now); (err == nil) != ok {
			t.Errorf("Issue(%q): %v", name, err)
		} else if err != nil && vfs.KindOf(err) != vfs.KindBadName {
			t.Errorf("Issue(%q): kind %v", name, vfs.KindOf(err))
		}
	}
	if _, err := ca.Issue("a", []string{"not a role"}, nil, now); vfs.KindOf(err) != vfs.KindBadName {
		t.Errorf("bad role: %v", err)
	}
}

// handshake runs a handshake in which both ends send a byte, and joins their errors.
func handshake(server, client *tls.Config) error {
	a, b := net.Pipe()
	end := func(raw net.Conn, c *tls.Conn, first bool) error {
		defer raw.Close() // not c's: its farewell waits for a peer that may not read
		var x [1]byte
		if first {
			if _, err := c.Write(x[:]); err != nil {
				return err
			}
		}
		if _, err := io.ReadFull(c, x[:]); err != nil {
			return err
		}
		if !first {
			if _, err := c.Write(x[:]); err != nil {
				return err
			}
		}
		return nil
	}
	ch := make(chan error, 1)
	go func() { ch <- end(a, tls.Server(a, server), true) }()
	err := end(b, tls.Client(b, client), false)
	return errors.Join(err, <-ch)
}

func TestMutualVerification(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	a, b := issue(t, ca, "a", "block"), issue(t, ca, "b", "gateway")
	if err := handshake(a.ServerTLS(), b.ClientTLS("a")); err != nil {
		t.Fatalf("good pair: %v", err)
	}
	anonymous := b.ClientTLS("a")
	anonymous.Certificates = nil
	old, err := ca.Issue("old", nil, nil, now.Add(-NodeValidity-clockSlack-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string][2]*tls.Config{
		"another node answers":    {a.ServerTLS(), b.ClientTLS("c")},
		"client of another CA":    {a.ServerTLS(), issue(t, other, "b").ClientTLS("a")},
		"server of another CA":    {issue(t, other, "a").ServerTLS(), b.ClientTLS("a")},
		"client without any":      {a.ServerTLS(), anonymous},
		"expired client":          {a.ServerTLS(), old.ClientTLS("a")},
		"expired server":          {old.ServerTLS(), b.ClientTLS("old")},
		"no name expected at all": {a.ServerTLS(), b.ClientTLS("")},
	} {
		if err := handshake(c[0], c[1]); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func TestSubjectRefusesACA(t *testing.T) {
	if name, _, err := Subject(newCA(t).cert); err == nil {
		t.Fatalf("a CA's certificate passed as node %q", name)
	}
}
