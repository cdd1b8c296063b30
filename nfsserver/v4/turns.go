package v4

import (
	"context"
	"sync"
	"time"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// turns are locks by client, and which clients have gone to another server lately.
type turns struct {
	mu   sync.Mutex // guards all and the fields of its values, and gone
	all  map[state.ClientID]*turn
	gone map[state.ClientID]time.Time
}

type turn struct {
	held  chan struct{} // 1
	users int
}

func (t *turns) init() {
	t.all = make(map[state.ClientID]*turn)
	t.gone = make(map[state.ClientID]time.Time)
}

// left notes that a client went to another server at now.
func (t *turns) left(id state.ClientID, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, at := range t.gone {
		if now.Sub(at) > leastHold {
			delete(t.gone, other)
		}
	}
	t.gone[id] = now
}

// yield waits until the server that a client was given up for has had the time to take it: requests that have waited here would come first each time.
func (t *turns) yield(ctx context.Context, id state.ClientID) {
	t.mu.Lock()
	at, ok := t.gone[id]
	t.mu.Unlock()
	if !ok {
		return
	}
	select {
	case <-time.After(leastHold - time.Since(at)):
	case <-ctx.Done():
	}
}

// lock waits until nobody else has the client's turn.
func (t *turns) lock(ctx context.Context, id state.ClientID) (unlock func(), err error) {
	t.mu.Lock()
	one := t.all[id]
	if one == nil {
		one = &turn{held: make(chan struct{}, 1)}
		t.all[id] = one
	}
	one.users++
	t.mu.Unlock()
	left := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(t.all, id)
		}
	}
	select {
	case one.held <- struct{}{}:
		return func() { <-one.held; left() }, nil
	case <-ctx.Done():
		left()
		return nil, vfs.Wrap("nfs.turn", ctx.Err())
	}
}
