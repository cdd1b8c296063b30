//go:build linux

package kclient

import (
	"runtime"
	"strings"
	"testing"
)

// recorder is a test that notes what becomes of it.
type recorder struct {
	testing.TB
	failed, skipped bool
	log             []string
}

func (r *recorder) Helper()                 {}
func (r *recorder) Log(args ...any)         { r.log = append(r.log, args[0].(string)) }
func (r *recorder) Logf(f string, _ ...any) { r.log = append(r.log, f) }
func (r *recorder) FailNow()                { r.failed = true; runtime.Goexit() }
func (r *recorder) SkipNow()                { r.skipped = true; runtime.Goexit() }

// A test runs again if and only if a kernel hung before anything failed, and once.
func TestAgainIfHangs(t *testing.T) {
	hang := func(t testing.TB) { t.(hangTold).guestHangs("client") }
	for _, c := range []struct {
		name       string
		runs       []func(t testing.TB) // what each run does; a run more is one too many
		fails      bool
		skippedToo bool
	}{
		{name: "passes", runs: []func(testing.TB){func(testing.TB) {}}},
		{name: "fails", runs: []func(testing.TB){func(t testing.TB) { t.Fatalf("a check") }}, fails: true},
		{name: "fails, then hangs", runs: []func(testing.TB){func(t testing.TB) { t.Errorf("a check"); hang(t); t.Fatalf("the guest") }}, fails: true},
		{name: "hangs unnoticed", runs: []func(testing.TB){hang}},
		{name: "hangs, then passes", runs: []func(testing.TB){func(t testing.TB) { hang(t); t.Fatalf("the guest") }, func(testing.TB) {}}},
		{name: "hangs, then fails", runs: []func(testing.TB){func(t testing.TB) { hang(t); t.Errorf("the guest") }, func(t testing.TB) { t.Errorf("a check") }}, fails: true},
		{name: "hangs twice", runs: []func(testing.TB){func(t testing.TB) { hang(t); t.Fatal("the guest") }, func(t testing.TB) { hang(t); t.Fatal("the guest") }}, fails: true},
		{name: "fails in its cleanup", runs: []func(testing.TB){func(t testing.TB) { t.Cleanup(func() { t.Fatalf("a check") }) }}, fails: true},
		{name: "fails in another goroutine", runs: []func(testing.TB){func(t testing.TB) {
			done := make(chan struct{})
			go func() { defer close(done); t.Error("a check") }()
			<-done
			hang(t)
			t.Fatal("the guest")
		}}, fails: true},
		{name: "is skipped", runs: []func(testing.TB){func(t testing.TB) { t.Skipf("no") }}, skippedToo: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &recorder{TB: t}
			n, open := 0, 0
			done := make(chan struct{})
			go func() {
				defer close(done)
				again(r, func(t testing.TB) {
					if open != 0 {
						r.TB.Error("the run before has not been cleaned up")
					}
					open++
					t.Cleanup(func() {
						open--
						if t.Context().Err() == nil {
							r.TB.Error("the context goes on")
						}
					})
					run := c.runs[n]
					n++
					run(t)
				})
			}()
			<-done
			if r.failed != c.fails || r.skipped != c.skippedToo || n != len(c.runs) || open != 0 {
				t.Errorf("failed %v, skipped %v, %d runs, %d not cleaned up; log:\n%s", r.failed, r.skipped, n, open, strings.Join(r.log, "\n"))
			}
		})
	}
}
