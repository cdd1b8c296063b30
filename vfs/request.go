package vfs

import (
	"context"
	"fmt"
	"log/slog"
)

// RequestID names what a user asked for: one call of the HTTP API, or one RPC of an NFS client. A front end gives it; it travels in contexts and in calls between
// nodes, so that what any of them logs about the request says which one. It says nothing about who may do what. 0 is none: what the cluster does by itself.
//
// The id of an NFS request ends with the xid that the client gave its RPC; what comes before it is the connection's.
type RequestID uint64

func (r RequestID) String() string { return fmt.Sprintf("%016x", uint64(r)) }

// LogValue implements slog.LogValuer.
func (r RequestID) LogValue() slog.Value { return slog.StringValue(r.String()) }

// requestKey is the key of a *RequestID in a context: a pointer, because a number would be allocated anew each time it is asked for.
type requestKey struct{}

// Value answers a context's Value: the id, if key asks for it, else nil. For contexts that hold an id themselves.
func (r *RequestID) Value(key any) any {
	if _, ok := key.(requestKey); ok {
		return r
	}
	return nil
}

// RequestContext is a context about a request that lies in memory of its owner. It is not changed while anybody has it.
type RequestContext struct {
	context.Context
	ID RequestID
}

// Value implements context.Context.
func (c *RequestContext) Value(key any) any {
	if v := c.ID.Value(key); v != nil {
		return v
	}
	return c.Context.Value(key)
}

// WithRequest is ctx about a request. Without one it is ctx.
func WithRequest(ctx context.Context, id RequestID) context.Context {
	if id == 0 {
		return ctx
	}
	return &RequestContext{ctx, id}
}

// RequestOf is the request that ctx is about.
func RequestOf(ctx context.Context) RequestID {
	if r, ok := ctx.Value(requestKey{}).(*RequestID); ok {
		return *r
	}
	return 0
}

// LogRequest is log with the request that ctx is about, if there is one.
func LogRequest(ctx context.Context, log *slog.Logger) *slog.Logger {
	if id := RequestOf(ctx); id != 0 {
		return log.With("request", id)
	}
	return log
}
