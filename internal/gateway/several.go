package gateway

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

const (
	// levelHandover is the feature level at which clients change gateways that live.
	levelHandover = 7
	// levelSeveral is the feature level of shards whose files several gateways may serve.
	levelSeveral = 6
	// giveBackTimeout is how long what is buffered of a file may take to become durable when another gateway wants it.
	giveBackTimeout = 20 * time.Second
	// holdsInterval is how often a gateway looks for files that lost their last names by others.
	holdsInterval = time.Second
	// holdsAnswered is how many of those are answered at once.
	holdsAnswered = 64
)

// mayShare refuses a gateway that is to be one of several at a shard of an older level.
func (g *Gateway) mayShare(ctx context.Context, shard uint16) error {
	if !g.cfg.Several {
		return nil
	}
	l, err := g.level(ctx, shard)
	if err != nil {
		return err
	}
	if l < levelSeveral {
		return vfs.Errorf(vfs.KindNotSupported, "several gateways", "shard %d is at feature level %d, several gateways need %d: raise it when all voters run a release that knows it", shard, l, levelSeveral)
	}
	return nil
}

// level is a shard's feature level.
func (g *Gateway) level(ctx context.Context, shard uint16) (uint32, error) {
	r, err := g.cfg.Meta.Query(ctx, shard, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}})
	return r.GetShardInfo().GetLevel(), err
}

// oneServer returns what makes the gateways of a group one server to NFS clients (RFC 8881, 2.10.5), which they are when clients go from one to another; nil if they do not.
func (g *Gateway) oneServer(ctx context.Context) (func() string, error) {
	if !g.cfg.Several {
		return nil, nil
	}
	l, err := g.level(ctx, clusterShard)
	if err != nil || l < levelHandover {
		return nil, err
	}
	return g.cfg.Group, nil
}

func (m *membership) volumeOf(fs uint32) *volume.Volume {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.volumes[fs]
}

// origin is that of the registration, 0 while there is none.
func (m *membership) origin() uint64 {
	if l := m.lease.Load(); l != nil {
		return l.Origin()
	}
	return 0
}

// leave ends the registrations of a gateway that serves no more, shard 0 last: from then on others serve its clients. told: what they have open is recorded.
func (ms *memberships) leave(ctx context.Context, told bool) (err error) {
	shards := slices.Sorted(maps.Keys(ms.all))
	for _, shard := range slices.Backward(shards) {
		if l := ms.all[shard].lease.Load(); l != nil {
			err = errors.Join(err, l.End(ctx, told))
		}
	}
	return err
}

// hear gives back the files and clients that other gateways want, until ctx ends.
func (m *membership) hear(ctx context.Context) {
	m.meta.Recalls(ctx, m.shard, m.origin, m.address, func(ctx context.Context, w raftmeta.Wished) error {
		ctx, cancel := context.WithTimeout(ctx, giveBackTimeout)
		defer cancel()
		if w.Client != 0 {
			return m.giveClient(ctx, state.ClientID(w.Client))
		}
		v := m.volumeOf(w.FS)
		if v == nil {
			return nil // it gave all back when it was closed
		}
		err := v.GiveBack(ctx, vfs.Ino(w.Ino))
		if err != nil && ctx.Err() == nil {
			m.log.Warn("gateway: another gateway wants a file, and it could not be given back; will be tried again", "fs", w.FS, "inode", w.Ino, "err", err)
		}
		return err
	})
}

// giveClient gives an NFS client up for another gateway.
func (m *membership) giveClient(ctx context.Context, id state.ClientID) error {
	if m.giveUp == nil {
		return nil
	}
	err := m.giveUp(ctx, id)
	if err != nil {
		m.log.Warn("gateway: another gateway wants an NFS client, and it could not be given up; will be tried again", "client", id, "err", err)
	}
	return err
}

// answer answers for files that lost their last names by other gateways, until ctx ends.
func (m *membership) answer(ctx context.Context) {
	tick := time.NewTicker(holdsInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		origin := m.origin()
		if origin == 0 {
			continue
		}
		var g errgroup.Group
		g.SetLimit(holdsAnswered)
		// What is not told now is asked for again.
		_ = m.meta.Holds(ctx, m.shard, origin, func(f *metapb.FileId) {
			g.Go(func() error {
				if v := m.volumeOf(f.GetFs()); v != nil {
					v.AnswerHold(ctx, vfs.Ino(f.GetIno()))
					return nil
				}
				// Not served here, so not open.
				_, err := m.meta.Apply(ctx, m.shard, &metapb.Command{Fs: f.GetFs(), Op: &metapb.Command_ReleaseOrphan{ReleaseOrphan: &metapb.ReleaseOrphan{Ino: f.GetIno()}}})
				return err
			})
		})
		_ = g.Wait() // what failed is held, and asked again
	}
}
