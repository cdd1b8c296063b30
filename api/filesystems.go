package api

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/nodegroup"
	"github.com/rackfs/rackfs/placement"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

const (
	// usagesAtOnce bounds how many namespaces are asked at once for what they use.
	usagesAtOnce = 16
	// usageTimeout is how long a list of file systems waits for that.
	usageTimeout = 2 * time.Second
)

// FileSystem is a file system of the cluster.
type FileSystem struct {
	ID        uint32    `json:"id" doc:"Never used again"`
	Name      string    `json:"name"`
	Workspace string    `json:"workspace"`
	Kind      string    `json:"kind" enum:"shared,group,local"`
	Group     string    `json:"group,omitempty" doc:"Node group whose nodes hold the data and whose gateways serve it, of kinds group and local"`
	State     string    `json:"state" enum:"creating,active,deleted,purging"`
	Path      string    `json:"path" doc:"Under which gateways export it"`
	Pool      uint32    `json:"pool" doc:"Id of the pool that holds its data; 0 for kind local"`
	Profile   string    `json:"profile,omitempty" doc:"Data and parity shards of its blocks"`
	Created   time.Time `json:"created"`
	FileSystemSettings
	// Of a deleted one.
	Deleted    time.Time `json:"deleted,omitzero"`
	PurgeAfter time.Time `json:"purge_after,omitzero" doc:"Until then it can be brought back; after that it ends when the cluster has watched it for as long as it was to be kept"`
	// Of one that is active, or deleted and kept.
	UsedBytes     uint64 `json:"used_bytes,omitempty" doc:"Before coding; of a list absent also if it is not known now"`
	UsedInodes    uint64 `json:"used_inodes,omitempty"`
	CapacityBytes uint64 `json:"capacity_bytes,omitempty" doc:"Its quota, or what the stores of its pool can take before coding if that is less or there is none; shared with the others on these stores. 0: not known now"`
	FreeBytes     uint64 `json:"free_bytes,omitempty" doc:"What of it can still be written"`
	// Of one that was asked for by name.
	Gateways []string  `json:"gateways,omitempty" doc:"Addresses, host:port, of the NFS servers that export it when it is active, from near to far"`
	Servers  []Gateway `json:"servers,omitempty" doc:"The same servers, with where they are"`
	// Of kind local.
	Unreplicated string        `json:"unreplicated,omitempty" doc:"Of kind local: what that means"`
	Nodes        []LocalVolume `json:"nodes,omitempty" doc:"Of kind local, asked for by name: the nodes that have it, each with files of its own"`
}

// FileSystemSettings are what can be changed of a file system.
type FileSystemSettings struct {
	QuotaBytes  uint64   `json:"quota_bytes,omitempty" doc:"Before coding; 0: no limit"`
	QuotaInodes uint64   `json:"quota_inodes,omitempty" doc:"0: no limit"`
	Allow       []string `json:"allow,omitempty" doc:"Networks that may mount; none: those that the gateways allow"`
	ReadOnly    bool     `json:"read_only,omitempty"`
	Squash      string   `json:"squash,omitempty" enum:"none,root,all,default" doc:"Whose identity becomes the anonymous one; absent or default: as the gateways are configured"`
	AnonUID     uint32   `json:"anon_uid,omitempty" doc:"The anonymous user; 0: 65534, or as the gateways are configured"`
	AnonGID     uint32   `json:"anon_gid,omitempty"`
	Groups      []uint32 `json:"groups,omitempty" doc:"Whose members may use it, as callers say in their AUTH_SYS credentials; none: anybody"`
}

func (s *FileSystemSettings) settings() filesystem.Settings {
	return filesystem.Settings{
		QuotaBytes: s.QuotaBytes, QuotaInodes: s.QuotaInodes, Allow: s.Allow, ReadOnly: s.ReadOnly,
		Squash: filesystem.Squash(s.Squash), AnonUID: s.AnonUID, AnonGID: s.AnonGID, Groups: s.Groups,
	}
}

func settingsOf(s filesystem.Settings) FileSystemSettings {
	return FileSystemSettings{
		QuotaBytes: s.QuotaBytes, QuotaInodes: s.QuotaInodes, Allow: s.Allow, ReadOnly: s.ReadOnly,
		Squash: string(s.Squash), AnonUID: s.AnonUID, AnonGID: s.AnonGID, Groups: s.Groups,
	}
}

// FileSystems is the answer to a list.
type FileSystems struct {
	FileSystems []FileSystem `json:"file_systems"`
}

// NewFileSystem says what a file system is to be.
type NewFileSystem struct {
	Name      string `json:"name"`
	Workspace string `json:"workspace,omitempty" doc:"Default: default"`
	Kind      string `json:"kind,omitempty" doc:"shared, group or local; default: shared"`
	Group     string `json:"group,omitempty" doc:"Node group, of kinds group and local"`
	Profile   string `json:"profile,omitempty" doc:"Such as 4+2; default: that of the group's first pool"`
	Domain    string `json:"domain,omitempty" doc:"Failure domain of a new pool: disk, node, rack or zone; default: the widest that there are enough of"`
	FileSystemSettings
}

// FileSystemChange says what is to be another of a file system; what is absent stays.
type FileSystemChange struct {
	QuotaBytes  *uint64   `json:"quota_bytes,omitempty"`
	QuotaInodes *uint64   `json:"quota_inodes,omitempty"`
	Allow       *[]string `json:"allow,omitempty"`
	ReadOnly    *bool     `json:"read_only,omitempty"`
	Squash      *string   `json:"squash,omitempty" enum:"none,root,all,default"`
	AnonUID     *uint32   `json:"anon_uid,omitempty"`
	AnonGID     *uint32   `json:"anon_gid,omitempty"`
	Groups      *[]uint32 `json:"groups,omitempty"`
}

type fileSystemsOutput struct{ Body FileSystems }

type fileSystemOutput struct{ Body FileSystem }

type fileSystemInput struct {
	Workspace string `path:"workspace"`
	Name      string `path:"name"`
}

func (a *API) fileSystems() {
	handle(a, "GET /filesystems", "list-filesystems", "List the file systems", a.listFileSystems)
	handle(a, "POST /filesystems", "create-filesystem", "Create a file system", a.createFileSystem)
	const one = "/filesystems/{workspace}/{name}"
	handle(a, "GET "+one, "show-filesystem", "Show a file system and what it uses", a.showFileSystem)
	handle(a, "PATCH "+one, "change-filesystem", "Change limits and access of a file system", a.changeFileSystem)
	handle(a, "DELETE "+one, "delete-filesystem", "Stop serving a file system, and end it after a while", a.deleteFileSystem)
	handle(a, "POST "+one+"/undelete", "undelete-filesystem", "Bring a deleted file system back", a.undeleteFileSystem)
}

func (a *API) listFileSystems(ctx context.Context, _ *struct{}) (*fileSystemsOutput, error) {
	list, err := filesystem.List(ctx, a.opt.Meta)
	if err != nil {
		return nil, err
	}
	profiles, err := a.profiles(ctx)
	if err != nil {
		return nil, err
	}
	out := &fileSystemsOutput{Body: FileSystems{FileSystems: []FileSystem{}}}
	var shown []*metapb.FileSystem
	who := accounts.Of(ctx)
	for _, fs := range list.GetFileSystems() {
		if !who.Sees(accounts.Place{Workspace: fs.Workspace, FileSystem: fs.Name}) {
			continue
		}
		out.Body.FileSystems = append(out.Body.FileSystems, fileSystemOf(fs, profiles))
		shown = append(shown, fs)
	}
	// A list is answered also while a namespace's shard does not answer.
	look, cancel := context.WithTimeout(ctx, usageTimeout)
	defer cancel()
	if err := a.usages(look, shown, out.Body.FileSystems); err != nil {
		a.log.Info("api: what file systems use is not known now", "err", err)
	}
	return out, nil
}

// usages adds what file systems use, and what they still may.
func (a *API) usages(ctx context.Context, list []*metapb.FileSystem, out []FileSystem) error {
	var st *nodegroup.Status
	if slices.ContainsFunc(out, func(fs FileSystem) bool { return fs.Pool != 0 }) {
		if s, err := a.opt.Cluster.Status(ctx); err == nil { // else nobody knows how full stores are
			st = s.Placement
		}
	}
	var g errgroup.Group
	g.SetLimit(usagesAtOnce)
	for i, fs := range list {
		if fs.State != metapb.FileSystemState_FS_ACTIVE && fs.State != metapb.FileSystemState_FS_DELETED {
			continue // its namespace is not there yet, or not any more
		}
		g.Go(func() error { return a.usage(ctx, fs, st, &out[i]) })
	}
	return g.Wait()
}

// usage adds what a file system uses, and what it still may by what was seen of its pool's stores.
func (a *API) usage(ctx context.Context, fs *metapb.FileSystem, st *nodegroup.Status, out *FileSystem) error {
	use, err := filesystem.Usage(ctx, a.opt.Meta, fs)
	if err != nil || use == nil {
		return err
	}
	out.UsedBytes, out.UsedInodes = use.GetUsedBytes(), use.GetUsedInodes()
	if fs.Version == 0 { // limits that were set without a record of them
		out.QuotaBytes, out.QuotaInodes = use.GetLimitBytes(), use.GetLimitInodes()
	}
	if st == nil {
		return nil
	}
	for _, p := range st.Pools {
		if p.ID == fs.Pool && p.Capacity > 0 {
			out.CapacityBytes, out.FreeBytes = p.Capacity, p.Free
			if q := out.QuotaBytes; q != 0 {
				out.CapacityBytes, out.FreeBytes = min(p.Capacity, q), min(p.Free, q-min(q, out.UsedBytes))
			}
		}
	}
	return nil
}

// profiles are those of the pools, by id.
func (a *API) profiles(ctx context.Context) (map[uint32]string, error) {
	r, err := a.cluster(ctx, &metapb.Query{Q: &metapb.Query_ClusterMap{ClusterMap: &metapb.ClusterMapQ{}}})
	if err != nil {
		return nil, err
	}
	out := map[uint32]string{}
	for _, p := range r.GetClusterMap().GetPools() {
		out[p.Id] = placement.Profile{K: int(p.K), M: int(p.M)}.String()
	}
	return out, nil
}

func fileSystemOf(fs *metapb.FileSystem, profiles map[uint32]string) FileSystem {
	out := FileSystem{
		ID: fs.Id, Name: fs.Name, Workspace: fs.Workspace, Kind: fs.Kind, Group: fs.Group, Pool: fs.Pool, Profile: profiles[fs.Pool],
		State: filesystem.StateName(fs.State), Path: filesystem.Path(fs), Created: instant(fs.Created),
		FileSystemSettings: settingsOf(filesystem.SettingsOf(fs)),
	}
	if fs.Kind == filesystem.Local {
		out.Unreplicated = filesystem.Unreplicated
	}
	if fs.Deleted != nil {
		out.Deleted, out.PurgeAfter = instant(fs.Deleted), instant(fs.PurgeAfter)
	}
	return out
}

func instant(t *metapb.Time) time.Time {
	return time.Unix(t.GetSec(), int64(t.GetNsec())).UTC()
}

// fileSystem is the answer about one file system, with what it uses.
func (a *API) fileSystem(ctx context.Context, fs *metapb.FileSystem) (*fileSystemOutput, error) {
	profiles, err := a.profiles(ctx)
	if err != nil {
		return nil, err
	}
	out := &fileSystemOutput{Body: fileSystemOf(fs, profiles)}
	one := []FileSystem{out.Body}
	if err := a.usages(ctx, []*metapb.FileSystem{fs}, one); err != nil {
		return nil, err
	}
	out.Body = one[0]
	if fs.Kind == filesystem.Local {
		nodes, err := a.cluster(ctx, &metapb.Query{Q: &metapb.Query_Nodes{Nodes: &metapb.NodesQ{}}})
		if err != nil {
			return nil, err
		}
		out.Body.Nodes = LocalVolumes([]*metapb.FileSystem{fs}, nodes.GetNodes().GetNodes())
		return out, nil
	}
	if out.Body.Servers, err = a.nearest(ctx, fs.Group); err != nil {
		return nil, err
	}
	for _, g := range out.Body.Servers {
		out.Body.Gateways = append(out.Body.Gateways, g.Address)
	}
	return out, nil
}

func (a *API) createFileSystem(ctx context.Context, in *struct{ Body NewFileSystem }) (*fileSystemOutput, error) {
	b := &in.Body
	if err := accounts.Of(ctx).May(accounts.Admin, accounts.Place{Workspace: cmp.Or(b.Workspace, filesystem.DefaultWorkspace)}); err != nil {
		return nil, err
	}
	if b.Kind == filesystem.Group || b.Kind == filesystem.Local { // both are on a node group
		if err := accounts.Allows(ctx, a.opt.Meta, b.Workspace, accounts.FeatureGroups); err != nil {
			return nil, err
		}
	}
	fs, err := filesystem.Create(ctx, a.opt.Meta, filesystem.ClusterPools{Meta: a.opt.Meta}, filesystem.Request{
		Name: b.Name, Workspace: b.Workspace, Kind: b.Kind, Group: b.Group, Profile: b.Profile, Domain: b.Domain,
		Settings: b.settings(),
	}, time.Now())
	if err != nil {
		return nil, err
	}
	return a.fileSystem(ctx, fs)
}

func (a *API) showFileSystem(ctx context.Context, in *fileSystemInput) (*fileSystemOutput, error) {
	fs, err := filesystem.Find(ctx, a.opt.Meta, in.Workspace, in.Name)
	if err != nil {
		return nil, err
	}
	return a.fileSystem(ctx, fs)
}

func (a *API) changeFileSystem(ctx context.Context, in *struct {
	Workspace string `path:"workspace"`
	Name      string `path:"name"`
	Body      FileSystemChange
}) (*fileSystemOutput, error) {
	fs, err := filesystem.Change(ctx, a.opt.Meta, in.Workspace, in.Name, func(s *filesystem.Settings) error {
		set(&s.QuotaBytes, in.Body.QuotaBytes)
		set(&s.QuotaInodes, in.Body.QuotaInodes)
		set(&s.Allow, in.Body.Allow)
		set(&s.ReadOnly, in.Body.ReadOnly)
		if in.Body.Squash != nil {
			s.Squash = filesystem.Squash(*in.Body.Squash)
		}
		set(&s.AnonUID, in.Body.AnonUID)
		set(&s.AnonGID, in.Body.AnonGID)
		set(&s.Groups, in.Body.Groups)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return a.fileSystem(ctx, fs)
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func (a *API) deleteFileSystem(ctx context.Context, in *struct {
	Workspace   string `path:"workspace"`
	Name        string `path:"name"`
	KeepSeconds uint64 `query:"keep_seconds" default:"604800" maximum:"315360000" doc:"For how long it can be brought back"`
}) (*fileSystemOutput, error) {
	fs, err := filesystem.Delete(ctx, a.opt.Meta, in.Workspace, in.Name, time.Duration(in.KeepSeconds)*time.Second, time.Now())
	if err != nil {
		return nil, err
	}
	return &fileSystemOutput{Body: fileSystemOf(fs, nil)}, nil
}

func (a *API) undeleteFileSystem(ctx context.Context, in *fileSystemInput) (*fileSystemOutput, error) {
	fs, err := filesystem.Undelete(ctx, a.opt.Meta, in.Workspace, in.Name)
	if err != nil {
		return nil, err
	}
	return a.fileSystem(ctx, fs)
}

// FileSystems lists the file systems.
func (c *Client) FileSystems(ctx context.Context) ([]FileSystem, error) {
	var out FileSystems
	err := c.call(ctx, http.MethodGet, "/filesystems", nil, &out)
	return out.FileSystems, err
}

func fileSystemPath(workspace, name string) string {
	if workspace == "" {
		workspace = filesystem.DefaultWorkspace
	}
	return "/filesystems/" + url.PathEscape(workspace) + "/" + url.PathEscape(name)
}

// CreateFileSystem creates one.
func (c *Client) CreateFileSystem(ctx context.Context, n NewFileSystem) (out FileSystem, err error) {
	err = c.call(ctx, http.MethodPost, "/filesystems", n, &out)
	return out, err
}

// FileSystem shows one.
func (c *Client) FileSystem(ctx context.Context, workspace, name string) (out FileSystem, err error) {
	err = c.call(ctx, http.MethodGet, fileSystemPath(workspace, name), nil, &out)
	return out, err
}

// ChangeFileSystem changes one.
func (c *Client) ChangeFileSystem(ctx context.Context, workspace, name string, ch FileSystemChange) (out FileSystem, err error) {
	err = c.call(ctx, http.MethodPatch, fileSystemPath(workspace, name), ch, &out)
	return out, err
}

// DeleteFileSystem deletes one; it can be brought back for as long as keep.
func (c *Client) DeleteFileSystem(ctx context.Context, workspace, name string, keep time.Duration) (out FileSystem, err error) {
	seconds := strconv.FormatInt(int64((keep+time.Second-1)/time.Second), 10)
	err = c.call(ctx, http.MethodDelete, fileSystemPath(workspace, name)+"?keep_seconds="+seconds, nil, &out)
	return out, err
}

// UndeleteFileSystem brings a deleted one back.
func (c *Client) UndeleteFileSystem(ctx context.Context, workspace, name string) (out FileSystem, err error) {
	err = c.call(ctx, http.MethodPost, fileSystemPath(workspace, name)+"/undelete", nil, &out)
	return out, err
}
