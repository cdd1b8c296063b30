package nodegroup

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// CanDrain refuses to drain nodes if a pool could not keep its profile without their stores: its slots would have nowhere to go.
// Stores that are in count, whether they are up now or not.
func CanDrain(m *metapb.ClusterMapR, nodes ...string) error {
	reserved := Reservations(m)
	for _, p := range m.GetPools() {
		level := poolState(p, 0).Level
		var with, without []placement.Location
		for _, s := range m.GetStores() {
			if s.State != metapb.StoreState_STORE_IN || !eligible(reserved, p, s) {
				continue
			}
			at := placement.Location{Node: s.Node, Rack: s.Rack, Zone: s.Zone}
			if with = append(with, at); !slices.Contains(nodes, s.Node) {
				without = append(without, at)
			}
		}
		need, have, left := int(p.K+p.M), placement.Members(with)[level], placement.Members(without)[level]
		if len(without) < len(with) && left < need {
			return vfs.Errorf(vfs.KindNoSpace, "node.drain", "pool %s has the profile %d+%d and needs %d failure domains (%v), one for each shard: without %s it has %d of its %d; add nodes first",
				p.Name, p.K, p.M, need, level, strings.Join(nodes, ", "), left, have)
		}
	}
	return nil
}

// SlotsOn counts the slots that name each store, as the one that has them or the one that they are moved from.
func SlotsOn(m *metapb.ClusterMapR) map[uint32]int {
	n := map[uint32]int{}
	for _, p := range m.GetPools() {
		for _, g := range p.Pgs {
			for _, s := range g.Slots {
				n[s.Store]++
				if s.Previous != 0 {
					n[s.Previous]++
				}
			}
		}
	}
	return n
}

// Moving is how far a store that is out is emptied, as seen since the manager that tells it leads.
type Moving struct {
	Since time.Time `json:"since"`
	From  int       `json:"slots_then"`
	Left  int       `json:"slots_left"`
	// BytesLeft is estimated: what the store held then, by slots.
	BytesLeft      int64   `json:"bytes_left"`
	SlotsPerMinute float64 `json:"slots_per_minute"`
	ETA            float64 `json:"eta_s"` // 0: unknown, or nothing is left
}

// movement remembers when a store began to be emptied.
type movement struct {
	since time.Time
	from  int
	used  int64
}

// follow notes which stores are emptied and how far they are.
func (m *Manager) follow(st *Status) {
	now := m.o.Now()
	slots := SlotsOn(m.cmap)
	for i := range st.Stores {
		s := &st.Stores[i]
		s.Slots = slots[s.ID]
		if h := m.health[s.ID]; h != nil {
			s.Used, s.Capacity = h.used, h.capacity
		}
		if s.Record != metapb.StoreState_STORE_OUT.String() && s.State != Out {
			delete(m.moving, s.ID)
			continue
		}
		b, ok := m.moving[s.ID]
		if !ok || s.Slots > b.from {
			b = movement{now, s.Slots, s.Used}
			m.moving[s.ID] = b
		}
		s.Moving = b.progress(s.Slots, now)
	}
}

func (b movement) progress(left int, now time.Time) *Moving {
	x := &Moving{Since: b.since, From: b.from, Left: left}
	if b.from > 0 {
		x.BytesLeft = int64(float64(b.used) * float64(left) / float64(b.from))
	}
	if d := now.Sub(b.since).Minutes(); d > 0 && left < b.from {
		x.SlotsPerMinute = float64(b.from-left) / d
		x.ETA = float64(left) / x.SlotsPerMinute * 60
	}
	return x
}

// retireStores makes stores lost whose node was removed and that no slot names any more.
func (m *Manager) retireStores(ctx context.Context) error {
	slots := SlotsOn(m.cmap)
	var ids []uint32
	for _, s := range m.cmap.GetStores() {
		if s.Gone && s.State != metapb.StoreState_STORE_LOST && slots[s.Id] == 0 {
			ids = append(ids, s.Id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, metaTimeout)
	defer cancel()
	_, err := m.o.Meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RetireStores{RetireStores: &metapb.RetireStores{Ids: ids}}})
	if err == nil {
		m.o.Logger.Info("nothing is on the stores of a removed node any more", "stores", ids)
	}
	return vfs.Wrap("nodegroup.retire", err)
}

// StopOf says of each pool what it would be while some stores are stopped, from what a leader's Status said of them: whoever has
// both can ask.
func StopOf(m *metapb.ClusterMapR, seen []StoreStatus, stop map[uint32]bool) map[uint32]placement.Stop {
	how := make(map[uint32]StoreStatus, len(seen))
	for _, s := range seen {
		how[s.ID] = s
	}
	reserved := Reservations(m)
	out := map[uint32]placement.Stop{}
	for _, p := range m.GetPools() {
		var states []placement.StoreState
		for _, s := range m.GetStores() {
			x := how[s.Id]
			c, readable := x.condition(s)
			states = append(states, storeState(s, eligible(reserved, p, s), c, readable))
		}
		out[p.Id] = placement.CanStop(p.Name, poolState(p, 0), states, func(id uint32) bool { return stop[id] })
	}
	return out
}
