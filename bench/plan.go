package bench

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// mix is a well mixed function of two numbers (the finalizer of splitmix64).
func mix(a, b uint64) uint64 {
	x := a + 0x9e3779b97f4a7c15*(b+1)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fileID numbers a file of a workload for Pattern.
func fileID(worker, i int) uint64 { return uint64(worker)<<32 | uint64(uint32(i)) }

// fileName and dirName are names as long as those that people use.
func fileName(worker, i int) string { return fmt.Sprintf("file-%04d-%08d.dat", worker, i) }
func dirName(worker int) string     { return fmt.Sprintf("dir-%04d", worker) }

// randomPage is the page that a worker's ith operation is on, of those pages that are its own: p with p % workers == worker.
func randomPage(seed uint64, worker, workers, i, pages int) int {
	own := (pages - worker + workers - 1) / workers
	return worker + int(mix(mix(seed, uint64(worker)), uint64(i))%uint64(own))*workers
}

// shuffled is a permutation of n of an epoch.
func shuffled(seed uint64, epoch, n int) []int {
	return rand.New(rand.NewPCG(seed, uint64(epoch))).Perm(n)
}

// share is the part of n that a worker gets: as even as possible.
func share(n, worker, workers int) int {
	k := n / workers
	if worker < n%workers {
		k++
	}
	return k
}

// node is a file or directory of a planned tree. Parents stand before what is in them; the root is not in the list.
type node struct {
	parent int // index, -1: the root
	name   string
	dir    bool
	size   int64 // of a file
}

// Shape of planned trees: what source trees are like, about twelve files in a directory, a median of 4 KiB, few larger than 100 KiB.
const (
	filesPerDir  = 12
	maxDepth     = 8
	medianSize   = 4 << 10
	sizeSpread   = 1.4 // standard deviation of the logarithm
	maxTreeFile  = 1 << 20
	widestParent = 24 // of the newest directories one is the parent of the next
)

// planTree plans a tree of n files.
func planTree(seed uint64, n int) []node {
	r := rand.New(rand.NewPCG(seed, 0x7265e))
	var out []node
	dirs := []int{-1}
	depth := map[int]int{-1: 0}
	for range (n + filesPerDir - 1) / filesPerDir {
		parent := dirs[max(0, len(dirs)-1-r.IntN(widestParent))]
		for depth[parent] >= maxDepth {
			parent = out[parent].parent
		}
		out = append(out, node{parent: parent, name: fmt.Sprintf("package-%d", len(out)), dir: true})
		depth[len(out)-1] = depth[parent] + 1
		dirs = append(dirs, len(out)-1)
	}
	for i := range n {
		size := min(int64(medianSize*math.Exp(r.NormFloat64()*sizeSpread)), maxTreeFile)
		out = append(out, node{parent: dirs[r.IntN(len(dirs))], name: fmt.Sprintf("source-%d.go", i), size: size})
	}
	return out
}
