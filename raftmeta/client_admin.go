package raftmeta

import (
	"context"
	"crypto/rand"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// adminIncarnation is the length of an incarnation in bytes.
const adminIncarnation = 16

// EnsureRegistered is Register, for administration, of a client that has no origin in a shard. What else the client registers, before or
// meanwhile, goes first: the commands of a gateway are under the gateway's origin.
func (c *Client) EnsureRegistered(ctx context.Context, shard uint16, name string) error {
	s := c.shard(shard)
	s.admin.Lock()
	defer s.admin.Unlock()
	s.mu.Lock()
	has := s.origin != 0
	s.mu.Unlock()
	if has {
		return nil
	}
	incarnation := make([]byte, adminIncarnation)
	rand.Read(incarnation)
	r, err := c.Apply(ctx, shard, &metapb.Command{Op: &metapb.Command_RegisterOrigin{RegisterOrigin: &metapb.RegisterOrigin{
		Kind: metapb.OriginKind_ORIGIN_ADMIN, Name: name, Incarnation: incarnation,
	}}})
	if err != nil {
		return vfs.Wrap("raftmeta.register", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.origin == 0 {
		s.become(r.GetOrigin().GetOrigin())
	}
	return nil
}
