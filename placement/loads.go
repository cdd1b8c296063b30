package placement

// Slots are of two classes. A short block stores its first data shard and all its parity, so these slots are heavy: most small data is in them.
const (
	heavy = iota
	light
	classes
)

func classOf(k, slot int) int {
	if slot == 0 || slot >= k {
		return heavy
	}
	return light
}

// margin is how much less loaded than its source a store must be to be moved to. At 2 a move would be of no use (two stores of
// equal weight with one slot more and one less, all of one class, change places); at 3.5 stores rest whose loads differ by two.
const margin = 3.5

// loads counts the slots of groups of the full profile by store.
type loads struct {
	all    []int
	class  [classes][]int
	slot   [][]int
	weight []float64
}

// loads counts; weights are those of t.
func (p *planner) loads(t *tree) *loads {
	n := len(p.stores)
	l := &loads{all: make([]int, n), slot: make([][]int, p.profile.Width()), weight: t.weight}
	for c := range l.class {
		l.class[c] = make([]int, n)
	}
	for j := range l.slot {
		l.slot[j] = make([]int, n)
	}
	for i := range p.groups {
		g := &p.groups[i]
		if g.K != p.profile.K {
			continue
		}
		for j, m := range g.Members {
			if s := p.at(m.Store); s >= 0 {
				l.move(-1, s, classOf(g.K, j), j)
			}
		}
	}
	return l
}

// move counts a slot that moves; from is -1 if it is not counted yet.
func (l *loads) move(from, to int32, class, slot int) {
	l.all[to]++
	l.class[class][to]++
	l.slot[slot][to]++
	if from >= 0 {
		l.all[from]--
		l.class[class][from]--
		l.slot[slot][from]--
	}
}

// A slot of a class may move from a to b if asDonor(a) > asReceiver(b). Every such move lowers the sum, over all stores, of the squares of
// their loads, and of those of each class, over their weights, by more than what a move back could: so moves come to an end, whatever else
// happens in between, and none is undone.
func (l *loads) asReceiver(s int32, class int) float64 {
	return (float64(l.all[s]+l.class[class][s]) + margin/2) / l.weightOf(s)
}

func (l *loads) asDonor(s int32, class int) float64 {
	return (float64(l.all[s]+l.class[class][s]) - margin/2) / l.weightOf(s)
}

// weightOf is that of a store; one that does not count has none.
func (l *loads) weightOf(s int32) float64 { return max(l.weight[s], tiny) }
