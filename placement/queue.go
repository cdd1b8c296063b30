package placement

import "cmp"

// queue is things by key, the smallest first, those with equal keys by turn. It has several heaps; each thing belongs to one.
type queue struct {
	key   []float64
	turn  []uint64
	pos   []int32 // in its heap; -1: it is not there
	home  []int32 // its heap; nil: all are in the first
	heaps [][]int32
}

func newQueue(things, heaps int, home []int32) *queue {
	q := &queue{key: make([]float64, things), turn: make([]uint64, things), pos: make([]int32, things), home: home, heaps: make([][]int32, heaps)}
	for i := range q.pos {
		q.pos[i] = -1
	}
	return q
}

func (q *queue) heap(x int32) *[]int32 {
	if q.home == nil {
		return &q.heaps[0]
	}
	return &q.heaps[q.home[x]]
}

func (q *queue) less(a, b int32) bool {
	if q.key[a] != q.key[b] {
		return q.key[a] < q.key[b]
	}
	return cmp.Or(cmp.Compare(q.turn[a], q.turn[b]), cmp.Compare(a, b)) < 0
}

func (q *queue) swap(h []int32, i, j int) {
	h[i], h[j] = h[j], h[i]
	q.pos[h[i]], q.pos[h[j]] = int32(i), int32(j)
}

func (q *queue) up(h []int32, i int) {
	for i > 0 && q.less(h[i], h[(i-1)/2]) {
		q.swap(h, i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (q *queue) down(h []int32, i int) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && q.less(h[c+1], h[c]) {
			c++
		}
		if !q.less(h[c], h[i]) {
			return
		}
		q.swap(h, i, c)
		i = c
	}
}

// set puts x in, or changes its key.
func (q *queue) set(x int32, key float64, turn uint64) {
	q.key[x], q.turn[x] = key, turn
	h := q.heap(x)
	if q.pos[x] < 0 {
		q.pos[x] = int32(len(*h))
		*h = append(*h, x)
	}
	q.up(*h, int(q.pos[x]))
	q.down(*h, int(q.pos[x]))
}

// has reports whether x is in.
func (q *queue) has(x int32) bool { return q.pos[x] >= 0 }

// remove takes x out.
func (q *queue) remove(x int32) {
	i := int(q.pos[x])
	if i < 0 {
		return
	}
	h := q.heap(x)
	last := len(*h) - 1
	q.swap(*h, i, last)
	*h = (*h)[:last]
	q.pos[x] = -1
	if i < last {
		y := (*h)[i]
		q.up(*h, i)
		q.down(*h, int(q.pos[y]))
	}
}

// put puts back what was taken out, with the key that it had.
func (q *queue) put(xs []int32) {
	for _, x := range xs {
		q.set(x, q.key[x], q.turn[x])
	}
}

// first is the thing with the smallest key in a heap, -1 if there is none.
func (q *queue) first(heap int32) int32 {
	if len(q.heaps[heap]) == 0 {
		return -1
	}
	return q.heaps[heap][0]
}

// turn orders what is equally loaded: another order in each round, so that groups do not pair the same stores again
// and again, and the same each time that it is asked.
func turn(id uint32, round int) uint64 {
	x := uint64(id)<<32 ^ uint64(round)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
