package v4_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
)

// Operations, built of generated types.

func lookup(name string) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_LOOKUP{Oplookup: nfsv4.Lookup4args{Objname: name}}
}

func putFH(fh []byte) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_PUTFH{Opputfh: nfsv4.Putfh4args{Object: fh}}
}

func mask(attrs ...int) []uint32 {
	m := make([]uint32, 3)
	for _, a := range attrs {
		m[a/32] |= 1 << (a % 32)
	}
	return m
}

func getAttr(attrs ...int) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_GETATTR{Opgetattr: nfsv4.Getattr4args{AttrRequest: mask(attrs...)}}
}

func access(bits uint32) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_ACCESS{Opaccess: nfsv4.Access4args{Access: bits}}
}

// attrs encodes settable attributes given as pairs of number and value.
func attrs(pairs ...any) nfsv4.Fattr4 {
	var f nfsv4.Fattr4
	f.Attrmask = make([]uint32, 3)
	for i := 0; i < len(pairs); i += 2 {
		a := pairs[i].(int)
		f.Attrmask[a/32] |= 1 << (a % 32)
		switch v := pairs[i+1].(type) {
		case uint32:
			f.AttrVals = xdr.AppendUint32(f.AttrVals, v)
		case uint64:
			f.AttrVals = xdr.AppendUint64(f.AttrVals, v)
		case string:
			f.AttrVals = xdr.AppendString(f.AttrVals, v)
		case time.Time: // a client's time, of a _set attribute
			f.AttrVals = xdr.AppendUint32(f.AttrVals, 1)
			f.AttrVals = xdr.AppendInt64(f.AttrVals, v.Unix())
			f.AttrVals = xdr.AppendUint32(f.AttrVals, uint32(v.Nanosecond()))
		case nil: // the server's time
			f.AttrVals = xdr.AppendUint32(f.AttrVals, 0)
		case []byte:
			f.AttrVals = append(f.AttrVals, v...)
		default:
			panic(fmt.Sprintf("%T", v))
		}
	}
	return f
}

func setAttr(id nfsv4.Stateid4, f nfsv4.Fattr4) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_SETATTR{Opsetattr: nfsv4.Setattr4args{Stateid: id, ObjAttributes: f}}
}

func createDir(name string, f nfsv4.Fattr4) nfsv4.NfsArgop4 {
	return create(&nfsv4.Createtype4_NF4DIR{}, name, f)
}

func create(t nfsv4.Createtype4, name string, f nfsv4.Fattr4) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_CREATE{Opcreate: nfsv4.Create4args{Objtype: t, Objname: name, Createattrs: f}}
}

func remove(name string) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_REMOVE{Opremove: nfsv4.Remove4args{Target: name}}
}

func rename(from, to string) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_RENAME{Oprename: nfsv4.Rename4args{Oldname: from, Newname: to}}
}

func link(name string) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_LINK{Oplink: nfsv4.Link4args{Newname: name}}
}

func read(id nfsv4.Stateid4, off uint64, n uint32) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_READ{Opread: nfsv4.Read4args{Stateid: id, Offset: off, Count: n}}
}

func write(id nfsv4.Stateid4, off uint64, how nfsv4.StableHow4, data []byte) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_WRITE{Opwrite: nfsv4.Write4args{Stateid: id, Offset: off, Stable: how, Data: data}}
}

func closeFile(id nfsv4.Stateid4) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_CLOSE{Opclose: nfsv4.Close4args{OpenStateid: id}}
}

func readDir(cookie uint64, verf [8]byte, dirCount, maxCount uint32, attrs ...int) nfsv4.NfsArgop4 {
	return &nfsv4.NfsArgop4_OP_READDIR{Opreaddir: nfsv4.Readdir4args{
		Cookie: cookie, Cookieverf: verf, Dircount: dirCount, Maxcount: maxCount, AttrRequest: mask(attrs...),
	}}
}

// open is an OPEN; claim nil means CLAIM_FH.
func open(owner string, share, deny uint32, how nfsv4.Createhow4, claim nfsv4.OpenClaim4) nfsv4.NfsArgop4 {
	a := nfsv4.Open4args{
		ShareAccess: share, ShareDeny: deny,
		Owner:   nfsv4.OpenOwner4{Owner: []byte(owner)},
		Openhow: &nfsv4.Openflag4_default{Opentype: nfsv4.OPEN4_NOCREATE},
		Claim:   claim,
	}
	if how != nil {
		a.Openhow = &nfsv4.Openflag4_OPEN4_CREATE{How: how}
	}
	if claim == nil {
		a.Claim = &nfsv4.OpenClaim4_CLAIM_FH{}
	}
	return &nfsv4.NfsArgop4_OP_OPEN{Opopen: a}
}

func named(name string) nfsv4.OpenClaim4 { return &nfsv4.OpenClaim4_CLAIM_NULL{File: name} }

const (
	rd = nfsv4.OPEN4_SHARE_ACCESS_READ
	wr = nfsv4.OPEN4_SHARE_ACCESS_WRITE
	rw = nfsv4.OPEN4_SHARE_ACCESS_BOTH
)

var (
	anonymous nfsv4.Stateid4
	current   = nfsv4.Stateid4{Seqid: 1}
)

// Results.

func last(res []nfsv4.NfsResop4) nfsv4.NfsResop4 { return res[len(res)-1] }

func openOK(r nfsv4.NfsResop4) nfsv4.Open4resok {
	return r.(*nfsv4.NfsResop4_OP_OPEN).Opopen.(*nfsv4.Open4res_NFS4_OK).Resok4
}

func readOK(r nfsv4.NfsResop4) nfsv4.Read4resok {
	return r.(*nfsv4.NfsResop4_OP_READ).Opread.(*nfsv4.Read4res_NFS4_OK).Resok4
}

func writeOK(r nfsv4.NfsResop4) nfsv4.Write4resok {
	return r.(*nfsv4.NfsResop4_OP_WRITE).Opwrite.(*nfsv4.Write4res_NFS4_OK).Resok4
}

func readDirOK(r nfsv4.NfsResop4) nfsv4.Readdir4resok {
	return r.(*nfsv4.NfsResop4_OP_READDIR).Opreaddir.(*nfsv4.Readdir4res_NFS4_OK).Resok4
}

func attrsOK(t testing.TB, r nfsv4.NfsResop4) map[int]any {
	t.Helper()
	return decodeAttrs(t, r.(*nfsv4.NfsResop4_OP_GETATTR).Opgetattr.(*nfsv4.Getattr4res_NFS4_OK).Resok4.ObjAttributes)
}

// attrKinds are the XDR types of attributes by number, from RFC 8881, 5 and
// RFC 7862, 12: b bool, i 32 bit, h 64 bit, s string, m bitmap, f fsid, t time,
// d device, o open_arguments.
var attrKinds = map[int]byte{
	0: 'm', 1: 'i', 2: 'i', 3: 'h', 4: 'h', 5: 'b', 6: 'b', 7: 'b', 8: 'f', 9: 'b', 10: 'i', 11: 'i',
	13: 'i', 15: 'b', 16: 'b', 17: 'b', 18: 'b', 19: 's', 20: 'h', 21: 'h', 22: 'h', 23: 'h', 26: 'b', 27: 'h',
	28: 'i', 29: 'i', 30: 'h', 31: 'h', 33: 'i', 34: 'b', 35: 'i', 36: 's', 37: 's', 38: 'h', 39: 'h', 40: 'h', 41: 'd', 42: 'h',
	43: 'h', 44: 'h', 45: 'h', 47: 't', 50: 't', 51: 't', 52: 't', 53: 't', 55: 'h', 75: 'm', 77: 'i', 79: 'i', 82: 'b', 86: 'o',
}

func decodeBits(d *xdr.Decoder) (m []uint32) {
	for range d.Count(8, 4) {
		m = append(m, d.Uint32())
	}
	return m
}

func decodeAttrs(t testing.TB, f nfsv4.Fattr4) map[int]any {
	t.Helper()
	out := map[int]any{}
	d := xdr.NewDecoder(f.AttrVals)
	for a := range 96 {
		if a/32 >= len(f.Attrmask) || f.Attrmask[a/32]&(1<<(a%32)) == 0 {
			continue
		}
		switch attrKinds[a] {
		case 'b':
			out[a] = d.Bool()
		case 'i':
			out[a] = d.Uint32()
		case 'h':
			out[a] = d.Uint64()
		case 's':
			out[a] = d.String(1024)
		case 'm':
			out[a] = decodeBits(&d)
		case 'o':
			var o [5][]uint32
			for i := range o {
				o[i] = decodeBits(&d)
			}
			out[a] = o
		case 'f':
			out[a] = [2]uint64{d.Uint64(), d.Uint64()}
		case 't':
			sec, nsec := d.Int64(), d.Uint32()
			out[a] = time.Unix(sec, int64(nsec))
		case 'd':
			out[a] = [2]uint32{d.Uint32(), d.Uint32()}
		default:
			t.Fatalf("attribute %d was returned; its type is not known here", a)
		}
	}
	if d.Err() != nil || d.Len() != 0 {
		t.Fatalf("attributes %v: %v, %d bytes left", f.Attrmask, d.Err(), d.Len())
	}
	return out
}

func entries(t testing.TB, r nfsv4.Readdir4resok) (names []string, cookies []uint64, attrs []map[int]any) {
	t.Helper()
	for e := r.Reply.Entries; e != nil; e = e.Nextentry {
		names = append(names, e.Name)
		cookies = append(cookies, e.Cookie)
		attrs = append(attrs, decodeAttrs(t, e.Attrs))
	}
	return names, cookies, attrs
}

func owner(uid uint32) string { return strconv.Itoa(int(uid)) }
