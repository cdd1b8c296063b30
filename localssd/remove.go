package localssd

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/rackfs/rackfs/vfs"
)

// Remove implements vfs.FS, as do the methods that follow.
func (fs *FS) Remove(_ context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	const op = "remove"
	none := vfs.DirChange{}
	if err := vfs.CheckName(name, op); err != nil {
		return none, err
	}
	d, err := fs.getDir(dir, op)
	if err != nil {
		return none, err
	}
	defer fs.put(d)
	ch, err := fs.remove(c, d, name, what, op)
	if err == nil {
		err = fs.syncNames(d, op)
	}
	return ch, err
}

func (fs *FS) remove(c *vfs.Cred, d *node, name string, what vfs.RemoveKind, op string) (vfs.DirChange, error) {
	none := vfs.DirChange{}
	d.names.Lock()
	defer d.names.Unlock()
	before, err := fs.attr(d, op)
	if err != nil {
		return none, err
	}
	victim := -1
	defer func() {
		if victim >= 0 {
			unix.Close(victim)
		}
	}()
	err = fs.identity.as(c, 0, func() (err error) {
		if victim, err = openat2(d.fd, name, &named); err != nil {
			return err
		}
		flags := 0
		if what != vfs.RemoveFile && (what == vfs.RemoveDir || isDir(victim)) {
			flags = unix.AT_REMOVEDIR
		}
		return unix.Unlinkat(d.fd, name, flags)
	})
	switch {
	case errors.Is(err, unix.EXDEV):
		return none, mounted(op)
	case errors.Is(err, unix.EEXIST): // of rmdir, on some file systems
		return none, vfs.KindNotEmpty.Err(op)
	case err != nil:
		return none, fail(op, err)
	}
	d.pending.Add(1)
	// Who does not know it by now will find that it has no name.
	if ino, err := fs.inoOf(victim, "", op); err == nil && fs.nodes.known(ino) {
		if n, err := fs.found(victim, op); err == nil {
			fs.lostName(n)
			fs.put(n)
		}
		victim = -1
	}
	after, err := fs.attr(d, op)
	return vfs.DirChange{Before: before.Change, After: after.Change}, err
}

func mounted(op string) error {
	return vfs.Errorf(vfs.KindBusy, op, "another file system is mounted there")
}

func isDir(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// target is the node of a name that c changes. Who may not search the directory does not hear what is in it.
func (fs *FS) target(c *vfs.Cred, d *node, name, op string) (*node, error) {
	n, err := fs.child(c, d, name, op)
	if vfs.KindOf(err) == vfs.KindAccess && errors.Is(err, unix.EXDEV) {
		return nil, mounted(op)
	}
	return n, err
}

// lostName notes that an inode has a name less.
func (fs *FS) lostName(n *node) {
	n.pending.Add(1)
	if st, err := statxOf(n.fd, ""); err == nil && (st.Nlink == 0 || n.typ == vfs.TypeDir) {
		fs.nodes.gone(n)
	}
}

func (fs *FS) Rename(_ context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (fromChange, toChange vfs.DirChange, err error) {
	const op = "rename"
	none := vfs.DirChange{}
	fail2 := func(err error) (vfs.DirChange, vfs.DirChange, error) { return none, none, err }
	for _, name := range []string{from, to} {
		if err := vfs.CheckName(name, op); err != nil {
			return fail2(err)
		}
	}
	fd, err := fs.getDir(fromDir, op)
	if err != nil {
		return fail2(err)
	}
	defer fs.put(fd)
	td, err := fs.getDir(toDir, op)
	if err != nil {
		if err := fs.identity.as(c, 0, func() error { return unix.Faccessat2(fd.fd, "", unix.X_OK, unix.AT_EACCESS|unix.AT_EMPTY_PATH) }); err != nil {
			return fail2(fail(op, err))
		}
		return fail2(err)
	}
	defer fs.put(td)
	if fromChange, toChange, err = fs.rename(c, fd, from, td, to, op); err == nil {
		err = fs.syncNames(fd, op)
	}
	if err == nil && td != fd {
		err = fs.syncNames(td, op)
	}
	return fromChange, toChange, err
}

func (fs *FS) rename(c *vfs.Cred, fd *node, from string, td *node, to, op string) (fromChange, toChange vfs.DirChange, err error) {
	none := vfs.DirChange{}
	fail2 := func(err error) (vfs.DirChange, vfs.DirChange, error) { return none, none, err }
	unlock := lockBoth(fd, td)
	defer unlock()
	fromBefore, err := fs.attr(fd, op)
	if err != nil {
		return fail2(err)
	}
	toBefore, err := fs.attr(td, op)
	if err != nil {
		return fail2(err)
	}
	moved, err := fs.target(c, fd, from, op)
	if vfs.KindOf(err) == vfs.KindNotFound { // who may not use the other directory hears that first
		if err := fs.identity.as(c, 0, func() error { return unix.Faccessat2(td.fd, "", unix.X_OK, unix.AT_EACCESS|unix.AT_EMPTY_PATH) }); err != nil {
			return fail2(fail(op, err))
		}
	}
	if err != nil {
		return fail2(err)
	}
	defer fs.put(moved)
	over, err := fs.target(c, td, to, op)
	if err == nil {
		defer fs.put(over)
	} else if vfs.KindOf(err) != vfs.KindNotFound {
		return fail2(err)
	}
	err = fs.identity.as(c, 0, func() error { return unix.Renameat(fd.fd, from, td.fd, to) })
	switch {
	case errors.Is(err, unix.EXDEV): // another project of a project quota
		return fail2(vfs.KindXDev.Err(op))
	case errors.Is(err, unix.EEXIST):
		return fail2(vfs.KindNotEmpty.Err(op))
	case err != nil:
		return fail2(fail(op, err))
	}
	if moved == over {
		// Two names of one file: nothing happened.
		return vfs.DirChange{Before: fromBefore.Change, After: fromBefore.Change}, vfs.DirChange{Before: toBefore.Change, After: toBefore.Change}, nil
	}
	fd.pending.Add(1)
	moved.pending.Add(1)
	if over != nil {
		fs.lostName(over)
	}
	if td != fd {
		td.pending.Add(1)
	}
	fromAfter, err := fs.attr(fd, op)
	if err != nil {
		return fail2(err)
	}
	toAfter, err := fs.attr(td, op)
	return vfs.DirChange{Before: fromBefore.Change, After: fromAfter.Change}, vfs.DirChange{Before: toBefore.Change, After: toAfter.Change}, err
}

// lockBoth locks the names of two directories, which may be one, in the order of their inodes.
func lockBoth(a, b *node) (unlock func()) {
	if a == b {
		a.names.Lock()
		return a.names.Unlock
	}
	if a.ino > b.ino {
		a, b = b, a
	}
	a.names.Lock()
	b.names.Lock()
	return func() { b.names.Unlock(); a.names.Unlock() }
}
