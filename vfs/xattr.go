package vfs

import (
	"context"
	"strings"
)

// Limits of extended attributes. Names are those of Linux's name space "user", without that prefix.
const (
	XattrNameMax  = 255      // bytes of one name
	XattrValueMax = 64 << 10 // bytes of one value
	XattrsMax     = 1024     // attributes of one inode
	XattrBytesMax = 1 << 20  // names and values of one inode together

	// XattrListMax bounds the names of one inode as listxattr(2) returns them, each with its prefix and a NUL: Linux
	// lists no more than that.
	XattrListMax  = 64 << 10
	XattrListCost = len("user.") + 1 // of each name, besides itself
)

// XattrHow says what SetXattr does when the attribute exists, and when it does not.
type XattrHow uint8

const (
	XattrEither  XattrHow = iota // make or replace it
	XattrCreate                  // KindExists if it exists (XATTR_CREATE)
	XattrReplace                 // KindNoAttr if it does not (XATTR_REPLACE)
)

// XattrName is one extended attribute in a listing. Cookie continues the listing after it: it is never 0 and stays the
// attribute's own until that is removed.
type XattrName struct {
	Cookie uint64
	Name   string
}

// XattrPage is one page of a listing.
type XattrPage struct {
	Names []XattrName
	EOF   bool
}

// Xattrs is an FS whose files and directories have extended attributes: small values under a name, which belong to the
// inode, whatever its names. CheckXattr says who may do what,
// CheckXattrValue and CheckXattrSet what may be set. A change of them moves Change
// and Ctime. KindNotSupported: the file system has none, at least not yet.
type Xattrs interface {
	// GetXattr returns a value. KindNoAttr if there is none of that name.
	GetXattr(ctx context.Context, c *Cred, ino Ino, name string) ([]byte, error)

	// SetXattr sets a value and returns the inode's Change before and after.
	SetXattr(ctx context.Context, c *Cred, ino Ino, name string, value []byte, how XattrHow) (DirChange, error)

	// RemoveXattr removes an attribute and returns the inode's Change before and after.
	RemoveXattr(ctx context.Context, c *Cred, ino Ino, name string) (DirChange, error)

	// ListXattrs lists names from after cookie (0: from the start), at most maxBytes of them, but at least one. An
	// attribute that exists during the whole listing is returned exactly once, whatever comes and goes.
	ListXattrs(ctx context.Context, c *Cred, ino Ino, cookie uint64, maxBytes int) (XattrPage, error)
}

// CheckXattrName refuses what cannot be the name of an extended attribute.
func CheckXattrName(name, op string) error {
	switch {
	case len(name) > XattrNameMax:
		return KindNameTooLong.Err(op)
	case name == "" || strings.IndexByte(name, 0) >= 0:
		return Errorf(KindBadName, op, "%q", name)
	}
	return nil
}

// CheckXattrValue refuses what cannot be set, whatever there is.
func CheckXattrValue(value []byte, how XattrHow, op string) error {
	switch {
	case how > XattrReplace:
		return Errorf(KindInvalid, op, "way %d to set", how)
	case len(value) > XattrValueMax:
		return Errorf(KindTooBig, op, "a value of %d bytes, at most %d", len(value), XattrValueMax)
	}
	return nil
}

// CheckXattr enforces who may read (AccessRead) or change (AccessWrite) the extended attributes of a, as xattr(7) says of
// the name space "user": permission bits of other types than regular files and directories mean something else, and a
// sticky directory is one that everybody may write to.
func CheckXattr(c *Cred, a *Attr, want Access, op string) error {
	if !a.hasXattrs() {
		if want&AccessWrite != 0 {
			return Errorf(KindPerm, op, "a %s has no extended attributes", a.Type)
		}
		return KindNoAttr.Err(op)
	}
	if want&AccessWrite != 0 && a.IsDir() && a.Mode&ModeSticky != 0 && !c.IsRoot() && c.UID != a.UID {
		return KindPerm.Err(op)
	}
	return a.CheckAccess(c, want, op)
}

// CheckXattrList is CheckXattr for listings. What can have no attributes lists none.
func CheckXattrList(c *Cred, a *Attr, op string) error {
	if !a.hasXattrs() {
		return nil
	}
	return a.CheckAccess(c, AccessRead, op)
}

func (a *Attr) hasXattrs() bool { return a.Type == TypeFile || a.Type == TypeDir }

// XattrTotals count the extended attributes of an inode.
type XattrTotals struct{ Count, NameBytes, ValueBytes int }

// Replace is t with an attribute of that name and new value. old is the length of its present value, negative if it is new.
func (t XattrTotals) Replace(name string, old, value int) XattrTotals {
	if old < 0 {
		t.Count++
		t.NameBytes += len(name)
		old = 0
	}
	t.ValueBytes += value - old
	return t
}

// Remove is t without an attribute.
func (t XattrTotals) Remove(name string, old int) XattrTotals {
	return XattrTotals{t.Count - 1, t.NameBytes - len(name), t.ValueBytes - old}
}

// CheckXattrSet refuses to set an attribute that exists or not (exists), for how, or after which there would be too much of them:
// then are the totals after it.
func CheckXattrSet(then XattrTotals, exists bool, how XattrHow, op string) error {
	switch {
	case exists && how == XattrCreate:
		return KindExists.Err(op)
	case !exists && how == XattrReplace:
		return KindNoAttr.Err(op)
	case then.Count > XattrsMax:
		return Errorf(KindNoSpace, op, "%d attributes, at most %d: remove some", then.Count, XattrsMax)
	case then.NameBytes+then.Count*XattrListCost > XattrListMax:
		return Errorf(KindNoSpace, op, "a list of names above %d bytes: remove some", XattrListMax)
	case then.NameBytes+then.ValueBytes > XattrBytesMax:
		return Errorf(KindNoSpace, op, "attributes above %d bytes in all: remove some", XattrBytesMax)
	}
	return nil
}
