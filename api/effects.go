package api

import (
	"context"
	"slices"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// noteNoRoom is said of a change whose data was not weighed against the room that is left for it.
const noteNoRoom = "whether there is room elsewhere was not looked at: nobody knows now how full the stores are"

// seen is what is known beside the map: how full stores are, and which pools no file system keeps data in.
func (a *API) seen(ctx context.Context) (nodegroup.Seen, error) {
	var s nodegroup.Seen
	list, err := filesystem.List(ctx, a.opt.Meta)
	if err != nil {
		return s, err
	}
	s.Idle = func(pool uint32) bool {
		return !slices.ContainsFunc(list.GetFileSystems(), func(f *metapb.FileSystem) bool {
			return f.Pool == pool && !filesystem.Ends(f)
		})
	}
	if st, err := a.opt.Cluster.Status(ctx); err == nil && st.Placement != nil {
		s.Stores = st.Placement.Stores
	}
	return s, nil
}

// judge notes in change what it means for pools that the map becomes next, and refuses what they cannot bear, unless that is forced.
func judge(op string, m, next *metapb.ClusterMapR, seen nodegroup.Seen, force bool, change *GroupChange) error {
	change.Effects = append(change.Effects, nodegroup.Effects(m, next, seen)...)
	if seen.Stores == nil && slices.ContainsFunc(change.Effects, func(e nodegroup.Effect) bool { return e.Stores > 0 }) {
		change.Notes = append(change.Notes, noteNoRoom)
	}
	if force {
		return nil
	}
	return nodegroup.Allow(op, change.Effects)
}
