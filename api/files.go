package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/internal/filesystem"
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Files are the file systems that this process serves as a gateway.
type Files interface {
	// Find is a file system of a name, with its record; nil if it is not served here.
	Find(workspace, name string) (vfs.FS, *metapb.FileSystem)
	// FS is Find by id.
	FS(id uint32) (vfs.FS, *metapb.FileSystem)
	// Origin is the gateway's at a shard; 0 while it has none.
	Origin(shard uint16) uint64
	// Name is the gateway's.
	Name() string
}

// FileInfo is a file, a directory or a symbolic link.
type FileInfo struct {
	Name    string `json:"name" doc:"What is not UTF-8, and control characters, are replaced"`
	Escaped string `json:"escaped,omitempty" doc:"The name as it stands in a query, percent-encoded, if it cannot be shown as it is"`
	Type    string `json:"type" enum:"file,directory,symlink,block device,character device,fifo,socket"`
	Mode    string `json:"mode" doc:"Octal" example:"0644"`
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Size    uint64 `json:"size"`
	// Used is what it takes, before coding.
	Used  uint64    `json:"used" doc:"Bytes that it takes, before coding"`
	Links uint32    `json:"links"`
	Inode uint64    `json:"inode" doc:"Never used again in its file system"`
	Mtime time.Time `json:"mtime"`
	Ctime time.Time `json:"ctime"`
	Btime time.Time `json:"btime" doc:"When it was made"`
	// ETag is another one after every change.
	ETag   string `json:"etag" doc:"Another one after every change of content or attributes"`
	Target string `json:"target,omitempty" doc:"Of a symbolic link; the API follows none"`
}

// FileList is a page of a directory.
type FileList struct {
	Files []FileInfo `json:"files"`
	Next  string     `json:"next,omitempty" doc:"Pass it as after to get what follows; absent: this is all. What exists all the while is listed once, whatever comes and goes"`
}

// FileChange says what is to be another of a file; what is absent stays.
type FileChange struct {
	Mode  *string    `json:"mode,omitempty" doc:"Octal" pattern:"^[0-7]{1,5}$"`
	UID   *uint32    `json:"uid,omitempty"`
	GID   *uint32    `json:"gid,omitempty"`
	Mtime *time.Time `json:"mtime,omitempty"`
}

type fileOutput struct{ Body FileInfo }

// PathInput names a file. Paths are bytes: what is not UTF-8 is percent-encoded as it is.
type PathInput struct {
	Workspace  string `path:"workspace"`
	FileSystem string `path:"filesystem"`
	Path       string `query:"path" required:"true" doc:"Absolute, in the file system; percent-encoded bytes" example:"/photos/2026"`
}

func etag(a *vfs.Attr) string { return fmt.Sprintf(`"%x-%x"`, uint64(a.Ino), a.Change) }

func fileInfo(name string, a *vfs.Attr, target string) FileInfo {
	out := FileInfo{
		Name: name, Type: a.Type.String(), Mode: fmt.Sprintf("%04o", a.Mode), UID: a.UID, GID: a.GID, Size: a.Size, Used: a.Used, Links: a.Nlink, Inode: uint64(a.Ino),
		Mtime: a.Mtime.UTC(), Ctime: a.Ctime.UTC(), Btime: a.Btime.UTC(), ETag: etag(a), Target: files.Readable(target),
	}
	if !files.Plain(name) {
		out.Escaped = url.PathEscape(name)
		out.Name = files.Readable(name)
	}
	return out
}

func nodeOutputOf(n *files.Node, err error) (*fileOutput, error) {
	if err != nil {
		return nil, err
	}
	return &fileOutput{fileInfo(n.Name, &n.Attr, "")}, nil
}

// tree is a file system for who calls; write refuses one that is only to be read.
func (a *API) tree(ctx context.Context, workspace, name string, write bool) (*files.Tree, *metapb.FileSystem, error) {
	served, err := a.served()
	if err != nil {
		return nil, nil, err
	}
	fs, rec := served.Find(workspace, name)
	if fs == nil {
		return nil, nil, a.unserved(ctx, workspace, name)
	}
	if write {
		if err := writable(rec); err != nil {
			return nil, nil, err
		}
	}
	who := accounts.Of(ctx)
	return &files.Tree{FS: fs, Cred: who.Cred(), MayMake: func(in files.Path) error {
		return who.May(accounts.Editor, accounts.Place{Workspace: workspace, FileSystem: name, Path: string(in)})
	}}, rec, nil
}

// at is tree, with the path in it that is named.
func (a *API) at(ctx context.Context, in *PathInput, write bool) (*files.Tree, *metapb.FileSystem, files.Path, error) {
	p, err := files.ParsePath(in.Path)
	if err != nil {
		return nil, nil, "", err
	}
	t, rec, err := a.tree(ctx, in.Workspace, in.FileSystem, write)
	return t, rec, p, err
}

func writable(rec *metapb.FileSystem) error {
	if rec.ReadOnly {
		return vfs.Errorf(vfs.KindReadOnly, "files", "file system %s may only be read: `rackfs fs set` changes that", rec.Name)
	}
	return nil
}

func (a *API) served() (Files, error) {
	if a.opt.Files != nil {
		if f := a.opt.Files(); f != nil {
			return f, nil
		}
	}
	return nil, vfs.Errorf(vfs.KindNotSupported, "files", "this node is no gateway, or is only starting: ask one that is")
}

// unserved says why a file system is not served here.
func (a *API) unserved(ctx context.Context, workspace, name string) error {
	const op = "files"
	rec, err := filesystem.Find(ctx, a.opt.Meta, workspace, name)
	switch {
	case err != nil:
		return err
	case rec.Kind == filesystem.Local:
		return vfs.Errorf(vfs.KindNotSupported, op, "%s is of kind local: each node's own SSD, which only workloads on that node reach, by mounting it there", name)
	case rec.State != metapb.FileSystemState_FS_ACTIVE:
		return vfs.Errorf(vfs.KindUnavailable, op, "file system %s is %s", name, filesystem.StateName(rec.State))
	case rec.Group != "":
		return vfs.Errorf(vfs.KindUnavailable, op, "file system %s is served by the gateways of the node group %s: ask one of them", name, rec.Group)
	}
	return vfs.Errorf(vfs.KindUnavailable, op, "file system %s is not open here yet: try again", name)
}

func (a *API) files() {
	const fs = "/files/{workspace}/{filesystem}"
	handle(a, "GET "+fs, "list-files", "List a directory, page by page", a.listFiles)
	handle(a, "GET "+fs+"/stat", "stat-file", "Look at one file", a.statFile)
	handle(a, "POST "+fs+"/directory", "make-directory", "Make a directory", a.makeDirectory)
	handle(a, "POST "+fs+"/rename", "rename-file", "Move a file or a directory; a file that is in the way is replaced", a.renameFile)
	handle(a, "PATCH "+fs, "change-file", "Change mode, owner or time of a file", a.changeFile)
	handle(a, "DELETE "+fs, "delete-file", "Delete a file, or a directory that is empty", a.deleteFile)
	raw(a, "GET "+fs+"/content", "download-file", "Download a file, or ranges of it", a.bounded(a.download))
	raw(a, "GET "+fs+"/checksum", "checksum-file", "The SHA-256 of a file's content, or of a range of it", a.checksum)
	raw(a, "GET "+fs+"/archive", "archive-files", "Download a directory as an archive", a.bounded(a.archive))
	raw(a, "PUT "+fs+"/content", "upload-file", "Upload a file: it appears whole or not at all", a.bounded(a.upload))
}

// raw registers an operation that reads its request and writes its answer itself.
func raw(a *API, route, id, summary string, fn func(http.ResponseWriter, *http.Request) error) {
	method, path, _ := strings.Cut(route, " ")
	op := &huma.Operation{
		Method: method, Path: prefix + path, OperationID: id, Summary: summary,
		Parameters: rawParams(path, id), Responses: map[string]*huma.Response{"default": {Description: "What was asked for, or a Problem"}},
	}
	a.huma.OpenAPI().AddOperation(op)
	a.huma.Adapter().Handle(op, a.huma.Middlewares().Handler(func(c huma.Context) {
		r, w := humago.Unwrap(c)
		err := fn(w, r.WithContext(c.Context()))
		a.answered(c.Context(), id, err)
		if err == nil {
			return
		}
		if rec, ok := w.(*answer); ok && rec.status != 0 {
			panic(http.ErrAbortHandler) // the answer has begun: whoever reads it sees that it broke off
		}
		writeRaw(w, problem(err))
	}))
}

func (a *API) listFiles(ctx context.Context, in *struct {
	PathInput
	After string `query:"after" doc:"What next of the page before was"`
	Limit int    `query:"limit" default:"1000" minimum:"1" maximum:"10000"`
}) (*struct{ Body FileList }, error) {
	t, _, p, err := a.at(ctx, &in.PathInput, false)
	if err != nil {
		return nil, err
	}
	cookie := uint64(0)
	if in.After != "" {
		if cookie, err = strconv.ParseUint(in.After, 16, 64); err != nil {
			return nil, vfs.Errorf(vfs.KindBadCookie, "list", "after %q: pass what next of the page before was", in.After)
		}
	}
	page, err := t.List(ctx, p, cookie, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &struct{ Body FileList }{FileList{Files: []FileInfo{}}}
	for _, e := range page.Entries {
		cookie = e.Cookie
		if e.Attr != nil {
			out.Body.Files = append(out.Body.Files, fileInfo(e.Name, e.Attr, ""))
		}
	}
	if !page.EOF && len(page.Entries) > 0 {
		out.Body.Next = strconv.FormatUint(cookie, 16)
	}
	return out, nil
}

func (a *API) statFile(ctx context.Context, in *struct {
	PathInput
	Sync bool `query:"sync" doc:"A transfer begins that sends only what differs: it is refused if that is switched off in the workspace"`
}) (*fileOutput, error) {
	t, rec, p, err := a.at(ctx, &in.PathInput, false)
	if err != nil {
		return nil, err
	}
	if in.Sync {
		if err := accounts.Allows(ctx, a.opt.Meta, rec.Workspace, accounts.FeatureSync); err != nil {
			return nil, err
		}
	}
	n, target, err := t.Stat(ctx, p)
	if err != nil {
		return nil, err
	}
	return &fileOutput{fileInfo(n.Name, &n.Attr, target)}, nil
}

func (a *API) makeDirectory(ctx context.Context, in *struct {
	PathInput
	Parents bool   `query:"parents" doc:"Make those above it that are missing too; that it is there is no error"`
	Mode    string `query:"mode" default:"0755" pattern:"^[0-7]{1,5}$" doc:"Octal"`
}) (*fileOutput, error) {
	mode, err := parseMode(in.Mode)
	if err != nil {
		return nil, err
	}
	t, _, p, err := a.at(ctx, &in.PathInput, true)
	if err != nil {
		return nil, err
	}
	return nodeOutputOf(t.Mkdir(ctx, p, in.Parents, mode))
}

func parseMode(s string) (uint32, error) {
	m, err := strconv.ParseUint(s, 8, 32)
	if err != nil || m > vfs.ModeMask {
		return 0, vfs.Errorf(vfs.KindInvalid, "mode", "%q: write permission bits in octal, such as 0644", s)
	}
	return uint32(m), nil
}

func (a *API) renameFile(ctx context.Context, in *struct {
	PathInput
	To   string `query:"to" required:"true" doc:"The new path, in the same file system"`
	Keep bool   `query:"keep" doc:"It is an error if there is something at the new path"`
}) (*fileOutput, error) {
	to, err := files.ParsePath(in.To)
	if err != nil {
		return nil, err
	}
	t, _, from, err := a.at(ctx, &in.PathInput, true)
	if err != nil {
		return nil, err
	}
	if err := t.Rename(ctx, from, to, in.Keep); err != nil {
		return nil, err
	}
	return nodeOutputOf(t.Walk(ctx, to, "rename"))
}

func (a *API) changeFile(ctx context.Context, in *struct {
	PathInput
	Body FileChange
}) (*fileOutput, error) {
	c := files.Change{UID: in.Body.UID, GID: in.Body.GID}
	if in.Body.Mode != nil {
		m, err := parseMode(*in.Body.Mode)
		if err != nil {
			return nil, err
		}
		c.Mode = &m
	}
	set(&c.Mtime, in.Body.Mtime)
	t, _, p, err := a.at(ctx, &in.PathInput, true)
	if err != nil {
		return nil, err
	}
	return nodeOutputOf(t.SetAttr(ctx, p, c))
}

func (a *API) deleteFile(ctx context.Context, in *struct {
	PathInput
	Directory bool `query:"directory" doc:"It has to be a directory"`
	Recursive bool `query:"recursive" doc:"A directory with all that is in it: the answer is 202 and the job that does it"`
}) (*deleteOutput, error) {
	t, rec, p, err := a.at(ctx, &in.PathInput, true)
	if err != nil {
		return nil, err
	}
	if in.Recursive {
		return a.deleteTree(ctx, t, rec, p)
	}
	what := vfs.RemoveAny
	if in.Directory {
		what = vfs.RemoveDir
	}
	return &deleteOutput{Status: http.StatusNoContent}, t.Remove(ctx, p, what)
}
