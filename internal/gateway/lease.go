package gateway

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/raftmeta"
	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/volume"
)

// reregisterPause is the pause after a registration failed.
const reregisterPause = 500 * time.Millisecond

// membership is the gateway's registration with one shard. When its origin ends it registers anew, unless somebody
// else has its name by then.
type membership struct {
	meta    *raftmeta.Client
	shard   uint16
	name    string
	options raftmeta.LeaseOptions
	log     *slog.Logger

	lease atomic.Pointer[raftmeta.Lease] // nil: none, nothing is served

	mu      sync.Mutex                // guards volumes
	volumes map[uint32]*volume.Volume // by file system

	// retake, if not nil, goes on with what the former origin had, before anything is served.
	retake func(context.Context) error
	// giveUp gives an NFS client to another gateway. Only of shard 0, nil if clients do not outlive gateways. Fixed before watch.
	giveUp func(context.Context, state.ClientID) error
	// address is where requests of its clients are taken from other gateways, "": nowhere. Only of shard 0. Fixed before watch.
	address string
}

// memberships are those of a gateway, by shard.
type memberships struct {
	all    map[uint16]*membership // fixed before watch
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// add makes v, of a file system, one of the volumes that are told when the origin has changed, and asked for what others want.
func (m *membership) add(fs uint32, v *volume.Volume) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.volumes[fs] = v
}

func (m *membership) remove(fs uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.volumes, fs)
}

func (m *membership) valid() bool { return valid(m) }

// valid reports whether all of some memberships have valid leases. It is asked several times in each NFS call.
func valid(ms ...*membership) bool {
	var few [2]*raftmeta.Lease // as many as there mostly are
	leases := few[:0]
	for _, m := range ms {
		l := m.lease.Load()
		if l == nil {
			return false
		}
		leases = append(leases, l)
	}
	return raftmeta.Valid(leases...)
}

// valid reports whether the gateway may say what clients hold in volumes of a shard, or who they are.
func (ms *memberships) valid(shard uint16) bool {
	if shard == clusterShard {
		return ms.all[clusterShard].valid()
	}
	return valid(ms.all[clusterShard], ms.all[shard])
}

// watch follows the memberships until close.
func (ms *memberships) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	ms.cancel = cancel
	for _, m := range ms.all {
		ms.wg.Go(func() { m.watch(ctx) })
		if m.options.Several {
			ms.wg.Go(func() { m.hear(ctx) })
		}
		if m.options.Several && m.shard != clusterShard {
			ms.wg.Go(func() { m.answer(ctx) })
		}
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
		l := m.renewed(ctx)
		if l == nil {
			return
		}
		m.lease.Store(l)
		m.log.Info("gateway: registered anew", "shard", m.shard, "origin", l.Origin())
	}
}

// renewed registers anew and goes on with what the former origin had; nil if it must not or ctx ended.
func (m *membership) renewed(ctx context.Context) *raftmeta.Lease {
	for {
		l, inc := m.again(ctx)
		if l == nil {
			return nil
		}
		m.mu.Lock()
		for _, v := range m.volumes {
			v.Reregistered(l.Origin(), inc)
		}
		m.mu.Unlock()
		switch retaken, over := m.retaken(ctx, l.Ended()); {
		case retaken:
			return l
		case !over:
			return nil
		}
		m.log.Warn("gateway: the metadata ended this gateway's new leases, too, before it knew what the former ones served", "shard", m.shard)
	}
}

// retaken runs retake until it succeeds. It does not if ctx ends first, or the origin that it is run as, which is over then: nothing more is answered to that.
func (m *membership) retaken(ctx context.Context, ended <-chan struct{}) (retaken, over bool) {
	if m.retake == nil {
		return true, false
	}
	for {
		err := m.retake(ctx)
		if err == nil {
			return true, false
		}
		m.log.Warn("gateway: what this gateway's former origin served is not known yet; will be tried again", "shard", m.shard, "err", err)
		select {
		case <-time.After(reregisterPause):
		case <-ended:
			return false, true
		case <-ctx.Done():
			return false, false
		}
	}
}

// again registers anew; nil if it must not or ctx ended.
func (m *membership) again(ctx context.Context) (*raftmeta.Lease, [16]byte) {
	var inc [16]byte
	rand.Read(inc[:]) // one for all tries: the first may have succeeded without an answer
	for {
		l, err := m.meta.Reregister(ctx, m.shard, m.name, inc[:], m.options)
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
//
// It outlives the volume behind it: a file system that is not served any more is stale, and may be served again.
type leasedFS struct {
	need  []*membership
	keeps bool

	closing atomic.Bool // calls that come now are refused; those under way end
	// mu is held for reading by every call, so that the volume is not closed under one.
	mu sync.RWMutex
	fs vfs.FS // nil: not served. Guarded by mu
}

// enter begins a call; leave ends it.
func (f *leasedFS) enter(op string) (vfs.FS, error) {
	if f.closing.Load() {
		return nil, vfs.Errorf(vfs.KindStale, op, "the file system is not served here any more")
	}
	f.mu.RLock()
	if f.fs == nil {
		f.mu.RUnlock()
		return nil, vfs.Errorf(vfs.KindStale, op, "the file system is not served here any more")
	}
	if err := f.check(op); err != nil {
		f.mu.RUnlock()
		return nil, err
	}
	return f.fs, nil
}

func (f *leasedFS) leave() { f.mu.RUnlock() }

// open has the file system served by fs.
func (f *leasedFS) open(fs vfs.FS) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fs = fs
	f.closing.Store(false)
}

// close refuses calls from now on and waits for those under way.
func (f *leasedFS) close() {
	f.closing.Store(true)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fs = nil
}

func (f *leasedFS) check(op string) error {
	if valid(f.need...) {
		return nil
	}
	for _, m := range f.need {
		if !m.valid() {
			return vfs.Errorf(vfs.KindUnavailable, op, "the metadata has not renewed this gateway's lease of shard %d", m.shard)
		}
	}
	return nil // all were renewed this moment
}

// read runs something that only reads.
func read[T any](f *leasedFS, op string, do func(vfs.FS) (T, error)) (T, error) {
	var none T
	fs, err := f.enter(op)
	if err != nil {
		return none, err
	}
	defer f.leave()
	t, err := do(fs)
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

const (
	// repeatPause is between attempts to learn what became of a change, repeatTimeout is for how long that is tried.
	repeatPause   = 50 * time.Millisecond
	repeatTimeout = 2 * time.Minute
)

// change runs something that changes. If the origin ends while a command is under way, nobody tells whether the command was carried out; from then on it cannot be. What a client's call is made of
// the shard remembers under the call's own name, whoever sends it: so it is sent again when the gateway has registered anew, and answered with what it did, or
// carried out now. The client is told nothing until then: to DELAY it would answer with a new call, and an error would be wrong.
func change[T any](ctx context.Context, f *leasedFS, op string, do func(vfs.FS) (T, error)) (T, error) {
	var none T
	call := vfs.CallOf(ctx)
	made, began := call.Made(), time.Now()
	var unknown error
	for {
		t := none
		fs, err := f.enter(op)
		if err == nil {
			t, err = do(fs)
			f.leave()
		}
		switch vfs.KindOf(err) {
		case vfs.KindUnknown:
			unknown = err
		case vfs.KindUnknownOrigin, vfs.KindUnavailable, vfs.KindFenced: // this time nothing was done
		default:
			return t, err
		}
		if unknown == nil || call == nil {
			return t, again(op, err)
		}
		if time.Since(began) > repeatTimeout {
			return none, unknown
		}
		select {
		case <-ctx.Done():
			return none, unknown
		case <-time.After(repeatPause):
		}
		if call.Ended() { // another gateway serves the client by now, and would not know of an open that is recorded here
			return none, unknown
		}
		call.Rewind(made)
	}
}

// StatFS implements vfs.FS, as do the other methods.
func (f *leasedFS) StatFS(ctx context.Context, ino vfs.Ino) (vfs.StatFS, error) {
	return read(f, "statfs", func(fs vfs.FS) (vfs.StatFS, error) { return fs.StatFS(ctx, ino) })
}

func (f *leasedFS) GetAttr(ctx context.Context, ino vfs.Ino) (vfs.Attr, error) {
	return read(f, "getattr", func(fs vfs.FS) (vfs.Attr, error) { return fs.GetAttr(ctx, ino) })
}

func (f *leasedFS) Lookup(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string) (vfs.Attr, error) {
	return read(f, "lookup", func(fs vfs.FS) (vfs.Attr, error) { return fs.Lookup(ctx, c, dir, name) })
}

func (f *leasedFS) Parent(ctx context.Context, c *vfs.Cred, dir vfs.Ino) (vfs.Attr, error) {
	return read(f, "parent", func(fs vfs.FS) (vfs.Attr, error) { return fs.Parent(ctx, c, dir) })
}

func (f *leasedFS) ReadDir(ctx context.Context, c *vfs.Cred, dir vfs.Ino, cookie uint64, maxEntries int, attrs bool) (vfs.DirPage, error) {
	return read(f, "readdir", func(fs vfs.FS) (vfs.DirPage, error) { return fs.ReadDir(ctx, c, dir, cookie, maxEntries, attrs) })
}

func (f *leasedFS) ReadLink(ctx context.Context, ino vfs.Ino) (string, error) {
	return read(f, "readlink", func(fs vfs.FS) (string, error) { return fs.ReadLink(ctx, ino) })
}

func (f *leasedFS) Read(ctx context.Context, ino vfs.Ino, off uint64, p []byte) (n int, eof bool, err error) {
	n, err = read(f, "read", func(fs vfs.FS) (n int, err error) {
		n, eof, err = fs.Read(ctx, ino, off, p)
		return n, err
	})
	return n, eof && err == nil, err
}

// View implements vfs.Viewer.
func (f *leasedFS) View(ctx context.Context, ino vfs.Ino, off uint64, p []byte) (vfs.View, error) {
	var w vfs.View
	_, err := read(f, "read", func(fs vfs.FS) (_ int, err error) {
		if x, ok := fs.(vfs.Viewer); ok {
			w, err = x.View(ctx, ino, off, p)
		} else {
			w.N, w.EOF, err = fs.Read(ctx, ino, off, p)
		}
		return 0, err
	})
	if err != nil {
		w.End()
		return vfs.View{}, err
	}
	return w, nil
}

func (f *leasedFS) SetAttr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, s vfs.SetAttr, opened bool) (vfs.Attr, error) {
	return change(ctx, f, "setattr", func(fs vfs.FS) (vfs.Attr, error) { return fs.SetAttr(ctx, c, ino, s, opened) })
}

func (f *leasedFS) Create(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	return change(ctx, f, "create", func(fs vfs.FS) (vfs.Created, error) { return fs.Create(ctx, c, dir, name, a) })
}

func (f *leasedFS) MakeNode(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.NodeArgs) (vfs.Created, error) {
	return change(ctx, f, "mknod", func(fs vfs.FS) (vfs.Created, error) { return fs.MakeNode(ctx, c, dir, name, a) })
}

func (f *leasedFS) Link(ctx context.Context, c *vfs.Cred, ino, dir vfs.Ino, name string) (a vfs.Attr, d vfs.DirChange, err error) {
	d, err = change(ctx, f, "link", func(fs vfs.FS) (d vfs.DirChange, err error) {
		a, d, err = fs.Link(ctx, c, ino, dir, name)
		return d, err
	})
	return a, d, err
}

func (f *leasedFS) Remove(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	return change(ctx, f, "remove", func(fs vfs.FS) (vfs.DirChange, error) { return fs.Remove(ctx, c, dir, name, what) })
}

func (f *leasedFS) Rename(ctx context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (a, b vfs.DirChange, err error) {
	b, err = change(ctx, f, "rename", func(fs vfs.FS) (b vfs.DirChange, err error) {
		a, b, err = fs.Rename(ctx, c, fromDir, from, toDir, to)
		return b, err
	})
	return a, b, err
}

func (f *leasedFS) Open(ctx context.Context, c *vfs.Cred, ino vfs.Ino, fl vfs.OpenFlags, override bool) (vfs.Attr, error) {
	return change(ctx, f, "open", func(fs vfs.FS) (vfs.Attr, error) { return fs.Open(ctx, c, ino, fl, override) })
}

// Close always passes: it only ends what is in memory. Of a file system that is not served there is nothing.
func (f *leasedFS) Close(ctx context.Context, ino vfs.Ino, fl vfs.OpenFlags) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fs == nil {
		return nil
	}
	return f.fs.Close(ctx, ino, fl)
}

// Write repeats the call while it is not known what became of it, as change does: the shard remembers which bytes were written for it. What nothing was taken of, is to be tried again.
// There is no limit to that but the request's end and the client's: while the cluster takes no data, applications wait, as they do where the client is told to try again.
func (f *leasedFS) Write(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, p []byte, s vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	const op = "write"
	call := vfs.CallOf(ctx)
	for {
		var got vfs.Stable
		var v vfs.Verifier
		fs, err := f.enter(op)
		if err == nil {
			got, v, err = fs.Write(ctx, c, ino, off, p, s)
			f.leave()
		}
		switch k := vfs.KindOf(err); {
		case k == vfs.KindUnknownOrigin || k == vfs.KindFenced || k.Retryable():
		default:
			return got, v, err
		}
		if !call.Doubtful() {
			return got, v, again(op, err)
		}
		unknown := vfs.Errorf(vfs.KindUnknown, op, "inode %d: it may have been written or not: %w", ino, err)
		if call.Ended() { // nobody hears it
			return 0, vfs.Verifier{}, unknown
		}
		select {
		case <-ctx.Done():
			return 0, vfs.Verifier{}, unknown
		case <-time.After(repeatPause):
		}
		call.Repeat()
	}
}

func (f *leasedFS) Commit(ctx context.Context, ino vfs.Ino, off, n uint64) (vfs.Verifier, error) {
	const op = "commit"
	fs, err := f.enter(op)
	if err != nil {
		return vfs.Verifier{}, err
	}
	defer f.leave()
	v, err := fs.Commit(ctx, ino, off, n)
	return v, again(op, err)
}
