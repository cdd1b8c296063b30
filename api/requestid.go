package api

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"net/http"

	"github.com/rackfs/rackfs/vfs"
)

// RequestIDHeader is the header of every answer with the id of its request. What is logged about the request, and its line in the audit log, have the id too,
// in all of the cluster, so that who was refused something can say which lines are about that. It is always ours: what a caller sends is not taken into logs.
const RequestIDHeader = "X-Request-Id"

func newRequest(ctx context.Context, w http.ResponseWriter) context.Context {
	var b [8]byte
	rand.Read(b[:])
	id := vfs.RequestID(binary.BigEndian.Uint64(b[:]) | 1) // never none
	w.Header().Set(RequestIDHeader, id.String())
	return vfs.WithRequest(ctx, id)
}

// answered logs the outcome of an operation. What the cluster failed in is a warning; a refusal is the caller's affair.
func (a *API) answered(ctx context.Context, operation string, err error) {
	level := slog.LevelDebug
	if err != nil && problem(err).Status >= http.StatusInternalServerError {
		level = slog.LevelWarn
	}
	a.logAbout(ctx, level, "api: answered", slog.String("operation", operation), slog.Any("err", err))
}

// logAbout logs something about the request that ctx is of.
func (a *API) logAbout(ctx context.Context, level slog.Level, message string, about ...slog.Attr) {
	if !a.log.Enabled(ctx, level) {
		return
	}
	a.log.LogAttrs(ctx, level, message, append(about, slog.Any("request", vfs.RequestOf(ctx)))...)
}
