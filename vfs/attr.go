package vfs

import "time"

// Ino is an inode number: unique in its file system for all time. 0 is none.
type Ino uint64

// RootIno is the inode of every file system's root directory.
const RootIno Ino = 1

// Type is what an inode is. Values are stable on disk and on the wire.
type Type uint8

const (
	TypeNone Type = iota
	TypeFile
	TypeDir
	TypeSymlink
	TypeBlock
	TypeChar
	TypeFIFO
	TypeSocket
)

func (t Type) String() string {
	names := [...]string{"none", "file", "directory", "symlink", "block device", "character device", "fifo", "socket"}
	if int(t) < len(names) {
		return names[t]
	}
	return "unknown type"
}

// Limits of names and sizes, enforced by every implementation.
const (
	NameMax    = 255       // bytes of one name
	SymlinkMax = 4095      // bytes of a symlink's target
	LinkMax    = 65000     // hard links of one inode
	MaxSize    = 1<<63 - 1 // bytes of a file: 8 EiB - 1
	ModeMask   = 0o7777    // permission, setuid, setgid and sticky bits
)

// Mode bits beyond rwx.
const (
	ModeSetuid = 0o4000
	ModeSetgid = 0o2000
	ModeSticky = 0o1000
)

// Dev is a device number of a block or character special file.
type Dev struct{ Major, Minor uint32 }

// Attr are the attributes of an inode.
type Attr struct {
	Ino     Ino
	Type    Type
	Mode    uint32 // ModeMask bits only
	Nlink   uint32
	UID     uint32
	GID     uint32
	Size    uint64 // bytes
	Used    uint64 // bytes allocated, before erasure coding
	Dev     Dev
	Project uint32 // project (directory quota) id, 0 = none
	Change  uint64 // grows with every change, never reused
	Atime   time.Time
	Mtime   time.Time
	Ctime   time.Time
	Btime   time.Time // birth
}

// IsDir reports whether the inode is a directory.
func (a *Attr) IsDir() bool { return a.Type == TypeDir }

// TimeSet says what a SetAttr does to one time.
type TimeSet uint8

const (
	TimeKeep   TimeSet = iota
	TimeServer         // set to the server's clock; needs only write permission
	TimeClient         // set to the given value; needs ownership
)

// SetAttr names the attributes to change; nil and TimeKeep leave them alone.
type SetAttr struct {
	Mode     *uint32
	UID, GID *uint32
	Size     *uint64
	AtimeSet TimeSet
	MtimeSet TimeSet
	Atime    time.Time
	Mtime    time.Time
	Btime    *time.Time
}

// Empty reports whether s changes nothing.
func (s *SetAttr) Empty() bool {
	return s.Mode == nil && s.UID == nil && s.GID == nil && s.Size == nil &&
		s.AtimeSet == TimeKeep && s.MtimeSet == TimeKeep && s.Btime == nil
}

// DirChange is a directory's Change before and after an operation on it, read
// atomically with the operation (NFSv4 change_info4).
type DirChange struct{ Before, After uint64 }

// Dirent is one entry of a directory listing. Cookie continues the listing
// after this entry; it is stable for the life of the entry, never 0, 1 or 2,
// and below 2^63. Attr is nil unless asked for, or when the entry's inode
// vanished meanwhile.
type Dirent struct {
	Cookie uint64
	Name   string
	Ino    Ino
	Type   Type
	Attr   *Attr
}

// StatFS are the totals of a file system or of a project in it; bytes are before erasure coding. Free is what
// limits and, of the file system's pool, disks leave.
type StatFS struct {
	TotalBytes, FreeBytes, AvailBytes uint64
	TotalFiles, FreeFiles             uint64
	UsedBytes, UsedFiles              uint64
}
