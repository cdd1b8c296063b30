package fsm

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// deleteNamespace ends a file system on this shard. Without its n/ record no command and no query finds it any more, so nothing is added
// to what purgeNamespace removes; what ends by itself meanwhile (clients, origins) may take some of it.
func (x *call) deleteNamespace() (*metapb.Result, error) {
	const op = "namespace.delete"
	if x.fs == 0 {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "file system 0")
	}
	key := appendFS(nil, "D/", x.fs)
	if _, had, err := x.get(key); err != nil || had {
		return &metapb.Result{}, err
	}
	sp, err := x.space(x.fs)
	if err != nil {
		return nil, err
	}
	if sp != nil {
		x.spaces.set(x.entry, x.fs, nil)
		if err := x.enqueue(&metapb.PurgeRecord{Fs: x.fs, Namespace: true}); err != nil {
			return nil, err
		}
	}
	return &metapb.Result{}, x.setRecord(key, &metapb.DeletedNamespace{Purging: sp != nil})
}

// spaceSteps are what purgeNamespace removes, in this order: what has an index elsewhere while the inodes are there, extents with their
// references, and then what nothing points to any more. Each removes some records after a key, and reports the last one it is done with; nil:
// nothing is left.
var spaceSteps = [...]func(x *call, after []byte, limit int) ([]byte, error){
	(*call).purgeSpaceOpens,
	(*call).purgeSpaceLocks,
	(*call).purgeSpaceHolds,
	(*call).purgeSpaceReservations,
	(*call).purgeSpaceExtents,
	(*call).purgeSpaceXattrs,
	(*call).purgeSpaceDirents,
	(*call).purgeSpaceInodes,
	(*call).purgeSpaceUsage,
}

// spaceRecords is about how many records the removal of one costs, at most: those of an extent.
const spaceRecords = 5

// limitNamespace sets the limits of the whole file system.
func (x *call) limitNamespace(c *metapb.LimitNamespace) (*metapb.Result, error) {
	if c.Bytes > maxQuota || c.Inodes > maxQuota {
		return nil, vfs.Errorf(vfs.KindInvalid, "namespace.limit", "a limit is at most %d; 0 is none", uint64(maxQuota))
	}
	k := usageKey{fs: x.fs}
	u, err := x.usage(k)
	if err == nil && c.Version > u.limitsVersion {
		u.limitsVersion, u.limitBytes, u.limitInodes = c.Version, c.Bytes, c.Inodes
		x.usages.set(x.entry, k, u)
	}
	return &metapb.Result{}, err
}

// purgeNamespace removes what a deleted file system had.
func (x *call) purgeNamespace(item *metapb.PurgeRecord, budget int) (done bool, err error) {
	sub := *x
	sub.fs = item.Fs
	for int(item.Step) < len(spaceSteps) && x.touched() < budget {
		last, err := spaceSteps[item.Step](&sub, item.After, max(1, (budget-x.touched())/spaceRecords))
		if err != nil {
			return false, err
		}
		if item.After = last; last == nil {
			item.Step++
		}
	}
	if int(item.Step) < len(spaceSteps) {
		return false, nil
	}
	x.setCount(counterKey{counterIno, item.Fs}, 0)
	return true, x.setRecord(appendFS(nil, "D/", item.Fs), &metapb.DeletedNamespace{})
}

// keyValue is a record.
type keyValue struct{ k, v []byte }

// someRecords returns up to limit records with the prefix behind the key after (nil: all), of a kind that scan finds.
func (x *call) someRecords(prefix, after []byte, limit int) (list []keyValue, last []byte, err error) {
	lo := prefix
	if after != nil {
		lo = append(bytes.Clone(after), 0)
	}
	err = x.scan(lo, prefixEnd(prefix), func(k, v []byte) bool {
		list = append(list, keyValue{bytes.Clone(k), bytes.Clone(v)})
		return len(list) < limit
	})
	if len(list) > 0 {
		last = list[len(list)-1].k
	}
	return list, last, err
}

func (x *call) purgeSpaceOpens(after []byte, limit int) ([]byte, error) {
	list, last, err := x.someRecords(appendFS(nil, "O/", x.fs), after, limit)
	for _, r := range list {
		o, err := decodeOpen(r.k, r.v)
		if err != nil {
			return nil, err
		}
		if err := x.lessOf(o.client, knownClient{opens: 1}); err != nil {
			return nil, err
		}
		x.del(r.k)
		x.del(appendClientFile(x.key[:0], o.client, x.fs, binary.BigEndian.Uint64(r.k[6:])))
	}
	return last, err
}

func (x *call) purgeSpaceLocks(after []byte, limit int) ([]byte, error) {
	list, last, err := x.someRecords(appendFS(nil, "L/", x.fs), after, limit)
	for _, r := range list {
		l, err := decodeLocks(r.k, r.v)
		if err != nil {
			return nil, err
		}
		if err := x.lessOf(l.client, knownClient{owners: 1, ranges: uint32(len(l.ranges))}); err != nil {
			return nil, err
		}
		x.del(r.k)
		x.del(appendClientFile(x.key[:0], l.client, x.fs, binary.BigEndian.Uint64(r.k[6:])))
	}
	return last, err
}

// lessOf takes what was removed from what a client has, if it is known. Who was released has no counts.
func (x *call) lessOf(client uint64, less knownClient) error {
	k, err := x.client(client)
	if err != nil || k == nil {
		return err
	}
	if k.opens < less.opens || k.owners < less.owners || k.ranges < less.ranges {
		return corrupt("client %d has %+v, less than %+v", client, *k, less)
	}
	x.clients.set(x.entry, client, &knownClient{opens: k.opens - less.opens, ranges: k.ranges - less.ranges, owners: k.owners - less.owners})
	return nil
}

func (x *call) purgeSpaceHolds(after []byte, limit int) ([]byte, error) {
	list, last, err := x.someRecords(appendFS(nil, "o/", x.fs), after, limit)
	for _, r := range list {
		x.del(r.k)
		x.del(appendHoldOf(x.key[:0], tail64(r.k), x.fs, binary.BigEndian.Uint64(r.k[6:])))
	}
	return last, err
}

// purgeSpaceReservations looks at those of all file systems, for they are listed by origin. That is a few for each gateway.
func (x *call) purgeSpaceReservations(after []byte, limit int) ([]byte, error) {
	list, last, err := x.someRecords([]byte("v/"), after, limit)
	for _, r := range list {
		if binary.BigEndian.Uint32(r.k[10:]) == x.fs {
			x.del(r.k)
		}
	}
	return last, err
}

func (x *call) purgeSpaceExtents(after []byte, limit int) ([]byte, error) {
	list, last, err := x.someRecords(appendFS(nil, "e/", x.fs), after, limit)
	for _, r := range list {
		e, err := decodeExtent(tail64(r.k), r.v)
		if err != nil {
			return nil, err
		}
		x.del(r.k)
		of := &inode{attr: vfs.Attr{Ino: vfs.Ino(binary.BigEndian.Uint64(r.k[6:]))}}
		if err := x.refer(of, &e, -1); err != nil {
			return nil, err
		}
	}
	return last, err
}

func (x *call) purgeSpaceXattrs(after []byte, limit int) ([]byte, error) {
	list, last, err := x.someRecords(appendFS(nil, "a/", x.fs), after, limit)
	for _, r := range list {
		x.del(r.k)
	}
	return last, err
}

// purgeSpaceDirents finds those that the store has yet to get by looking at all that it has yet to get: there is no order of them, for they
// are many and never listed by commands.
func (x *call) purgeSpaceDirents(after []byte, limit int) ([]byte, error) {
	prefix := appendFS(nil, "d/", x.fs)
	var keys [][]byte
	for k, r := range x.kv.rows {
		if r.v != nil && bytes.HasPrefix([]byte(k), prefix) && bytes.Compare([]byte(k), after) > 0 {
			keys = append(keys, []byte(k))
		}
	}
	keys, last, err := x.stored(keys, prefix, after, limit, func(k []byte) bool {
		r, ok := x.kv.rows[string(k)]
		return !ok || r.v != nil
	})
	for _, k := range keys {
		x.del(k)
	}
	return last, err
}

func (x *call) purgeSpaceInodes(after []byte, limit int) ([]byte, error) {
	var keys [][]byte
	for k, r := range x.inodes.rows {
		if key := appendInode(nil, k.fs, k.ino); r.v != nil && k.fs == x.fs && bytes.Compare(key, after) > 0 {
			keys = append(keys, key)
		}
	}
	keys, last, err := x.stored(keys, appendFS(nil, "i/", x.fs), after, limit, func(k []byte) bool {
		r, ok := x.inodes.rows[inoKey{x.fs, tail64(k)}]
		return !ok || r.v != nil
	})
	for _, k := range keys {
		x.inodes.set(x.entry, inoKey{x.fs, tail64(k)}, nil)
	}
	return last, err
}

func (x *call) purgeSpaceUsage(after []byte, limit int) ([]byte, error) {
	prefix := appendFS(nil, "u/", x.fs)
	of := func(k []byte) usageKey {
		u := usageKey{fs: x.fs}
		if len(k) > len(prefix) {
			u.project = binary.BigEndian.Uint32(k[len(prefix):])
		}
		return u
	}
	var keys [][]byte
	for k, r := range x.usages.rows {
		if key := k.append(nil); !r.v.gone && k.fs == x.fs && (after == nil || bytes.Compare(key, after) > 0) {
			keys = append(keys, key)
		}
	}
	keys, last, err := x.stored(keys, prefix, after, limit, func(k []byte) bool { return !x.usages.rows[of(k)].v.gone })
	for _, k := range keys {
		x.usages.set(x.entry, of(k), usage{gone: true})
	}
	return last, err
}

// stored joins keys of the overlay, in any order, with those of the store that are there, and returns the first limit of them in order.
func (x *call) stored(keys [][]byte, prefix, after []byte, limit int, there func([]byte) bool) (list [][]byte, last []byte, err error) {
	lo := prefix
	if after != nil {
		lo = append(bytes.Clone(after), 0)
	}
	n := 0
	err = x.view.Scan(lo, prefixEnd(prefix), func(k, _ []byte) bool {
		if there(k) {
			keys = append(keys, bytes.Clone(k))
			n++
		}
		return n < limit
	})
	if err != nil {
		return nil, nil, fatal(err)
	}
	slices.SortFunc(keys, bytes.Compare)
	keys = slices.CompactFunc(keys, bytes.Equal)
	if keys = keys[:min(limit, len(keys))]; len(keys) > 0 {
		last = keys[len(keys)-1]
	}
	return keys, last, nil
}

func (r *reader) namespace() (*metapb.QueryResult, error) {
	res := &metapb.NamespaceR{}
	if _, ok, err := r.view.Get(appendFS(nil, "n/", r.fs)); err != nil {
		return nil, err
	} else if ok {
		res.Exists = true
		u, err := r.usage(usageKey{fs: r.fs})
		if err != nil {
			return nil, err
		}
		res.LimitsVersion, res.UsedBytes, res.UsedInodes, res.LimitBytes, res.LimitInodes = u.limitsVersion, u.bytes, u.inodes, u.limitBytes, u.limitInodes
	}
	b, ok, err := r.view.Get(appendFS(nil, "D/", r.fs))
	if err != nil {
		return nil, err
	}
	if ok {
		var d metapb.DeletedNamespace
		if err := d.UnmarshalVT(b); err != nil {
			return nil, corrupt("deleted file system %d: %w", r.fs, err)
		}
		res.Deleted, res.Purging = true, d.Purging
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Namespace{Namespace: res}}, nil
}
