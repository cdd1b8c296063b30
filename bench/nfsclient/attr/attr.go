// Package attr encodes and decodes NFSv4 file attributes (RFC 8881, 5) for
// package nfsclient: only those it asks for.
package attr

import (
	"fmt"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
)

// Bitmap is a set of attribute numbers, 32 per word.
type Bitmap []uint32

// Of makes a Bitmap.
func Of(numbers ...uint32) Bitmap {
	var b Bitmap
	for _, n := range numbers {
		for uint32(len(b)) <= n/32 {
			b = append(b, 0)
		}
		b[n/32] |= 1 << (n % 32)
	}
	return b
}

// Has reports whether n is in b.
func (b Bitmap) Has(n uint32) bool { return int(n/32) < len(b) && b[n/32]&(1<<(n%32)) != 0 }

// Append encodes b.
func (b Bitmap) Append(p []byte) []byte {
	p = xdr.AppendUint32(p, uint32(len(b)))
	for _, w := range b {
		p = xdr.AppendUint32(p, w)
	}
	return p
}

// maxWords of a bitmap; the protocol uses three.
const maxWords = 8

// DecodeBitmap decodes a Bitmap.
func DecodeBitmap(d *xdr.Decoder) Bitmap {
	b := make(Bitmap, d.Count(maxWords, 4))
	for i := range b {
		b[i] = d.Uint32()
	}
	return b
}

// Stat is what GETATTR is asked for usually: everything in Attr but the
// handle and the error.
func Stat() Bitmap {
	return Of(nfsv4.FATTR4_TYPE, nfsv4.FATTR4_CHANGE, nfsv4.FATTR4_SIZE, nfsv4.FATTR4_FSID, nfsv4.FATTR4_FILEID,
		nfsv4.FATTR4_MODE, nfsv4.FATTR4_NUMLINKS, nfsv4.FATTR4_OWNER, nfsv4.FATTR4_OWNER_GROUP, nfsv4.FATTR4_RAWDEV,
		nfsv4.FATTR4_SPACE_USED, nfsv4.FATTR4_TIME_ACCESS, nfsv4.FATTR4_TIME_METADATA, nfsv4.FATTR4_TIME_MODIFY,
		nfsv4.FATTR4_MOUNTED_ON_FILEID)
}

// Attr are decoded attributes; what was not in the reply is zero.
type Attr struct {
	Mask         Bitmap
	Type         nfsv4.NfsFtype4
	Change       uint64
	Size         uint64
	FSID         [2]uint64
	RdattrError  nfsv4.Nfsstat4
	Handle       string
	Fileid       uint64
	Mode         uint32
	Nlink        uint32
	Owner, Group string
	Major, Minor uint32
	SpaceUsed    uint64
	Atime        time.Time
	Ctime        time.Time
	Mtime        time.Time
	MountedOn    uint64
}

// limits of strings in attributes.
const (
	maxHandle = 128
	maxOwner  = 1024
)

// Decode decodes a fattr4 that has only attributes this package knows.
func Decode(d *xdr.Decoder) (a Attr) {
	a.Mask = DecodeBitmap(d)
	n := int(d.Uint32())
	start := d.Offset()
	for i := range uint32(len(a.Mask) * 32) {
		if !a.Mask.Has(i) {
			continue
		}
		switch i {
		case nfsv4.FATTR4_TYPE:
			a.Type = nfsv4.NfsFtype4(d.Int32())
		case nfsv4.FATTR4_CHANGE:
			a.Change = d.Uint64()
		case nfsv4.FATTR4_SIZE:
			a.Size = d.Uint64()
		case nfsv4.FATTR4_FSID:
			a.FSID = [2]uint64{d.Uint64(), d.Uint64()}
		case nfsv4.FATTR4_RDATTR_ERROR:
			a.RdattrError = nfsv4.Nfsstat4(d.Int32())
		case nfsv4.FATTR4_FILEHANDLE:
			a.Handle = d.String(maxHandle)
		case nfsv4.FATTR4_FILEID:
			a.Fileid = d.Uint64()
		case nfsv4.FATTR4_MODE:
			a.Mode = d.Uint32()
		case nfsv4.FATTR4_NUMLINKS:
			a.Nlink = d.Uint32()
		case nfsv4.FATTR4_OWNER:
			a.Owner = d.String(maxOwner)
		case nfsv4.FATTR4_OWNER_GROUP:
			a.Group = d.String(maxOwner)
		case nfsv4.FATTR4_RAWDEV:
			a.Major, a.Minor = d.Uint32(), d.Uint32()
		case nfsv4.FATTR4_SPACE_USED:
			a.SpaceUsed = d.Uint64()
		case nfsv4.FATTR4_TIME_ACCESS:
			a.Atime = decodeTime(d)
		case nfsv4.FATTR4_TIME_METADATA:
			a.Ctime = decodeTime(d)
		case nfsv4.FATTR4_TIME_MODIFY:
			a.Mtime = decodeTime(d)
		case nfsv4.FATTR4_MOUNTED_ON_FILEID:
			a.MountedOn = d.Uint64()
		default:
			d.Fail(fmt.Errorf("attribute %d was not asked for", i))
			return a
		}
	}
	if d.Err() == nil && d.Offset()-start != n {
		d.Fail(fmt.Errorf("attributes take %d bytes, announced were %d", d.Offset()-start, n))
	}
	return a
}

func decodeTime(d *xdr.Decoder) time.Time {
	sec := d.Int64()
	return time.Unix(sec, int64(d.Uint32()))
}

// Set names attributes to set.
type Set struct {
	Size         *uint64
	Mode         *uint32
	Owner, Group *string
	Atime, Mtime *time.Time // client's time; the zero Time means the server's
}

// Mode is a Set of the mode only.
func Mode(mode uint32) *Set { return &Set{Mode: &mode} }

// Size is a Set of the size only.
func Size(size uint64) *Set { return &Set{Size: &size} }

// Append encodes s as a fattr4. nil sets nothing.
func (s *Set) Append(b []byte) []byte {
	if s == nil {
		s = &Set{}
	}
	var numbers []uint32
	var v []byte
	if s.Size != nil {
		numbers = append(numbers, nfsv4.FATTR4_SIZE)
		v = xdr.AppendUint64(v, *s.Size)
	}
	if s.Mode != nil {
		numbers = append(numbers, nfsv4.FATTR4_MODE)
		v = xdr.AppendUint32(v, *s.Mode)
	}
	if s.Owner != nil {
		numbers = append(numbers, nfsv4.FATTR4_OWNER)
		v = xdr.AppendString(v, *s.Owner)
	}
	if s.Group != nil {
		numbers = append(numbers, nfsv4.FATTR4_OWNER_GROUP)
		v = xdr.AppendString(v, *s.Group)
	}
	if s.Atime != nil {
		numbers = append(numbers, nfsv4.FATTR4_TIME_ACCESS_SET)
		v = appendSetTime(v, *s.Atime)
	}
	if s.Mtime != nil {
		numbers = append(numbers, nfsv4.FATTR4_TIME_MODIFY_SET)
		v = appendSetTime(v, *s.Mtime)
	}
	return xdr.AppendOpaque(Of(numbers...).Append(b), v)
}

func appendSetTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return xdr.AppendUint32(b, uint32(nfsv4.SET_TO_SERVER_TIME4))
	}
	b = xdr.AppendUint32(b, uint32(nfsv4.SET_TO_CLIENT_TIME4))
	b = xdr.AppendInt64(b, t.Unix())
	return xdr.AppendUint32(b, uint32(t.Nanosecond()))
}
