package filesystem

import (
	"context"
	"strings"

	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// projectTries is how often a number is chosen for a new project that somebody else has taken meanwhile.
	projectTries = 8
	// projectMode is the mode of directories that are made on the way to a project.
	projectMode = 0o755
	// maxNamed bounds how many entries of a directory are looked at for the name of one.
	maxNamed = 1 << 16
	// maxDepth bounds paths.
	maxDepth = 256
)

// Files is a metadata client that changes namespaces.
type Files interface {
	Meta
	// EnsureRegistered gives the client an identity in a shard if it has none there.
	EnsureRegistered(ctx context.Context, shard uint16, name string) error
}

// Project is a directory with a project of its own, and what it uses.
type Project struct {
	ID    uint32
	Dir   vfs.Ino // 0 of the whole file system
	Path  string  // "" if it is not known
	Quota *metapb.Quota
}

// SplitDir splits NAME:/DIRECTORY.
func SplitDir(s string) (name, dir string, err error) {
	name, dir, ok := strings.Cut(s, ":")
	if !ok || name == "" {
		return "", "", vfs.Errorf(vfs.KindInvalid, "directory", "%q: write FILESYSTEM:/DIRECTORY, such as default:/team", s)
	}
	return name, dir, checkPath(dir, "directory")
}

// checkPath refuses what is no path of a directory below the root.
func checkPath(path, op string) error {
	rest, ok := strings.CutPrefix(path, "/")
	if !ok || rest == "" {
		return vfs.Errorf(vfs.KindInvalid, op, "%q is no path of a directory in the file system: write /DIRECTORY", path)
	}
	if strings.Count(rest, "/") >= maxDepth {
		return vfs.Errorf(vfs.KindInvalid, op, "a path of more than %d parts", maxDepth)
	}
	for part := range strings.SplitSeq(rest, "/") {
		if err := vfs.CheckName(part, op); err != nil {
			return vfs.Errorf(vfs.KindInvalid, op, "%q: %q cannot be a name", path, part)
		}
	}
	return nil
}

// FindDir finds a directory by its path, "" or "/" being the root.
func FindDir(ctx context.Context, meta Meta, fs *metapb.FileSystem, path string) (*metapb.Attr, error) {
	a, err := inodeAttr(ctx, meta, fs, uint64(vfs.RootIno))
	if err != nil || strings.Trim(path, "/") == "" {
		return a, err
	}
	if err := checkPath(path, "directory"); err != nil {
		return nil, err
	}
	done := ""
	for name := range strings.SplitSeq(path[1:], "/") {
		next, err := lookup(ctx, meta, fs, a.Ino, name)
		switch {
		case vfs.KindOf(err) == vfs.KindNotFound:
			return nil, vfs.Errorf(vfs.KindNotFound, "directory", "%s has no %s/%s", fs.Name, done, name)
		case err != nil:
			return nil, err
		case vfs.Type(next.Type) == vfs.TypeSymlink:
			return nil, vfs.Errorf(vfs.KindNotDir, "directory", "%s:%s/%s is a symbolic link: name the directory itself", fs.Name, done, name)
		case vfs.Type(next.Type) != vfs.TypeDir:
			return nil, vfs.Errorf(vfs.KindNotDir, "directory", "%s:%s/%s is no directory", fs.Name, done, name)
		}
		a, done = next, done+"/"+name
	}
	return a, nil
}

func inodeAttr(ctx context.Context, meta Meta, fs *metapb.FileSystem, ino uint64) (*metapb.Attr, error) {
	r, err := meta.Query(ctx, uint16(fs.Shard), &metapb.Query{Fs: fs.Id, Q: &metapb.Query_GetAttr{GetAttr: &metapb.GetAttrQ{Ino: ino}}})
	return r.GetAttr().GetAttr(), err
}

func lookup(ctx context.Context, meta Meta, fs *metapb.FileSystem, dir uint64, name string) (*metapb.Attr, error) {
	r, err := meta.Query(ctx, uint16(fs.Shard), &metapb.Query{Fs: fs.Id, Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: dir, Name: []byte(name)}}})
	return r.GetAttr().GetAttr(), err
}

// MakeProject finds a directory, or makes it and those above, and gives it a project unless it has one of its own. who is under which
// name the namespace is changed.
func MakeProject(ctx context.Context, meta Files, who string, fs *metapb.FileSystem, path string) (Project, error) {
	const op = "project"
	if err := checkPath(path, op); err != nil {
		return Project{}, err
	}
	if err := meta.EnsureRegistered(ctx, uint16(fs.Shard), who); err != nil {
		return Project{}, err
	}
	a, err := inodeAttr(ctx, meta, fs, uint64(vfs.RootIno))
	if err != nil {
		return Project{}, err
	}
	outer := uint32(0)
	for name := range strings.SplitSeq(path[1:], "/") {
		outer = a.Project
		if a, err = makeDir(ctx, meta, fs, a.Ino, name); err != nil {
			return Project{}, vfs.Errorf(vfs.KindOf(err), op, "directory %s: %w", path, err)
		}
	}
	p := Project{ID: a.Project, Dir: vfs.Ino(a.Ino), Path: path}
	if a.Project != outer {
		return p, nil
	}
	for try := 1; ; try++ {
		list, err := quotas(ctx, meta, fs)
		if err != nil {
			return p, err
		}
		p.ID = list[len(list)-1].Project + 1
		_, err = meta.Apply(ctx, uint16(fs.Shard), &metapb.Command{Fs: fs.Id, Op: &metapb.Command_SetProject{SetProject: &metapb.SetProject{
			Dir: a.Ino, Project: p.ID,
		}}})
		if vfs.KindOf(err) == vfs.KindExists && try < projectTries { // somebody else took the number
			continue
		}
		if vfs.KindOf(err) == vfs.KindNotEmpty {
			return p, vfs.Errorf(vfs.KindNotEmpty, op, "%s:%s has files that belong to no project: rename it, do this again, and move the files into the new directory", fs.Name, path)
		}
		return p, vfs.Wrap(op, err)
	}
}

func makeDir(ctx context.Context, meta Meta, fs *metapb.FileSystem, parent uint64, name string) (*metapb.Attr, error) {
	a, err := lookup(ctx, meta, fs, parent, name)
	switch vfs.KindOf(err) {
	case vfs.KindOK:
		if vfs.Type(a.Type) == vfs.TypeDir {
			return a, nil
		}
		return nil, vfs.Errorf(vfs.KindNotDir, "mkdir", "%q", name)
	case vfs.KindNotFound:
	default:
		return nil, err
	}
	mode := uint32(projectMode)
	made, err := meta.Apply(ctx, uint16(fs.Shard), &metapb.Command{Fs: fs.Id, Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: parent, Name: []byte(name), Type: uint32(vfs.TypeDir), Exclusive: uint32(vfs.Guarded), Attr: &metapb.AttrSet{Mode: &mode},
	}}})
	if vfs.KindOf(err) == vfs.KindExists { // somebody else was faster
		return lookup(ctx, meta, fs, parent, name)
	}
	return made.GetCreate().GetAttr(), err
}

// LimitProject sets the limits of a project's directory, which is made if it does not exist.
func LimitProject(ctx context.Context, meta Files, who string, fs *metapb.FileSystem, path string, l raftmeta.Limits) (Project, error) {
	const op = "limit project"
	if l.Bytes > maxLimit || l.Inodes > maxLimit {
		return Project{}, vfs.Errorf(vfs.KindInvalid, op, "a limit is at most %d; 0 is none", uint64(maxLimit))
	}
	if fs.State != metapb.FileSystemState_FS_ACTIVE {
		return Project{}, wrongState(fs, op, "active")
	}
	p, err := MakeProject(ctx, meta, who, fs, path)
	if err != nil {
		return p, err
	}
	_, err = meta.Apply(ctx, uint16(fs.Shard), &metapb.Command{Fs: fs.Id, Op: &metapb.Command_SetQuota{SetQuota: &metapb.SetQuota{
		Project: p.ID, Bytes: l.Bytes, Inodes: l.Inodes,
	}}})
	if err != nil {
		return p, vfs.Wrap(op, err)
	}
	list, err := quotas(ctx, meta, fs)
	for _, q := range list {
		if q.Project == p.ID {
			p.Quota = q
		}
	}
	return p, err
}

func quotas(ctx context.Context, meta Meta, fs *metapb.FileSystem) (list []*metapb.Quota, err error) {
	for from := uint32(0); ; {
		r, err := meta.Query(ctx, uint16(fs.Shard), &metapb.Query{Fs: fs.Id, Q: &metapb.Query_Quotas{Quotas: &metapb.QuotasQ{From: from}}})
		if err != nil {
			return nil, vfs.Wrap("quotas", err)
		}
		page := r.GetQuotas()
		list = append(list, page.GetQuotas()...)
		if !page.GetMore() {
			return list, nil
		}
		from = list[len(list)-1].Project + 1
	}
}

// Projects lists the file system (project 0) and its projects by number.
func Projects(ctx context.Context, meta Meta, fs *metapb.FileSystem) ([]Project, error) {
	list, err := quotas(ctx, meta, fs)
	if err != nil {
		return nil, err
	}
	out := make([]Project, 0, len(list))
	for _, q := range list {
		p := Project{ID: q.Project, Dir: vfs.Ino(q.Dir), Quota: q}
		if q.Project == 0 {
			p.Path = "/"
		} else if p.Dir != 0 {
			if p.Path, err = pathOf(ctx, meta, fs, q.Dir); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// pathOf is the path of a directory, "" if it is gone, changes place just now, or lies in a directory that is too large to be searched.
func pathOf(ctx context.Context, meta Meta, fs *metapb.FileSystem, dir uint64) (string, error) {
	path := ""
	for range maxDepth {
		if dir == uint64(vfs.RootIno) {
			return path, nil
		}
		r, err := meta.Query(ctx, uint16(fs.Shard), &metapb.Query{Fs: fs.Id, Q: &metapb.Query_Parent{Parent: &metapb.ParentQ{Dir: dir}}})
		if err != nil {
			return "", unlessGone(err)
		}
		parent := r.GetAttr().GetAttr().GetIno()
		name, err := nameIn(ctx, meta, fs, parent, dir)
		if err != nil || name == "" {
			return "", unlessGone(err)
		}
		path, dir = "/"+name+path, parent
	}
	return "", nil
}

func unlessGone(err error) error {
	switch vfs.KindOf(err) {
	case vfs.KindStale, vfs.KindNotFound, vfs.KindNotDir:
		return nil
	}
	return err
}

// nameIn is the name of an inode in a directory, "" if it is not found.
func nameIn(ctx context.Context, meta Meta, fs *metapb.FileSystem, dir, ino uint64) (string, error) {
	cookie := uint64(0)
	for seen := 0; seen < maxNamed; {
		r, err := meta.Query(ctx, uint16(fs.Shard), &metapb.Query{Fs: fs.Id, Q: &metapb.Query_ReadDir{ReadDir: &metapb.ReadDirQ{Dir: dir, Cookie: cookie}}})
		if err != nil {
			return "", err
		}
		page := r.GetReadDir()
		for _, d := range page.GetEntries() {
			if d.Ino == ino {
				return string(d.Name), nil
			}
			cookie = d.Cookie
		}
		if seen += len(page.GetEntries()); page.GetEof() || len(page.GetEntries()) == 0 {
			break
		}
	}
	return "", nil
}
