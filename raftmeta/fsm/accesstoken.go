package fsm

import (
	"bytes"
	"crypto/sha256"
	"path"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of access tokens.
const (
	maxAccessTokens = 4096
	maxScopes       = 64
	maxScopePath    = 4096
	accessTokenID   = 16 // hex digits
)

const accessTokenPrefix = "j/a/"

func appendAccessToken(hash []byte) []byte { return append([]byte(accessTokenPrefix), hash...) }

func checkAccessToken(t *metapb.AccessToken, op string) error {
	if t == nil || len(t.Hash) != sha256.Size || len(t.Id) != accessTokenID || strings.Trim(t.Id, "0123456789abcdef") != "" {
		return vfs.Errorf(vfs.KindInvalid, op, "a token has an id of %d hex digits and a hash of %d bytes", accessTokenID, sha256.Size)
	}
	if err := checkRecordName(op, "name", t.Name); err != nil {
		return err
	}
	switch t.Role {
	case "admin", "editor", "viewer":
	default:
		return vfs.Errorf(vfs.KindInvalid, op, "role %.80q: admin, editor or viewer", t.Role)
	}
	if len(t.Scopes) > maxScopes || len(t.CreatedBy) > maxRecordName {
		return vfs.Errorf(vfs.KindTooMany, op, "%d scopes, at most %d", len(t.Scopes), maxScopes)
	}
	for _, s := range t.Scopes {
		if err := checkRecordName(op, "workspace", s.Workspace); err != nil {
			return err
		}
		if s.FileSystem != "" {
			if err := checkRecordName(op, "file system", s.FileSystem); err != nil {
				return err
			}
		}
		p := string(s.Path)
		if p != "" && (s.FileSystem == "" || p[0] != '/' || p == "/" || path.Clean(p) != p || len(p) > maxScopePath || strings.Contains(p, "\x00")) {
			return vfs.Errorf(vfs.KindInvalid, op, "path %.80q of a scope: it begins with '/', has no '.', '..' and empty parts, and belongs to a file system", p)
		}
	}
	if err := checkTime(t.Created); err != nil {
		return err
	}
	return checkTime(t.Expires)
}

func (x *call) putAccessToken(c *metapb.PutAccessToken) error {
	const op = "token.put"
	t := c.Token
	if err := checkAccessToken(t, op); err != nil {
		return err
	}
	all, err := records(x, accessTokenPrefix, func(*metapb.AccessToken) bool { return true })
	if err != nil {
		return err
	}
	for _, o := range all {
		switch {
		case bytes.Equal(o.Hash, t.Hash) && proto.Equal(o, t):
			return nil // a repeated command
		case bytes.Equal(o.Hash, t.Hash) || o.Id == t.Id:
			return vfs.Errorf(vfs.KindExists, op, "there is a token %s already", t.Id)
		case o.Name == t.Name:
			return vfs.Errorf(vfs.KindExists, op, "there is a token called %q already: revoke it, or choose another name", t.Name)
		}
	}
	if len(all) >= maxAccessTokens {
		return vfs.Errorf(vfs.KindTooMany, op, "there are %d tokens already: revoke some", len(all))
	}
	for _, s := range t.Scopes {
		if _, had, err := x.get(appendWorkspace(s.Workspace)); err != nil {
			return err
		} else if !had {
			return vfs.Errorf(vfs.KindNotFound, op, "there is no workspace %.80q: make it with `rackfs workspace create`", s.Workspace)
		}
	}
	return x.setRecord(appendAccessToken(t.Hash), t)
}

func (x *call) removeAccessToken(c *metapb.RemoveAccessToken) error {
	list, err := records(x, accessTokenPrefix, func(t *metapb.AccessToken) bool { return t.Id == c.Id })
	for _, t := range list {
		x.del(appendAccessToken(t.Hash))
	}
	return err
}

func (r *reader) accessTokens(q *metapb.AccessTokensQ) (*metapb.QueryResult, error) {
	res := &metapb.AccessTokensR{}
	if len(q.Hash) == 0 {
		list, err := all(r, []byte(accessTokenPrefix), func() *metapb.AccessToken { return new(metapb.AccessToken) })
		if err != nil {
			return nil, err
		}
		res.Tokens = list
	} else {
		t := new(metapb.AccessToken)
		if ok, err := r.record(appendAccessToken(q.Hash), t); err != nil {
			return nil, err
		} else if !ok {
			return nil, vfs.Errorf(vfs.KindNotFound, "token", "it is not known")
		}
		res.Tokens = append(res.Tokens, t)
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_AccessTokens{AccessTokens: res}}, nil
}

// record reads one record.
func (r *reader) record(key []byte, to interface{ UnmarshalVT([]byte) error }) (bool, error) {
	b, ok, err := r.view.Get(key)
	if err != nil || !ok {
		return false, err
	}
	if err := to.UnmarshalVT(b); err != nil {
		return false, corrupt("record %q: %w", key, err)
	}
	return true, nil
}
