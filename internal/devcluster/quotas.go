package devcluster

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rackfs/rackfs/internal/filesystem"
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

// ParseQuota reads FS=LIMITS, or FS:/DIR=LIMITS with dir. LIMITS is BYTES[,inodes=N], bytes with a unit such as 10GiB; 0 is no limit.
func ParseQuota(s string, dir bool) (q Quota, err error) {
	const op = "quota"
	what, limits, ok := strings.Cut(s, "=")
	if !ok || what == "" {
		return q, vfs.Errorf(vfs.KindInvalid, op, "%q: write NAME=LIMIT, such as default=1TiB", s)
	}
	q.FS = what
	if dir {
		if q.FS, q.Dir, err = filesystem.SplitDir(what); err != nil {
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
	if e.FS, e.Dir, err = filesystem.SplitDir(what); err != nil {
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

// provisionName is under which name namespaces are changed before the gateway is there.
const provisionName = "provision"

// provisionProjects makes the directories that have limits or exports, their projects, and sets the limits. It is repeated at
// each start; what is not named keeps what it has.
func (c *Cluster) provisionProjects(ctx context.Context) error {
	const op = "rackfs dev"
	for _, q := range c.cfg.Quotas {
		fs, err := filesystem.Find(ctx, c.meta, "", q.FS)
		if err != nil {
			return vfs.Wrap(op, err)
		}
		switch {
		case q.Dir != "":
			_, err = filesystem.LimitProject(ctx, c.meta, provisionName, fs, q.Dir, q.Limits)
		case fs.Version > 0:
			_, err = filesystem.Change(ctx, c.meta, fs.Workspace, fs.Name, func(s *filesystem.Settings) error {
				s.QuotaBytes, s.QuotaInodes = q.Limits.Bytes, q.Limits.Inodes
				return nil
			})
		default:
			if err = c.meta.EnsureRegistered(ctx, uint16(fs.Shard), provisionName); err == nil {
				err = c.meta.SetLimits(ctx, uint16(fs.Shard), fs.Id, 0, q.Limits)
			}
		}
		if err != nil {
			return vfs.Wrap(op, err)
		}
	}
	for _, e := range c.cfg.Exports {
		n := filesystem.NewExport{Path: e.Dir}
		for _, p := range e.Clients {
			n.Allow = append(n.Allow, p.String())
		}
		if err := c.provisionExport(ctx, e.FS, n); err != nil {
			return vfs.Wrap(op, err)
		}
	}
	return nil
}

// provisionExport makes an export, or has it allow other networks than it did.
func (c *Cluster) provisionExport(ctx context.Context, name string, n filesystem.NewExport) error {
	fs, err := filesystem.Find(ctx, c.meta, "", name)
	if err != nil {
		return err
	}
	for _, e := range fs.Exports {
		if e.Path == n.Path {
			if slices.Equal(e.Allow, n.Allow) {
				return nil
			}
			if err := filesystem.DeleteExport(ctx, c.meta, "", name, n.Path); err != nil {
				return err
			}
		}
	}
	_, err = filesystem.CreateExport(ctx, c.meta, provisionName, "", name, n)
	return err
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
		if fs.State != metapb.FileSystemState_FS_ACTIVE || fs.Kind == filesystem.Local {
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
