package v4

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/state"
	"github.com/rackfs/rackfs/vfs"
)

// What operations have to do with delegations; package state decides, recall.go tells the clients.

// everyone is whom nfsace4 of a delegation names. It permits nothing without ACCESS: clients ask by themselves.
const everyone = "EVERYONE@"

// limitBlock is the size in bytes of the blocks of nfs_space_limit4, of which there are none.
const limitBlock = 4096

// appendDelegation appends open_delegation4 for the file that was just opened, the current one. A client that said what it wants
// is told why it gets nothing (RFC 8881, 18.16.3).
func (c *compound) appendDelegation(b []byte, a *openArgs) []byte {
	id, write, why, ok := c.delegate(a)
	if ok {
		kind := nfsv4.OPEN_DELEGATE_READ
		if write {
			kind = nfsv4.OPEN_DELEGATE_WRITE
		}
		b = xdr.AppendInt32(b, int32(kind))
		b = appendStateid(b, id)
		b = xdr.AppendBool(b, false) // not recalled
		if write {
			// Space is not set aside: what is written is sent at close at the latest, and the application hears if there is no room.
			b = xdr.AppendInt32(b, int32(nfsv4.NFS_LIMIT_BLOCKS))
			b = xdr.AppendUint32(xdr.AppendUint32(b, 0), limitBlock)
		}
		b = xdr.AppendUint32(b, nfsv4.ACE4_ACCESS_ALLOWED_ACE_TYPE)
		b = xdr.AppendUint32(xdr.AppendUint32(b, 0), 0) // flags, mask
		return xdr.AppendString(b, everyone)
	}
	if a.want == nfsv4.OPEN4_SHARE_ACCESS_WANT_NO_PREFERENCE {
		return xdr.AppendInt32(b, int32(nfsv4.OPEN_DELEGATE_NONE))
	}
	b = xdr.AppendInt32(b, int32(nfsv4.OPEN_DELEGATE_NONE_EXT))
	b = xdr.AppendInt32(b, int32(why))
	if why == nfsv4.WND4_CONTENTION || why == nfsv4.WND4_RESOURCE {
		b = xdr.AppendBool(b, false) // nor will it be told when that changes
	}
	return b
}

// delegationKind tells which kind of delegation an OPEN may be given, or why none. One for writing is given only with an open for both,
// since whoever has it may read, too.
func (c *compound) delegationKind(a *openArgs) (write bool, why nfsv4.WhyNoDelegation4, ok bool) {
	st := c.s.cfg.State
	switch a.want {
	case nfsv4.OPEN4_SHARE_ACCESS_WANT_NO_DELEG:
		return false, nfsv4.WND4_NOT_WANTED, false
	case nfsv4.OPEN4_SHARE_ACCESS_WANT_CANCEL:
		return false, nfsv4.WND4_CANCELLED, false
	case nfsv4.OPEN4_SHARE_ACCESS_WANT_WRITE_DELEG:
		if !st.DelegatesWrite() {
			return false, nfsv4.WND4_WRITE_DELEG_NOT_SUPP_FTYPE, false
		}
	}
	switch {
	case !st.Delegates():
		return false, nfsv4.WND4_NOT_SUPP_FTYPE, false
	case a.deny != nfsv4.OPEN4_SHARE_DENY_NONE:
		return false, nfsv4.WND4_CONTENTION, false // with this very open
	case a.claim == nfsv4.CLAIM_DELEGATE_CUR, a.claim == nfsv4.CLAIM_DELEG_CUR_FH, !st.HasBackchannel(c.clientID()):
		return false, nfsv4.WND4_RESOURCE, false
	case a.claim == nfsv4.CLAIM_PREVIOUS:
		return a.had == nfsv4.OPEN_DELEGATE_WRITE, nfsv4.WND4_RESOURCE, a.had == nfsv4.OPEN_DELEGATE_WRITE || a.had == nfsv4.OPEN_DELEGATE_READ
	case a.want == nfsv4.OPEN4_SHARE_ACCESS_WANT_WRITE_DELEG && a.access != nfsv4.OPEN4_SHARE_ACCESS_BOTH:
		return false, nfsv4.WND4_RESOURCE, false
	case a.access == nfsv4.OPEN4_SHARE_ACCESS_READ:
		return false, 0, true
	case a.access == nfsv4.OPEN4_SHARE_ACCESS_BOTH && a.want != nfsv4.OPEN4_SHARE_ACCESS_WANT_READ_DELEG && st.DelegatesWrite():
		return true, 0, true
	}
	return false, nfsv4.WND4_CONTENTION, false
}

// delegate gives the current file to the client that opened it, or tells why not.
func (c *compound) delegate(a *openArgs) (id state.Stateid, write bool, why nfsv4.WhyNoDelegation4, ok bool) {
	st := c.s.cfg.State
	if write, why, ok = c.delegationKind(a); !ok {
		return id, write, why, false
	}
	args := state.DelegateArgs{
		Client: c.clientID(), File: c.cur.file(), Reclaim: a.claim == nfsv4.CLAIM_PREVIOUS, Changes: a.changes,
		Write: write, Kept: write && c.s.keeperOf(c.cur.export.FS) != nil, Tail: c.tail(),
	}
	if why, ok := st.Delegable(c.now, &args); !ok {
		return id, write, why, false
	}
	if args.Reclaim && write && a.access != nfsv4.OPEN4_SHARE_ACCESS_BOTH { // the open will not do for the delegation
		if _, err := c.vfsOpen(&c.cur, vfs.OpenRead|vfs.OpenWrite, true, nil); err != nil {
			return id, write, nfsv4.WND4_RESOURCE, false
		}
		args.Held = vfs.OpenRead | vfs.OpenWrite
	}
	args.Handle = c.enc.ring.Append(nil, c.cur.handle())
	id, current, eff, why, ok := st.Delegate(c.now, args)
	if c.apply(eff, nfsv4.NFS4_OK) != nfsv4.NFS4_OK {
		if ok {
			eff, _ := st.ReturnDelegation(c.clientID(), args.File, id)
			_ = c.apply(eff, nfsv4.NFS4_OK) // what cannot be done now is done later
		}
		return state.Stateid{}, write, nfsv4.WND4_RESOURCE, false
	}
	if !current { // what is known of the file may be older than the delegation
		c.changed()
	}
	if ok && write && c.load(&c.cur) == nfsv4.NFS4_OK {
		st.Seen(c.clientID(), id, c.cur.attr.Change)
	}
	return id, write, why, ok
}

// claimed checks an OPEN by a delegation that the client has: of the object o (RFC 8881, 10.2.1).
func (c *compound) claimed(a *openArgs, o *object) status {
	switch a.claim {
	case nfsv4.CLAIM_DELEGATE_CUR, nfsv4.CLAIM_DELEG_CUR_FH:
		return c.s.cfg.State.CheckDelegation(c.clientID(), o.file(), a.delegation, a.access)
	}
	return nfsv4.NFS4_OK
}

// opDelegReturn is DELEGRETURN (RFC 8881, 18.6).
func (c *compound) opDelegReturn() status {
	id := c.decodeStateid()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if c.cur.pseudo() {
		return nfsv4.NFS4ERR_BAD_STATEID
	}
	eff, st := c.s.cfg.State.ReturnDelegation(c.clientID(), c.cur.file(), id)
	st = c.apply(eff, st)
	c.s.recalls.notify()
	return st
}

// unclaimed asks package state for something that other clients' delegations may be in the way of. While these are being recalled it waits for a moment,
// because a client that is told to come again takes its time.
func (c *compound) unclaimed(ask func() (state.Effects, status)) status {
	began := time.Now()
	for try := 0; ; try++ {
		returned := c.s.recalls.change()
		eff, st := ask()
		wait := time.Duration(0)
		switch {
		case c.s.cfg.State.Lost():
			wait = lostWait - time.Since(began)
		case len(eff.Recall) > 0 || try > 0:
			wait = recallWait
		}
		if st = c.apply(eff, st); st != nfsv4.NFS4ERR_DELAY || wait <= 0 || !c.s.recalls.await(c.ctx, returned, wait) {
			return st
		}
		c.now = c.s.cfg.Now()
	}
}

func nothing() {}

// changing begins a change of objects, none of them of the pseudo file system, by the client. With NFS4_OK the caller calls end after the change.
func (c *compound) changing(objects ...*object) (end func(), st status) {
	s := c.s.cfg.State
	if !s.Delegates() {
		return nothing, nfsv4.NFS4_OK
	}
	files := make([]state.File, len(objects))
	for i, o := range objects {
		files[i] = o.file()
	}
	if st := c.unclaimed(func() (state.Effects, status) { return s.BeginChange(c.now, c.clientID(), files...) }); st != nfsv4.NFS4_OK {
		return nothing, st
	}
	return func() { s.EndChange(files...) }, nfsv4.NFS4_OK
}

// reading begins a look at the content or the locks of an object without an open that package state knows of. With NFS4_OK the caller calls
// end after it.
func (c *compound) reading(o *object) (end func(), st status) {
	s := c.s.cfg.State
	if !s.WritesDelegated() {
		return nothing, nfsv4.NFS4_OK
	}
	f := o.file()
	if st := c.unclaimed(func() (state.Effects, status) { return s.BeginRead(c.now, c.clientID(), f) }); st != nfsv4.NFS4_OK {
		return nothing, st
	}
	return func() { s.EndChange(f) }, nfsv4.NFS4_OK
}

// entry is a name in a directory.
type entry struct {
	dir  *object
	name string
}

// renaming begins a change of what names stand for, in the current file system.
func (c *compound) renaming(names ...entry) (end func(), st status) {
	s := c.s.cfg.State
	if !s.Delegates() {
		return nothing, nfsv4.NFS4_OK
	}
	fs := c.cur.file().FS
	end = func() { s.EndNaming(fs) }
	if !s.BeginNaming(fs) {
		return end, nfsv4.NFS4_OK
	}
	var files []state.File
	for _, n := range names {
		// What cannot be looked up cannot be removed either.
		if a, err := n.dir.export.FS.Lookup(c.ctx, c.fsCred(), n.dir.ino, n.name); err == nil && a.Type == vfs.TypeFile {
			files = append(files, state.File{FS: fs, Ino: a.Ino})
		}
	}
	if st := c.unclaimed(func() (state.Effects, status) { return s.BreakDelegations(c.now, c.clientID(), files...) }); st != nfsv4.NFS4_OK {
		end()
		return nothing, st
	}
	return end, nfsv4.NFS4_OK
}
