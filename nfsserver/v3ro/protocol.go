package v3ro

import (
	"encoding/binary"
	"time"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

// Programs and versions (RFC 1813, 2 and appendix I).
const (
	nfsProgram   = 100003
	mountProgram = 100005
	version      = 3
)

// Procedures of NFS version 3 (RFC 1813, 3).
const (
	procNull = iota
	procGetAttr
	procSetAttr
	procLookup
	procAccess
	procReadLink
	procRead
	procWrite
	procCreate
	procMkdir
	procSymlink
	procMknod
	procRemove
	procRmdir
	procRename
	procLink
	procReadDir
	procReadDirPlus
	procFSStat
	procFSInfo
	procPathConf
	procCommit
)

// Procedures of the MOUNT protocol (RFC 1813, 5.2).
const (
	procMountNull  = 0
	procMount      = 1
	procDump       = 2
	procUnmount    = 3
	procUnmountAll = 4
	procExport     = 5
)

// status is nfsstat3 (RFC 1813, 2.6).
type status uint32

const (
	stOK          status = 0
	stPerm        status = 1
	stNoEnt       status = 2
	stIO          status = 5
	stAccess      status = 13
	stNotDir      status = 20
	stIsDir       status = 21
	stInval       status = 22
	stROFS        status = 30
	stNameTooLong status = 63
	stStale       status = 70
	stBadHandle   status = 10001
	stTooSmall    status = 10005
	stServerFault status = 10006
	stJukebox     status = 10008 // come again later
)

// statusOf is the status for err.
func statusOf(err error) status {
	switch k := vfs.KindOf(err); k {
	case vfs.KindOK:
		return stOK
	case vfs.KindPerm:
		return stPerm
	case vfs.KindNotFound:
		return stNoEnt
	case vfs.KindAccess, vfs.KindUnauthorized, vfs.KindBadName:
		return stAccess
	case vfs.KindNotDir:
		return stNotDir
	case vfs.KindIsDir:
		return stIsDir
	case vfs.KindInvalid, vfs.KindNotSymlink, vfs.KindWrongType:
		return stInval
	case vfs.KindReadOnly:
		return stROFS
	case vfs.KindNameTooLong:
		return stNameTooLong
	case vfs.KindStale:
		return stStale
	case vfs.KindBadHandle:
		return stBadHandle
	case vfs.KindInternal, vfs.KindIncompatible:
		return stServerFault
	case vfs.KindFenced, vfs.KindUnknownOrigin, vfs.KindCanceled, vfs.KindChanged:
		return stJukebox
	default:
		if k.Retryable() {
			return stJukebox
		}
		return stIO
	}
}

// mountStatus is mountstat3 for st; both number alike what both have (RFC 1813, 5.1.5).
func mountStatus(st status) uint32 {
	if st == stJukebox || st == stROFS {
		return uint32(stServerFault) // which clients try again
	}
	return uint32(st)
}

// Bits of ACCESS (RFC 1813, 3.3.4).
const (
	accessRead    = 0x01
	accessLookup  = 0x02
	accessExecute = 0x20
)

// Limits of the protocol in bytes.
const (
	maxHandle = 64
	maxPath   = 1024
	maxName   = 4096 // what is decoded; longer than NameMax is answered with NAMETOOLONG
)

// fattrSize is the length of fattr3 in bytes, fattrFileID where the file id is in it.
const (
	fattrSize   = 84
	fattrFileID = 52
)

// fileTypes is ftype3 by vfs.Type.
var fileTypes = [...]uint32{
	vfs.TypeFile: 1, vfs.TypeDir: 2, vfs.TypeBlock: 3, vfs.TypeChar: 4, vfs.TypeSymlink: 5, vfs.TypeSocket: 6, vfs.TypeFIFO: 7,
}

// appendAttr appends fattr3 (RFC 1813, 2.6).
func appendAttr(b []byte, a *vfs.Attr, fsid uint64) []byte {
	b = xdr.AppendUint32(b, fileTypes[min(int(a.Type), len(fileTypes)-1)])
	b = xdr.AppendUint32(b, a.Mode&vfs.ModeMask)
	b = xdr.AppendUint32(b, a.Nlink)
	b = xdr.AppendUint32(b, a.UID)
	b = xdr.AppendUint32(b, a.GID)
	b = xdr.AppendUint64(b, a.Size)
	b = xdr.AppendUint64(b, a.Used)
	b = xdr.AppendUint32(b, a.Dev.Major)
	b = xdr.AppendUint32(b, a.Dev.Minor)
	b = xdr.AppendUint64(b, fsid)
	b = xdr.AppendUint64(b, uint64(a.Ino))
	for _, t := range []time.Time{a.Atime, a.Mtime, a.Ctime} {
		b = appendTime(b, t)
	}
	return b
}

// appendTime appends nfstime3, which has no times before 1970 and after 2106: the nearest that there is.
func appendTime(b []byte, t time.Time) []byte {
	sec := min(max(t.Unix(), 0), 1<<32-1)
	nsec := t.Nanosecond()
	if sec != t.Unix() {
		nsec = 0
	}
	return xdr.AppendUint32(xdr.AppendUint32(b, uint32(sec)), uint32(nsec))
}

// appendPostOp appends post_op_attr.
func appendPostOp(b []byte, a *vfs.Attr, fsid uint64) []byte {
	if a == nil {
		return xdr.AppendBool(b, false)
	}
	return appendAttr(xdr.AppendBool(b, true), a, fsid)
}

// fsidOf is the id of a file system in attributes.
func fsidOf(cluster [16]byte, fs uint32) uint64 {
	const spread = 0x9e3779b97f4a7c15 // so that neighbouring ids of two clusters do not meet
	return binary.BigEndian.Uint64(cluster[:8]) ^ binary.BigEndian.Uint64(cluster[8:]) ^ uint64(fs)*spread
}

// failureWords is how many zero words follow the status in a failed result of a procedure: absent attributes.
func failureWords(proc uint32) int {
	switch proc {
	case procGetAttr:
		return 0
	case procRename:
		return 4
	case procLink:
		return 3
	case procSetAttr, procWrite, procCreate, procMkdir, procSymlink, procMknod, procRemove, procRmdir, procCommit:
		return 2
	}
	return 1
}
