package clustercheck

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

const (
	// callTimeout bounds one call to a block server.
	callTimeout = 20 * time.Second
	// listPage is how many shards of a list are read at once.
	listPage = 4096
)

// Conn makes calls to one block server. *wire.Client is one.
type Conn interface {
	Call(ctx context.Context, op wire.Op, meta []byte, payload net.Buffers, into []byte) (*wire.Reply, error)
	Close()
}

// storeConn is a store that is asked.
type storeConn struct {
	rec    *metapb.Store
	conn   Conn
	groups []uint32 // of which it has shards
	err    error    // why it is not looked at (any more)
}

// connect opens a way to every store that is not lost and asks what it is.
func (c *checker) connect(ctx context.Context) {
	nodes := map[string]Conn{}
	for _, s := range c.cmap.GetStores() {
		if s.State == metapb.StoreState_STORE_LOST || s.Gone {
			continue
		}
		k := s.Node + "\x00" + s.Address
		if nodes[k] == nil {
			nodes[k] = c.o.Connect(s.Node, s.Address)
			c.conns = append(c.conns, nodes[k])
		}
		c.stores[s.Id] = &storeConn{rec: s, conn: nodes[k]}
	}
	stopped := map[uint64][]uint32{}
	for _, id := range c.ids() {
		s := c.stores[id]
		if err := c.look(ctx, s, stopped); err != nil {
			c.fail(s, err)
		}
	}
	for incarnation, ids := range stopped {
		c.report.Deletion = DeletionStopped
		c.r().add(Error, KindDeletion, "the metadata is of incarnation %d, stores %v of %d: they delete nothing until `rackfs cluster allow-deletion`", c.report.Metadata, ids, incarnation)
	}
}

// ids are those of all stores, ascending.
func (c *checker) ids() []uint32 {
	var ids []uint32
	for id := range c.stores {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// look asks a store what it is and of which groups it has shards.
func (c *checker) look(ctx context.Context, s *storeConn, stopped map[uint64][]uint32) error {
	r, err := s.call(ctx, blockstore.OpInfo, (&blockstore.DiskRequest{Disk: s.rec.Id}).Append(nil))
	if err != nil {
		return err
	}
	var info blockstore.InfoReply
	err = info.Decode(r.Meta)
	r.Release()
	if err != nil {
		return err
	}
	switch {
	case string(info.Store[:]) != string(s.rec.Uuid):
		c.r().add(Error, KindStore, "store %d of node %s is disk %x, the map says %x", s.rec.Id, s.rec.Node, info.Store[:], s.rec.Uuid)
	case string(info.Cluster[:]) != string(c.cluster):
		c.r().add(Error, KindStore, "store %d of node %s is of cluster %x", s.rec.Id, s.rec.Node, info.Cluster[:])
	case info.MetadataIncarnation != c.report.Metadata:
		stopped[info.MetadataIncarnation] = append(stopped[info.MetadataIncarnation], s.rec.Id)
	}
	if !info.Writable {
		c.r().add(Error, KindStore, "store %d of node %s takes no writes: nothing on it is repaired or deleted", s.rec.Id, s.rec.Node)
	}
	for after := uint32(0); ; {
		r, err := s.call(ctx, blockstore.OpGroups, (&blockstore.GroupsRequest{Disk: s.rec.Id, After: after}).Append(nil))
		if err != nil {
			return err
		}
		var reply blockstore.ListReply
		err = reply.Decode(r.Meta)
		ids, gerr := blockstore.DecodeGroups(r.Payload)
		r.Release()
		if err == nil {
			err = gerr
		}
		if err != nil {
			return err
		}
		s.groups = append(s.groups, ids...)
		if !reply.More || len(ids) == 0 {
			return nil
		}
		after = ids[len(ids)-1]
	}
}

// fail notes that a store cannot be looked at, once.
func (c *checker) fail(s *storeConn, err error) {
	if s.err == nil {
		s.err = err
		c.r().add(Error, KindStore, "store %d of node %s cannot be looked at, so what it has and lacks is not checked: %v", s.rec.Id, s.rec.Node, err)
	}
}

func (s *storeConn) call(ctx context.Context, op wire.Op, meta []byte) (*wire.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.conn.Call(ctx, op, meta, nil, nil)
}

// list visits the shards of a group with block ids in (after, through].
func (s *storeConn) list(ctx context.Context, pg uint32, after, through uint64, visit func(*blockstore.ShardInfo)) error {
	var from *blockstore.Key
	if after > 0 {
		from = &blockstore.Key{PG: pg, Block: after, Shard: 255}
	}
	for {
		r, err := s.call(ctx, blockstore.OpList, (&blockstore.ListRequest{Disk: s.rec.Id, PG: pg, Limit: listPage, After: from}).Append(nil))
		if err != nil {
			return err
		}
		var reply blockstore.ListReply
		err = reply.Decode(r.Meta)
		infos, lerr := blockstore.DecodeShardInfos(r.Payload)
		r.Release()
		if err == nil {
			err = lerr
		}
		if err != nil {
			return err
		}
		for i := range infos {
			if infos[i].Block > through {
				return nil
			}
			visit(&infos[i])
		}
		if !reply.More || len(infos) == 0 {
			return nil
		}
		last := infos[len(infos)-1]
		from = &blockstore.Key{PG: pg, Block: last.Block, Shard: last.Shard}
	}
}

// stat asks for one shard.
func (s *storeConn) stat(ctx context.Context, key blockstore.Key) (blockstore.StatReply, error) {
	var reply blockstore.StatReply
	r, err := s.call(ctx, blockstore.OpStat, (&blockstore.GetRequest{Disk: s.rec.Id, Key: key}).Append(nil))
	if err != nil {
		return reply, err
	}
	defer r.Release()
	return reply, reply.Decode(r.Meta)
}
