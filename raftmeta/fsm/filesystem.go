package fsm

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of a file system's record, from level 4.
const (
	maxAllow       = 256     // networks
	maxKeepSeconds = 1 << 32 // more than a hundred years
)

// defaultWorkspace is the workspace whose file systems have paths of one part.
const defaultWorkspace = "default"

// named reports whether a file system in this state holds its name.
func named(s metapb.FileSystemState) bool { return s != metapb.FileSystemState_FS_PURGING }

func (x *call) putFileSystem(c *metapb.PutFileSystem) error {
	const op = "filesystem.put"
	f := c.Fs
	if f == nil || f.Id == 0 || f.Shard == 0 || f.Shard > 0xffff {
		return vfs.Errorf(vfs.KindInvalid, op, "a file system has an id and a name-space shard")
	}
	if f.State <= metapb.FileSystemState_FS_UNKNOWN || f.State > metapb.FileSystemState_FS_PURGING {
		return vfs.Errorf(vfs.KindInvalid, op, "state %d", int32(f.State))
	}
	if len(f.HashKey) != hashKeyLen {
		return vfs.Errorf(vfs.KindInvalid, op, "a hash key has %d bytes, not %d", hashKeyLen, len(f.HashKey))
	}
	if err := checkRecordName(op, "name", f.Name); err != nil {
		return err
	}
	if err := checkRecordName(op, "workspace", f.Workspace); err != nil {
		return err
	}
	if x.level < levelCluster && (f.Version != 0 || f.Group != "" || len(f.Allow) != 0 || f.QuotaInodes != 0 || f.Deleted != nil ||
		f.PurgeAfter != nil || f.KeepSeconds != 0 || f.WaitedSeconds != 0 || f.ReadOnly) {
		return vfs.Errorf(vfs.KindNotSupported, op, "groups, networks and deletion of file systems need feature level %d", levelCluster)
	}
	if x.level < levelService && hasExportOptions(f) {
		return vfs.Errorf(vfs.KindNotSupported, op, "squash, groups and secure exports of file systems need feature level %d", levelService)
	}
	key := appendID32(nil, "f/", f.Id)
	var old metapb.FileSystem
	had, err := x.getRecord(key, &old)
	if err != nil {
		return err
	}
	switch {
	case had && sameFileSystem(&old, f):
		return nil // a repeated command
	case had && c.ExpectState == metapb.FileSystemState_FS_UNKNOWN:
		return vfs.Errorf(vfs.KindExists, op, "file system %d", f.Id)
	case old.State != c.ExpectState: // FS_UNKNOWN if there is none
		return vfs.Errorf(vfs.KindChanged, op, "file system %d is in state %d, not %d", f.Id, int32(old.State), int32(c.ExpectState))
	case had && (old.Shard != f.Shard || string(old.HashKey) != string(f.HashKey) || old.Kind != f.Kind):
		return vfs.Errorf(vfs.KindInvalid, op, "shard, kind and hash key of a file system never change")
	}
	if x.level >= levelCluster {
		f = f.CloneVT()
		if f.Version = old.Version + 1; !had {
			err = x.checkNewFileSystem(f, op)
		} else {
			err = checkFileSystemChange(&old, f, c.ExpectVersion, op)
		}
		if err != nil {
			return err
		}
		if _, err := x.next(counterKey{what: counterFSMap}); err != nil {
			return err
		}
	}
	if had && named(old.State) {
		x.del(appendNamed(nil, "F/", old.Workspace, []byte(old.Name)))
	}
	if named(f.State) {
		if err := x.claimName(f, op); err != nil {
			return err
		}
	}
	return x.setRecord(key, f)
}

// sameFileSystem compares all but the version, which the state machine keeps.
func sameFileSystem(a, b *metapb.FileSystem) bool {
	if a.Version == b.Version {
		return proto.Equal(a, b)
	}
	b = b.CloneVT()
	b.Version = a.Version
	return proto.Equal(a, b)
}

// claimName gives f its name.
func (x *call) claimName(f *metapb.FileSystem, op string) error {
	name := appendNamed(nil, "F/", f.Workspace, []byte(f.Name))
	if _, taken, err := x.get(name); err != nil {
		return err
	} else if taken {
		return vfs.Errorf(vfs.KindExists, op, "the name is taken in this workspace")
	}
	if x.level >= levelCluster {
		// /NAME and /WORKSPACE/NAME: one must not lie in the other.
		if f.Workspace == defaultWorkspace && f.Name != defaultWorkspace {
			inside := appendNamed(nil, "F/", f.Name, nil)
			if keys, _, err := x.firstKeys(inside, 1); err != nil {
				return err
			} else if len(keys) > 0 {
				return vfs.Errorf(vfs.KindExists, op, "%q is the name of a workspace: file systems in it have paths below /%s", f.Name, f.Name)
			}
		} else if f.Workspace != defaultWorkspace {
			if _, taken, err := x.get(appendNamed(nil, "F/", defaultWorkspace, []byte(f.Workspace))); err != nil {
				return err
			} else if taken {
				return vfs.Errorf(vfs.KindExists, op, "%q is the name of a file system in the workspace %s, whose path is /%s: choose another workspace", f.Workspace, defaultWorkspace, f.Workspace)
			}
		}
	}
	x.set(name, binary.BigEndian.AppendUint32(nil, f.Id))
	return nil
}

// nextFS is the lowest id that no file system has had.
func (x *call) nextFS() (uint64, error) {
	next, err := x.count(counterKey{what: counterFS})
	if err != nil {
		return 0, err
	}
	// Below level 4 nobody counted, and none went.
	err = x.scan([]byte("f/"), prefixEnd([]byte("f/")), func(k, _ []byte) bool {
		next = max(next, uint64(binary.BigEndian.Uint32(k[2:]))+1)
		return true
	})
	return max(next, 1), err
}

// checkNewFileSystem refuses what cannot be a new file system, and takes its id.
func (x *call) checkNewFileSystem(f *metapb.FileSystem, op string) error {
	next, err := x.nextFS()
	if err != nil {
		return err
	}
	if uint64(f.Id) != next {
		return vfs.Errorf(vfs.KindChanged, op, "the id of the next file system is %d, not %d", next, f.Id)
	}
	if f.State != metapb.FileSystemState_FS_CREATING && f.State != metapb.FileSystemState_FS_ACTIVE {
		return vfs.Errorf(vfs.KindInvalid, op, "a new file system is not deleted")
	}
	if err := x.needGroup(op, f.Group); err != nil {
		return err
	}
	if err := x.needWorkspace(f, op); err != nil {
		return err
	}
	if f.Kind != "local" {
		var p metapb.Pool
		if ok, err := x.getRecord(appendID32(nil, "p/", f.Pool), &p); err != nil {
			return err
		} else if !ok || p.Group != f.Group {
			return vfs.Errorf(vfs.KindNotFound, op, "there is no pool %d of group %q", f.Pool, f.Group)
		}
		if p.Retiring {
			return vfs.Errorf(vfs.KindBusy, op, "pool %s is being removed: try again when it is gone", p.Name)
		}
	}
	x.setCount(counterKey{what: counterFS}, next+1)
	return checkFileSystem(f, op)
}

// checkFileSystem refuses what is no record of level 4.
func checkFileSystem(f *metapb.FileSystem, op string) error {
	switch {
	case !slices.Contains([]string{"shared", "group", "local"}, f.Kind):
		return vfs.Errorf(vfs.KindInvalid, op, "kind %q: shared, group or local", f.Kind)
	case (f.Kind == "shared") != (f.Group == ""):
		return vfs.Errorf(vfs.KindInvalid, op, "a file system of kind %s with group %q", f.Kind, f.Group)
	case len(f.Group) > maxRecordName:
		return vfs.Errorf(vfs.KindInvalid, op, "a group's name of %d bytes", len(f.Group))
	case len(f.Allow) > maxAllow:
		return vfs.Errorf(vfs.KindTooMany, op, "%d networks, at most %d", len(f.Allow), maxAllow)
	case f.QuotaBytes > maxQuota || f.QuotaInodes > maxQuota:
		return vfs.Errorf(vfs.KindInvalid, op, "a limit is at most %d; 0 is none", uint64(maxQuota))
	case f.KeepSeconds > maxKeepSeconds || f.WaitedSeconds > maxKeepSeconds:
		return vfs.Errorf(vfs.KindInvalid, op, "a deleted file system is kept for at most %d seconds", uint64(maxKeepSeconds))
	}
	for _, n := range f.Allow {
		if _, err := netip.ParsePrefix(n); err != nil {
			return vfs.Errorf(vfs.KindInvalid, op, "%q is no network", n)
		}
	}
	if f.State != metapb.FileSystemState_FS_DELETED && (f.Deleted != nil || f.PurgeAfter != nil || f.KeepSeconds != 0 || f.WaitedSeconds != 0) {
		return vfs.Errorf(vfs.KindInvalid, op, "a file system that is not deleted has no time of deletion")
	}
	if err := checkTime(f.Deleted); err != nil {
		return err
	}
	if err := checkTime(f.PurgeAfter); err != nil {
		return err
	}
	return checkExportOptions(f, op)
}

func checkFileSystemChange(old, f *metapb.FileSystem, expect uint64, op string) error {
	const (
		creating = metapb.FileSystemState_FS_CREATING
		active   = metapb.FileSystemState_FS_ACTIVE
		deleted  = metapb.FileSystemState_FS_DELETED
		purging  = metapb.FileSystemState_FS_PURGING
	)
	if old.State != creating && old.Version != expect {
		return vfs.Errorf(vfs.KindChanged, op, "file system %d is at version %d, not %d: look at it again", f.Id, old.Version, expect)
	}
	ok := false
	switch old.State {
	case creating:
		ok = f.State == active || f.State == purging
	case active:
		ok = f.State == active || f.State == deleted
	case deleted:
		ok = f.State == deleted || f.State == active || f.State == purging
	}
	if !ok {
		return vfs.Errorf(vfs.KindInvalid, op, "state %d does not follow on %d", int32(f.State), int32(old.State))
	}
	if old.Pool != f.Pool || old.Group != f.Group || old.Workspace != f.Workspace {
		return vfs.Errorf(vfs.KindInvalid, op, "pool, group and workspace of a file system never change")
	}
	return checkFileSystem(f, op)
}

// removeFileSystem ends the record of a file system of which nothing is left.
func (x *call) removeFileSystem(c *metapb.RemoveFileSystem) error {
	const op = "filesystem.remove"
	key := appendID32(nil, "f/", c.Id)
	var old metapb.FileSystem
	had, err := x.getRecord(key, &old)
	if err != nil || !had {
		return err
	}
	if old.State != metapb.FileSystemState_FS_PURGING {
		return vfs.Errorf(vfs.KindChanged, op, "file system %d is in state %d", c.Id, int32(old.State))
	}
	next, err := x.nextFS()
	if err != nil {
		return err
	}
	x.setCount(counterKey{what: counterFS}, next)
	if _, err := x.next(counterKey{what: counterFSMap}); err != nil {
		return err
	}
	x.del(key)
	return x.endGroup(old.Group)
}

func (r *reader) fileSystems(q *metapb.FileSystemsQ) (*metapb.QueryResult, error) {
	version, err := r.count(counterKey{what: counterFSMap})
	if err != nil {
		return nil, err
	}
	res := &metapb.FileSystemsR{Version: version}
	if version != 0 && version == q.GetKnownVersion() {
		res.Unchanged = true
	} else {
		res.FileSystems, err = all(r, []byte("f/"), func() *metapb.FileSystem { return new(metapb.FileSystem) })
		if err == nil {
			res.Workspaces, err = all(r, []byte(workspacePrefix), func() *metapb.Workspace { return new(metapb.Workspace) })
		}
	}
	if err != nil {
		return nil, err
	}
	if version != 0 {
		next, err := r.count(counterKey{what: counterFS})
		if err != nil {
			return nil, err
		}
		for _, f := range res.FileSystems {
			next = max(next, uint64(f.Id)+1)
		}
		res.NextId = uint32(next)
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_FileSystems{FileSystems: res}}, nil
}
