package transfer

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/url"
	"path"
	"strconv"
	"time"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// listPage is how many entries are asked for at once.
	listPage = 5000
	// jobPoll is how often it is looked whether a removal has ended.
	jobPoll = 200 * time.Millisecond
)

// remote is a directory of a file system. Paths are relative to it.
type remote struct {
	c    *api.Client
	tree *api.Tree
	at   files.Path
}

func (r *remote) path(p string) string { return string(files.Path(path.Join(string(r.at), p))) }

// RawName is the name of a file as it is, of one that cannot be shown too.
func RawName(f *api.FileInfo) (string, error) {
	name := f.Name
	if f.Escaped != "" {
		var err error
		if name, err = url.PathUnescape(f.Escaped); err != nil {
			return "", vfs.Errorf(vfs.KindInvalid, "list", "malformed answer: the name %q", f.Escaped)
		}
	}
	if err := vfs.CheckName(name, "list"); err != nil {
		return "", err
	}
	return name, nil
}

func remoteEntry(name string, f *api.FileInfo) (Entry, error) {
	mode, err := strconv.ParseUint(f.Mode, 8, 32)
	if err != nil {
		return Entry{}, vfs.Errorf(vfs.KindInvalid, "list", "malformed answer: mode %q", f.Mode)
	}
	e := Entry{Name: name, Size: int64(f.Size), Mode: uint32(mode) & 0o777, Mtime: f.Mtime, ETag: f.ETag, Type: Other}
	switch f.Type {
	case "file":
		e.Type = File
	case "directory":
		e.Type = Dir
	case "symlink":
		e.Type = Link
	}
	return e, nil
}

func (r *remote) stat(ctx context.Context, p string) (Entry, error) {
	f, err := r.tree.Stat(ctx, r.path(p))
	if err != nil {
		return Entry{}, err
	}
	return remoteEntry(path.Base(r.path(p)), &f)
}

func (r *remote) list(ctx context.Context, dir string) (out []Entry, err error) {
	err = eachFile(ctx, r.tree, r.path(dir), func(name string, f *api.FileInfo) error {
		e, err := remoteEntry(name, f)
		out = append(out, e)
		return err
	})
	return out, err
}

// eachFile calls fn for what is in a directory, in the order of the server.
func eachFile(ctx context.Context, t *api.Tree, dir string, fn func(name string, f *api.FileInfo) error) error {
	for after := ""; ; {
		var page api.FileList
		err := patiently(ctx, func() (err error) {
			page, err = t.List(ctx, dir, after, listPage)
			return err
		}, nil)
		if err != nil {
			return err
		}
		for i := range page.Files {
			name, err := RawName(&page.Files[i])
			if err != nil {
				return err
			}
			if err := fn(name, &page.Files[i]); err != nil {
				return err
			}
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

func (r *remote) sum(ctx context.Context, p string, e Entry, off, n int64) (sum []byte, err error) {
	var c api.Checksum
	err = patiently(ctx, func() (err error) {
		c, err = r.tree.Checksum(ctx, r.path(p), uint64(off), uint64(n), e.ETag)
		return err
	}, nil)
	if err != nil {
		return nil, err
	}
	if c.Length != uint64(n) {
		return nil, vfs.Errorf(vfs.KindChanged, "checksum", "%s became shorter: run it again", r.path(p))
	}
	return hex.DecodeString(c.SHA256)
}

func octal(mode uint32) string { return fmt.Sprintf("%04o", mode) }

func (r *remote) mkdir(ctx context.Context, p string, mode uint32) error {
	return patiently(ctx, func() error {
		_, err := r.tree.MkdirMode(ctx, r.path(p), true, octal(mode))
		return err
	}, nil)
}

func (r *remote) change(ctx context.Context, p string, e Entry) error {
	mode := octal(e.Mode)
	ch := api.FileChange{Mode: &mode}
	if e.Type != Dir {
		ch.Mtime = &e.Mtime
	}
	return patiently(ctx, func() error {
		_, err := r.tree.Change(ctx, r.path(p), ch)
		return err
	}, nil)
}

func (r *remote) remove(ctx context.Context, p string, dir bool) error {
	return patiently(ctx, func() error { return RemoveAll(ctx, r.c, r.tree, r.path(p), nil) }, nil)
}

// RemoveAll removes what is at a path, of a directory all that is in it, and waits for the job that does it; seen is told how that stands.
func RemoveAll(ctx context.Context, c *api.Client, t *api.Tree, p string, seen func(api.Job)) error {
	j, err := t.DeleteAll(ctx, p)
	if err != nil || j == nil {
		if vfs.KindOf(err) == vfs.KindNotFound {
			return nil
		}
		return err
	}
	for {
		if seen != nil {
			seen(*j)
		}
		switch {
		case j.State == "done" && j.ItemsFailed == 0:
			return nil
		case j.State == "done" || j.State == "failed" || j.State == "canceled":
			return vfs.Errorf(vfs.KindIO, "remove", "%s: job %d is %s, %d files are left: %s", p, j.ID, j.State, j.ItemsFailed, j.Error)
		}
		if err := pause(ctx, jobPoll); err != nil {
			return err
		}
		err := patiently(ctx, func() error {
			now, err := c.Job(ctx, j.ID)
			if err == nil {
				j = &now
			}
			return err
		}, nil)
		if err != nil {
			return err
		}
	}
}

// Walk calls fn for what is at a path and, of a directory, for all that is in it, directories before their content. Paths are absolute, raw bytes. Of directories
// below it that may not be read denied is told.
func Walk(ctx context.Context, t *api.Tree, p string, fn func(p string, f *api.FileInfo) error, denied func(p string, err error)) error {
	f, err := t.Stat(ctx, p)
	if err != nil {
		return err
	}
	return walk(ctx, t, p, &f, fn, denied, true)
}

func walk(ctx context.Context, t *api.Tree, p string, f *api.FileInfo, fn func(p string, f *api.FileInfo) error, denied func(p string, err error), top bool) error {
	if err := fn(p, f); err != nil || f.Type != "directory" {
		return err
	}
	var dirs []string
	var infos []api.FileInfo
	err := eachFile(ctx, t, p, func(name string, f *api.FileInfo) error {
		if f.Type == "directory" {
			dirs, infos = append(dirs, path.Join(p, name)), append(infos, *f)
			return nil
		}
		return fn(path.Join(p, name), f)
	})
	switch k := vfs.KindOf(err); {
	case k == vfs.KindNotFound:
		return nil // it went away
	case !top && (k == vfs.KindAccess || k == vfs.KindPerm):
		denied(p, err)
		return nil
	}
	for i := 0; err == nil && i < len(dirs); i++ {
		err = walk(ctx, t, dirs[i], &infos[i], fn, denied, false)
	}
	return err
}
