package nodegroup

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Status is what the leader's manager knows. Of one that does not lead it is empty.
type Status struct {
	Leading bool          `json:"leading"`
	Version uint64        `json:"map_version"`
	Stores  []StoreStatus `json:"stores"`
	Pools   []PoolStatus  `json:"pools"`
	Err     string        `json:"error,omitempty"` // why groups are not looked after now
	// Retiring is the removal of fallback groups that hold nothing.
	Retiring RetireStatus `json:"retiring"`
}

// StoreStatus is what is thought of a store.
type StoreStatus struct {
	ID        uint32    `json:"id"`
	Node      string    `json:"node"`
	Record    string    `json:"record"` // its state in the cluster map
	State     State     `json:"state"`
	Since     time.Time `json:"since"`
	Readable  bool      `json:"readable"`
	LastErr   string    `json:"last_error,omitempty"`
	LastErrAt time.Time `json:"last_error_at,omitzero"`
	Slots     int       `json:"slots"` // that name it, or move away from it
	Used      int64     `json:"used"`  // bytes, as it said last
	Capacity  int64     `json:"capacity"`
	Device    string    `json:"device,omitempty"` // names the file system that it is on
	Shared    int64     `json:"shared,omitempty"` // of Capacity: what is free there, which all stores on it can take
	Gone      bool      `json:"gone,omitempty"`   // its node was removed
	Moving    *Moving   `json:"moving,omitempty"` // of a store that is out
}

// room is what a store said of its room.
func (s *StoreStatus) room() blockstore.RoomReply {
	r := blockstore.RoomReply{Capacity: uint64(max(s.Capacity, 0)), Used: uint64(max(s.Used, 0)), Shared: uint64(max(s.Shared, 0))}
	if b, err := hex.DecodeString(s.Device); err == nil && len(b) == len(r.Device) {
		copy(r.Device[:], b)
	}
	return r
}

// PoolStatus is how a pool stands.
type PoolStatus struct {
	ID      uint32 `json:"id"`
	Name    string `json:"name"`
	Profile string `json:"profile"`
	Group   string `json:"group"` // of nodes that hold its data; "": the shared part of the cluster
	placement.Report
	// Slots on stores that may not hold the pool's data: those that are being filled elsewhere from there, and those that have nowhere to go.
	Leaving int `json:"leaving"`
	Waiting int `json:"waiting"`
	// Capacity and Free are the room on the stores of its open groups before coding, as they said last, which it shares with other pools there;
	// 0: they did not say yet.
	Capacity uint64 `json:"capacity_bytes"`
	Free     uint64 `json:"free_bytes"`
	// Next is what losing one more store would cost, for people.
	Next string `json:"next_loss"`
}

// Status reports what was seen last.
func (m *Manager) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.status
	st.Retiring = m.retiring
	return st
}

func (m *Manager) publish(err error) {
	st := Status{Leading: true, Version: m.cmap.Version}
	if err != nil {
		st.Err = err.Error()
	}
	for _, s := range m.cmap.GetStores() {
		x := StoreStatus{ID: s.Id, Node: s.Node, Record: s.State.String(), Gone: s.Gone}
		if h := m.health[s.Id]; h != nil {
			x.State, x.Since, x.Readable, x.LastErrAt = h.state, h.since, h.readable, h.errAt
			if h.err != nil {
				x.LastErr = h.err.Error()
			}
			if h.room.Device != ([16]byte{}) {
				x.Device, x.Shared = hex.EncodeToString(h.room.Device[:]), int64(h.room.Shared)
			}
		}
		st.Stores = append(st.Stores, x)
	}
	misplaced := Exclusive(m.cmap)
	m.follow(&st)
	for _, p := range m.cmap.GetPools() {
		if p.Retiring {
			continue // nobody writes to it
		}
		v := m.view(p)
		if v.report == nil {
			r := placement.Assess(poolState(p, 0), v.states)
			v.report = &r
		}
		if v.stores == nil {
			v.stores = OpenStores(p)
		}
		out := poolStatus(p, *v.report, misplaced)
		out.Capacity, out.Free = PoolRoom(p, v.stores, m.rooms)
		st.Pools = append(st.Pools, out)
	}
	m.mu.Lock()
	m.status = st
	m.mu.Unlock()
}

// poolStatus is how a pool stands by a report and what is misplaced in it, without its room.
func poolStatus(p *metapb.Pool, r placement.Report, misplaced []Misplaced) PoolStatus {
	out := PoolStatus{ID: p.Id, Name: p.Name, Profile: ProfileOf(p).String(), Group: p.Group, Report: r, Next: nextLoss(r)}
	for _, x := range misplaced {
		switch {
		case x.Pool != p.Id:
		case x.Place == Leaving:
			out.Leaving++
		default:
			out.Waiting++
		}
	}
	return out
}

// nextLoss says in words what one more lost store would cost.
func nextLoss(r placement.Report) string {
	var s string
	switch {
	case r.Margin < 0:
		s = fmt.Sprintf("blocks of %d groups cannot be read now", r.AtRisk)
	case r.Margin == 0:
		s = fmt.Sprintf("blocks of some of %d groups could not be read", r.AtRisk)
	case r.Margin == 1:
		s = "nothing could be lost after that without losing data"
	default:
		s = fmt.Sprintf("%d more could be lost after that without losing data", r.Margin-1)
	}
	if r.AfterNext == "" {
		return s + "; writers would wait"
	}
	return s + "; new blocks would be " + r.AfterNext
}
