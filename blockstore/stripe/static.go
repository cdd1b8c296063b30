package stripe

import (
	"cmp"
	"slices"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/vfs"
)

// Static is a Map of one moment. It never changes.
type Static struct {
	pgs     map[uint32]*placement.PG
	pools   map[uint32][]*placement.PG
	callers map[string]Caller
}

// NewStatic makes a map of the given pools and of the nodes' callers, which
// stay the caller's own. Group ids are unique over all pools.
func NewStatic(pools map[uint32][]placement.PG, callers map[string]Caller) (*Static, error) {
	const op = "stripe.map"
	s := &Static{pgs: make(map[uint32]*placement.PG), pools: make(map[uint32][]*placement.PG), callers: callers}
	for pool, pgs := range pools {
		for i := range pgs {
			pg := &pgs[i]
			if err := pg.Validate(); err != nil {
				return nil, vfs.Wrap(op, err)
			}
			if s.pgs[pg.ID] != nil {
				return nil, vfs.Errorf(vfs.KindInvalid, op, "placement group %d is listed twice", pg.ID)
			}
			for _, slot := range pg.Slots {
				if callers[slot.Target.Node] == nil {
					return nil, vfs.Errorf(vfs.KindInvalid, op, "placement group %d names node %q, which has no address", pg.ID, slot.Target.Node)
				}
			}
			s.pgs[pg.ID] = pg
			if !pg.Closed {
				s.pools[pool] = append(s.pools[pool], pg)
			}
		}
		slices.SortStableFunc(s.pools[pool], func(a, b *placement.PG) int { return cmp.Compare(b.K, a.K) })
	}
	return s, nil
}

// PG implements Map.
func (s *Static) PG(id uint32) (*placement.PG, bool) {
	pg, ok := s.pgs[id]
	return pg, ok
}

// Writable implements Map.
func (s *Static) Writable(pool uint32) []*placement.PG { return s.pools[pool] }

// Caller implements Map.
func (s *Static) Caller(node string) (Caller, error) {
	if c := s.callers[node]; c != nil {
		return c, nil
	}
	return nil, vfs.Errorf(vfs.KindUnavailable, "stripe.map", "node %q has no address", node)
}
