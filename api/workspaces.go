package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// Workspace is a set of file systems with those who use them.
type Workspace struct {
	Name     string          `json:"name"`
	Created  time.Time       `json:"created"`
	Networks []string        `json:"networks" doc:"Of its NFS clients; none: those that the gateways allow"`
	Features map[string]bool `json:"features" doc:"Whether each is on"`
}

// Workspaces is the answer to a list.
type Workspaces struct {
	Workspaces []Workspace `json:"workspaces"`
}

// NewWorkspace says what a workspace is to be.
type NewWorkspace struct {
	Name     string          `json:"name"`
	Networks []string        `json:"networks,omitempty" maxItems:"256"`
	Features map[string]bool `json:"features,omitempty" doc:"Those that are not named are on: rsync, group-filesystems, cloud-import"`
}

// WorkspaceChange says what is to be another of a workspace; what is absent stays.
type WorkspaceChange struct {
	Networks *[]string       `json:"networks,omitempty" maxItems:"256"`
	Features map[string]bool `json:"features,omitempty"`
}

type workspaceOutput struct{ Body Workspace }

type workspaceInput struct {
	Workspace string `path:"workspace"`
}

func workspaceOf(w *metapb.Workspace) Workspace {
	out := Workspace{Name: w.Name, Created: instant(w.Created), Networks: w.Networks, Features: map[string]bool{}}
	if out.Networks == nil {
		out.Networks = []string{}
	}
	for _, f := range accounts.Features {
		out.Features[f] = !slices.Contains(w.Off, f)
	}
	return out
}

func (a *API) workspaces() {
	handle(a, "GET /workspaces", "list-workspaces", "List the workspaces", func(ctx context.Context, _ *struct{}) (*struct{ Body Workspaces }, error) {
		list, err := accounts.Workspaces(ctx, a.opt.Meta, accounts.Of(ctx))
		if err != nil {
			return nil, err
		}
		out := &struct{ Body Workspaces }{Workspaces{[]Workspace{}}}
		for _, w := range list {
			out.Body.Workspaces = append(out.Body.Workspaces, workspaceOf(w))
		}
		return out, nil
	})
	handle(a, "POST /workspaces", "create-workspace", "Create a workspace", func(ctx context.Context, in *struct{ Body NewWorkspace }) (*workspaceOutput, error) {
		s := accounts.Settings{Networks: in.Body.Networks}
		switchFeatures(&s, in.Body.Features)
		w, err := accounts.CreateWorkspace(ctx, a.opt.Meta, in.Body.Name, s)
		if err != nil {
			return nil, err
		}
		return &workspaceOutput{workspaceOf(w)}, nil
	})
	const one = "/workspaces/{workspace}"
	handle(a, "GET "+one, "show-workspace", "Show a workspace", func(ctx context.Context, in *workspaceInput) (*workspaceOutput, error) {
		w, err := accounts.FindWorkspace(ctx, a.opt.Meta, in.Workspace)
		if err != nil {
			return nil, err
		}
		return &workspaceOutput{workspaceOf(w)}, nil
	})
	handle(a, "PATCH "+one, "change-workspace", "Change networks and features of a workspace", func(ctx context.Context, in *struct {
		Workspace string `path:"workspace"`
		Body      WorkspaceChange
	}) (*workspaceOutput, error) {
		w, err := accounts.ChangeWorkspace(ctx, a.opt.Meta, in.Workspace, func(s *accounts.Settings) {
			set(&s.Networks, in.Body.Networks)
			switchFeatures(s, in.Body.Features)
		})
		if err != nil {
			return nil, err
		}
		return &workspaceOutput{workspaceOf(w)}, nil
	})
	handle(a, "DELETE "+one, "delete-workspace", "Delete a workspace that has no file systems, and what tokens may do in it", func(ctx context.Context, in *workspaceInput) (*struct{}, error) {
		return nil, accounts.DeleteWorkspace(ctx, a.opt.Meta, in.Workspace)
	})
}

func switchFeatures(s *accounts.Settings, on map[string]bool) {
	off := slices.Clone(s.Off)
	for f, is := range on {
		off = slices.DeleteFunc(off, func(o string) bool { return o == f })
		if !is {
			off = append(off, f)
		}
	}
	slices.Sort(off)
	s.Off = off
}

func workspacePath(name string) string { return "/workspaces/" + url.PathEscape(name) }

// Workspaces lists the workspaces.
func (c *Client) Workspaces(ctx context.Context) ([]Workspace, error) {
	var out Workspaces
	err := c.call(ctx, http.MethodGet, "/workspaces", nil, &out)
	return out.Workspaces, err
}

// CreateWorkspace creates one.
func (c *Client) CreateWorkspace(ctx context.Context, n NewWorkspace) (out Workspace, err error) {
	err = c.call(ctx, http.MethodPost, "/workspaces", n, &out)
	return out, err
}

// Workspace shows one.
func (c *Client) Workspace(ctx context.Context, name string) (out Workspace, err error) {
	err = c.call(ctx, http.MethodGet, workspacePath(name), nil, &out)
	return out, err
}

// ChangeWorkspace changes one.
func (c *Client) ChangeWorkspace(ctx context.Context, name string, ch WorkspaceChange) (out Workspace, err error) {
	err = c.call(ctx, http.MethodPatch, workspacePath(name), ch, &out)
	return out, err
}

// DeleteWorkspace deletes one.
func (c *Client) DeleteWorkspace(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, workspacePath(name), nil, nil)
}
