// Package raftlog gives hashicorp/raft a logger that writes to slog.
//
// Raft warns of what is routine (an election, no leader yet, a follower that is behind), and
// calls an error what it gets over by itself (a peer that is down). To an
// operator that is one level less: its errors become Warn, its warnings Info, its news Debug. What does need
// an operator, a log or a state machine that failed, is reported as an error by package raftmeta itself.
//
// Raft also repeats itself with every heartbeat; so records below a minimum level
// are dropped, and one that repeats the last message is written at most once in RepeatAfter,
// with the number of those left out.
package raftlog

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// RepeatAfter is how long the repetition of a message is held back.
const RepeatAfter = 10 * time.Second

// New makes a logger that passes records on to to; min is of slog's levels, after the translation.
func New(to *slog.Logger, min slog.Level) hclog.Logger {
	return &logger{to: to, min: min, seen: &seen{last: map[string]*repeat{}}}
}

type logger struct {
	to   *slog.Logger
	min  slog.Level
	name string
	args []any
	seen *seen
}

// seen remembers what was written lately.
type seen struct {
	mu   sync.Mutex
	last map[string]*repeat
}

type repeat struct {
	at    time.Time
	count int
}

// maxSeen bounds what is remembered.
const maxSeen = 256

// allow reports whether msg may be written now, and how many were held back since the last time.
func (s *seen) allow(msg string, now time.Time) (bool, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.last[msg]
	if r != nil && now.Sub(r.at) < RepeatAfter {
		r.count++
		return false, 0
	}
	n := 0
	if r != nil {
		n = r.count
	} else if len(s.last) >= maxSeen {
		clear(s.last)
	}
	s.last[msg] = &repeat{at: now}
	return true, n
}

func level(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelWarn
	case hclog.Warn:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func (l *logger) Log(lv hclog.Level, msg string, args ...any) {
	sl := level(lv)
	if sl < l.min || !l.to.Enabled(context.Background(), sl) {
		return
	}
	for _, a := range args {
		// A connection that we closed ourselves is no news.
		if err, ok := a.(error); ok && errors.Is(err, net.ErrClosed) {
			return
		}
	}
	ok, held := l.seen.allow(msg, time.Now())
	if !ok {
		return
	}
	all := append([]any{}, l.args...)
	all = append(all, args...)
	if held > 0 {
		all = append(all, "repeated", held)
	}
	if l.name != "" {
		msg = l.name + ": " + msg
	}
	l.to.Log(context.Background(), sl, msg, all...)
}

func (l *logger) Trace(msg string, args ...any) { l.Log(hclog.Trace, msg, args...) }
func (l *logger) Debug(msg string, args ...any) { l.Log(hclog.Debug, msg, args...) }
func (l *logger) Info(msg string, args ...any)  { l.Log(hclog.Info, msg, args...) }
func (l *logger) Warn(msg string, args ...any)  { l.Log(hclog.Warn, msg, args...) }
func (l *logger) Error(msg string, args ...any) { l.Log(hclog.Error, msg, args...) }

func (l *logger) IsTrace() bool { return false }
func (l *logger) IsDebug() bool { return l.min <= level(hclog.Debug) }
func (l *logger) IsInfo() bool  { return l.min <= level(hclog.Info) }
func (l *logger) IsWarn() bool  { return l.min <= level(hclog.Warn) }
func (l *logger) IsError() bool { return l.min <= level(hclog.Error) }

func (l *logger) ImpliedArgs() []any { return l.args }

func (l *logger) With(args ...any) hclog.Logger {
	c := *l
	c.args = append(append([]any{}, l.args...), args...)
	return &c
}

func (l *logger) Name() string { return l.name }

func (l *logger) Named(name string) hclog.Logger {
	if l.name != "" {
		name = l.name + "." + name
	}
	return l.ResetNamed(name)
}

func (l *logger) ResetNamed(name string) hclog.Logger {
	c := *l
	c.name = name
	return &c
}

// SetLevel does nothing: the level is fixed by New.
func (l *logger) SetLevel(hclog.Level) {}

func (l *logger) GetLevel() hclog.Level {
	for _, lv := range []hclog.Level{hclog.Debug, hclog.Warn, hclog.Error} {
		if l.min <= level(lv) {
			return lv
		}
	}
	return hclog.Off
}

func (l *logger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(l.StandardWriter(nil), "", 0)
}

func (l *logger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return writer{l} }

type writer struct{ l *logger }

func (w writer) Write(p []byte) (int, error) {
	w.l.Info(string(p))
	return len(p), nil
}
