package gateway

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/nfsserver/export"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
	"github.com/rackfs/rackfs/volume/rewrite"
)

const (
	// closeTimeout bounds the flush of a file system that is not served any more.
	closeTimeout = 30 * time.Second
	// listTimeout bounds one look at the list of file systems.
	listTimeout = 5 * time.Second
)

// served is a file system that this gateway serves or has served.
type served struct {
	rec    *metapb.FileSystem
	fs     *leasedFS // stays the same, so that what the NFS server knows of the file system ends in an orderly way
	volume *volume.Volume
	blocks *blocks
	ending bool // it is being flushed; it can be served again after that
}

// fileSet is the file systems of a gateway.
type fileSet struct {
	g    *Gateway
	keep bool

	refreshing sync.Mutex // held by who updates; guards version and group, but not while a query is under way
	version    uint64     // of the list that all is about
	group      string     // that the list was looked at for
	closing    sync.WaitGroup
	stop       context.CancelFunc // ends follow; nil: it was not begun
	done       sync.WaitGroup
	shards     atomic.Pointer[map[uint32]uint16] // of all that was ever served, by file system id

	mu      sync.Mutex // guards the following
	all     map[uint32]*served
	within  map[string][]netip.Prefix // networks of clients, by workspace
	exports []export.Export
}

// serves reports whether a file system is this gateway's to serve: those of a node group are served by the gateways of the group, and the
// shared ones by those of no group.
func (s *fileSet) serves(fs *metapb.FileSystem) bool {
	return fs.State == metapb.FileSystemState_FS_ACTIVE && fs.Kind != filesystem.Local && fs.Group == s.group && s.g.members.all[uint16(fs.Shard)] != nil
}

// update makes the list the one that is served. Of file systems that are not in it any more the exports go first, then, when calls under way
// have ended, what was buffered is flushed.
func (s *fileSet) update(ctx context.Context, r *metapb.FileSystemsR) (again bool) {
	list := r.GetFileSystems()
	s.group = s.g.cfg.Group()
	wanted := map[uint32]*metapb.FileSystem{}
	for _, fs := range list {
		if s.serves(fs) {
			wanted[fs.Id] = fs
		} else if fs.State == metapb.FileSystemState_FS_ACTIVE && fs.Group == s.group && fs.Kind != filesystem.Local {
			s.g.cfg.Logger.Error("gateway: a file system is in a shard of the metadata that this gateway does not use: restart it", "fs", fs.Id, "shard", fs.Shard)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.within = withinOf(r.GetWorkspaces())
	var ended []*served
	for id, sv := range s.all {
		if wanted[id] == nil && sv.volume != nil && !sv.ending {
			sv.ending = true
			sv.fs.closing.Store(true) // whoever finds the export gone finds the file system stale
			ended = append(ended, sv)
		}
	}
	for id, fs := range wanted {
		sv := s.all[id]
		switch {
		case sv == nil:
			sv = &served{fs: &leasedFS{need: []*membership{s.g.members.all[uint16(fs.Shard)], s.g.members.all[clusterShard]}, keeps: s.keep}}
			s.all[id] = sv
			s.open(sv, fs)
		case sv.ending:
			again = true // when it is flushed
			continue
		case sv.volume == nil:
			s.open(sv, fs)
		}
		sv.rec = fs
	}
	s.publish()
	for _, sv := range ended {
		s.closing.Go(func() { s.close(ctx, sv) })
	}
	return again
}

// open begins to serve a file system. s.mu is held.
func (s *fileSet) open(sv *served, fs *metapb.FileSystem) {
	g := s.g
	shard := uint16(fs.Shard)
	// A verifier of its own: what a volume before it had buffered and could not flush is to be written again.
	var incarnation [16]byte
	rand.Read(incarnation[:])
	sv.blocks = &blocks{client: g.stripes, cmap: g.cmap, pool: fs.Pool}
	var want func(context.Context, vfs.Ino) error
	if g.cfg.Several {
		want = func(ctx context.Context, ino vfs.Ino) error { return g.cfg.Meta.Wish(ctx, shard, fs.Id, uint64(ino)) }
	}
	var serves func(uint64) (bool, error)
	if s.keep {
		serves = g.serves
	}
	sv.volume = volume.New(volume.Config{
		Want: want, Serves: serves, FS: fs.Id, Shard: shard, Meta: g.cfg.Meta, Blocks: sv.blocks, Incarnation: incarnation, Keep: s.keep,
		Capacity: func() (total, free uint64) { return g.capacity(fs.Pool) }, NoAtime: g.cfg.NoAtime, Logger: g.cfg.Logger,
	})
	g.members.all[shard].add(fs.Id, sv.volume)
	sv.fs.open(sv.volume)
}

// close ends the volume of a file system that is not exported any more.
func (s *fileSet) close(ctx context.Context, sv *served) {
	sv.fs.close()
	s.mu.Lock()
	v, rec := sv.volume, sv.rec
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := v.Shutdown(ctx); err != nil {
		s.g.cfg.Logger.Error("gateway: what was buffered of a file system that is not served any more is lost", "fs", rec.Id, "err", err)
	}
	s.g.members.all[uint16(rec.Shard)].remove(rec.Id)
	s.mu.Lock()
	sv.volume, sv.ending = nil, false
	s.mu.Unlock()
	s.g.cfg.Logger.Info("gateway: a file system is not served any more", "fs", rec.Id, "name", rec.Name)
}

// publish makes the exports anew, and has the NFS server use them if there is one already. s.mu is held.
func (s *fileSet) publish() {
	var list []*served
	for _, sv := range s.all {
		if sv.volume != nil && !sv.ending {
			list = append(list, sv)
		}
	}
	slices.SortFunc(list, func(a, b *served) int { return cmp.Compare(a.rec.Id, b.rec.Id) })
	var exports []export.Export
	for _, sv := range list {
		for _, e := range exportsOf(sv.rec, sv.fs, s.g.cfg.Rules) {
			e.Within = s.within[sv.rec.Workspace]
			exports = append(exports, e)
		}
	}
	s.exports = exports
	shards := make(map[uint32]uint16, len(s.all))
	for id, sv := range s.all {
		shards[id] = uint16(sv.rec.Shard)
	}
	s.shards.Store(&shards)
	if s.g.nfs == nil {
		return
	}
	if err := s.g.nfs.SetExports(exports); err != nil {
		s.g.cfg.Logger.Error("gateway: the file systems cannot be exported together; those before stay exported", "err", err)
	}
}

// follow keeps what is served the newest list until ctx ends.
func (s *fileSet) follow(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.refresh(ctx)
		if (err != nil) != failing && ctx.Err() == nil {
			if failing = err != nil; failing {
				s.g.cfg.Logger.Warn("gateway: the list of file systems cannot be read; those that are served stay served", "err", err)
			}
		}
	}
}

// refresh asks for the list and serves what is new in it: all that there was when it was called. Many may do so at once, who take clients over.
func (s *fileSet) refresh(ctx context.Context) error {
	s.refreshing.Lock()
	if s.g.cfg.Group() != s.group {
		s.version = 0 // the gateway's node was put into another group
	}
	known := s.version
	s.refreshing.Unlock()
	qctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	r, err := s.g.cfg.Meta.Query(qctx, clusterShard, &metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: &metapb.FileSystemsQ{KnownVersion: known}}})
	if err != nil {
		return err
	}
	list := r.GetFileSystems()
	if list.GetUnchanged() {
		return nil
	}
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	if s.version != known && list.GetVersion() <= s.version { // somebody else has taken it in meanwhile
		return nil
	}
	s.version = list.GetVersion()
	if s.update(ctx, list) {
		s.version = 0
	}
	return nil
}

// volumes are those that are served.
func (s *fileSet) volumes() (list []*served) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sv := range s.all {
		if sv.volume != nil && !sv.ending {
			list = append(list, &served{rec: sv.rec, volume: sv.volume, blocks: sv.blocks})
		}
	}
	slices.SortFunc(list, func(a, b *served) int { return cmp.Compare(a.rec.Id, b.rec.Id) })
	return list
}

// places are the shards and pools of what is served.
func (s *fileSet) places() (out []place) {
	for _, sv := range s.volumes() {
		if p := (place{shard: uint16(sv.rec.Shard), pool: sv.rec.Pool}); !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// folded are the volumes as the folder takes them.
func (s *fileSet) folded() (out []rewrite.Folded) {
	for _, sv := range s.volumes() {
		out = append(out, rewrite.Folded{Volume: sv.volume, Shard: uint16(sv.rec.Shard), FS: sv.rec.Id, Blocks: sv.blocks})
	}
	return out
}

// shardOf is the shard of a file system; of 0 and of one that is not served here it is the cluster's.
func (s *fileSet) shardOf(fsid uint32) uint16 { return (*s.shards.Load())[fsid] }

// begin follows the list until end.
func (s *fileSet) begin(ctx context.Context, interval time.Duration) {
	ctx, s.stop = context.WithCancel(ctx)
	s.done.Go(func() { s.follow(ctx, interval) })
}

// end stops following the list, and waits for what is being closed.
func (s *fileSet) end() {
	if s.stop != nil {
		s.stop()
	}
	s.done.Wait()
	s.closing.Wait()
}
