package fsm

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// levelReplaceChecked is the level that added the checks of ReplaceStore: the expected version of the map, and that enough members
// of each group are left.
const levelReplaceChecked = 3

// setMapRecord writes a store or a pool. From levelCollect on, a change raises the
// version of the map, and what is the same already is not written.
func (x *call) setMapRecord(key []byte, r record) error {
	if x.level < levelCollect {
		return x.setRecord(key, r)
	}
	enc, err := r.MarshalVT()
	if err != nil {
		return fatal(err)
	}
	if old, ok, err := x.get(key); err != nil || (ok && bytes.Equal(old, enc)) {
		return err
	}
	x.set(key, enc)
	_, err = x.next(counterKey{what: counterMap})
	return err
}

// changedMap is the answer to a change: the version, and of each pool the changed groups.
func (x *call) changedMap(pools ...*metapb.Pool) (*metapb.Result, error) {
	version, err := x.count(counterKey{what: counterMap})
	if err != nil {
		return nil, err
	}
	return &metapb.Result{Of: &metapb.Result_ClusterMap{ClusterMap: &metapb.ClusterMapR{Version: version, Pools: pools}}}, nil
}

// dataSlots is how many data shards the blocks of a group have.
func dataSlots(p *metapb.Pool, g *metapb.PlacementGroup) uint32 {
	if g.K != 0 {
		return g.K
	}
	return p.K
}

// checkShape refuses a group whose slots are not its data and parity shards.
func checkShape(p *metapb.Pool, g *metapb.PlacementGroup, op string) error {
	if g.K >= p.K && g.K != 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "placement group %d has %d data shards of its own, its pool %d: 0 means the pool's", g.Id, g.K, p.K)
	}
	if want := dataSlots(p, g) + p.M; uint32(len(g.Slots)) != want {
		return vfs.Errorf(vfs.KindInvalid, op, "placement group %d has %d slots, the profile %d", g.Id, len(g.Slots), want)
	}
	if g.State < metapb.PGState_PG_OPEN || g.State > metapb.PGState_PG_CLOSED {
		return vfs.Errorf(vfs.KindInvalid, op, "placement group %d: state %d", g.Id, int32(g.State))
	}
	return nil
}

// lastPG is the highest id of a group that the pool has had.
func lastPG(p *metapb.Pool) uint32 {
	last := p.LastPg
	for _, g := range p.Pgs {
		last = max(last, g.Id)
	}
	return last
}

func (x *call) changePGs(c *metapb.ChangePGs) (*metapb.Result, error) {
	const op = "pgs.change"
	if len(c.Changes) == 0 || len(c.Changes) > maxPGs {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%d changes", len(c.Changes))
	}
	key := appendID32(nil, "p/", c.Pool)
	p := new(metapb.Pool)
	if ok, err := x.getRecord(key, p); err != nil {
		return nil, err
	} else if !ok {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "pool %d", c.Pool)
	}
	p.LastPg = lastPG(p)
	e := pgEditor{call: x, pool: p, at: make(map[uint32]int, len(p.Pgs)), touched: make(map[uint32]bool, len(c.Changes))}
	for i, g := range p.Pgs {
		e.at[g.Id] = i
	}
	changed := &metapb.Pool{Id: p.Id, Name: p.Name, K: p.K, M: p.M}
	for _, ch := range c.Changes {
		if err := e.change(ch); err != nil {
			return nil, err
		}
		if !ch.Remove {
			changed.Pgs = append(changed.Pgs, ch.Pg)
		}
	}
	p.Pgs = slices.DeleteFunc(p.Pgs, func(g *metapb.PlacementGroup) bool { return g == nil })
	if len(p.Pgs) > maxPGs {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d placement groups", len(p.Pgs))
	}
	if err := x.setMapRecord(key, p); err != nil {
		return nil, err
	}
	changed.LastPg = p.LastPg
	return x.changedMap(changed)
}

// pgEditor applies changes to the groups of a pool. A removed group is nil until all is done.
type pgEditor struct {
	*call
	pool    *metapb.Pool
	at      map[uint32]int // index by id; only looked up
	touched map[uint32]bool
}

func (e *pgEditor) change(c *metapb.PGChange) error {
	const op = "pgs.change"
	g := c.Pg
	if g == nil || g.Id == 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "a change names a placement group")
	}
	if e.touched[g.Id] {
		return vfs.Errorf(vfs.KindInvalid, op, "placement group %d is named twice", g.Id)
	}
	e.touched[g.Id] = true
	i, had := e.at[g.Id]
	switch {
	case c.ExpectEpoch == 0:
		if c.Remove {
			return vfs.Errorf(vfs.KindInvalid, op, "the removal of placement group %d expects no epoch", g.Id)
		}
		if g.Id <= e.pool.LastPg {
			return vfs.Errorf(vfs.KindChanged, op, "the id of placement group %d is not above %d, the highest that pool %d has had", g.Id, e.pool.LastPg, e.pool.Id)
		}
		if g.Epoch != 1 {
			return vfs.Errorf(vfs.KindInvalid, op, "new placement group %d has epoch %d, not 1", g.Id, g.Epoch)
		}
		if err := e.notePGs(op, g.Id); err != nil {
			return err
		}
		if err := e.checkNew(nil, g); err != nil {
			return err
		}
		e.pool.LastPg = g.Id
		e.pool.Pgs = append(e.pool.Pgs, g)
		return nil
	case !had:
		return vfs.Errorf(vfs.KindChanged, op, "placement group %d does not exist (any more)", g.Id)
	}
	old := e.pool.Pgs[i]
	if old.Epoch != c.ExpectEpoch {
		return vfs.Errorf(vfs.KindChanged, op, "placement group %d is at epoch %d, not %d", g.Id, old.Epoch, c.ExpectEpoch)
	}
	if c.Remove {
		e.pool.Pgs[i] = nil
		return nil
	}
	raises, restarts := compareSlots(old, g)
	switch {
	case restarts && g.Epoch == old.Epoch:
		return vfs.Errorf(vfs.KindChanged, op, "placement group %d: a slot is filled already; filling it again needs a new epoch", g.Id)
	case raises && g.Epoch != old.Epoch+1:
		return vfs.Errorf(vfs.KindInvalid, op, "placement group %d: other slots at epoch %d, not %d", g.Id, g.Epoch, old.Epoch+1)
	case raises:
		if err := e.checkNew(old, g); err != nil {
			return err
		}
	case g.Epoch != old.Epoch:
		return vfs.Errorf(vfs.KindInvalid, op, "placement group %d: epoch %d after %d without a change that raises it", g.Id, g.Epoch, old.Epoch)
	default:
		if err := checkShape(e.pool, g, op); err != nil {
			return err
		}
		if !sameSlots(old, g) {
			// Who ends filling does not know of a state that changed at this epoch meanwhile.
			g.State = old.State
		}
	}
	e.pool.Pgs[i] = g
	return nil
}

func sameSlots(a, b *metapb.PlacementGroup) bool {
	return slices.EqualFunc(a.Slots, b.Slots, func(s, t *metapb.Slot) bool { return proto.Equal(s, t) })
}

// compareSlots says what a change from a to b is: raises, one that raises the epoch;
// restarts, one that does so only because filling begins.
func compareSlots(a, b *metapb.PlacementGroup) (raises, restarts bool) {
	if a.K != b.K || len(a.Slots) != len(b.Slots) {
		return true, false
	}
	for i, s := range a.Slots {
		t := b.Slots[i]
		if s.Store != t.Store || (t.Previous != 0 && t.Previous != s.Previous) {
			raises = true
		} else if t.Filling && !s.Filling {
			restarts = true
		}
	}
	return raises || restarts, restarts && !raises
}

// checkNew refuses slots that no group should be given. Stores that old names already, if it is there, are not given anything.
func (e *pgEditor) checkNew(old, g *metapb.PlacementGroup) error {
	const op = "pgs.change"
	if err := checkShape(e.pool, g, op); err != nil {
		return err
	}
	if e.pool.Retiring && old == nil {
		return vfs.Errorf(vfs.KindChanged, op, "pool %s is being removed: it gets no more placement groups", e.pool.Name)
	}
	used := make(map[uint32]bool, len(g.Slots))
	for i, s := range g.Slots {
		if used[s.Store] {
			return vfs.Errorf(vfs.KindInvalid, op, "placement group %d has store %d in two slots", g.Id, s.Store)
		}
		used[s.Store] = true
		if s.Previous != 0 && (!s.Filling || s.Previous == s.Store) {
			return vfs.Errorf(vfs.KindInvalid, op, "placement group %d, slot %d: a previous store goes with filling from it", g.Id, i)
		}
		for _, id := range [...]uint32{s.Store, s.Previous} {
			if id == 0 && s.Store != 0 {
				continue // no previous one
			}
			var t metapb.Store
			if ok, err := e.getRecord(appendID32(nil, "t/", id), &t); err != nil {
				return err
			} else if !ok || t.State == metapb.StoreState_STORE_LOST {
				return vfs.Errorf(vfs.KindInvalid, op, "placement group %d, slot %d: store %d is unknown or lost", g.Id, i, id)
			}
			if id != s.Store {
				continue
			}
			if err := e.mayHold(e.pool, old, g, &t, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *call) replaceStore(c *metapb.ReplaceStore) (*metapb.Result, error) {
	const op = "store.replace"
	s := c.New.CloneVT()
	if err := checkStore(s, op); err != nil {
		return nil, err
	}
	if s.State != metapb.StoreState_STORE_IN || s.ReplacedBy != 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a store that takes the place of another is in")
	}
	oldKey, newKey := appendID32(nil, "t/", c.Old), appendID32(nil, "t/", s.Id)
	var old, taken metapb.Store
	if ok, err := x.getRecord(oldKey, &old); err != nil {
		return nil, err
	} else if !ok {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "store %d", c.Old)
	}
	exists, err := x.getRecord(newKey, &taken)
	if err != nil {
		return nil, err
	}
	switch {
	case old.ReplacedBy == s.Id && string(taken.Uuid) == string(s.Uuid):
		return x.changedMap() // a repeated command
	case old.State == metapb.StoreState_STORE_LOST:
		return nil, vfs.Errorf(vfs.KindChanged, op, "store %d was replaced by store %d", c.Old, old.ReplacedBy)
	case exists:
		return nil, vfs.Errorf(vfs.KindExists, op, "store %d exists: the one that takes the place has an id never used before", s.Id)
	case string(old.Uuid) == string(s.Uuid):
		return nil, vfs.Errorf(vfs.KindInvalid, op, "store %d would be replaced by itself", c.Old)
	}
	if x.level >= levelReplaceChecked && c.ExpectMapVersion != 0 {
		if version, err := x.count(counterKey{what: counterMap}); err != nil {
			return nil, err
		} else if version != c.ExpectMapVersion {
			return nil, vfs.Errorf(vfs.KindChanged, op, "the cluster map is at version %d, that store %d is to be replaced was decided on version %d: look again", version, c.Old, c.ExpectMapVersion)
		}
	}
	keys, more, err := x.firstKeys([]byte("p/"), x.opts.limits.keys/2)
	if err != nil {
		return nil, err
	}
	if more {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "more than %d pools", len(keys))
	}
	pools := make([]*metapb.Pool, len(keys))
	for i, k := range keys {
		pools[i] = new(metapb.Pool)
		if _, err := x.getRecord(k, pools[i]); err != nil {
			return nil, err
		}
		if x.level >= levelReplaceChecked {
			if err := checkSurvives(pools[i], c.Old); err != nil {
				return nil, err
			}
		}
	}
	if err := x.groupOfStore(s, old.Group, op); err != nil {
		return nil, err
	}
	if old.Gone {
		return nil, vfs.Errorf(vfs.KindPerm, op, "store %d was of node %s, which was removed", c.Old, old.Node)
	}
	if err := x.storeOfNode(&old, s, op); err != nil {
		return nil, err
	}
	old.State, old.ReplacedBy = metapb.StoreState_STORE_LOST, s.Id
	if err := x.setMapRecord(oldKey, &old); err != nil {
		return nil, err
	}
	if err := x.setMapRecord(newKey, s); err != nil {
		return nil, err
	}
	var changed []*metapb.Pool
	for i, k := range keys {
		p := pools[i]
		if groups := replaceIn(p, c.Old, s.Id); len(groups) > 0 {
			if err := x.setMapRecord(k, p); err != nil {
				return nil, err
			}
			changed = append(changed, &metapb.Pool{Id: p.Id, Name: p.Name, K: p.K, M: p.M, LastPg: p.LastPg, Pgs: groups})
		}
	}
	return x.changedMap(changed...)
}

// checkSurvives refuses the loss of a store without which blocks of some group of p could not be rebuilt.
func checkSurvives(p *metapb.Pool, lost uint32) error {
	for _, g := range p.Pgs {
		named, whole := false, uint32(0)
		for _, s := range g.Slots {
			named = named || s.Store == lost || s.Previous == lost
			// The store that a slot moves from has what was written before, the slot's own what was written since.
			if s.Store != lost && (!s.Filling || s.Previous != 0 && s.Previous != lost) {
				whole++
			}
		}
		if need := dataSlots(p, g); named && whole < need {
			return vfs.Errorf(vfs.KindInvalid, "store.replace",
				"without store %d placement group %d of pool %d has %d whole members, and its blocks need %d: bring the store back, or wait until slots that are being filled are filled",
				lost, g.Id, p.Id, whole, need)
		}
	}
	return nil
}

// replaceIn names store with wherever p names lost, and lists the groups that changed.
func replaceIn(p *metapb.Pool, lost, with uint32) (groups []*metapb.PlacementGroup) {
	for _, g := range p.Pgs {
		moved, changed := false, false
		for _, s := range g.Slots {
			if s.Store == lost {
				s.Store, s.Filling, moved = with, true, true
			}
			if s.Previous == lost {
				s.Previous, s.Filling, changed = 0, true, true
			}
		}
		if moved {
			g.Epoch++
		}
		if moved || changed {
			groups = append(groups, g)
		}
	}
	return groups
}

// checkStore refuses what is no store.
func checkStore(s *metapb.Store, op string) error {
	if s == nil || s.Id == 0 || len(s.Uuid) == 0 || len(s.Uuid) > maxRecordName {
		return vfs.Errorf(vfs.KindInvalid, op, "a store has an id and the uuid of its superblock")
	}
	return nil
}

// checkPutStore adds the rules of levelCollect to those of level 1.
func checkPutStore(old, s *metapb.Store, op string) error {
	switch {
	case old.State == metapb.StoreState_STORE_LOST && old.ReplacedBy == 0:
		return vfs.Errorf(vfs.KindExists, op, "store %d was of node %s, which was removed: its id is never used again", s.Id, old.Node)
	case old.State == metapb.StoreState_STORE_LOST && !proto.Equal(old, s):
		return vfs.Errorf(vfs.KindExists, op, "store %d was lost and replaced by store %d: its id is never used again", s.Id, old.ReplacedBy)
	case old.State == metapb.StoreState_STORE_LOST:
		return nil
	case s.State < metapb.StoreState_STORE_IN || s.State > metapb.StoreState_STORE_OUT || s.ReplacedBy != 0:
		return vfs.Errorf(vfs.KindInvalid, op, "a store is in or out; a lost one is replaced by another")
	}
	return nil
}

// checkPutPool adds the rules of levelCollect to those of level 1, and notes the highest group id.
func (x *call) checkPutPool(old, p *metapb.Pool, op string) error {
	had := make(map[uint32]*metapb.PlacementGroup, len(old.Pgs)) // only looked up
	for _, g := range old.Pgs {
		had[g.Id] = g
	}
	last := lastPG(old)
	var fresh []uint32
	for _, g := range p.Pgs {
		if err := checkShape(p, g, op); err != nil {
			return err
		}
		if had[g.Id] == nil {
			fresh = append(fresh, g.Id)
		}
		if g.Id <= last && had[g.Id] == nil {
			return vfs.Errorf(vfs.KindInvalid, op, "the id of placement group %d was used before", g.Id)
		}
		for _, s := range g.Slots {
			for _, id := range [...]uint32{s.Store, s.Previous} {
				var t metapb.Store
				known, err := x.getRecord(appendID32(nil, "t/", id), &t)
				if err != nil {
					return err
				}
				if t.State == metapb.StoreState_STORE_LOST {
					return vfs.Errorf(vfs.KindInvalid, op, "placement group %d names store %d, which is lost", g.Id, id)
				}
				if known && id == s.Store {
					if err := x.mayHold(p, had[g.Id], g, &t, op); err != nil {
						return err
					}
				}
			}
		}
	}
	p.LastPg = max(last, lastPG(&metapb.Pool{Pgs: p.Pgs}))
	return x.notePGs(op, fresh...)
}
