package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
)

func TestFilters(t *testing.T) {
	var b bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})), slog.LevelWarn).Named("raft").With("shard", 3)
	l.Debug("quiet")
	l.Info("quiet")
	l.Warn("loud", "n", 1)
	for range 100 {
		l.Error("again", "error", errors.New("x"))
	}
	l.Error("closed", "error", fmt.Errorf("read: %w", net.ErrClosed))
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "raft: loud") || !strings.Contains(lines[0], "shard=3") || !strings.Contains(lines[1], "raft: again") {
		t.Fatalf("%q", lines)
	}
	for i := range 3 * maxSeen {
		l.Warn(fmt.Sprint("message ", i))
	}
	if n := len(l.(*logger).seen.last); n > maxSeen {
		t.Fatalf("remembers %d messages", n)
	}
}
