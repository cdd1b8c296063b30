package accounts

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Features that an operator can switch off for a workspace. All are on at first.
const (
	FeatureSync   = "rsync"             // transfers that send only what differs
	FeatureGroups = "group-filesystems" // file systems on a node group
	FeatureImport = "cloud-import"      // from S3 and its kin
)

// Features are all of them.
var Features = []string{FeatureImport, FeatureGroups, FeatureSync}

const (
	workspaceTries = 8 // of a change whose record somebody else changes meanwhile
	maxNetworks    = 256
)

var goodWorkspace = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

// Settings of a workspace.
type Settings struct {
	Networks []string // of its NFS clients; none: any
	Off      []string // features
}

func (s *Settings) check(op string) error {
	if len(s.Networks) > maxNetworks {
		return vfs.Errorf(vfs.KindTooMany, op, "%d networks, at most %d", len(s.Networks), maxNetworks)
	}
	nets := make([]string, 0, len(s.Networks))
	for _, n := range s.Networks {
		p, err := filesystem.ParseNetwork(n)
		if err != nil {
			return vfs.Errorf(vfs.KindInvalid, op, "%q is no network: write 10.1.0.0/16, or an address", n)
		}
		nets = append(nets, p.String())
	}
	slices.Sort(nets)
	s.Networks = slices.Compact(nets)
	for _, f := range s.Off {
		if !slices.Contains(Features, f) {
			return vfs.Errorf(vfs.KindInvalid, op, "there is no feature %q: %s", f, strings.Join(Features, ", "))
		}
	}
	off := slices.Clone(s.Off)
	slices.Sort(off)
	s.Off = slices.Compact(off)
	return nil
}

// Workspaces lists those of which p sees something.
func Workspaces(ctx context.Context, meta Meta, p *Principal) (out []*metapb.Workspace, err error) {
	r, err := meta.Query(ctx, clusterShard, &metapb.Query{Q: &metapb.Query_Workspaces{Workspaces: &metapb.WorkspacesQ{}}})
	if err != nil {
		return nil, vfs.Wrap("list workspaces", err)
	}
	for _, w := range r.GetWorkspaces().GetWorkspaces() {
		if p.Sees(Place{Workspace: w.Name}) {
			out = append(out, w)
		}
	}
	return out, nil
}

// FindWorkspace returns one.
func FindWorkspace(ctx context.Context, meta Meta, name string) (*metapb.Workspace, error) {
	list, err := Workspaces(ctx, meta, Operator())
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(list, func(w *metapb.Workspace) bool { return w.Name == name }); i >= 0 {
		return list[i], nil
	}
	return nil, vfs.Errorf(vfs.KindNotFound, "workspace", "there is no workspace %q: `rackfs workspace list` shows them", name)
}

// Allows refuses a feature that is off in a workspace.
func Allows(ctx context.Context, meta Meta, workspace, feature string) error {
	w, err := FindWorkspace(ctx, meta, cmp.Or(workspace, filesystem.DefaultWorkspace))
	if vfs.KindOf(err) == vfs.KindNotFound {
		return nil // nobody has switched anything off in it
	}
	if err != nil {
		return err
	}
	if slices.Contains(w.Off, feature) {
		return vfs.Errorf(vfs.KindPerm, "feature", "%s is switched off in the workspace %s: an operator switches it on with `rackfs workspace set %s --on %s`", feature, w.Name, w.Name, feature)
	}
	return nil
}

// CreateWorkspace makes one.
func CreateWorkspace(ctx context.Context, meta Meta, name string, s Settings) (*metapb.Workspace, error) {
	const op = "create workspace"
	if !goodWorkspace.MatchString(name) {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "name %q: use letters, digits, '-', '_' and '.', at most 63 of them, the first a letter or a digit", name)
	}
	if err := s.check(op); err != nil {
		return nil, err
	}
	return putWorkspace(ctx, meta, op, &metapb.Workspace{Name: name, Networks: s.Networks, Off: s.Off}, 0)
}

// ChangeWorkspace changes the settings of one.
func ChangeWorkspace(ctx context.Context, meta Meta, name string, edit func(*Settings)) (*metapb.Workspace, error) {
	const op = "change workspace"
	for try := 1; ; try++ {
		w, err := FindWorkspace(ctx, meta, name)
		if err != nil {
			return nil, vfs.Wrap(op, err)
		}
		s := Settings{Networks: w.Networks, Off: w.Off}
		edit(&s)
		if err := s.check(op); err != nil {
			return nil, err
		}
		if slices.Equal(s.Networks, w.Networks) && slices.Equal(s.Off, w.Off) {
			return w, nil
		}
		w.Networks, w.Off = s.Networks, s.Off
		w, err = putWorkspace(ctx, meta, op, w, w.Version)
		if err == nil || vfs.KindOf(err) != vfs.KindChanged || try == workspaceTries {
			return w, err
		}
	}
}

// DeleteWorkspace ends one that has no file systems.
func DeleteWorkspace(ctx context.Context, meta Meta, name string) error {
	const op = "delete workspace"
	if _, err := FindWorkspace(ctx, meta, name); err != nil {
		return vfs.Wrap(op, err)
	}
	_, err := meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_RemoveWorkspace{RemoveWorkspace: &metapb.RemoveWorkspace{Name: name}}})
	return vfs.Wrap(op, err)
}

func putWorkspace(ctx context.Context, meta Meta, op string, w *metapb.Workspace, version uint64) (*metapb.Workspace, error) {
	r, err := meta.Apply(ctx, clusterShard, &metapb.Command{Op: &metapb.Command_PutWorkspace{PutWorkspace: &metapb.PutWorkspace{Workspace: w, ExpectVersion: version}}})
	return r.GetWorkspace().GetWorkspace(), vfs.Wrap(op, err)
}
