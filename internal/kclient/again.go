//go:build linux

package kclient

import (
	"context"
	"runtime"
	"sync"
	"testing"
)

// AgainIfHangs runs a test whose guests hold nothing that must be kept, and runs it once more, with new guests, if it failed because the kernel of one hung: if the
// harness had ended that guest and logged its diagnosis before anything failed. A failure of any other kind, or one that came earlier, or a second kernel that hangs, is the
// test's failure.
//
// What f leaves to its Cleanup is done before it runs again. Folders of TempDir stay until the end of the whole test.
func AgainIfHangs(t *testing.T, f func(t testing.TB)) {
	t.Helper()
	again(t, f)
}

func again(t testing.TB, f func(t testing.TB)) {
	t.Helper()
	a := runAttempt(t, f)
	if why, ok := a.forgiven(); ok {
		t.Logf("kclient: once more, as the kernel of guest %s hung (above)", why)
		a = runAttempt(t, f)
	}
	switch {
	case a.failed:
		t.FailNow()
	case a.skipped:
		t.SkipNow()
	}
}

// attempt is what a test is to f in AgainIfHangs: what it logs is logged, and it fails for itself.
type attempt struct {
	testing.TB
	ctx context.Context

	mu      sync.Mutex
	cleanup []func() // protected by mu
	failed  bool     // protected by mu while f runs
	own     bool     // it failed while no guest had been found to hang; protected by mu while f runs
	hangs   string   // name of the first guest that hung; protected by mu while f runs
	skipped bool     // protected by mu while f runs
}

func runAttempt(t testing.TB, f func(t testing.TB)) *attempt {
	ctx, cancel := context.WithCancel(t.Context())
	a := &attempt{TB: t, ctx: ctx}
	ended := make(chan struct{})
	go func() { // FailNow ends the goroutine
		defer close(ended)
		defer a.cleanUp()
		defer cancel()
		f(a)
	}()
	<-ended
	return a
}

// forgiven says whether it failed only because a kernel hung, and whose.
func (a *attempt) forgiven() (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hangs, a.failed && !a.own && a.hangs != ""
}

// cleanUp runs the functions, the last one first, and all of them even if one ends its goroutine.
func (a *attempt) cleanUp() {
	a.mu.Lock()
	n := len(a.cleanup)
	if n == 0 {
		a.mu.Unlock()
		return
	}
	f := a.cleanup[n-1]
	a.cleanup = a.cleanup[:n-1]
	a.mu.Unlock()
	defer a.cleanUp()
	f()
}

func (a *attempt) guestHangs(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hangs == "" {
		a.hangs = name
	}
}

func (a *attempt) Cleanup(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cleanup = append(a.cleanup, f)
}

func (a *attempt) Context() context.Context { return a.ctx }

func (a *attempt) Fail() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failed = true
	a.own = a.own || a.hangs == ""
}

func (a *attempt) Failed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

func (a *attempt) FailNow() {
	a.Fail()
	runtime.Goexit()
}

func (a *attempt) Error(args ...any) {
	a.TB.Helper()
	a.TB.Log(args...)
	a.Fail()
}

func (a *attempt) Errorf(format string, args ...any) {
	a.TB.Helper()
	a.TB.Logf(format, args...)
	a.Fail()
}

func (a *attempt) Fatal(args ...any) {
	a.TB.Helper()
	a.TB.Log(args...)
	a.FailNow()
}

func (a *attempt) Fatalf(format string, args ...any) {
	a.TB.Helper()
	a.TB.Logf(format, args...)
	a.FailNow()
}

func (a *attempt) Skip(args ...any) {
	a.TB.Helper()
	a.TB.Log(args...)
	a.SkipNow()
}

func (a *attempt) Skipf(format string, args ...any) {
	a.TB.Helper()
	a.TB.Logf(format, args...)
	a.SkipNow()
}

func (a *attempt) SkipNow() {
	a.mu.Lock()
	a.skipped = true
	a.mu.Unlock()
	runtime.Goexit()
}

func (a *attempt) Skipped() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.skipped
}
