package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// Request is a key without a certificate yet.
type Request struct {
	key *ecdsa.PrivateKey
	// DER is the signing request, which proves that its sender has the key. What it says about names is not believed.
	DER []byte
}

// NewRequest makes a key for node name.
func NewRequest(name string) (*Request, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, vfs.Wrap("pki.request", err)
	}
	return request(name, key)
}

// Save writes the key to dir of files, where no certificate may be: it is to be durable before anybody hears of it.
func (r *Request) Save(files vfile.FS, dir string) error {
	const op = "pki.save"
	if err := vfile.MkdirAllSync(files, dir); err != nil {
		return vfs.Wrap(op, err)
	}
	if err := removeSync(files, dir, NodeCertFile); err != nil {
		return vfs.Wrap(op, err)
	}
	return vfs.Wrap(op, writeKey(files, dir, NodeKeyFile, r.key))
}

// LoadRequest makes a request of the key that Save wrote. Without one the error is of kind vfs.KindNotFound.
func LoadRequest(files vfile.FS, dir, name string) (*Request, error) {
	const op = "pki.load"
	key, err := loadKey(files, filepath.Join(dir, NodeKeyFile))
	if err == nil {
		err = vfile.Adopt(files, dir)
	}
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	return request(name, key)
}

// RequestKey is the SHA-256 of the public key in a signing request.
func RequestKey(der []byte) ([]byte, error) {
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, "pki.request", "no certificate signing request: %w", err)
	}
	s := sha256.Sum256(req.RawSubjectPublicKeyInfo)
	return s[:], nil
}

// Renewal asks for another certificate of the same key: only one file changes then, so that a crash leaves the old or the new one.
func (id *Identity) Renewal() (*Request, error) { return request(id.Name(), id.key) }

func request(name string, key *ecdsa.PrivateKey) (*Request, error) {
	const op = "pki.request"
	if err := checkName("node", name); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	return &Request{key: key, DER: der}, nil
}

// Sign answers a request with a certificate for this name and these roles, and no others.
func (ca *CA) Sign(der []byte, name string, roles []string, ips []net.IP, now time.Time) (cert []byte, err error) {
	const op = "pki.sign"
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "no certificate signing request: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "the request is not signed by its key: %w", err)
	}
	key, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "the key is not one of ECDSA P-256")
	}
	c, err := ca.issue(key, name, roles, ips, now)
	if err != nil {
		return nil, err
	}
	return c.Raw, nil
}

// Identity is the request with the certificate that answered it; ca is the CA's certificate, whose fingerprint the caller has checked.
func (r *Request) Identity(ca, cert []byte) (*Identity, error) {
	const op = "pki.identity"
	a, err := x509.ParseCertificate(ca)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "the CA's certificate: %w", err)
	}
	c, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "the certificate: %w", err)
	}
	if pub, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(r.key.Public()) {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "the certificate is for another key")
	}
	if err := c.CheckSignatureFrom(a); err != nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "the certificate is not of this CA: %w", err)
	}
	if _, _, err := Subject(c); err != nil {
		return nil, err
	}
	return &Identity{ca: a, cert: c, key: r.key}, nil
}

// SaveCert writes the certificate alone, in place of an older one of the same key.
func (id *Identity) SaveCert(files vfile.FS, dir string) error {
	return vfs.Wrap("pki.save", writeCert(files, dir, NodeCertFile, id.cert))
}

// Issued is when the certificate was made.
func (id *Identity) Issued() time.Time { return id.cert.NotBefore.Add(clockSlack) }

// CACert is the CA's certificate, DER.
func (id *Identity) CACert() []byte { return id.ca.Raw }

// CACert is the CA's certificate, DER.
func (ca *CA) CACert() []byte { return ca.cert.Raw }

// Derive is a key of 32 bytes for one purpose, which only who has the CA's key can know. The same each time.
func (ca *CA) Derive(purpose string) ([]byte, error) {
	secret, err := ca.key.Bytes()
	if err != nil {
		return nil, vfs.Wrap("pki.derive", err)
	}
	return hkdf.Key(sha256.New, secret, nil, purpose, derivedKeyLen)
}

// KeyPEM is the CA's secret, for a node that is to issue certificates too.
func (ca *CA) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return nil, vfs.Wrap("pki.key", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// SaveCAKey makes a node's directory, which has the CA's certificate, one that can issue certificates.
func SaveCAKey(files vfile.FS, dir string, key []byte) error {
	const op = "pki.save"
	b, rest := pem.Decode(key)
	if b == nil || b.Type != keyBlock || len(bytes.TrimSpace(rest)) > 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "no key of a CA")
	}
	if err := vfile.WriteFileAtomic(files, dir, CAKeyFile, key); err != nil {
		return vfs.Wrap(op, err)
	}
	if _, _, err := loadPair(files, filepath.Join(dir, CACertFile), filepath.Join(dir, CAKeyFile)); err != nil {
		return vfs.Wrap(op, err)
	}
	return nil
}

// Holder is a node's identity while the node runs: configurations made from it use the newest certificate.
type Holder struct {
	id      atomic.Pointer[Identity]
	revoked atomic.Pointer[revoked]
}

// NewHolder holds id.
func NewHolder(id *Identity) *Holder {
	h := &Holder{}
	h.id.Store(id)
	return h
}

// Identity is the present one.
func (h *Holder) Identity() *Identity { return h.id.Load() }

// Set replaces it.
func (h *Holder) Set(id *Identity) { h.id.Store(id) }

func (h *Holder) config() *tls.Config {
	own := func() *tls.Certificate {
		id := h.Identity()
		// The CA goes with it, for who knows its fingerprint only.
		return &tls.Certificate{Certificate: [][]byte{id.cert.Raw, id.ca.Raw}, PrivateKey: id.key, Leaf: id.cert}
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		VerifyConnection:     h.verify,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own(), nil },
	}
}

// ServerTLS is that of the identity.
func (h *Holder) ServerTLS() *tls.Config {
	c := h.config()
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, h.Identity().pool()
	return c
}

// PublicTLS is that of the identity.
func (h *Holder) PublicTLS() *tls.Config {
	c := h.config()
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.GetCertificate}
}

// ClientTLS is that of the identity.
func (h *Holder) ClientTLS(node string) *tls.Config {
	c := h.config()
	c.RootCAs, c.ServerName = h.Identity().pool(), node
	return c
}

// PinnedTLS is for a client that has no certificate and knows the fingerprint of the CA: it accepts any node with the role. found gets the CA's certificate.
func PinnedTLS(fingerprintHex, role string, now func() time.Time, found func(ca []byte)) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it all
		VerifyConnection: func(cs tls.ConnectionState) error {
			const op = "join"
			for _, c := range cs.PeerCertificates[1:] {
				if fingerprint(c) != fingerprintHex {
					continue
				}
				pool := x509.NewCertPool()
				pool.AddCert(c)
				leaf := cs.PeerCertificates[0]
				if t := now(); t.Before(leaf.NotBefore) || t.After(leaf.NotAfter) {
					return vfs.Errorf(vfs.KindUnauthorized, op, "the certificate of the cluster's node is valid from %s to %s, and here it is %s: is this machine's clock right?",
						leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339), t.Format(time.RFC3339))
				}
				if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
					return vfs.Errorf(vfs.KindUnauthorized, op, "the certificate of the cluster's node: %w", err)
				}
				_, roles, err := Subject(leaf)
				if err != nil {
					return err
				}
				for _, r := range roles {
					if r == role {
						found(c.Raw)
						return nil
					}
				}
				return vfs.Errorf(vfs.KindUnauthorized, op, "the node that answers has the roles %q, not %s", roles, role)
			}
			return vfs.Errorf(vfs.KindUnauthorized, op, "who answers at this address is not of the cluster that the token is for: no certificate has the CA's fingerprint")
		},
	}
}
