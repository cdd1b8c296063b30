package api

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// sessionCookie holds the token of a browser that has logged in. Scripts cannot read it. Over TLS its name has the prefix with which browsers make sure
	// that it came from this very host over TLS.
	sessionCookie = "rackfs_session"
	hostPrefix    = "__Host-"
)

// Public serves the API to those who have tokens; web, if not nil, everything that is not below /api/.
func (a *API) Public(web http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Frame-Options", "DENY")
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if !strings.HasPrefix(r.URL.Path, "/api/") {
			if web == nil {
				writeRaw(w, problem(vfs.Errorf(vfs.KindNotFound, "http", "there is nothing here: the API is below /api/, its description is /api/openapi.json")))
				return
			}
			web.ServeHTTP(w, r)
			return
		}
		// Nothing that comes from here is a page: what is uploaded and asked for by a browser runs no scripts.
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
		h.Set("Cache-Control", "no-store")
		from := remote(r)
		rec := &answer{ResponseWriter: w}
		who, err := a.authenticate(r, from)
		ctx := context.WithValue(newRequest(r.Context(), w), callerKey{}, caller{from: from, err: err, secure: r.TLS != nil, host: r.Host, answer: rec})
		if err == nil {
			ctx = accounts.With(ctx, who)
		}
		a.mux.ServeHTTP(rec, r.WithContext(ctx))
	})
}

func remote(r *http.Request) netip.Addr {
	ap, _ := netip.ParseAddrPort(r.RemoteAddr)
	return ap.Addr().Unmap()
}

func (a *API) authenticate(r *http.Request, from netip.Addr) (*accounts.Principal, error) {
	const op = "access"
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, secret, _ := strings.Cut(h, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil, vfs.Errorf(vfs.KindUnauthorized, op, "send a token as `Authorization: Bearer TOKEN`")
		}
		return a.auth.Check(r.Context(), strings.TrimSpace(secret), from)
	}
	c, err := r.Cookie(cookieName(r.TLS != nil))
	if err != nil || c.Value == "" {
		return nil, vfs.Errorf(vfs.KindUnauthorized, op, "no token was sent: `Authorization: Bearer TOKEN`; `rackfs token create` makes one")
	}
	if !sameOrigin(r) {
		return nil, vfs.Errorf(vfs.KindPerm, op, "the request comes from another site's page")
	}
	return a.auth.Check(r.Context(), c.Value, from)
}

func cookieName(secure bool) string {
	if secure {
		return hostPrefix + sessionCookie
	}
	return sessionCookie
}

// sameOrigin reports whether a request that a browser sends along with its cookie comes from a page of ours. SameSite=Strict keeps the cookie from other sites' requests
// already; this is for browsers without that, and for other ports of this host. What only reads is let through without: nobody else can see the answer.
func sameOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return true
	case "":
	default:
		return false
	}
	if o := r.Header.Get("Origin"); o != "" {
		u, err := url.Parse(o)
		return err == nil && u.Host == r.Host
	}
	return r.Method == http.MethodGet || r.Method == http.MethodHead
}
