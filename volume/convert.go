package volume

import (
	"time"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Between package vfs and the metadata's messages.

func timeOf(t *metapb.Time) time.Time {
	if t == nil {
		return time.Unix(0, 0)
	}
	return time.Unix(t.Sec, int64(t.Nsec))
}

func pbTime(t time.Time) *metapb.Time {
	return &metapb.Time{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

func attrOf(a *metapb.Attr) vfs.Attr {
	if a == nil {
		return vfs.Attr{}
	}
	return vfs.Attr{
		Ino: vfs.Ino(a.Ino), Type: vfs.Type(a.Type), Mode: a.Mode, Nlink: a.Nlink, UID: a.Uid, GID: a.Gid,
		Size: a.Size, Used: a.Used, Dev: vfs.Dev{Major: a.DevMajor, Minor: a.DevMinor},
		Project: a.Project, Change: a.Change,
		Atime: timeOf(a.Atime), Mtime: timeOf(a.Mtime), Ctime: timeOf(a.Ctime), Btime: timeOf(a.Btime),
	}
}

func pbCred(c *vfs.Cred) *metapb.Cred {
	return &metapb.Cred{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
}

func pbSetAttr(s *vfs.SetAttr) *metapb.AttrSet {
	p := &metapb.AttrSet{
		Mode: s.Mode, Uid: s.UID, Gid: s.GID, Size: s.Size,
		AtimeSet: uint32(s.AtimeSet), MtimeSet: uint32(s.MtimeSet),
	}
	if s.AtimeSet == vfs.TimeClient {
		p.Atime = pbTime(s.Atime)
	}
	if s.MtimeSet == vfs.TimeClient {
		p.Mtime = pbTime(s.Mtime)
	}
	if s.Btime != nil {
		p.Btime = pbTime(*s.Btime)
	}
	return p
}

func dirChangeOf(c *metapb.DirChange) vfs.DirChange {
	return vfs.DirChange{Before: c.GetBefore(), After: c.GetAfter()}
}

// extentOf is e as a segment.
func extentOf(e *metapb.Extent) segment {
	s := segment{off: e.Offset, end: e.Offset + uint64(e.Length)}
	if e.Block != 0 {
		s.block = Block{ID: e.Block, PG: e.Pg, K: uint8(e.K), M: uint8(e.M), Len: e.BlockLength}
		s.blockOff = e.BlockOffset
	} else if s.reserved = e.Reserved; !s.reserved {
		s.inline = e.Inline
	}
	return s
}

// pbExtents are new extents for the metadata.
func pbExtents(exts []newExtent) []*metapb.NewExtent {
	out := make([]*metapb.NewExtent, len(exts))
	for i := range exts {
		s := &exts[i].seg
		out[i] = &metapb.NewExtent{
			Offset: s.off, Length: uint32(s.end - s.off), Inline: s.inline,
			Block: s.block.ID, Pg: s.block.PG, ProfileK: uint32(s.block.K), ProfileM: uint32(s.block.M),
		}
	}
	return out
}

// valid refuses an extent that no correct metadata gives, so that nothing
// behind it indexes out of range.
func validExtent(e *metapb.Extent) bool {
	if e.Length == 0 || e.Offset >= maxOffset || uint64(e.Length) > maxOffset-e.Offset {
		return false
	}
	if e.Block != 0 {
		return e.BlockLength <= chunkSize && uint64(e.BlockOffset)+uint64(e.Length) <= uint64(e.BlockLength)
	}
	if e.Reserved {
		return len(e.Inline) == 0
	}
	return len(e.Inline) == int(e.Length)
}

// errFor is the error of op for what the metadata answered. A busy lease is
// another gateway's: it will be recalled or expire, so the caller tries again.
func errFor(op string, err error) error {
	if vfs.KindOf(err) == vfs.KindBusy {
		return vfs.Errorf(vfs.KindUnavailable, op, "leased by another gateway: %w", err)
	}
	return vfs.Wrap(op, err)
}
