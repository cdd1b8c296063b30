package localssd

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// Lookup implements vfs.FS, as do the methods that follow.
func (fs *FS) Lookup(_ context.Context, c *vfs.Cred, dir vfs.Ino, name string) (vfs.Attr, error) {
	const op = "lookup"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Attr{}, err
	}
	d, err := fs.getDir(dir, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer fs.put(d)
	n, err := fs.child(c, d, name, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer fs.put(n)
	return fs.attr(n, op)
}

func (fs *FS) Parent(_ context.Context, c *vfs.Cred, dir vfs.Ino) (vfs.Attr, error) {
	const op = "parent"
	d, err := fs.getDir(dir, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer fs.put(d)
	if dir == vfs.RootIno {
		return fs.attr(d, op)
	}
	fd := -1
	err = fs.identity.as(c, 0, func() (err error) {
		fd, err = unix.Openat(d.fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return vfs.Attr{}, fail(op, err)
	}
	if err := fs.below(fd); err != nil { // the directory may have been moved out since it was found
		unix.Close(fd)
		return vfs.Attr{}, vfs.Wrap(op, err)
	}
	n, err := fs.found(fd, op)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer fs.put(n)
	return fs.attr(n, op)
}

func (fs *FS) ReadLink(_ context.Context, ino vfs.Ino) (string, error) {
	const op = "readlink"
	n, err := fs.get(ino, op)
	if err != nil {
		return "", err
	}
	defer fs.put(n)
	if n.typ != vfs.TypeSymlink {
		return "", vfs.KindNotSymlink.Err(op)
	}
	buf := make([]byte, vfs.SymlinkMax+1)
	k, err := unix.Readlinkat(n.fd, "", buf)
	if err != nil {
		return "", fail(op, err)
	}
	return string(buf[:k]), nil
}

// made ends the making of an entry: it is marked, and what was asked for and allowed is set. It takes fd over,
// and io, by which a file can be written (-1: none). The caller syncs.
func (fs *FS) made(fd, io int, verifier *[8]byte, want *vfs.Attr, s vfs.SetAttr, op string) (*node, error) {
	ino, err := fs.inoOf(fd, "", op)
	if err == nil {
		err = fs.mark(fd, verifier)
	}
	var st unix.Statx_t
	if err == nil {
		st, err = statxOf(fd, "")
	}
	if err != nil {
		unix.Close(fd)
		if io >= 0 {
			unix.Close(io)
		}
		return nil, fail(op, err)
	}
	n := fs.nodes.adopt(ino, fd, typeOf(st.Mode), verifier)
	if io >= 0 {
		n.writeBy(io)
	}
	s.Mode = nil
	if n.typ != vfs.TypeFile {
		s.Size = nil
	}
	// The umask of this process is none of the caller's business, and a new owner takes setuid and setgid away.
	if differs := uint32(st.Mode)&vfs.ModeMask != want.Mode; n.typ != vfs.TypeSymlink && (differs || s.UID != nil || s.GID != nil) {
		s.Mode = &want.Mode
	}
	if !s.Empty() {
		err = fs.apply(&vfs.Root, n, &s, op)
	}
	if err != nil {
		fs.put(n)
		return nil, err
	}
	return n, nil
}

// wanted is what c makes in d, and whether the attributes may be set.
func (fs *FS) wanted(c *vfs.Cred, d *vfs.Attr, t vfs.Type, s *vfs.SetAttr, op string) (vfs.Attr, error) {
	mode := uint32(0)
	if s.Mode != nil {
		mode = *s.Mode
	}
	a := vfs.Attr{Type: t, UID: c.UID}
	a.GID, a.Mode = vfs.NewNode(c, d, t, mode)
	rest := *s
	rest.Mode = nil
	if t != vfs.TypeFile {
		rest.Size = nil
	}
	if err := vfs.CheckSetAttr(c, &a, &rest, true, op); err != nil {
		return a, err
	}
	if s.Btime != nil {
		return a, vfs.Errorf(vfs.KindNotSupported, op, "the birth time of a file on a local disk cannot be set")
	}
	return a, nil
}

func (fs *FS) Create(_ context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	const op = "create"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Created{}, err
	}
	d, err := fs.getDir(dir, op)
	if err != nil {
		return vfs.Created{}, err
	}
	defer fs.put(d)
	made, n, err := fs.create(c, d, name, &a, op)
	if n == nil {
		return made, err
	}
	defer fs.put(n)
	if err := fs.syncNames(n, op); err != nil {
		if a.Open != 0 {
			fs.nodes.closed(n)
		}
		return vfs.Created{}, err
	}
	return made, nil
}

// create makes or opens a file. What is new is returned, for the caller to sync when the directory is unlocked, and to put back.
func (fs *FS) create(c *vfs.Cred, d *node, name string, a *vfs.CreateArgs, op string) (vfs.Created, *node, error) {
	d.names.Lock()
	defer d.names.Unlock()
	before, err := fs.attr(d, op)
	if err != nil {
		return vfs.Created{}, nil, err
	}
	for {
		made, n, err := fs.createNew(c, d, &before, name, a, op)
		if vfs.KindOf(err) != vfs.KindExists || a.Exclusive == vfs.Guarded {
			return made, n, err
		}
		made, err = fs.createOld(c, d, &before, name, a, op)
		if vfs.KindOf(err) != vfs.KindNotFound { // else a local process removed it just now
			return made, nil, err
		}
	}
}

// createNew makes a file; KindExists if there is something already.
func (fs *FS) createNew(c *vfs.Cred, d *node, before *vfs.Attr, name string, a *vfs.CreateArgs, op string) (vfs.Created, *node, error) {
	want, refused := fs.wanted(c, before, vfs.TypeFile, &a.Attr, op)
	if refused != nil {
		return vfs.Created{}, nil, fs.refusal(c, d, name, refused, op)
	}
	how := unix.OpenHow{
		Flags: unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC, Mode: uint64(want.Mode),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	io := -1
	err := fs.identity.as(c, 0, func() (err error) {
		io, err = openat2(d.fd, name, &how)
		return err
	})
	if err != nil {
		return vfs.Created{}, nil, fail(op, err)
	}
	d.pending.Add(1)
	fd, err := unix.Open(procPath(io), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(io)
		return vfs.Created{}, nil, fail(op, err)
	}
	var verifier *[8]byte
	if a.Exclusive == vfs.ByVerifier {
		v := a.Verifier
		verifier = &v
	}
	n, err := fs.made(fd, io, verifier, &want, a.Attr, op)
	if err != nil {
		return vfs.Created{}, nil, err
	}
	res, err := fs.created(d, n, before, op)
	if err != nil {
		fs.put(n)
		return res, nil, err
	}
	if a.Open != 0 {
		fs.nodes.opened(n)
	}
	return res, n, nil
}

// refusal is why c may not make name in d, with attributes that are refused: whoever may not search d hears that first, then that there is such a name,
// then who may not change d.
func (fs *FS) refusal(c *vfs.Cred, d *node, name string, refused error, op string) error {
	may := func(mode uint32) error {
		return fs.identity.as(c, 0, func() error { return unix.Faccessat2(d.fd, "", mode, unix.AT_EACCESS|unix.AT_EMPTY_PATH) })
	}
	if err := may(unix.X_OK); err != nil {
		return fail(op, err)
	}
	if _, _, err := handleAt(d.fd, name); err == nil {
		return vfs.KindExists.Err(op)
	}
	if err := may(unix.W_OK); err != nil {
		return fail(op, err)
	}
	return refused
}

// created is the answer to the making of n in d.
func (fs *FS) created(d, n *node, before *vfs.Attr, op string) (vfs.Created, error) {
	after, err := fs.attr(d, op)
	if err != nil {
		return vfs.Created{}, err
	}
	a, err := fs.attr(n, op)
	return vfs.Created{Attr: a, Dir: vfs.DirChange{Before: before.Change, After: after.Change}, New: true}, err
}

// createOld opens what exists; KindNotFound if nothing does any more.
func (fs *FS) createOld(c *vfs.Cred, d *node, before *vfs.Attr, name string, a *vfs.CreateArgs, op string) (vfs.Created, error) {
	n, err := fs.child(c, d, name, op)
	if err != nil {
		return vfs.Created{}, err
	}
	defer fs.put(n)
	res := vfs.Created{Dir: vfs.DirChange{Before: before.Change, After: before.Change}}
	if a.Exclusive == vfs.ByVerifier {
		same := false
		if n.typ == vfs.TypeFile { // never a directory's lock while that of d is held: a rename takes the two in their own order
			n.names.Lock()
			same = n.verifier != nil && *n.verifier == a.Verifier
			n.names.Unlock()
		}
		if !same {
			return vfs.Created{}, vfs.KindExists.Err(op)
		}
		if a.Open != 0 {
			fs.nodes.opened(n)
		}
		if res.Attr, err = fs.attr(n, op); err == nil {
			err = fs.syncNames(n, op) // who made it may have died before that
		}
		if err != nil && a.Open != 0 {
			fs.nodes.closed(n)
		}
		return res, err
	}
	switch n.typ {
	case vfs.TypeFile:
	case vfs.TypeDir:
		return vfs.Created{}, vfs.KindIsDir.Err(op)
	default:
		return vfs.Created{}, vfs.KindWrongType.Err(op)
	}
	cut := a.Attr.Size != nil && *a.Attr.Size == 0
	need := a.Open
	if cut {
		need |= vfs.OpenWrite
	}
	if res.Attr, err = fs.open(c, n, need, false, op); err != nil {
		return vfs.Created{}, err
	}
	if a.Open == 0 {
		defer fs.nodes.closed(n)
	}
	if !cut {
		return res, nil
	}
	n.names.Lock()
	defer n.names.Unlock()
	if err = fs.unverify(n); err == nil {
		err = fs.apply(c, n, &vfs.SetAttr{Size: a.Attr.Size}, op)
	}
	if err == nil {
		err = fs.syncNames(n, op)
	}
	if err == nil {
		res.Attr, err = fs.attr(n, op)
	}
	if err != nil && a.Open != 0 {
		fs.nodes.closed(n)
	}
	return res, err
}

func (fs *FS) MakeNode(_ context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.NodeArgs) (vfs.Created, error) {
	const op = "mknod"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Created{}, err
	}
	kind, err := kindOfNode(c, a.Type, op)
	if err != nil {
		return vfs.Created{}, err
	}
	if a.Type == vfs.TypeSymlink {
		if a.Target == "" {
			return vfs.Created{}, vfs.Errorf(vfs.KindInvalid, op, "a symlink without a target")
		}
		if len(a.Target) > vfs.SymlinkMax {
			return vfs.Created{}, vfs.KindNameTooLong.Err(op)
		}
	}
	d, err := fs.getDir(dir, op)
	if err != nil {
		return vfs.Created{}, err
	}
	defer fs.put(d)
	made, n, err := fs.makeNode(c, d, name, kind, &a, op)
	if err != nil {
		return vfs.Created{}, err
	}
	defer fs.put(n)
	if n.typ != vfs.TypeDir {
		return made, fs.syncNames(d, op) // it cannot be opened to be synced itself
	}
	return made, fs.syncNames(n, op)
}

// kindOfNode is what mknod(2) calls a type, if c may make one.
func kindOfNode(c *vfs.Cred, t vfs.Type, op string) (uint32, error) {
	switch t {
	case vfs.TypeDir, vfs.TypeSymlink:
		return 0, nil
	case vfs.TypeFIFO:
		return unix.S_IFIFO, nil
	case vfs.TypeSocket:
		return unix.S_IFSOCK, nil
	case vfs.TypeBlock, vfs.TypeChar:
		if !c.IsRoot() {
			return 0, vfs.KindPerm.Err(op)
		}
		if t == vfs.TypeBlock {
			return unix.S_IFBLK, nil
		}
		return unix.S_IFCHR, nil
	}
	return 0, vfs.Errorf(vfs.KindWrongType, op, "type %s", t)
}

// makeNode makes an entry, which the caller syncs when the directory is unlocked, and puts back.
func (fs *FS) makeNode(c *vfs.Cred, d *node, name string, kind uint32, a *vfs.NodeArgs, op string) (vfs.Created, *node, error) {
	d.names.Lock()
	defer d.names.Unlock()
	before, err := fs.attr(d, op)
	if err != nil {
		return vfs.Created{}, nil, err
	}
	if a.Type == vfs.TypeSymlink {
		a.Attr.Mode = nil
	}
	want, refused := fs.wanted(c, &before, a.Type, &a.Attr, op)
	if refused != nil {
		return vfs.Created{}, nil, fs.refusal(c, d, name, refused, op)
	}
	err = fs.identity.as(c, 0, func() error {
		switch a.Type {
		case vfs.TypeDir:
			return unix.Mkdirat(d.fd, name, want.Mode)
		case vfs.TypeSymlink:
			return unix.Symlinkat(a.Target, d.fd, name)
		default:
			return unix.Mknodat(d.fd, name, kind|want.Mode, int(unix.Mkdev(a.Dev.Major, a.Dev.Minor)))
		}
	})
	if err != nil {
		return vfs.Created{}, nil, fail(op, err)
	}
	d.pending.Add(1)
	fd, err := openat2(d.fd, name, &named)
	if err != nil {
		return vfs.Created{}, nil, fail(op, err)
	}
	n, err := fs.made(fd, -1, nil, &want, a.Attr, op)
	if err != nil {
		return vfs.Created{}, nil, err
	}
	res, err := fs.created(d, n, &before, op)
	if err != nil {
		fs.put(n)
	}
	return res, n, err
}

func (fs *FS) Link(_ context.Context, c *vfs.Cred, ino, dir vfs.Ino, name string) (vfs.Attr, vfs.DirChange, error) {
	const op = "link"
	none := vfs.DirChange{}
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Attr{}, none, err
	}
	n, err := fs.get(ino, op)
	if err != nil {
		return vfs.Attr{}, none, err
	}
	defer fs.put(n)
	if n.typ == vfs.TypeDir {
		return vfs.Attr{}, none, vfs.KindIsDir.Err(op)
	}
	d, err := fs.getDir(dir, op)
	if err != nil {
		return vfs.Attr{}, none, err
	}
	defer fs.put(d)
	a, ch, err := fs.link(c, n, d, name, op)
	if err == nil {
		err = fs.syncNames(d, op)
	}
	return a, ch, err
}

func (fs *FS) link(c *vfs.Cred, n, d *node, name, op string) (vfs.Attr, vfs.DirChange, error) {
	none := vfs.DirChange{}
	d.names.Lock()
	defer d.names.Unlock()
	before, err := fs.attr(d, op)
	if err != nil {
		return vfs.Attr{}, none, err
	}
	was, err := fs.attr(n, op)
	if err != nil {
		return vfs.Attr{}, none, err
	}
	if was.Nlink >= vfs.LinkMax {
		return vfs.Attr{}, none, vfs.KindTooManyLinks.Err(op)
	}
	// CAP_FOWNER lifts protected_hardlinks; in link(2) it lifts nothing else.
	err = fs.identity.as(c, unix.CAP_FOWNER, func() error {
		return unix.Linkat(unix.AT_FDCWD, procPath(n.fd), d.fd, name, unix.AT_SYMLINK_FOLLOW)
	})
	if errors.Is(err, unix.EXDEV) {
		return vfs.Attr{}, none, vfs.KindXDev.Err(op)
	}
	if err != nil {
		return vfs.Attr{}, none, fail(op, err)
	}
	d.pending.Add(1)
	n.pending.Add(1)
	after, err := fs.attr(d, op)
	if err != nil {
		return vfs.Attr{}, none, err
	}
	a, err := fs.attr(n, op)
	return a, vfs.DirChange{Before: before.Change, After: after.Change}, err
}
