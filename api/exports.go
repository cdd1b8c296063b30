package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Export is a secure export: the directory of a project that is offered by itself, and that who mounts it cannot leave.
type Export struct {
	Path      string   `json:"path" doc:"Below the file system's root, where the directory was when it was exported"`
	Mount     string   `json:"mount" doc:"Under which gateways export it"`
	Directory uint64   `json:"directory" doc:"Inode number"`
	Project   uint32   `json:"project"`
	Allow     []string `json:"allow,omitempty" doc:"Networks that may mount it; none: those of the file system"`
	ReadOnly  bool     `json:"read_only,omitempty"`
}

// NewExport says which directory is to be exported by itself.
type NewExport struct {
	Path     string   `json:"path" doc:"Such as /team. A directory that does not exist is made; one that belongs to no project has to be empty"`
	Allow    []string `json:"allow,omitempty"`
	ReadOnly bool     `json:"read_only,omitempty"`
}

// Exports is the answer to a list.
type Exports struct {
	Exports []Export `json:"exports"`
}

// Quota is what a file system or a project directory uses and may use.
type Quota struct {
	Project       uint32 `json:"project" doc:"0: the whole file system"`
	Path          string `json:"path,omitempty" doc:"Of the project's directory; absent if it is not known"`
	Directory     uint64 `json:"directory,omitempty" doc:"Inode number"`
	UsedBytes     uint64 `json:"used_bytes" doc:"Before coding"`
	UsedInodes    uint64 `json:"used_inodes"`
	ReservedBytes uint64 `json:"reserved_bytes,omitempty" doc:"What gateways hold for writes that are under way"`
	LimitBytes    uint64 `json:"limit_bytes,omitempty" doc:"0: no limit"`
	LimitInodes   uint64 `json:"limit_inodes,omitempty" doc:"0: no limit"`
}

// Quotas is the answer to a list.
type Quotas struct {
	Quotas []Quota `json:"quotas"`
}

// QuotaChange sets the limits of a directory.
type QuotaChange struct {
	Path   string `json:"path" doc:"Such as /team. A directory that does not exist is made; one that belongs to no project has to be empty"`
	Bytes  uint64 `json:"bytes,omitempty" doc:"Before coding; 0: no limit"`
	Inodes uint64 `json:"inodes,omitempty" doc:"0: no limit"`
}

// Directory is a directory that could be mounted.
type Directory struct {
	Path    string `json:"path"`
	Inode   uint64 `json:"inode"`
	Project uint32 `json:"project,omitempty"`
	Mount   string `json:"mount" doc:"What to mount at a gateway"`
}

// Gateway is an NFS server that exports a file system.
type Gateway struct {
	Node    string `json:"node,omitempty"`
	Address string `json:"address" doc:"host:port"`
	Rack    string `json:"rack,omitempty"`
	Zone    string `json:"zone,omitempty"`
	Near    string `json:"near" enum:"node,rack,zone,cluster" doc:"Where it is, seen from the node that answers"`
}

// distances, from near to far.
var distances = []string{"node", "rack", "zone", "cluster"}

func (a *API) exports() {
	const one = "/filesystems/{workspace}/{name}"
	handle(a, "GET "+one+"/exports", "list-exports", "List the secure exports of a file system", a.listExports)
	handle(a, "POST "+one+"/exports", "create-export", "Export a directory by itself, so that who mounts it cannot leave it", a.createExport)
	handle(a, "DELETE "+one+"/exports", "delete-export", "End a secure export; the directory stays", a.deleteExport)
	handle(a, "GET "+one+"/quotas", "list-quotas", "List the limits and the usage of a file system and of its project directories", a.listQuotas)
	handle(a, "PUT "+one+"/quotas", "set-quota", "Set the limits of a directory", a.setQuota)
	handle(a, "GET "+one+"/directory", "find-directory", "Find a directory to mount", a.findDirectory)
}

// adminName is under which name this process changes namespaces for which it is no gateway.
func (a *API) adminName() string { return "admin@" + a.opt.Cluster.Self() }

func exportOf(fs *metapb.FileSystem, e *metapb.SecureExport) Export {
	return Export{Path: e.Path, Mount: filesystem.Path(fs) + e.Path, Directory: e.Dir, Project: e.Project, Allow: e.Allow, ReadOnly: e.ReadOnly}
}

func (a *API) listExports(ctx context.Context, in *fileSystemInput) (*struct{ Body Exports }, error) {
	fs, err := filesystem.Find(ctx, a.opt.Meta, in.Workspace, in.Name)
	if err != nil {
		return nil, err
	}
	out := &struct{ Body Exports }{Exports{Exports: []Export{}}}
	for _, e := range fs.Exports {
		out.Body.Exports = append(out.Body.Exports, exportOf(fs, e))
	}
	return out, nil
}

func (a *API) createExport(ctx context.Context, in *struct {
	Workspace string `path:"workspace"`
	Name      string `path:"name"`
	Body      NewExport
}) (*struct{ Body Export }, error) {
	e, err := filesystem.CreateExport(ctx, a.opt.Meta, a.adminName(), in.Workspace, in.Name, filesystem.NewExport{
		Path: in.Body.Path, Allow: in.Body.Allow, ReadOnly: in.Body.ReadOnly,
	})
	if err != nil {
		return nil, err
	}
	return &struct{ Body Export }{exportOf(&metapb.FileSystem{Workspace: in.Workspace, Name: in.Name}, e)}, nil
}

func (a *API) deleteExport(ctx context.Context, in *struct {
	Workspace string `path:"workspace"`
	Name      string `path:"name"`
	Path      string `query:"path" required:"true"`
}) (*struct{}, error) {
	return nil, filesystem.DeleteExport(ctx, a.opt.Meta, in.Workspace, in.Name, in.Path)
}

func quotaOf(p filesystem.Project) Quota {
	q := p.Quota
	return Quota{
		Project: p.ID, Path: p.Path, Directory: uint64(p.Dir), UsedBytes: q.GetUsedBytes(), UsedInodes: q.GetUsedInodes(),
		ReservedBytes: q.GetReservedBytes(), LimitBytes: q.GetLimitBytes(), LimitInodes: q.GetLimitInodes(),
	}
}

func (a *API) listQuotas(ctx context.Context, in *fileSystemInput) (*struct{ Body Quotas }, error) {
	fs, err := filesystem.Find(ctx, a.opt.Meta, in.Workspace, in.Name)
	if err != nil {
		return nil, err
	}
	if err := clustered(fs); err != nil {
		return nil, err
	}
	list, err := filesystem.Projects(ctx, a.opt.Meta, fs)
	if err != nil {
		return nil, err
	}
	out := &struct{ Body Quotas }{Quotas{Quotas: []Quota{}}}
	for _, p := range list {
		out.Body.Quotas = append(out.Body.Quotas, quotaOf(p))
	}
	return out, nil
}

func (a *API) setQuota(ctx context.Context, in *struct {
	Workspace string `path:"workspace"`
	Name      string `path:"name"`
	Body      QuotaChange
}) (*struct{ Body Quota }, error) {
	fs, err := filesystem.Find(ctx, a.opt.Meta, in.Workspace, in.Name)
	if err != nil {
		return nil, err
	}
	if err := clustered(fs); err != nil {
		return nil, err
	}
	p, err := filesystem.LimitProject(ctx, a.opt.Meta, a.adminName(), fs, in.Body.Path, raftmeta.Limits{Bytes: in.Body.Bytes, Inodes: in.Body.Inodes})
	if err != nil {
		return nil, err
	}
	return &struct{ Body Quota }{quotaOf(p)}, nil
}

func (a *API) findDirectory(ctx context.Context, in *struct {
	Workspace string `path:"workspace"`
	Name      string `path:"name"`
	Path      string `query:"path" doc:"Default: the root"`
}) (*struct{ Body Directory }, error) {
	fs, err := filesystem.Find(ctx, a.opt.Meta, in.Workspace, in.Name)
	if err != nil {
		return nil, err
	}
	if err := clustered(fs); err != nil {
		return nil, err
	}
	d, err := filesystem.FindDir(ctx, a.opt.Meta, fs, in.Path)
	if err != nil {
		return nil, err
	}
	out := Directory{Path: in.Path, Inode: d.GetIno(), Project: d.GetProject(), Mount: filesystem.Path(fs)}
	if in.Path != "/" {
		out.Mount += in.Path
	}
	return &struct{ Body Directory }{out}, nil
}

// clustered refuses file systems whose files the cluster does not know.
func clustered(fs *metapb.FileSystem) error {
	if fs.Kind == filesystem.Local {
		return vfs.Errorf(vfs.KindNotSupported, "file system", "%s is of kind local: it is a volume on each node of group %s, which is mounted whole and only there", fs.Name, fs.Group)
	}
	return nil
}

// nearest are gateways in a node group, from near to far.
func (a *API) nearest(ctx context.Context, group string) ([]Gateway, error) {
	r, err := a.cluster(ctx, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}})
	if err != nil {
		return nil, err
	}
	nodes := r.GetNodes().GetNodes()
	self := &metapb.Node{}
	if i := slices.IndexFunc(nodes, func(n *metapb.Node) bool { return n.Name == a.opt.Cluster.Self() }); i >= 0 {
		self = nodes[i]
	}
	out := []Gateway{}
	if a.opt.Gateways != nil && group == "" {
		for _, address := range a.opt.Gateways() {
			out = append(out, Gateway{Address: address, Near: distances[0]})
		}
	}
	for _, n := range nodes {
		if n.Nfs != "" && n.Group == group && slices.Contains(n.Roles, "gateway") {
			out = append(out, Gateway{Node: n.Name, Address: n.Nfs, Rack: n.Rack, Zone: n.Zone, Near: near(self, n)})
		}
	}
	slices.SortStableFunc(out, func(a, b Gateway) int { return slices.Index(distances, a.Near) - slices.Index(distances, b.Near) })
	return out, nil
}

// near says where a node is, seen from another one. Racks have names within zones.
func near(self, n *metapb.Node) string {
	switch {
	case self.Name != "" && n.Name == self.Name:
		return "node"
	case self.Rack != "" && n.Rack == self.Rack && n.Zone == self.Zone:
		return "rack"
	case self.Zone != "" && n.Zone == self.Zone:
		return "zone"
	}
	return "cluster"
}

// Exports lists the secure exports of a file system.
func (c *Client) Exports(ctx context.Context, workspace, name string) ([]Export, error) {
	var out Exports
	err := c.call(ctx, http.MethodGet, fileSystemPath(workspace, name)+"/exports", nil, &out)
	return out.Exports, err
}

// CreateExport exports a directory by itself.
func (c *Client) CreateExport(ctx context.Context, workspace, name string, n NewExport) (out Export, err error) {
	err = c.call(ctx, http.MethodPost, fileSystemPath(workspace, name)+"/exports", n, &out)
	return out, err
}

// DeleteExport ends an export.
func (c *Client) DeleteExport(ctx context.Context, workspace, name, path string) error {
	return c.call(ctx, http.MethodDelete, fileSystemPath(workspace, name)+"/exports?path="+url.QueryEscape(path), nil, nil)
}

// Quotas lists the limits and the usage of a file system and its project directories.
func (c *Client) Quotas(ctx context.Context, workspace, name string) ([]Quota, error) {
	var out Quotas
	err := c.call(ctx, http.MethodGet, fileSystemPath(workspace, name)+"/quotas", nil, &out)
	return out.Quotas, err
}

// SetQuota sets the limits of a directory.
func (c *Client) SetQuota(ctx context.Context, workspace, name string, q QuotaChange) (out Quota, err error) {
	err = c.call(ctx, http.MethodPut, fileSystemPath(workspace, name)+"/quotas", q, &out)
	return out, err
}

// FindDirectory finds a directory to mount.
func (c *Client) FindDirectory(ctx context.Context, workspace, name, path string) (out Directory, err error) {
	err = c.call(ctx, http.MethodGet, fileSystemPath(workspace, name)+"/directory?path="+url.QueryEscape(path), nil, &out)
	return out, err
}
