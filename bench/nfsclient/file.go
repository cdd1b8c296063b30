package nfsclient

import (
	"context"
	"fmt"
	"strings"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient/attr"
)

// Walk looks up a path from the root and returns the handle and attributes of
// its end.
func (c *Client) Walk(ctx context.Context, path string) (FH, attr.Attr, error) {
	cp := NewCompound().PutRootFH()
	ops := []nfsv4.NfsOpnum4{nfsv4.OP_PUTROOTFH}
	for name := range strings.SplitSeq(path, "/") {
		if name != "" {
			cp.Lookup(name)
			ops = append(ops, nfsv4.OP_LOOKUP)
		}
	}
	return c.handleAndAttr(ctx, cp, ops...)
}

// Lookup finds name in dir.
func (c *Client) Lookup(ctx context.Context, dir FH, name string) (FH, attr.Attr, error) {
	return c.handleAndAttr(ctx, NewCompound().PutFH(dir).Lookup(name), nfsv4.OP_PUTFH, nfsv4.OP_LOOKUP)
}

// LookupParent finds the directory that dir is in.
func (c *Client) LookupParent(ctx context.Context, dir FH) (FH, attr.Attr, error) {
	return c.handleAndAttr(ctx, NewCompound().PutFH(dir).LookupP(), nfsv4.OP_PUTFH, nfsv4.OP_LOOKUPP)
}

// handleAndAttr sends cp, whose operations so far have no results, and returns
// what its current handle is then.
func (c *Client) handleAndAttr(ctx context.Context, cp *Compound, ops ...nfsv4.NfsOpnum4) (FH, attr.Attr, error) {
	r, err := c.Do(ctx, cp.GetFH().Getattr(attr.Stat()))
	if err != nil {
		return "", attr.Attr{}, err
	}
	defer r.Release()
	if err := r.Skip(ops...); err != nil {
		return "", attr.Attr{}, err
	}
	fh, err := r.FH()
	if err != nil {
		return "", attr.Attr{}, err
	}
	a, err := r.Attr()
	return fh, a, err
}

// Getattr returns the usual attributes.
func (c *Client) Getattr(ctx context.Context, fh FH) (attr.Attr, error) {
	r, err := c.Do(ctx, NewCompound().PutFH(fh).Getattr(attr.Stat()))
	if err != nil {
		return attr.Attr{}, err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
		return attr.Attr{}, err
	}
	return r.Attr()
}

// Setattr sets attributes; id may be the zero Stateid.
func (c *Client) Setattr(ctx context.Context, fh FH, id Stateid, s *attr.Set) error {
	cp := NewCompound().PutFH(fh).Setattr(id, s)
	cp.CacheThis = true
	return c.simple(ctx, cp, nfsv4.OP_PUTFH, nfsv4.OP_SETATTR)
}

// Access returns which of bits the caller has.
func (c *Client) Access(ctx context.Context, fh FH, bits uint32) (uint32, error) {
	r, err := c.Do(ctx, NewCompound().PutFH(fh).Access(bits))
	if err != nil {
		return 0, err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH, nfsv4.OP_ACCESS); err != nil {
		return 0, err
	}
	r.d.Uint32() // supported
	return r.d.Uint32(), r.d.Err()
}

// File is an open file.
type File struct {
	FH      FH
	Stateid Stateid
	Attr    attr.Attr // after the OPEN

	Delegation Delegation
}

// Open opens, and creates if a says so. dir is the directory of a.Name, or the
// file itself if a has no Name.
func (c *Client) Open(ctx context.Context, dir FH, a OpenArgs) (*File, error) {
	cp := NewCompound().PutFH(dir).Open(c.ID(), &a).GetFH().Getattr(attr.Stat())
	cp.CacheThis = true
	r, err := c.Do(ctx, cp)
	if err != nil {
		return nil, err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
		return nil, err
	}
	var f File
	if f.Stateid, _, err = r.Open(); err != nil {
		return nil, err
	}
	f.Delegation = r.Delegation()
	if f.FH, err = r.FH(); err != nil {
		return nil, err
	}
	f.Attr, err = r.Attr()
	return &f, err
}

// Create makes an empty file of the given mode, or truncates the one there is,
// and opens it for reading and writing.
func (c *Client) Create(ctx context.Context, dir FH, name string, mode uint32) (*File, error) {
	size := uint64(0)
	return c.Open(ctx, dir, OpenArgs{Name: name, Create: Unchecked, Attr: attr.Set{Mode: &mode, Size: &size}})
}

// CloseFile closes f.
func (c *Client) CloseFile(ctx context.Context, f *File) error {
	cp := NewCompound().PutFH(f.FH).Close(f.Stateid)
	cp.CacheThis = true
	_, err := c.stateidOp(ctx, cp, nfsv4.OP_CLOSE)
	return err
}

// Downgrade reduces the access and deny modes of f.
func (c *Client) Downgrade(ctx context.Context, f *File, access, deny uint32) error {
	cp := NewCompound().PutFH(f.FH).OpenDowngrade(f.Stateid, access, deny)
	cp.CacheThis = true
	id, err := c.stateidOp(ctx, cp, nfsv4.OP_OPEN_DOWNGRADE)
	if err == nil {
		f.Stateid = id
	}
	return err
}

// stateidOp sends PUTFH and op, whose result is a stateid.
func (c *Client) stateidOp(ctx context.Context, cp *Compound, op nfsv4.NfsOpnum4) (Stateid, error) {
	r, err := c.Do(ctx, cp)
	if err != nil {
		return Stateid{}, err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
		return Stateid{}, err
	}
	return r.StateidOf(op)
}

func (c *Client) compound() *Compound      { return c.pool.Get().(*Compound).Reset() }
func (c *Client) putCompound(cp *Compound) { c.pool.Put(cp) }

// Read fills p from off; n < len(p) at the end of the file.
func (c *Client) Read(ctx context.Context, f *File, off uint64, p []byte) (n int, eof bool, err error) {
	cp := c.compound()
	defer c.putCompound(cp)
	r, err := c.Do(ctx, cp.PutFH(f.FH).Read(f.Stateid, off, uint32(len(p))))
	if err != nil {
		return 0, false, err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
		return 0, false, err
	}
	data, eof, err := r.Read()
	if len(data) > len(p) {
		return 0, false, fmt.Errorf("nfs: READ returned %d bytes, %d were asked for", len(data), len(p))
	}
	return copy(p, data), eof, err
}

// Write writes p at off.
func (c *Client) Write(ctx context.Context, f *File, off uint64, stable nfsv4.StableHow4, p []byte) (Written, error) {
	cp := c.compound()
	defer c.putCompound(cp)
	r, err := c.Do(ctx, cp.PutFH(f.FH).Write(f.Stateid, off, stable, p))
	if err != nil {
		return Written{}, err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
		return Written{}, err
	}
	return r.Write()
}

// Commit makes n bytes from off durable (0: to the end).
func (c *Client) Commit(ctx context.Context, fh FH, off uint64, n uint32) ([8]byte, error) {
	cp := c.compound()
	defer c.putCompound(cp)
	r, err := c.Do(ctx, cp.PutFH(fh).Commit(off, n))
	if err != nil {
		return [8]byte{}, err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
		return [8]byte{}, err
	}
	return r.Commit()
}

// makeNode sends a CREATE and returns what it made.
func (c *Client) makeNode(ctx context.Context, dir FH, create func(*Compound)) (FH, attr.Attr, error) {
	cp := NewCompound().PutFH(dir)
	create(cp)
	cp.CacheThis = true
	r, err := c.Do(ctx, cp.GetFH().Getattr(attr.Stat()))
	if err != nil {
		return "", attr.Attr{}, err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH, nfsv4.OP_CREATE); err != nil {
		return "", attr.Attr{}, err
	}
	r.ChangeInfo()
	attr.DecodeBitmap(&r.d)
	fh, err := r.FH()
	if err != nil {
		return "", attr.Attr{}, err
	}
	a, err := r.Attr()
	return fh, a, err
}

// Mkdir makes a directory.
func (c *Client) Mkdir(ctx context.Context, dir FH, name string, mode uint32) (FH, attr.Attr, error) {
	return c.makeNode(ctx, dir, func(cp *Compound) { cp.Mkdir(name, attr.Mode(mode)) })
}

// Symlink makes a symlink.
func (c *Client) Symlink(ctx context.Context, dir FH, name, target string) (FH, attr.Attr, error) {
	return c.makeNode(ctx, dir, func(cp *Compound) { cp.Symlink(name, target, attr.Mode(0o777)) })
}

// Mknod makes a special file.
func (c *Client) Mknod(ctx context.Context, dir FH, name string, t nfsv4.NfsFtype4, major, minor, mode uint32) (FH, attr.Attr, error) {
	return c.makeNode(ctx, dir, func(cp *Compound) { cp.Mknod(t, major, minor, name, attr.Mode(mode)) })
}

// Readlink returns a symlink's target.
func (c *Client) Readlink(ctx context.Context, fh FH) (string, error) {
	r, err := c.Do(ctx, NewCompound().PutFH(fh).Readlink())
	if err != nil {
		return "", err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH, nfsv4.OP_READLINK); err != nil {
		return "", err
	}
	return r.d.String(1 << 16), r.d.Err()
}

// Remove drops a name.
func (c *Client) Remove(ctx context.Context, dir FH, name string) error {
	cp := NewCompound().PutFH(dir).Remove(name)
	cp.CacheThis = true
	return c.simple(ctx, cp, nfsv4.OP_PUTFH, nfsv4.OP_REMOVE)
}

// Rename moves a name.
func (c *Client) Rename(ctx context.Context, fromDir FH, from string, toDir FH, to string) error {
	cp := NewCompound().PutFH(fromDir).SaveFH().PutFH(toDir).Rename(from, to)
	cp.CacheThis = true
	return c.simple(ctx, cp, nfsv4.OP_PUTFH, nfsv4.OP_SAVEFH, nfsv4.OP_PUTFH, nfsv4.OP_RENAME)
}

// Link gives fh another name.
func (c *Client) Link(ctx context.Context, fh, dir FH, name string) error {
	cp := NewCompound().PutFH(fh).SaveFH().PutFH(dir).Link(name)
	cp.CacheThis = true
	return c.simple(ctx, cp, nfsv4.OP_PUTFH, nfsv4.OP_SAVEFH, nfsv4.OP_PUTFH, nfsv4.OP_LINK)
}

// readdirPage bounds one READDIR reply: what the Linux client asks for in a long directory.
const readdirPage = 1 << 20

// Readdir lists a directory completely, with the attributes asked for.
func (c *Client) Readdir(ctx context.Context, dir FH, want attr.Bitmap) ([]Entry, error) {
	var all []Entry
	var verf [8]byte
	var cookie uint64
	for {
		r, err := c.Do(ctx, NewCompound().PutFH(dir).Readdir(cookie, verf, readdirPage, readdirPage, want))
		if err != nil {
			return nil, err
		}
		if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
			r.Release()
			return nil, err
		}
		v, entries, eof, err := r.Readdir()
		r.Release()
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
		if eof {
			return all, nil
		}
		if len(entries) == 0 {
			return nil, fmt.Errorf("nfs: READDIR returned neither entries nor the end")
		}
		verf, cookie = v, entries[len(entries)-1].Cookie
	}
}

// Lock is a lock-owner's locks on a file.
type Lock struct {
	Owner   string
	Stateid Stateid // zero before the first lock
}

// LockRange locks a range of f for l. On NFS4ERR_DENIED it returns the lock in the
// way together with the error.
func (c *Client) LockRange(ctx context.Context, f *File, l *Lock, t nfsv4.NfsLockType4, off, n uint64) (*Denied, error) {
	a := LockArgs{Type: t, Offset: off, Length: n, Owner: l.Owner, Stateid: l.Stateid}
	if l.Stateid == (Stateid{}) {
		a.New, a.Stateid = true, f.Stateid
	}
	cp := NewCompound().PutFH(f.FH).Lock(c.ID(), &a)
	cp.CacheThis = true
	r, err := c.Do(ctx, cp)
	if err != nil {
		return nil, err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
		return nil, err
	}
	id, err := r.StateidOf(nfsv4.OP_LOCK)
	if StatusOf(err) == nfsv4.NFS4ERR_DENIED {
		d, decodeErr := r.Denied()
		if decodeErr != nil {
			return nil, decodeErr
		}
		return &d, err
	}
	if err == nil {
		l.Stateid = id
	}
	return nil, err
}

// Unlock unlocks a range of f for l.
func (c *Client) Unlock(ctx context.Context, f *File, l *Lock, off, n uint64) error {
	cp := NewCompound().PutFH(f.FH).LockU(l.Stateid, off, n)
	cp.CacheThis = true
	id, err := c.stateidOp(ctx, cp, nfsv4.OP_LOCKU)
	if err == nil {
		l.Stateid = id
	}
	return err
}

// TestLock returns a lock that is in the way of one, nil if there is none.
func (c *Client) TestLock(ctx context.Context, fh FH, t nfsv4.NfsLockType4, off, n uint64, owner string) (*Denied, error) {
	r, err := c.Do(ctx, NewCompound().PutFH(fh).LockT(c.ID(), t, off, n, owner))
	if err != nil {
		return nil, err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
		return nil, err
	}
	err = r.Next(nfsv4.OP_LOCKT)
	if StatusOf(err) != nfsv4.NFS4ERR_DENIED {
		return nil, err
	}
	d, err := r.Denied()
	return &d, err
}
