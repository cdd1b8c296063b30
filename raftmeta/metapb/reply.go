package metapb

import (
	"google.golang.org/protobuf/encoding/protowire"
)

// Fields that are decoded here.
const (
	fieldReplyResults = 1

	fieldResultAttr    = 10
	fieldResultReadDir = 11

	fieldAttrRAttr  = 1
	fieldAttrRLease = 2

	fieldReadDirEntries = 1
	fieldReadDirEOF     = 2
	fieldReadDirDir     = 3

	fieldDirentCookie = 1
	fieldDirentName   = 2
	fieldDirentIno    = 3
	fieldDirentType   = 4
	fieldDirentAttr   = 5
)

// UnmarshalReply is m.UnmarshalVT(b), but that attributes, which are what is asked for most, and listings of directories, which consist of thousands of
// small messages, are decoded into few pieces of memory. Times that b does not have are zero there, not nil.
func (m *QueryReply) UnmarshalReply(b []byte) error {
	for at := b; len(at) > 0; {
		num, typ, n := protowire.ConsumeTag(at)
		if n < 0 || num != fieldReplyResults || typ != protowire.BytesType {
			m.Results = nil
			return m.UnmarshalVT(b)
		}
		v, k := protowire.ConsumeBytes(at[n:])
		if k < 0 {
			return protowire.ParseError(k)
		}
		at = at[n+k:]
		r := attrIn(v)
		if r == nil {
			r = new(QueryResult)
			if list, ok := listingIn(v); ok {
				r.R = &QueryResult_ReadDir{ReadDir: list}
			} else if err := r.UnmarshalVT(v); err != nil {
				return err
			}
		}
		m.Results = append(m.Results, r)
	}
	return nil
}

// AttrSpace is an answer of attributes in one piece of memory.
type AttrSpace struct {
	Result QueryResult
	of     QueryResult_Attr
	R      AttrR
	Lease  Lease
	attrSpace
}

// Parts makes Result an answer without a lease whose attributes, returned, lie beside it.
func (w *AttrSpace) Parts() *Attr {
	w.R.Attr = w.parts()
	w.of.Attr = &w.R
	w.Result.R = &w.of
	return w.R.Attr
}

// attrIn decodes a QueryResult that is attributes, perhaps with a lease, and nothing else. nil: it is not, or is damaged: that is for UnmarshalVT to say.
func attrIn(b []byte) *QueryResult {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || num != fieldResultAttr || typ != protowire.BytesType {
		return nil
	}
	v, k := protowire.ConsumeBytes(b[n:])
	if k < 0 || n+k != len(b) {
		return nil
	}
	w := new(AttrSpace)
	a := w.Parts()
	had := false
	for len(v) > 0 {
		num, typ, n := protowire.ConsumeTag(v)
		if n < 0 || typ != protowire.BytesType {
			return nil
		}
		x, k := protowire.ConsumeBytes(v[n:])
		if k < 0 {
			return nil
		}
		v = v[n+k:]
		var err error
		switch num {
		case fieldAttrRAttr:
			had = true
			err = a.UnmarshalVT(x)
		case fieldAttrRLease:
			w.R.Lease = &w.Lease
			err = w.Lease.UnmarshalVT(x)
		default:
			return nil
		}
		if err != nil {
			return nil
		}
	}
	if !had {
		w.R.Attr = nil
	}
	return &w.Result
}

// attrSpace is an Attr with its parts in one piece of memory.
type attrSpace struct {
	attr                       Attr
	atime, mtime, ctime, btime Time
}

// parts makes the parts of the Attr those that lie beside it, and returns it.
func (w *attrSpace) parts() *Attr {
	a := &w.attr
	a.Atime, a.Mtime, a.Ctime, a.Btime = &w.atime, &w.mtime, &w.ctime, &w.btime
	return a
}

// listingIn decodes a QueryResult that is a listing and nothing else. ok is false if it is not, or is damaged: that is for UnmarshalVT to say.
func listingIn(b []byte) (list *ReadDirR, ok bool) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || num != fieldResultReadDir || typ != protowire.BytesType {
		return nil, false
	}
	body, k := protowire.ConsumeBytes(b[n:])
	if k < 0 || n+k != len(b) {
		return nil, false
	}
	entries, attrs, names, ok := countEntries(body)
	if !ok {
		return nil, false
	}
	var (
		dirents = make([]Dirent, entries)
		space   = make([]attrSpace, attrs)
		arena   = make([]byte, 0, names)
	)
	list = new(ReadDirR)
	if entries > 0 {
		list.Entries = make([]*Dirent, 0, entries)
	}
	for len(body) > 0 {
		num, _, n := protowire.ConsumeTag(body)
		switch body = body[n:]; num {
		case fieldReadDirEOF:
			v, n := protowire.ConsumeVarint(body)
			list.Eof, body = v != 0, body[n:]
		case fieldReadDirDir:
			v, n := protowire.ConsumeBytes(body)
			if list.Dir == nil {
				list.Dir = new(attrSpace).parts()
			}
			if list.Dir.UnmarshalVT(v) != nil {
				return nil, false
			}
			body = body[n:]
		case fieldReadDirEntries:
			v, n := protowire.ConsumeBytes(body)
			body = body[n:]
			e := &dirents[len(list.Entries)]
			list.Entries = append(list.Entries, e)
			for len(v) > 0 {
				num, typ, n := protowire.ConsumeTag(v)
				if v = v[n:]; typ == protowire.VarintType {
					x, n := protowire.ConsumeVarint(v)
					v = v[n:]
					switch num {
					case fieldDirentCookie:
						e.Cookie = x
					case fieldDirentIno:
						e.Ino = x
					case fieldDirentType:
						e.Type = uint32(x)
					}
					continue
				}
				x, n := protowire.ConsumeBytes(v)
				v = v[n:]
				if num == fieldDirentName {
					from := len(arena)
					arena = append(arena, x...)
					e.Name = arena[from:len(arena):len(arena)]
					continue
				}
				if e.Attr == nil {
					e.Attr, space = space[0].parts(), space[1:]
				}
				if e.Attr.UnmarshalVT(x) != nil {
					return nil, false
				}
			}
		}
	}
	return list, true
}

// countEntries says how much a ReadDirR needs. ok is false if it is damaged or has a field that is not known here.
func countEntries(b []byte) (entries, attrs, names int, ok bool) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, 0, 0, false
		}
		b = b[n:]
		if num == fieldReadDirEOF && typ == protowire.VarintType {
			if _, n = protowire.ConsumeVarint(b); n < 0 {
				return 0, 0, 0, false
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 || typ != protowire.BytesType || num != fieldReadDirEntries && num != fieldReadDirDir {
			return 0, 0, 0, false
		}
		b = b[n:]
		if num == fieldReadDirDir {
			continue
		}
		entries++
		for len(v) > 0 {
			num, typ, n := protowire.ConsumeTag(v)
			if n < 0 {
				return 0, 0, 0, false
			}
			switch v = v[n:]; {
			case typ == protowire.VarintType && (num == fieldDirentCookie || num == fieldDirentIno || num == fieldDirentType):
				_, n = protowire.ConsumeVarint(v)
			case typ == protowire.BytesType && (num == fieldDirentName || num == fieldDirentAttr):
				var x []byte
				if x, n = protowire.ConsumeBytes(v); n >= 0 && num == fieldDirentName {
					names += len(x)
				} else {
					attrs++
				}
			default:
				return 0, 0, 0, false
			}
			if n < 0 {
				return 0, 0, 0, false
			}
			v = v[n:]
		}
	}
	return entries, attrs, names, true
}
