package bench

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rackfs/rackfs/vfs"
)

// TestPatternTellsPagesApart: Check takes exactly what Fill made, and finds a flipped bit anywhere, another page, another generation and lost data.
func TestPatternTellsPagesApart(t *testing.T) {
	p := NewPattern(7)
	const size = 3*PageSize + 100
	b := make([]byte, size)
	p.Fill(b, 5, PageSize, 2)
	if err := p.Check(b, 5, PageSize, 2); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0x10
		if err := p.Check(b, 5, PageSize, 2); vfs.KindOf(err) != vfs.KindCorrupt {
			t.Fatalf("byte %d was changed: %v", i, err)
		}
		b[i] ^= 0x10
	}
	for name, x := range map[string]struct {
		seed, file uint64
		off        int64
		gen        uint32
		says       string
	}{
		"seed": {8, 5, PageSize, 2, "instead of"}, "file": {7, 6, PageSize, 2, "file 5, offset 4096, generation 2"},
		"offset": {7, 5, 2 * PageSize, 2, "another page"}, "generation": {7, 5, PageSize, 3, "generation 2"},
	} {
		if err := NewPattern(x.seed).Check(b, x.file, x.off, x.gen); vfs.KindOf(err) != vfs.KindCorrupt || !strings.Contains(err.Error(), x.says) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if err := p.Check(make([]byte, PageSize), 0, 0, 0); err == nil || !strings.Contains(err.Error(), "zero") {
		t.Error(err)
	}
	// A part from any page on is that of the whole.
	part := make([]byte, PageSize+10)
	p.Fill(part, 5, 2*PageSize, 2)
	if !bytes.Equal(part, b[PageSize:2*PageSize+10]) {
		t.Error("a part differs from the whole")
	}
}

// TestRandomPages: a worker stays on pages of its own, reaches all of them, and does the same again.
func TestRandomPages(t *testing.T) {
	const pages, workers = 103, 7
	seen := map[int]int{}
	for w := range workers {
		for i := range 2000 {
			p := randomPage(1, w, workers, i, pages)
			if p < 0 || p >= pages || p%workers != w {
				t.Fatalf("worker %d works on page %d", w, p)
			}
			if p != randomPage(1, w, workers, i, pages) {
				t.Fatal("not repeatable")
			}
			seen[p]++
		}
	}
	if len(seen) != pages {
		t.Errorf("%d of %d pages are used", len(seen), pages)
	}
}

// TestShares: shares are all there is and differ by one at most.
func TestShares(t *testing.T) {
	for n := range 40 {
		for workers := 1; workers < 9; workers++ {
			sum, lo, hi := 0, n, 0
			for w := range workers {
				k := share(n, w, workers)
				sum, lo, hi = sum+k, min(lo, k), max(hi, k)
				if k > 0 && w+(k-1)*workers >= n { // as phases use them: w, w+W, ...
					t.Fatalf("%d of %d by %d: entry %d", w, n, workers, w+(k-1)*workers)
				}
			}
			if sum != n || hi-lo > 1 {
				t.Fatalf("%d by %d: %d, from %d to %d", n, workers, sum, lo, hi)
			}
		}
	}
}

// TestTree: a tree is repeatable, parents stand before what is in them, names differ, and sizes are those of source code.
func TestTree(t *testing.T) {
	a := planTree(3, 2000)
	if !reflect.DeepEqual(a, planTree(3, 2000)) || reflect.DeepEqual(a, planTree(4, 2000)) {
		t.Fatal("a tree does not follow from its seed")
	}
	files, names := []int64{}, map[[2]any]bool{}
	depth := map[int]int{-1: 0}
	for i, n := range a {
		if n.parent >= i || n.parent >= 0 && !a[n.parent].dir {
			t.Fatalf("node %d has the parent %d", i, n.parent)
		}
		key := [2]any{n.parent, n.name}
		if names[key] {
			t.Fatalf("%s is twice in a directory", n.name)
		}
		names[key] = true
		depth[i] = depth[n.parent] + 1
		if n.dir {
			if depth[i] > maxDepth {
				t.Errorf("a directory at depth %d", depth[i])
			}
			continue
		}
		files = append(files, n.size)
		if n.size < 0 || n.size > maxTreeFile {
			t.Errorf("a file of %d bytes", n.size)
		}
	}
	slices.Sort(files)
	if len(files) != 2000 || files[1000] < medianSize*8/10 || files[1000] > medianSize*12/10 {
		t.Errorf("%d files, half of them below %d bytes", len(files), files[1000])
	}
}

// TestEpochs: in each epoch every shard is dealt exactly once, to workers in turn, in another order each time.
func TestEpochs(t *testing.T) {
	const n, workers, rounds = 10, 4, 6
	dealt := make([]int, n*rounds)
	for w := range workers {
		x := epochs{seed: 9, n: n}
		for i := 0; w+i*workers < len(dealt); i++ {
			dealt[w+i*workers] = x.at(w, workers, i)
		}
	}
	orders := map[string]bool{}
	for e := range rounds {
		order := dealt[e*n : (e+1)*n]
		s := slices.Clone(order)
		slices.Sort(s)
		for i := range s {
			if s[i] != i {
				t.Fatalf("epoch %d deals %v", e, order)
			}
		}
		orders[strings.Trim(strings.Join(strings.Fields(sprint(order)), " "), "[]")] = true
	}
	if len(orders) < rounds-1 {
		t.Errorf("%d different orders in %d epochs", len(orders), rounds)
	}
}
