package v4

import (
	"context"
	"errors"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// coherentFS is a file system for a front end beside this one, such as the HTTP API. A client that has a delegation does not ask whether its file changed, so
// whoever changes a file behind its back would be seen much later, or never. So each call that does waits until the delegations in its way have
// been returned, or revoked, as the same call of an NFS client would; one that reads content waits for those for writing.
//
// Attributes are what the gateway knows: of a file that a client has for writing they may lack what it has not written back. Opening the file for reading gets that written first.
type coherentFS struct {
	vfs.FS
	s    *Server
	fsid uint64
}

var _ vfs.Stager = (*coherentFS)(nil)

// Coherent is fs, which is exported as fsid, for a front end beside this one.
func (s *Server) Coherent(fs vfs.FS, fsid uint32) vfs.FS {
	return &coherentFS{FS: fs, s: s, fsid: uint64(fsid)}
}

// nobody is the client that no delegation is of.
const nobody = state.ClientID(0)

// until asks package state until nothing is in the way, for at most as long as clients have to answer recalls.
func (f *coherentFS) until(ctx context.Context, op string, ask func(now time.Time) (state.Effects, status), undo func()) error {
	for {
		returned := f.s.recalls.change()
		eff, st := ask(f.s.cfg.Now())
		if err := f.s.apply(ctx, &eff); err != nil {
			if st == nfsv4.NFS4_OK {
				undo()
			}
			return vfs.Errorf(vfs.KindUnavailable, op, "what NFS clients have of the file could not be ended: %w", err)
		}
		switch st {
		case nfsv4.NFS4_OK:
			return nil
		case nfsv4.NFS4ERR_DELAY, nfsv4.NFS4ERR_GRACE:
		default:
			return vfs.Errorf(vfs.KindInternal, op, "package state says %s", nfsv4.Nfsstat4_name[st])
		}
		wait := time.NewTimer(recallWait)
		select {
		case <-returned:
		case <-wait.C:
		case <-f.s.recalls.ctx.Done():
			wait.Stop()
			return vfs.Errorf(vfs.KindUnavailable, op, "the gateway ends, and an NFS client still has the file: try again")
		case <-ctx.Done():
			wait.Stop()
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return vfs.Errorf(vfs.KindUnavailable, op, "an NFS client was asked to return the file and does not answer; it is taken from it when that has lasted for an NFS lease: try again")
			}
			return vfs.Errorf(vfs.KindCanceled, op, "while an NFS client was asked to return the file: %w", context.Cause(ctx))
		}
		wait.Stop()
	}
}

// changing begins a change of a file; the caller calls end after it.
func (f *coherentFS) changing(ctx context.Context, op string, ino vfs.Ino) (end func(), err error) {
	s := f.s.cfg.State
	if !s.Delegates() {
		return nothing, nil
	}
	file := state.File{FS: f.fsid, Ino: ino}
	end = func() { s.EndChange(file) }
	return end, f.until(ctx, op, func(now time.Time) (state.Effects, status) { return s.BeginChange(now, nobody, file) }, end)
}

// reading begins a look at the content of a file; the caller calls end after it.
func (f *coherentFS) reading(ctx context.Context, op string, ino vfs.Ino) (end func(), err error) {
	s := f.s.cfg.State
	if !s.WritesDelegated() {
		return nothing, nil
	}
	file := state.File{FS: f.fsid, Ino: ino}
	end = func() { s.EndChange(file) }
	return end, f.until(ctx, op, func(now time.Time) (state.Effects, status) { return s.BeginRead(now, nobody, file) }, end)
}

// place is a name in a directory.
type place struct {
	dir  vfs.Ino
	name string
}

// naming begins a change of what names stand for; the caller calls end after it.
func (f *coherentFS) naming(ctx context.Context, op string, c *vfs.Cred, names ...place) (end func(), err error) {
	s := f.s.cfg.State
	if !s.Delegates() {
		return nothing, nil
	}
	end = func() { s.EndNaming(f.fsid) }
	if !s.BeginNaming(f.fsid) {
		return end, nil
	}
	var files []state.File
	for _, n := range names {
		// What cannot be looked up cannot be removed either.
		if a, err := f.FS.Lookup(ctx, c, n.dir, n.name); err == nil && a.Type == vfs.TypeFile {
			files = append(files, state.File{FS: f.fsid, Ino: a.Ino})
		}
	}
	if err := f.until(ctx, op, func(now time.Time) (state.Effects, status) { return s.BreakDelegations(now, nobody, files...) }, nothing); err != nil {
		end()
		return nothing, err
	}
	return end, nil
}

// Stage implements vfs.Stager. Nobody has what is in hidden directories.
func (f *coherentFS) Stage(ctx context.Context, project uint32) error {
	s, ok := f.FS.(vfs.Stager)
	if !ok {
		return vfs.Errorf(vfs.KindNotSupported, "stage", "this file system has no hidden directories")
	}
	return s.Stage(ctx, project)
}

// SetAttr implements vfs.FS, as do the methods that follow.
func (f *coherentFS) SetAttr(ctx context.Context, c *vfs.Cred, ino vfs.Ino, set vfs.SetAttr, opened bool) (vfs.Attr, error) {
	end, err := f.changing(ctx, "setattr", ino)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer end()
	return f.FS.SetAttr(ctx, c, ino, set, opened)
}

// Create of a file that may be there already is a change of that.
func (f *coherentFS) Create(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.CreateArgs) (vfs.Created, error) {
	if a.Exclusive == vfs.Guarded {
		return f.FS.Create(ctx, c, dir, name, a)
	}
	end, err := f.naming(ctx, "create", c, place{dir, name})
	if err != nil {
		return vfs.Created{}, err
	}
	defer end()
	return f.FS.Create(ctx, c, dir, name, a)
}

func (f *coherentFS) Link(ctx context.Context, c *vfs.Cred, ino, dir vfs.Ino, name string) (vfs.Attr, vfs.DirChange, error) {
	end, err := f.changing(ctx, "link", ino)
	if err != nil {
		return vfs.Attr{}, vfs.DirChange{}, err
	}
	defer end()
	return f.FS.Link(ctx, c, ino, dir, name)
}

func (f *coherentFS) Remove(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	end, err := f.naming(ctx, "remove", c, place{dir, name})
	if err != nil {
		return vfs.DirChange{}, err
	}
	defer end()
	return f.FS.Remove(ctx, c, dir, name, what)
}

func (f *coherentFS) Rename(ctx context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (vfs.DirChange, vfs.DirChange, error) {
	end, err := f.naming(ctx, "rename", c, place{fromDir, from}, place{toDir, to})
	if err != nil {
		return vfs.DirChange{}, vfs.DirChange{}, err
	}
	defer end()
	return f.FS.Rename(ctx, c, fromDir, from, toDir, to)
}

func (f *coherentFS) Open(ctx context.Context, c *vfs.Cred, ino vfs.Ino, flags vfs.OpenFlags, override bool) (vfs.Attr, error) {
	begin := f.reading
	if flags&vfs.OpenWrite != 0 {
		begin = f.changing
	}
	end, err := begin(ctx, "open", ino)
	if err != nil {
		return vfs.Attr{}, err
	}
	defer end()
	return f.FS.Open(ctx, c, ino, flags, override)
}

func (f *coherentFS) Read(ctx context.Context, ino vfs.Ino, off uint64, p []byte) (n int, eof bool, err error) {
	end, err := f.reading(ctx, "read", ino) // somebody may have got it for writing since
	if err != nil {
		return 0, false, err
	}
	defer end()
	return f.FS.Read(ctx, ino, off, p)
}

func (f *coherentFS) Write(ctx context.Context, c *vfs.Cred, ino vfs.Ino, off uint64, p []byte, how vfs.Stable) (vfs.Stable, vfs.Verifier, error) {
	end, err := f.changing(ctx, "write", ino)
	if err != nil {
		return 0, vfs.Verifier{}, err
	}
	defer end()
	return f.FS.Write(ctx, c, ino, off, p, how)
}
