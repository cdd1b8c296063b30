package powercut

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/vfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sampled is how many operations on files there are for each cut, unless RACKFS_TEST_LONG is set.
const sampled = 2

// sequence is what is done to a file system.
type sequence struct {
	prepare func(*run)
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
	b, err := start(d, true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := b.prepare(); err != nil {
		t.Fatal(err)
	}
	g, err := b.register(1)
	if err != nil {
		t.Fatal(err)
	}
	defer g.vol.Abandon()
	r := &run{t: t, ctx: b.ctx, vol: g.vol, tree: tree{}, inos: map[string]vfs.Ino{}, rng: rand.New(rand.NewPCG(c.rng.Uint64(), 1)), box: b}
	q.prepare(r)
	states = append(states, r.tree.String())
	c.mu.Lock()
	c.armed = true
	c.mu.Unlock()
	for _, s := range q.steps {
		s(r)
		states = append(states, r.tree.String())
		c.acknowledged()
	}
	err = g.vol.Shutdown(b.ctx) // leases and unused block ids go back
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut("at the end")
	c.armed = false
	if err != nil {
		t.Error(err)
	}
	if got, _, err := look(b.ctx, g.vol); err == nil && got != states[len(states)-1] {
		t.Errorf("the volume shows\n%s\nnot\n%s", got, states[len(states)-1])
	}
	return states
}

// writes are those of one file: new, over what is there, behind a truncation, and bytes so few that they are merged into a page of
// the metadata, beside others and over a block.
func writes() sequence {
	return sequence{
		prepare: func(r *run) {
			r.create("other")
			r.write("other", 0, 70_000)
			r.close("other")
			r.create("small")
			r.write("small", 0, 700)
		},
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
			func(r *run) { r.write("small", 0, 20_000) },
		},
	}
}

// names are renames over a file, and over one that is open, another name for a file and the end of the first, and a
// file that is unlinked while it is open.
func names() sequence {
	return sequence{
		prepare: func(r *run) {
			r.mkdir("d")
			for i, p := range []string{"a", "b", "c", "d/e"} {
				r.create(p)
				r.write(p, 0, 10_000<<i)
				r.close(p)
			}
			r.create("open")
			r.write("open", 0, 300_000)
			r.inos["was open"] = r.inos["open"]
			r.create("d/open")
			r.write("d/open", 0, 50_000)
		},
		steps: []func(*run){
			func(r *run) { r.rename("a", "b") },
			func(r *run) { r.link("c", "d/f") },
			func(r *run) { r.rename("d/e", "open") },
			func(r *run) { r.close("was open") },
			func(r *run) { r.remove("d/open") },
			(*run).snapshot,
			func(r *run) { r.close("d/open") },
			func(r *run) { r.remove("c") },
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
			_, failed := writes().cut(t, 1, func(op vfile.Change) bool {
				return op.Kind == vfile.SyncFile && path.Base(path.Dir(op.Path)) == dir
			})
			if len(failed) == 0 {
				t.Fatal("lost, and no power cut shows it")
			}
			t.Log(failed[0])
		})
	}
}
