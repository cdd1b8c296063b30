package accounts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	clusterShard = 0
	secretPrefix = "rackfs_"
	secretBytes  = 32
)

// Meta is the metadata client.
type Meta interface {
	Apply(ctx context.Context, shard uint16, cmd *metapb.Command) (*metapb.Result, error)
	Query(ctx context.Context, shard uint16, q *metapb.Query) (*metapb.QueryResult, error)
}

// hashOf is what is kept of a token; nil if it is none.
func hashOf(secret string) []byte {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(secret, secretPrefix))
	if err != nil || len(raw) != secretBytes || !strings.HasPrefix(secret, secretPrefix) {
		return nil
	}
	h := sha256.Sum256([]byte(secret))
	return h[:]
}

// NewToken says what a token is to be.
type NewToken struct {
	Name     string
	Role     Role
	Scopes   []Place
	UID, GID uint32
	Expires  time.Time // zero: never
}

// within refuses a token that may more than who makes it.
func (n *NewToken) within(p *Principal) error {
	const op = "create token"
	places := n.Scopes
	if len(places) == 0 {
		places = []Place{{}}
	}
	for _, s := range places {
		if err := p.May(Admin, s); err != nil {
			return vfs.Wrap(op, err)
		}
	}
	if p.UID != 0 && (n.UID != p.UID || n.GID != p.GID) {
		return vfs.Errorf(vfs.KindPerm, op, "token %q acts as uid %d and gid %d: what it makes does so too", p.Name, p.UID, p.GID)
	}
	return nil
}

// idBytes is how many random bytes the id of a token has; it is written in hex.
const idBytes = 8

// likeID reports whether a name could be taken for the id of a token.
func likeID(name string) bool {
	raw, err := hex.DecodeString(name)
	return err == nil && len(raw) == idBytes
}

// CreateToken makes a token and returns its secret, which nobody can find out later.
func CreateToken(ctx context.Context, meta Meta, by *Principal, n NewToken, now time.Time) (secret string, _ *metapb.AccessToken, err error) {
	const op = "create token"
	if err := n.within(by); err != nil {
		return "", nil, err
	}
	if n.Role == NoRole {
		return "", nil, vfs.Errorf(vfs.KindInvalid, op, "a token has a role: viewer, editor or admin")
	}
	if n.Name == "" || len(n.Name) > 63 || strings.ContainsAny(n.Name, "/\x00") {
		return "", nil, vfs.Errorf(vfs.KindInvalid, op, "name %.80q: a token has a name of 1 to 63 characters without '/', by which people know it", n.Name)
	}
	if likeID(n.Name) {
		return "", nil, vfs.Errorf(vfs.KindInvalid, op, "name %q: %d hex digits are the id of a token; give it another name", n.Name, 2*idBytes)
	}
	if !n.Expires.IsZero() && !n.Expires.After(now) {
		return "", nil, vfs.Errorf(vfs.KindInvalid, op, "it would have expired already, at %s", n.Expires.Format(time.RFC3339))
	}
	var raw [secretBytes]byte
	var id [idBytes]byte
	rand.Read(raw[:])
	rand.Read(id[:])
	secret = secretPrefix + base64.RawURLEncoding.EncodeToString(raw[:])
	t := &metapb.AccessToken{
		Id: hex.EncodeToString(id[:]), Name: n.Name, Hash: hashOf(secret), Role: n.Role.String(), Uid: n.UID, Gid: n.GID,
		Created: stamp(now), CreatedBy: by.Name,
	}
	if !n.Expires.IsZero() {
		t.Expires = stamp(n.Expires)
	}
	for _, s := range n.Scopes {
		t.Scopes = append(t.Scopes, &metapb.AccessScope{Workspace: s.Workspace, FileSystem: s.FileSystem, Path: []byte(s.Path)})
	}
	_, err = meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutAccessToken{PutAccessToken: &metapb.PutAccessToken{Token: t}}})
	if err != nil {
		return "", nil, vfs.Wrap(op, err)
	}
	return secret, t, nil
}

// Tokens lists those tokens of which p sees all scopes.
func Tokens(ctx context.Context, meta Meta, p *Principal) (out []*metapb.AccessToken, err error) {
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_AccessTokens{AccessTokens: &metapb.AccessTokensQ{}}})
	if err != nil {
		return nil, vfs.Wrap("list tokens", err)
	}
	for _, t := range r.GetAccessTokens().GetTokens() {
		o, err := principalOf(t)
		if err == nil && (p.Everywhere() || !o.Everywhere() && o.inside(p)) {
			out = append(out, t)
		}
	}
	return out, nil
}

// inside reports whether all scopes of o are p's.
func (o *Principal) inside(p *Principal) bool {
	for _, s := range o.Scopes {
		if !p.covers(s) {
			return false
		}
	}
	return true
}

// RevokeToken ends a token, by id or name. Ids come first: CreateToken refuses names that look like one, but the records may have such a name.
func RevokeToken(ctx context.Context, meta Meta, p *Principal, which string) (*metapb.AccessToken, error) {
	const op = "revoke token"
	list, err := Tokens(ctx, meta, p)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(t *metapb.AccessToken) bool { return t.Id == which })
	if i < 0 {
		i = slices.IndexFunc(list, func(t *metapb.AccessToken) bool { return t.Name == which })
	}
	if i < 0 {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "there is no token %q: `rackfs token list` shows them", which)
	}
	t := list[i]
	_, err = meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RemoveAccessToken{RemoveAccessToken: &metapb.RemoveAccessToken{Id: t.Id}}})
	return t, vfs.Wrap(op, err)
}

// find looks a token up.
func find(ctx context.Context, meta Meta, secret string, now time.Time) (*Principal, error) {
	const op = "token"
	hash := hashOf(secret)
	if hash == nil {
		return nil, vfs.Errorf(vfs.KindUnauthorized, op, "this is no token: it begins with %q and has %d characters after that", secretPrefix, base64.RawURLEncoding.EncodedLen(secretBytes))
	}
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_AccessTokens{AccessTokens: &metapb.AccessTokensQ{Hash: hash}}})
	if vfs.KindOf(err) == vfs.KindNotFound {
		return nil, vfs.Errorf(vfs.KindUnauthorized, op, "it is not known: it is not of this cluster, or was revoked; ask for a new one")
	}
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	return valid(r.GetAccessTokens().GetTokens()[0], now)
}

// ByID is who has the token of an id, for what goes on in his name when he is not there; name is how the token was called.
func ByID(ctx context.Context, meta Meta, id, name string, now time.Time) (*Principal, error) {
	const op = "token"
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_AccessTokens{AccessTokens: &metapb.AccessTokensQ{}}})
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	for _, t := range r.GetAccessTokens().GetTokens() {
		if t.Id == id {
			return valid(t, now)
		}
	}
	return nil, vfs.Errorf(vfs.KindUnauthorized, op, "%q was revoked: ask for a new one, and begin again", name)
}

// valid is who has t, if it has not expired.
func valid(t *metapb.AccessToken, now time.Time) (*Principal, error) {
	const op = "token"
	if t.Expires != nil && !now.Before(timeOf(t.Expires)) {
		return nil, vfs.Errorf(vfs.KindUnauthorized, op, "%q expired at %s: ask for a new one", t.Name, timeOf(t.Expires).Format(time.RFC3339))
	}
	return principalOf(t)
}

func stamp(t time.Time) *metapb.Time {
	return &metapb.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

func timeOf(t *metapb.Time) time.Time { return time.Unix(t.GetSec(), int64(t.GetNsec())).UTC() }
