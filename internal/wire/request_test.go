package wire

import (
	"context"
	"net"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

// about is a handler that answers with the request that its context is about, also in contexts that come of it.
func about(ctx context.Context, c *Call) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return c.Reply([]byte(vfs.RequestOf(ctx).String()))
}

func requestSeen(t *testing.T, c *Client, id vfs.RequestID) string {
	t.Helper()
	r, err := c.Call(vfs.WithRequest(testContext(t), id), opEcho, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	return string(r.Meta)
}

// A call says of which user's request it is part, if it is part of one.
func TestRequestTravels(t *testing.T) {
	for mode := range securities(t) {
		t.Run(mode.String(), func(t *testing.T) {
			c := start(t, mode, about, ServerOptions{}).client(ClientOptions{})
			for _, id := range []vfs.RequestID{0, 1, 1<<64 - 1, 0} {
				if got := requestSeen(t, c, id); got != id.String() {
					t.Errorf("request %v arrives as %s", id, got)
				}
			}
		})
	}
}

// A server of an earlier release, whose hello has no flags, is not told: it would close the connection.
func TestOlderServerIsNotTold(t *testing.T) {
	h := start(t, ModeInsecure, about, ServerOptions{})
	c := h.clientVia(func(ctx context.Context) (net.Conn, error) {
		nc, err := Dialer("tcp", h.addr)(ctx)
		at := 0
		return &meddler{Conn: nc, read: func(b []byte) {
			for i := range b {
				if at >= 20 && at < 24 {
					b[i] = 0
				}
				at++
			}
		}}, err
	}, ClientOptions{})
	if got := requestSeen(t, c, 7); got != vfs.RequestID(0).String() {
		t.Errorf("it is told %s", got)
	}
}
