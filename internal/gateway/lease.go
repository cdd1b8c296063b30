package gateway

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// reregisterPause is the pause after a registration failed.
const reregisterPause = 500 * time.Millisecond

// membership is the gateway's registration with one shard. When its origin ends it registers anew, unless somebody
// else has its name by then.
type membership struct {
	meta  *raftmeta.Client
	shard uint16
	name  string
	log   *slog.Logger

	lease   atomic.Pointer[raftmeta.Lease] // nil: none, nothing is served
	volumes []*volume.Volume               // of this shard; set before watch begins

	// retake, if not nil, goes on with what the former origin had, before anything is served.
	retake func(context.Context) error
}

// memberships are those of a gateway, by shard.
type memberships struct {
	all    map[uint16]*membership // fixed before watch
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (m *membership) valid() bool {
	l := m.lease.Load()
	return l != nil && l.Valid()
}

// valid reports whether the gateway may say what clients hold in volumes of a shard, or who they are.
func (ms *memberships) valid(shard uint16) bool {
	return ms.all[clusterShard].valid() && ms.all[shard].valid()
}

// watch follows the memberships until close.
func (ms *memberships) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	ms.cancel = cancel
	for _, m := range ms.all {
		ms.wg.Go(func() { m.watch(ctx) })
	}
}

func (ms *memberships) close() {
	if ms.cancel != nil {
		ms.cancel()
	}
	ms.wg.Wait()
}

func (m *membership) watch(ctx context.Context) {
	for {
		select {
		case <-m.lease.Load().Ended():
		case <-ctx.Done():
			return
		}
		m.log.Error("gateway: the metadata ended this gateway's leases because they were not renewed; what was buffered is lost, clients that have it write it again", "shard", m.shard)
		m.lease.Store(nil)
		l, inc := m.again(ctx)
		if l == nil {
			return
		}
		for _, v := range m.volumes {
			v.Reregistered(l.Origin(), inc)
		}
		if !m.retaken(ctx) {
			return
		}
		m.lease.Store(l)
		m.log.Info("gateway: registered anew", "shard", m.shard, "origin", l.Origin())
	}
}

// retaken runs retake until it succeeds; false if ctx ended first.
func (m *membership) retaken(ctx context.Context) bool {
	if m.retake == nil {
		return true
	}
	for {
		err := m.retake(ctx)
		if err == nil {
			return true
		}
		m.log.Warn("gateway: what this gateway's former origin served is not known yet; will be tried again", "shard", m.shard, "err", err)
		select {
		case <-time.After(reregisterPause):
		case <-ctx.Done():
			return false
		}
	}
}

// again registers anew; nil if it must not or ctx ended.
func (m *membership) again(ctx context.Context) (*raftmeta.Lease, [16]byte) {
	var inc [16]byte
	rand.Read(inc[:]) // one for all tries: the first may have succeeded without an answer
	for {
		l, err := m.meta.Reregister(ctx, m.shard, m.name, inc[:])
		switch {
		case err == nil:
			return l, inc
		case vfs.KindOf(err) == vfs.KindExists || vfs.KindOf(err) == vfs.KindSuperseded:
			m.log.Error("gateway: another process serves under this gateway's name; this one serves no more: stop it", "shard", m.shard, "err", err)
			return nil, inc
		}
		select {
		case <-time.After(reregisterPause):
		case <-ctx.Done():
			return nil, inc
		}
	}
}

// leasedFS serves a file system while the gateway's leases are valid. While they are not, others may
// already have been given what this gateway thinks it holds, so everything is to be tried again later. What was
// only read is not answered either if the leases ran out meanwhile: it may be old. What was changed was changed.
type leasedFS struct {
	fs   vfs.FS
	need []*membership
}

func (f *leasedFS) check(op string) error {
	for _, m := range f.need {
		if !m.valid() {
			return vfs.Errorf(vfs.KindUnavailable, op, "the metadata has not renewed this gateway's lease of shard %d", m.shard)
		}
	}
	return nil
}

// read runs something that only reads.
func read[T any](f *leasedFS, op string, do func() (T, error)) (T, error) {
	var none T
	if err := f.check(op); err != nil {
		return none, err
	}
	t, err := do()
	if err == nil {
		err = f.check(op)
	}
	if err != nil {
		return none, again(op, err)
	}
	return t, nil
}

// again is err, or, if the command was refused because the origin had ended, that it is to be tried again.
func again(op string, err error) error {
	if vfs.KindOf(err) == vfs.KindUnknownOrigin {
		return vfs.Errorf(vfs.KindUnavailable, op, "this gateway's lease ended: %w", err)
	}
	return err
}

// StatFS implements vfs.FS, as do the other methods.
func (f *leasedFS) StatFS(ctx context.Context, ino vfs.Ino) (vfs.StatFS, error) {
	return read(f, "statfs", func() (vfs.StatFS, error) { return f.fs.StatFS(ctx, ino) })
}

func (f *leasedFS) GetAttr(ctx context.Context, ino vfs.Ino) (vfs.Attr, error) {
	return read(f, "getattr", func() (vfs.Attr, error) { return f.fs.GetAttr(ctx, ino) })
}

func (f *leasedFS) Lookup(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string) (vfs.Attr, error) {
	return read(f, "lookup", func() (vfs.Attr, error) { return f.fs.Lookup(ctx, c, dir, name) })
}

func (f *leasedFS) Parent(ctx context.Context, c *vfs.Cred, dir vfs.Ino) (vfs.Attr, error) {
	return read(f, "parent", func() (vfs.Attr, error) { return f.fs.Parent(ctx, c, dir) })
}

func (f *leasedFS) ReadDir(ctx context.Context, c *vfs.Cred, dir vfs.Ino, cookie uint64, maxEntries int, attrs bool) (vfs.DirPage, error) {
	return read(f, "readdir", func() (vfs.DirPage, error) { return f.fs.ReadDir(ctx, c, dir, cookie, maxEntries, attrs) })
}

func (f *leasedFS) ReadLink(ctx context.Context, ino vfs.Ino) (string, error) {
	return read(f, "readlink", func() (string, error) { return f.fs.ReadLink(ctx, ino) })
}

func (f *leasedFS) Read(ctx context.Context, ino vfs.Ino, off uint64, p []byte) (n int, eof bool, err error) {
	n, err = read(f, "read", func() (n int, err error) {
		n, eof, err = f.fs.Read(ctx, ino, off, p)
		return n, err
	})
	return n, eof && err == nil, err
}

func (f *leasedFS) SetAttr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, s vfs.SetAttr, opened bool) (vfs.Attr, error) {
	const op = "setattr"
	if err := f.check(op); err != nil {
		return vfs.Attr{}, err
	}
	a, err := f.fs.SetAttr(ctx, c, ino, s, opened)
	return a, again(op, err)
}

func (f *leasedFS) Create(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	const op = "create"
	if err := f.check(op); err != nil {
		return vfs.Created{}, err
	}
	r, err := f.fs.Create(ctx, c, dir, name, a)
	return r, again(op, err)
}

func (f *leasedFS) MakeNode(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.NodeArgs) (vfs.Created, error) {
	const op = "mknod"
	if err := f.check(op); err != nil {
		return vfs.Created{}, err
	}
	r, err := f.fs.MakeNode(ctx, c, dir, name, a)
	return r, again(op, err)
}

func (f *leasedFS) Link(ctx context.Context, c *vfs.Cred, ino, dir vfs.Ino, name string) (vfs.Attr, vfs.DirChange, error) {
	const op = "link"
	if err := f.check(op); err != nil {
		return vfs.Attr{}, vfs.DirChange{}, err
	}
	a, d, err := f.fs.Link(ctx, c, ino, dir, name)
	return a, d, again(op, err)
}

func (f *leasedFS) Remove(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	const op = "remove"
	if err := f.check(op); err != nil {
		return vfs.DirChange{}, err
	}
	d, err := f.fs.Remove(ctx, c, dir, name, what)
	return d, again(op, err)
}

func (f *leasedFS) Rename(ctx context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (vfs.DirChange, vfs.DirChange, error) {
	const op = "rename"
	if err := f.check(op); err != nil {
		return vfs.DirChange{}, vfs.DirChange{}, err
	}
	a, b, err := f.fs.Rename(ctx, c, fromDir, from, toDir, to)
	return a, b, again(op, err)
}

func (f *leasedFS) Open(ctx context.Context, c *vfs.Cred, ino vfs.Ino, fl vfs.OpenFlags, override bool) (vfs.Attr, error) {
	const op = "open"
	if err := f.check(op); err != nil {
		return vfs.Attr{}, err
	}
	a, err := f.fs.Open(ctx, c, ino, fl, override)
	return a, again(op, err)
}

// Close always passes: it only ends what is in memory.
func (f *leasedFS) Close(ctx context.Context, ino vfs.Ino, fl vfs.OpenFlags) error {
	return f.fs.Close(ctx, ino, fl)
}

func (f *leasedFS) Write(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, p []byte, s vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	const op = "write"
	if err := f.check(op); err != nil {
		return 0, vfs.Verifier{}, err
	}
	got, v, err := f.fs.Write(ctx, c, ino, off, p, s)
	return got, v, again(op, err)
}

func (f *leasedFS) Commit(ctx context.Context, ino vfs.Ino, off, n uint64) (vfs.Verifier, error) {
	const op = "commit"
	if err := f.check(op); err != nil {
		return vfs.Verifier{}, err
	}
	v, err := f.fs.Commit(ctx, ino, off, n)
	return v, again(op, err)
}
