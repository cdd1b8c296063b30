package v4

import "github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

type opFlags uint8

const (
	needsFH     opFlags = 1 << iota // the current filehandle must be set
	sessionless                     // may be the only operation of a COMPOUND without SEQUENCE
	changes                         // changes something: its result must fit before it is begun
	grants                          // answers who may use a file, and how: only while that is for this server to say
	mounting                        // what a kernel needs to mount, and to look at what is mounted
	returning                       // gives something back, or says nothing about the file: never refused for want of a group
	both                            // uses the saved filehandle's file too
	alone                           // no file system remembers by its call what it did (state.Call.Alone)
)

// opDef is an operation that this server knows.
type opDef struct {
	run   func(*compound) status
	minor uint32 // lowest minor version that has it
	flags opFlags
	room  int // bytes its result may take, of those that change something
}

// Rooms of results: enough for a cinfo, a stateid and a bitmap; OPEN's also
// holds a delegation union, LOCK's the owner of the lock in the way.
const (
	smallRoom = 96
	openRoom  = 160
	lockRoom  = 64 + nfsv4.NFS4_OPAQUE_LIMIT
)

// Operations of RFC 8276, which the generated types predate.
const (
	opGetXattr    nfsv4.NfsOpnum4 = 72
	opSetXattr    nfsv4.NfsOpnum4 = 73
	opListXattrs  nfsv4.NfsOpnum4 = 74
	opRemoveXattr nfsv4.NfsOpnum4 = 75
)

// lookupOp finds an operation, nil if the minor version has none of that number.
func lookupOp(op nfsv4.NfsOpnum4, minor uint32) *opDef {
	if op < 0 || int(op) >= len(opTable) {
		return nil
	}
	if def := &opTable[op]; def.run != nil && minor >= def.minor {
		return def
	}
	return nil
}

// notSupported answers operations that exist but are optional, or that minor
// version 1 forbids (RFC 8881, 17).
func notSupported(*compound) status { return nfsv4.NFS4ERR_NOTSUPP }

// opTable is indexed by operation number.
var opTable = [...]opDef{
	nfsv4.OP_ACCESS:              {run: (*compound).opAccess, flags: needsFH | mounting},
	nfsv4.OP_CLOSE:               {run: (*compound).opClose, flags: needsFH | returning | changes | alone, room: smallRoom},
	nfsv4.OP_COMMIT:              {run: (*compound).opCommit, flags: needsFH | returning},
	nfsv4.OP_CREATE:              {run: (*compound).opCreate, flags: needsFH | changes, room: smallRoom},
	nfsv4.OP_DELEGPURGE:          {run: notSupported},
	nfsv4.OP_DELEGRETURN:         {run: (*compound).opDelegReturn, flags: needsFH | returning | alone},
	nfsv4.OP_GETATTR:             {run: (*compound).opGetAttr, flags: needsFH | mounting},
	nfsv4.OP_GETFH:               {run: (*compound).opGetFH, flags: needsFH | returning},
	nfsv4.OP_LINK:                {run: (*compound).opLink, flags: needsFH | both | changes, room: smallRoom},
	nfsv4.OP_LOCK:                {run: (*compound).opLock, flags: needsFH | changes | grants | alone, room: lockRoom},
	nfsv4.OP_LOCKT:               {run: (*compound).opLockT, flags: needsFH | grants},
	nfsv4.OP_LOCKU:               {run: (*compound).opLockU, flags: needsFH | returning | changes | alone, room: smallRoom},
	nfsv4.OP_LOOKUP:              {run: (*compound).opLookup, flags: needsFH | mounting},
	nfsv4.OP_LOOKUPP:             {run: (*compound).opLookupP, flags: needsFH | mounting},
	nfsv4.OP_NVERIFY:             {run: (*compound).opNVerify, flags: needsFH | mounting},
	nfsv4.OP_OPEN:                {run: (*compound).opOpen, flags: needsFH | changes | grants | alone, room: openRoom},
	nfsv4.OP_OPENATTR:            {run: notSupported, flags: needsFH},
	nfsv4.OP_OPEN_CONFIRM:        {run: notSupported},
	nfsv4.OP_OPEN_DOWNGRADE:      {run: (*compound).opOpenDowngrade, flags: needsFH | returning | changes | alone, room: smallRoom},
	nfsv4.OP_PUTFH:               {run: (*compound).opPutFH},
	nfsv4.OP_PUTPUBFH:            {run: (*compound).opPutRootFH},
	nfsv4.OP_PUTROOTFH:           {run: (*compound).opPutRootFH},
	nfsv4.OP_READ:                {run: (*compound).opRead, flags: needsFH},
	nfsv4.OP_READDIR:             {run: (*compound).opReadDir, flags: needsFH},
	nfsv4.OP_READLINK:            {run: (*compound).opReadLink, flags: needsFH},
	nfsv4.OP_REMOVE:              {run: (*compound).opRemove, flags: needsFH | changes, room: smallRoom},
	nfsv4.OP_RENAME:              {run: (*compound).opRename, flags: needsFH | both | changes, room: smallRoom},
	nfsv4.OP_RENEW:               {run: notSupported},
	nfsv4.OP_RESTOREFH:           {run: (*compound).opRestoreFH},
	nfsv4.OP_SAVEFH:              {run: (*compound).opSaveFH, flags: needsFH | returning},
	nfsv4.OP_SECINFO:             {run: (*compound).opSecinfo, flags: needsFH | mounting},
	nfsv4.OP_SETATTR:             {run: (*compound).opSetAttr, flags: needsFH | changes, room: smallRoom},
	nfsv4.OP_SETCLIENTID:         {run: notSupported},
	nfsv4.OP_SETCLIENTID_CONFIRM: {run: notSupported},
	nfsv4.OP_VERIFY:              {run: (*compound).opVerify, flags: needsFH | mounting},
	nfsv4.OP_WRITE:               {run: (*compound).opWrite, flags: needsFH | changes | alone, room: smallRoom},
	nfsv4.OP_RELEASE_LOCKOWNER:   {run: notSupported},

	nfsv4.OP_BACKCHANNEL_CTL:      {run: (*compound).opBackchannelCtl, flags: changes, room: smallRoom},
	nfsv4.OP_BIND_CONN_TO_SESSION: {run: (*compound).opBindConn, flags: sessionless},
	nfsv4.OP_EXCHANGE_ID:          {run: (*compound).opExchangeID, flags: sessionless},
	nfsv4.OP_CREATE_SESSION:       {run: (*compound).opCreateSession, flags: sessionless},
	nfsv4.OP_DESTROY_SESSION:      {run: (*compound).opDestroySession, flags: sessionless},
	nfsv4.OP_FREE_STATEID:         {run: (*compound).opFreeStateid, flags: alone},
	nfsv4.OP_GET_DIR_DELEGATION:   {run: notSupported},
	nfsv4.OP_GETDEVICEINFO:        {run: notSupported},
	nfsv4.OP_GETDEVICELIST:        {run: notSupported},
	nfsv4.OP_LAYOUTCOMMIT:         {run: notSupported},
	nfsv4.OP_LAYOUTGET:            {run: notSupported},
	nfsv4.OP_LAYOUTRETURN:         {run: notSupported},
	nfsv4.OP_SECINFO_NO_NAME:      {run: (*compound).opSecinfoNoName, flags: needsFH | returning},
	nfsv4.OP_SEQUENCE:             {run: (*compound).opSequence, flags: sessionless},
	nfsv4.OP_SET_SSV:              {run: (*compound).opSetSSV},
	nfsv4.OP_TEST_STATEID:         {run: (*compound).opTestStateid},
	nfsv4.OP_WANT_DELEGATION:      {run: notSupported},
	nfsv4.OP_DESTROY_CLIENTID:     {run: (*compound).opDestroyClientID, flags: sessionless},
	nfsv4.OP_RECLAIM_COMPLETE:     {run: (*compound).opReclaimComplete, flags: changes, room: smallRoom},

	nfsv4.OP_ALLOCATE:       {run: (*compound).opAllocate, minor: 2, flags: needsFH | changes, room: smallRoom},
	nfsv4.OP_COPY:           {run: (*compound).opCopy, minor: 2, flags: needsFH | both | changes, room: smallRoom},
	nfsv4.OP_COPY_NOTIFY:    {run: notSupported, minor: 2},
	nfsv4.OP_DEALLOCATE:     {run: (*compound).opDeallocate, minor: 2, flags: needsFH | changes, room: smallRoom},
	nfsv4.OP_IO_ADVISE:      {run: (*compound).opIOAdvise, minor: 2, flags: needsFH},
	nfsv4.OP_LAYOUTERROR:    {run: notSupported, minor: 2},
	nfsv4.OP_LAYOUTSTATS:    {run: notSupported, minor: 2},
	nfsv4.OP_OFFLOAD_CANCEL: {run: (*compound).opOffloadCancel, minor: 2, flags: needsFH | returning},
	nfsv4.OP_OFFLOAD_STATUS: {run: (*compound).opOffloadStatus, minor: 2, flags: needsFH | returning},
	nfsv4.OP_READ_PLUS:      {run: notSupported, minor: 2},
	nfsv4.OP_SEEK:           {run: (*compound).opSeek, minor: 2, flags: needsFH},
	nfsv4.OP_WRITE_SAME:     {run: notSupported, minor: 2},
	nfsv4.OP_CLONE:          {run: (*compound).opClone, minor: 2, flags: needsFH | both | changes, room: smallRoom},
	opGetXattr:              {run: (*compound).opGetXattr, minor: 2, flags: needsFH},
	opSetXattr:              {run: (*compound).opSetXattr, minor: 2, flags: needsFH | changes, room: smallRoom},
	opListXattrs:            {run: (*compound).opListXattrs, minor: 2, flags: needsFH},
	opRemoveXattr:           {run: (*compound).opRemoveXattr, minor: 2, flags: needsFH | changes, room: smallRoom},
}
