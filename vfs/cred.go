package vfs

import "slices"

// MaxGroups bounds the supplementary groups of a Cred (AUTH_SYS allows 16; an
// identity service may give more).
const MaxGroups = 1024

// Cred is who asks, after the export's squash rules.
type Cred struct {
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary
}

// Root is the superuser.
var Root = Cred{}

// IsRoot reports whether permission bits do not bind c.
func (c *Cred) IsRoot() bool { return c.UID == 0 }

// InGroup reports whether c is a member of gid.
func (c *Cred) InGroup(gid uint32) bool {
	return c.GID == gid || slices.Contains(c.Groups, gid)
}

// Access is a set of wanted permissions.
type Access uint8

const (
	AccessExec  Access = 1 << iota // execute a file, search a directory
	AccessWrite                    // write a file, change a directory's entries
	AccessRead                     // read a file, list a directory
)

// Permits reports whether a's mode lets c do everything in want. Root may do
// all except execute a file without any x bit (POSIX.1-2017, 4.5).
func (a *Attr) Permits(c *Cred, want Access) bool {
	if c.IsRoot() {
		return want&AccessExec == 0 || a.IsDir() || a.Mode&0o111 != 0
	}
	var bits uint32
	switch {
	case c.UID == a.UID:
		bits = a.Mode >> 6
	case c.InGroup(a.GID):
		bits = a.Mode >> 3
	default:
		bits = a.Mode
	}
	return uint32(want)&^(bits&7) == 0
}

// CheckAccess is Permits as an error of kind KindAccess.
func (a *Attr) CheckAccess(c *Cred, want Access, op string) error {
	if a.Permits(c, want) {
		return nil
	}
	return KindAccess.Err(op)
}

// CheckSticky enforces the restricted deletion rule: in a directory with the
// sticky bit only the owner of the entry, of the directory, or root may remove
// or rename an entry.
func CheckSticky(c *Cred, dir, entry *Attr, op string) error {
	if dir.Mode&ModeSticky == 0 || c.IsRoot() || c.UID == entry.UID || c.UID == dir.UID {
		return nil
	}
	return KindPerm.Err(op)
}

// CheckSetAttr enforces who may change which attribute of a (POSIX chmod,
// chown, utimensat, truncate). opened says that the caller holds the file open
// for writing, which replaces the write permission check for Size.
func CheckSetAttr(c *Cred, a *Attr, s *SetAttr, opened bool, op string) error {
	owner := c.IsRoot() || c.UID == a.UID
	if s.Mode != nil && !owner {
		return KindPerm.Err(op)
	}
	if s.UID != nil && *s.UID != a.UID && !c.IsRoot() {
		return KindPerm.Err(op)
	}
	// Naming the present owner is allowed to the owner only, as chown(2) is.
	if s.UID != nil && !owner {
		return KindPerm.Err(op)
	}
	if s.GID != nil && !c.IsRoot() && (!owner || (*s.GID != a.GID && !c.InGroup(*s.GID))) {
		return KindPerm.Err(op)
	}
	if (s.AtimeSet == TimeClient || s.MtimeSet == TimeClient || s.Btime != nil) && !owner {
		return KindPerm.Err(op)
	}
	if (s.AtimeSet == TimeServer || s.MtimeSet == TimeServer) && !owner {
		if err := a.CheckAccess(c, AccessWrite, op); err != nil {
			return err
		}
	}
	if s.Size != nil {
		switch a.Type {
		case TypeFile:
		case TypeDir:
			return KindIsDir.Err(op)
		default:
			return KindInvalid.Err(op)
		}
		if *s.Size > MaxSize {
			return KindTooBig.Err(op)
		}
		if !opened {
			if err := a.CheckAccess(c, AccessWrite, op); err != nil {
				return err
			}
		}
	}
	return nil
}

// ModeAfterChown is the mode once owner or group were given by c: setuid and
// setgid of anything but a directory fall, setgid only where the group may
// execute (a setgid bit without group execute marks mandatory locking).
func ModeAfterChown(a *Attr) uint32 {
	if a.Type == TypeDir {
		return a.Mode
	}
	return dropSetID(a.Mode)
}

// ModeAfterWrite is the mode after c wrote to or truncated the file: setuid
// and setgid fall unless c is root.
func ModeAfterWrite(c *Cred, a *Attr) uint32 {
	if c.IsRoot() || a.Type != TypeFile {
		return a.Mode
	}
	return dropSetID(a.Mode)
}

func dropSetID(mode uint32) uint32 {
	mode &^= ModeSetuid
	if mode&0o010 != 0 {
		mode &^= ModeSetgid
	}
	return mode
}

// ModeAfterChmod is the mode that results when c asks for want: a caller who
// is not root and not in the file's group cannot set setgid on a non-directory.
func ModeAfterChmod(c *Cred, a *Attr, want uint32) uint32 {
	want &= ModeMask
	if !c.IsRoot() && a.Type != TypeDir && !c.InGroup(a.GID) {
		want &^= ModeSetgid
	}
	return want
}

// NewNode is the group and mode of an inode that c makes in dir with mode:
// a setgid directory passes on its group, and its bit to directories.
func NewNode(c *Cred, dir *Attr, t Type, mode uint32) (gid, newMode uint32) {
	mode &= ModeMask
	if dir.Mode&ModeSetgid == 0 {
		gid = c.GID
	} else {
		gid = dir.GID
		if t == TypeDir {
			mode |= ModeSetgid
		}
	}
	if t != TypeDir && mode&ModeSetgid != 0 && !c.IsRoot() && !c.InGroup(gid) {
		mode &^= ModeSetgid
	}
	return gid, mode
}

// CheckName refuses what cannot be a directory entry.
func CheckName(name, op string) error {
	if len(name) > NameMax {
		return KindNameTooLong.Err(op)
	}
	if name == "" || name == "." || name == ".." {
		return Errorf(KindBadName, op, "%q", name)
	}
	for i := 0; i < len(name); i++ {
		if name[i] == '/' || name[i] == 0 {
			return Errorf(KindBadName, op, "%q", name)
		}
	}
	return nil
}
