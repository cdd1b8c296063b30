package bench

import (
	"context"
	"io"
	"strings"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/vfs"
)

// apiFS is a file system by the storage API: whole files, which are durable when an upload was answered.
type apiFS struct {
	c    *api.Client
	t    *api.Tree
	root string
}

// NewAPI is the target of a directory of a file system; place is WORKSPACE/NAME[/DIR].
func NewAPI(e api.Endpoint, place string) (FS, error) {
	workspace, rest, _ := strings.Cut(strings.Trim(place, "/"), "/")
	name, dir, _ := strings.Cut(rest, "/")
	if workspace == "" || name == "" {
		return nil, vfs.Errorf(vfs.KindInvalid, "bench.target", "%q: write WORKSPACE/FILESYSTEM[/DIRECTORY]", place)
	}
	c, err := api.Connect(e)
	if err != nil {
		return nil, err
	}
	root := ""
	if dir != "" {
		root = "/" + dir
	}
	return &apiFS{c: c, t: c.Tree(workspace, name), root: root}, nil
}

func (a *apiFS) Close(context.Context) error {
	a.c.Close()
	return nil
}

// Root is "" for the root of the file system, so that paths are made by adding "/" and a name.
func (a *apiFS) Root(ctx context.Context) (Dir, error) {
	if a.root == "" {
		return "", nil
	}
	_, err := a.t.Stat(ctx, a.root)
	return a.root, err
}

func at(dir Dir, name string) string { return dir.(string) + "/" + name }

func (a *apiFS) Mkdir(ctx context.Context, dir Dir, name string) (Dir, error) {
	_, err := a.t.Mkdir(ctx, at(dir, name), false)
	return at(dir, name), err
}

func (a *apiFS) Enter(_ context.Context, dir Dir, name string) (Dir, error) {
	return at(dir, name), nil
}

func (a *apiFS) Create(ctx context.Context, dir Dir, name string) error {
	_, err := a.t.Upload(ctx, at(dir, name), nil, api.Put{Length: 0, Keep: true})
	return err
}

const apiDirectory = "directory" // FileInfo.Type

func (a *apiFS) Stat(ctx context.Context, dir Dir, name string) (Entry, error) {
	i, err := a.t.Stat(ctx, at(dir, name))
	return Entry{Name: name, Dir: i.Type == apiDirectory, Size: int64(i.Size)}, err
}

// apiPage is how many entries are asked for at once.
const apiPage = 10000

func (a *apiFS) List(ctx context.Context, dir Dir, each func(Entry) error) error {
	path := dir.(string)
	if path == "" {
		path = "/"
	}
	for after := ""; ; {
		page, err := a.t.List(ctx, path, after, apiPage)
		if err != nil {
			return err
		}
		for _, i := range page.Files {
			if err := each(Entry{Name: i.Name, Dir: i.Type == apiDirectory, Size: int64(i.Size)}); err != nil {
				return err
			}
		}
		if after = page.Next; after == "" {
			return nil
		}
	}
}

func (a *apiFS) Rename(ctx context.Context, dir Dir, name string, to Dir, newName string) error {
	_, err := a.t.Rename(ctx, at(dir, name), at(to, newName), false)
	return err
}

func (a *apiFS) Remove(ctx context.Context, dir Dir, name string) error {
	return a.t.Delete(ctx, at(dir, name))
}

func (a *apiFS) Rmdir(ctx context.Context, dir Dir, name string) error {
	return a.t.Delete(ctx, at(dir, name))
}

func (a *apiFS) Put(ctx context.Context, dir Dir, name string, size int64, buf []byte, _ bool, fill func(p []byte, off int64)) error {
	_, err := a.t.Upload(ctx, at(dir, name), &filler{size: size, buf: buf, fill: fill}, api.Put{Length: size})
	return err
}

// filler reads what fill makes.
type filler struct {
	size, off int64
	buf, left []byte
	fill      func(p []byte, off int64)
}

func (f *filler) Read(p []byte) (int, error) {
	if len(f.left) == 0 {
		if f.off == f.size {
			return 0, io.EOF
		}
		f.left = f.buf[:min(int64(len(f.buf)), f.size-f.off)]
		f.fill(f.left, f.off)
		f.off += int64(len(f.left))
	}
	n := copy(p, f.left)
	f.left = f.left[n:]
	return n, nil
}

func (a *apiFS) Get(ctx context.Context, dir Dir, name string, size int64, buf []byte, each func(p []byte, off int64) error) error {
	in, err := a.t.Download(ctx, at(dir, name), 0, "")
	if err != nil {
		return err
	}
	defer in.Close()
	return getFile(name, size, buf, func(p []byte, _ int64) (int, bool, error) {
		n, err := in.Read(p)
		if err == io.EOF {
			return n, true, nil
		}
		return n, false, err
	}, each)
}

func (a *apiFS) Open(context.Context, Dir, string, bool) (File, error) {
	return nil, vfs.KindNotSupported.Err("bench.api")
}
