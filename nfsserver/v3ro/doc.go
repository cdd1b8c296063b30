// Package v3ro serves the exports over NFS version 3 (RFC 1813), read-only and with every caller squashed to the anonymous user. It is for
// clients that cannot mount NFSv4.1 (appliances, macOS, Windows) and for publishing data sets. It is off unless a port is configured for it.
//
//	mount -t nfs -o vers=3,ro,nolock,proto=tcp,port=P,mountport=P HOST:/NAME /mnt
//
// # What of it is go-nfs
//
// The procedures are those of github.com/willscott/go-nfs. Its server is not in front: it answers the calls of a connection one by one, takes
// records and lengths in them of any size, passes neither caller nor context on, and a bug in it ends the process. So this package has the
// transport that NFSv4 has (package rpc: bounded records, memory and concurrency), and asks go-nfs only for the results of calls that it
// has looked at:
//
//	client ── rpc ── program ──────────────── engine (one of a few) ──────────── go-nfs
//	                 decode the arguments,     the call, encoded anew, over a      MNT, GETATTR, LOOKUP, ACCESS, READLINK,
//	                 find the handle's file,   pipe; the reply comes back          FSSTAT, FSINFO, PATHCONF
//	                 check export, groups,
//	                 project, permission       view: the answers that the program has found, as a billy.Filesystem
//
// An engine serves one call at a time, with a handler of its own, so that go-nfs's calls back meet the right request. What go-nfs
// cannot say is written over in its replies, whose layout is fixed: attributes (fsid, bytes used, three different times, mode bits above 0777), the
// sizes of FSINFO, the links of PATHCONF. The program answers by itself: errors, because go-nfs has only some; listings
// (READDIR, READDIRPLUS), because its interface wants a directory whole, sorted by name, where here a page of the vfs becomes a reply, with the
// vfs's cookies, which are stable; and READ, whose data it copies four times.
//
// # Rules
//
// Handles are those of package handle, the same as over NFSv4: valid at every gateway and after a restart. Networks, groups and projects of
// exports are checked at each use of a handle, as there. Every procedure that would change something answers NFS3ERR_ROFS without being looked
// at any further. A path that is mounted is an export's or one below it; pseudo directories cannot be mounted.
//
// # What it cannot do
//
// No locks (NLM): mount with nolock. No state, so it reads what is in the file system: what a client with a write delegation has not written
// back yet is not seen. MNT only, no EXPORT and DUMP (showmount), no portmapper.
package v3ro
