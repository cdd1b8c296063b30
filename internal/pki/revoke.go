package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"

	"github.com/rackfs/rackfs/vfs"
)

// Revocation is a node that was removed from the cluster.
type Revocation struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	Key  []byte `json:"key,omitempty"` // SHA-256 of its public key; empty: not known
	// Now is the hash of the key of the node that has the name now. Where Key is not known, all certificates of the name but
	// that one's are refused.
	Now []byte `json:"now,omitempty"`
}

// revoked is what a Holder refuses.
type revoked struct {
	keys  map[[sha256.Size]byte]bool
	names map[string][]byte // to Now
}

// Revoke makes every configuration of h refuse these nodes' certificates, whether they connect or are connected to, and nobody else's.
// Who uses a configuration for long connections calls VerifyConnection again when it is told something.
func (h *Holder) Revoke(list []Revocation) {
	r := &revoked{keys: map[[sha256.Size]byte]bool{}, names: map[string][]byte{}}
	for _, x := range list {
		if len(x.Key) == sha256.Size {
			r.keys[[sha256.Size]byte(x.Key)] = true
		} else {
			r.names[x.Name] = x.Now
		}
	}
	h.revoked.Store(r)
}

// verify refuses the peer of a connection if it was removed.
func (h *Holder) verify(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return nil // who may come without one says so himself
	}
	return h.Refused(cs.PeerCertificates[0])
}

// Refused is why a certificate is not accepted although the CA signed it; nil if it is.
func (h *Holder) Refused(cert *x509.Certificate) error {
	r := h.revoked.Load()
	if r == nil || len(r.keys)+len(r.names) == 0 {
		return nil
	}
	key := certKey(cert)
	now, named := r.names[cert.Subject.CommonName]
	if r.keys[key] || named && !bytes.Equal(now, key[:]) {
		return vfs.Errorf(vfs.KindPerm, "certificate", "node %s was removed from the cluster: to bring the machine back, empty its data directory and disks and let it join anew", cert.Subject.CommonName)
	}
	return nil
}

func certKey(c *x509.Certificate) [sha256.Size]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// Key is the SHA-256 of the node's public key.
func (id *Identity) Key() []byte {
	k := certKey(id.cert)
	return k[:]
}
