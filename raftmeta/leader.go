package raftmeta

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
	"github.com/rackfs/rackfs/raftmeta/internal/readindex"
	"github.com/rackfs/rackfs/vfs"
)

// retryPause is the pause after something a leader does failed.
const retryPause = 50 * time.Millisecond

// leadership is one term in which this replica leads and has committed a barrier.
type leadership struct {
	term      uint64
	confirm   *readindex.Confirmer
	purge     *work
	reap      *work
	leases    *leases
	work      *workTable
	recalls   *recalls
	connected connected
	unlocks   *unlocks
}

// follow starts and ends leaderships as Raft says. It runs as long as the shard.
func (sh *shard) follow() {
	defer sh.wg.Done()
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case lead := <-sh.raft.LeaderCh():
			end() // also when two elections were won and the loss in between was not seen
			end = func() {}
			if lead {
				end = sh.begin()
			}
		case <-sh.ctx.Done():
			return
		}
	}
}

// begin starts a reign; the result ends it.
func (sh *shard) begin() (end func()) {
	ctx, cancel := context.WithCancel(sh.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		sh.reign(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// reign serves reads and does the leader's work until ctx ends.
func (sh *shard) reign(ctx context.Context) {
	term, err := sh.takeOffice(ctx)
	if err != nil {
		return // deposed before it began
	}
	now := sh.s.opt.Monotonic()
	l := &leadership{term: term, purge: newWork(now), reap: newWork(now), leases: newLeases(sh.s.opt.Lease), work: newWorkTable(sh.s.opt.Work), recalls: newRecalls(term), unlocks: newUnlocks(term), connected: connected{names: make(map[string]connections)}, confirm: readindex.New(readindex.Options{
		Term: term, Self: sh.info.ID,
		Voters: sh.voters, Current: sh.raft.CurrentTerm, Ask: sh.askTerm,
	})}
	sh.lead.Store(l)
	sh.log.Info("raftmeta: leading", "term", term)
	defer func() {
		sh.lead.Store(nil)
		l.confirm.Close(&vfs.Error{Kind: vfs.KindNotLeader, Op: "raftmeta"})
		sh.log.Info("raftmeta: not leading any more", "term", term)
	}()
	working := make(chan struct{})
	go func() {
		defer close(working)
		sh.background(ctx, l)
	}()
	defer func() { <-working }()
	check := time.NewTicker(sh.s.opt.CheckInterval)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-check.C:
			sh.compareDigests(ctx)
		}
	}
}

// takeOffice commits a barrier and returns the term that it was committed in, in which this replica leads.
func (sh *shard) takeOffice(ctx context.Context) (uint64, error) {
	for {
		before := sh.raft.CurrentTerm()
		f := sh.raft.Barrier(0)
		err := wait(ctx, f)
		// Terms only rise, so equal ones mean that the barrier is of this term.
		if err == nil && sh.raft.CurrentTerm() == before {
			if i, ok := f.(raft.IndexFuture); ok {
				// Entries that only Raft reads, such as the barrier, never reach the state machine.
				sh.host.Reached(i.Index())
			}
			return before, nil
		}
		if err != nil && sh.raft.State() != raft.Leader {
			return 0, err
		}
		if err := pause(ctx, retryPause); err != nil {
			return 0, err
		}
	}
}

// wait waits for a future, at most until ctx ends.
func wait(ctx context.Context, f raft.Future) error {
	ch := make(chan error, 1)
	go func() { ch <- f.Error() }()
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
