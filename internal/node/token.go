package node

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net"
	"strings"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	tokenVersion = "v1"
	secretLen    = 32
	maxTokenText = 4096

	// DefaultTokenTTL is how long a token can be used.
	DefaultTokenTTL = time.Hour
	minTokenTTL     = time.Second
	maxTokenTTL     = 7 * 24 * time.Hour
)

// token is what lets one node join.
type token struct {
	fingerprint string // of the CA, hex
	secret      []byte
	control     []string // host:port of meta nodes
}

func newToken(fingerprint string, control []string) *token {
	t := &token{fingerprint: fingerprint, secret: make([]byte, secretLen), control: control}
	rand.Read(t.secret)
	return t
}

func (t *token) hash() []byte { return secretHash(t.secret) }

func secretHash(secret []byte) []byte {
	h := sha256.Sum256(secret)
	return h[:]
}

// String is what the operator copies. Addresses come last, for they have dots.
func (t *token) String() string {
	return strings.Join([]string{tokenVersion, t.fingerprint, base64.RawURLEncoding.EncodeToString(t.secret), strings.Join(t.control, ",")}, ".")
}

func parseToken(s string) (*token, error) {
	const op = "token"
	parts := strings.SplitN(strings.TrimSpace(s), ".", 4)
	if len(s) > maxTokenText || len(parts) != 4 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "this is not a whole token: copy all of what `rackfs cluster token` printed")
	}
	if parts[0] != tokenVersion {
		return nil, vfs.Errorf(vfs.KindIncompatible, op, "a token of version %q: use the rackfs release of the cluster", parts[0])
	}
	t := &token{fingerprint: parts[1], control: strings.Split(parts[3], ",")}
	var err error
	if t.secret, err = base64.RawURLEncoding.DecodeString(parts[2]); err != nil || len(t.secret) != secretLen {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "its secret is damaged: copy all of what `rackfs cluster token` printed")
	}
	if fp, err := hex.DecodeString(t.fingerprint); err != nil || len(fp) != sha256.Size {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "its fingerprint is damaged: copy all of what `rackfs cluster token` printed")
	}
	for _, a := range t.control {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "its address %q is damaged: copy all of what `rackfs cluster token` printed", a)
		}
	}
	return t, nil
}
