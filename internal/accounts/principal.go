package accounts

import (
	"context"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Role is what somebody may do. Each role includes those before it.
type Role uint8

const (
	NoRole Role = iota
	Viewer      // reads
	Editor      // writes files
	Admin       // manages
)

var roleNames = []string{"none", "viewer", "editor", "admin"}

func (r Role) String() string { return roleNames[min(int(r), len(roleNames)-1)] }

// ParseRole reads the name of a role.
func ParseRole(s string) (Role, error) {
	if i := slices.Index(roleNames, s); i > 0 {
		return Role(i), nil
	}
	return NoRole, vfs.Errorf(vfs.KindInvalid, "role", "%q: use viewer, editor or admin", s)
}

// Place is what an operation is about: the whole cluster if it names nothing, else a workspace, a file system of it, or a path in that. As a scope it is that
// and everything in it.
type Place struct{ Workspace, FileSystem, Path string }

func (p Place) String() string {
	switch {
	case p.Workspace == "":
		return "the whole cluster"
	case p.FileSystem == "":
		return "workspace " + p.Workspace
	case p.Path == "":
		return "file system " + p.Workspace + "/" + p.FileSystem
	}
	return p.Workspace + "/" + p.FileSystem + ":" + p.Path
}

// Spec is p as ParsePlace reads it.
func (p Place) Spec() string {
	s := p.Workspace
	if p.FileSystem != "" {
		s += "/" + p.FileSystem
	}
	if p.Path != "" {
		s += ":" + p.Path
	}
	return s
}

// Covers reports whether q is p or in it.
func (p Place) Covers(q Place) bool {
	switch {
	case p.Workspace == "":
		return true
	case p.Workspace != q.Workspace:
		return false
	case p.FileSystem == "":
		return true
	case p.FileSystem != q.FileSystem:
		return false
	}
	return p.Path == "" || p.Path == "/" || q.Path == p.Path || strings.HasPrefix(q.Path, p.Path+"/")
}

// ParsePlace reads WORKSPACE, WORKSPACE/FS or WORKSPACE/FS:/PATH.
func ParsePlace(s string) (p Place, err error) {
	var slash bool
	head, path, has := strings.Cut(s, ":")
	p.Workspace, p.FileSystem, slash = strings.Cut(head, "/")
	if slash && p.Workspace != "" && p.FileSystem == "" { // from a variable that is not set, say: the whole workspace was not meant
		return Place{}, vfs.Errorf(vfs.KindInvalid, "scope", "%q: the file system after the '/' is missing; for all of the workspace write %s", s, p.Workspace)
	}
	if p.Workspace == "" || strings.Contains(p.FileSystem, "/") || has && (p.FileSystem == "" || !strings.HasPrefix(path, "/")) {
		return Place{}, vfs.Errorf(vfs.KindInvalid, "scope", "%q: write WORKSPACE, WORKSPACE/FILESYSTEM or WORKSPACE/FILESYSTEM:/PATH", s)
	}
	if path != "/" {
		p.Path = strings.TrimSuffix(path, "/")
	}
	return p, nil
}

// Principal is who calls.
type Principal struct {
	Token  string // id of the token; empty: the operator, who opened the socket
	Name   string
	Role   Role
	Scopes []Place // none: everything
	UID    uint32
	GID    uint32
}

// Operator is whoever may open the socket of a data directory.
func Operator() *Principal { return &Principal{Name: "operator", Role: Admin} }

// Everywhere reports whether no scopes limit p.
func (p *Principal) Everywhere() bool { return len(p.Scopes) == 0 }

// Cred is as whom p acts in file systems.
func (p *Principal) Cred() vfs.Cred { return vfs.Cred{UID: p.UID, GID: p.GID} }

// covers reports whether all of a place is p's.
func (p *Principal) covers(at Place) bool {
	return p.Everywhere() || slices.ContainsFunc(p.Scopes, func(s Place) bool { return s.Covers(at) })
}

// Sees reports whether something in a place, or all of it, is p's.
func (p *Principal) Sees(at Place) bool {
	return p.covers(at) || slices.ContainsFunc(p.Scopes, at.Covers)
}

// May refuses what p may not do at a place.
func (p *Principal) May(need Role, at Place) error { return p.may(need, at, p.covers) }

// MaySee is May for what is told to everybody who has a part of the place.
func (p *Principal) MaySee(need Role, at Place) error { return p.may(need, at, p.Sees) }

func (p *Principal) may(need Role, at Place, in func(Place) bool) error {
	const op = "access"
	if !in(at) {
		return vfs.Errorf(vfs.KindPerm, op, "token %q is not for %s: its scopes are %s", p.Name, at, p.where())
	}
	if p.Role < need {
		return vfs.Errorf(vfs.KindPerm, op, "token %q has the role %s, this needs %s", p.Name, p.Role, need)
	}
	return nil
}

func (p *Principal) where() string {
	var parts []string
	for _, s := range p.Scopes {
		parts = append(parts, s.String())
	}
	return strings.Join(parts, ", ")
}

type principalKey struct{}

// With is ctx of a call by p.
func With(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// Of is who calls; somebody who may do nothing if nobody said.
func Of(ctx context.Context) *Principal {
	if p, ok := ctx.Value(principalKey{}).(*Principal); ok {
		return p
	}
	return &Principal{Name: "nobody", Scopes: []Place{{Workspace: "\x00"}}}
}

func principalOf(t *metapb.AccessToken) (*Principal, error) {
	role, err := ParseRole(t.Role)
	if err != nil {
		return nil, err
	}
	p := &Principal{Token: t.Id, Name: t.Name, Role: role, UID: t.Uid, GID: t.Gid}
	for _, s := range t.Scopes {
		p.Scopes = append(p.Scopes, Place{s.Workspace, s.FileSystem, string(s.Path)})
	}
	return p, nil
}
