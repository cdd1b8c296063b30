package v4

import (
	"context"
	"errors"
	"sync"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// openArgs are the arguments of OPEN.
type openArgs struct {
	access, deny uint32 // OPEN4_SHARE_ACCESS_*, OPEN4_SHARE_DENY_*
	want         uint32 // OPEN4_SHARE_ACCESS_WANT_*
	owner        []byte

	create   bool
	how      nfsv4.Createmode4
	verifier [8]byte
	attrs    vfs.SetAttr
	mask     bitmap // of attrs

	claim nfsv4.OpenClaimType4
	name  string // of CLAIM_NULL and CLAIM_DELEGATE_CUR

	had        nfsv4.OpenDelegationType4 // of CLAIM_PREVIOUS
	delegation state.Stateid             // of CLAIM_DELEGATE_CUR and CLAIM_DELEG_CUR_FH
	changes    uint64                    // state.Changes before the file was looked at
}

// Bits of share_access besides the access itself (RFC 8881, 18.16.1).
const (
	accessMask   = nfsv4.OPEN4_SHARE_ACCESS_BOTH
	wantMask     = nfsv4.OPEN4_SHARE_ACCESS_WANT_DELEG_MASK
	wantWhenMask = nfsv4.OPEN4_SHARE_ACCESS_WANT_SIGNAL_DELEG_WHEN_RESRC_AVAIL |
		nfsv4.OPEN4_SHARE_ACCESS_WANT_PUSH_DELEG_WHEN_UNCONTENDED

	// wantTimes is OPEN4_SHARE_ACCESS_WANT_DELEG_TIMESTAMPS (RFC 9754, 5): with the delegation the client would keep the times, too. It is given
	// one without.
	wantTimes = 1 << 20
)

func openFlags(access uint32) (f vfs.OpenFlags) {
	if access&nfsv4.OPEN4_SHARE_ACCESS_READ != 0 {
		f |= vfs.OpenRead
	}
	if access&nfsv4.OPEN4_SHARE_ACCESS_WRITE != 0 {
		f |= vfs.OpenWrite
	}
	return f
}

// decodeOpen decodes and checks what can be checked without looking at anything.
func (c *compound) decodeOpen() (a openArgs, st status) {
	d := &c.d
	d.Uint32() // seqid: sessions order requests (RFC 8881, 8.8)
	share := d.Uint32()
	a.access, a.want, a.deny = share&accessMask, share&wantMask, d.Uint32()
	d.Uint64() // client id: that of the session counts
	a.owner = d.Opaque(nfsv4.NFS4_OPAQUE_LIMIT)

	st = nfsv4.NFS4_OK
	bad := func(s status) {
		if st == nfsv4.NFS4_OK {
			st = s
		}
	}
	switch nfsv4.Opentype4(d.Int32()) {
	case nfsv4.OPEN4_NOCREATE:
	case nfsv4.OPEN4_CREATE:
		a.create = true
		a.how = nfsv4.Createmode4(d.Int32())
		if a.how == nfsv4.EXCLUSIVE4 || a.how == nfsv4.EXCLUSIVE4_1 {
			copy(a.verifier[:], d.Fixed(len(a.verifier)))
		}
		if a.how < nfsv4.UNCHECKED4 || a.how > nfsv4.EXCLUSIVE4_1 {
			return a, nfsv4.NFS4ERR_BADXDR
		}
		if a.how != nfsv4.EXCLUSIVE4 {
			allowed := settable
			if a.how == nfsv4.EXCLUSIVE4_1 {
				allowed = exclusiveAttrs
			}
			var s status
			a.attrs, a.mask, s = decodeSetAttr(d, c.enc.supported, allowed)
			if s == nfsv4.NFS4ERR_BADXDR {
				return a, s
			}
			bad(s)
		}
	default:
		return a, nfsv4.NFS4ERR_BADXDR
	}
	a.claim = nfsv4.OpenClaimType4(d.Int32())
	switch a.claim {
	case nfsv4.CLAIM_NULL:
		name, s := c.decodeName()
		a.name = name
		if s != nfsv4.NFS4_OK {
			bad(s)
		}
	case nfsv4.CLAIM_PREVIOUS:
		a.had = nfsv4.OpenDelegationType4(d.Uint32())
	case nfsv4.CLAIM_FH, nfsv4.CLAIM_DELEG_PREV_FH:
	case nfsv4.CLAIM_DELEGATE_CUR:
		a.delegation = c.decodeStateid()
		name, s := c.decodeName()
		a.name = name
		if s != nfsv4.NFS4_OK {
			bad(s)
		}
	case nfsv4.CLAIM_DELEG_CUR_FH:
		a.delegation = c.decodeStateid()
	case nfsv4.CLAIM_DELEGATE_PREV:
		d.Opaque(d.Len())
	default:
		return a, nfsv4.NFS4ERR_BADXDR
	}
	if d.Err() != nil {
		return a, nfsv4.NFS4ERR_BADXDR
	}
	switch {
	case share&^(accessMask|wantMask|wantWhenMask|wantTimes) != 0, a.access == 0, a.want > nfsv4.OPEN4_SHARE_ACCESS_WANT_CANCEL,
		a.deny > nfsv4.OPEN4_SHARE_DENY_BOTH:
		bad(nfsv4.NFS4ERR_INVAL)
	case a.create && a.claim != nfsv4.CLAIM_NULL:
		bad(nfsv4.NFS4ERR_INVAL)
	}
	return a, st
}

// opened is what an OPEN ended up with.
type opened struct {
	obj object
	dir vfs.DirChange // of the directory; zero unless something may have been created
	set bitmap        // attributes of the request that were set
}

// opOpen is OPEN (RFC 8881, 18.16).
func (c *compound) opOpen() status {
	a, st := c.decodeOpen()
	if st != nfsv4.NFS4_OK {
		return st
	}
	switch a.claim {
	case nfsv4.CLAIM_DELEGATE_PREV, nfsv4.CLAIM_DELEG_PREV_FH:
		return nfsv4.NFS4ERR_NOTSUPP
	}
	if c.cur.pseudo() {
		return c.openPseudo(&a)
	}
	readOnly := c.needWritable(&c.cur) != nfsv4.NFS4_OK
	if readOnly && a.access&nfsv4.OPEN4_SHARE_ACCESS_WRITE != 0 {
		return nfsv4.NFS4ERR_ROFS
	}
	args := state.OpenArgs{
		Client: c.clientID(), Owner: a.owner, Access: a.access, Deny: a.deny,
		Reclaim: a.claim == nfsv4.CLAIM_PREVIOUS, Tail: c.tail(),
	}
	a.changes = c.s.cfg.State.Changes()
	made := nothing // ends BeginCreate, once the file is known
	if a.create && !readOnly && c.s.cfg.State.DelegatesWrite() {
		fs := c.cur.file().FS
		c.s.cfg.State.BeginCreate(fs)
		made = sync.OnceFunc(func() { c.s.cfg.State.EndCreate(fs) })
	}
	defer made()
	var o opened
	switch {
	case a.claim != nfsv4.CLAIM_NULL && a.claim != nfsv4.CLAIM_DELEGATE_CUR:
		o, st = c.openByHandle(&a, &args)
	case a.create && !readOnly:
		o, st = c.openCreate(&a, &args)
	default:
		o, st = c.openByName(&a, &args)
	}
	if st != nfsv4.NFS4_OK {
		return st
	}
	if st := c.deniesOthers(&args); st != nfsv4.NFS4_OK {
		c.abandon(&args)
		return st
	}
	// From here on package state owns the vfs open, or asks for its close.
	returned := c.s.recalls.change()
	id, eff, st := c.s.cfg.State.Open(c.now, args)
	made()
	if st = c.applyDone(eff, st); st != nfsv4.NFS4_OK { // put off, the client would be told the second seqid of what it never was told the first of
		return st
	}
	if args.New && len(eff.Recall) > 0 { // somebody else opened the new file between its creation and now
		c.s.recalls.await(c.ctx, returned, recallWait)
	}
	c.saved.hasAttr = false
	c.cur = o.obj
	c.cur.stateid = id

	b := appendStateid(c.r.B, id)
	if o.dir == (vfs.DirChange{}) {
		// Nothing was to be created; the directory was not looked at.
		b = append(b, make([]byte, 20)...)
	} else {
		b = appendChangeInfo(b, o.dir)
	}
	flags := uint32(nfsv4.OPEN4_RESULT_LOCKTYPE_POSIX)
	if c.s.cfg.State.HasBackchannel(c.clientID()) {
		flags |= nfsv4.OPEN4_RESULT_MAY_NOTIFY_LOCK
	}
	if (a.access&nfsv4.OPEN4_SHARE_ACCESS_WRITE != 0 || a.deny != 0) && c.s.keeperOf(c.cur.export.FS) != nil {
		flags |= nfsv4.OPEN4_RESULT_PRESERVE_UNLINKED // of such opens there is a record, which keeps the file over a restart too
	}
	b = xdr.AppendUint32(b, flags)
	b = appendBitmap(b, o.set)
	c.r.B = c.appendDelegation(b, &a)
	return nfsv4.NFS4_OK
}

// openPseudo answers an OPEN in the pseudo file system, where there is nothing
// but directories.
func (c *compound) openPseudo(a *openArgs) status {
	if a.claim != nfsv4.CLAIM_NULL && a.claim != nfsv4.CLAIM_DELEGATE_CUR {
		return nfsv4.NFS4ERR_ISDIR
	}
	switch found := c.cur.node.Lookup(a.name, c.from) != nil; {
	case found && a.create && a.how != nfsv4.UNCHECKED4:
		return nfsv4.NFS4ERR_EXIST
	case found:
		return nfsv4.NFS4ERR_ISDIR
	case a.create:
		return nfsv4.NFS4ERR_ROFS
	}
	return nfsv4.NFS4ERR_NOENT
}

// deniesOthers asks, after an open that denies reading was recorded, whether other servers have the file open for reading, which they do not record. Those that open it from
// now on find the record.
func (c *compound) deniesOthers(args *state.OpenArgs) status {
	if args.Deny&nfsv4.OPEN4_SHARE_DENY_READ == 0 || args.New || c.s.cfg.OthersOpen == nil {
		return nfsv4.NFS4_OK
	}
	open, err := c.s.cfg.OthersOpen(c.ctx, uint32(args.File.FS), args.File.Ino)
	switch {
	case err != nil:
		c.log().Info("nfs: other gateways do not answer whether they have a file open that is to be denied", "ino", args.File.Ino, "err", err)
		return nfsv4.NFS4ERR_DELAY
	case open:
		return nfsv4.NFS4ERR_SHARE_DENIED
	}
	return nfsv4.NFS4_OK
}

// allowed asks package state before the vfs is touched.
func (c *compound) allowed(args *state.OpenArgs) status {
	return c.unclaimed(func() (state.Effects, status) { return c.s.cfg.State.OpenAllowed(c.now, *args) })
}

// openByHandle is an OPEN of the current filehandle itself: CLAIM_FH, CLAIM_PREVIOUS.
func (c *compound) openByHandle(a *openArgs, args *state.OpenArgs) (opened, status) {
	o := opened{obj: c.cur}
	return o, c.openObject(&o.obj, a, args)
}

// maxReplaced is how often a file may be replaced between the look at its name and the open before the client is told to come again.
const maxReplaced = 16

// openByName opens what exists. It creates nothing: OPEN4_NOCREATE, or a
// read-only export, where O_CREAT of what exists is an open. A name that stands for another file by the time of the open is looked at again: it
// always stood for one.
func (c *compound) openByName(a *openArgs, args *state.OpenArgs) (opened, status) {
	for range maxReplaced {
		if o, st := c.openNamed(a, args); st != nfsv4.NFS4ERR_STALE || o.obj.ino == 0 {
			return o, st
		}
	}
	return opened{}, nfsv4.NFS4ERR_DELAY
}

// openNamed is one try. NFS4ERR_STALE with an object: it went after it was found.
func (c *compound) openNamed(a *openArgs, args *state.OpenArgs) (opened, status) {
	obj, st := c.lookup(a.name)
	switch {
	case st == nfsv4.NFS4ERR_NOENT && a.create:
		return opened{}, nfsv4.NFS4ERR_ROFS
	case st != nfsv4.NFS4_OK:
		return opened{}, st
	case a.create && a.how != nfsv4.UNCHECKED4:
		return opened{}, nfsv4.NFS4ERR_EXIST
	case a.create && a.attrs.Size != nil:
		return opened{}, nfsv4.NFS4ERR_ROFS
	}
	o := opened{obj: obj}
	st = c.openObject(&o.obj, a, args)
	return o, openNamedStatus(st)
}

// openNamedStatus is the status of an OPEN by name of something that is no
// regular file. RFC 8881, 18.16.4 has WRONG_TYPE for devices, pipes and sockets, but
// Linux clients fail an open(2) of these with EIO then; told that it is
// a symlink, they look closer and open the device themselves, so knfsd
// answers like that, too.
func openNamedStatus(st status) status {
	if st == nfsv4.NFS4ERR_WRONG_TYPE {
		return nfsv4.NFS4ERR_SYMLINK
	}
	return st
}

// openObject does the vfs open of o.
func (c *compound) openObject(o *object, a *openArgs, args *state.OpenArgs) status {
	if o.hasAttr {
		if st := checkType(o.attr.Type, false); st != nfsv4.NFS4_OK {
			return st
		}
	}
	args.File = o.file()
	if st := c.claimed(a, o); st != nfsv4.NFS4_OK {
		return st
	}
	if st := c.allowed(args); st != nfsv4.NFS4_OK {
		return st
	}
	share, st := c.plan(o.export.FS, args)
	if st != nfsv4.NFS4_OK {
		return st
	}
	// An open that is reclaimed was permitted when it was made.
	var attr vfs.Attr
	err := c.undenied(func() (err error) {
		attr, err = c.vfsOpen(o, openFlags(a.access), args.Reclaim, share)
		return err
	})
	if vfs.KindOf(err) == vfs.KindTooMany { // as the limits of package state
		return nfsv4.NFS4ERR_DELAY
	}
	if err != nil {
		return c.typeStatus(o, false, statusOf(err, true))
	}
	args.Held = openFlags(a.access)
	if attr.Nlink == 0 && (a.claim == nfsv4.CLAIM_FH || a.claim == nfsv4.CLAIM_NULL) && !c.s.cfg.State.HasOpen(args.Client, args.File) {
		// It has lost its last name, and is kept for others that have it open, or may have. Who comes now means a name that he remembers, which may stand for another file.
		c.abandon(args)
		return nfsv4.NFS4ERR_STALE
	}
	o.attr, o.hasAttr = attr, true
	c.s.remember(o.export.FSID, o.export.FS)
	return nfsv4.NFS4_OK
}

// maxDenials is how many clients whose lease is over one operation may find in its way.
const maxDenials = 64

// undenied does open, ending clients whose lease is over and whose opens are in its way. This may be what a client sends again, and then
// those in the way were ended the first time, or had closed: the file system tells the outcomes of the first time again, one by one. So a client that is
// not known here is tried once more, and so is any if the request may have been another server instance's.
func (c *compound) undenied(open func() error) error {
	last := uint64(0)
	for range maxDenials {
		err := open()
		var by *vfs.DeniedBy
		if vfs.KindOf(err) != vfs.KindShareDenied || !errors.As(err, &by) {
			return err
		}
		eff, ended, known := c.s.cfg.State.EndExpired(c.now, state.ClientID(by.Client))
		if c.apply(eff, nfsv4.NFS4_OK) != nfsv4.NFS4_OK {
			return vfs.Errorf(vfs.KindUnavailable, "open", "a client whose lease is over could not be ended")
		}
		if !ended && (by.Client == last || known && !c.call.Repeated) {
			return err
		}
		if !known && c.s.cfg.Others { // its server ends it if its lease is over
			c.s.cfg.State.DeniedElsewhere(c.now, state.ClientID(by.Client))
			c.s.recalls.await(c.ctx, nil, recallWait)
		}
		last = by.Client
	}
	return vfs.Errorf(vfs.KindUnavailable, "open", "more than %d clients whose leases are over were in the way", maxDenials)
}

// plan is what fs has to keep of an OPEN, nil if it keeps nothing.
func (c *compound) plan(fs vfs.FS, args *state.OpenArgs) (*vfs.Share, status) {
	if c.s.keeperOf(fs) == nil {
		return nil, nfsv4.NFS4_OK
	}
	if st := c.s.cfg.State.PlanOpen(args); st != nfsv4.NFS4_OK {
		return nil, st
	}
	return &args.Plan.Share, nfsv4.NFS4_OK
}

// vfsOpen opens o with the caller's permission, and has share kept, if that is not nil. Execute permission suffices
// for reading: a client has to read a program to run it.
func (c *compound) vfsOpen(o *object, f vfs.OpenFlags, override bool, share *vfs.Share) (vfs.Attr, error) {
	fs, cred := o.export.FS, c.credOf(o)
	open := fs.Open
	if k := c.s.keeperOf(fs); k != nil && share != nil {
		open = func(ctx context.Context, c *vfs.Cred, ino vfs.Ino, f vfs.OpenFlags, override bool) (vfs.Attr, error) {
			return k.OpenShared(ctx, c, ino, f, override, *share)
		}
	}
	attr, err := open(c.ctx, cred, o.ino, f, override)
	if vfs.KindOf(err) != vfs.KindAccess || f != vfs.OpenRead {
		return attr, err
	}
	now, err2 := fs.GetAttr(c.ctx, o.ino)
	if err2 != nil || now.Type != vfs.TypeFile || !now.Permits(cred, vfs.AccessExec) {
		return attr, err
	}
	return open(c.ctx, &vfs.Root, o.ino, f, true)
}

// openCreate creates, or opens what exists, as the create mode says.
func (c *compound) openCreate(a *openArgs, args *state.OpenArgs) (opened, status) {
	if st := c.allowed(args); st != nfsv4.NFS4_OK { // grace; the file is not known yet
		return opened{}, st
	}
	ca := vfs.CreateArgs{Attr: a.attrs, Open: openFlags(a.access)}
	switch a.how {
	case nfsv4.UNCHECKED4:
		ca.Exclusive = vfs.Unchecked
	case nfsv4.GUARDED4:
		ca.Exclusive = vfs.Guarded
	default:
		ca.Exclusive, ca.Verifier = vfs.ByVerifier, c.call.OwnVerifier(a.verifier)
	}
	// The size is set afterwards: whether an existing file may be truncated
	// depends on other clients' deny modes, known once its inode is.
	size := ca.Attr.Size
	ca.Attr.Size = nil
	var st status
	if ca.Share, st = c.plan(c.cur.export.FS, args); st != nfsv4.NFS4_OK {
		return opened{}, st
	}
	var made vfs.Created
	err := c.undenied(func() (err error) {
		made, err = c.cur.export.FS.Create(c.ctx, c.fsCred(), c.cur.ino, a.name, ca)
		return err
	})
	if vfs.KindOf(err) == vfs.KindTooMany && ca.Share != nil {
		return opened{}, nfsv4.NFS4ERR_DELAY
	}
	if err != nil {
		return opened{}, c.createStatus(a.name, statusOf(err, false))
	}
	c.s.remember(c.cur.export.FSID, c.cur.export.FS)
	o := opened{obj: c.sibling(&made.Attr), dir: made.Dir}
	args.File, args.Held = o.obj.file(), ca.Open
	if args.Plan != nil && made.State != (vfs.StateID{}) {
		args.Plan.Share.State = made.State
	}
	args.New = made.New
	if made.New || a.how == nfsv4.EXCLUSIVE4_1 {
		o.set = a.mask
	}
	if !made.New {
		if st := c.allowed(args); st != nfsv4.NFS4_OK {
			c.abandon(args)
			return opened{}, st
		}
	}
	// Of an existing file only truncation to nothing is asked by OPEN (18.16.3).
	if size != nil && (made.New && *size > 0 || !made.New && *size == 0 && a.how == nfsv4.UNCHECKED4) {
		end, st := c.changing(&o.obj)
		if st != nfsv4.NFS4_OK {
			c.abandon(args)
			return opened{}, st
		}
		attr, err := c.cur.export.FS.SetAttr(c.ctx, c.fsCred(), o.obj.ino, vfs.SetAttr{Size: size}, ca.Open&vfs.OpenWrite != 0)
		end()
		if err != nil {
			c.abandon(args)
			return opened{}, statusOf(err, false)
		}
		o.obj.attr = attr
		o.set = o.set.or(bits4(nfsv4.FATTR4_SIZE))
	}
	return o, nfsv4.NFS4_OK
}

// abandon ends a vfs open that package state has not heard of.
func (c *compound) abandon(args *state.OpenArgs) {
	if st := c.apply(c.s.cfg.State.Abandon(*args), nfsv4.NFS4_OK); st != nfsv4.NFS4_OK {
		c.log().Warn("nfs: an open that was given up will be ended later", "ino", args.File.Ino)
	}
}

// createStatus refines the error of a create: an existing entry that is no
// regular file, or a directory that is none, is told by its type.
func (c *compound) createStatus(name string, st status) status {
	switch st {
	case nfsv4.NFS4ERR_ISDIR, nfsv4.NFS4ERR_WRONG_TYPE, nfsv4.NFS4ERR_INVAL, nfsv4.NFS4ERR_NOTDIR:
	default:
		return st
	}
	dir := c.cur
	if s := c.typeStatus(&dir, true, st); s == nfsv4.NFS4ERR_NOTDIR || s == nfsv4.NFS4ERR_SYMLINK {
		return s
	}
	if entry, s := c.lookup(name); s == nfsv4.NFS4_OK {
		if s := checkType(entry.attr.Type, false); s != nfsv4.NFS4_OK {
			return openNamedStatus(s)
		}
	}
	return st
}

// opOpenDowngrade is OPEN_DOWNGRADE (RFC 8881, 18.18).
func (c *compound) opOpenDowngrade() status {
	id := c.decodeStateid()
	c.d.Uint32() // seqid
	access, deny := c.d.Uint32(), c.d.Uint32()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if c.cur.pseudo() {
		return nfsv4.NFS4ERR_BAD_STATEID
	}
	access &^= wantMask | wantWhenMask | wantTimes
	if access == 0 || access > nfsv4.OPEN4_SHARE_ACCESS_BOTH || deny > nfsv4.OPEN4_SHARE_DENY_BOTH {
		return nfsv4.NFS4ERR_INVAL
	}
	if st := c.reviveIf(id); st != nfsv4.NFS4_OK {
		return st
	}
	got, eff, st := c.s.cfg.State.OpenDowngrade(c.now, c.clientID(), c.cur.file(), id, access, deny)
	return c.newStateid(got, c.applyDone(eff, st))
}

// opClose is CLOSE (RFC 8881, 18.2).
func (c *compound) opClose() status {
	c.d.Uint32() // seqid
	id := c.decodeStateid()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if c.cur.pseudo() {
		return nfsv4.NFS4ERR_BAD_STATEID
	}
	got, eff, st := c.s.cfg.State.Close(c.now, c.clientID(), c.cur.file(), id)
	return c.newStateid(got, c.applyDone(eff, st))
}

// newStateid answers with a stateid, which becomes the current one.
func (c *compound) newStateid(id state.Stateid, st status) status {
	if st != nfsv4.NFS4_OK {
		return st
	}
	c.cur.stateid = id
	c.r.B = appendStateid(c.r.B, id)
	return st
}
