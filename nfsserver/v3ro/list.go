package v3ro

import (
	"encoding/binary"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

// Cookies of "." and "..", which the vfs does not use.
const (
	cookieDot    = 1
	cookieDotDot = 2
)

const (
	// listingHead and listingTail are what a listing has besides its entries: status, post_op_attr and verifier; no more entries, end.
	listingHead = 4 + 4 + fattrSize + 8
	listingTail = 4 + 4
	// entryFixed is what an entry of READDIR has besides its name: that there is one, file id, length of the name, cookie.
	entryFixed = 4 + 8 + 4 + 8
	// maxPage bounds the entries asked of the vfs at once.
	maxPage = 512
)

func be32(b []byte, at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
func be64(b []byte, at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }

// listing is the reply of READDIR or READDIRPLUS that is being made.
type listing struct {
	c       *call
	plus    bool
	search  bool // the caller may look at the entries' attributes
	room    int  // bytes left
	dirRoom int  // of READDIRPLUS: bytes left of what is counted without attributes and handles
	n       int
	full    bool
}

// list answers READDIR and READDIRPLUS (RFC 1813, 3.3.16, 3.3.17).
func (c *call) list(a *args) status {
	if !c.attr.IsDir() {
		return stNotDir
	}
	l := listing{c: c, plus: c.req.Proc == procReadDirPlus, search: c.attr.Permits(&c.cred, vfs.AccessExec)}
	l.room = int(min(a.count, maxListing)) - listingHead - listingTail
	l.dirRoom = l.room
	if l.plus && a.dirCount > 0 {
		l.dirRoom = int(min(a.dirCount, maxListing))
	}
	b := xdr.AppendUint32(c.req.Reply.B, uint32(stOK))
	b = appendPostOp(b, &c.attr, c.fsid)
	c.req.Reply.B = xdr.AppendUint64(b, 0) // cookies are good for as long as the directory is
	eof, st := l.entries(a.offset)
	if st != stOK {
		return st
	}
	if l.n == 0 && l.full {
		return stTooSmall
	}
	c.req.Reply.B = xdr.AppendBool(xdr.AppendBool(c.req.Reply.B, false), eof && !l.full)
	return stOK
}

// entries adds what comes after a cookie.
func (l *listing) entries(cookie uint64) (eof bool, st status) {
	c := l.c
	if cookie < cookieDot {
		if !l.add(cookieDot, ".", c.attr.Ino, &c.attr) {
			return false, stOK
		}
	}
	if cookie < cookieDotDot {
		up := c.attr.Ino
		if a, st := c.parent(); st == stOK {
			up = a.Ino
		}
		if !l.add(cookieDotDot, "..", up, nil) {
			return false, stOK
		}
	}
	if cookie <= cookieDotDot {
		cookie = 0
	}
	for {
		page, err := c.export.FS.ReadDir(c.ctx, &c.cred, c.attr.Ino, cookie, l.pageSize(), l.plus)
		if err != nil {
			return false, statusOf(err)
		}
		for i := range page.Entries {
			e := &page.Entries[i]
			if !l.add(e.Cookie, e.Name, e.Ino, e.Attr) {
				return false, stOK
			}
			cookie = e.Cookie
		}
		if page.EOF || len(page.Entries) == 0 {
			return page.EOF, stOK
		}
		if l.n > 2 { // a page is enough for a reply
			return false, stOK
		}
	}
}

// pageSize is how many entries with short names fit.
func (l *listing) pageSize() int {
	const name = 8
	size := entryFixed + name
	if l.plus {
		size += 4 + fattrSize + 4 + 4 + maxHandle
	}
	return max(1, min(l.room/size, l.dirRoom/(entryFixed+name), maxPage))
}

// add appends one entry unless it exceeds the limits.
func (l *listing) add(cookie uint64, name string, ino vfs.Ino, a *vfs.Attr) bool {
	r := &l.c.req.Reply
	at := len(r.B)
	b := xdr.AppendBool(r.B, true)
	b = xdr.AppendUint64(b, uint64(ino))
	b = xdr.AppendString(b, name)
	b = xdr.AppendUint64(b, cookie)
	hint := len(b) - at
	if l.plus {
		if a != nil && (!l.search || !l.c.inside(a)) {
			a = nil
		}
		b = appendPostOp(b, a, l.c.fsid)
		b = xdr.AppendBool(b, a != nil)
		if a != nil {
			b = xdr.AppendOpaque(b, l.c.handleOf(ino))
		}
	}
	r.B = b[:at]
	if len(b)-at > l.room || hint > l.dirRoom && l.n > 0 {
		l.full = true
		return false
	}
	r.B = b
	l.room -= len(b) - at
	l.dirRoom -= hint
	l.n++
	return true
}
