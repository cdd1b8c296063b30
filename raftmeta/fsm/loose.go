package fsm

import (
	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Opens for reading have no record when they are made (loose), since most end soon. Those that go on get one by KeepOpens, which a gateway sends now and then for all of them.

// keepLoose records opens that were made already. Nobody waits for it, so what cannot be recorded is told and harms no other.
func (x *call) keepLoose(c *metapb.KeepOpens) (*metapb.Result, error) {
	const op = "keep opens"
	if len(c.Opens) > maxKeepOpens {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d opens, at most %d", len(c.Opens), maxKeepOpens)
	}
	res := &metapb.KeepOpensResult{}
	for i, s := range c.Opens {
		if s.Access != shareRead || s.Deny != 0 {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "share access %d, deny %d of an open that has no record", s.Access, s.Deny)
		}
		if kept, err := x.keepOne(s, op); err != nil {
			return nil, err
		} else if !kept {
			res.Refused = append(res.Refused, uint32(i))
		}
	}
	return &metapb.Result{Of: &metapb.Result_KeepOpens{KeepOpens: res}}, nil
}

// keepOne reports whether s has a record now.
func (x *call) keepOne(s *metapb.ClientOpen, op string) (bool, error) {
	o, err := x.share(s, op)
	if vfs.KindOf(err) == vfs.KindExpired {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	n, err := x.inode(x.fs, s.Ino)
	if err != nil || n == nil || !n.isFile() {
		return false, err
	}
	if n.opens > 0 {
		if old, err := x.getOpen(s.Ino, o); err != nil || old != nil {
			return old != nil, err
		}
	}
	// Who denies reading asks the gateways about opens without a record after its own is there: what is not recorded here is told then.
	if d, err := x.denied(n, o); err != nil || d != nil {
		return false, err
	}
	k, err := x.client(o.client)
	if err != nil {
		return false, err
	}
	if half := x.opts.limits.opens / 2; int(n.opens) >= half {
		return false, nil
	}
	if half := x.opts.limits.clientOpens / 2; k != nil && int(k.opens) >= half {
		return false, nil
	}
	n = n.clone()
	if err := x.putOpen(n, o, op); err != nil {
		if vfs.KindOf(err) == vfs.KindTooMany { // too many clients
			return false, nil
		}
		return false, err
	}
	x.setInode(x.fs, n)
	return true, nil
}
