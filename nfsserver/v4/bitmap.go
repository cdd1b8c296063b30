package v4

import (
	"math/bits"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
)

// bitmap is bitmap4 as far as this server knows attributes: bits 0 to 95.
type bitmap [3]uint32

// Attributes that the generated types predate.
const (
	attrXattrSupport    = 82 // xattr_support of RFC 8276
	attrTimeDelegAccess = 84 // time_deleg_access of RFC 9754, as the two that follow
	attrTimeDelegModify = 85 // time_deleg_modify
	attrOpenArguments   = 86 // open_arguments
)

// maxBitmapWords bounds bitmaps on the wire. Clients may send words beyond
// those we know; they are read and, if set, count as unsupported attributes.
const maxBitmapWords = 16

// unknownAttr is bit 95, which no attribute uses; it stands for every set
// bit above it.
const unknownAttr = 95

func bits4(attrs ...int) (b bitmap) {
	for _, a := range attrs {
		b[a/32] |= 1 << (a % 32)
	}
	return b
}

func (b *bitmap) has(attr int) bool { return b[attr/32]&(1<<(attr%32)) != 0 }

func (b *bitmap) clear(attr int) { b[attr/32] &^= 1 << (attr % 32) }

func (b bitmap) and(o bitmap) bitmap {
	return bitmap{b[0] & o[0], b[1] & o[1], b[2] & o[2]}
}

func (b bitmap) or(o bitmap) bitmap {
	return bitmap{b[0] | o[0], b[1] | o[1], b[2] | o[2]}
}

func (b bitmap) without(o bitmap) bitmap {
	return bitmap{b[0] &^ o[0], b[1] &^ o[1], b[2] &^ o[2]}
}

func (b bitmap) empty() bool { return b == bitmap{} }

// next is the lowest attribute in b that is not below from, -1 if there is none.
func (b *bitmap) next(from int) int {
	for w := from / 32; w < len(b); w++ {
		word := b[w]
		if w == from/32 {
			word &^= 1<<(from%32) - 1
		}
		if word != 0 {
			return w*32 + bits.TrailingZeros32(word)
		}
	}
	return -1
}

func decodeBitmap(d *xdr.Decoder) (b bitmap) {
	for i := range d.Count(maxBitmapWords, 4) {
		w := d.Uint32()
		switch {
		case i < len(b):
			b[i] = w
		case w != 0:
			b[unknownAttr/32] |= 1 << (unknownAttr % 32)
		}
	}
	return b
}

// appendBitmap appends b without trailing zero words.
func appendBitmap(dst []byte, b bitmap) []byte {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	dst = xdr.AppendUint32(dst, uint32(n))
	for _, w := range b[:n] {
		dst = xdr.AppendUint32(dst, w)
	}
	return dst
}

var (
	// writeOnly may be set but not read (RFC 8881, 5.5).
	writeOnly = bits4(nfsv4.FATTR4_TIME_ACCESS_SET, nfsv4.FATTR4_TIME_MODIFY_SET)

	// settable may stand in SETATTR, CREATE and OPEN.
	settable = bits4(nfsv4.FATTR4_SIZE, nfsv4.FATTR4_MODE, nfsv4.FATTR4_OWNER, nfsv4.FATTR4_OWNER_GROUP,
		nfsv4.FATTR4_TIME_ACCESS_SET, nfsv4.FATTR4_TIME_MODIFY_SET, nfsv4.FATTR4_TIME_CREATE)

	// supported41 are the attributes of minor version 1.
	supported41 = bits4(
		nfsv4.FATTR4_SUPPORTED_ATTRS, nfsv4.FATTR4_TYPE, nfsv4.FATTR4_FH_EXPIRE_TYPE, nfsv4.FATTR4_CHANGE,
		nfsv4.FATTR4_SIZE, nfsv4.FATTR4_LINK_SUPPORT, nfsv4.FATTR4_SYMLINK_SUPPORT, nfsv4.FATTR4_NAMED_ATTR,
		nfsv4.FATTR4_FSID, nfsv4.FATTR4_UNIQUE_HANDLES, nfsv4.FATTR4_LEASE_TIME, nfsv4.FATTR4_RDATTR_ERROR,
		nfsv4.FATTR4_ACLSUPPORT, nfsv4.FATTR4_CANSETTIME, nfsv4.FATTR4_CASE_INSENSITIVE, nfsv4.FATTR4_CASE_PRESERVING,
		nfsv4.FATTR4_CHOWN_RESTRICTED, nfsv4.FATTR4_FILEHANDLE, nfsv4.FATTR4_FILEID, nfsv4.FATTR4_FILES_AVAIL,
		nfsv4.FATTR4_FILES_FREE, nfsv4.FATTR4_FILES_TOTAL, nfsv4.FATTR4_HOMOGENEOUS, nfsv4.FATTR4_MAXFILESIZE,
		nfsv4.FATTR4_MAXLINK, nfsv4.FATTR4_MAXNAME, nfsv4.FATTR4_MAXREAD, nfsv4.FATTR4_MAXWRITE,
		nfsv4.FATTR4_MODE, nfsv4.FATTR4_NO_TRUNC, nfsv4.FATTR4_NUMLINKS, nfsv4.FATTR4_OWNER,
		nfsv4.FATTR4_OWNER_GROUP, nfsv4.FATTR4_QUOTA_AVAIL_HARD, nfsv4.FATTR4_QUOTA_AVAIL_SOFT, nfsv4.FATTR4_QUOTA_USED,
		nfsv4.FATTR4_RAWDEV, nfsv4.FATTR4_SPACE_AVAIL, nfsv4.FATTR4_SPACE_FREE,
		nfsv4.FATTR4_SPACE_TOTAL, nfsv4.FATTR4_SPACE_USED, nfsv4.FATTR4_TIME_ACCESS, nfsv4.FATTR4_TIME_ACCESS_SET,
		nfsv4.FATTR4_TIME_CREATE, nfsv4.FATTR4_TIME_DELTA, nfsv4.FATTR4_TIME_METADATA, nfsv4.FATTR4_TIME_MODIFY,
		nfsv4.FATTR4_TIME_MODIFY_SET, nfsv4.FATTR4_MOUNTED_ON_FILEID, nfsv4.FATTR4_SUPPATTR_EXCLCREAT, attrOpenArguments)

	// supported42 adds those of minor version 2.
	supported42 = supported41.or(bits4(nfsv4.FATTR4_CLONE_BLKSIZE, nfsv4.FATTR4_CHANGE_ATTR_TYPE, attrXattrSupport))

	// exclusiveAttrs may be set by an EXCLUSIVE4_1 OPEN. The verifier of an
	// exclusive create is stored beside the inode, not in its times, so none has
	// to be left out.
	exclusiveAttrs = settable

	// statAttrs need the totals of the file system, or of the project.
	statAttrs = bits4(nfsv4.FATTR4_FILES_AVAIL, nfsv4.FATTR4_FILES_FREE, nfsv4.FATTR4_FILES_TOTAL,
		nfsv4.FATTR4_SPACE_AVAIL, nfsv4.FATTR4_SPACE_FREE, nfsv4.FATTR4_SPACE_TOTAL,
		nfsv4.FATTR4_QUOTA_AVAIL_HARD, nfsv4.FATTR4_QUOTA_AVAIL_SOFT, nfsv4.FATTR4_QUOTA_USED)
)

// supported are the attributes of a minor version.
func supported(minor uint32) bitmap {
	if minor >= 2 {
		return supported42
	}
	return supported41
}
