package api

import (
	"net/http"
	"sync"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// transfersAtOnce bounds how many files, archives and pieces a gateway sends and receives at once: each holds up to 2 MiB, for as long as whoever is at the other end takes.
	transfersAtOnce = 512
	// transfersOfToken is how many of them may be of one token.
	transfersOfToken = 64
	// transferAgain is when to try again, in seconds.
	transferAgain = "5"
)

// transfers counts what is being sent and received.
type transfers struct {
	mu  sync.Mutex // guards the following
	all int
	by  map[string]int // by id of the token; that of the operator is ""
}

// begin counts one more until end is called.
func (t *transfers) begin(who *accounts.Principal) (end func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	refuse := func(whose string, n int) error {
		return &statusError{http.StatusTooManyRequests, vfs.Errorf(vfs.KindLocked, "transfer", // places of connections that died are free after a minute: clients wait that long for what is locked
			"%d files, archives or pieces are sent and received here%s, which is as many as are at once: try again when some have ended", n, whose)}
	}
	id := who.Token
	if n := t.by[id]; n >= transfersOfToken {
		return nil, refuse(" for "+who.Name, n)
	}
	if t.all >= transfersAtOnce {
		return nil, refuse("", t.all)
	}
	if t.by == nil {
		t.by = map[string]int{}
	}
	t.all++
	t.by[id]++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.all--
		if t.by[id]--; t.by[id] == 0 {
			delete(t.by, id)
		}
	}, nil
}

// bounded is fn, unless too much is being sent and received already.
func (a *API) bounded(fn func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		end, err := a.transfers.begin(accounts.Of(r.Context()))
		if err != nil {
			return err
		}
		defer end()
		return fn(w, r)
	}
}
