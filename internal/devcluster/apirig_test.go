package devcluster

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// apiConfig is that of a small cluster that serves the API to the network.
func apiConfig(t *testing.T) Config {
	cfg := quick(t)
	cfg.Voters, cfg.BlockStores, cfg.Profile, cfg.APIAddr = 1, 1, "1+0", "127.0.0.1:0"
	return cfg
}

// user calls the API over the network.
type user struct {
	t      *testing.T
	base   string
	token  string
	client *http.Client
}

func (c *Cluster) user(t *testing.T, token string) *user {
	u := &user{t: t, base: c.APIURL() + "/api/v1", token: token, client: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(u.client.CloseIdleConnections)
	return u
}

// as is a user with a new token.
func (c *Cluster) as(t *testing.T, role accounts.Role, scopes ...string) *user {
	t.Helper()
	n := accounts.NewToken{Name: role.String() + " of " + strings.ReplaceAll(strings.Join(scopes, "+"), "/", "."), Role: role}
	for _, s := range scopes {
		p, err := accounts.ParsePlace(s)
		if err != nil {
			t.Fatal(err)
		}
		n.Scopes = append(n.Scopes, p)
	}
	secret, _, err := accounts.CreateToken(t.Context(), c.meta, accounts.Operator(), n, c.now())
	if err != nil {
		t.Fatal(err)
	}
	return c.user(t, secret)
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request; headers are pairs.
func (u *user) do(method, path string, body io.Reader, headers ...string) reply {
	u.t.Helper()
	req, err := http.NewRequestWithContext(u.t.Context(), method, u.base+path, body)
	if err != nil {
		u.t.Fatal(err)
	}
	if u.token != "" {
		req.Header.Set("Authorization", "Bearer "+u.token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := u.client.Do(req)
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, b}
}

// want checks a status, and that a refusal is a problem that says something.
func (r reply) want(t *testing.T, what string, status int, says ...string) reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("%s: %d %s, want %d", what, r.status, r.body, status)
	}
	if status >= 400 && len(r.body) > 0 {
		var p struct{ Status int }
		if err := json.Unmarshal(r.body, &p); err != nil || p.Status != status || r.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: not a problem: %v %s", what, r.header, r.body)
		}
	}
	for _, s := range says {
		if !strings.Contains(string(r.body), s) {
			t.Errorf("%s: %s, want %q in it", what, r.body, s)
		}
	}
	return r
}

// at is the address of a path in a file system, with more of a query.
func at(fs, sub, path string, more ...string) string {
	q := url.Values{"path": {path}}
	for i := 0; i < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return "/files/" + fs + sub + "?" + q.Encode()
}

func (u *user) put(path string, body []byte, headers ...string) reply {
	u.t.Helper()
	return u.do("PUT", at("default/default", "/content", path), bytes.NewReader(body), headers...)
}

func (u *user) get(path string) reply {
	u.t.Helper()
	return u.do("GET", at("default/default", "/content", path), nil)
}

// names lists a directory.
func (u *user) names(path string) (names []string) {
	u.t.Helper()
	for after := ""; ; {
		r := u.do("GET", at("default/default", "", path, "after", after, "limit", "7"), nil).want(u.t, "list "+path, 200)
		var page struct {
			Files []struct{ Name string }
			Next  string
		}
		if err := json.Unmarshal(r.body, &page); err != nil {
			u.t.Fatal(err)
		}
		for _, f := range page.Files {
			names = append(names, f.Name)
		}
		if after = page.Next; after == "" {
			return names
		}
	}
}

// staged are the names in the hidden directory of the first file system.
func (c *Cluster) staged(t *testing.T) (names []string) {
	t.Helper()
	page, err := c.fs().ReadDir(t.Context(), &vfs.Root, vfs.StagingIno(0), 0, 1000, false)
	if vfs.KindOf(err) == vfs.KindStale {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range page.Entries {
		names = append(names, e.Name)
	}
	return names
}

// usage is what the first file system counts.
func (c *Cluster) usage(t *testing.T) (bytes, inodes uint64) {
	t.Helper()
	r, err := c.meta.Query(t.Context(), namespaceShard, &metapb.Query{Fs: defaultFS, Q: &metapb.Query_Namespace{Namespace: &metapb.NamespaceQ{}}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetNamespace().GetUsedBytes(), r.GetNamespace().GetUsedInodes()
}

func (c *Cluster) now() time.Time { return time.Now() }
