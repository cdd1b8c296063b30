package filesystem

import (
	"context"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// step does what the state of fs asks for. It may be repeated, by several at once.
func step(ctx context.Context, meta Meta, fs *metapb.FileSystem) error {
	switch fs.State {
	case metapb.FileSystemState_FS_CREATING:
		return finish(ctx, meta, fs)
	case metapb.FileSystemState_FS_ACTIVE:
		return limit(ctx, meta, fs)
	case metapb.FileSystemState_FS_PURGING:
		_, err := purge(ctx, meta, fs)
		return err
	}
	return nil
}

func namespaceCommand(ctx context.Context, meta Meta, fs *metapb.FileSystem, cmd *metapb.Command) error {
	cmd.Fs = fs.Id
	_, err := meta.Apply(ctx, uint16(fs.Shard), cmd)
	return err
}

// finish makes what a file system that is being created lacks, and has it served.
func finish(ctx context.Context, meta Meta, fs *metapb.FileSystem) error {
	const op = "create namespace"
	if fs.Kind == Local {
		return activate(ctx, meta, fs)
	}
	err := namespaceCommand(ctx, meta, fs, &metapb.Command{Op: &metapb.Command_CreateNamespace{CreateNamespace: &metapb.CreateNamespace{
		RootMode: 0o755, HashKey: fs.HashKey,
	}}})
	if vfs.KindOf(err) == vfs.KindExists {
		// A namespace that was deleted is never made again. The record can be older than that only if it was restored from a backup.
		if ns, asked := namespace(ctx, meta, fs); asked == nil && ns.GetDeleted() {
			gone := fs.CloneVT()
			gone.State = metapb.FileSystemState_FS_PURGING
			return vfs.Wrap(op, put(ctx, meta, gone, metapb.FileSystemState_FS_CREATING, 0))
		}
	}
	if err != nil {
		return vfs.Wrap(op, err)
	}
	// Before it is served: the first write counts.
	if err := limit(ctx, meta, fs); err != nil {
		return err
	}
	return activate(ctx, meta, fs)
}

// activate has a file system served that lacks nothing any more.
func activate(ctx context.Context, meta Meta, fs *metapb.FileSystem) error {
	active := fs.CloneVT()
	active.State = metapb.FileSystemState_FS_ACTIVE
	err := put(ctx, meta, active, metapb.FileSystemState_FS_CREATING, 0)
	if vfs.KindOf(err) == vfs.KindChanged {
		return nil // somebody else did it, or it is being purged
	}
	return vfs.Wrap("activate file system", err)
}

// limit brings the limits of the record to the namespace. A record without a version is from below level 4, and says nothing about limits.
func limit(ctx context.Context, meta Meta, fs *metapb.FileSystem) error {
	version := fs.Version
	if fs.State == metapb.FileSystemState_FS_CREATING && version == 0 && fs.QuotaBytes|fs.QuotaInodes != 0 {
		version = 1 // of a record that was just made
	}
	if version == 0 || fs.Kind == Local {
		return nil
	}
	return vfs.Wrap("limit file system", namespaceCommand(ctx, meta, fs, &metapb.Command{Op: &metapb.Command_LimitNamespace{LimitNamespace: &metapb.LimitNamespace{
		Version: version, Bytes: fs.QuotaBytes, Inodes: fs.QuotaInodes,
	}}}))
}

// purge has a namespace deleted, and removes the record when nothing is left of it.
func purge(ctx context.Context, meta Meta, fs *metapb.FileSystem) (done bool, err error) {
	const op = "purge file system"
	if fs.Kind == Local {
		return removeRecord(ctx, meta, fs, op) // what nodes have of it is theirs to clean up
	}
	if err := namespaceCommand(ctx, meta, fs, &metapb.Command{Op: &metapb.Command_DeleteNamespace{DeleteNamespace: &metapb.DeleteNamespace{}}}); err != nil {
		return false, vfs.Wrap(op, err)
	}
	ns, err := namespace(ctx, meta, fs)
	if err != nil {
		return false, vfs.Wrap(op, err)
	}
	if !ns.GetDeleted() || ns.GetPurging() {
		return false, nil
	}
	return removeRecord(ctx, meta, fs, op)
}

func removeRecord(ctx context.Context, meta Meta, fs *metapb.FileSystem, op string) (done bool, err error) {
	_, err = meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RemoveFileSystem{RemoveFileSystem: &metapb.RemoveFileSystem{Id: fs.Id}}})
	return err == nil, vfs.Wrap(op, err)
}

// namespace asks how the namespace of fs stands.
func namespace(ctx context.Context, meta Meta, fs *metapb.FileSystem) (*metapb.NamespaceR, error) {
	r, err := meta.Query(ctx, uint16(fs.Shard), &metapb.Query{Fs: fs.Id, Q: &metapb.Query_Namespace{Namespace: &metapb.NamespaceQ{}}})
	return r.GetNamespace(), err
}

// Usage is what a file system uses, and the limits that are in force.
func Usage(ctx context.Context, meta Meta, fs *metapb.FileSystem) (*metapb.NamespaceR, error) {
	if fs.Kind == Local {
		return nil, nil // Places tells what its nodes say
	}
	return namespace(ctx, meta, fs)
}
