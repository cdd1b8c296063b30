package v4

import (
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/vfs"
)

// status is nfsstat4.
type status = nfsv4.Nfsstat4

// NFS4ERR_NOXATTR and NFS4ERR_XATTR2BIG of RFC 8276, which the generated types predate.
const (
	errNoXattr   status = 10095
	errXattr2Big status = 10096
)

// kindStatus is the NFS status of every kind of error.
//
// Errors that promise that nothing happened and that the same request may
// succeed later are DELAY; the client then sends it again under a new sequence
// id. Where the outcome is unknown that would be wrong for an operation that
// changes names, see statusOf.
var kindStatus = [...]status{
	vfs.KindOK:            nfsv4.NFS4_OK,
	vfs.KindPerm:          nfsv4.NFS4ERR_PERM,
	vfs.KindNotFound:      nfsv4.NFS4ERR_NOENT,
	vfs.KindIO:            nfsv4.NFS4ERR_IO,
	vfs.KindAccess:        nfsv4.NFS4ERR_ACCESS,
	vfs.KindExists:        nfsv4.NFS4ERR_EXIST,
	vfs.KindXDev:          nfsv4.NFS4ERR_XDEV,
	vfs.KindNotDir:        nfsv4.NFS4ERR_NOTDIR,
	vfs.KindIsDir:         nfsv4.NFS4ERR_ISDIR,
	vfs.KindInvalid:       nfsv4.NFS4ERR_INVAL,
	vfs.KindTooBig:        nfsv4.NFS4ERR_FBIG,
	vfs.KindNoSpace:       nfsv4.NFS4ERR_NOSPC,
	vfs.KindReadOnly:      nfsv4.NFS4ERR_ROFS,
	vfs.KindTooManyLinks:  nfsv4.NFS4ERR_MLINK,
	vfs.KindNameTooLong:   nfsv4.NFS4ERR_NAMETOOLONG,
	vfs.KindNotEmpty:      nfsv4.NFS4ERR_NOTEMPTY,
	vfs.KindQuota:         nfsv4.NFS4ERR_DQUOT,
	vfs.KindStale:         nfsv4.NFS4ERR_STALE,
	vfs.KindBadHandle:     nfsv4.NFS4ERR_BADHANDLE,
	vfs.KindBadCookie:     nfsv4.NFS4ERR_BAD_COOKIE,
	vfs.KindNotSupported:  nfsv4.NFS4ERR_NOTSUPP,
	vfs.KindBusy:          nfsv4.NFS4ERR_FILE_OPEN,
	vfs.KindWrongType:     nfsv4.NFS4ERR_WRONG_TYPE,
	vfs.KindBadName:       nfsv4.NFS4ERR_BADNAME,
	vfs.KindNotSymlink:    nfsv4.NFS4ERR_WRONG_TYPE,
	vfs.KindNoAttr:        errNoXattr,
	vfs.KindLocked:        nfsv4.NFS4ERR_LOCKED,
	vfs.KindShareDenied:   nfsv4.NFS4ERR_SHARE_DENIED,
	vfs.KindUnavailable:   nfsv4.NFS4ERR_DELAY,
	vfs.KindUnknown:       nfsv4.NFS4ERR_IO,
	vfs.KindFenced:        nfsv4.NFS4ERR_DELAY,
	vfs.KindNotLeader:     nfsv4.NFS4ERR_DELAY,
	vfs.KindSuperseded:    nfsv4.NFS4ERR_IO,
	vfs.KindUnknownOrigin: nfsv4.NFS4ERR_DELAY,
	vfs.KindChanged:       nfsv4.NFS4ERR_DELAY,
	vfs.KindTooMany:       nfsv4.NFS4ERR_SERVERFAULT,
	vfs.KindCorrupt:       nfsv4.NFS4ERR_IO,
	vfs.KindIncompatible:  nfsv4.NFS4ERR_SERVERFAULT,
	vfs.KindCanceled:      nfsv4.NFS4ERR_IO,
	vfs.KindUnauthorized:  nfsv4.NFS4ERR_ACCESS,
	vfs.KindInternal:      nfsv4.NFS4ERR_SERVERFAULT,
	vfs.KindExpired:       nfsv4.NFS4ERR_EXPIRED,
}

// statusOf is the status for err. idempotent says that doing the operation
// twice is the same as once: then an unknown outcome, too, is answered with
// DELAY. For the others the vfs has already retried under the identity that
// makes a command happen exactly once, and only an error is honest.
func statusOf(err error, idempotent bool) status {
	k := vfs.KindOf(err)
	if idempotent && (k == vfs.KindUnknown || k == vfs.KindCanceled) {
		return nfsv4.NFS4ERR_DELAY
	}
	if int(k) < len(kindStatus) {
		return kindStatus[k]
	}
	return nfsv4.NFS4ERR_SERVERFAULT
}
