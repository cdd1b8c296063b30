// Package export is the export policy: which file systems (or directories of
// them) are offered under which path, to which clients, and as whom a client's
// users act there.
//
// A [Table] is an immutable snapshot of all exports together with the pseudo
// file system that joins them: the read-only tree of directories from the
// server's root to each export's path. A [Set] holds the current table and
// swaps it whole, so that a request sees one policy from start to end.
//
// # Rules
//
// An export's rules are tried in order; the first whose prefix contains the
// client's address decides. No rule: the export does not exist for that client,
// neither in listings nor by handle.
//
// An export may name groups. Then only callers who say, in their AUTH_SYS credentials, that they are in one of them may use it. This is as
// strong as AUTH_SYS is: it keeps users of machines with an honest root apart, not machines. Root itself, whom a client's kernel
// mounts as, may look up names and attributes where it is squashed, and everything where it is not.
//
// The policy is applied to every use of a handle, not when it is handed out:
// taking a client off an export ends its access at the next request.
//
// A pseudo directory is visible to a client that may use some export below it.
// Crossing from a pseudo directory into an export's root changes fsid; the
// root's mounted_on_fileid is the id of the pseudo node it covers. The parent of
// an export's root is the pseudo directory above, never a directory of the
// file system, so a sub-directory export ends at its root.
//
// An export of a directory is only a place to begin by itself: whoever has a handle of a file elsewhere in the file system can
// use it. A secured export (Project) is closed: a handle used through it must name an inode of its
// project, as file names never cross the borders of a project. It may lie below the export of the whole file system, for clients
// that may not use that: they see pseudo directories down to it.
//
// Ids of pseudo directories are hashes of their paths, hence the same at every
// gateway and after every change of the table.
package export
