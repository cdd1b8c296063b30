package devcluster

import (
	"context"
	"crypto/rand"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/internal/gateway"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Quota are the limits of a file system, or of a directory in it, which becomes a project's.
type Quota struct {
	FS     string // name
	Dir    string // "/a/b"; "" is the whole file system
	Limits raftmeta.Limits
}

// DirExport is a secured export of a directory, which becomes a project's.
type DirExport struct {
	FS      string
	Dir     string
	Clients []netip.Prefix // empty: whoever may mount the file system
}

// splitDir splits FS:/DIR.
func splitDir(s string) (fs, dir string, err error) {
	fs, dir, ok := strings.Cut(s, ":")
	rest, absolute := strings.CutPrefix(dir, "/")
	if !ok || fs == "" || !absolute || rest == "" {
		return "", "", vfs.Errorf(vfs.KindInvalid, "directory", "%q: write FILESYSTEM:/DIRECTORY, such as default:/team", s)
	}
	for part := range strings.SplitSeq(rest, "/") {
		if err := vfs.CheckName(part, "directory"); err != nil {
			return "", "", vfs.Errorf(vfs.KindInvalid, "directory", "%q: %q cannot be a name", s, part)
		}
	}
	return fs, dir, nil
}

// ParseQuota reads FS=LIMITS, or FS:/DIR=LIMITS with dir. LIMITS is BYTES[,inodes=N], bytes with a unit such as 10GiB; 0 is no limit.
func ParseQuota(s string, dir bool) (q Quota, err error) {
	const op = "quota"
	what, limits, ok := strings.Cut(s, "=")
	if !ok || what == "" {
		return q, vfs.Errorf(vfs.KindInvalid, op, "%q: write NAME=LIMIT, such as default=1TiB", s)
	}
	q.FS = what
	if dir {
		if q.FS, q.Dir, err = splitDir(what); err != nil {
			return q, err
		}
	}
	size, inodes, more := strings.Cut(limits, ",")
	if q.Limits.Bytes, err = filesystem.ParseBytes(size); err != nil {
		return q, err
	}
	if more {
		n, ok := strings.CutPrefix(inodes, "inodes=")
		if q.Limits.Inodes, err = strconv.ParseUint(n, 10, 62); !ok || err != nil {
			return q, vfs.Errorf(vfs.KindInvalid, op, "%q: after the bytes comes inodes=N", s)
		}
	}
	return q, nil
}

// ParseExport reads FS:/DIR[=NETWORK[,NETWORK...]].
func ParseExport(s string) (e DirExport, err error) {
	what, networks, _ := strings.Cut(s, "=")
	if e.FS, e.Dir, err = splitDir(what); err != nil {
		return e, err
	}
	if networks == "" {
		return e, nil
	}
	for n := range strings.SplitSeq(networks, ",") {
		p, err := filesystem.ParseNetwork(n)
		if err != nil {
			return e, vfs.Errorf(vfs.KindInvalid, "export", "%q: %w; write a network such as 10.1.0.0/16, or an address", n, err)
		}
		e.Clients = append(e.Clients, p)
	}
	return e, nil
}

// provisionProjects makes the directories that have limits or exports, their projects, and sets the limits. It is repeated at
// each start; what is not named keeps what it has.
func (c *Cluster) provisionProjects(ctx context.Context) ([]gateway.Secured, error) {
	if len(c.cfg.Quotas) == 0 && len(c.cfg.Exports) == 0 {
		return nil, nil
	}
	incarnation := make([]byte, 16)
	rand.Read(incarnation)
	if _, err := c.meta.Register(ctx, namespaceShard, metapb.OriginKind_ORIGIN_ADMIN, "provision", incarnation); err != nil {
		return nil, err
	}
	for _, q := range c.cfg.Quotas {
		fs, err := filesystem.Find(ctx, c.meta, "", q.FS)
		if err != nil {
			return nil, vfs.Wrap("rackfs dev", err)
		}
		if q.Dir == "" && fs.Version > 0 {
			_, err := filesystem.Change(ctx, c.meta, fs.Workspace, fs.Name, func(s *filesystem.Settings) error {
				s.QuotaBytes, s.QuotaInodes = q.Limits.Bytes, q.Limits.Inodes
				return nil
			})
			if err != nil {
				return nil, err
			}
			continue
		}
		var d projectDir
		if q.Dir != "" {
			if d, err = c.projectDir(ctx, fs, q.Dir); err != nil {
				return nil, err
			}
		}
		if err := c.meta.SetLimits(ctx, uint16(fs.Shard), fs.Id, d.project, q.Limits); err != nil {
			return nil, err
		}
	}
	var out []gateway.Secured
	for _, e := range c.cfg.Exports {
		fs, err := filesystem.Find(ctx, c.meta, "", e.FS)
		if err != nil {
			return nil, vfs.Wrap("rackfs dev", err)
		}
		d, err := c.projectDir(ctx, fs, e.Dir)
		if err != nil {
			return nil, err
		}
		s := gateway.Secured{FS: fs.Id, Dir: e.Dir, Root: d.ino, Project: d.project, Rules: c.cfg.rules()}
		if len(e.Clients) > 0 {
			s.Rules = c.cfg.rulesFor(e.Clients)
		}
		out = append(out, s)
	}
	return out, nil
}

// projectDir is a directory with a project of its own.
type projectDir struct {
	ino     vfs.Ino
	project uint32
}

// projectDir finds a directory, or makes it, and gives it a project unless it has one.
func (c *Cluster) projectDir(ctx context.Context, fs *metapb.FileSystem, path string) (d projectDir, err error) {
	shard := uint16(fs.Shard)
	at, outer := uint64(vfs.RootIno), uint32(0)
	var a *metapb.Attr
	for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if a != nil {
			at, outer = a.Ino, a.Project
		}
		if a, err = c.makeDir(ctx, shard, fs.Id, at, name); err != nil {
			return d, vfs.Errorf(vfs.KindOf(err), "rackfs dev", "directory %s: %w", path, err)
		}
	}
	d = projectDir{vfs.Ino(a.Ino), a.Project}
	if a.Project != outer {
		return d, nil
	}
	list, err := c.meta.Quotas(ctx, shard, fs.Id)
	if err != nil {
		return d, err
	}
	d.project = list[len(list)-1].Project + 1
	err = c.meta.SetProject(ctx, shard, fs.Id, d.ino, d.project)
	if vfs.KindOf(err) == vfs.KindNotEmpty {
		return d, vfs.Errorf(vfs.KindNotEmpty, "rackfs dev", "%s:%s has files that belong to no project: start without it, rename it, start with it again and move the files there", fs.Name, path)
	}
	return d, err
}

func (c *Cluster) makeDir(ctx context.Context, shard uint16, fs uint32, parent uint64, name string) (*metapb.Attr, error) {
	r, err := c.meta.Query(ctx, shard, &metapb.Query{Fs: fs, Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: parent, Name: []byte(name)}}})
	switch vfs.KindOf(err) {
	case vfs.KindOK:
		if a := r.GetAttr().GetAttr(); vfs.Type(a.Type) == vfs.TypeDir {
			return a, nil
		}
		return nil, vfs.Errorf(vfs.KindNotDir, "mkdir", "%q", name)
	case vfs.KindNotFound:
	default:
		return nil, err
	}
	mode := uint32(0o755)
	made, err := c.meta.Apply(ctx, shard, &metapb.Command{Fs: fs, Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: parent, Name: []byte(name), Type: uint32(vfs.TypeDir), Exclusive: uint32(vfs.Guarded), Attr: &metapb.AttrSet{Mode: &mode},
	}}})
	if err != nil {
		return nil, err
	}
	return made.GetCreate().GetAttr(), nil
}

// quotasTimeout bounds how long /status waits for the metadata.
const quotasTimeout = 2 * time.Second

func (c *Cluster) quotas() (out []quotaStatus) {
	ctx, cancel := context.WithTimeout(context.Background(), quotasTimeout)
	defer cancel()
	all, err := filesystem.List(ctx, c.meta)
	if err != nil {
		return nil
	}
	for _, fs := range all.GetFileSystems() {
		if fs.State != metapb.FileSystemState_FS_ACTIVE {
			continue
		}
		list, err := c.meta.Quotas(ctx, uint16(fs.Shard), fs.Id)
		if err != nil {
			return nil
		}
		for _, q := range list {
			out = append(out, quotaStatus{
				FS: fs.Id, Project: q.Project, Dir: q.Dir, UsedBytes: q.UsedBytes, ReservedBytes: q.ReservedBytes, LimitBytes: q.LimitBytes,
				UsedInodes: q.UsedInodes, LimitInodes: q.LimitInodes,
			})
		}
	}
	return out
}
