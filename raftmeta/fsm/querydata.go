package fsm

import (
	"cmp"
	"math"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// limitOf is what a query asked for, within [1, bound]; 0 asks for def.
func limitOf[T uint32 | int](asked T, def, bound int) int {
	if asked == 0 {
		return def
	}
	return min(int(asked), bound)
}

func (r *reader) readDir(q *metapb.ReadDirQ) (*metapb.QueryResult, error) {
	const op = "readdir"
	d, err := r.dir(q.Dir, vfs.AccessRead, op)
	if err != nil {
		return nil, err
	}
	if q.Cookie > vfs.MaxSize {
		return nil, vfs.Errorf(vfs.KindBadCookie, op, "%d", q.Cookie)
	}
	res := &metapb.ReadDirR{Eof: true, Dir: toWire(&d.attr)}
	if res.Entries, err = r.entries(q, &res.Eof); err != nil {
		return nil, err
	}
	if q.Attrs {
		if err := r.entryAttrs(d, res.Entries); err != nil {
			return nil, err
		}
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_ReadDir{ReadDir: res}}, nil
}

// entryAttrs adds the attributes of entries of d. Those that the cache does not have are read in the order of their numbers. The cache keeps
// them if all of the directory takes but a part of it: a directory that is larger than the cache would replace what is of use in it, and itself before
// it is listed again.
func (r *reader) entryAttrs(d *inode, entries []*metapb.Dirent) error {
	attrs := make([]wireAttr, len(entries)) // one piece of memory
	var origin uint64                       // the last one that was looked for, as most leases are one gateway's
	var alive bool
	set := func(i int, n *inode) (err error) {
		if o := n.lease.origin; o != 0 {
			if o != origin {
				if alive, err = r.registered(o); err != nil {
					return err
				}
				origin = o
			}
			if !alive {
				n = n.settled()
			}
		}
		entries[i].Attr = attrs[i].set(&n.attr)
		return nil
	}
	var missing []int
	var scratch inode
	for i, e := range entries {
		if !r.cachedInode(&scratch, e.Ino) {
			missing = append(missing, i)
			continue
		}
		if err := set(i, &scratch); err != nil {
			return err
		}
	}
	slices.SortFunc(missing, func(a, b int) int { return cmp.Compare(entries[a].Ino, entries[b].Ino) })
	keep := r.cache.fits(d.entries)
	var bad error
	err := getSorted(r.view, len(missing), func(i int) []byte {
		r.key = appendInode(r.key[:0], r.fs, entries[missing[i]].Ino)
		return r.key
	}, func(i int, v []byte) bool {
		if v == nil {
			return true
		}
		at := missing[i]
		err := r.codec.decodeTo(&scratch, entries[at].Ino, v)
		if err == nil {
			if keep {
				r.keepInode(&scratch)
			}
			err = set(at, &scratch)
		}
		bad = err
		return err == nil
	})
	if bad != nil {
		return bad
	}
	return err
}

// entries lists what follows the cookie; eof becomes false if something is left.
func (r *reader) entries(q *metapb.ReadDirQ, eof *bool) (list []*metapb.Dirent, err error) {
	// Sizes in an answer: a name and its numbers, and the attributes.
	const perEntry, perAttr = 40, 120
	const namesAtOnce = 8 << 10
	bound := limitOf(q.MaxEntries, answerEntries, answerEntries)
	bytes, maxBytes := 0, limitOf(q.MaxBytes, answerBytes, answerBytesMax)
	lo := appendDirent(nil, r.fs, q.Dir, q.Cookie+1)
	hi := appendDirent(nil, r.fs, q.Dir, maxEnd+1)
	var inner error
	var slab []metapb.Dirent // pieces of memory for many
	var names []byte
	var rec metapb.DirentRecord
	err = r.view.Scan(lo, hi, func(k, v []byte) bool {
		if cap(names)-len(names) < len(v) {
			names = make([]byte, 0, max(namesAtOnce, len(v)))
		}
		rec.Reset()
		rec.Name = names[len(names):]
		if inner = rec.UnmarshalVT(v); inner != nil {
			return false
		}
		if vfs.Type(rec.Type) == typeGap {
			return true
		}
		bytes += perEntry + len(rec.Name)
		if q.Attrs {
			bytes += perAttr
		}
		if len(list) == bound || (len(list) > 0 && bytes > maxBytes) {
			*eof = false
			return false
		}
		if len(slab) == 0 {
			slab = make([]metapb.Dirent, min(256, bound-len(list)))
		}
		e := &slab[0]
		slab = slab[1:]
		names = names[:len(names)+len(rec.Name)]
		e.Cookie, e.Name, e.Ino, e.Type = tail64(k), rec.Name[:len(rec.Name):len(rec.Name)], rec.Ino, rec.Type
		list = append(list, e)
		return true
	})
	if inner != nil {
		err = corrupt("directory entry: %w", inner)
	}
	return list, err
}

func (r *reader) extents(q *metapb.ExtentsQ) (*metapb.QueryResult, error) {
	const op = "extents"
	n, err := r.must(q.Ino, op)
	if err != nil {
		return nil, err
	}
	if err := checkFile(n, op); err != nil {
		return nil, err
	}
	res := &metapb.ExtentsR{Change: n.attr.Change, Size: n.attr.Size}
	to := n.attr.Size
	if q.Length != 0 && q.Offset < to && q.Length < to-q.Offset {
		to = q.Offset + q.Length
	}
	bound := limitOf(q.MaxExtents, answerEntries, answerEntries)
	const perExtent = 64
	bytes, at := 0, q.Offset
	err = liveExtents(r.view.Scan, r.fs, n, q.Offset, to, math.MaxInt, func(e extent) (bool, error) {
		if e.reserved && !q.Reserved {
			return true, nil // reads as a hole does
		}
		bytes += perExtent + len(e.inline)
		if len(res.Extents) == bound || (len(res.Extents) > 0 && bytes > answerBytes) {
			res.Next = at
			return false, nil
		}
		e = e.slice(max(e.start, q.Offset), min(e.end, to))
		at = e.end
		res.Extents = append(res.Extents, &metapb.Extent{
			Offset: e.start, Length: uint32(e.len()), Inline: e.inline,
			Block: e.block, BlockOffset: e.blockOff, BlockLength: e.blockLen, Pg: e.pg, K: e.k, M: e.m, Reserved: e.reserved,
		})
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Extents{Extents: res}}, nil
}
