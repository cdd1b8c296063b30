package vfstest

import "github.com/rackfs/rackfs/vfs"

// Bounds are those of an implementation that stands on a file system of the operating system: narrower than what package vfs
// allows. Zero fields are the latter's.
type Bounds struct {
	MaxSize     uint64 // bytes of a file
	XattrName   int    // bytes of the name of an extended attribute
	XattrValue  int    // bytes of its value
	NoBtime     bool   // birth times cannot be set
	NoClone     bool   // Clone is KindNotSupported
	ReadIsData  bool   // what was allocated and read is data for Seek, though nobody wrote it
	LinuxLinks  bool   // the mode of a symlink cannot be changed, and to read one moves its time of access
	DirSize     bool   // directories have sizes
	SharedSpace bool   // others use the space that StatFS tells of
	Symlink     int    // bytes of the target of a symlink
	DevMinor    uint32 // minor number of a device
	OneLink     bool   // a directory has one link, whatever is in it
	Ahead       bool   // more space may be allocated to a file than was written
	TornReads   bool   // a read beside writes of the same bytes may see parts of several
	ClonePages  bool   // a clone that does not end with a page ends with both files, else KindInvalid
}

// Bounded is an implementation that has such bounds.
type Bounded interface{ Bounds() Bounds }

func boundsOf(fs vfs.FS) Bounds {
	var b Bounds
	if x, ok := fs.(Bounded); ok {
		b = x.Bounds()
	}
	if b.MaxSize == 0 {
		b.MaxSize = vfs.MaxSize
	}
	if b.Symlink == 0 {
		b.Symlink = vfs.SymlinkMax
	}
	if b.DevMinor == 0 {
		b.DevMinor = 1<<20 - 1
	}
	if b.XattrName == 0 {
		b.XattrName = vfs.XattrNameMax
	}
	if b.XattrValue == 0 {
		b.XattrValue = vfs.XattrValueMax
	}
	return b
}
