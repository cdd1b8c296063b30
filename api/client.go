package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// maxAnswer bounds the JSON of an answer.
const maxAnswer = 64 << 20

// patienceWithLeave is how long a sender waits for leave to send a large body; then he sends it, in case who is in between knows nothing of that.
const patienceWithLeave = 30 * time.Second

// Client calls an API. It is safe for concurrent use.
type Client struct {
	http   *http.Client
	base   string
	token  string // "" by the socket
	socket string // "" by the network
}

// Dial is a client of the API that is served on the unix socket path; nothing is connected yet.
func Dial(path string) *Client {
	tr := &http.Transport{ExpectContinueTimeout: patienceWithLeave, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", path)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil, vfs.Errorf(vfs.KindUnavailable, "", "nobody serves %s: start `rackfs node` or `rackfs dev` on this machine, or name its socket with --socket", path)
		}
		return c, err
	}}
	return &Client{http: &http.Client{Transport: tr}, base: "http://rackfs", socket: path}
}

// Socket is the path of the unix socket by which it calls, "" if it calls by the network.
func (c *Client) Socket() string { return c.socket }

// Server names whom it calls: for what is kept about a server, not for people.
func (c *Client) Server() string { return c.base }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call sends in, unless it is nil, and decodes the answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+prefix+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return answered(resp, out)
}

// answered reads the JSON of an answer into out, unless that is nil, or its refusal.
func answered(resp *http.Response, out any) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return vfs.Errorf(vfs.KindUnavailable, "", "%w", err)
	}
	if resp.StatusCode/100 != 2 {
		return refusal(resp.StatusCode, raw)
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return vfs.Errorf(vfs.KindInvalid, "", "malformed answer: %w", err)
	}
	return nil
}

// do sends a request with the client's token. The answer may be a refusal.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err == nil {
		return resp, nil
	}
	var own *vfs.Error
	if errors.As(err, &own) {
		return nil, own
	}
	return nil, vfs.Errorf(vfs.KindUnavailable, "", "%w", err)
}

// refusal is the error that an answer's body holds: a Problem, or what the check against the document found (RFC 9457).
func refusal(status int, body []byte) error {
	var p struct {
		Problem
		Errors []struct{ Message, Location string } `json:"errors"`
	}
	if json.Unmarshal(body, &p) != nil || p.Detail == "" {
		return vfs.Errorf(vfs.KindUnavailable, "", "the answer is %d %s, without a reason", status, http.StatusText(status))
	}
	kind := vfs.KindInvalid
	for k := vfs.KindPerm; k.HTTPStatus() != 0 && p.Kind != "" && k < 255; k++ {
		if k.String() == p.Kind {
			kind = k
			break
		}
	}
	var b strings.Builder
	b.WriteString(strings.TrimSuffix(p.Detail, ": "+kind.String())) // vfs.Error adds it again
	for _, e := range p.Errors {
		fmt.Fprintf(&b, "; %s: %s", strings.TrimPrefix(e.Location, "body."), e.Message)
	}
	return &vfs.Error{Kind: kind, Text: b.String()}
}
