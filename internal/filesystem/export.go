package filesystem

import (
	"context"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Squash says whose identity gateways replace by the anonymous one.
type Squash string

// All values of Squash.
const (
	SquashDefault Squash = ""     // as the gateways are configured
	SquashNone    Squash = "none" // nobody's
	SquashRoot    Squash = "root" // root's
	SquashAll     Squash = "all"  // everybody's
)

var squashes = map[Squash]metapb.Squash{
	SquashDefault: metapb.Squash_SQUASH_DEFAULT, SquashNone: metapb.Squash_SQUASH_NONE,
	SquashRoot: metapb.Squash_SQUASH_ROOT, SquashAll: metapb.Squash_SQUASH_ALL,
}

func squashOf(s metapb.Squash) Squash {
	for text, v := range squashes {
		if v == s {
			return text
		}
	}
	return SquashDefault
}

// maxGroups bounds the groups of a file system, maxExports its secure exports.
const (
	maxGroups  = 256
	maxExports = 64
)

func (s *Settings) checkExport(op string) error {
	if s.Squash == "default" {
		s.Squash = SquashDefault
	}
	if _, ok := squashes[s.Squash]; !ok {
		return vfs.Errorf(vfs.KindInvalid, op, "squash %q: use none, root, all or default", s.Squash)
	}
	if len(s.Groups) > maxGroups {
		return vfs.Errorf(vfs.KindTooMany, op, "%d groups, at most %d", len(s.Groups), maxGroups)
	}
	s.Groups = slices.Compact(slices.Sorted(slices.Values(s.Groups)))
	return nil
}

// exportLevel is the feature level whose records have what is below.
const exportLevel = 5

// mayHave refuses what the feature level of shard 0 does not have, before it is proposed: a voter of an earlier release would not know that it does not
// know it, and would differ from the others.
func mayHave(ctx context.Context, meta Meta, fs *metapb.FileSystem) error {
	if fs.Squash == 0 && fs.AnonUid == 0 && fs.AnonGid == 0 && len(fs.Groups) == 0 && len(fs.Exports) == 0 {
		return nil
	}
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_ShardInfo{ShardInfo: &metapb.ShardInfoQ{}}})
	if err != nil {
		return err
	}
	if level := r.GetShardInfo().GetLevel(); level < exportLevel {
		return vfs.Errorf(vfs.KindNotSupported, "file system", "squash, groups and secure exports need feature level %d, and the cluster is at %d: `rackfs cluster upgrade-level` raises it once all voters run this release", exportLevel, level)
	}
	return nil
}

// NewExport says which directory is to be exported by itself, and to whom.
type NewExport struct {
	Path     string   // "/a/b"
	Allow    []string // networks; none: those of the file system
	ReadOnly bool
}

// CreateExport exports the directory of a project by itself. A directory that does not exist is made, one without a project gets one.
func CreateExport(ctx context.Context, meta Files, who, workspace, name string, n NewExport) (*metapb.SecureExport, error) {
	const op = "create export"
	allow, err := networks(n.Allow, op)
	if err != nil {
		return nil, err
	}
	fs, err := Find(ctx, meta, workspace, name)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	switch {
	case fs.State != metapb.FileSystemState_FS_ACTIVE:
		return nil, wrongState(fs, op, "active")
	case fs.Kind == Local:
		return nil, vfs.Errorf(vfs.KindNotSupported, op, "%s is of kind local, and such a file system is mounted whole", fs.Name)
	case len(fs.Exports) >= maxExports:
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%s has %d secure exports already, the most that there can be", fs.Name, len(fs.Exports))
	}
	if err := mayHave(ctx, meta, &metapb.FileSystem{Exports: []*metapb.SecureExport{{}}}); err != nil {
		return nil, err // before a directory is made
	}
	p, err := MakeProject(ctx, meta, who, fs, n.Path)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	e := &metapb.SecureExport{Path: n.Path, Dir: uint64(p.Dir), Project: p.ID, Allow: allow, ReadOnly: n.ReadOnly}
	_, err = update(ctx, meta, workspace, name, op, func(fs *metapb.FileSystem) error {
		for _, old := range fs.Exports {
			if old.Path == e.Path && old.Dir == e.Dir {
				return vfs.Errorf(vfs.KindExists, op, "%s:%s is exported already: delete that export first to change it", name, e.Path)
			}
			if old.Path == e.Path || old.Dir == e.Dir {
				return vfs.Errorf(vfs.KindExists, op, "directory %d is exported as %s:%s already: delete that export first", old.Dir, name, old.Path)
			}
		}
		fs.Exports = append(fs.Exports, e)
		slices.SortFunc(fs.Exports, func(a, b *metapb.SecureExport) int { return strings.Compare(a.Path, b.Path) })
		return nil
	})
	return e, err
}

// DeleteExport ends an export. Its directory stays, with its project.
func DeleteExport(ctx context.Context, meta Meta, workspace, name, path string) error {
	const op = "delete export"
	_, err := update(ctx, meta, workspace, name, op, func(fs *metapb.FileSystem) error {
		before := len(fs.Exports)
		fs.Exports = slices.DeleteFunc(fs.Exports, func(e *metapb.SecureExport) bool { return e.Path == path })
		if len(fs.Exports) == before {
			return vfs.Errorf(vfs.KindNotFound, op, "%s has no secure export %q: `rackfs fs export list %s` shows them", name, path, name)
		}
		return nil
	})
	return err
}
