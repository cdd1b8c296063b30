package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// AccessToken is a token without its secret.
type AccessToken struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Role      string    `json:"role" enum:"viewer,editor,admin"`
	Scopes    []string  `json:"scopes" doc:"WORKSPACE, WORKSPACE/FILESYSTEM or WORKSPACE/FILESYSTEM:/PATH; none: the whole cluster"`
	UID       uint32    `json:"uid" doc:"As whom it acts in file systems"`
	GID       uint32    `json:"gid"`
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by,omitempty"`
	Expires   time.Time `json:"expires,omitzero"`
}

// AccessTokens is the answer to a list.
type AccessTokens struct {
	Tokens []AccessToken `json:"tokens"`
}

// NewAccessToken says what a token is to be.
type NewAccessToken struct {
	Name           string   `json:"name" minLength:"1" maxLength:"63" doc:"By which people know it"`
	Role           string   `json:"role" enum:"viewer,editor,admin"`
	Scopes         []string `json:"scopes,omitempty" maxItems:"64"`
	UID            uint32   `json:"uid,omitempty"`
	GID            uint32   `json:"gid,omitempty"`
	ExpiresSeconds uint64   `json:"expires_seconds,omitempty" maximum:"3153600000" doc:"From now on; 0: never"`
}

// MadeToken is a token with its secret, which is told this once.
type MadeToken struct {
	AccessToken
	Secret string `json:"secret"`
}

func accessTokenOf(t *metapb.AccessToken) AccessToken {
	out := AccessToken{ID: t.Id, Name: t.Name, Role: t.Role, Scopes: []string{}, UID: t.Uid, GID: t.Gid, Created: instant(t.Created), CreatedBy: t.CreatedBy}
	for _, s := range t.Scopes {
		out.Scopes = append(out.Scopes, accounts.Place{Workspace: s.Workspace, FileSystem: s.FileSystem, Path: string(s.Path)}.Spec())
	}
	if t.Expires != nil {
		out.Expires = instant(t.Expires)
	}
	return out
}

func (a *API) accessTokens() {
	handle(a, "GET /tokens", "list-tokens", "List the tokens that are for a part of what one's own is for", func(ctx context.Context, _ *struct{}) (*struct{ Body AccessTokens }, error) {
		list, err := accounts.Tokens(ctx, a.opt.Meta, accounts.Of(ctx))
		if err != nil {
			return nil, err
		}
		out := &struct{ Body AccessTokens }{AccessTokens{[]AccessToken{}}}
		for _, t := range list {
			out.Body.Tokens = append(out.Body.Tokens, accessTokenOf(t))
		}
		return out, nil
	})
	handle(a, "POST /tokens", "create-token", "Make a token, for a part of what one's own is for", a.createToken)
	handle(a, "DELETE /tokens/{token}", "revoke-token", "Revoke a token, by id or name: it is refused from the next call on", func(ctx context.Context, in *struct {
		Token string `path:"token"`
	}) (*struct{ Body AccessToken }, error) {
		t, err := accounts.RevokeToken(ctx, a.opt.Meta, accounts.Of(ctx), in.Token)
		if err != nil {
			return nil, err
		}
		return &struct{ Body AccessToken }{accessTokenOf(t)}, nil
	})
}

func (a *API) createToken(ctx context.Context, in *struct{ Body NewAccessToken }) (*struct{ Body MadeToken }, error) {
	b := &in.Body
	role, err := accounts.ParseRole(b.Role)
	if err != nil {
		return nil, err
	}
	n := accounts.NewToken{Name: b.Name, Role: role, UID: b.UID, GID: b.GID}
	for _, s := range b.Scopes {
		p, err := accounts.ParsePlace(s)
		if err != nil {
			return nil, err
		}
		if p.Path != "" {
			if _, err := files.ParsePath(p.Path); err != nil {
				return nil, err
			}
		}
		n.Scopes = append(n.Scopes, p)
	}
	now := a.opt.Now()
	if b.ExpiresSeconds > 0 {
		n.Expires = now.Add(time.Duration(b.ExpiresSeconds) * time.Second)
	}
	secret, t, err := accounts.CreateToken(ctx, a.opt.Meta, accounts.Of(ctx), n, now)
	if err != nil {
		return nil, err
	}
	return &struct{ Body MadeToken }{MadeToken{accessTokenOf(t), secret}}, nil
}

// AccessTokens lists the tokens.
func (c *Client) AccessTokens(ctx context.Context) ([]AccessToken, error) {
	var out AccessTokens
	err := c.call(ctx, http.MethodGet, "/tokens", nil, &out)
	return out.Tokens, err
}

// CreateAccessToken makes one.
func (c *Client) CreateAccessToken(ctx context.Context, n NewAccessToken) (out MadeToken, err error) {
	err = c.call(ctx, http.MethodPost, "/tokens", n, &out)
	return out, err
}

// RevokeAccessToken ends one, by id or name.
func (c *Client) RevokeAccessToken(ctx context.Context, token string) (out AccessToken, err error) {
	err = c.call(ctx, http.MethodDelete, "/tokens/"+url.PathEscape(token), nil, &out)
	return out, err
}
