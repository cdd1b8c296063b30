package crashtest

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/internal/vfile"
)

// Test is a sequence and how to see that a disk is right. A is what was acknowledged.
type Test[A comparable] struct {
	// Run does the sequence on d and notes what was acknowledged. Lost syncs do not make it fail.
	Run func(d *Disk[A]) error
	// Check opens what a power cut left and says what of acked is missing. It runs concurrently.
	Check func(left *vfile.Mem, acked A) error
	// Together says in which directories names survive all or not at all (vfile.Mem.Crashes). nil: in none.
	Together func(dir string) bool
	// Only, if not empty, is the package whose syncs are shown; those of others are shown there.
	Only string
}

// Site is a call that syncs.
type Site struct {
	Call string
	// Nothing, if not empty, is why no power cut in the sequence shows that the sync is missing.
	Nothing string
}

// Disk is the file system under a sequence.
type Disk[A comparable] struct {
	Files *vfile.Mem
	real  *Real // nil: there is none

	prints   *vfile.Prints
	only     string
	lose     string
	together func(dir string) bool

	mu      sync.Mutex // guards all below; a moment is one under it
	acked   A
	changed bool // what was acknowledged, since the last moment
	lost    bool // a sync was lost: before that all is as without the loss
	sites   map[string]int
	seen    map[moment[A]]bool
	left    []crash[A]
}

// moment is what a check depends on.
type moment[A comparable] struct {
	disk  uint64
	acked A
}

type crash[A comparable] struct {
	disk   *vfile.Mem
	moment moment[A]
	when   string
}

// Ack notes that something was acknowledged.
func (d *Disk[A]) Ack(change func(*A)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&d.acked)
	d.changed = true
}

func (d *Disk[A]) before(op vfile.Change) (lose bool) {
	site := ""
	if op.Kind == vfile.SyncFile || op.Kind == vfile.SyncNames {
		site = callSite(op)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if op.Kind != vfile.WriteFile || d.changed {
		d.cut(fmt.Sprintf("before %s %s", op.Kind, op.Path))
	}
	if site == "" || !strings.HasPrefix(site, d.only) {
		return false
	}
	d.sites[site]++
	lose = site == d.lose
	d.lost = d.lost || lose
	return lose
}

// cut keeps what a power cut leaves now. d.mu is held.
func (d *Disk[A]) cut(when string) {
	d.changed = false
	if d.real != nil {
		d.real.Refresh()
	}
	if d.lose != "" && !d.lost {
		return
	}
	for _, m := range d.Files.Crashes(d.together) {
		k := moment[A]{d.prints.Of(m), d.acked}
		if !d.seen[k] {
			d.seen[k] = true
			d.left = append(d.left, crash[A]{m, k, when})
		}
	}
}

// result is what came of a sequence.
type result struct {
	sites   map[string]int
	crashes int
	failed  []error
}

// proof is the work on one test.
type proof[A comparable] struct {
	Test[A]
	prints *vfile.Prints
	good   map[moment[A]]bool // crashes that were checked and are all right, whatever led to them
}

func newProof[A comparable](x Test[A]) *proof[A] {
	return &proof[A]{x, vfile.NewPrints(), make(map[moment[A]]bool)}
}

// run does the sequence with the sync lose lost, and opens what the power cuts left until enough have failed.
func (x *proof[A]) run(lose string, enough int) (result, error) {
	d := &Disk[A]{Files: vfile.NewMem(-1), prints: x.prints, only: x.Only, lose: lose, together: x.Together, sites: map[string]int{}, seen: map[moment[A]]bool{}}
	d.Files.Watch(d.before)
	if err := x.Run(d); err != nil {
		return result{}, fmt.Errorf("the sequence itself: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut("at the end")
	r := result{sites: d.sites, crashes: len(d.left)}
	var mu sync.Mutex
	next := 0
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				if next == len(d.left) || len(r.failed) >= enough {
					mu.Unlock()
					return
				}
				c := d.left[next]
				next++
				known := x.good[c.moment]
				mu.Unlock()
				if known {
					continue
				}
				err := x.Check(c.disk, c.moment.acked)
				mu.Lock()
				if err != nil {
					r.failed = append(r.failed, fmt.Errorf("power cut %s, acknowledged %+v: %w", c.when, c.moment.acked, err))
				} else {
					x.good[c.moment] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return r, nil
}

// shownFailures is how many failures of the program as it is are worth reading.
const shownFailures = 5

// Prove fails t unless the sequence survives every power cut, its syncs are those in sites, and
// does not survive the loss of any of them, except those that protect nothing, whose loss it has to survive.
func (x Test[A]) Prove(t *testing.T, sites []Site) {
	p := newProof(x)
	r, err := p.run("", shownFailures)
	if err := errors.Join(append(r.failed, err)...); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d different crashes, %d calls that sync", r.crashes, len(r.sites))
	var known []string
	for _, s := range sites {
		known = append(known, s.Call)
		if r.sites[s.Call] == 0 {
			t.Errorf("no longer called: %s", s.Call)
		}
	}
	var found []string
	for s := range r.sites {
		found = append(found, s)
	}
	slices.Sort(found)
	for _, s := range found {
		if !slices.Contains(known, s) {
			t.Errorf("not in the table: %q", s)
			sites = append(sites, Site{Call: s})
		}
	}
	for _, s := range sites {
		if r.sites[s.Call] == 0 {
			continue
		}
		t.Run(strings.ReplaceAll(s.Call, " ", ""), func(t *testing.T) {
			l, err := p.run(s.Call, 1)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case len(l.failed) == 0 && s.Nothing == "":
				t.Errorf("lost, and none of %d crashes shows it", l.crashes)
			case len(l.failed) == 0:
				t.Logf("lost, and none of %d crashes shows it: %s", l.crashes, s.Nothing)
			case s.Nothing != "":
				t.Errorf("protects something: %v", l.failed[0])
			default:
				t.Log(l.failed[0])
			}
		})
	}
}

// Broken fails t if the sequence survives every power cut: it leaves out what, and nobody would notice.
func (x Test[A]) Broken(t *testing.T, what string) {
	p := newProof(x)
	r, err := p.run("", 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.failed) == 0 {
		t.Fatalf("without %s none of %d crashes does any harm", what, r.crashes)
	}
	t.Logf("without %s: %v", what, r.failed[0])
}
