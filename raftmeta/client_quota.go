package raftmeta

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Limits of a file system or a project; 0: none. Bytes are before erasure coding.
type Limits struct{ Bytes, Inodes uint64 }

// SetLimits sets the limits of a file system (project 0), or of a project in it. They hold for whatever is added from then on.
func (c *Client) SetLimits(ctx context.Context, shard uint16, fs, project uint32, l Limits) error {
	_, err := c.Apply(ctx, shard, &metapb.Command{Fs: fs, Op: &metapb.Command_SetQuota{SetQuota: &metapb.SetQuota{
		Project: project, Bytes: l.Bytes, Inodes: l.Inodes,
	}}})
	return vfs.Wrap("raftmeta.set limits", err)
}

// SetProject makes an empty directory the root of a project, or, with project 0, part of its parent's project again.
func (c *Client) SetProject(ctx context.Context, shard uint16, fs uint32, dir vfs.Ino, project uint32) error {
	_, err := c.Apply(ctx, shard, &metapb.Command{Fs: fs, Op: &metapb.Command_SetProject{SetProject: &metapb.SetProject{
		Dir: uint64(dir), Project: project,
	}}})
	return vfs.Wrap("raftmeta.set project", err)
}

// Quotas lists the projects of a file system by ascending id, the file system itself as project 0 first.
func (c *Client) Quotas(ctx context.Context, shard uint16, fs uint32) (list []*metapb.Quota, err error) {
	for from := uint32(0); ; {
		r, err := c.Query(ctx, shard, &metapb.Query{Fs: fs, Q: &metapb.Query_Quotas{Quotas: &metapb.QuotasQ{From: from}}})
		if err != nil {
			return nil, vfs.Wrap("raftmeta.quotas", err)
		}
		page := r.GetQuotas()
		list = append(list, page.GetQuotas()...)
		if !page.GetMore() {
			return list, nil
		}
		last := page.Quotas[len(page.Quotas)-1].Project
		if last < from || last == ^uint32(0) {
			return nil, vfs.Errorf(vfs.KindInternal, "raftmeta.quotas", "a listing from project %d ends with %d", from, last)
		}
		from = last + 1
	}
}
