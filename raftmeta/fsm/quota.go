package fsm

import (
	"encoding/binary"
	"math"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// maxQuota bounds what one reservation and all of a project's are, so that sums do not overflow.
const maxQuota = 1 << 62

func appendReservation(b []byte, origin uint64, k usageKey) []byte {
	b = binary.BigEndian.AppendUint32(appendID(b, "v/", origin), k.fs)
	return binary.BigEndian.AppendUint32(b, k.project)
}

// left is how many more bytes the limit lets be used or reserved.
func (u *usage) left() uint64 {
	if u.limitBytes == 0 {
		return math.MaxUint64
	}
	return u.limitBytes - min(u.limitBytes, u.bytes+u.reserved)
}

// exists reports whether a project has an inode or a directory.
func (u *usage) exists() bool { return u.dir != 0 || u.inodes != 0 }

// charge adds to the usage of the file system and of a project, within their limits. Every command that adds or removes
// bytes or inodes comes through here. What only lowers usage always succeeds.
func (x *call) charge(fs, project uint32, bytes, inodes int64) error {
	if err := x.allow(fs, project, bytes, inodes); err != nil {
		return err
	}
	return x.overlay.charge(fs, project, bytes, inodes)
}

// allow refuses what the limits do not leave.
func (x *call) allow(fs, project uint32, bytes, inodes int64) error {
	if bytes <= 0 && inodes <= 0 {
		return nil
	}
	for _, k := range chargedKeys(fs, project) {
		u, err := x.usage(k)
		if err != nil {
			return err
		}
		if bytes > 0 && u.left() < uint64(bytes) {
			return vfs.Errorf(vfs.KindQuota, "quota", "project %d of file system %d: %d of %d bytes are used and %d reserved", k.project, fs, u.bytes, u.limitBytes, u.reserved)
		}
		if inodes > 0 && u.limitInodes != 0 && u.inodes >= u.limitInodes {
			return vfs.Errorf(vfs.KindQuota, "quota", "project %d of file system %d: %d of %d inodes are used", k.project, fs, u.inodes, u.limitInodes)
		}
	}
	return nil
}

// chargedKeys are the records that something in a project counts in.
func chargedKeys(fs, project uint32) []usageKey {
	if project == 0 {
		return []usageKey{{fs: fs}}
	}
	return []usageKey{{fs: fs}, {fs: fs, project: project}}
}

// chargeCommit is charge for a CommitData after which n uses other bytes than before, and takes what it may of the
// origin's reservation.
func (x *call) chargeCommit(n *inode, before uint64, c *metapb.CommitData) (taken uint64, err error) {
	delta := clampInt(n.attr.Used) - clampInt(before)
	if x.level < levelPOSIX || delta <= 0 {
		return 0, x.recharge(n, before)
	}
	if c.Reserved > 0 {
		if taken, err = x.unreserve(n.attr.Project, min(uint64(delta), c.Reserved)); err != nil {
			return 0, err
		}
	}
	if err := x.overlay.charge(x.fs, n.attr.Project, int64(taken), 0); err != nil {
		return 0, err
	}
	charge := x.charge
	if c.Unlimited {
		charge = x.overlay.charge
	}
	return taken, charge(x.fs, n.attr.Project, delta-int64(taken), 0)
}

// limited reports whether there is a limit of bytes for what is in a project.
func (x *call) limited(project uint32) (bool, error) {
	if x.level < levelPOSIX {
		return false, nil
	}
	for _, k := range chargedKeys(x.fs, project) {
		if u, err := x.usage(k); err != nil || u.limitBytes != 0 {
			return err == nil, err
		}
	}
	return false, nil
}

// reserved is what an origin has reserved.
func (x *call) reserved(origin uint64, k usageKey) (uint64, error) {
	b, ok, err := x.get(appendReservation(x.key[:0], origin, k))
	if err != nil || !ok {
		return 0, err
	}
	var r metapb.ReservationRecord
	if err := r.UnmarshalVT(b); err != nil {
		return 0, corrupt("reservation: %w", err)
	}
	return r.Bytes, nil
}

// setReserved changes what an origin has reserved from one amount to another, and the totals with it.
func (x *call) setReserved(origin uint64, k usageKey, from, to uint64) error {
	key := appendReservation(nil, origin, k)
	if to == 0 {
		x.del(key)
	} else if err := x.setRecord(key, &metapb.ReservationRecord{Bytes: to}); err != nil {
		return err
	}
	for _, k := range chargedKeys(k.fs, k.project) {
		u, err := x.usage(k)
		if err != nil {
			return err
		}
		if u.reserved < from {
			return corrupt("project %d of file system %d has %d bytes reserved, an origin %d of them", k.project, k.fs, u.reserved, from)
		}
		u.reserved = u.reserved - from + to
		x.usages.set(x.entry, k, u)
	}
	return nil
}

// unreserve takes up to n bytes of what the caller's origin has reserved.
func (x *call) unreserve(project uint32, n uint64) (taken uint64, err error) {
	k := usageKey{x.fs, project}
	has, err := x.reserved(x.origin, k)
	if err != nil || has == 0 || n == 0 {
		return 0, err
	}
	taken = min(n, has)
	return taken, x.setReserved(x.origin, k, has, has-taken)
}

func (x *call) setProject(c *metapb.SetProject) (*metapb.Result, error) {
	const op = "project.set"
	if !x.cred.IsRoot() {
		return nil, vfs.KindPerm.Err(op)
	}
	d, err := x.must(c.Dir, op)
	if err != nil {
		return nil, err
	}
	switch {
	case !d.isDir():
		return nil, vfs.KindNotDir.Err(op)
	case d.attr.Ino == vfs.RootIno:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "the root belongs to the whole file system, which has limits of its own: project 0")
	case d.entries > 0:
		return nil, vfs.Errorf(vfs.KindNotEmpty, op, "a project begins with an empty directory: make a new one, set its project and move the files there")
	}
	old, to := d.attr.Project, c.Project
	if to == 0 {
		p, err := x.inode(x.fs, d.parent)
		if err != nil {
			return nil, err
		}
		if p == nil {
			return nil, corrupt("the parent %d of directory %d does not exist", d.parent, c.Dir)
		}
		to = p.attr.Project
	}
	if to == old {
		return x.attrResult(d), nil
	}
	if c.Project != 0 {
		if err := x.claimProject(c.Project, c.Dir); err != nil {
			return nil, err
		}
	}
	if old != 0 {
		k := usageKey{x.fs, old}
		u, err := x.usage(k)
		if err != nil {
			return nil, err
		}
		if u.dir == c.Dir {
			u.dir = 0
			x.usages.set(x.entry, k, u)
		}
	}
	if err := x.overlay.charge(x.fs, old, -clampInt(d.attr.Used), -1); err != nil {
		return nil, err
	}
	if err := x.charge(x.fs, to, clampInt(d.attr.Used), 1); err != nil {
		return nil, err
	}
	d = d.clone()
	d.attr.Project = to
	d.changed(x.now)
	x.setInode(x.fs, d)
	return x.attrResult(d), nil
}

// claimProject makes dir the directory of a project that no other one has.
func (x *call) claimProject(project uint32, dir uint64) error {
	k := usageKey{x.fs, project}
	u, err := x.usage(k)
	if err != nil {
		return err
	}
	if u.dir != 0 && u.dir != dir {
		if n, err := x.inode(x.fs, u.dir); err != nil {
			return err
		} else if n != nil {
			return vfs.Errorf(vfs.KindExists, "project.set", "project %d is directory %d", project, u.dir)
		}
	}
	if u.dir != dir {
		u.dir = dir
		x.usages.set(x.entry, k, u)
	}
	return nil
}

func (x *call) setQuota(c *metapb.SetQuota) (*metapb.Result, error) {
	const op = "quota.set"
	if !x.cred.IsRoot() {
		return nil, vfs.KindPerm.Err(op)
	}
	if c.Bytes > maxQuota || c.Inodes > maxQuota {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "a limit is at most %d; 0 is none", uint64(maxQuota))
	}
	k := usageKey{x.fs, c.Project}
	u, err := x.usage(k)
	if err != nil {
		return nil, err
	}
	if c.Project != 0 && !u.exists() {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "project %d: give it a directory first", c.Project)
	}
	if u.limitBytes != c.Bytes || u.limitInodes != c.Inodes {
		u.limitBytes, u.limitInodes = c.Bytes, c.Inodes
		x.usages.set(x.entry, k, u)
	}
	return &metapb.Result{}, nil
}

// aheadPart is which part of what is left one reservation takes at most beyond what it needs: the last bytes of a
// limit are for who needs them.
const aheadPart = 8

func (x *call) reserveQuota(c *metapb.ReserveQuota) (*metapb.Result, error) {
	const op = "quota.reserve"
	if c.Need > maxQuota || c.Ahead > maxQuota {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "%d and %d bytes: at most %d", c.Need, c.Ahead, uint64(maxQuota))
	}
	limited, err := x.limited(c.Project)
	if err != nil {
		return nil, err
	}
	res := &metapb.ReserveResult{Limited: limited}
	if !limited {
		return &metapb.Result{Of: &metapb.Result_Reserve{Reserve: res}}, nil
	}
	left := uint64(math.MaxUint64)
	var full usageKey
	for _, k := range chargedKeys(x.fs, c.Project) {
		u, err := x.usage(k)
		if err != nil {
			return nil, err
		}
		if l := u.left(); l < left {
			left, full = l, k
		}
	}
	switch {
	case left >= c.Need:
		res.Granted = c.Need + min(c.Ahead, (left-c.Need)/aheadPart)
	case left >= max(c.Min, 1):
		res.Granted = left
	default:
		return nil, vfs.Errorf(vfs.KindQuota, op, "%d bytes are left in project %d of file system %d", left, full.project, full.fs)
	}
	if res.Granted > 0 {
		k := usageKey{x.fs, c.Project}
		has, err := x.reserved(x.origin, k)
		if err != nil {
			return nil, err
		}
		if err := x.setReserved(x.origin, k, has, has+res.Granted); err != nil {
			return nil, err
		}
	}
	return &metapb.Result{Of: &metapb.Result_Reserve{Reserve: res}}, nil
}

func (x *call) releaseQuota(c *metapb.ReleaseQuota) (*metapb.Result, error) {
	_, err := x.unreserve(c.Project, c.Bytes)
	return &metapb.Result{}, err
}

// purgeReservations gives back what a dead origin had reserved.
func (x *call) purgeReservations(origin uint64, budget int) (bool, error) {
	if x.level < levelPOSIX {
		return true, nil
	}
	const records = 3 // the reservation and two totals
	keys, more, err := x.firstKeys(appendID(nil, "v/", origin), max(1, (budget-x.touched())/records))
	if err != nil {
		return false, err
	}
	for _, key := range keys {
		k := usageKey{binary.BigEndian.Uint32(key[len("v/")+8:]), binary.BigEndian.Uint32(key[len("v/")+12:])}
		has, err := x.reserved(origin, k)
		if err != nil {
			return false, err
		}
		if err := x.setReserved(origin, k, has, 0); err != nil {
			return false, err
		}
	}
	return !more, nil
}
