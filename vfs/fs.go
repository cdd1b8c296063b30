package vfs

import "context"

// Exclusive says what Create does when the name exists.
type Exclusive uint8

const (
	Unchecked  Exclusive = iota // open what exists (O_CREAT)
	Guarded                     // fail with KindExists (O_CREAT|O_EXCL)
	ByVerifier                  // succeed only if it was created with the same Verifier (NFSv4 EXCLUSIVE4, EXCLUSIVE4_1)
)

// OpenFlags say what an open file is used for.
type OpenFlags uint8

const (
	OpenRead OpenFlags = 1 << iota
	OpenWrite
)

// Stable says when a Write is durable.
type Stable uint8

const (
	Unstable Stable = iota // after Commit
	DataSync               // when Write returns, with the metadata needed to read it back
	FileSync               // when Write returns, with all attributes
)

// Verifier changes whenever Unstable writes may have been lost since a client
// saw it (RFC 8881, 18.32): the client then sends them again.
type Verifier [8]byte

// CreateArgs are the arguments of FS.Create.
type CreateArgs struct {
	Exclusive Exclusive
	Verifier  [8]byte   // of Exclusive == ByVerifier
	Attr      SetAttr   // initial attributes; Mode nil means 0; Size 0 truncates what exists (Unchecked)
	Open      OpenFlags // open the file in the same step
	Share     *Share    // of Open, at a Keeper: as in OpenShared
}

// Created is what making an entry returns.
type Created struct {
	Attr Attr
	Dir  DirChange
	New  bool // false: the file existed (Unchecked), or is the one of an earlier try (ByVerifier)

	// State is that of CreateArgs.Share as it is kept: of a repeated call, the one that came first.
	State StateID
}

// NodeArgs are the arguments of FS.MakeNode.
type NodeArgs struct {
	Type   Type
	Target string // of a symlink
	Dev    Dev    // of a device
	Attr   SetAttr
}

// DirPage is one page of a listing.
type DirPage struct {
	Entries []Dirent
	EOF     bool
	Dir     Attr // of the directory itself
}

// RemoveKind restricts what Remove takes away.
type RemoveKind uint8

const (
	RemoveAny  RemoveKind = iota // file or empty directory (NFSv4 REMOVE)
	RemoveFile                   // unlink(2)
	RemoveDir                    // rmdir(2)
)

// FS is one file system. See the package comment for the rules that hold for
// every method.
type FS interface {
	// StatFS returns totals, what is used and what is free where an inode is: in its project, as far as that
	// has limits, else in the file system. For RootIno it is always the file system.
	StatFS(ctx context.Context, ino Ino) (StatFS, error)

	// GetAttr returns an inode's attributes. KindStale if it does not exist.
	GetAttr(ctx context.Context, ino Ino) (Attr, error)

	// SetAttr changes attributes and returns the new ones. opened: see
	// CheckSetAttr.
	SetAttr(ctx context.Context, c *Cred, ino Ino, s SetAttr, opened bool) (Attr, error)

	// Lookup finds name in dir (needs search permission on dir).
	Lookup(ctx context.Context, c *Cred, dir Ino, name string) (Attr, error)

	// Parent returns the directory that holds directory dir. The root's
	// parent is the root.
	Parent(ctx context.Context, c *Cred, dir Ino) (Attr, error)

	// ReadDir lists dir from after cookie (0: from the start), at most
	// maxEntries, with attributes if wanted. An entry that exists during the
	// whole listing is returned exactly once, whatever comes and goes.
	ReadDir(ctx context.Context, c *Cred, dir Ino, cookie uint64, maxEntries int, attrs bool) (DirPage, error)

	// ReadLink returns a symlink's target.
	ReadLink(ctx context.Context, ino Ino) (string, error)

	// Create makes or opens a regular file.
	Create(ctx context.Context, c *Cred, dir Ino, name string, a CreateArgs) (Created, error)

	// MakeNode makes anything but a regular file.
	MakeNode(ctx context.Context, c *Cred, dir Ino, name string, a NodeArgs) (Created, error)

	// Link gives ino another name.
	Link(ctx context.Context, c *Cred, ino, dir Ino, name string) (Attr, DirChange, error)

	// Remove drops a name.
	Remove(ctx context.Context, c *Cred, dir Ino, name string, what RemoveKind) (DirChange, error)

	// Rename moves a name, replacing the target as rename(2) does.
	Rename(ctx context.Context, c *Cred, fromDir Ino, from string, toDir Ino, to string) (fromChange, toChange DirChange, err error)

	// Open prepares a regular file for Read (and Write), checking
	// permission, and returns its attributes. The owner of a file may always open
	// it if override is set (an NFS client that created a file 0444 writes to it;
	// RFC 8881, 18.16 leaves it to the server). Every successful Open, and
	// Create with Open set, is paired with one Close with the same flags.
	Open(ctx context.Context, c *Cred, ino Ino, f OpenFlags, override bool) (Attr, error)

	// Close ends an Open. It does not make data durable.
	Close(ctx context.Context, ino Ino, f OpenFlags) error

	// Read fills p from offset off. n < len(p) only at end of file; eof says
	// that off+n is at or past it. Holes read as zeros.
	Read(ctx context.Context, ino Ino, off uint64, p []byte) (n int, eof bool, err error)

	// Write stores p at off. p may be reused when it returns. c clears setuid
	// and setgid bits as POSIX says. It returns how stable the data is, at
	// least as asked. With a *ShortWrite error a first part was stored, and what is returned beside it is true of that.
	// Unstable bytes that were accepted are not refused later for want of quota.
	Write(ctx context.Context, c *Cred, ino Ino, off uint64, p []byte, s Stable) (Stable, Verifier, error)

	// Commit makes earlier Unstable writes of the range durable (n 0: to the
	// end of the file). A changed Verifier tells that some were lost.
	Commit(ctx context.Context, ino Ino, off, n uint64) (Verifier, error)
}
