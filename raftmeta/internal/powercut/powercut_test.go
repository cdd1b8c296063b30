package powercut

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sampled is how many operations on files there are for each cut, unless RACKFS_TEST_LONG is set.
const sampled = 3

// sequence is what is done to a file system.
type sequence struct {
	prepare func(*run)
	// open are the files of it that are open in the steps.
	open []string
	// steps each change what a user sees once, or not at all.
	steps []func(*run)
}

// everywhere does a sequence, and checks what is left by power cuts in it.
func (q sequence) everywhere(t *testing.T) {
	every := sampled
	if os.Getenv("RACKFS_TEST_LONG") != "" {
		every = 1
	}
	seen, failed := q.cut(t, every, nil)
	for _, err := range failed {
		t.Error(err)
	}
	t.Logf("%+v", seen)
	if seen.collected == 0 || seen.before == 0 || every == 1 && seen.after == 0 {
		t.Error("the test is void")
	}
}

// outcomes count what cuts left.
type outcomes struct {
	before, after int // the tree before and after an operation that was under way
	collected     int // shards that collectors deleted
}

// cut does the sequence with a cut every so many operations on files. lose, if set, picks syncs that do nothing.
func (q sequence) cut(t *testing.T, every int, lose func(vfile.Change) bool) (total outcomes, failed []error) {
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("RACKFS_TEST_SEED"), 10, 64); err == nil {
		seed = v // of a run that printed it; which operation comes when is up to the goroutines
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	c := &cuts{every: every, skip: rng.IntN(every), lose: lose, rng: rng, prints: vfile.NewPrints(), seen: map[[2]uint64]bool{}}
	root, remove, err := tempDir()
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	states := q.live(t, c, root)
	t.Logf("seed %d: %d operations on files, %d disks to look at", seed, c.ops, len(c.left))
	if c.ops < 3*len(q.steps) {
		t.Fatal("the test is void: hardly any operation")
	}
	began := time.Now()
	var mu sync.Mutex
	next := 0
	var wg sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) { // a voter waits before it elects itself
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(c.left) || len(failed) >= shownFailures {
					mu.Unlock()
					return
				}
				x := c.left[next]
				next++
				mu.Unlock()
				o, err := x.check(root, states[x.done:min(x.done+2, len(states))])
				mu.Lock()
				total.before += o.before
				total.after += o.after
				total.collected += o.collected
				if err != nil {
					failed = append(failed, fmt.Errorf("%s, %d steps acknowledged: %w", x.what, x.done, err))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	t.Logf("looked at in %v", time.Since(began))
	return total, failed
}

// shownFailures is how many failures are worth reading.
const shownFailures = 3

// live runs the steps while the power is cut, and returns the trees before and after each.
func (q sequence) live(t *testing.T, c *cuts, root string) (states []string) {
	d, real, err := liveDisks(root, c.before)
	if err != nil {
		t.Fatal(err)
	}
	c.mem, c.real = d.mem, real
	if err := format(d); err != nil {
		t.Fatal(err)
	}
	r := &run{t: t, tree: tree{}, inos: map[string]vfs.Ino{}, rng: rand.New(rand.NewPCG(c.rng.Uint64(), 1))}
	// The machine was started once before, so that stores and state have what they had when they were stopped.
	r.start(d, true, 1)
	q.prepare(r)
	r.must(r.gw.vol.Shutdown(r.box.ctx))
	r.must(r.box.stop())
	r.start(d, false, 2)
	defer func() { r.must(r.box.stop()) }()
	defer func() { r.gw.vol.Abandon() }()
	for _, p := range q.open {
		r.open(p)
	}
	states = append(states, r.tree.String())
	c.mu.Lock()
	c.armed = true
	c.mu.Unlock()
	for _, s := range q.steps {
		s(r)
		states = append(states, r.tree.String())
		c.acknowledged()
	}
	err = r.gw.vol.Shutdown(r.box.ctx) // leases and unused block ids go back
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut("at the end")
	c.armed = false
	if err != nil {
		t.Error(err)
	}
	return states
}

// writes are those of one file: new, over what is there, behind a truncation, and bytes so few that they are merged into a page of
// the metadata, beside others and over a block. In between the replica takes a snapshot, and what was written over is collected.
func writes() sequence {
	return sequence{
		prepare: func(r *run) {
			r.create("other")
			r.write("other", 0, 70_000)
			r.close("other")
			r.create("small")
			r.write("small", 0, 700)
			r.close("small")
		},
		open: []string{"small"},
		steps: []func(*run){
			func(r *run) { r.create("f") },
			func(r *run) { r.write("f", 0, 200_000) },
			func(r *run) { r.write("f", 50_000, 100_000) },
			func(r *run) { r.truncate("f", 120_000) },
			(*run).snapshot,
			func(r *run) { r.write("f", 110_000, 60_000) },
			func(r *run) { r.write("f", 3*4096+100, 3000) },
			func(r *run) { r.write("small", 600, 1000) },
			func(r *run) { r.write("small", 200, 300) },
			(*run).collect,
			func(r *run) { r.write("small", 0, 20_000) },
		},
	}
}

// names are renames over a file, and over one that is open, another name for a file and the end of the first, and
// files that are unlinked while they are open: one is closed, of the other the gateway dies.
func names() sequence {
	return sequence{
		prepare: func(r *run) {
			r.mkdir("d")
			for i, p := range []string{"a", "b", "c", "d/e", "open", "d/open"} {
				r.create(p)
				r.write(p, 0, 10_000<<i)
				r.close(p)
			}
			r.inos["was open"] = r.inos["open"]
		},
		open: []string{"open", "d/open"},
		steps: []func(*run){
			func(r *run) { r.rename("a", "b") },
			func(r *run) { r.link("c", "d/f") },
			func(r *run) { r.rename("d/e", "open") },
			func(r *run) { r.close("was open") },
			func(r *run) { r.remove("d/open") },
			(*run).snapshot,
			func(r *run) { r.close("d/open") },
			func(r *run) { r.remove("c") },
			func(r *run) { r.open("open") },
			func(r *run) { r.remove("open") },
			(*run).die,
			(*run).collect,
			func(r *run) { r.remove("d/f") },
		},
	}
}

// A write leaves the old content or the new, and nothing that collection does not find.
func TestWrites(t *testing.T) { writes().everywhere(t) }

// So does a change of names.
func TestNames(t *testing.T) { names().everywhere(t) }

// The syncs that acknowledged bytes and names rely on are needed, and these tests would tell.
func TestLostSyncs(t *testing.T) {
	for _, dir := range []string{"segments", "wal"} {
		t.Run(dir, func(t *testing.T) {
			q := writes()
			q.steps = q.steps[:2]
			_, failed := q.cut(t, 1, func(op vfile.Change) bool {
				return op.Kind == vfile.SyncFile && path.Base(path.Dir(op.Path)) == dir
			})
			if len(failed) == 0 {
				t.Fatal("lost, and no power cut shows it")
			}
			t.Log(failed[0])
		})
	}
}
