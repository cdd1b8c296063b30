package localssd

import (
	"container/list"
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// node is an inode that is in use, or was lately.
type node struct {
	ino vfs.Ino
	typ vfs.Type
	fd  int // O_PATH; -1 while it is in no use. Changes only while refs is 0

	// Guarded by table.mu.
	refs     int
	opens    int
	unlinked bool          // its last name was taken away here, or was gone when it was looked at
	idle     *list.Element // in table.idle, while refs is 0 and fd is open

	// names serialises changes of a directory's names, or of an inode's attributes, so that Change before and after is told exactly.
	names sync.Mutex

	io struct {
		sync.Mutex
		read, write int // descriptors, -1: none; they stay until the node is closed
		dirty       bool
		syncing     int // syncs that run
	}

	verifier *[8]byte // of an exclusive create; guarded by names

	pending atomic.Uint64 // changes made here
	change  changeState
}

// table are the nodes of a volume.
type table struct {
	fs  *FS
	max int

	mu    sync.Mutex
	nodes map[vfs.Ino]*node
	idle  *list.List // of *node with descriptors and without use, most recent first

	floor atomic.Int64 // see changeState
}

func (t *table) init(fs *FS, limit int) {
	t.fs, t.max, t.nodes, t.idle = fs, limit, make(map[vfs.Ino]*node), list.New()
	t.floor.Store(now())
}

// get is the node of ino, which the caller puts back. KindStale if there is none in the volume.
func (fs *FS) get(ino vfs.Ino, op string) (*node, error) {
	if n := fs.nodes.use(ino); n != nil {
		return n, nil
	}
	h, ok := fs.codec.handle(ino)
	if !ok {
		return nil, vfs.Errorf(vfs.KindStale, op, "inode %d", ino)
	}
	fd, err := openHandle(fs.rootFD, &h, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil, vfs.Errorf(vfs.KindStale, op, "inode %d", ino)
		}
		return nil, fail(op, err)
	}
	typ, v, err := fs.inside(fd, &h)
	if err != nil {
		unix.Close(fd)
		return nil, vfs.Wrap(op, err)
	}
	return fs.nodes.adopt(ino, fd, typ, v), nil
}

// getFile is get for what only regular files can do.
func (fs *FS) getFile(ino vfs.Ino, op string) (*node, error) {
	n, err := fs.get(ino, op)
	if err != nil || n.typ == vfs.TypeFile {
		return n, err
	}
	fs.put(n)
	if n.typ == vfs.TypeDir {
		return nil, vfs.KindIsDir.Err(op)
	}
	return nil, vfs.KindWrongType.Err(op)
}

func (fs *FS) getDir(ino vfs.Ino, op string) (*node, error) {
	n, err := fs.get(ino, op)
	if err != nil || n.typ == vfs.TypeDir {
		return n, err
	}
	fs.put(n)
	return nil, vfs.KindNotDir.Err(op)
}

// use takes a node that has its descriptor.
func (t *table) use(ino vfs.Ino) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[ino]
	if n == nil || n.fd < 0 {
		return nil
	}
	t.take(n)
	return n
}

// known reports whether there is a node of ino.
func (t *table) known(ino vfs.Ino) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nodes[ino] != nil
}

func (t *table) take(n *node) {
	n.refs++
	if n.idle != nil {
		t.idle.Remove(n.idle)
		n.idle = nil
	}
}

// adopt is the node of an inode that fd was opened for; it takes fd over.
func (t *table) adopt(ino vfs.Ino, fd int, typ vfs.Type, verifier *[8]byte) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[ino]
	switch {
	case n == nil:
		n = &node{ino: ino, typ: typ, fd: fd, verifier: verifier}
		n.io.read, n.io.write = -1, -1
		t.nodes[ino] = n
	case n.fd < 0:
		n.fd = fd
	default:
		unix.Close(fd)
	}
	t.take(n)
	return n
}

// put gives a node back.
func (fs *FS) put(n *node) { fs.nodes.put(n) }

func (t *table) put(n *node) {
	var out []*node
	t.mu.Lock()
	if n.refs--; n.refs == 0 {
		switch {
		case n.unlinked && n.opens == 0:
			t.forget(n)
			out = append(out, n)
		case n.unlinked: // its descriptor is what keeps it
		default:
			n.idle = t.idle.PushFront(n)
		}
	}
	for t.idle.Len() > t.max {
		old := t.idle.Back().Value.(*node)
		t.idle.Remove(old.idle)
		old.idle = nil
		if old.opens == 0 {
			t.forget(old)
			out = append(out, old)
		} else {
			out = append(out, old.shed())
		}
	}
	t.mu.Unlock()
	for _, n := range out {
		t.fs.closeNode(n)
	}
}

// forget takes a node out of the table. What its Change was beyond its ctime is forgotten with it, and the floor makes up for it.
func (t *table) forget(n *node) {
	delete(t.nodes, n.ino)
	if c := n.change.ctimeOf(n.pending.Load()); c > 0 {
		for {
			old := t.floor.Load()
			if old >= c || t.floor.CompareAndSwap(old, c) {
				return
			}
		}
	}
}

// shed takes the descriptors out of a node that stays, as a node that is closed.
func (n *node) shed() *node {
	n.io.Lock()
	defer n.io.Unlock()
	out := &node{fd: n.fd}
	out.io.read, out.io.write, out.io.dirty = n.io.read, n.io.write, n.io.dirty
	n.fd, n.io.read, n.io.write, n.io.dirty = -1, -1, -1, false
	return out
}

// closeNode closes the descriptors of a node that is in no table. An error of writing back is told to descriptors
// that are open then, so what was not committed is synced before they go.
func (fs *FS) closeNode(n *node) {
	if n.io.dirty && n.io.write >= 0 && !n.unlinked {
		if err := unix.Fdatasync(n.io.write); err != nil {
			fs.lost(err)
		}
	}
	for _, fd := range []int{n.io.read, n.io.write, n.fd} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// close closes what is open when the volume ends.
func (t *table) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.nodes {
		t.fs.closeNode(n)
	}
	t.nodes = nil
	return nil
}

// gone is told that an inode has no name any more.
func (t *table) gone(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.unlinked = true
}

// opened counts an open.
func (t *table) opened(n *node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.opens++
}

// closed counts a close, and reports whether there was an open.
func (t *table) closed(n *node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.opens == 0 {
		return false
	}
	n.opens--
	return true
}

// vanished reports whether an inode without names is not open either.
func (t *table) vanished(n *node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.unlinked = true
	return n.opens == 0
}

// reader is a descriptor to read a regular file or list a directory by, as the process itself.
func (n *node) reader() (int, error) {
	n.io.Lock()
	defer n.io.Unlock()
	if n.io.write >= 0 {
		return n.io.write, nil
	}
	if n.io.read >= 0 {
		return n.io.read, nil
	}
	fd, err := n.openAs(unix.O_RDONLY)
	if err != nil {
		return -1, err
	}
	n.io.read = fd
	return fd, nil
}

// writer is a descriptor to write a regular file by.
func (n *node) writer() (int, error) {
	n.io.Lock()
	defer n.io.Unlock()
	if n.io.write >= 0 {
		return n.io.write, nil
	}
	fd, err := n.openAs(unix.O_RDWR)
	if err != nil {
		return -1, err
	}
	n.io.write = fd
	return fd, nil
}

// openAs opens a regular file or directory once more. While a local process has a lease (fcntl F_SETLEASE) that is in the way, the kernel asks it to give way, and
// what is answered meanwhile is KindUnavailable: the caller would wait here for up to 45 s (lease-break-time), with locks. For reading and writing the flag means nothing.
func (n *node) openAs(access int) (int, error) {
	fd, err := unix.Open(procPath(n.fd), access|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EAGAIN) {
		return -1, vfs.Errorf(vfs.KindUnavailable, "open", "a process of this machine has a lease of the file, which it was asked to give back: %w", err)
	}
	return fd, err
}

// writeBy makes fd, which it takes over, the descriptor to write by.
func (n *node) writeBy(fd int) {
	n.io.Lock()
	defer n.io.Unlock()
	if n.io.write >= 0 {
		unix.Close(fd)
		return
	}
	n.io.write = fd
}

// dirtied notes that there are unstable writes.
func (n *node) dirtied() {
	n.io.Lock()
	n.io.dirty = true
	n.io.Unlock()
}

// isDirty reports whether there are unstable writes that no sync has ended for: whoever syncs beside it may be told what becomes of them, and it is not.
func (n *node) isDirty() bool {
	n.io.Lock()
	defer n.io.Unlock()
	return n.io.dirty || n.io.syncing > 0
}

// syncNames is sync after a change of names or attributes, unless that may come later.
func (fs *FS) syncNames(n *node, op string) error {
	if fs.lazyNames {
		return nil
	}
	return fs.sync(n, op)
}

// sync makes an inode durable, with what led to it.
func (fs *FS) sync(n *node, op string) error {
	fs.syncs.Add(1)
	if n.typ != vfs.TypeFile && n.typ != vfs.TypeDir {
		// There is no descriptor that could be synced.
		return fail(op, unix.Syncfs(fs.rootFD))
	}
	fd, err := n.reader()
	if err != nil {
		return fail(op, err)
	}
	n.io.Lock()
	dirty := n.io.dirty
	n.io.dirty = false
	n.io.syncing++
	n.io.Unlock()
	defer func() {
		n.io.Lock()
		n.io.syncing--
		n.io.Unlock()
	}()
	if err := unix.Fsync(fd); err != nil {
		if dirty || n.typ == vfs.TypeFile {
			fs.lost(err)
		}
		return vfs.Errorf(vfs.KindIO, op, "the disk did not make it durable: %w", err)
	}
	return nil
}
