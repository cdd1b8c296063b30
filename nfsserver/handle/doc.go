// Package handle makes and checks NFS file handles.
//
// A handle names an inode under an export, for as long as the file lives, at
// every gateway of the cluster, across restarts. It holds no path and no
// pointer to memory, so it survives renames and needs no table.
//
// # Format 1
//
// 44 bytes, big endian:
//
//	 0  format   1   1
//	 1  kind     1   1 an inode, 2 a directory of the pseudo file system
//	 2  key      2   id of the key that made the MAC
//	 4  cluster 16   cluster id
//	20  fs       4   file system id; 0 in the pseudo file system
//	24  export   4   export id; 0 in the pseudo file system
//	28  inode    8   inode number, or id of the pseudo directory
//	36  mac      8   SipHash-2-4 of bytes 0 to 35 under the key
//
// # Invariants
//
// A handle that decodes was made by a member of the cluster that holds the key:
// clients cannot name an inode that no reply ever gave them, so a
// client that may use one export cannot reach above its root by guessing.
// The MAC does not say that the client may still use the export, nor that
// the inode still exists; both are checked on every use.
//
// Other clusters' handles, and handles whose key was retired, are stale
// (vfs.KindStale): they were handles once. Everything else that does not verify
// is vfs.KindBadHandle.
//
// Keys rotate by adding one and making it active; handles under older keys stay
// valid until their key is removed from the ring. A client that sees two
// handles of one file treats them as two files, so a rotation is for a
// leaked key, not for routine.
package handle
