package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pvfs "github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rackfs/rackfs/blockstore/segment"
	"github.com/rackfs/rackfs/internal/vfile"
)

// Every file operation of a store's life is failed once, in each way it can
// fail. What was acknowledged, before the failure or after it, is durable; the
// store can be opened again; and what was not acknowledged is there whole or not at all.

// site is one operation: a store does the same ones in each life, though its
// two goroutines may do them in another order.
type site struct {
	op   vfile.Op
	name string
	nth  int
}

func (s site) String() string { return fmt.Sprintf("%v %s #%d", s.op, s.name, s.nth) }

// fault is a way to fail.
type fault struct {
	name string
	err  error
	keep func(n int64) int64 // of a write's bytes
}

var allFaults = []fault{
	{"EIO", syscall.EIO, func(int64) int64 { return 0 }},
	{"EIO torn", syscall.EIO, func(n int64) int64 { return n / 2 / 512 * 512 }},
	{"EIO done", syscall.EIO, func(n int64) int64 { return max(n, 1) }},
	{"ENOSPC", syscall.ENOSPC, func(int64) int64 { return 0 }},
}

// plan fails one site and notes all of them.
type plan struct {
	mu   sync.Mutex
	at   site
	how  fault
	hit  bool
	seen []site
}

func (p *plan) decide(c vfile.Call) *vfile.Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := site{c.Op, c.Name, c.Nth}
	p.seen = append(p.seen, s)
	if s != p.at {
		return nil
	}
	p.hit = true
	return &vfile.Fault{Err: p.how.err, Keep: p.how.keep(c.Len)}
}

// life does what a store does: puts over three segments, deletions, puts of
// what was deleted, and fences. It goes on after errors, as clients do. Blocks are numbered from first.
func (j *journal) life(s *Store, first uint64) {
	ctx := context.Background()
	put := func(k segment.Key) {
		j.mu.Lock()
		j.tried[k] = true
		delete(j.deleted, k) // if this Put fails, it may be there
		j.mu.Unlock()
		if s.Put(ctx, shardPut(k, s.Epoch(k.PG))) != nil {
			return
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		j.acked[k] = true
		delete(j.delTry, k)
		delete(j.deleted, k)
	}
	del := func(ks ...segment.Key) {
		for _, k := range ks {
			j.note(j.delTry, k)
		}
		if _, err := s.Delete(ctx, ks); err == nil {
			for _, k := range ks {
				j.note(j.deleted, k)
			}
		}
	}
	for n := range uint64(3) {
		round := first + n
		for b := range uint64(4) { // 300 KiB blocks: shards of 76 KiB
			put(key(uint32(b%3+1), round*100+b*6+5, uint8(b%5)))
		}
		a, b := key(1, round*100+1, 4), key(1, round*100+2, 0)
		put(a)
		put(b)
		del(a, b)
		put(a)
		e := segment.Epoch{PG: 2, Epoch: uint32(round) + 2}
		if s.Fence(ctx, []segment.Epoch{e}) == nil {
			j.fenced[2] = max(j.fenced[2], e.Epoch)
		}
		put(key(2, round*100+7, 5))
		var wg sync.WaitGroup
		for b := range uint64(6) {
			wg.Go(func() { put(key(3, round*100+b*6+4, 1)) })
		}
		wg.Wait()
	}
}

// lives runs three stores over one disk: one whose operations fail by p, one
// after it without a crash in between, and one after a power cut. If late, the
// first is preceded by one that a power cut ended, so that it begins with a replay of all.
func lives(t *testing.T, p *plan, rng *rand.Rand, late bool) {
	o := memOptions(-1)
	mem := o.FS.(*vfile.Mem)
	j := newJournal()
	if late {
		s := mustOpen(t, o)
		j.life(s, 10)
		// All of it was acknowledged, and so is durable.
		mem = mem.CrashClone(rng, 0.5, nil)
		o.IndexFS = pvfs.NewCrashableMem()
		mustClose(t, s)
	}
	o.FS = vfile.NewFaults(mem, p.decide)
	if s, err := Open(context.Background(), o); err == nil {
		j.life(s, 0)
		for k := range j.acked { // reads go on
			if _, gone := j.delTry[k]; !gone && p.at.op != vfile.OpRead {
				checkShard(t, s, k)
			}
		}
		_ = s.Close()
	}
	o.FS = mem
	again := func() {
		o.Metrics = NewMetrics(nil, nil)
		s := mustOpen(t, o)
		verify(t, s, j, j)
		// What clients know now is what they see.
		for pg := uint32(1); pg <= 3; pg++ {
			for _, e := range listAll(t, s, pg, 100) {
				if !j.acked[e.Key] || j.delTry[e.Key] {
					if _, err := s.Delete(context.Background(), []segment.Key{e.Key}); err != nil {
						t.Fatal(err)
					}
					j.deleted[e.Key], j.delTry[e.Key] = true, true
				}
			}
		}
		for b := range uint64(3) {
			k := key(1, uint64(len(j.tried))*1000+b*6+3, 0)
			j.tried[k] = true
			mustPut(t, s, k)
			j.acked[k] = true
		}
		mustClose(t, s)
	}
	again()
	if rng.IntN(2) == 0 {
		o.IndexFS = pvfs.NewCrashableMem() // the index is made anew from the log
	} else {
		o.IndexFS = o.IndexFS.(*pvfs.MemFS).CrashClone(pvfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
	}
	o.FS = mem.CrashClone(rng, []float64{0, 0.5}[rng.IntN(2)], nil)
	o.Create = false
	again()
}

func TestEveryFault(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	// Operations on the index are Pebble's; here are ours. In make test, some of the many alike ones.
	every := 1
	if os.Getenv("RACKFS_TEST_LONG") == "" {
		every = 8
	}
	for _, late := range []bool{false, true} {
		when := map[bool]string{false: "new", true: "replayed"}[late]
		clean := &plan{}
		t.Run(when+"/none", func(t *testing.T) { lives(t, clean, rng, late) })
		sites := slices.Clone(clean.seen)
		slices.SortFunc(sites, func(a, b site) int { return strings.Compare(a.String(), b.String()) })
		ran, hit := 0, 0
		for _, at := range sites {
			if at.nth > 3 && rng.IntN(every) != 0 {
				continue
			}
			for _, how := range allFaults {
				if (at.op != vfile.OpWrite && at.op != vfile.OpZero) && how.name == "EIO torn" {
					continue
				}
				p := &plan{at: at, how: how}
				t.Run(fmt.Sprintf("%s/%v/%s", when, at, how.name), func(t *testing.T) { lives(t, p, rng, late) })
				ran++
				if p.hit {
					hit++
				}
			}
		}
		if ran < 60 || hit*2 < ran {
			t.Fatalf("%s: %d of %d faults happened: the test shows little", when, hit, ran)
		}
		t.Logf("%s: %d faults at %d operations", when, hit, len(sites))
	}
}
