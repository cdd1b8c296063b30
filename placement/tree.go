package placement

import (
	"cmp"
	"math"
	"slices"
)

const (
	// maxTilt bounds what even spread over racks and zones may cost: none gets more than this times its share by capacity.
	maxTilt = 1.5
	// tiny is more than rounding makes of sums of a group's slots.
	tiny = 1e-6
)

// topology is where stores are: the domains of all levels as small numbers. Stores are numbered by ascending id.
type topology struct {
	level Level
	label [levels][]int32 // of each store; of Disk the store itself
	names [levels][]string
}

func newTopology(level Level, stores []StoreState) *topology {
	t := &topology{level: level}
	for l := Disk; l < levels; l++ {
		t.label[l] = make([]int32, len(stores))
		known := map[string]int32{}
		for i := range stores {
			if l == Disk {
				t.label[l][i] = int32(i)
				continue
			}
			name := stores[i].At(l)
			n, ok := known[name]
			if !ok {
				n = int32(len(t.names[l]))
				known[name] = n
				t.names[l] = append(t.names[l], name)
			}
			t.label[l][i] = n
		}
	}
	return t
}

// domain is the failure domain of a store.
func (t *topology) domain(store int32) int32 { return t.label[t.level][store] }

// domains is how many numbers of domains there are.
func (t *topology) domains() int {
	if t.level == Disk {
		return len(t.label[Disk])
	}
	return len(t.names[t.level])
}

// tree is the stores that count, by zone, rack and so on down to the domains and their stores, with the share of slots of each. The share
// of a vertex is how many slots of a group it has on average. It follows from capacity, within what even spread asks for:
//
//   - A domain has at most one slot of a group.
//   - Of a level above, each group has about the same number of slots in each: lo..hi, which differ by one, unless one has too few
//     domains, or would get more than maxTilt times its share by capacity.
//
// So a small rack is no bottleneck of a large pool, and racks of similar size are as even as they can be.
type tree struct {
	*topology
	width int
	nodes []vertex // the root is the first; children come after their parents
	leaf  []int32  // of each store: its vertex; -1: it does not count
	// path is, of each store and level above the domains, the vertex that it is in; -1: nothing that counts is there. A domain is
	// where its first store is: what the records of a node's stores say may differ for a moment.
	path [levels][]int32
	must [levels][]int32 // the vertices of a level above the domains in which each group should have slots
	// weight of each store: its share over the mean share. Loads are compared by it.
	weight []float64
	count  int // stores that count
}

// vertex is a domain of some level, or a store.
type vertex struct {
	parent   int32
	level    Level // of the root: levels
	store    int32 // -1: it is none
	kids     []int32
	weight   float64 // capacity
	domains  int     // failure domains in it
	share    float64 // slots of a group, on average
	low, cap int     // slots that a group should have in it at least, and at most
}

// newTree makes the tree of the stores of which counts is true, for groups of width slots.
func newTree(t *topology, stores []StoreState, width int, counts func(i int) bool) *tree {
	r := &tree{topology: t, width: width, leaf: make([]int32, len(stores)), weight: make([]float64, len(stores))}
	r.nodes = append(r.nodes, vertex{parent: -1, level: levels, store: -1})
	domain := make([]int32, t.domains()) // the vertex of each; 0: none
	known := map[string]int32{}          // the vertices above them
	mean := meanWeight(stores, counts)
	for i := range stores {
		if r.leaf[i] = -1; !counts(i) {
			continue
		}
		r.count++
		d := t.domain(int32(i))
		if domain[d] == 0 {
			at := int32(0)
			for l := Zone; l > t.level; l-- {
				key := wider(&stores[i], l)
				if known[key] == 0 {
					known[key] = r.add(at, l, -1)
				}
				at = known[key]
			}
			domain[d] = r.add(at, t.level, -1)
		}
		at := domain[d]
		w := float64(stores[i].Weight)
		if w == 0 {
			w = mean
		}
		if r.leaf[i] = at; t.level != Disk {
			r.leaf[i] = r.add(at, Disk, int32(i))
		}
		r.nodes[r.leaf[i]].store = int32(i)
		r.nodes[r.leaf[i]].weight = w
	}
	for i := len(r.nodes) - 1; i > 0; i-- {
		v := &r.nodes[i]
		if v.level == t.level {
			v.domains = 1
		}
		p := &r.nodes[v.parent]
		p.weight += v.weight
		if v.level >= t.level {
			p.domains += v.domains
		}
	}
	if r.count > 0 {
		r.divide()
	}
	for l := t.level + 1; l < levels; l++ {
		r.path[l] = make([]int32, len(stores))
		for i := range stores {
			r.path[l][i] = -1
			if d := domain[t.domain(int32(i))]; d != 0 {
				for r.path[l][i] = d; r.nodes[r.path[l][i]].level != l; {
					r.path[l][i] = r.nodes[r.path[l][i]].parent
				}
			} else if n := known[wider(&stores[i], l)]; n != 0 {
				r.path[l][i] = n
			}
		}
	}
	return r
}

// wider names what a store is in of a level above the domains: with what that is in, for rack "" of one zone is not that of another.
func wider(s *StoreState, l Level) string {
	name := s.Zone
	for x := Rack; x >= l; x-- {
		name += "\x00" + s.At(x)
	}
	return string(rune('0'+l)) + name
}

func (r *tree) add(parent int32, l Level, store int32) int32 {
	n := int32(len(r.nodes))
	r.nodes = append(r.nodes, vertex{parent: parent, level: l, store: store})
	r.nodes[parent].kids = append(r.nodes[parent].kids, n)
	return n
}

// meanWeight is the weight of stores whose capacity is unknown: the mean of the others.
func meanWeight(stores []StoreState, counts func(i int) bool) float64 {
	sum, n := 0.0, 0
	for i := range stores {
		if counts(i) && stores[i].Weight > 0 {
			sum += float64(stores[i].Weight)
			n++
		}
	}
	if n == 0 {
		return 1
	}
	return sum / float64(n)
}

// fits reports whether there are enough domains for a group.
func (r *tree) fits() bool { return r.nodes[0].domains >= r.width }

// divide gives every vertex its share.
func (r *tree) divide() {
	root := &r.nodes[0]
	root.share = float64(min(r.width, root.domains))
	root.low, root.cap = min(r.width, root.domains), r.width
	for i := range r.nodes {
		v := &r.nodes[i]
		switch {
		case len(v.kids) == 0:
		case v.level == r.level:
			for _, k := range v.kids {
				kid := &r.nodes[k]
				kid.share = v.share * kid.weight / v.weight
				kid.cap = 1
			}
		default:
			r.divideOver(v)
		}
	}
	for i := range r.nodes {
		if v := &r.nodes[i]; v.level > r.level && v.level < levels && v.low > 0 {
			r.must[v.level] = append(r.must[v.level], int32(i))
		}
	}
	for s, n := range r.leaf {
		if n >= 0 {
			r.weight[s] = max(r.nodes[n].share*float64(r.count)/root.share, tiny)
		}
	}
}

// divideOver gives the children of a vertex above the domains their shares.
func (r *tree) divideOver(v *vertex) {
	n := len(v.kids)
	weight, most, lo, hi := make([]float64, n), make([]float64, n), make([]float64, n), make([]float64, n)
	for i, k := range v.kids {
		weight[i], most[i] = r.nodes[k].weight, float64(r.nodes[k].domains)
	}
	even := divide(weight, lo, most, v.share)
	for i := range most {
		most[i] = min(most[i], maxTilt*even[i])
	}
	c := 1.0
	for ; c < float64(r.width); c++ {
		sum := 0.0
		for i := range most {
			sum += min(c, most[i])
		}
		if sum >= v.share-tiny {
			break
		}
	}
	for i := range most {
		lo[i], hi[i] = min(c-1, most[i]), min(c, most[i])
	}
	share := divide(weight, lo, hi, v.share)
	for i, k := range v.kids {
		kid := &r.nodes[k]
		kid.share, kid.low, kid.cap = share[i], int(math.Floor(lo[i]+tiny)), int(math.Ceil(hi[i]-tiny))
	}
}

// divide shares total out in proportion to weight, but gives each at least lo and at most hi.
func divide(weight, lo, hi []float64, total float64) []float64 {
	at := func(x float64) (sum float64) {
		for i, w := range weight {
			sum += min(max(x*w, lo[i]), hi[i])
		}
		return sum
	}
	// The sum rises with x: find where it is total.
	low, high := 0.0, 0.0
	for i, w := range weight {
		high = max(high, hi[i]/w)
	}
	for range 100 {
		if x := (low + high) / 2; at(x) < total {
			low = x
		} else {
			high = x
		}
	}
	out := make([]float64, len(weight))
	for i, w := range weight {
		out[i] = min(max(high*w, lo[i]), hi[i])
	}
	return out
}

// sortStores is the stores by ascending id, each once.
func sortStores(stores []StoreState) []StoreState {
	by := func(a, b StoreState) int { return cmp.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(stores, by) {
		stores = slices.Clone(stores)
		slices.SortStableFunc(stores, by)
	}
	return slices.CompactFunc(slices.Clone(stores), func(a, b StoreState) bool { return a.ID == b.ID })
}
