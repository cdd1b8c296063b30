package fsm

import (
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// inode is an InodeRecord decoded. It is immutable once it is in the overlay
// or a cache: who changes one clones it first.
type inode struct {
	attr      vfs.Attr
	parent    uint64
	target    string
	verifier  string
	entries   uint64
	lease     lease
	lastEpoch uint64
	cutGen    uint32
	cuts      []cut // never changed in place

	reservedEnd           uint64 // no live reserved extent ends above it
	xattrs                xattrs
	opens, deniers, locks uint32 // records of NFS clients
}

// lease is metapb.Lease; epoch 0 is none.
type lease struct{ origin, epoch, limit uint64 }

// shared reports whether it is nobody's alone.
func (l lease) shared() bool { return l.epoch != 0 && l.origin == 0 }

// cut is metapb.Cut. The cuts of an inode ascend in offset and generation: an
// older one at or above the offset of a newer one has nothing left to void.
type cut struct {
	gen    uint32
	offset uint64
}

func (n *inode) clone() *inode {
	c := *n
	return &c
}

func (n *inode) isDir() bool  { return n.attr.Type == vfs.TypeDir }
func (n *inode) isFile() bool { return n.attr.Type == vfs.TypeFile }

// opened reports whether NFS clients have records of it: it stays without links.
func (n *inode) opened() bool { return n.opens > 0 || n.locks > 0 }

// bump gives the inode its next change value. The values that a lease holder
// may have shown are skipped.
func (n *inode) bump() { n.attr.Change = max(n.attr.Change, n.lease.limit) + 1 }

// settled is n as it is when the holder of its lease is dead: the values that
// it may have shown are skipped and the lease is gone.
func (n *inode) settled() *inode {
	n = n.clone()
	n.bump()
	n.lease = lease{}
	return n
}

// changed marks a change of attributes, modified one of content as well.
func (n *inode) changed(now time.Time) {
	n.bump()
	n.attr.Ctime = now
}

func (n *inode) modified(now time.Time) {
	n.changed(now)
	n.attr.Mtime = now
}

// void reports whether a cut took away the extent of generation gen that ends
// at end. A cut never lies inside a live extent: the command that makes the cut trims it.
func (n *inode) void(gen uint32, end uint64) bool {
	for _, c := range n.cuts {
		if c.gen > gen && end > c.offset {
			return true
		}
	}
	return false
}

// charged reports whether an extent record of generation gen counts in Used:
// all do, void or not, until they are removed, except those older than a cut
// at offset 0, which took everything at once.
func (n *inode) charged(gen uint32) bool {
	return len(n.cuts) == 0 || n.cuts[0].offset != 0 || gen >= n.cuts[0].gen
}

func timeOf(t *metapb.Time) time.Time {
	if t == nil {
		return time.Unix(0, 0)
	}
	return time.Unix(t.Sec, int64(t.Nsec))
}

func setTime(t *metapb.Time, v time.Time) {
	t.Sec, t.Nsec = v.Unix(), uint32(v.Nanosecond())
}

// wireAttr is a metapb.Attr with its parts in one piece of memory.
type wireAttr struct {
	a                          metapb.Attr
	atime, mtime, ctime, btime metapb.Time
}

// set fills w from a and returns the message.
func (w *wireAttr) set(a *vfs.Attr) *metapb.Attr {
	p := &w.a
	p.Atime, p.Mtime, p.Ctime, p.Btime = &w.atime, &w.mtime, &w.ctime, &w.btime
	setAttr(p, a)
	return p
}

// setAttr makes p, which has its parts, what a is.
func setAttr(p *metapb.Attr, a *vfs.Attr) {
	p.Ino, p.Type, p.Mode, p.Nlink = uint64(a.Ino), uint32(a.Type), a.Mode, a.Nlink
	p.Uid, p.Gid, p.Size, p.Used = a.UID, a.GID, a.Size, a.Used
	p.DevMajor, p.DevMinor, p.Project, p.Change = a.Dev.Major, a.Dev.Minor, a.Project, a.Change
	setTime(p.Atime, a.Atime)
	setTime(p.Mtime, a.Mtime)
	setTime(p.Ctime, a.Ctime)
	setTime(p.Btime, a.Btime)
}

func toWire(a *vfs.Attr) *metapb.Attr { return new(wireAttr).set(a) }

// leaseToWire is nil for no lease.
func leaseToWire(l lease) *metapb.Lease {
	if l.epoch == 0 {
		return nil
	}
	return &metapb.Lease{Origin: l.origin, Epoch: l.epoch, ChangeLimit: l.limit}
}

// inodeCodec encodes and decodes inodes through messages that it reuses.
type inodeCodec struct {
	rec   metapb.InodeRecord
	attr  wireAttr
	lease metapb.Lease
	buf   []byte
}

// encode returns the record of n; it is valid until the next encode.
func (c *inodeCodec) encode(n *inode) ([]byte, error) {
	r := &c.rec
	r.Reset()
	r.Attr = c.attr.set(&n.attr)
	r.Attr.Ino = 0
	r.Parent, r.Entries, r.LastEpoch, r.CutGen = n.parent, n.entries, n.lastEpoch, n.cutGen
	r.ReservedEnd = n.reservedEnd
	r.Opens, r.Deniers, r.Locks = n.opens, n.deniers, n.locks
	if n.target != "" {
		r.Target = []byte(n.target)
	}
	if n.verifier != "" {
		r.Verifier = []byte(n.verifier)
	}
	if n.lease.epoch != 0 {
		c.lease.Origin, c.lease.Epoch, c.lease.ChangeLimit = n.lease.origin, n.lease.epoch, n.lease.limit
		r.Lease = &c.lease
	}
	for _, k := range n.cuts {
		r.Cuts = append(r.Cuts, &metapb.Cut{Gen: k.gen, Offset: k.offset})
	}
	if n.xattrs != (xattrs{}) {
		r.Xattrs = &metapb.Xattrs{
			Count: uint32(n.xattrs.Count), NameBytes: uint32(n.xattrs.NameBytes), ValueBytes: uint32(n.xattrs.ValueBytes),
			LastCookie: n.xattrs.lastCookie,
		}
	}
	size := r.SizeVT()
	if cap(c.buf) < size {
		c.buf = make([]byte, size, 2*size)
	}
	c.buf = c.buf[:size]
	_, err := r.MarshalToSizedBufferVT(c.buf)
	return c.buf, err
}

// decode reads the record of inode ino.
func (c *inodeCodec) decode(ino uint64, b []byte) (*inode, error) {
	n := new(inode)
	return n, c.decodeTo(n, ino, b)
}

// decodeTo makes n the record of inode ino.
func (c *inodeCodec) decodeTo(n *inode, ino uint64, b []byte) error {
	c.rec.Reset()
	c.attr.a.Reset()
	for _, t := range []*metapb.Time{&c.attr.atime, &c.attr.mtime, &c.attr.ctime, &c.attr.btime} {
		t.Reset()
	}
	c.lease.Reset()
	c.attr.a.Atime, c.attr.a.Mtime = &c.attr.atime, &c.attr.mtime
	c.attr.a.Ctime, c.attr.a.Btime = &c.attr.ctime, &c.attr.btime
	c.rec.Attr, c.rec.Lease = &c.attr.a, &c.lease
	if err := c.rec.UnmarshalVT(b); err != nil {
		return corrupt("inode %d: %w", ino, err)
	}
	a := &c.attr.a
	*n = inode{
		attr: vfs.Attr{
			Ino: vfs.Ino(ino), Type: vfs.Type(a.Type), Mode: a.Mode, Nlink: a.Nlink,
			UID: a.Uid, GID: a.Gid, Size: a.Size, Used: a.Used,
			Dev: vfs.Dev{Major: a.DevMajor, Minor: a.DevMinor}, Project: a.Project, Change: a.Change,
			Atime: timeOf(a.Atime), Mtime: timeOf(a.Mtime), Ctime: timeOf(a.Ctime), Btime: timeOf(a.Btime),
		},
		parent: c.rec.Parent, target: string(c.rec.Target), verifier: string(c.rec.Verifier), entries: c.rec.Entries,
		lease:     lease{c.lease.Origin, c.lease.Epoch, c.lease.ChangeLimit},
		lastEpoch: c.rec.LastEpoch, cutGen: c.rec.CutGen, reservedEnd: c.rec.ReservedEnd,
		opens: c.rec.Opens, deniers: c.rec.Deniers, locks: c.rec.Locks,
	}
	for _, k := range c.rec.Cuts {
		n.cuts = append(n.cuts, cut{k.Gen, k.Offset})
	}
	if w := c.rec.Xattrs; w != nil {
		n.xattrs = xattrs{vfs.XattrTotals{Count: int(w.Count), NameBytes: int(w.NameBytes), ValueBytes: int(w.ValueBytes)}, w.LastCookie}
	}
	return nil
}
