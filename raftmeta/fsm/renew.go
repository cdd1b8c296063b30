package fsm

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// A state that was restored from a backup goes on from an earlier time than the world around it: gateways, clients and block stores have seen
// what came after. So nothing that was given out since may be given out again, and nobody may go on with what he was given. Renew sees to
// that: the incarnation rises, whatever is counted jumps further than it can have got since the backup, and origins and NFS clients end.
//
// Jumps of what is counted, per restore.
const (
	// jumpUnits is 2^40 block ids: four months of 100,000 blocks a second. A shard has room for 255 of these.
	jumpUnits = 1 << 28
	// jumpIDs is for origins, clients, inodes and versions of the cluster map, of which there are 2^62 and more.
	jumpIDs = 1 << 32
	// jumpEpochs is for placement groups: each move of a slot raises the epoch by 1. There is room for 4,095.
	jumpEpochs = 1 << 20
	// jumpGroups is for ids of placement groups, node groups and file systems.
	jumpGroups = 1 << 12
)

// renewBatch is how many commands an entry of Renew has.
const renewBatch = 64

// Renewal says what a restored state begins with.
type Renewal struct {
	Incarnation  uint64 // above that of the state; of no other restore
	HandleSecret []byte // shard 0: the new key of file handles: none of before is valid, as inodes may be others and change values come again
	// Namespaces has the file systems of each namespace shard as it was restored (shard 0): a file system that is called active
	// and has no namespace was made while the backup was; it is made anew.
	Namespaces map[uint16][]uint32
	Time       *metapb.Time
}

// Store is a state whose writes are seen at once.
type Store interface {
	View
	Writer
}

// Namespaces lists the file systems whose namespace is in a state.
func Namespaces(v View) ([]uint32, error) {
	var ids []uint32
	lo := []byte("n/")
	err := v.Scan(lo, prefixEnd(lo), func(k, _ []byte) bool {
		ids = append(ids, binary.BigEndian.Uint32(k[2:]))
		return true
	})
	return ids, vfs.Wrap("fsm.namespaces", err)
}

// Identity is what a state says of itself.
type Identity struct {
	Shard       uint16
	Cluster     []byte
	Incarnation uint64
	Applied     uint64
	Level       uint32
}

// IdentityOf reads the identity of a state.
func IdentityOf(v View) (Identity, error) {
	const op = "fsm.identity"
	b, ok, err := v.Get(keyFormat)
	if err == nil && !ok {
		err = vfs.Errorf(vfs.KindCorrupt, op, "the state is empty")
	}
	if err != nil {
		return Identity{}, vfs.Wrap(op, err)
	}
	f, err := decodeFormat(b)
	if err != nil {
		return Identity{}, err
	}
	s, _, err := v.Get(keyState)
	if err != nil {
		return Identity{}, vfs.Wrap(op, err)
	}
	id := Identity{Shard: f.shard, Cluster: f.cluster, Incarnation: f.incarnation}
	id.Applied, id.Level, _, err = decodeState(s)
	return id, vfs.Wrap(op, err)
}

// Renew makes a restored state one that new voters may begin with, and returns the Raft index that it has applied then. It is done once,
// on one copy, which the voters then have in common. A crash in the middle leaves a copy that is of no use.
func Renew(s Store, o Options, r Renewal) (applied uint64, err error) {
	const op = "fsm.renew"
	id, err := IdentityOf(s)
	if err != nil {
		return 0, err
	}
	switch {
	case id.Shard != o.Shard || !bytes.Equal(id.Cluster, o.Cluster):
		return 0, vfs.Errorf(vfs.KindIncompatible, op, "the state is of shard %d of cluster %x, not of shard %d of %x", id.Shard, id.Cluster, o.Shard, o.Cluster)
	case r.Incarnation <= id.Incarnation:
		return 0, vfs.Errorf(vfs.KindInvalid, op, "incarnation %d after %d: it only rises", r.Incarnation, id.Incarnation)
	}
	n := renewer{store: s, level: id.Level}
	n.jump(counterKey{what: counterOrigin}, jumpIDs, math.MaxInt64)
	if o.Shard == 0 {
		n.cluster(&r)
	} else {
		n.namespace()
	}
	if n.err != nil {
		return 0, vfs.Wrap(op, n.err)
	}
	b, _, err := s.Get(keyFormat)
	if err != nil {
		return 0, vfs.Wrap(op, err)
	}
	b = bytes.Clone(b)
	binary.BigEndian.PutUint64(b[len(formatMagic)+3:], r.Incarnation)
	if err := s.Set(keyFormat, b); err != nil {
		return 0, vfs.Wrap(op, err)
	}
	return endAll(s, o, id.Applied, r.Time)
}

// renewer rewrites records; after an error it does nothing more.
type renewer struct {
	store Store
	level uint32
	err   error
}

func (n *renewer) set(k, v []byte) {
	if n.err == nil {
		n.err = n.store.Set(k, v)
	}
}

// each visits the records below a prefix.
func (n *renewer) each(prefix string, fn func(k, v []byte)) {
	if n.err != nil {
		return
	}
	type kv struct{ k, v []byte }
	lo := []byte(prefix)
	for n.err == nil {
		var page []kv
		n.err = n.store.Scan(lo, prefixEnd([]byte(prefix)), func(k, v []byte) bool {
			page = append(page, kv{bytes.Clone(k), bytes.Clone(v)})
			return len(page) < 1000
		})
		for _, x := range page {
			if n.err == nil {
				fn(x.k, x.v)
			}
		}
		if len(page) < 1000 {
			return
		}
		lo = append(page[len(page)-1].k, 0)
	}
}

// drop removes the records below a prefix.
func (n *renewer) drop(prefix string) {
	n.each(prefix, func(k, _ []byte) { n.err = n.store.Delete(k) })
}

// jump raises a counter, whose values stay below limit.
func (n *renewer) jump(k counterKey, by, limit uint64) {
	if n.err != nil {
		return
	}
	var v uint64
	if v, n.err = (&reader{view: n.store}).count(k); n.err != nil {
		return
	}
	if v > limit-by {
		n.err = vfs.Errorf(vfs.KindNoSpace, "fsm.renew", "counter %q is at %d: this metadata was restored too often", k.append(nil), v)
		return
	}
	n.set(k.append(nil), binary.BigEndian.AppendUint64(nil, v+by))
}

func (n *renewer) namespace() {
	n.jump(counterKey{what: counterUnit}, jumpUnits, blockUnitsMax)
	n.each("c/", func(k, _ []byte) {
		n.jump(counterKey{what: counterIno, fs: binary.BigEndian.Uint32(k[2:])}, jumpIDs, math.MaxInt64)
	})
}

func (n *renewer) cluster(r *Renewal) {
	if n.level >= levelCollect {
		n.jump(counterKey{what: counterMap}, jumpIDs, math.MaxInt64)
	}
	if n.level >= levelCluster {
		n.jump(counterKey{what: counterPG}, jumpGroups, math.MaxUint32)
		n.jump(counterKey{what: counterGroup}, jumpGroups, math.MaxUint32)
		n.jump(counterKey{what: counterFS}, jumpGroups, math.MaxUint32)
		n.jump(counterKey{what: counterFSMap}, jumpIDs, math.MaxInt64)
	}
	n.jump(counterKey{what: counterClient}, jumpIDs, maxClientID)
	n.drop("j/t/") // a token that was used since would be a new one again
	n.drop("N/")
	n.drop("k/handle\x00")
	n.record(appendNamed(nil, "k/", "handle", binary.BigEndian.AppendUint32(nil, 1)), &metapb.Key{Kind: "handle", Id: 1, Secret: r.HandleSecret})
	n.each("p/", n.pool)
	n.each("f/", func(k, v []byte) {
		var f metapb.FileSystem
		if n.err = f.UnmarshalVT(v); n.err != nil {
			return
		}
		if n.level >= levelCluster { // limits of a version that was lost give way to those of the record
			f.Version += jumpIDs
			n.record(k, &f)
		}
		if f.State != metapb.FileSystemState_FS_ACTIVE {
			return
		}
		for _, id := range r.Namespaces[uint16(f.Shard)] {
			if id == f.Id {
				return
			}
		}
		f.State = metapb.FileSystemState_FS_CREATING
		n.record(k, &f)
	})
}

func (n *renewer) record(k []byte, r interface{ MarshalVT() ([]byte, error) }) {
	if n.err != nil {
		return
	}
	var b []byte
	if b, n.err = r.MarshalVT(); n.err == nil {
		n.set(k, b)
	}
}

// pool raises the epochs of placement groups above those that stores acknowledged since, which else would take no writes.
func (n *renewer) pool(k, v []byte) {
	var p metapb.Pool
	if n.err = p.UnmarshalVT(v); n.err != nil {
		return
	}
	for _, g := range p.Pgs {
		if g.Epoch > math.MaxUint32-jumpEpochs {
			n.err = vfs.Errorf(vfs.KindNoSpace, "fsm.renew", "placement group %d is at epoch %d: this metadata was restored too often", g.Id, g.Epoch)
			return
		}
		g.Epoch += jumpEpochs
	}
	if n.level >= levelCollect {
		if p.LastPg > math.MaxUint32-jumpGroups {
			n.err = vfs.Errorf(vfs.KindNoSpace, "fsm.renew", "pool %d has had placement group %d: this metadata was restored too often", p.Id, p.LastPg)
			return
		}
		p.LastPg += jumpGroups
	}
	n.record(k, &p)
}

// endAll ends all origins and NFS clients by the commands that end them in a running shard, as entries after the applied one. What they
// had is void; Purge removes it.
func endAll(s Store, o Options, applied uint64, now *metapb.Time) (uint64, error) {
	const op = "fsm.renew"
	m, err := Open(s, o)
	if err != nil {
		return 0, err
	}
	var cmds []*metapb.Command
	flush := func() error {
		if len(cmds) == 0 {
			return nil
		}
		b, err := (&metapb.Entry{Format: EntryFormat, Commands: cmds}).MarshalVT()
		if err != nil {
			return err
		}
		applied++
		results, err := m.Apply(applied, b, s)
		if err != nil {
			return err
		}
		for i, r := range results {
			if r.Kind != 0 {
				return vfs.Errorf(vfs.Kind(r.Kind), op, "%v: %s", cmds[i], r.Text)
			}
		}
		m.Flushed()
		cmds = nil
		return nil
	}
	run := func(c *metapb.Command) error {
		c.Time = now
		if cmds = append(cmds, c); len(cmds) < renewBatch {
			return nil
		}
		return flush()
	}
	origins, err := Origins(s)
	if err != nil {
		return 0, err
	}
	lingering, err := Lingering(s)
	if err != nil {
		return 0, err
	}
	for _, x := range origins {
		lingering = append(lingering, x.ID)
	}
	for _, id := range lingering { // nothing stays of them: clients end, too
		if err := run(&metapb.Command{Op: &metapb.Command_ExpireOrigin{ExpireOrigin: &metapb.ExpireOrigin{Origin: id, Left: true}}}); err != nil {
			return 0, vfs.Wrap(op, err)
		}
	}
	clients, err := clientsOf(s, o.Shard)
	if err != nil {
		return 0, err
	}
	for _, x := range clients {
		id := []uint64{x.Client}
		if o.Shard != 0 {
			err = run(&metapb.Command{Op: &metapb.Command_ReleaseClients{ReleaseClients: &metapb.ReleaseClients{Clients: id}}})
		} else if err = run(&metapb.Command{Op: &metapb.Command_RemoveClient{RemoveClient: &metapb.RemoveClient{Client: x.Client, Origin: x.Origin}}}); err == nil {
			err = run(&metapb.Command{Op: &metapb.Command_ForgetClients{ForgetClients: &metapb.ForgetClients{Clients: id}}})
		}
		if err != nil {
			return 0, vfs.Wrap(op, err)
		}
	}
	return applied, vfs.Wrap(op, flush())
}

// clientsOf lists the NFS clients of a state: records of shard 0, clients that a namespace shard knows. They are few, by limits.clients.
func clientsOf(v View, shard uint16) ([]ClientOrigin, error) {
	var out []ClientOrigin
	var bad error
	prefix := []byte("C/")
	if shard != 0 {
		prefix = []byte("w/")
	}
	err := v.Scan(prefix, prefixEnd(prefix), func(k, b []byte) bool {
		if len(k) != knownLen {
			return true
		}
		var r metapb.ClientRecord
		if shard == 0 {
			if bad = r.UnmarshalVT(b); bad != nil {
				return false
			}
		}
		out = append(out, ClientOrigin{Client: tail64(k), Origin: r.Origin})
		return true
	})
	if err == nil {
		err = bad
	}
	return out, vfs.Wrap("fsm.renew", err)
}
