//go:build linux

package kclient

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// tailLines bounds how much output is kept for WaitOutput and for messages about failures.
const tailLines = 400

// logTail is a writer that passes whole lines on to the test's log and remembers the last ones.
type logTail struct {
	name string

	mu    sync.Mutex
	t     testing.TB // nil after the test's end, when it must not be used any more; protected by mu
	part  []byte     // a line without its end yet; protected by mu
	lines []string   // protected by mu
	fresh chan struct{}
}

func newLogTail(t testing.TB, name string) *logTail {
	l := &logTail{name: name, t: t, fresh: make(chan struct{}, 1)}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.t = nil
	})
	return l
}

func (l *logTail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, b...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 {
			break
		}
		line := strings.TrimRight(string(l.part[:i]), "\r")
		l.part = l.part[i+1:]
		if l.t != nil {
			l.t.Logf("%s: %s", l.name, line)
		}
		if l.lines = append(l.lines, line); len(l.lines) > tailLines {
			l.lines = l.lines[len(l.lines)-tailLines:]
		}
	}
	select {
	case l.fresh <- struct{}{}:
	default:
	}
	return len(b), nil
}

// newQuietTail is a logTail that reaches the test's log only when the test has failed.
func newQuietTail(t testing.TB, name string) *logTail {
	l := &logTail{name: name, fresh: make(chan struct{}, 1)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s:\n%s", name, l.tail())
		}
	})
	return l
}

// tail returns the remembered lines and what follows them.
func (l *logTail) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(append(l.lines[:len(l.lines):len(l.lines)], string(l.part)), "\n")
}

func (l *logTail) find(text string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			return line, true
		}
	}
	return "", false
}

// wait returns the first remembered line that contains text. One waiter at a time.
func (l *logTail) wait(text string, deadline time.Duration, ended <-chan struct{}) (string, error) {
	timeout := time.NewTimer(deadline)
	defer timeout.Stop()
	for {
		if line, ok := l.find(text); ok {
			return line, nil
		}
		select {
		case <-l.fresh:
		case <-ended:
			if line, ok := l.find(text); ok {
				return line, nil
			}
			return "", errors.New("ended before it printed " + text + ":\n" + l.tail())
		case <-timeout.C:
			return "", fmt.Errorf("did not print %q within %v:\n%s", text, deadline, l.tail())
		}
	}
}

func baseName(path string) string { return filepath.Base(path) }
