package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
)

// File names in a CA's and a node's directory.
const (
	CACertFile   = "ca.crt"
	CAKeyFile    = "ca.key"
	NodeCertFile = "node.crt"
	NodeKeyFile  = "node.key"
)

// Validity of certificates. They start an hour early for nodes whose clock is behind.
const (
	CAValidity   = 20 * 365 * 24 * time.Hour
	NodeValidity = 2 * 365 * 24 * time.Hour
	clockSlack   = time.Hour
)

// derivedKeyLen is the length of keys that are derived from the CA's.
const derivedKeyLen = 32

// CA issues the node certificates of one cluster.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a CA that is in memory only. now is the start of its validity.
func NewCA(cluster string, now time.Time) (*CA, error) {
	const op = "pki.create"
	if err := checkName("cluster", cluster); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"rackfs"}, CommonName: "rackfs CA of " + cluster},
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              now.Add(CAValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs nodes, not other authorities
	}
	cert, err := sign(tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	return &CA{cert: cert, key: key}, nil
}

// CreateCA makes the CA of a new cluster in dir of files, which may exist. A CA that is
// already there is an error of kind vfs.KindExists.
func CreateCA(files vfile.FS, dir, cluster string, now time.Time) (*CA, error) {
	const op = "pki.create"
	if there, err := holdsCA(files, dir); err != nil {
		return nil, vfs.Wrap(op, err)
	} else if there {
		return nil, vfs.Errorf(vfs.KindExists, op, "%s holds a CA already", dir)
	}
	ca, err := NewCA(cluster, now)
	if err != nil {
		return nil, err
	}
	if err := vfile.MkdirAllSync(files, dir); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	if err := writeKey(files, dir, CAKeyFile, ca.key); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	if err := writeCert(files, dir, CACertFile, ca.cert); err != nil {
		return nil, vfs.Wrap(op, err)
	}
	return ca, nil
}

// LoadCA reads the CA in dir of files. Without one the error is of kind vfs.KindNotFound.
func LoadCA(files vfile.FS, dir string) (*CA, error) {
	cert, key, err := loadPair(files, filepath.Join(dir, CACertFile), filepath.Join(dir, CAKeyFile))
	if err == nil {
		err = vfile.Adopt(files, dir)
	}
	if err != nil {
		return nil, vfs.Wrap("pki.load", err)
	}
	if !cert.IsCA {
		return nil, vfs.Errorf(vfs.KindInvalid, "pki.load", "%s is not a CA's certificate", filepath.Join(dir, CACertFile))
	}
	return &CA{cert: cert, key: key}, nil
}

// LoadOrCreateCA is LoadCA, or CreateCA where there is none.
func LoadOrCreateCA(files vfile.FS, dir, cluster string, now time.Time) (*CA, error) {
	there, err := holdsCA(files, dir)
	if err != nil {
		return nil, vfs.Wrap("pki.load", err)
	}
	if !there {
		return CreateCA(files, dir, cluster, now)
	}
	return LoadCA(files, dir)
}

// holdsCA reports whether dir has a name for a CA's certificate, even one that leads nowhere, such as
// a symbolic link to a disk that is not mounted: that is not replaced.
func holdsCA(files vfile.FS, dir string) (bool, error) {
	names, err := files.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return slices.Contains(names, CACertFile), err
}

// Fingerprint is the SHA-256 of the CA's certificate in hex, as a join token carries it.
func (ca *CA) Fingerprint() string { return fingerprint(ca.cert) }

func fingerprint(c *x509.Certificate) string {
	s := sha256.Sum256(c.Raw)
	return hex.EncodeToString(s[:])
}

// Issue makes a node's identity with a new key. IPs are optional and let
// programs other than rackfs verify the node by address.
func (ca *CA) Issue(name string, roles []string, ips []net.IP, now time.Time) (*Identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, vfs.Wrap("pki.issue", err)
	}
	cert, err := ca.issue(&key.PublicKey, name, roles, ips, now)
	if err != nil {
		return nil, err
	}
	return &Identity{ca: ca.cert, cert: cert, key: key}, nil
}

// issue makes a certificate of a key.
func (ca *CA) issue(key *ecdsa.PublicKey, name string, roles []string, ips []net.IP, now time.Time) (*x509.Certificate, error) {
	const op = "pki.issue"
	if err := checkName("node", name); err != nil {
		return nil, err
	}
	for _, r := range roles {
		if err := checkName("role", r); err != nil {
			return nil, err
		}
	}
	serial, err := newSerial()
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	end := now.Add(NodeValidity)
	if end.After(ca.cert.NotAfter) {
		end = ca.cert.NotAfter
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"rackfs"}, OrganizationalUnit: roles, CommonName: name},
		DNSNames:              []string{name},
		IPAddresses:           ips,
		NotBefore:             now.Add(-clockSlack),
		NotAfter:              end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	cert, err := sign(tmpl, ca.cert, key, ca.key)
	return cert, vfs.Wrap(op, err)
}

// sign makes the certificate tmpl for key.
func sign(tmpl, parent *x509.Certificate, key *ecdsa.PublicKey, signer *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// checkName keeps names to what DNS name verification compares byte for byte:
// lower-case letters, digits, '-' and '.', at most 63, beginning and ending with a letter or digit.
func checkName(what, s string) error {
	ok := len(s) > 0 && len(s) <= 63 && !strings.Contains(s, "..")
	for i, c := range s {
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		inner := (c == '-' || c == '.') && i > 0 && i < len(s)-1
		ok = ok && (alnum || inner)
	}
	if ok && net.ParseIP(s) != nil {
		ok = false // would be verified as an address
	}
	if !ok {
		return vfs.Errorf(vfs.KindBadName, "pki.issue", "%s name %q: use 1 to 63 of a-z, 0-9, '-' and '.', with a letter or digit at both ends", what, s)
	}
	return nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil
}
