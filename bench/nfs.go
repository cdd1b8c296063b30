package bench

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/vfs"
)

const (
	// keepAlive is how often an idle client renews its lease, while another target is measured.
	keepAlive = 5 * time.Second
	// lockRetry is the wait before a lock is asked for again that somebody holds; it doubles up to lockRetryMax.
	lockRetry    = time.Millisecond
	lockRetryMax = 64 * time.Millisecond
	// nfsPatience is the default of NFSConfig.Patience.
	nfsPatience = 30 * time.Second
)

// NFSConfig names an export.
type NFSConfig struct {
	Addr     string // host:port
	Path     string
	Sessions int           // each with a connection of its own
	Patience time.Duration // how long the server may take to answer at first; 0: half a minute
}

// nfsFS is an export, by a client without a cache: every call is a COMPOUND, as those of Linux are.
type nfsFS struct {
	c    *nfsclient.Client
	path string

	owners atomic.Uint64 // how many there have been

	// stop ends the goroutine that keeps the lease, which done waits for.
	stop context.CancelFunc
	done sync.WaitGroup
}

// NewNFS connects to an export.
func NewNFS(ctx context.Context, cfg NFSConfig) (FS, error) {
	const op = "bench.nfs"
	patience := cmp.Or(cfg.Patience, nfsPatience)
	first, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := nfsclient.Dial(first, nfsclient.Config{
		Addr: cfg.Addr, Owner: fmt.Sprintf("rackfs-bench-%d-%d", os.Getpid(), time.Now().UnixNano()), Minor: 2, Sessions: cfg.Sessions, Patient: true,
	})
	late := func(err error) error {
		if first.Err() == nil || ctx.Err() != nil {
			return err
		}
		return vfs.Errorf(vfs.KindUnavailable, op, "nobody answers by NFSv4.2 at %s within %v, check host and port, and whether this machine may mount: %w", cfg.Addr, patience, err)
	}
	if err != nil {
		return nil, late(err)
	}
	n := &nfsFS{c: c, path: cfg.Path}
	if _, err := n.Root(first); err != nil {
		c.Disconnect()
		return nil, late(vfs.Errorf(vfs.KindOf(err), op, "%s of %s: %w", cfg.Path, cfg.Addr, err))
	}
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	n.done.Go(func() {
		for {
			select {
			case <-keep.Done():
				return
			case <-time.After(keepAlive):
			}
			for i := range max(1, cfg.Sessions) {
				if r, err := c.Session(i).Do(keep, nfsclient.NewCompound()); err == nil { // an error is seen again by who calls next
					r.Release()
				}
			}
		}
	})
	return n, nil
}

func (n *nfsFS) Close(ctx context.Context) error {
	n.stop()
	n.done.Wait()
	return n.c.Close(ctx)
}

func (n *nfsFS) Root(ctx context.Context) (Dir, error) {
	fh, _, err := n.c.Walk(ctx, n.path)
	return fh, err
}

func (n *nfsFS) Mkdir(ctx context.Context, dir Dir, name string) (Dir, error) {
	fh, _, err := n.c.Mkdir(ctx, dir.(nfsclient.FH), name, 0o755)
	return fh, err
}

func (n *nfsFS) Enter(ctx context.Context, dir Dir, name string) (Dir, error) {
	fh, _, err := n.c.Lookup(ctx, dir.(nfsclient.FH), name)
	return fh, err
}

// open opens a file. Opens of one owner are one open (RFC 8881, 9.9), so who may open a file that is open already has an owner of its own.
func (n *nfsFS) open(ctx context.Context, dir Dir, name, owner string, how nfsclient.CreateMode, access uint32) (*nfsFile, error) {
	a := nfsclient.OpenArgs{Name: name, Owner: owner, Create: how, Access: access}
	if how != nfsclient.NoCreate {
		a.Attr = *attr.Mode(0o644)
	}
	f, err := n.c.Open(ctx, dir.(nfsclient.FH), a)
	if err != nil {
		return nil, err
	}
	return &nfsFile{c: n.c, f: f, lock: nfsclient.Lock{Owner: "lock-" + owner}}, nil
}

func (n *nfsFS) Create(ctx context.Context, dir Dir, name string) error {
	f, err := n.open(ctx, dir, name, "", nfsclient.Guarded, nfsv4.OPEN4_SHARE_ACCESS_BOTH)
	if err != nil {
		return err
	}
	return f.Close(ctx)
}

func (n *nfsFS) Stat(ctx context.Context, dir Dir, name string) (Entry, error) {
	_, a, err := n.c.Lookup(ctx, dir.(nfsclient.FH), name)
	return nfsEntry(name, &a), err
}

func nfsEntry(name string, a *attr.Attr) Entry {
	return Entry{Name: name, Dir: a.Type == nfsv4.NF4DIR, Size: int64(a.Size)}
}

// listed are what Linux asks for in a listing with attributes.
var listed = func() attr.Bitmap {
	b := attr.Stat()
	b[0] |= 1<<nfsv4.FATTR4_FILEHANDLE | 1<<nfsv4.FATTR4_RDATTR_ERROR
	return b
}()

func (n *nfsFS) List(ctx context.Context, dir Dir, each func(Entry) error) error {
	all, err := n.c.Readdir(ctx, dir.(nfsclient.FH), listed)
	for i := 0; err == nil && i < len(all); i++ {
		err = each(nfsEntry(all[i].Name, &all[i].Attr))
	}
	return err
}

func (n *nfsFS) Rename(ctx context.Context, dir Dir, name string, to Dir, newName string) error {
	return n.c.Rename(ctx, dir.(nfsclient.FH), name, to.(nfsclient.FH), newName)
}

func (n *nfsFS) Remove(ctx context.Context, dir Dir, name string) error {
	return n.c.Remove(ctx, dir.(nfsclient.FH), name)
}

func (n *nfsFS) Rmdir(ctx context.Context, dir Dir, name string) error {
	return n.c.Remove(ctx, dir.(nfsclient.FH), name)
}

func (n *nfsFS) Put(ctx context.Context, dir Dir, name string, size int64, buf []byte, _ bool, fill func(p []byte, off int64)) error {
	f, err := n.open(ctx, dir, name, "", nfsclient.Unchecked, nfsv4.OPEN4_SHARE_ACCESS_BOTH)
	if err != nil {
		return err
	}
	// Durable in any case: closing a file commits it.
	return putFile(ctx, f, size, buf, true, fill)
}

func (n *nfsFS) Get(ctx context.Context, dir Dir, name string, size int64, buf []byte, each func(p []byte, off int64) error) (err error) {
	f, err := n.open(ctx, dir, name, "", nfsclient.NoCreate, nfsv4.OPEN4_SHARE_ACCESS_READ)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(ctx); err == nil {
			err = cerr
		}
	}()
	return getFile(name, size, buf, func(p []byte, off int64) (int, bool, error) {
		k, eof, err := n.c.Read(ctx, f.f, uint64(off), p)
		if err == nil && k == 0 && !eof {
			err = short(name, off, size)
		}
		return k, eof, err
	}, each)
}

func (n *nfsFS) Open(ctx context.Context, dir Dir, name string, create bool) (File, error) {
	how := nfsclient.NoCreate
	if create {
		how = nfsclient.Unchecked
	}
	f, err := n.open(ctx, dir, name, fmt.Sprintf("open-%d", n.owners.Add(1)), how, nfsv4.OPEN4_SHARE_ACCESS_BOTH)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// nfsFile is an open file of an nfsFS.
type nfsFile struct {
	c    *nfsclient.Client
	f    *nfsclient.File
	lock nfsclient.Lock

	mu sync.Mutex
	// Fields protected by mu.
	dirty    bool
	verifier [8]byte // of the writes since the last COMMIT
}

func (f *nfsFile) Write(ctx context.Context, p []byte, off int64, durable bool) error {
	stable := nfsv4.UNSTABLE4
	if durable {
		stable = nfsv4.FILE_SYNC4
	}
	w, err := f.c.Write(ctx, f.f, uint64(off), stable, p)
	if err != nil {
		return err
	}
	if int(w.Count) != len(p) {
		return vfs.Errorf(vfs.KindIO, "bench.nfs", "WRITE took %d of %d bytes", w.Count, len(p))
	}
	if w.Stable == nfsv4.FILE_SYNC4 {
		return nil
	}
	if durable {
		return vfs.Errorf(vfs.KindCorrupt, "bench.nfs", "a WRITE with FILE_SYNC4 was answered as less stable")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirty && f.verifier != w.Verifier {
		return lost()
	}
	f.dirty, f.verifier = true, w.Verifier
	return nil
}

// lost is the error of a server that has forgotten unstable writes: a client would write again, but what is measured then is a failure.
func lost() error {
	return vfs.Errorf(vfs.KindIO, "bench.nfs", "the server lost writes before their COMMIT (its verifier changed): it restarted, or memory ran out; measure again")
}

func (f *nfsFile) Read(ctx context.Context, p []byte, off int64) error {
	for done := 0; done < len(p); {
		n, eof, err := f.c.Read(ctx, f.f, uint64(off)+uint64(done), p[done:])
		if err != nil {
			return err
		}
		if done += n; done < len(p) && (eof || n == 0) {
			return short("a file", off+int64(done), off+int64(len(p)))
		}
	}
	return nil
}

// Sync commits. Who writes meanwhile may find its writes covered by this COMMIT or not, as with fsync.
func (f *nfsFile) Sync(ctx context.Context) error {
	f.mu.Lock()
	dirty, verifier := f.dirty, f.verifier
	f.dirty = false
	f.mu.Unlock()
	if !dirty {
		return nil
	}
	v, err := f.c.Commit(ctx, f.f.FH, 0, 0)
	if err == nil && v != verifier {
		err = lost()
	}
	return err
}

func (f *nfsFile) Close(ctx context.Context) error {
	err := f.Sync(ctx)
	if cerr := f.c.CloseFile(ctx, f.f); err == nil {
		err = cerr
	}
	return err
}

func (f *nfsFile) Lock(ctx context.Context, off, n int64) error {
	for wait := lockRetry; ; wait = min(2*wait, lockRetryMax) {
		_, err := f.c.LockRange(ctx, f.f, &f.lock, nfsv4.WRITE_LT, uint64(off), uint64(n))
		if nfsclient.StatusOf(err) != nfsv4.NFS4ERR_DENIED {
			return err
		}
		select {
		case <-ctx.Done():
			return vfs.Wrap("bench.lock", context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

func (f *nfsFile) Unlock(ctx context.Context, off, n int64) error {
	return f.c.Unlock(ctx, f.f, &f.lock, uint64(off), uint64(n))
}

// parseNFS reads HOST:PORT/PATH.
func parseNFS(place string) (addr, path string, err error) {
	addr, path, ok := strings.Cut(place, "/")
	if !ok || !strings.Contains(addr, ":") || path == "" {
		return "", "", vfs.Errorf(vfs.KindInvalid, "bench.target", "nfs:%s: write nfs:HOST:PORT/EXPORT", place)
	}
	return addr, "/" + path, nil
}
