package store

import (
	"runtime"
	"sync"
	"testing"
)

// Puts that arrive together share fdatasyncs, also where few processors serve them: the syncer lets those that are runnable
// write their records first.
func TestPutsThatArriveTogetherShareSyncs(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := mustOpen(t, memOptions(-1))
	defer mustClose(t, s)
	const rounds, puts = 20, 16
	before := counterValue(t, s.m.Syncs)
	for round := range uint64(rounds) {
		var wg sync.WaitGroup
		for i := range uint64(puts) {
			wg.Go(func() {
				if err := s.Put(t.Context(), shardPut(key(1, round*puts+i, 0), 1)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	// One for each round, or two if somebody was interrupted.
	if n := counterValue(t, s.m.Syncs) - before; n > 3*rounds {
		t.Fatalf("%v fdatasyncs for %d bursts of %d Puts", n, rounds, puts)
	}
}
