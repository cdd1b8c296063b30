package gateway

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Name is the gateway's.
func (g *Gateway) Name() string { return g.cfg.Name }

// Find is a file system that this gateway serves, with its record; nil if there is none of that name. After its end it is stale. What is done with it is
// coherent with what NFS clients have of its files.
func (g *Gateway) Find(workspace, name string) (vfs.FS, *metapb.FileSystem) {
	return g.find(func(r *metapb.FileSystem) bool { return r.Workspace == workspace && r.Name == name })
}

// FS is Find by id.
func (g *Gateway) FS(id uint32) (vfs.FS, *metapb.FileSystem) {
	return g.find(func(r *metapb.FileSystem) bool { return r.Id == id })
}

func (g *Gateway) find(is func(*metapb.FileSystem) bool) (vfs.FS, *metapb.FileSystem) {
	fs, rec := g.files.find(is)
	if fs == nil {
		return nil, nil
	}
	return g.nfs.Coherent(fs, rec.Id), rec
}

func (s *fileSet) find(is func(*metapb.FileSystem) bool) (vfs.FS, *metapb.FileSystem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sv := range s.all {
		if sv.volume != nil && !sv.ending && is(sv.rec) {
			return sv.fs, sv.rec
		}
	}
	return nil, nil
}

// FileSystems are the records of those that this gateway serves.
func (g *Gateway) FileSystems() (out []*metapb.FileSystem) {
	for _, sv := range g.files.volumes() {
		out = append(out, sv.rec)
	}
	return out
}

// Origin is the gateway's origin at a shard, 0 while it has none.
func (g *Gateway) Origin(shard uint16) uint64 {
	if m := g.members.all[shard]; m != nil {
		if l := m.lease.Load(); l != nil && l.Valid() {
			return l.Origin()
		}
	}
	return 0
}

// Stage implements vfs.Stager.
func (f *leasedFS) Stage(ctx context.Context, project uint32) error {
	const op = "stage"
	fs, err := f.enter(op)
	if err != nil {
		return err
	}
	defer f.leave()
	s, ok := fs.(vfs.Stager)
	if !ok {
		return vfs.Errorf(vfs.KindNotSupported, op, "this file system has no hidden directories")
	}
	return again(op, s.Stage(ctx, project))
}
