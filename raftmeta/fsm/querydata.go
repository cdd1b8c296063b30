package fsm

import (
	"math"

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
		for _, e := range res.Entries {
			n, err := r.inode(e.Ino)
			if err != nil {
				return nil, err
			}
			if n != nil {
				e.Attr = toWire(&n.attr)
			}
		}
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_ReadDir{ReadDir: res}}, nil
}

// entries lists what follows the cookie; eof becomes false if something is left.
func (r *reader) entries(q *metapb.ReadDirQ, eof *bool) (list []*metapb.Dirent, err error) {
	// Sizes in an answer: a name and its numbers, and the attributes.
	const perEntry, perAttr = 40, 120
	bound := limitOf(q.MaxEntries, answerEntries, answerEntries)
	bytes, maxBytes := 0, limitOf(q.MaxBytes, answerBytes, answerBytesMax)
	lo := appendDirent(nil, r.fs, q.Dir, q.Cookie+1)
	hi := appendDirent(nil, r.fs, q.Dir, maxEnd+1)
	var inner error
	err = r.view.Scan(lo, hi, func(k, v []byte) bool {
		var rec metapb.DirentRecord
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
		list = append(list, &metapb.Dirent{Cookie: tail64(k), Name: rec.Name, Ino: rec.Ino, Type: rec.Type})
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
