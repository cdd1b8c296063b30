package fsm

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of what a file system's record says about its exports, from level 5.
const (
	maxExports      = 64   // secure exports of a file system
	maxExportAllow  = 64   // networks of one
	maxExportPath   = 1024 // bytes
	maxExportGroups = 256
)

// hasExportOptions reports whether a record says something of exports that came with level 5.
func hasExportOptions(f *metapb.FileSystem) bool {
	return f.Squash != 0 || f.AnonUid != 0 || f.AnonGid != 0 || len(f.Groups) != 0 || len(f.Exports) != 0
}

// checkExportOptions refuses what is no record of level 5.
func checkExportOptions(f *metapb.FileSystem, op string) error {
	if f.Squash < metapb.Squash_SQUASH_DEFAULT || f.Squash > metapb.Squash_SQUASH_ALL {
		return vfs.Errorf(vfs.KindInvalid, op, "squash %d", int32(f.Squash))
	}
	if len(f.Groups) > maxExportGroups {
		return vfs.Errorf(vfs.KindTooMany, op, "%d groups, at most %d", len(f.Groups), maxExportGroups)
	}
	for i, g := range f.Groups {
		if i > 0 && g <= f.Groups[i-1] {
			return vfs.Errorf(vfs.KindInvalid, op, "groups are not ascending")
		}
	}
	if len(f.Exports) > maxExports {
		return vfs.Errorf(vfs.KindTooMany, op, "%d secure exports, at most %d", len(f.Exports), maxExports)
	}
	for i, e := range f.Exports {
		if err := checkExport(e, op); err != nil {
			return err
		}
		if i > 0 && e.Path <= f.Exports[i-1].Path {
			return vfs.Errorf(vfs.KindInvalid, op, "exports are not in the order of their paths")
		}
		if slices.ContainsFunc(f.Exports[:i], func(o *metapb.SecureExport) bool { return o.Dir == e.Dir || o.Project == e.Project }) {
			return vfs.Errorf(vfs.KindInvalid, op, "directory %d, of project %d, is exported twice", e.Dir, e.Project)
		}
	}
	return nil
}

func checkExport(e *metapb.SecureExport, op string) error {
	rest, ok := strings.CutPrefix(e.GetPath(), "/")
	if !ok || len(rest) >= maxExportPath {
		return vfs.Errorf(vfs.KindInvalid, op, "export path %.64q", e.GetPath())
	}
	for part := range strings.SplitSeq(rest, "/") {
		if vfs.CheckName(part, op) != nil {
			return vfs.Errorf(vfs.KindInvalid, op, "export path %.64q has a part that cannot be a name", e.Path)
		}
	}
	if e.Dir <= uint64(vfs.RootIno) || e.Project == 0 {
		return vfs.Errorf(vfs.KindInvalid, op, "a secure export is of a project's directory")
	}
	if len(e.Allow) > maxExportAllow {
		return vfs.Errorf(vfs.KindTooMany, op, "%d networks of an export, at most %d", len(e.Allow), maxExportAllow)
	}
	for _, n := range e.Allow {
		if _, err := netip.ParsePrefix(n); err != nil {
			return vfs.Errorf(vfs.KindInvalid, op, "%q is no network", n)
		}
	}
	return nil
}
