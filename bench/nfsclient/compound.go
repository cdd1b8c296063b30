package nfsclient

import (
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/bench/nfsclient/attr"
	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/rpc"
)

// Names of the protocol's own types.
type (
	Status    = nfsv4.Nfsstat4
	Stateid   = nfsv4.Stateid4
	SessionID = nfsv4.Sessionid4
)

// FH is a file handle.
type FH string

const (
	headerSize   = 12                     // tag (empty), minor version, number of operations
	sequenceSize = 4 + 16 + 4 + 4 + 4 + 4 // SEQUENCE with its operation number
	countOffset  = headerSize - 4         // of the number of operations
)

// Compound is a request under construction. Methods append one operation each
// and return the Compound.
type Compound struct {
	// CacheThis asks the server to keep the reply for a replay.
	CacheThis bool

	b        []byte
	attached []rpc.Attachment
	ops      uint32
	session  bool
}

// NewCompound begins a request that a session will send: SEQUENCE is put in
// front.
func NewCompound() *Compound { return new(Compound).Reset() }

// NewRaw begins a request without SEQUENCE.
func NewRaw() *Compound {
	c := new(Compound).Reset()
	c.b = c.b[:headerSize]
	c.session = false
	return c
}

// Reset makes c empty, as from NewCompound, keeping its memory.
func (c *Compound) Reset() *Compound {
	var room [headerSize + sequenceSize]byte
	*c = Compound{b: append(c.b[:0], room[:]...), attached: c.attached[:0], session: true}
	return c
}

// Op appends an operation number. Its arguments follow with Raw.
func (c *Compound) Op(op nfsv4.NfsOpnum4) *Compound {
	c.b = xdr.AppendInt32(c.b, int32(op))
	c.ops++
	return c
}

// Raw appends bytes.
func (c *Compound) Raw(p []byte) *Compound {
	c.b = append(c.b, p...)
	return c
}

// Words appends 32-bit words.
func (c *Compound) Words(w ...uint32) *Compound {
	for _, v := range w {
		c.b = xdr.AppendUint32(c.b, v)
	}
	return c
}

func (c *Compound) u64(v uint64) *Compound {
	c.b = xdr.AppendUint64(c.b, v)
	return c
}

func (c *Compound) str(s string) *Compound {
	c.b = xdr.AppendString(c.b, s)
	return c
}

func (c *Compound) stateid(id Stateid) *Compound {
	c.b = xdr.AppendUint32(c.b, id.Seqid)
	c.b = append(c.b, id.Other[:]...)
	return c
}

// PutRootFH, PutFH, SaveFH, RestoreFH, GetFH, Lookup, LookupP: RFC 8881, 18.

func (c *Compound) PutRootFH() *Compound      { return c.Op(nfsv4.OP_PUTROOTFH) }
func (c *Compound) PutFH(fh FH) *Compound     { return c.Op(nfsv4.OP_PUTFH).str(string(fh)) }
func (c *Compound) SaveFH() *Compound         { return c.Op(nfsv4.OP_SAVEFH) }
func (c *Compound) RestoreFH() *Compound      { return c.Op(nfsv4.OP_RESTOREFH) }
func (c *Compound) GetFH() *Compound          { return c.Op(nfsv4.OP_GETFH) }
func (c *Compound) Lookup(n string) *Compound { return c.Op(nfsv4.OP_LOOKUP).str(n) }
func (c *Compound) LookupP() *Compound        { return c.Op(nfsv4.OP_LOOKUPP) }

// Getattr asks for the attributes whose numbers are given.
func (c *Compound) Getattr(want attr.Bitmap) *Compound {
	c.Op(nfsv4.OP_GETATTR)
	c.b = want.Append(c.b)
	return c
}

// Setattr sets attributes under a stateid.
func (c *Compound) Setattr(id Stateid, s *attr.Set) *Compound {
	c.Op(nfsv4.OP_SETATTR).stateid(id)
	c.b = s.Append(c.b)
	return c
}

// Access asks what the caller may do.
func (c *Compound) Access(bits uint32) *Compound { return c.Op(nfsv4.OP_ACCESS).Words(bits) }

// Read reads n bytes at off.
func (c *Compound) Read(id Stateid, off uint64, n uint32) *Compound {
	return c.Op(nfsv4.OP_READ).stateid(id).u64(off).Words(n)
}

// Write writes p at off. p is sent in place: it must not change until the
// request was answered.
func (c *Compound) Write(id Stateid, off uint64, stable nfsv4.StableHow4, p []byte) *Compound {
	c.Op(nfsv4.OP_WRITE).stateid(id).u64(off).Words(uint32(stable), uint32(len(p)))
	c.attached = append(c.attached, rpc.Attachment{At: len(c.b), P: p})
	var zeros [4]byte
	return c.Raw(zeros[:xdr.Pad(len(p))])
}

// Commit makes n bytes from off durable; 0 is to the end of the file.
func (c *Compound) Commit(off uint64, n uint32) *Compound {
	return c.Op(nfsv4.OP_COMMIT).u64(off).Words(n)
}

// CreateMode says how an OPEN creates.
type CreateMode uint8

const (
	NoCreate CreateMode = iota
	Unchecked
	Guarded
	Exclusive   // EXCLUSIVE4: verifier only
	Exclusive41 // EXCLUSIVE4_1: verifier and attributes
)

// OpenArgs are the arguments of an OPEN.
type OpenArgs struct {
	Name     string // CLAIM_NULL in the current directory; "" is CLAIM_FH, or CLAIM_PREVIOUS with Reclaim
	Reclaim  bool
	Owner    string // open-owner; "" is the default
	Access   uint32 // 0: read and write
	Deny     uint32
	Create   CreateMode
	Verifier [8]byte
	Attr     attr.Set

	Delegated Stateid // of a delegation: CLAIM_DELEG_CUR_FH, without a Name
}

// Open opens, with the given client id in the open-owner.
func (c *Compound) Open(client uint64, a *OpenArgs) *Compound {
	access := a.Access
	if access == 0 {
		access = nfsv4.OPEN4_SHARE_ACCESS_BOTH
	}
	owner := a.Owner
	if owner == "" {
		owner = "default"
	}
	c.Op(nfsv4.OP_OPEN).Words(0, access, a.Deny).u64(client).str(owner)
	switch a.Create {
	case NoCreate:
		c.Words(uint32(nfsv4.OPEN4_NOCREATE))
	case Unchecked, Guarded:
		mode := nfsv4.UNCHECKED4
		if a.Create == Guarded {
			mode = nfsv4.GUARDED4
		}
		c.Words(uint32(nfsv4.OPEN4_CREATE), uint32(mode))
		c.b = a.Attr.Append(c.b)
	case Exclusive:
		c.Words(uint32(nfsv4.OPEN4_CREATE), uint32(nfsv4.EXCLUSIVE4)).Raw(a.Verifier[:])
	case Exclusive41:
		c.Words(uint32(nfsv4.OPEN4_CREATE), uint32(nfsv4.EXCLUSIVE4_1)).Raw(a.Verifier[:])
		c.b = a.Attr.Append(c.b)
	}
	switch {
	case a.Name != "":
		return c.Words(uint32(nfsv4.CLAIM_NULL)).str(a.Name)
	case a.Reclaim:
		return c.Words(uint32(nfsv4.CLAIM_PREVIOUS), uint32(nfsv4.OPEN_DELEGATE_NONE))
	case a.Delegated != Stateid{}:
		return c.Words(uint32(nfsv4.CLAIM_DELEG_CUR_FH)).stateid(a.Delegated)
	}
	return c.Words(uint32(nfsv4.CLAIM_FH))
}

// Close closes an open.
func (c *Compound) Close(id Stateid) *Compound { return c.Op(nfsv4.OP_CLOSE).Words(0).stateid(id) }

// DelegReturn returns a delegation.
func (c *Compound) DelegReturn(id Stateid) *Compound { return c.Op(nfsv4.OP_DELEGRETURN).stateid(id) }

// OpenDowngrade reduces an open.
func (c *Compound) OpenDowngrade(id Stateid, access, deny uint32) *Compound {
	return c.Op(nfsv4.OP_OPEN_DOWNGRADE).stateid(id).Words(0, access, deny)
}

// LockArgs are the arguments of a LOCK.
type LockArgs struct {
	Type           nfsv4.NfsLockType4
	Offset, Length uint64
	Reclaim        bool
	New            bool    // the first lock of Owner on the file; Stateid is the open's
	Stateid        Stateid // of the lock unless New
	Owner          string
}

// Lock locks a range.
func (c *Compound) Lock(client uint64, a *LockArgs) *Compound {
	c.Op(nfsv4.OP_LOCK).Words(uint32(a.Type))
	c.b = xdr.AppendBool(c.b, a.Reclaim)
	c.u64(a.Offset).u64(a.Length)
	c.b = xdr.AppendBool(c.b, a.New)
	if a.New {
		return c.Words(0).stateid(a.Stateid).Words(0).u64(client).str(a.Owner)
	}
	return c.stateid(a.Stateid).Words(0)
}

// LockT asks whether a range could be locked.
func (c *Compound) LockT(client uint64, t nfsv4.NfsLockType4, off, n uint64, owner string) *Compound {
	return c.Op(nfsv4.OP_LOCKT).Words(uint32(t)).u64(off).u64(n).u64(client).str(owner)
}

// LockU unlocks a range.
func (c *Compound) LockU(id Stateid, off, n uint64) *Compound {
	return c.Op(nfsv4.OP_LOCKU).Words(uint32(nfsv4.WRITE_LT), 0).stateid(id).u64(off).u64(n)
}

// Mkdir, Symlink and Mknod make something in the current directory.
func (c *Compound) Mkdir(name string, s *attr.Set) *Compound {
	return c.create(nfsv4.NF4DIR, nil, name, s)
}

func (c *Compound) Symlink(name, target string, s *attr.Set) *Compound {
	return c.create(nfsv4.NF4LNK, xdr.AppendString(nil, target), name, s)
}

func (c *Compound) Mknod(t nfsv4.NfsFtype4, major, minor uint32, name string, s *attr.Set) *Compound {
	var dev []byte
	if t == nfsv4.NF4BLK || t == nfsv4.NF4CHR {
		dev = xdr.AppendUint32(xdr.AppendUint32(nil, major), minor)
	}
	return c.create(t, dev, name, s)
}

func (c *Compound) create(t nfsv4.NfsFtype4, data []byte, name string, s *attr.Set) *Compound {
	c.Op(nfsv4.OP_CREATE).Words(uint32(t)).Raw(data).str(name)
	c.b = s.Append(c.b)
	return c
}

// Link links the saved file into the current directory. Rename moves from the
// saved directory into the current one.
func (c *Compound) Link(name string) *Compound       { return c.Op(nfsv4.OP_LINK).str(name) }
func (c *Compound) Rename(from, to string) *Compound { return c.Op(nfsv4.OP_RENAME).str(from).str(to) }
func (c *Compound) Remove(name string) *Compound     { return c.Op(nfsv4.OP_REMOVE).str(name) }
func (c *Compound) Readlink() *Compound              { return c.Op(nfsv4.OP_READLINK) }

// Readdir lists the current directory from after cookie.
func (c *Compound) Readdir(cookie uint64, verf [8]byte, dircount, maxcount uint32, want attr.Bitmap) *Compound {
	c.Op(nfsv4.OP_READDIR).u64(cookie).Raw(verf[:]).Words(dircount, maxcount)
	c.b = want.Append(c.b)
	return c
}

// ReclaimComplete, DestroyClientID, FreeStateid, TestStateid, DestroySession,
// BindConn: RFC 8881, 18.

func (c *Compound) ReclaimComplete() *Compound { return c.Op(nfsv4.OP_RECLAIM_COMPLETE).Words(0) }
func (c *Compound) DestroyClientID(id uint64) *Compound {
	return c.Op(nfsv4.OP_DESTROY_CLIENTID).u64(id)
}
func (c *Compound) FreeStateid(id Stateid) *Compound { return c.Op(nfsv4.OP_FREE_STATEID).stateid(id) }
func (c *Compound) TestStateid(ids ...Stateid) *Compound {
	c.Op(nfsv4.OP_TEST_STATEID).Words(uint32(len(ids)))
	for _, id := range ids {
		c.stateid(id)
	}
	return c
}
func (c *Compound) DestroySession(id SessionID) *Compound {
	return c.Op(nfsv4.OP_DESTROY_SESSION).Raw(id[:])
}
func (c *Compound) BindConn(id SessionID, dir nfsv4.ChannelDirFromClient4) *Compound {
	return c.Op(nfsv4.OP_BIND_CONN_TO_SESSION).Raw(id[:]).Words(uint32(dir), 0)
}

// ExchangeID introduces a client owner, without state protection.
func (c *Compound) ExchangeID(owner string, verifier [8]byte, flags uint32) *Compound {
	return c.Op(nfsv4.OP_EXCHANGE_ID).Raw(verifier[:]).str(owner).Words(flags, uint32(nfsv4.SP4_NONE), 0)
}

// ChannelAttrs are a channel's limits.
type ChannelAttrs struct {
	MaxRequest, MaxResponse, MaxCachedResponse, MaxOps, MaxSlots uint32
}

// CreateSession makes a session.
func (c *Compound) CreateSession(client uint64, seq, flags uint32, fore, back ChannelAttrs, program uint32) *Compound {
	c.Op(nfsv4.OP_CREATE_SESSION).u64(client).Words(seq, flags)
	for _, a := range []ChannelAttrs{fore, back} {
		c.Words(0, a.MaxRequest, a.MaxResponse, a.MaxCachedResponse, a.MaxOps, a.MaxSlots, 0)
	}
	return c.Words(program, 1, 0) // one way to authenticate callbacks: AUTH_NONE
}

// call completes c as the arguments of an RPC. sequence is put in front if c
// was made for a session.
func (c *Compound) call(minor uint32, sequence []byte) *rpc.Call {
	ops := c.ops
	if c.session {
		copy(c.b[headerSize:], sequence)
		ops++
	}
	xdr.PutUint32(c.b, 0, 0)
	xdr.PutUint32(c.b, 4, minor)
	xdr.PutUint32(c.b, countOffset, ops)
	return &rpc.Call{
		Prog:     Program,
		Vers:     Version,
		Proc:     1,
		Args:     c.b,
		Attached: c.attached,
	}
}

// backoff is how long to wait before the nth try.
func backoff(n int) time.Duration {
	return min(10*time.Millisecond<<min(n, 10), time.Second)
}

// Sessionless reports whether c was made by NewRaw.
func (c *Compound) Sessionless() bool { return !c.session }

// Ops are the encoded operations and how many they claim to be, without
// SEQUENCE, for tests that damage them.
func (c *Compound) Ops() ([]byte, uint32) {
	return c.b[c.opsOffset():], c.ops
}

// SetOps replaces what Ops returns. Attached data of a Write stays at its place.
func (c *Compound) SetOps(p []byte, count uint32) {
	c.b = append(c.b[:c.opsOffset()], p...)
	c.ops = count
}

func (c *Compound) opsOffset() int {
	if c.session {
		return headerSize + sequenceSize
	}
	return headerSize
}
