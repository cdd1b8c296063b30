package filesystem

import (
	"context"

	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// nodesForDomain is from how many nodes on a group's data is spread over nodes if nobody says how: with fewer, a node that is lost would
// leave too little room for the rest.
const nodesForDomain = 3

// ClusterPools finds pools in the cluster map, and adds to it those that are missing.
type ClusterPools struct{ Meta Meta }

// Pool implements Pools: the pool of the group with the profile that is wanted, which is made if there is none and the group's stores are enough
// for it. Without a profile it is the group's first pool; the first pool of a group gets the widest profile that its stores suggest.
func (p ClusterPools) Pool(ctx context.Context, r *Request) (uint32, error) {
	const op = "choose pool"
	for try := 1; ; try++ {
		res, err := p.Meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
		if err != nil {
			return 0, err
		}
		m := res.GetClusterMap()
		profile, err := profileOf(m, r)
		if err != nil {
			return 0, err
		}
		pool, exists, err := nodegroup.NewPool(m, r.Group, profile)
		if err != nil {
			return 0, err
		}
		if err := inDomain(m, pool, exists, r); err != nil {
			return 0, err
		}
		if exists {
			return pool.Id, nil
		}
		_, err = p.Meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutPool{PutPool: &metapb.PutPool{Pool: pool}}})
		switch vfs.KindOf(err) {
		case vfs.KindOK:
			return pool.Id, nil
		case vfs.KindExists, vfs.KindChanged: // somebody else made one
			if try < changeTries {
				continue
			}
		}
		return 0, vfs.Wrap(op, err)
	}
}

// profileOf is the profile that a request means.
func profileOf(m *metapb.ClusterMapR, r *Request) (placement.Profile, error) {
	if r.Profile != "" {
		return placement.ParseProfile(r.Profile)
	}
	for _, p := range m.GetPools() {
		if p.Group == r.Group {
			return placement.Profile{K: int(p.K), M: int(p.M)}, nil
		}
	}
	have := placement.Members(nodegroup.Locations(m, r.Group))
	if n := have[placement.Node]; n >= nodesForDomain {
		return placement.ProfileFor(n), nil
	}
	return placement.ProfileFor(have[placement.Disk]), nil
}

// inDomain gives a new pool the failure domain that is wanted, and refuses an existing one that has another.
func inDomain(m *metapb.ClusterMapR, pool *metapb.Pool, exists bool, r *Request) error {
	const op = "choose pool"
	if r.Domain == "" {
		return nil
	}
	level, err := placement.ParseLevel(r.Domain)
	if err != nil {
		return err
	}
	has := pool.Domain
	if has == "" {
		has = placement.Disk.String()
	}
	if exists && has != level.String() {
		return vfs.Errorf(vfs.KindExists, op, "pool %s has this profile, and its failure domain is %s, which never changes: leave --domain out, or choose another profile", pool.Name, has)
	}
	pool.Domain = level.String()
	return placement.CheckLevel(placement.Profile{K: int(pool.K), M: int(pool.M)}, level, nodegroup.Locations(m, r.Group))
}
