// Package files does with paths in a file system what the HTTP API offers: look, list, make, move, remove, read, and write whole files that appear complete or
// not at all. It works on a vfs.FS, so it sees what NFS clients see, at once, and its changes are theirs.
//
// # Paths
//
// A path is absolute bytes: "/a/b". Path refuses ".", "..", NUL, empty parts, names over 255 bytes and paths over 4096. Names are bytes, not text: what is
// not UTF-8 is as good as anything.
//
// Symbolic links are never followed: a path that leads over one is refused. Links are made by NFS clients, who may point them anywhere, also out of
// what a token is for, and between a check and its use they may change. So whether a path is below a prefix is decided by its text. A hard link
// is another name of a file, and who may use one of the names may use the file.
//
// # Uploads
//
// What is being written is a file in the hidden directory of its project (vfs.StagingIno), which no listing shows and no path leads to. It is charged as any
// other file. When all has come and is durable, and length and digest are right, one Rename puts it under its name, in place of a file that has it,
// or one Link if that must not be. So whoever looks sees the old file, or the new one whole.
//
// What a crash leaves in the hidden directory is found by its name, without clocks: "p-ORIGIN-RANDOM" was written by a gateway as that origin of its shard, and is
// garbage once that origin has ended; "u-ID" belongs to an upload in pieces, whose record in shard 0 is made before the file: it is garbage if there is
// no record. Collect looks the records up after it has listed the names. A record of all bytes without its file says that the file is at its place, so
// whoever gives an upload up removes the record first. A record of all bytes that has its file still, and is not done, is of one that could not be put to its place: Append does it.
package files
