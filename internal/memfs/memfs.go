package memfs

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

// Options tune a file system; zero fields take the defaults.
type Options struct {
	CapacityBytes uint64           // default 1 TiB
	CapacityFiles uint64           // default 2^32
	Now           func() time.Time // default time.Now
	RootMode      uint32           // default 0755
	NoAtime       bool             // reading leaves the time of access as it is
}

// FS is an in-memory file system.
type FS struct {
	now           func() time.Time
	noAtime       bool
	capacityBytes uint64
	capacityFiles uint64

	mu          sync.Mutex // guards everything below, and every inode
	inodes      map[vfs.Ino]*inode
	lastIno     vfs.Ino
	incarnation uint64
	usedBytes   uint64
}

var _ vfs.FS = (*FS)(nil)

// inode is one file, directory, link or special file.
type inode struct {
	attr  vfs.Attr
	opens int // Opens minus Closes

	pages    map[uint64]*page // of a file; a missing page is a hole
	reserved []pageRange      // of a file, apart from one another and from pages
	undo     *undo            // nil: everything is durable

	createVerifier *[8]byte // of a file made ByVerifier, until its attributes are set

	parent     vfs.Ino          // of a directory
	entries    map[string]entry // of a directory
	lastCookie uint64           // of a directory

	target string // of a symlink

	xattrs    map[string]xattr
	totals    vfs.XattrTotals // of xattrs
	lastXattr uint64          // the newest cookie
}

// entry is one name of a directory.
type entry struct {
	ino    vfs.Ino
	cookie uint64
}

// firstCookie is the first one given out: 0, 1 and 2 are reserved.
const firstCookie = 3

// New makes a file system with an empty root owned by root.
func New(o Options) *FS {
	if o.CapacityBytes == 0 {
		o.CapacityBytes = 1 << 40
	}
	if o.CapacityFiles == 0 {
		o.CapacityFiles = 1 << 32
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.RootMode == 0 {
		o.RootMode = 0o755
	}
	fs := &FS{
		now: o.Now, noAtime: o.NoAtime, capacityBytes: o.CapacityBytes, capacityFiles: o.CapacityFiles,
		inodes: make(map[vfs.Ino]*inode), incarnation: 1,
	}
	root := fs.newInode(vfs.TypeDir, fs.now())
	root.attr.Mode = o.RootMode & vfs.ModeMask
	root.parent = vfs.RootIno
	return fs
}

// Crash loses every Unstable write that was not committed and changes the
// verifier, as a crash of the only gateway would.
func (fs *FS) Crash() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.incarnation++
	for _, n := range fs.inodes {
		fs.rollback(n)
	}
}

// SetProject puts an inode into a project, which vfs.FS cannot.
func (fs *FS) SetProject(ino vfs.Ino, project uint32) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino, "setproject")
	if err != nil {
		return err
	}
	n.attr.Project = project
	n.changed(fs.now())
	return nil
}

func (fs *FS) verifier() (v vfs.Verifier) {
	binary.BigEndian.PutUint64(v[:], fs.incarnation)
	return v
}

// newInode adds an inode with one link (two for a directory: its "." counts).
func (fs *FS) newInode(t vfs.Type, now time.Time) *inode {
	fs.lastIno++
	n := &inode{attr: vfs.Attr{
		Ino: fs.lastIno, Type: t, Nlink: 1, Change: 1,
		Atime: now, Mtime: now, Ctime: now, Btime: now,
	}}
	switch t {
	case vfs.TypeDir:
		n.attr.Nlink = 2
		n.entries = make(map[string]entry)
		n.lastCookie = firstCookie - 1
	case vfs.TypeFile:
		n.pages = make(map[uint64]*page)
	}
	fs.inodes[n.attr.Ino] = n
	return n
}

func (fs *FS) get(ino vfs.Ino, op string) (*inode, error) {
	n := fs.inodes[ino]
	if n == nil {
		return nil, vfs.Errorf(vfs.KindStale, op, "inode %d", ino)
	}
	return n, nil
}

// getFile is get for what only regular files can do.
func (fs *FS) getFile(ino vfs.Ino, op string) (*inode, error) {
	n, err := fs.get(ino, op)
	if err != nil {
		return nil, err
	}
	switch n.attr.Type {
	case vfs.TypeFile:
		return n, nil
	case vfs.TypeDir:
		return nil, vfs.KindIsDir.Err(op)
	default:
		return nil, vfs.KindWrongType.Err(op)
	}
}

// getDir is get for what only directories can do, with search permission.
func (fs *FS) getDir(c *vfs.Cred, ino vfs.Ino, op string) (*inode, error) {
	n, err := fs.get(ino, op)
	if err != nil {
		return nil, err
	}
	if !n.attr.IsDir() {
		return nil, vfs.KindNotDir.Err(op)
	}
	if err := n.attr.CheckAccess(c, vfs.AccessExec, op); err != nil {
		return nil, err
	}
	return n, nil
}

// changed marks a change of attributes, modified one of content as well.
func (n *inode) changed(now time.Time) {
	n.attr.Change++
	n.attr.Ctime = now
}

func (n *inode) modified(now time.Time) {
	n.changed(now)
	n.attr.Mtime = now
}

// release frees an inode that has neither links nor opens.
func (fs *FS) release(n *inode) {
	if n.opens > 0 || n.attr.Nlink > 0 {
		return
	}
	fs.usedBytes -= n.attr.Used
	delete(fs.inodes, n.attr.Ino)
}

// StatFS implements vfs.FS.
func (fs *FS) StatFS(context.Context, vfs.Ino) (vfs.StatFS, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	files := uint64(len(fs.inodes))
	free := fs.capacityBytes - min(fs.usedBytes, fs.capacityBytes)
	return vfs.StatFS{
		TotalBytes: fs.capacityBytes, FreeBytes: free, AvailBytes: free,
		TotalFiles: fs.capacityFiles, FreeFiles: fs.capacityFiles - min(files, fs.capacityFiles),
		UsedBytes: fs.usedBytes, UsedFiles: files,
	}, nil
}

// GetAttr implements vfs.FS.
func (fs *FS) GetAttr(_ context.Context, ino vfs.Ino) (vfs.Attr, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino, "getattr")
	if err != nil {
		return vfs.Attr{}, err
	}
	return n.attr, nil
}

// SetAttr implements vfs.FS.
func (fs *FS) SetAttr(_ context.Context, c *vfs.Cred, ino vfs.Ino, s vfs.SetAttr, opened bool) (vfs.Attr, error) {
	const op = "setattr"
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	if s.Empty() {
		return n.attr, nil
	}
	if err := vfs.CheckSetAttr(c, &n.attr, &s, opened, op); err != nil {
		return vfs.Attr{}, err
	}
	now := fs.now()
	fs.makeDurable(n) // a mutation that returns is durable, and the size depends on the data
	fs.apply(c, n, &s, now)
	n.changed(now)
	return n.attr, nil
}

// apply sets the attributes of s that were allowed.
func (fs *FS) apply(c *vfs.Cred, n *inode, s *vfs.SetAttr, now time.Time) {
	a := &n.attr
	n.createVerifier = nil
	if s.UID != nil || s.GID != nil {
		if s.UID != nil {
			a.UID = *s.UID
		}
		if s.GID != nil {
			a.GID = *s.GID
		}
		a.Mode = vfs.ModeAfterChown(a)
	}
	if s.Size != nil {
		fs.truncate(n, *s.Size)
		a.Mode = vfs.ModeAfterWrite(c, a)
		a.Mtime = now // also when the size stays, as ftruncate(2) on Linux
	}
	if s.Mode != nil {
		a.Mode = vfs.ModeAfterChmod(c, a, *s.Mode)
	}
	setTime(&a.Atime, s.AtimeSet, s.Atime, now)
	setTime(&a.Mtime, s.MtimeSet, s.Mtime, now)
	if s.Btime != nil {
		a.Btime = *s.Btime
	}
}

func setTime(t *time.Time, how vfs.TimeSet, client, now time.Time) {
	switch how {
	case vfs.TimeServer:
		*t = now
	case vfs.TimeClient:
		*t = client
	}
}

// Open implements vfs.FS.
func (fs *FS) Open(_ context.Context, c *vfs.Cred, ino vfs.Ino, f vfs.OpenFlags, override bool) (vfs.Attr, error) {
	const op = "open"
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.getFile(ino, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	if !override || c.UID != n.attr.UID {
		if err := n.attr.CheckAccess(c, openAccess(f), op); err != nil {
			return vfs.Attr{}, err
		}
	}
	n.opens++
	return n.attr, nil
}

func openAccess(f vfs.OpenFlags) (want vfs.Access) {
	if f&vfs.OpenRead != 0 {
		want |= vfs.AccessRead
	}
	if f&vfs.OpenWrite != 0 {
		want |= vfs.AccessWrite
	}
	return want
}

// Close implements vfs.FS.
func (fs *FS) Close(_ context.Context, ino vfs.Ino, _ vfs.OpenFlags) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, err := fs.get(ino, "close")
	if err != nil {
		return err
	}
	if n.opens == 0 {
		return vfs.Errorf(vfs.KindInvalid, "close", "inode %d is not open", ino)
	}
	n.opens--
	fs.release(n)
	return nil
}
