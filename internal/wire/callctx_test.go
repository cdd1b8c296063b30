package wire

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

func TestCallContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &callContext{deadline: time.Now().Add(time.Second), request: 7}
		if d, ok := c.Deadline(); !ok || time.Until(d) != time.Second || vfs.RequestOf(c) != 7 || c.Err() != nil {
			t.Fatal(d, ok, vfs.RequestOf(c), c.Err())
		}
		// One that nobody waits for ends with its deadline, too.
		quiet := &callContext{deadline: c.deadline}
		child, stop := context.WithCancel(c)
		defer stop()
		kept := context.AfterFunc(c, func() { t.Error("called, though it was stopped") })
		if !kept() || kept() {
			t.Error("stop: want true once")
		}
		<-c.Done()
		<-child.Done()
		for _, x := range []context.Context{c, child, quiet} {
			if x.Err() != context.DeadlineExceeded {
				t.Errorf("%v: want the deadline's end", x.Err())
			}
		}
		c.end(context.Canceled)
		if <-c.Done(); c.Err() != context.DeadlineExceeded {
			t.Errorf("%v after a second end", c.Err())
		}

		e := &callContext{}
		if _, ok := e.Deadline(); ok {
			t.Error("a deadline out of nothing")
		}
		e.end(context.Canceled)
		late, stop := context.WithTimeout(e, time.Hour)
		defer stop()
		called := make(chan struct{})
		e.AfterFunc(func() { close(called) })
		<-called
		<-late.Done()
		if <-e.Done(); e.Err() != context.Canceled || late.Err() != context.Canceled {
			t.Error(e.Err(), late.Err())
		}
	})
}
