// Package transfer moves files and trees of files between this machine and a file system, through the HTTP API.
//
// # How a tree is transferred
//
// One goroutine walks the source, directory by directory. For each it has the listing of both sides, asks Compare (pure) what there is to do, makes
// directories itself, and hands files to a bounded number of workers. So memory is bounded by the largest directory, not by the tree. What is to be deleted is remembered and
// done at the end, and only if everything else went well: what could not be read is never taken for missing.
//
// A file that fails is reported, counted, and the others go on. The transfer itself ends when nobody answers any more, or the token is refused.
//
// # One file
//
// Up: a small file is read whole, and sent in one request with its SHA-256. A large one is a resumable upload (tus), sent in pieces. In both cases it appears at its path
// whole or not at all. Down: the content goes into a file with the name of a part (isPart) beside the target, which is locked while it is written, and renamed
// when it is whole. What connections lose is sent again from where it broke off, some times.
//
// A file that changes while it is read is an error, not a mixture: by size and time here, by its ETag there.
//
// # Resuming
//
// Journal keeps, for each large file under way, what its next part needs: the address of the upload, or the ETag of what the part is of. It is found by what is
// transferred where (for an upload also size and time of the local file), so the same command finds it again. How much has come is never in the
// journal: the server says it of an upload, and the length of the part of a download, whose bytes are verified by a checksum of the server before
// they are used, since a part may be from before a crash of this machine.
//
// # Names and links
//
// Names are bytes. Nothing follows a symbolic link below the top of a tree: neither here, where an os.Root keeps all within the directory that was named, nor there. Links, devices and
// sockets are refused one by one, by name.
package transfer
