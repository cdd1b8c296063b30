package cloudimport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// Bounds of what an endpoint may answer, and how long it may take.
const (
	// DefaultPatience is how long an endpoint may send nothing.
	DefaultPatience = 30 * time.Second

	tlsTimeout  = 10 * time.Second
	idleTimeout = time.Minute
	maxHeader   = 64 << 10
	// maxListing bounds a page of a listing: a thousand keys of 1 KiB, each byte of them escaped, and what is said of them.
	maxListing = 8 << 20
	maxFailure = 1 << 20 // an answer that is an error
	// listingTime bounds the whole of an answer that is not an object.
	listingTime = 5 * time.Minute
)

// errSilent is the cause of the end of a call whose endpoint hangs.
var errSilent = errors.New("the endpoint sent nothing for too long")

// transport makes the calls of one import. Each ends with the import, with the patience for an endpoint that hangs, or when its answer is too large.
type transport struct {
	ctx      context.Context
	base     *http.Transport
	patience time.Duration
}

func newTransport(ctx context.Context, r *Reach, secure bool, patience time.Duration, conns int) *transport {
	return &transport{ctx: ctx, patience: patience, base: &http.Transport{
		Proxy:       nil, // it would connect in our place, to anything
		DialContext: r.dialer(secure), TLSHandshakeTimeout: tlsTimeout, ResponseHeaderTimeout: patience, IdleConnTimeout: idleTimeout,
		TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS12},
		DisableCompression: true, // objects are taken as they are
		MaxIdleConns:       conns, MaxIdleConnsPerHost: conns, MaxConnsPerHost: conns, MaxResponseHeaderBytes: maxHeader, ForceAttemptHTTP2: false,
	}}
}

// isListing reports whether the answer to a call is not an object.
func isListing(r *http.Request) bool {
	q := r.URL.Query()
	return q.Has("list-type") || q.Has("location")
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	unbind := context.AfterFunc(t.ctx, func() { cancel(context.Cause(t.ctx)) })
	end := func() {
		unbind()
		cancel(nil)
	}
	listing := isListing(r)
	if listing {
		late := time.AfterFunc(listingTime, func() { cancel(errSilent) })
		inner := end
		end = func() {
			late.Stop()
			inner()
		}
	}
	resp, err := t.base.RoundTrip(r.WithContext(ctx))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		end()
		return nil, err
	}
	b := &guardedBody{body: resp.Body, patience: t.patience, cancel: cancel, ctx: ctx, end: end, left: -1}
	switch {
	case resp.StatusCode/100 != 2:
		b.left = maxFailure
	case listing:
		b.left = maxListing
	}
	resp.Body = b
	return resp, nil
}

// guardedBody is an answer that is waited for, and read, only so far.
type guardedBody struct {
	body     io.ReadCloser
	patience time.Duration
	ctx      context.Context
	cancel   context.CancelCauseFunc
	end      func()
	left     int64 // bytes that may come; -1: any
	once     sync.Once
}

func (b *guardedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, vfs.Errorf(vfs.KindTooBig, "import", "the endpoint answers with more than an answer of this kind may have")
	}
	if b.left > 0 && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	silent := time.AfterFunc(b.patience, func() { b.cancel(errSilent) })
	n, err := b.body.Read(p)
	silent.Stop()
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(b.ctx); cause != nil {
			err = cause
		}
	}
	return n, err
}

// Close implements io.Closer.
func (b *guardedBody) Close() (err error) {
	b.once.Do(func() {
		b.end() // first, so that closing does not wait for the rest
		err = b.body.Close()
	})
	return err
}

func (t *transport) close() { t.base.CloseIdleConnections() }
