package v4

import (
	"strconv"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/nfsserver/handle"
	"github.com/rackfs/rackfs/vfs"
)

// fsid is fsid4: the cluster, and the file system in it; minor 0 is the pseudo
// file system.
type fsid struct{ major, minor uint64 }

// attrSource is where the attributes of one object come from.
type attrSource struct {
	attr    *vfs.Attr
	stat    *vfs.StatFS // may be nil unless the mask meets statAttrs
	fsid    fsid
	mounted uint64 // mounted_on_fileid
	handle  handle.Handle
	err     status // rdattr_error
	xattrs  bool   // xattr_support
}

// attrEncoder are the answers that are the same for every object.
type attrEncoder struct {
	ring         *handle.Ring
	supported    bitmap
	leaseSeconds uint32
	maxRead      uint64
	maxWrite     uint64
}

// openArguments is open_arguments4 (RFC 9754): which arguments of OPEN are understood, each enumeration's values as bits. A client that says what
// it wants is answered; one that wants to be told later when it could have it is not told.
var openArguments = [...]bitmap{
	bits4(int(nfsv4.OPEN4_SHARE_ACCESS_READ), int(nfsv4.OPEN4_SHARE_ACCESS_WRITE), int(nfsv4.OPEN4_SHARE_ACCESS_BOTH)),
	bits4(int(nfsv4.OPEN4_SHARE_DENY_NONE), int(nfsv4.OPEN4_SHARE_DENY_READ), int(nfsv4.OPEN4_SHARE_DENY_WRITE), int(nfsv4.OPEN4_SHARE_DENY_BOTH)),
	bits4(nfsv4.OPEN4_SHARE_ACCESS_WANT_ANY_DELEG>>wantShift, nfsv4.OPEN4_SHARE_ACCESS_WANT_NO_DELEG>>wantShift, nfsv4.OPEN4_SHARE_ACCESS_WANT_CANCEL>>wantShift),
	bits4(int(nfsv4.CLAIM_NULL), int(nfsv4.CLAIM_PREVIOUS), int(nfsv4.CLAIM_DELEGATE_CUR), int(nfsv4.CLAIM_FH), int(nfsv4.CLAIM_DELEG_CUR_FH)),
	bits4(int(nfsv4.UNCHECKED4), int(nfsv4.GUARDED4), int(nfsv4.EXCLUSIVE4), int(nfsv4.EXCLUSIVE4_1)),
}

// wantShift is where the wants of share_access begin.
const wantShift = 8

// nfsType is nfs_ftype4 of a vfs type.
func nfsType(t vfs.Type) nfsv4.NfsFtype4 {
	switch t {
	case vfs.TypeFile:
		return nfsv4.NF4REG
	case vfs.TypeDir:
		return nfsv4.NF4DIR
	case vfs.TypeSymlink:
		return nfsv4.NF4LNK
	case vfs.TypeBlock:
		return nfsv4.NF4BLK
	case vfs.TypeChar:
		return nfsv4.NF4CHR
	case vfs.TypeFIFO:
		return nfsv4.NF4FIFO
	case vfs.TypeSocket:
		return nfsv4.NF4SOCK
	}
	return 0
}

// append appends fattr4: the mask of what is returned and the values in order
// of attribute number. want must not contain write-only attributes.
func (e *attrEncoder) append(b []byte, want bitmap, s *attrSource) []byte {
	mask := want.and(e.supported)
	b = appendBitmap(b, mask)
	at := len(b)
	b = xdr.AppendUint32(b, 0)
	for a := mask.next(0); a >= 0; a = mask.next(a + 1) {
		b = e.appendOne(b, a, s)
	}
	xdr.PutUint32(b, at, uint32(len(b)-at-4))
	return b
}

func (e *attrEncoder) appendOne(b []byte, attr int, s *attrSource) []byte {
	a := s.attr
	switch attr {
	case nfsv4.FATTR4_SUPPORTED_ATTRS:
		return appendBitmap(b, e.supported)
	case nfsv4.FATTR4_TYPE:
		return xdr.AppendInt32(b, int32(nfsType(a.Type)))
	case nfsv4.FATTR4_FH_EXPIRE_TYPE:
		return xdr.AppendUint32(b, nfsv4.FH4_PERSISTENT)
	case nfsv4.FATTR4_CHANGE:
		return xdr.AppendUint64(b, a.Change)
	case nfsv4.FATTR4_SIZE:
		return xdr.AppendUint64(b, a.Size)
	case nfsv4.FATTR4_LINK_SUPPORT, nfsv4.FATTR4_SYMLINK_SUPPORT, nfsv4.FATTR4_CANSETTIME, nfsv4.FATTR4_CASE_PRESERVING,
		nfsv4.FATTR4_CHOWN_RESTRICTED, nfsv4.FATTR4_HOMOGENEOUS, nfsv4.FATTR4_NO_TRUNC:
		return xdr.AppendBool(b, true)
	case nfsv4.FATTR4_NAMED_ATTR, nfsv4.FATTR4_CASE_INSENSITIVE:
		return xdr.AppendBool(b, false)
	case attrXattrSupport:
		return xdr.AppendBool(b, s.xattrs)
	case attrOpenArguments:
		for _, m := range openArguments {
			b = appendBitmap(b, m)
		}
		return b
	case nfsv4.FATTR4_UNIQUE_HANDLES:
		// A file has one handle per export and per MAC key.
		return xdr.AppendBool(b, false)
	case nfsv4.FATTR4_FSID:
		return xdr.AppendUint64(xdr.AppendUint64(b, s.fsid.major), s.fsid.minor)
	case nfsv4.FATTR4_LEASE_TIME:
		return xdr.AppendUint32(b, e.leaseSeconds)
	case nfsv4.FATTR4_RDATTR_ERROR:
		return xdr.AppendUint32(b, uint32(s.err))
	case nfsv4.FATTR4_ACLSUPPORT:
		return xdr.AppendUint32(b, 0)
	case nfsv4.FATTR4_FILEHANDLE:
		b = xdr.AppendUint32(b, handle.Size)
		return e.ring.Append(b, s.handle)
	case nfsv4.FATTR4_FILEID:
		return xdr.AppendUint64(b, uint64(a.Ino))
	case nfsv4.FATTR4_FILES_AVAIL, nfsv4.FATTR4_FILES_FREE:
		return xdr.AppendUint64(b, s.stat.FreeFiles)
	case nfsv4.FATTR4_FILES_TOTAL:
		return xdr.AppendUint64(b, s.stat.TotalFiles)
	case nfsv4.FATTR4_MAXFILESIZE:
		return xdr.AppendUint64(b, vfs.MaxSize)
	case nfsv4.FATTR4_MAXLINK:
		return xdr.AppendUint32(b, vfs.LinkMax)
	case nfsv4.FATTR4_MAXNAME:
		return xdr.AppendUint32(b, vfs.NameMax)
	case nfsv4.FATTR4_MAXREAD:
		return xdr.AppendUint64(b, e.maxRead)
	case nfsv4.FATTR4_MAXWRITE:
		return xdr.AppendUint64(b, e.maxWrite)
	case nfsv4.FATTR4_MODE:
		return xdr.AppendUint32(b, a.Mode)
	case nfsv4.FATTR4_NUMLINKS:
		return xdr.AppendUint32(b, a.Nlink)
	case nfsv4.FATTR4_OWNER:
		return appendID(b, a.UID)
	case nfsv4.FATTR4_OWNER_GROUP:
		return appendID(b, a.GID)
	case nfsv4.FATTR4_QUOTA_AVAIL_HARD, nfsv4.FATTR4_QUOTA_AVAIL_SOFT: // there are no soft limits
		return xdr.AppendUint64(b, s.stat.AvailBytes)
	case nfsv4.FATTR4_QUOTA_USED:
		return xdr.AppendUint64(b, s.stat.UsedBytes)
	case nfsv4.FATTR4_RAWDEV:
		return xdr.AppendUint32(xdr.AppendUint32(b, a.Dev.Major), a.Dev.Minor)
	case nfsv4.FATTR4_SPACE_AVAIL:
		return xdr.AppendUint64(b, s.stat.AvailBytes)
	case nfsv4.FATTR4_SPACE_FREE:
		return xdr.AppendUint64(b, s.stat.FreeBytes)
	case nfsv4.FATTR4_SPACE_TOTAL:
		return xdr.AppendUint64(b, s.stat.TotalBytes)
	case nfsv4.FATTR4_SPACE_USED:
		return xdr.AppendUint64(b, a.Used)
	case nfsv4.FATTR4_TIME_ACCESS:
		return appendTime(b, a.Atime)
	case nfsv4.FATTR4_TIME_CREATE:
		return appendTime(b, a.Btime)
	case nfsv4.FATTR4_TIME_DELTA:
		return xdr.AppendUint32(xdr.AppendInt64(b, 0), 1)
	case nfsv4.FATTR4_TIME_METADATA:
		return appendTime(b, a.Ctime)
	case nfsv4.FATTR4_TIME_MODIFY:
		return appendTime(b, a.Mtime)
	case nfsv4.FATTR4_MOUNTED_ON_FILEID:
		return xdr.AppendUint64(b, s.mounted)
	case nfsv4.FATTR4_SUPPATTR_EXCLCREAT:
		return appendBitmap(b, exclusiveAttrs)
	case nfsv4.FATTR4_CLONE_BLKSIZE:
		return xdr.AppendUint32(b, vfs.CloneAlign)
	case nfsv4.FATTR4_CHANGE_ATTR_TYPE:
		if s.fsid.minor == 0 {
			return xdr.AppendUint32(b, uint32(nfsv4.NFS4_CHANGE_TYPE_IS_UNDEFINED))
		}
		return xdr.AppendUint32(b, uint32(nfsv4.NFS4_CHANGE_TYPE_IS_MONOTONIC_INCR))
	}
	return b
}

// appendID appends a uid or gid as the numeric string that RFC 8881, 5.9 allows
// where no translation exists.
func appendID(b []byte, id uint32) []byte {
	at := len(b)
	b = xdr.AppendUint32(b, 0)
	b = strconv.AppendUint(b, uint64(id), 10)
	n := len(b) - at - 4
	xdr.PutUint32(b, at, uint32(n))
	for range xdr.Pad(n) {
		b = append(b, 0)
	}
	return b
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return xdr.AppendUint32(xdr.AppendInt64(b, 0), 0)
	}
	return xdr.AppendUint32(xdr.AppendInt64(b, t.Unix()), uint32(t.Nanosecond()))
}

// idLimit is the longest owner string we look at; numeric ones have at most 10
// digits.
const idLimit = 1024

// parseID parses a numeric owner. Names, with or without a domain, are not
// translated: BADOWNER.
func parseID(p []byte) (uint32, bool) {
	if len(p) == 0 || len(p) > 10 || (p[0] == '0' && len(p) > 1) {
		return 0, false
	}
	var v uint64
	for _, c := range p {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + uint64(c-'0')
	}
	return uint32(v), v < 1<<32
}

// decodeSetAttr decodes fattr4 of SETATTR, CREATE and OPEN into what vfs wants
// and the mask of what it names. allowed is what this operation may set.
func decodeSetAttr(d *xdr.Decoder, supported, allowed bitmap) (vfs.SetAttr, bitmap, status) {
	var s vfs.SetAttr
	mask := decodeBitmap(d)
	vals := d.Opaque(d.Len())
	if d.Err() != nil {
		return s, mask, nfsv4.NFS4ERR_BADXDR
	}
	if !mask.without(supported).empty() {
		return s, mask, nfsv4.NFS4ERR_ATTRNOTSUPP
	}
	if !mask.without(allowed).empty() {
		return s, mask, nfsv4.NFS4ERR_INVAL
	}
	v := xdr.NewDecoder(vals)
	st := nfsv4.NFS4_OK
	bad := func(s status) {
		if st == nfsv4.NFS4_OK {
			st = s
		}
	}
	for a := mask.next(0); a >= 0 && v.Err() == nil; a = mask.next(a + 1) {
		switch a {
		case nfsv4.FATTR4_SIZE:
			n := v.Uint64()
			if n > vfs.MaxSize {
				bad(nfsv4.NFS4ERR_FBIG)
			}
			s.Size = &n
		case nfsv4.FATTR4_MODE:
			m := v.Uint32()
			if m&^vfs.ModeMask != 0 {
				bad(nfsv4.NFS4ERR_INVAL)
			}
			s.Mode = &m
		case nfsv4.FATTR4_OWNER, nfsv4.FATTR4_OWNER_GROUP:
			p := v.Opaque(idLimit)
			id, ok := parseID(p)
			if !ok {
				bad(nfsv4.NFS4ERR_BADOWNER)
			}
			if a == nfsv4.FATTR4_OWNER {
				s.UID = &id
			} else {
				s.GID = &id
			}
		case nfsv4.FATTR4_TIME_ACCESS_SET:
			s.AtimeSet, s.Atime = decodeSetTime(&v, bad)
		case nfsv4.FATTR4_TIME_MODIFY_SET:
			s.MtimeSet, s.Mtime = decodeSetTime(&v, bad)
		case nfsv4.FATTR4_TIME_CREATE:
			t := decodeTime(&v, bad)
			s.Btime = &t
		}
	}
	if v.Err() != nil || v.Len() != 0 {
		return s, mask, nfsv4.NFS4ERR_BADXDR
	}
	return s, mask, st
}

func decodeTime(d *xdr.Decoder, bad func(status)) time.Time {
	sec, nsec := d.Int64(), d.Uint32()
	if nsec >= 1e9 {
		bad(nfsv4.NFS4ERR_INVAL)
	}
	return time.Unix(sec, int64(nsec))
}

func decodeSetTime(d *xdr.Decoder, bad func(status)) (vfs.TimeSet, time.Time) {
	switch nfsv4.TimeHow4(d.Int32()) {
	case nfsv4.SET_TO_SERVER_TIME4:
		return vfs.TimeServer, time.Time{}
	case nfsv4.SET_TO_CLIENT_TIME4:
		return vfs.TimeClient, decodeTime(d, bad)
	}
	bad(nfsv4.NFS4ERR_BADXDR)
	return vfs.TimeKeep, time.Time{}
}
