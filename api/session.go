package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/vfs"
)

// Identity is who a token is.
type Identity struct {
	Token  string   `json:"token,omitempty" doc:"Its id; empty: the operator, by the socket of a data directory"`
	Name   string   `json:"name"`
	Role   string   `json:"role" enum:"viewer,editor,admin"`
	Scopes []string `json:"scopes" doc:"WORKSPACE, WORKSPACE/FILESYSTEM or WORKSPACE/FILESYSTEM:/PATH; none: the whole cluster"`
	UID    uint32   `json:"uid" doc:"As whom it acts in file systems"`
	GID    uint32   `json:"gid"`
}

type identityOutput struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
	Body      Identity
}

type cookieOutput struct {
	SetCookie http.Cookie `header:"Set-Cookie"`
}

func identityOf(p *accounts.Principal) Identity {
	out := Identity{Token: p.Token, Name: p.Name, Role: p.Role.String(), Scopes: []string{}, UID: p.UID, GID: p.GID}
	for _, s := range p.Scopes {
		out.Scopes = append(out.Scopes, s.Spec())
	}
	return out
}

func (a *API) sessions() {
	handle(a, "GET /session", "who-am-i", "Who the token of the request is", func(ctx context.Context, _ *struct{}) (*struct{ Body Identity }, error) {
		return &struct{ Body Identity }{identityOf(accounts.Of(ctx))}, nil
	})
	handle(a, "POST /session", "log-in", "Keep a token in a cookie, for a browser: scripts cannot read it, other sites cannot use it", a.logIn)
	handle(a, "DELETE /session", "log-out", "Forget the cookie", func(ctx context.Context, _ *struct{}) (*cookieOutput, error) {
		return &cookieOutput{cookie(ctx, "", -1)}, nil
	})
}

// cookie is the session's; age in seconds, 0: until the browser ends, negative: it goes.
func cookie(ctx context.Context, token string, age int) http.Cookie {
	secure := callerOf(ctx).secure
	return http.Cookie{Name: cookieName(secure), Value: token, Path: "/", MaxAge: age, Secure: secure, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

func (a *API) logIn(ctx context.Context, in *struct {
	Origin string `header:"Origin"`
	Body   struct {
		Token string `json:"token" maxLength:"256"`
	}
}) (*identityOutput, error) {
	// Nobody is to be logged in as somebody else by another site's page.
	if u, err := url.Parse(in.Origin); in.Origin != "" && (err != nil || u.Host != callerOf(ctx).host) {
		return nil, vfs.Errorf(vfs.KindPerm, "log in", "the request comes from another site's page")
	}
	p, err := a.auth.Check(ctx, in.Body.Token, callerOf(ctx).from)
	if err != nil {
		return nil, err
	}
	return &identityOutput{SetCookie: cookie(ctx, in.Body.Token, 0), Body: identityOf(p)}, nil
}

// WhoAmI says who the client's token is.
func (c *Client) WhoAmI(ctx context.Context) (out Identity, err error) {
	err = c.call(ctx, http.MethodGet, "/session", nil, &out)
	return out, err
}
