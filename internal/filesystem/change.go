package filesystem

import (
	"bytes"
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// changeTries is how often a change is made again from a record that somebody else has changed meanwhile.
const changeTries = 8

// Pools finds the pool for a new file system, or makes one.
type Pools interface {
	Pool(ctx context.Context, r *Request) (uint32, error)
}

// Create makes the record of a new file system, and takes the steps that make it active. If they do not succeed now, the record is returned
// with the error: the cluster goes on by itself.
func Create(ctx context.Context, meta Meta, pools Pools, r Request, now time.Time) (*metapb.FileSystem, error) {
	const op = "create file system"
	if err := r.check(op); err != nil {
		return nil, err
	}
	list, err := List(ctx, meta)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	if old := find(list, r.Workspace, r.Name); old != nil {
		return nil, vfs.Errorf(vfs.KindExists, op, "%s", taken(old))
	}
	var pool uint32
	if r.Kind == Local {
		err = needLocalNode(ctx, meta, r.Group, op)
	} else if pool, err = pools.Pool(ctx, &r); err != nil {
		err = vfs.Wrap(op, err)
	}
	if err != nil {
		return nil, err
	}
	key := make([]byte, 16)
	rand.Read(key)
	fs := &metapb.FileSystem{
		Name: r.Name, Workspace: r.Workspace, Kind: r.Kind, Group: r.Group, Shard: namespaceShard, Pool: pool,
		State: metapb.FileSystemState_FS_CREATING, HashKey: key, Created: stamp(now),
	}
	r.Settings.put(fs)
	for try := 1; ; try++ {
		fs.Id = nextID(list)
		err := put(ctx, meta, fs, metapb.FileSystemState_FS_UNKNOWN, 0)
		if err == nil {
			break
		}
		if try == changeTries || vfs.KindOf(err) != vfs.KindChanged {
			return nil, vfs.Wrap(op, err)
		}
		if list, err = List(ctx, meta); err != nil { // somebody else took the id
			return nil, vfs.Wrap(op, err)
		}
		if old := find(list, r.Workspace, r.Name); old != nil && !bytes.Equal(old.HashKey, key) {
			return nil, vfs.Errorf(vfs.KindExists, op, "%s", taken(old))
		}
	}
	err = step(ctx, meta, fs)
	if err != nil {
		return fs, vfs.Errorf(vfs.KindOf(err), op, "file system %s is recorded and will be made when the metadata answers again: %w", r.Name, err)
	}
	return Find(ctx, meta, r.Workspace, r.Name)
}

// CreateFirst makes the first file system of a cluster, unless there is or was one.
func CreateFirst(ctx context.Context, meta Meta, name string, pool uint32, now time.Time) error {
	list, err := List(ctx, meta)
	switch {
	case err != nil:
		return err
	case nextID(list) <= 1:
		_, err := Create(ctx, meta, fixedPool(pool), Request{Name: name}, now)
		return err
	}
	for _, fs := range list.GetFileSystems() { // what a crash in the first start left
		if fs.State == metapb.FileSystemState_FS_CREATING {
			if err := step(ctx, meta, fs); err != nil {
				return err
			}
		}
	}
	return nil
}

// nextID is the id of the next file system. A list without a version is of a metadata in which none has gone yet.
func nextID(list *metapb.FileSystemsR) uint32 {
	next := max(list.GetNextId(), 1)
	for _, fs := range list.GetFileSystems() {
		next = max(next, fs.Id+1)
	}
	return next
}

type fixedPool uint32

func (p fixedPool) Pool(context.Context, *Request) (uint32, error) { return uint32(p), nil }

// taken says why a name cannot be had.
func taken(old *metapb.FileSystem) string {
	if old.State == metapb.FileSystemState_FS_DELETED {
		return old.Name + " is the name of a deleted file system, kept until " + timeOf(old.PurgeAfter).Format(time.RFC3339) +
			": bring it back with `rackfs fs undelete`, or end it now with `rackfs fs delete --keep 0s`"
	}
	return "there is a file system " + old.Name + " in the workspace " + old.Workspace + " already"
}

// Change gives a file system other settings: edit changes those that it has.
func Change(ctx context.Context, meta Meta, workspace, name string, edit func(*Settings) error) (*metapb.FileSystem, error) {
	const op = "change file system"
	fs, err := update(ctx, meta, workspace, name, op, func(fs *metapb.FileSystem) error {
		if fs.State != metapb.FileSystemState_FS_ACTIVE {
			return wrongState(fs, op, "active")
		}
		s := SettingsOf(fs)
		if fs.Version == 0 && fs.Kind != Local { // limits were set without a record of them
			ns, err := namespace(ctx, meta, fs)
			if err != nil {
				return err
			}
			s.QuotaBytes, s.QuotaInodes = ns.LimitBytes, ns.LimitInodes
		}
		if err := edit(&s); err != nil {
			return err
		}
		if err := s.check(op); err != nil {
			return err
		}
		if fs.Kind == Local {
			if err := s.checkLocal(op); err != nil {
				return err
			}
		}
		s.put(fs)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := step(ctx, meta, fs); err != nil {
		return fs, vfs.Errorf(vfs.KindOf(err), op, "the change is recorded and will be in force when the metadata answers again: %w", err)
	}
	return fs, nil
}

// Delete stops the serving of a file system; after keep it ends. Of one that is deleted already it changes how long that is kept from now on.
func Delete(ctx context.Context, meta Meta, workspace, name string, keep time.Duration, now time.Time) (*metapb.FileSystem, error) {
	const op = "delete file system"
	if keep < 0 || keep > MaxKeep {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "--keep %v: use 0s to %v", keep, MaxKeep)
	}
	seconds := uint64((keep + time.Second - 1) / time.Second)
	return update(ctx, meta, workspace, name, op, func(fs *metapb.FileSystem) error {
		switch fs.State {
		case metapb.FileSystemState_FS_CREATING:
			fs.State = metapb.FileSystemState_FS_PURGING // it has no data
			return nil
		case metapb.FileSystemState_FS_ACTIVE, metapb.FileSystemState_FS_DELETED:
			fs.State = metapb.FileSystemState_FS_DELETED
		default:
			return wrongState(fs, op, "active or deleted")
		}
		fs.Deleted, fs.PurgeAfter, fs.KeepSeconds, fs.WaitedSeconds = stamp(now), stamp(now.Add(keep)), seconds, 0
		return nil
	})
}

// Undelete has a deleted file system served again, as it was.
func Undelete(ctx context.Context, meta Meta, workspace, name string) (*metapb.FileSystem, error) {
	const op = "undelete file system"
	return update(ctx, meta, workspace, name, op, func(fs *metapb.FileSystem) error {
		if fs.State != metapb.FileSystemState_FS_DELETED {
			return wrongState(fs, op, "deleted")
		}
		if Ends(fs) {
			return vfs.Errorf(vfs.KindInvalid, op, "file system %s was deleted without being kept: its data is being destroyed", fs.Name)
		}
		if ns, err := namespace(ctx, meta, fs); fs.Kind == Local {
			// The nodes still have their directories.
		} else if err != nil {
			return err
		} else if ns.GetDeleted() { // by a metadata that was restored since
			return vfs.Errorf(vfs.KindInvalid, op, "the data of file system %s is gone already", fs.Name)
		}
		fs.State = metapb.FileSystemState_FS_ACTIVE
		fs.Deleted, fs.PurgeAfter, fs.KeepSeconds, fs.WaitedSeconds = nil, nil, 0, 0
		return nil
	})
}

// StateName is a state as people write it.
func StateName(s metapb.FileSystemState) string {
	switch s {
	case metapb.FileSystemState_FS_CREATING:
		return "creating"
	case metapb.FileSystemState_FS_ACTIVE:
		return "active"
	case metapb.FileSystemState_FS_DELETED:
		return "deleted"
	case metapb.FileSystemState_FS_PURGING:
		return "purging"
	}
	return "unknown"
}

func wrongState(fs *metapb.FileSystem, op, want string) error {
	return vfs.Errorf(vfs.KindInvalid, op, "file system %s is %s, not %s", fs.Name, StateName(fs.State), want)
}

// List asks for all file systems.
func List(ctx context.Context, meta Meta) (*metapb.FileSystemsR, error) {
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_FileSystems{FileSystems: &metapb.FileSystemsQ{}}})
	return r.GetFileSystems(), vfs.Wrap("list file systems", err)
}

func find(list *metapb.FileSystemsR, workspace, name string) *metapb.FileSystem {
	for _, fs := range list.GetFileSystems() {
		if fs.Name == name && fs.Workspace == workspace && fs.State != metapb.FileSystemState_FS_PURGING {
			return fs
		}
	}
	return nil
}

// Find returns the file system that has a name.
func Find(ctx context.Context, meta Meta, workspace, name string) (*metapb.FileSystem, error) {
	if workspace == "" {
		workspace = DefaultWorkspace
	}
	list, err := List(ctx, meta)
	if err != nil {
		return nil, err
	}
	if fs := find(list, workspace, name); fs != nil {
		return fs, nil
	}
	return nil, vfs.Errorf(vfs.KindNotFound, "file system", "there is no file system %q in the workspace %q: `rackfs fs list` shows them", name, workspace)
}

// update changes the record of a file system and returns what it is then.
func update(ctx context.Context, meta Meta, workspace, name, op string, edit func(*metapb.FileSystem) error) (*metapb.FileSystem, error) {
	for try := 1; ; try++ {
		old, err := Find(ctx, meta, workspace, name)
		if err != nil {
			return nil, vfs.Wrap(op, err)
		}
		fs := old.CloneVT()
		if err := edit(fs); err != nil {
			return nil, err
		}
		if proto.Equal(old, fs) {
			return old, nil
		}
		err = put(ctx, meta, fs, old.State, old.Version)
		if err == nil {
			fs.Version = old.Version + 1
			return fs, nil
		}
		if try == changeTries || vfs.KindOf(err) != vfs.KindChanged {
			return nil, vfs.Wrap(op, err)
		}
	}
}

func put(ctx context.Context, meta Meta, fs *metapb.FileSystem, state metapb.FileSystemState, version uint64) error {
	if err := mayHave(ctx, meta, fs); err != nil {
		return err
	}
	_, err := meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutFileSystem{PutFileSystem: &metapb.PutFileSystem{
		Fs: fs, ExpectState: state, ExpectVersion: version,
	}}})
	return err
}

func stamp(t time.Time) *metapb.Time {
	return &metapb.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

func timeOf(t *metapb.Time) time.Time { return time.Unix(t.GetSec(), int64(t.GetNsec())).UTC() }

// Ends reports whether nobody can want a file system's data any more: it is being destroyed, or was deleted without being kept, and will be
// within seconds.
func Ends(fs *metapb.FileSystem) bool {
	return fs.State == metapb.FileSystemState_FS_PURGING || fs.State == metapb.FileSystemState_FS_DELETED && fs.KeepSeconds == 0
}
