package fsm

import (
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Opens for reading have no record when they are made (loose), since most end soon. Those that go on get one by KeepOpens, which a gateway sends now and then for all of them. A
// gateway that was ended has not told of the last ones. It lingers: files without names are held for it, also those that lose their names from then on, until the leader
// finds that enough time has passed for its clients to have come to another gateway and used what they had open, which makes the records (ExpireOrigin.left).

// maxLingering bounds the gateways that linger: each costs every removal of a file a hold. With more the first one's time is over.
const maxLingering = 64

// lingeringKey has the ids of the gateways that linger, ascending, 8 bytes each. None is registered.
var lingeringKey = []byte("m/lingering")

// linger begins to hold files for an origin that is being ended.
func (x *call) linger(id uint64) error {
	ids, err := x.originList(lingeringKey)
	if err != nil {
		return err
	}
	if len(ids) >= maxLingering {
		if err := x.enqueue(&metapb.PurgeRecord{OrphansOf: ids[0]}); err != nil {
			return err
		}
		ids = ids[1:]
	}
	ids = append(ids, id)
	slices.Sort(ids)
	x.setOriginList(lingeringKey, ids)
	return nil
}

// endLingering leaves to Purge what is held for an origin, if it lingers.
func (x *call) endLingering(id uint64) error {
	ids, err := x.originList(lingeringKey)
	if err != nil {
		return err
	}
	i, ok := slices.BinarySearch(ids, id)
	if !ok {
		return nil
	}
	if ids = slices.Delete(ids, i, i+1); len(ids) == 0 {
		x.del(lingeringKey)
	} else {
		x.setOriginList(lingeringKey, ids)
	}
	return x.enqueue(&metapb.PurgeRecord{OrphansOf: id})
}

// lingers reports whether holds of an origin stay.
func (x *call) lingers(id uint64) (bool, error) {
	if x.level < levelLoose {
		return false, nil
	}
	ids, err := x.originList(lingeringKey)
	_, ok := slices.BinarySearch(ids, id)
	return ok, err
}

// Lingering lists the gateways that were ended and for which files without names are held.
func Lingering(v View) ([]uint64, error) {
	const op = "fsm.lingering"
	b, _, err := v.Get(lingeringKey)
	if err != nil {
		return nil, vfs.Wrap(op, err)
	}
	ids, err := decodeOrigins(b)
	return ids, vfs.Wrap(op, err)
}

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
