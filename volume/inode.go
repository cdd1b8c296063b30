package volume

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// gateWide is the weight of exclusive passage through an inode's gate.
const gateWide = 1 << 30

// inode is an entry of the table. It may exist for an inode that turns out not
// to.
type inode struct {
	ino vfs.Ino

	// gate lets writes pass shared, and size changes, other attribute changes
	// and the lease's return exclusively.
	gate *semaphore.Weighted
	// leasing is held (one slot) while the lease is asked for.
	leasing *semaphore.Weighted

	// Fields protected by the table's lock.
	refs   int                     // users of this entry
	opens  [2]int                  // by openIndex: for reading, for writing
	opened uint64                  // table.opened when it came to be open
	shares map[shareKey]*keptShare // of those opens, what is kept for clients
	used   time.Time               // when refs fell to 0
	elem   lruElem

	mu sync.Mutex // guards the fields below

	dead   bool // it was deleted: everything answers KindStale
	orphan bool // no links; the metadata keeps it for us

	lease metapb.Lease // Epoch 0: none
	ended uint64       // the newest epoch that was given back: an answer of before that comes later grants nothing

	// meta are the attributes as the metadata last told (with a lease only);
	// fresh: nothing has happened since that they would not show.
	meta  vfs.Attr
	known bool // meta is set
	fresh bool
	gen   uint64 // grows whenever fresh becomes false: an answer asked for before does not make it true
	shown uint64 // the highest change value that was given to anybody

	// What buffered writes did to the attributes and the metadata was not told.
	over overlay

	chunks   map[uint64]*chunk // dirty or being flushed, by offset / chunkSize
	frozen   uint64            // chunks from this index on are not flushed
	seq      uint64            // of the last write
	losses   uint64            // times that bytes were lost
	err      error             // of a loss, for the next Write or Commit
	lastLoss error             // why bytes were lost last
	request  vfs.RequestID     // that waits for them to be durable, the last one that did; 0: none

	ready      []flushed // blocks written, waiting for the committer
	committing bool
	gathering
	told   uint64        // the newest write whose effect on attributes the metadata knows
	notify chan struct{} // closed when something was flushed, lost or cut off, or may be flushed again

	ext       extentMap
	extChange uint64          // the change value at which ext was true (without a lease)
	extGen    uint64          // grows when ext changes by our own doing: an answer asked for before is old there
	extLog    [extLogLen]span // where the last changes were, by extGen

	sharing  sharing
	throughs []*through // writes under way to a shared file

	streams [2]stream // sequential readers, newest first

	readChange uint64 // the change value at which a read was noted last, at readAt
	readAt     time.Time
}

// overlay is what meta lacks.
type overlay struct {
	seq   uint64 // of the last write that it includes; 0: it is empty
	size  uint64
	time  time.Time // of the last write: mtime, and ctime unless that is later
	setID bool      // setuid and setgid fell
	times bool      // time is to be applied (a SetAttr of mtime ends it)
}

func newInode(ino vfs.Ino) *inode {
	return &inode{
		ino:     ino,
		gate:    semaphore.NewWeighted(gateWide),
		leasing: semaphore.NewWeighted(1),
		notify:  make(chan struct{}),

		gathering: gathering{more: make(chan struct{}, 1)},
		frozen:    ^uint64(0),
	}
}

// leased reports whether e has the write lease. e.mu is held.
func (e *inode) leased() bool { return e.lease.Epoch != 0 }

// attr are the effective attributes of a leased inode. e.mu is held.
func (e *inode) attr() vfs.Attr {
	a := e.meta
	if e.over.seq != 0 {
		a.Size = max(a.Size, e.over.size)
		if e.over.times {
			a.Mtime = e.over.time
			if e.over.time.After(a.Ctime) {
				a.Ctime = e.over.time
			}
		}
		if e.over.setID {
			a.Mode = vfs.ModeAfterWrite(&nobody, &a)
		}
	}
	a.Change = e.top()
	return a
}

// extLogLen is how many changes of the extents an answer may be late.
const extLogLen = 32

// extChanged says that the extents of r are not what they were. e.mu is held.
func (e *inode) extChanged(r span) {
	e.extGen++
	e.extLog[e.extGen%extLogLen] = r
}

// unchanged is what of s did not change since gen. e.mu is held.
func (e *inode) unchanged(s span, gen uint64) []span {
	if e.extGen-gen > extLogLen {
		return nil
	}
	keep := []span{s}
	for g := gen + 1; g <= e.extGen; g++ {
		keep = minus(keep, e.extLog[g%extLogLen])
	}
	return keep
}

// minus is what remains of in without cut.
func minus(in []span, cut span) (out []span) {
	for _, s := range in {
		if lo := min(s.end, cut.off); s.off < lo {
			out = append(out, span{s.off, lo})
		}
		if hi := max(s.off, cut.end); hi < s.end {
			out = append(out, span{hi, s.end})
		}
	}
	return out
}

// nobody is some user who is not root.
var nobody = vfs.Cred{UID: 65534, GID: 65534}

// changeStep is between two values that writes show. Those between are named by
// commands that make only a part of what is dirty durable: readers elsewhere see
// another value for that content than anybody was shown here.
const changeStep = 2

// top is the newest change value of e. e.mu is held.
func (e *inode) top() uint64 { return max(e.shown, e.meta.Change) }

// learn takes attributes that the metadata told of a leased inode, unless they
// are older than what is known. e.mu is held.
func (e *inode) learn(a vfs.Attr) {
	if e.known && a.Change < e.meta.Change {
		return
	}
	e.meta, e.known = a, true
}

// overtaken reports whether the metadata is at a change value as high as what
// is shown although there are buffered writes: something besides data changed. e.mu is
// held.
func (e *inode) overtaken() bool {
	return e.leased() && e.known && e.over.seq != 0 && e.shown <= e.meta.Change
}

// forget says that meta may be old: something happened that only the metadata
// knows. e.mu is held.
func (e *inode) forget() {
	e.fresh = false
	e.gen++
}

// wake tells everybody who waits for a flush to look again. e.mu is held.
func (e *inode) wake() {
	close(e.notify)
	e.notify = make(chan struct{})
}

// grant takes a lease that the metadata gave with attributes a. If it is not
// the one held until now, what was buffered under that is lost; the caller drops
// it before. e.mu is held.
func (e *inode) grant(l *metapb.Lease, a vfs.Attr) {
	if l.GetEpoch() == 0 || l.Epoch < e.lease.Epoch || l.Epoch <= e.ended {
		return
	}
	if e.lease.Epoch != l.Epoch {
		e.lease = metapb.Lease{Origin: l.Origin, Epoch: l.Epoch, ChangeLimit: l.ChangeLimit}
		e.meta, e.known, e.fresh = a, true, true
		e.shown = a.Change
		e.over = overlay{}
		e.extChanged(span{0, maxOffset})
		if e.extChange != a.Change {
			e.ext = extentMap{}
		}
		return
	}
	e.lease.ChangeLimit = max(e.lease.ChangeLimit, l.ChangeLimit)
	e.learn(a)
	// Each chunk may need a value of its own until all is durable.
	up := e.meta.Change + changeStep*uint64(1+len(e.chunks))
	if e.overtaken() && up <= e.lease.ChangeLimit {
		e.shown = up
	}
}

// extend takes the range of a lease that a command's result told. e.mu is held.
func (e *inode) extend(l *metapb.Lease) {
	if l != nil && l.Epoch == e.lease.Epoch {
		e.lease.ChangeLimit = max(e.lease.ChangeLimit, l.ChangeLimit)
	}
}

// ensureLease makes e hold the write lease with at least one change value left, or know that it is shared.
func (v *Volume) ensureLease(ctx context.Context, e *inode, op string) error {
	ok, err := e.canWrite(op)
	if ok || err != nil {
		return err
	}
	if err := e.leasing.Acquire(ctx, 1); err != nil {
		return vfs.Wrap(op, err)
	}
	defer e.leasing.Release(1)
	if ok, err := e.canWrite(op); ok || err != nil {
		return err
	}
	return v.renew(ctx, e, op)
}

func (e *inode) canWrite(op string) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dead {
		return false, vfs.KindStale.Err(op)
	}
	return e.mayWrite() || e.isShared(), nil
}

// mayWrite reports whether a write may be buffered now. e.mu is held.
func (e *inode) mayWrite() bool {
	return e.leased() && e.known && e.top()+changeStep <= e.lease.ChangeLimit
}

// catchUp gives the buffered writes of e a change value above that of the
// metadata, which an operation on something besides data has raised above all
// that the lease had reserved. e.mu is not held.
func (v *Volume) catchUp(ctx context.Context, e *inode, op string) error {
	if err := e.leasing.Acquire(ctx, 1); err != nil {
		return vfs.Wrap(op, err)
	}
	defer e.leasing.Release(1)
	return v.renew(ctx, e, op)
}

// renew asks for more of the lease that e has. e.leasing is held.
func (v *Volume) renew(ctx context.Context, e *inode, op string) error {
	// A CommitData under way would carry a value from before.
	if err := v.quiesce(ctx, e, op); err != nil {
		return err
	}
	_, err := v.acquireLease(ctx, e, op, nil, &metapb.AcquireLease{})
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ready) > 0 && v.spawn(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		v.drain(e)
	}) {
		return err
	}
	e.committing = false
	e.wake()
	return err
}

// acquireLease asks for the lease and returns the effective attributes.
func (v *Volume) acquireLease(ctx context.Context, e *inode, op string, c *vfs.Cred, ask *metapb.AcquireLease) (vfs.Attr, error) {
	e.mu.Lock()
	if e.leased() {
		ask.Change = min(e.top(), max(e.lease.ChangeLimit, e.meta.Change))
	}
	e.mu.Unlock()
	ask.Ino = uint64(e.ino)
	r, err := v.apply(ctx, op, c, &metapb.Command{Op: &metapb.Command_AcquireLease{AcquireLease: ask}})
	if err != nil {
		return vfs.Attr{}, err
	}
	l := r.GetLease()
	return v.granted(e, l.GetLease(), attrOf(l.GetAttr())), nil
}

// granted takes a lease from a command's result.
func (v *Volume) granted(e *inode, l *metapb.Lease, a vfs.Attr) vfs.Attr {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := v.origin.Load(); now != 0 && l.GetOrigin() != now {
		if !isShared(l) {
			l = nil // granted to the former origin, so void by now
		}
	}
	if e.leased() && l.GetEpoch() > e.lease.Epoch {
		v.loseLease(e, vfs.Errorf(vfs.KindFenced, "lease", "inode %d", e.ino))
	}
	if isShared(l) {
		e.share(l.GetEpoch())
	} else if e.grant(l, a); e.leased() {
		e.sharing.epoch = 0
	}
	if !e.leased() {
		return a
	}
	return e.attr()
}

// isShared reports whether a lease that the metadata told is shared.
func isShared(l *metapb.Lease) bool { return l.GetEpoch() != 0 && l.GetOrigin() == 0 }

// loseLease drops everything that was buffered under the lease, which is no
// longer ours. e.mu is held.
func (v *Volume) loseLease(e *inode, err error) {
	v.dropDirty(e, err)
	v.watches.lost(e.ino)
	e.lease = metapb.Lease{}
	e.known, e.fresh = false, false
	e.over = overlay{}
	e.sharing.epoch = 0
	e.ext, e.extChange = extentMap{}, 0
	e.extChanged(span{0, maxOffset})
	e.gen++
}

// kill marks e deleted and frees what it holds. e.mu is held.
func (v *Volume) kill(e *inode) {
	if e.dead {
		return
	}
	e.dead, e.orphan = true, false
	v.dropDirty(e, nil)
	e.ext = extentMap{}
	e.extChanged(span{0, maxOffset})
}
