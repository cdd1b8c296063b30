package raftlog

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

func TestFilters(t *testing.T) {
	var b bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})), slog.LevelInfo).Named("raft").With("shard", 3)
	l.Debug("quiet")
	l.Info("quiet")
	l.Warn("loud", "n", 1)
	for range 100 {
		l.Error("again", "error", errors.New("x"))
	}
	l.Error("closed", "error", fmt.Errorf("read: %w", net.ErrClosed))
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "level=INFO") || !strings.Contains(lines[0], "raft: loud") || !strings.Contains(lines[0], "shard=3") || !strings.Contains(lines[1], "level=WARN") || !strings.Contains(lines[1], "raft: again") {
		t.Fatalf("%q", lines)
	}
	for i := range 3 * maxSeen {
		l.Warn(fmt.Sprint("message ", i))
	}
	if n := len(l.(*logger).seen.last); n > maxSeen {
		t.Fatalf("remembers %d messages", n)
	}
}

// What Raft says when all is well is not seen at level warn; what it calls an error is.
func TestRoutineIsNotAWarning(t *testing.T) {
	var b bytes.Buffer
	l := New(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelWarn})), slog.LevelInfo)
	l.Warn("heartbeat timeout reached, starting election")
	if b.Len() != 0 {
		t.Fatalf("%q", b.String())
	}
	l.Error("failed to heartbeat to")
	if !strings.Contains(b.String(), "level=WARN") {
		t.Fatalf("%q", b.String())
	}
	if l.GetLevel() != hclog.Warn || !l.IsWarn() || l.IsInfo() {
		t.Fatalf("level %v", l.GetLevel())
	}
}
