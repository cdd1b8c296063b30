package crew

import (
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// goroutine is the number of the calling goroutine.
func goroutine() string {
	b := make([]byte, 64)
	return strings.Fields(string(b[:runtime.Stack(b, false)]))[1]
}

// Functions run beside each other, more of them than are kept, and each once; when they have ended one goroutine is used again and again.
func TestCrew(t *testing.T) {
	c := New(2)
	const n = 16
	var began, ended sync.WaitGroup
	release := make(chan struct{})
	for range n {
		began.Add(1)
		ended.Add(1)
		c.Go(func() { defer ended.Done(); began.Done(); <-release })
	}
	began.Wait() // all at the same time
	close(release)
	ended.Wait()
	seen := map[string]bool{}
	for range 200 {
		ch := make(chan string)
		c.Go(func() { ch <- goroutine() })
		seen[<-ch] = true
	}
	// One that is not back yet when the next function comes is not waited for, so there may be a few.
	if len(seen) > 100 {
		t.Errorf("%d goroutines for 200 functions one after another", len(seen))
	}
	c.Close()
	ran := make(chan struct{})
	c.Go(func() { close(ran) })
	<-ran
	c.Wait()
}
