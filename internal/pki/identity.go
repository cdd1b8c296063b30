package pki

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"slices"
	"time"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// Identity is a node's certificate and key, and the CA it trusts.
type Identity struct {
	ca   *x509.Certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Name is the node's name.
func (id *Identity) Name() string { return id.cert.Subject.CommonName }

// Roles are the roles the certificate was issued for, sorted.
func (id *Identity) Roles() []string { return rolesOf(id.cert) }

// rolesOf sorts, because the encoding is a set with an order of its own.
func rolesOf(c *x509.Certificate) []string {
	r := slices.Clone(c.Subject.OrganizationalUnit)
	slices.Sort(r)
	return slices.Compact(r)
}

// NotAfter is when the certificate expires.
func (id *Identity) NotAfter() time.Time { return id.cert.NotAfter }

// CAFingerprint is the SHA-256 of the CA's certificate in hex.
func (id *Identity) CAFingerprint() string { return fingerprint(id.ca) }

// Save writes the identity to dir of files, over an older one.
func (id *Identity) Save(files vfile.FS, dir string) error {
	const op = "pki.save"
	if err := vfile.MkdirAllSync(files, dir); err != nil {
		return vfs.Wrap(op, err)
	}
	// Key and certificate are two files: whoever crashes between them finds a pair that does not
	// match. So the old certificate goes first, and what is found then is "no identity".
	if err := removeSync(files, dir, NodeCertFile); err != nil {
		return vfs.Wrap(op, err)
	}
	if err := writeKey(files, dir, NodeKeyFile, id.key); err != nil {
		return vfs.Wrap(op, err)
	}
	if err := writeCert(files, dir, CACertFile, id.ca); err != nil {
		return vfs.Wrap(op, err)
	}
	return vfs.Wrap(op, writeCert(files, dir, NodeCertFile, id.cert))
}

// LoadIdentity reads the identity in dir of files and checks that it belongs together.
// Without one the error is of kind vfs.KindNotFound.
func LoadIdentity(files vfile.FS, dir string) (*Identity, error) {
	const op = "pki.load"
	cert, key, err := loadPair(files, filepath.Join(dir, NodeCertFile), filepath.Join(dir, NodeKeyFile))
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	ca, err := loadCert(files, filepath.Join(dir, CACertFile))
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%s was not issued by the CA beside it: %w", filepath.Join(dir, NodeCertFile), err)
	}
	if _, _, err := Subject(cert); err != nil {
		return nil, err
	}
	if err := vfile.Adopt(files, dir); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	return &Identity{ca: ca, cert: cert, key: key}, nil
}

func (id *Identity) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Certificates: []tls.Certificate{{
			Certificate: [][]byte{id.cert.Raw},
			PrivateKey:  id.key,
			Leaf:        id.cert,
		}},
	}
}

func (id *Identity) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(id.ca)
	return p
}

// ServerTLS is a configuration that demands a certificate of this CA from every client.
func (id *Identity) ServerTLS() *tls.Config {
	c := id.config()
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = id.pool()
	return c
}

// PublicTLS is a configuration for clients that have no certificate. The CA goes with the certificate, for who knows its fingerprint only.
func (id *Identity) PublicTLS() *tls.Config {
	c := id.config()
	c.MinVersion = tls.VersionTLS12
	c.Certificates[0].Certificate = append(c.Certificates[0].Certificate, id.ca.Raw)
	return c
}

// ClientTLS is a configuration that accepts one server: the node of that name.
func (id *Identity) ClientTLS(node string) *tls.Config {
	c := id.config()
	c.RootCAs = id.pool()
	c.ServerName = node
	return c
}

// Subject is the node's name and sorted roles in a certificate that was verified before.
func Subject(cert *x509.Certificate) (name string, roles []string, err error) {
	name = cert.Subject.CommonName
	if err := checkName("node", name); err != nil {
		return "", nil, err
	}
	if !slices.Contains(cert.DNSNames, name) {
		return "", nil, vfs.Errorf(vfs.KindUnauthorized, "pki", "certificate of %q is not a node's", name)
	}
	return name, rolesOf(cert), nil
}
