package fsm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of node groups.
const (
	maxNodeGroups   = 1024
	maxReservations = 4096
	maxGroupName    = 63
	// maxGroupChange bounds the racks or nodes of one command.
	maxGroupChange = 256
)

const (
	groupPrefix   = "j/g/"
	reservePrefix = "j/r/"
)

func appendGroup(name string) []byte { return append([]byte(groupPrefix), name...) }

func appendRack(rack string) []byte { return append([]byte(reservePrefix), rack...) }

// checkGroupName refuses what cannot be a word of a command line and a part of a path.
func checkGroupName(op, what, name string) error {
	bad := strings.IndexFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_' || r == '.')
	})
	if name == "" || len(name) > maxGroupName || bad >= 0 || name[0] == '-' || name[0] == '.' {
		return vfs.Errorf(vfs.KindInvalid, op, "%s %.80q: 1 to %d of a-z, 0-9, '-', '_' and '.' are allowed, the first a letter, a digit or '_'", what, name, maxGroupName)
	}
	return nil
}

// records reads the records below a prefix that pick wants.
func records[T any, P interface {
	*T
	UnmarshalVT([]byte) error
}](x *call, prefix string, pick func(P) bool) (list []P, err error) {
	var bad error
	err = x.scan([]byte(prefix), prefixEnd([]byte(prefix)), func(k, v []byte) bool {
		r := P(new(T))
		if bad = r.UnmarshalVT(v); bad != nil {
			bad = corrupt("record %q: %w", k, bad)
			return false
		}
		if pick(r) {
			list = append(list, r)
		}
		return true
	})
	if err == nil {
		err = bad
	}
	return list, err
}

// needGroup refuses a group that there is not; "" is the shared part of the cluster, which there always is.
func (x *call) needGroup(op, name string) error {
	if name == "" {
		return nil
	}
	var g metapb.NodeGroup
	if had, err := x.getRecord(appendGroup(name), &g); err != nil {
		return err
	} else if !had {
		return vfs.Errorf(vfs.KindNotFound, op, "there is no group %.80q: make it with `rackfs group create`", name)
	}
	if g.Retiring {
		return vfs.Errorf(vfs.KindBusy, op, "group %s is being deleted: wait until it is gone, then make it anew with `rackfs group create`", name)
	}
	return nil
}

// runGroups runs what belongs to node groups.
func (x *call) runGroups(c *metapb.Command) (*metapb.Result, error) {
	switch op := c.Op.(type) {
	case *metapb.Command_PutGroup:
		return x.putGroup(op.PutGroup)
	case *metapb.Command_RemoveGroup:
		return x.removeGroup(op.RemoveGroup)
	case *metapb.Command_ReserveRacks:
		return x.reserveRacks(op.ReserveRacks)
	case *metapb.Command_SetNodeGroup:
		return x.setNodeGroup(op.SetNodeGroup)
	case *metapb.Command_RemovePool:
		return x.removePool(op.RemovePool)
	case *metapb.Command_RetireGroup:
		return x.retireGroup(op.RetireGroup)
	}
	return x.runService(c)
}

func (x *call) putGroup(c *metapb.PutGroup) (*metapb.Result, error) {
	const op = "group.put"
	if err := checkGroupName(op, "group", c.Name); err != nil {
		return nil, err
	}
	g := new(metapb.NodeGroup)
	had, err := x.getRecord(appendGroup(c.Name), g)
	if err != nil {
		return nil, err
	}
	if !had {
		n := 0
		if err := x.scan([]byte(groupPrefix), prefixEnd([]byte(groupPrefix)), func(_, _ []byte) bool { n++; return true }); err != nil {
			return nil, err
		}
		if n >= maxNodeGroups {
			return nil, vfs.Errorf(vfs.KindTooMany, op, "there are %d groups already", n)
		}
		id, err := x.next(counterKey{what: counterGroup})
		if err != nil {
			return nil, err
		}
		g = &metapb.NodeGroup{Name: c.Name, Id: uint32(id), Created: x.wire}
		if err := x.setMapRecord(appendGroup(c.Name), g); err != nil {
			return nil, err
		}
	}
	return &metapb.Result{Of: &metapb.Result_Group{Group: &metapb.GroupResult{Group: g}}}, nil
}

func (x *call) removeGroup(c *metapb.RemoveGroup) (*metapb.Result, error) {
	const op = "group.remove"
	var g metapb.NodeGroup
	if had, err := x.getRecord(appendGroup(c.Name), &g); err != nil {
		return nil, err
	} else if !had || g.Id != c.Id {
		return x.changedMap() // a repeated command
	}
	in, err := x.inGroup(c.Name)
	if err != nil {
		return nil, err
	}
	if in != "" {
		return nil, vfs.Errorf(vfs.KindBusy, op, "group %s still has %s", c.Name, in)
	}
	return x.delMapRecord(appendGroup(c.Name))
}

// inGroup says what is in a group, "" if nothing is.
func (x *call) inGroup(name string) (string, error) {
	var parts []string
	tell := func(what string, names []string) {
		if len(names) > 0 {
			parts = append(parts, what+" "+strings.Join(few(names), ", "))
		}
	}
	nodes, err := records(x, nodePrefix, func(n *metapb.Node) bool { return n.Group == name })
	if err != nil {
		return "", err
	}
	tell("nodes", collect(nodes, func(n *metapb.Node) string { return n.Name }))
	if len(nodes) == 0 { // else they are those nodes'
		stores, err := records(x, "t/", func(s *metapb.Store) bool {
			return s.Group == name && s.State != metapb.StoreState_STORE_LOST
		})
		if err != nil {
			return "", err
		}
		tell("stores", collect(stores, func(s *metapb.Store) string { return fmt.Sprintf("%d (of %s)", s.Id, s.Node) }))
	}
	racks, err := records(x, reservePrefix, func(r *metapb.RackReservation) bool { return r.Group == name })
	if err != nil {
		return "", err
	}
	tell("reserved racks", collect(racks, func(r *metapb.RackReservation) string { return r.Rack }))
	pools, err := records(x, "p/", func(p *metapb.Pool) bool { return p.Group == name })
	if err != nil {
		return "", err
	}
	tell("pools", collect(pools, func(p *metapb.Pool) string {
		if p.Retiring {
			return fmt.Sprintf("%s (being removed, %d placement groups are left)", p.Name, len(p.Pgs))
		}
		return p.Name
	}))
	// Those with a pool are counted with it.
	systems, err := records(x, "f/", func(f *metapb.FileSystem) bool { return f.Group == name && f.Pool == 0 })
	if err != nil {
		return "", err
	}
	tell("file systems", collect(systems, func(f *metapb.FileSystem) string { return f.Workspace + "/" + f.Name }))
	return strings.Join(parts, "; "), nil
}

// few is the first of a list of names, and how many more there are.
func few(names []string) []string {
	const told = 5
	if n := len(names); n > told {
		return append(names[:told:told], fmt.Sprintf("%d more", n-told))
	}
	return names
}

func collect[T any](list []T, name func(T) string) (names []string) {
	for _, v := range list {
		names = append(names, name(v))
	}
	return names
}

// decidedOn refuses a change that was decided on another version of the map.
func (x *call) decidedOn(op string, expect uint64) error {
	if expect == 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "the command does not say which version of the cluster map it was decided on")
	}
	version, err := x.count(counterKey{what: counterMap})
	if err != nil {
		return err
	}
	if version != expect {
		return vfs.Errorf(vfs.KindChanged, op, "the cluster map is at version %d, this was decided on version %d: look again", version, expect)
	}
	return nil
}

// delMapRecord removes what is a part of the cluster map.
func (x *call) delMapRecord(key []byte) (*metapb.Result, error) {
	x.del(key)
	if _, err := x.next(counterKey{what: counterMap}); err != nil {
		return nil, err
	}
	return x.changedMap()
}

// checkNames refuses a list that has no names, too many of them, or one twice.
func checkNames(op, what string, names []string) error {
	if len(names) == 0 || len(names) > maxGroupChange {
		return vfs.Errorf(vfs.KindInvalid, op, "%d %ss, 1 to %d are allowed in one command", len(names), what, maxGroupChange)
	}
	for i, n := range names {
		if err := checkRecordName(op, what, n); err != nil {
			return err
		}
		if slices.Contains(names[:i], n) {
			return vfs.Errorf(vfs.KindInvalid, op, "%s %s is named twice", what, n)
		}
	}
	return nil
}

func (x *call) reserveRacks(c *metapb.ReserveRacks) (*metapb.Result, error) {
	const op = "rack.reserve"
	if err := checkNames(op, "rack", c.Racks); err != nil {
		return nil, err
	}
	if err := x.needGroup(op, c.Group); err != nil {
		return nil, err
	}
	var change []string
	for _, rack := range c.Racks {
		var old metapb.RackReservation
		had, err := x.getRecord(appendRack(rack), &old)
		switch {
		case err != nil:
			return nil, err
		case old.Group == c.Group: // "" if there is none
		case had && c.Group != "":
			return nil, vfs.Errorf(vfs.KindExists, op, "rack %s is reserved for group %s: release it first", rack, old.Group)
		default:
			change = append(change, rack)
		}
	}
	if len(change) == 0 {
		return x.changedMap() // a repeated command
	}
	if err := x.decidedOn(op, c.ExpectMapVersion); err != nil {
		return nil, err
	}
	if c.Group != "" {
		n := len(change)
		if err := x.scan([]byte(reservePrefix), prefixEnd([]byte(reservePrefix)), func(_, _ []byte) bool { n++; return true }); err != nil {
			return nil, err
		}
		if n > maxReservations {
			return nil, vfs.Errorf(vfs.KindTooMany, op, "there would be %d reserved racks, at most %d", n, maxReservations)
		}
	}
	for _, rack := range change {
		var err error
		if c.Group == "" {
			_, err = x.delMapRecord(appendRack(rack))
		} else {
			err = x.setMapRecord(appendRack(rack), &metapb.RackReservation{Rack: rack, Group: c.Group, Since: x.wire})
		}
		if err != nil {
			return nil, err
		}
	}
	return x.changedMap()
}

func (x *call) setNodeGroup(c *metapb.SetNodeGroup) (*metapb.Result, error) {
	const op = "node.group"
	if err := checkNames(op, "node", c.Nodes); err != nil {
		return nil, err
	}
	if err := x.needGroup(op, c.Group); err != nil {
		return nil, err
	}
	var change []*metapb.Node
	for _, name := range c.Nodes {
		n := new(metapb.Node)
		if had, err := x.getRecord(appendNode(name), n); err != nil {
			return nil, err
		} else if !had {
			return nil, vfs.Errorf(vfs.KindNotFound, op, "node %s is not in the cluster", name)
		}
		if n.Group != c.Group {
			change = append(change, n)
		}
	}
	if len(change) == 0 {
		return x.changedMap() // a repeated command
	}
	if err := x.decidedOn(op, c.ExpectMapVersion); err != nil {
		return nil, err
	}
	before, err := x.count(counterKey{what: counterMap})
	if err != nil {
		return nil, err
	}
	for _, n := range change {
		n.Group = c.Group
		n.Version++
		if err := x.setRecord(appendNode(n.Name), n); err != nil {
			return nil, err
		}
		if err := x.storesFollow(n, op); err != nil {
			return nil, err
		}
	}
	// A node without stores is no part of the map. It grows nevertheless, so that a delayed duplicate finds another version.
	if now, err := x.count(counterKey{what: counterMap}); err != nil {
		return nil, err
	} else if now == before {
		x.setCount(counterKey{what: counterMap}, now+1)
	}
	return x.changedMap()
}

// checkPoolOfCluster adds the rules of levelCluster to those of PutPool. same: the pool is there already, and nothing is to be done.
func (x *call) checkPoolOfCluster(old, p *metapb.Pool, had bool, op string) (same bool, err error) {
	if p.Retiring = old.Retiring; had {
		switch {
		case old.Name != p.Name || old.Group != p.Group || old.Domain != p.Domain:
			return false, vfs.Errorf(vfs.KindExists, op, "pool %d is %q of group %q with domain %q: name, group and domain of a pool never change", p.Id, old.Name, old.Group, old.Domain)
		case len(p.Pgs) == 0 && len(old.Pgs) > 0:
			return true, nil
		}
		stays := make(map[uint32]bool, len(p.Pgs)) // only looked up
		for _, g := range p.Pgs {
			stays[g.Id] = true
		}
		for _, g := range old.Pgs {
			if !stays[g.Id] {
				return false, vfs.Errorf(vfs.KindInvalid, op, "placement group %d of pool %s is left out: groups are removed one by one, when they are empty", g.Id, p.Name)
			}
		}
		return false, nil
	}
	if err := checkRecordName(op, "name", p.Name); err != nil {
		return false, err
	}
	if err := x.needGroup(op, p.Group); err != nil {
		return false, err
	}
	others, err := records(x, "p/", func(o *metapb.Pool) bool {
		return o.Name == p.Name || o.Group == p.Group && o.K == p.K && o.M == p.M
	})
	if err != nil || len(others) == 0 {
		return false, err
	}
	o := others[0]
	return false, vfs.Errorf(vfs.KindExists, op, "pool %s is %d+%d of group %q: a group has one pool of a profile, and each has its own name", o.Name, o.K, o.M, o.Group)
}

// notePGs refuses new placement groups whose ids some pool has used, and notes the highest. Ids are one series over all pools, for
// stores know epochs by them, also of groups and pools that are gone.
func (x *call) notePGs(op string, fresh ...uint32) error {
	if x.level < levelCluster {
		return nil
	}
	last, err := x.count(counterKey{what: counterPG})
	if err != nil {
		return err
	}
	highest := last
	for _, id := range fresh {
		if uint64(id) <= last {
			return vfs.Errorf(vfs.KindChanged, op, "the id of placement group %d is not above %d, the highest of all pools", id, last)
		}
		highest = max(highest, uint64(id))
	}
	if highest != last {
		x.setCount(counterKey{what: counterPG}, highest)
	}
	return nil
}

func (x *call) removePool(c *metapb.RemovePool) (*metapb.Result, error) {
	const op = "pool.remove"
	key := appendID32(nil, "p/", c.Id)
	var p metapb.Pool
	if had, err := x.getRecord(key, &p); err != nil {
		return nil, err
	} else if !had {
		return x.changedMap() // a repeated command
	}
	if p.Retiring && len(p.Pgs) > 0 {
		return x.changedMap() // a repeated command
	}
	if err := x.decidedOn(op, c.ExpectMapVersion); err != nil {
		return nil, err
	}
	users, err := records(x, "f/", func(f *metapb.FileSystem) bool { return f.Pool == c.Id })
	if err != nil {
		return nil, err
	}
	if len(users) > 0 {
		return nil, vfs.Errorf(vfs.KindBusy, op, "pool %s is that of %d file systems, such as %s/%s: delete them first", p.Name, len(users), users[0].Workspace, users[0].Name)
	}
	if len(p.Pgs) == 0 {
		if _, err := x.delMapRecord(key); err != nil {
			return nil, err
		}
		if err := x.endGroup(p.Group); err != nil {
			return nil, err
		}
		return x.changedMap()
	}
	p.Retiring = true
	if err := x.setMapRecord(key, &p); err != nil {
		return nil, err
	}
	return x.changedMap()
}

// beginCluster makes the state of shard 0 that of levelCluster. Until now a node's group meant nothing, so nothing is to move for what is
// written there: nodes are put into groups from now on.
func (x *call) beginCluster() error {
	if x.opts.Shard != 0 {
		return nil
	}
	nodes, err := records(x, nodePrefix, func(n *metapb.Node) bool { return n.Group != "" })
	if err != nil {
		return err
	}
	for _, n := range nodes {
		n.Group = ""
		n.Version++
		if err := x.setRecord(appendNode(n.Name), n); err != nil {
			return err
		}
	}
	pools, err := records(x, "p/", func(*metapb.Pool) bool { return true })
	if err != nil {
		return err
	}
	last := uint32(0)
	for _, p := range pools {
		last = max(last, lastPG(p))
	}
	if last > 0 {
		x.setCount(counterKey{what: counterPG}, uint64(last))
	}
	return nil
}

// clusterGroups adds what is of levelCluster to an answer.
func (r *reader) clusterGroups(m *metapb.ClusterMapR) (err error) {
	if m.Groups, err = all(r, []byte(groupPrefix), func() *metapb.NodeGroup { return new(metapb.NodeGroup) }); err != nil {
		return err
	}
	if m.Reservations, err = all(r, []byte(reservePrefix), func() *metapb.RackReservation { return new(metapb.RackReservation) }); err != nil {
		return err
	}
	last, err := r.count(counterKey{what: counterPG})
	m.LastPg = uint32(last)
	return err
}
