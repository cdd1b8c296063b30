package volume

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestGather: the committer waits until as much is ready as there was, and not longer than it may, whatever wakes it. The clock is the bubble's: it stands
// while anybody runs.
func TestGather(t *testing.T) {
	const took = 3 * time.Millisecond
	for name, c := range map[string]struct {
		syncing, ready, want int
		took                 time.Duration
		come                 []time.Duration // when a piece becomes ready
		wakes                bool            // it is woken all the time, for nothing
		closed               time.Duration   // when the volume is closed; 0: not
		waits                time.Duration
	}{
		"few wait":                        {syncing: gatherFrom - 1, ready: 1, want: 4, took: took},
		"nothing is ready, and they come": {syncing: 4, want: 2, took: took, come: []time.Duration{100 * time.Microsecond, time.Millisecond}, waits: time.Millisecond},
		"nothing comes":                   {syncing: 4, want: 4, took: took, waits: took / 2},
		"all are ready":                   {syncing: 4, ready: 4, want: 4, took: took},
		"the rest comes":                  {syncing: 4, ready: 2, want: 4, took: took, come: []time.Duration{100 * time.Microsecond, 300 * time.Microsecond, time.Millisecond}, waits: 300 * time.Microsecond},
		"one does not come":               {syncing: 4, ready: 2, want: 4, took: took, come: []time.Duration{100 * time.Microsecond}, waits: took / 2},
		"woken for nothing":               {syncing: 4, ready: 2, want: 4, took: took, wakes: true, waits: took / 2},
		"the command took long":           {syncing: 4, ready: 2, want: 4, took: time.Minute, wakes: true, waits: gatherMax},
		"the volume is closed":            {syncing: 4, ready: 2, want: 4, took: time.Minute, closed: 100 * time.Microsecond, waits: 100 * time.Microsecond},
		"it took no time that is seen":    {syncing: 4, ready: 2, want: 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v, e := &Volume{}, newInode(1)
				v.ctx, v.cancel = context.WithCancel(t.Context())
				e.syncing = c.syncing
				piece := flushed{exts: make([]newExtent, 1)}
				for range c.ready {
					e.ready = append(e.ready, piece)
				}
				e.gathering.changed() // a token of before tells nothing
				end := make(chan struct{})
				for _, at := range c.come {
					time.AfterFunc(at, func() { // as commitReady does
						e.mu.Lock() // released while it waits
						defer e.mu.Unlock()
						e.ready = append(e.ready, piece)
						e.gathering.changed()
					})
				}
				if c.closed > 0 {
					time.AfterFunc(c.closed, v.cancel)
				}
				if c.wakes {
					go func() {
						for {
							select {
							case <-time.After(10 * time.Microsecond):
								e.gathering.changed()
							case <-end:
								return
							}
						}
					}()
				}
				began := time.Now()
				e.mu.Lock()
				v.gather(e, c.want, c.took)
				if waited := time.Since(began); waited != c.waits {
					t.Errorf("it waited for %v, not %v", waited, c.waits)
				}
				have := c.ready
				for _, at := range c.come {
					if at <= c.waits {
						have++
					}
				}
				if piecesIn(e.ready) != have {
					t.Errorf("%d pieces are ready, not %d", piecesIn(e.ready), have)
				}
				e.mu.Unlock()
				close(end)
				time.Sleep(time.Second) // whoever comes late
			})
		})
	}
}
