package wire

import (
	"strings"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/pki"
)

// A node that is removed while it is connected is cut off at its next request, is not let in again and is not spoken to; others do not notice.
func TestRemovedPeerIsCutOff(t *testing.T) {
	ca, err := pki.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	holder := func(name string) *pki.Holder {
		id, err := ca.Issue(name, []string{"block"}, nil, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return pki.NewHolder(id)
	}
	server, gone, stays := holder("server"), holder("n1"), holder("n2")
	again := holder("n1") // the machine that has the name of the removed one now
	for _, mode := range []Mode{ModeTLS, ModeMAC} {
		for what, list := range map[string][]pki.Revocation{
			"by key":  {{Name: "n1", Key: gone.Identity().Key(), Now: again.Identity().Key()}},
			"by name": {{Name: "n1", Now: again.Identity().Key()}},
		} {
			t.Run(mode.String()+" "+what, func(t *testing.T) {
				server.Revoke(nil)
				stays.Revoke(nil)
				h := start(t, mode, echo, ServerOptions{Security: Security{Mode: mode, TLS: server.ServerTLS()}}).addr
				dial := func(as *pki.Holder) *Client {
					c := NewClient(Dialer("tcp", h), ClientOptions{Security: Security{Mode: mode, TLS: as.ClientTLS("server")}, Logger: quiet()})
					t.Cleanup(c.Close)
					return c
				}
				call := func(c *Client) error {
					r, err := c.Call(testContext(t), 1, []byte("x"), nil, nil)
					if err == nil {
						r.Release()
					}
					return err
				}
				was, other := dial(gone), dial(stays)
				for _, c := range []*Client{was, other} {
					if err := call(c); err != nil {
						t.Fatal(err)
					}
				}
				server.Revoke(list)
				if err := call(was); err == nil {
					t.Error("a removed node is served on the connection that it had")
				}
				if err := call(dial(gone)); err == nil || !strings.Contains(err.Error(), "certificate") {
					t.Errorf("a removed node connects anew: %v", err)
				}
				if err := call(other); err != nil {
					t.Errorf("another node: %v", err)
				}
				if err := call(dial(again)); err != nil {
					t.Errorf("the node that has the name now: %v", err)
				}
				stays.Revoke([]pki.Revocation{{Name: "server", Key: server.Identity().Key()}})
				if err := call(dial(stays)); err == nil || !strings.Contains(err.Error(), "node server was removed") {
					t.Errorf("a removed server is spoken to: %v", err)
				}
			})
		}
	}
}
