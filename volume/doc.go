// Package volume is vfs.FS over the cluster: names and attributes live in a
// namespace shard of the replicated metadata, bytes in erasure-coded blocks, and
// what is not yet durable in this gateway's memory.
//
// # Inodes
//
// The table has an entry for every inode that is open, leased, dirty or was
// lately used here; it is bounded, and idle entries give their lease back when
// they are evicted. Attributes of an inode without a lease are asked from the
// metadata every time. The write lease licenses this gateway to be the only one
// that changes data, and so to keep attributes, extents and dirty bytes. What
// the metadata says of a leased inode is overlaid with what it does not know yet:
//
//   - size, mtime, ctime and the fall of setuid bits, from buffered writes;
//   - change: each buffered write takes the next value of the range that the lease
//     reserves. Every command that tells the metadata about the inode carries the
//     newest value shown. If the gateway dies, the state machine continues after
//     the reserved range, so a value never names two contents.
//
// # Writes
//
// Dirty bytes lie in pieces: contiguous runs that never cross a multiple of
// 4 MiB, in pooled buffers. A chunk (4 MiB of a file) is flushed when it is full,
// by Commit and stable writes, when it is old, and under memory pressure; its
// pieces are then immutable and new writes go to new pieces, so that a reader
// looks at pieces, then at pieces being flushed, then at extents. A flush writes
// each piece as one block (or, if all that is flushed fits 4 KiB, or somebody waits for it and it is a few pieces that do, as inline
// pages; many pieces with little between them are joined first, see bridge.go), and when all shards are durable hands the extents to the inode's
// committer. There is at most one CommitData command of an inode under way, with all
// extents that were ready, so change and times never run backwards; commands of
// several inodes are joined by the metadata client. Where several callers sync an inode again and again, the committer waits a moment for all
// of them (gathering). Only then the buffers
// go. Writers wait while the dirty limit is reached.
//
// The id of a block is held from when it is taken until no write with it is under way or will begin and no command
// that brings it is under way. A range of ids that is used up, or from which for its age no more ids are taken, and of which none is
// held goes back to the metadata, at a clean shutdown every other one too: what is in no file then is dead, such as the shards of
// attempts that were given up. No id of a range that went back is ever written or committed.
//
// A flush that cannot succeed for now is retried as long as the volume is
// open; callers that wait for it get KindUnavailable after a while. One that will
// never succeed (fenced), or finds no space in a full pool for FullTimeout, loses its bytes: the inode's verifier changes and
// the next Write or Commit of it returns the error once.
//
// # Several gateways
//
// Where other gateways serve the file system too (Config.Want, feature level 6), whoever has a lease alone is asked for it before anybody else changes
// anything of the file: a command that meets such a lease has not been done, and is sent again after the wish (apply). GiveBack is the other side. It keeps writes out, flushes, and
// forgets what it knows of the file before the metadata is told, so that no read finds here what may be old. If clients of both sides have the file open for
// writing, the lease becomes a shared one: each write goes to blocks and into a command at once, is answered as stable, and nothing is kept. Writes of this gateway that
// overlap go one after the other, each until its outcome is known, so that none is overtaken by one that its client has given up. Who makes many changes and sees none by
// others asks for the file alone again.
//
// # Calls
//
// A WRITE takes effect once, whoever is asked for it how often (decision 85). Commits name the calls whose bytes they carry, and the shard remembers the parts of files that were
// written for each. A call that may have been done before, all of it or a part (vfs.Call.Repeated), is asked for there, and only what is missing is written:
// under the lease of the epoch that the answer was true for, with everything flushed that was buffered before; or, in a shared file, by a command that does nothing if it was done meanwhile. A
// call whose slot has had its next request is not named. Nothing is buffered, or sent, for a client that another gateway may serve by now. From the moment that a byte of a call may
// become part of the file the call is Begun, and must not be answered as if nothing had happened.
//
// # Quotas
//
// Where there is a limit of bytes, for the file system or the file's project, a write is accepted only with a hold on what
// it may add to the file at most (see allotments), out of what the metadata has reserved for this gateway within the limit. So EDQUOT
// comes with the write, which then stores a first part, down to a page, and never with the flush or Commit. Before it is
// given, what is buffered is flushed, so that holds become what they really add.
//
// # Folding
//
// What flushes left of a chunk in the metadata, or in many pieces, is remembered (Fragment), a bounded number, for package
// rewrite to put it into one block when it was not written for a while. Extents that are cached here then name what was there before:
// the same bytes, and a block that is gone is asked for again, as below.
//
// # Extended attributes
//
// They live in the metadata only and are not cached. A change of one holds the inode's gate exclusively, against writes, but flushes
// nothing: what it answers as the change value before it is then the newest that was shown, with all writes before it
// and none after, so that a client which has seen that value may keep what it cached.
//
// # Size changes
//
// SetAttr holds the inode's gate exclusively, against writes: it first flushes
// what will remain, then names the lease epoch and the newest change in its command,
// and drops what was cut off after it succeeded. Nothing of the inode is flushed while the command is under way: it would come
// after it and bring back what was cut off.
//
// # Ranges
//
// Deallocate, Allocate and Clone hold the gate of the inode (of both, in the order of their numbers) exclusively, flush everything
// and then run commands that each do a bounded piece, so that no buffered byte comes after what should replace it. Seek
// asks the metadata where extents are and adds what is dirty; when the extents change meanwhile it asks again, and in the
// end keeps writers out for a moment. Reserved extents are known to the metadata only: here they are holes.
//
// # Reads
//
// A read takes one consistent picture under the inode's lock: dirty bytes are
// copied and the extents of the rest noted. Blocks are immutable, so they may be
// read afterwards; a block that is gone means that the extents are old, and they are
// asked again. Sequential streams are read ahead into a cache of block parts; advice (vfs.Advisor) begins a stream, or reads
// ahead or drops a range at once.
//
// # Times of access
//
// A read that moves atime (vfs.Attr.ReadAt) is noted in memory, shown by this gateway, and told to the metadata some seconds later,
// many inodes in one command. It is decided again there, so neither a late nor a repeated one takes back what was set since.
//
// # Opens and locks of clients
//
// With Config.Keep the volume is a vfs.Keeper: what has to outlive this gateway of a client's opens and locks is recorded at the
// shard, by the command that opens the file. The table has a copy of what is recorded, and the shares that are not, of files open here; an open that
// is recorded as it is costs no command. Opens for reading have no record until they are a second or two old, or their file is
// removed (loose.go). Ends of opens that nobody waits for go together, a little later (closings). Commands that change
// what a user sees carry the NFS call of their context, so that a repeated one has the outcome of the first.
//
// # Unlinked files
//
// Remove and Rename name the files open here, which the metadata then keeps for
// this gateway until the last Close. An Open that finds removals under way which
// did not know about it waits for them before it says the file is open, and fails if one of them took the last name and the file is not kept for it. An open that is recorded keeps its file by itself, whatever
// becomes of the gateway; those that are not yet are when their file loses its last name.
//
// # Copies in the background
//
// A copy that goes on without its client's request writes by Fill (fill.go), which passes by the buffers: blocks in any order, commands one after the other, each once for a
// call of its own. So at any time the metadata knows one range of it, and whoever ends the call (Fence) knows how far it came.
package volume
