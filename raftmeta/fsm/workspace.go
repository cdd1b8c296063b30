package fsm

import (
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of workspaces.
const (
	maxWorkspaces = 4096
	maxFeatures   = 16 // that are off
)

const workspacePrefix = "j/w/"

func appendWorkspace(name string) []byte { return append([]byte(workspacePrefix), name...) }

// runService runs what belongs to accounts, jobs and uploads.
func (x *call) runService(c *metapb.Command) (*metapb.Result, error) {
	var err error
	switch op := c.Op.(type) {
	case *metapb.Command_PutWorkspace:
		return x.putWorkspace(op.PutWorkspace)
	case *metapb.Command_PutJob:
		return x.putJob(op.PutJob)
	case *metapb.Command_TakeJob:
		return x.takeJob(op.TakeJob)
	case *metapb.Command_RemoveWorkspace:
		err = x.removeWorkspace(op.RemoveWorkspace)
	case *metapb.Command_PutAccessToken:
		err = x.putAccessToken(op.PutAccessToken)
	case *metapb.Command_RemoveAccessToken:
		err = x.removeAccessToken(op.RemoveAccessToken)
	case *metapb.Command_PutUpload:
		err = x.putUpload(op.PutUpload)
	case *metapb.Command_RemoveUpload:
		err = x.removeUpload(op.RemoveUpload)
	default:
		return x.runClients(c)
	}
	if err != nil {
		return nil, err
	}
	return &metapb.Result{}, nil
}

func workspaceResult(w *metapb.Workspace) *metapb.Result {
	return &metapb.Result{Of: &metapb.Result_Workspace{Workspace: &metapb.WorkspaceResult{Workspace: w}}}
}

func (x *call) putWorkspace(c *metapb.PutWorkspace) (*metapb.Result, error) {
	const op = "workspace.put"
	w := c.Workspace.CloneVT()
	if w == nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "no workspace")
	}
	if err := checkRecordName(op, "workspace", w.Name); err != nil {
		return nil, err
	}
	if len(w.Networks) > maxAllow || len(w.Off) > maxFeatures {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d networks and %d features, at most %d and %d", len(w.Networks), len(w.Off), maxAllow, maxFeatures)
	}
	for _, n := range w.Networks {
		if _, err := netip.ParsePrefix(n); err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "%q is no network", n)
		}
	}
	for _, f := range w.Off {
		if err := checkRecordName(op, "feature", f); err != nil {
			return nil, err
		}
	}
	var old metapb.Workspace
	had, err := x.getRecord(appendWorkspace(w.Name), &old)
	if err != nil {
		return nil, err
	}
	w.Version, w.Created = old.Version, old.Created
	switch {
	case had && old.Version == c.ExpectVersion+1 && proto.Equal(&old, w):
		return workspaceResult(&old), nil // a repeated command
	case had && c.ExpectVersion == 0:
		return nil, vfs.Errorf(vfs.KindExists, op, "there is a workspace %s already", w.Name)
	case old.Version != c.ExpectVersion:
		return nil, vfs.Errorf(vfs.KindChanged, op, "workspace %s is at version %d, not %d: look at it again", w.Name, old.Version, c.ExpectVersion)
	}
	if !had {
		if err := x.newWorkspace(w.Name, op); err != nil {
			return nil, err
		}
		w.Created = x.wire
	}
	w.Version++
	if _, err := x.next(counterKey{what: counterFSMap}); err != nil {
		return nil, err
	}
	return workspaceResult(w), x.setRecord(appendWorkspace(w.Name), w)
}

// newWorkspace refuses a workspace that there is no room for, or whose path is taken.
func (x *call) newWorkspace(name, op string) error {
	n := 0
	if err := x.scan([]byte(workspacePrefix), prefixEnd([]byte(workspacePrefix)), func(_, _ []byte) bool { n++; return true }); err != nil {
		return err
	}
	if n >= maxWorkspaces {
		return vfs.Errorf(vfs.KindTooMany, op, "there are %d workspaces already", n)
	}
	if name == defaultWorkspace {
		return nil
	}
	if _, taken, err := x.get(appendNamed(nil, "F/", defaultWorkspace, []byte(name))); err != nil {
		return err
	} else if taken {
		return vfs.Errorf(vfs.KindExists, op, "%q is the name of a file system in the workspace %s, whose path is /%s: choose another name", name, defaultWorkspace, name)
	}
	return nil
}

func (x *call) removeWorkspace(c *metapb.RemoveWorkspace) error {
	const op = "workspace.remove"
	if c.Name == defaultWorkspace {
		return vfs.Errorf(vfs.KindPerm, op, "the workspace %s stays", c.Name)
	}
	_, had, err := x.get(appendWorkspace(c.Name))
	if err != nil || !had {
		return err
	}
	users, err := records(x, "f/", func(f *metapb.FileSystem) bool { return f.Workspace == c.Name && named(f.State) })
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return vfs.Errorf(vfs.KindBusy, op, "workspace %s has %d file systems, such as %s, deleted ones that can be brought back included: end them first", c.Name, len(users), users[0].Name)
	}
	// A workspace that is made later under the name is another one: nobody has a way in yet.
	tokens, err := records(x, accessTokenPrefix, func(t *metapb.AccessToken) bool {
		return slices.ContainsFunc(t.Scopes, func(s *metapb.AccessScope) bool { return s.Workspace == c.Name })
	})
	if err != nil {
		return err
	}
	for _, t := range tokens {
		t.Scopes = slices.DeleteFunc(t.Scopes, func(s *metapb.AccessScope) bool { return s.Workspace == c.Name })
		if len(t.Scopes) == 0 { // none would be the whole cluster
			x.del(appendAccessToken(t.Hash))
		} else if err := x.setRecord(appendAccessToken(t.Hash), t); err != nil {
			return err
		}
	}
	x.del(appendWorkspace(c.Name))
	_, err = x.next(counterKey{what: counterFSMap})
	return err
}

// beginService makes the records of the workspaces that file systems are in already.
func (x *call) beginService() error {
	if x.opts.Shard != 0 {
		return nil
	}
	systems, err := records(x, "f/", func(f *metapb.FileSystem) bool { return named(f.State) })
	if err != nil {
		return err
	}
	names := []string{defaultWorkspace}
	for _, f := range systems {
		names = append(names, f.Workspace)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err := x.setRecord(appendWorkspace(name), &metapb.Workspace{Name: name, Version: 1, Created: x.wire}); err != nil {
			return err
		}
	}
	_, err = x.next(counterKey{what: counterFSMap})
	return err
}

// needWorkspace refuses a file system in a workspace that there is not, or with the path of one.
func (x *call) needWorkspace(f *metapb.FileSystem, op string) error {
	if x.level < levelService {
		return nil
	}
	if _, had, err := x.get(appendWorkspace(f.Workspace)); err != nil {
		return err
	} else if !had {
		return vfs.Errorf(vfs.KindNotFound, op, "there is no workspace %.80q: make it with `rackfs workspace create`", f.Workspace)
	}
	if f.Workspace != defaultWorkspace || f.Name == defaultWorkspace {
		return nil
	}
	if _, taken, err := x.get(appendWorkspace(f.Name)); err != nil {
		return err
	} else if taken {
		return vfs.Errorf(vfs.KindExists, op, "%q is the name of a workspace: file systems in it have paths below /%s", f.Name, f.Name)
	}
	return nil
}

func (r *reader) workspaces() (*metapb.QueryResult, error) {
	list, err := all(r, []byte(workspacePrefix), func() *metapb.Workspace { return new(metapb.Workspace) })
	return &metapb.QueryResult{R: &metapb.QueryResult_Workspaces{Workspaces: &metapb.WorkspacesR{Workspaces: list}}}, err
}
