package powercut

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rackfs/rackfs/internal/vfile"
	"github.com/rackfs/rackfs/internal/vfile/crashtest"
	"github.com/rackfs/rackfs/vfs"
)

// tree is what a file system holds: files by path, the same one under each of its names.
type tree map[string]*file

type file struct{ data []byte }

// String tells apart what a user can tell apart.
func (t tree) String() string {
	names, first := map[*file]int{}, map[*file]string{}
	paths := slices.Sorted(maps.Keys(t))
	for _, p := range paths {
		f := t[p]
		if names[f]++; names[f] == 1 {
			first[f] = p
		}
	}
	var out strings.Builder
	for _, p := range paths {
		f := t[p]
		line(&out, p, first[f], uint32(names[f]), f.data)
	}
	return out.String()
}

func line(out *strings.Builder, p, first string, nlink uint32, data []byte) {
	fmt.Fprintf(out, "%s = %s, %d links, %d bytes, %.4x\n", p, first, nlink, len(data), sha256.Sum256(data))
}

// look is the tree as a volume shows it, and how many inodes it has.
func look(ctx context.Context, v vfs.FS) (string, uint64, error) {
	inodes := uint64(1)
	type dir struct {
		ino  vfs.Ino
		path string
	}
	found := map[string]vfs.Attr{}
	for dirs := []dir{{vfs.RootIno, ""}}; len(dirs) > 0; dirs = dirs[1:] {
		for cookie := uint64(0); ; {
			page, err := v.ReadDir(ctx, &vfs.Root, dirs[0].ino, cookie, 100, true)
			if err != nil {
				return "", 0, err
			}
			for _, e := range page.Entries {
				p := path.Join(dirs[0].path, e.Name)
				a, err := v.Lookup(ctx, &vfs.Root, dirs[0].ino, e.Name)
				if err != nil {
					return "", 0, fmt.Errorf("%s: %w", p, err)
				}
				if a.Type == vfs.TypeDir {
					dirs = append(dirs, dir{a.Ino, p})
					inodes++
				} else {
					found[p] = a
				}
				cookie = e.Cookie
			}
			if page.EOF {
				break
			}
		}
	}
	var out strings.Builder
	first := map[vfs.Ino]string{}
	for _, p := range slices.Sorted(maps.Keys(found)) {
		a := found[p]
		if _, ok := first[a.Ino]; !ok {
			first[a.Ino] = p
			inodes++
		}
		data := make([]byte, a.Size)
		n, _, err := v.Read(ctx, a.Ino, 0, data)
		if err == nil && n < len(data) {
			err = fmt.Errorf("%d of %d bytes", n, len(data))
		}
		if err != nil {
			return "", 0, fmt.Errorf("%s: %w", p, err)
		}
		line(&out, p, first[a.Ino], a.Nlink, data)
	}
	return out.String(), inodes, nil
}

// run is a sequence of operations and what it makes.
type run struct {
	t    *testing.T
	box  *box
	gw   *gateway
	ctx  context.Context // of box
	vol  vfs.FS          // of gw
	tree tree
	inos map[string]vfs.Ino
	rng  *rand.Rand
}

// cuts collects what power cuts leave.
type cuts struct {
	mem   *vfile.Mem
	real  *crashtest.Real
	every int // operations per cut
	skip  int // operations before the first
	lose  func(vfile.Change) bool

	mu     sync.Mutex // guards all below
	armed  bool
	done   int // operations of the sequence that were acknowledged
	ops    int
	rng    *rand.Rand
	prints *vfile.Prints
	seen   map[[2]uint64]bool
	left   []cut
}

type cut struct {
	disk *vfile.Mem
	done int
	what string
}

// survival is how much of what is not synced survives a cut, in each of its kinds.
var survival = []float64{0, 1, 0.5, 0.5}

// before is called before each operation on a file.
func (c *cuts) before(op vfile.Change) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed && c.real != nil && (op.Kind == vfile.SyncNames || op.Kind == vfile.RenameName) {
		c.real.Refresh() // bbolt's files have the names that are made durable now
	}
	if c.armed {
		if c.ops++; c.ops%c.every == c.skip {
			c.cut(fmt.Sprintf("before operation %d, %s %s", c.ops, op.Kind, op.Path))
		}
	}
	return c.armed && c.lose != nil && c.lose(op)
}

// cut keeps what a cut leaves now. c.mu is held.
func (c *cuts) cut(when string) {
	c.real.Refresh()
	for _, s := range survival {
		m := c.mem.CrashClone(c.rng, s, nil)
		if k := [2]uint64{c.prints.Of(m), uint64(c.done)}; !c.seen[k] {
			c.seen[k] = true
			c.left = append(c.left, cut{m, c.done, fmt.Sprintf("power cut %s, %v of what is not synced survives", when, s)})
		}
	}
}

// snapshot has the replica take a snapshot and drop its log, but for the last entries.
func (r *run) snapshot() {
	r.t.Helper()
	r.must(r.box.raft.Snapshot().Error())
}

// collect has all graces end and the collectors make a pass.
func (r *run) collect() {
	r.t.Helper()
	_, err := r.box.collect()
	r.must(err)
}

// die ends the gateway, and begins another one.
func (r *run) die() {
	r.t.Helper()
	r.gw.vol.Abandon()
	g, err := r.box.register(3)
	r.must(err)
	r.gw, r.vol = g, g.vol
}

// acknowledged notes that an operation of the sequence has ended.
func (c *cuts) acknowledged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done++
}

func (r *run) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// start starts the machine and a gateway.
func (r *run) start(d disks, create bool, generation byte) {
	r.t.Helper()
	b, err := start(d, create)
	r.must(err)
	if create {
		r.must(b.prepare())
	}
	g, err := b.register(generation)
	r.must(err)
	r.box, r.gw, r.ctx, r.vol = b, g, b.ctx, g.vol
}

func (r *run) dir(p string) (vfs.Ino, string) {
	if d := path.Dir(p); d != "." {
		return r.inos[d], path.Base(p)
	}
	return vfs.RootIno, p
}

func (r *run) mkdir(p string) {
	r.t.Helper()
	mode := uint32(0o755)
	d, name := r.dir(p)
	c, err := r.vol.MakeNode(r.ctx, &vfs.Root, d, name, vfs.NodeArgs{Type: vfs.TypeDir, Attr: vfs.SetAttr{Mode: &mode}})
	r.must(err)
	r.inos[p] = c.Attr.Ino
}

const both = vfs.OpenRead | vfs.OpenWrite

// create makes a file and leaves it open.
func (r *run) create(p string) {
	r.t.Helper()
	mode := uint32(0o644)
	d, name := r.dir(p)
	c, err := r.vol.Create(r.ctx, &vfs.Root, d, name, vfs.CreateArgs{Attr: vfs.SetAttr{Mode: &mode}, Open: both})
	r.must(err)
	r.inos[p] = c.Attr.Ino
	r.tree[p] = &file{}
}

func (r *run) open(p string) {
	r.t.Helper()
	_, err := r.vol.Open(r.ctx, &vfs.Root, r.inos[p], both, false)
	r.must(err)
}

func (r *run) close(p string) {
	r.t.Helper()
	r.must(r.vol.Close(r.ctx, r.inos[p], both))
}

// write writes n bytes and makes them durable.
func (r *run) write(p string, off, n int) {
	r.t.Helper()
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(r.rng.Uint32())
	}
	_, _, err := r.vol.Write(r.ctx, &vfs.Root, r.inos[p], uint64(off), data, vfs.Unstable)
	r.must(err)
	_, err = r.vol.Commit(r.ctx, r.inos[p], 0, 0)
	r.must(err)
	f := r.tree[p]
	if old := f.data; len(old) < off+n {
		f.data = make([]byte, off+n)
		copy(f.data, old)
	}
	copy(f.data[off:], data)
}

func (r *run) truncate(p string, n int) {
	r.t.Helper()
	size := uint64(n)
	_, err := r.vol.SetAttr(r.ctx, &vfs.Root, r.inos[p], vfs.SetAttr{Size: &size}, true)
	r.must(err)
	r.tree[p].data = r.tree[p].data[:n:n]
}

func (r *run) rename(from, to string) {
	r.t.Helper()
	fd, fn := r.dir(from)
	td, tn := r.dir(to)
	_, _, err := r.vol.Rename(r.ctx, &vfs.Root, fd, fn, td, tn)
	r.must(err)
	r.tree[to], r.inos[to] = r.tree[from], r.inos[from]
	delete(r.tree, from)
}

func (r *run) link(p, to string) {
	r.t.Helper()
	d, name := r.dir(to)
	_, _, err := r.vol.Link(r.ctx, &vfs.Root, r.inos[p], d, name)
	r.must(err)
	r.tree[to], r.inos[to] = r.tree[p], r.inos[p]
}

func (r *run) remove(p string) {
	r.t.Helper()
	d, name := r.dir(p)
	_, err := r.vol.Remove(r.ctx, &vfs.Root, d, name, vfs.RemoveFile)
	r.must(err)
	delete(r.tree, p)
}
