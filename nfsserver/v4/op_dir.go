package v4

import (
	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/internal/xdr"
	"github.com/rackfs/rackfs/vfs"
)

// opCreate is CREATE: everything but regular files (RFC 8881, 18.4).
func (c *compound) opCreate() status {
	var a vfs.NodeArgs
	switch t := nfsv4.NfsFtype4(c.d.Int32()); t {
	case nfsv4.NF4DIR:
		a.Type = vfs.TypeDir
	case nfsv4.NF4SOCK:
		a.Type = vfs.TypeSocket
	case nfsv4.NF4FIFO:
		a.Type = vfs.TypeFIFO
	case nfsv4.NF4LNK:
		a.Type = vfs.TypeSymlink
		a.Target = c.d.String(c.d.Len())
	case nfsv4.NF4BLK, nfsv4.NF4CHR:
		a.Type = vfs.TypeBlock
		if t == nfsv4.NF4CHR {
			a.Type = vfs.TypeChar
		}
		a.Dev.Major, a.Dev.Minor = c.d.Uint32(), c.d.Uint32()
	default:
		if c.d.Err() != nil {
			return nfsv4.NFS4ERR_BADXDR
		}
		return nfsv4.NFS4ERR_BADTYPE
	}
	name, st := c.decodeName()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	set, mask, attrSt := decodeSetAttr(&c.d, c.enc.supported, settable)
	if attrSt == nfsv4.NFS4ERR_BADXDR || st == nfsv4.NFS4_OK {
		st = attrSt
	}
	if st != nfsv4.NFS4_OK {
		return st
	}
	if a.Type == vfs.TypeSymlink {
		switch {
		case a.Target == "":
			return nfsv4.NFS4ERR_INVAL
		case len(a.Target) > vfs.SymlinkMax:
			return nfsv4.NFS4ERR_NAMETOOLONG
		}
	}
	if set.Size != nil {
		return nfsv4.NFS4ERR_INVAL // only regular files have a size to set
	}
	if st := c.needWritable(&c.cur); st != nfsv4.NFS4_OK {
		return st
	}
	if a.Type == vfs.TypeSymlink {
		mask.clear(nfsv4.FATTR4_MODE) // a symlink's mode is always 0777
	}
	a.Attr = set
	c.saved.hasAttr = false
	made, err := c.cur.export.FS.MakeNode(c.ctx, c.fsCred(), c.cur.ino, name, a)
	if err != nil {
		return c.typeStatus(&c.cur, true, statusOf(err, false))
	}
	c.r.B = appendChangeInfo(c.r.B, made.Dir)
	c.r.B = appendBitmap(c.r.B, mask)
	c.cur = c.sibling(&made.Attr)
	return nfsv4.NFS4_OK
}

// opRemove is REMOVE (RFC 8881, 18.25).
func (c *compound) opRemove() status {
	name, st := c.decodeName()
	if st != nfsv4.NFS4_OK {
		return st
	}
	if st := c.needWritable(&c.cur); st != nfsv4.NFS4_OK {
		return st
	}
	if c.s.cfg.State.InGrace(c.now) {
		return nfsv4.NFS4ERR_GRACE // the file may be open at a client that will reclaim it
	}
	end, st := c.renaming(entry{&c.cur, name})
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	c.changed()
	ch, err := c.cur.export.FS.Remove(c.ctx, c.fsCred(), c.cur.ino, name, vfs.RemoveAny)
	if err != nil {
		return c.typeStatus(&c.cur, true, statusOf(err, false))
	}
	c.r.B = appendChangeInfo(c.r.B, ch)
	return nfsv4.NFS4_OK
}

// pair checks that the saved and the current filehandle lie in one export, as
// RENAME and LINK need.
func (c *compound) pair() status {
	if !c.saved.set() {
		return nfsv4.NFS4ERR_NOFILEHANDLE
	}
	if c.saved.pseudo() != c.cur.pseudo() || (!c.cur.pseudo() && c.saved.export.ID != c.cur.export.ID) {
		return nfsv4.NFS4ERR_XDEV
	}
	return c.needWritable(&c.cur)
}

// opRename is RENAME (RFC 8881, 18.26).
func (c *compound) opRename() status {
	from, st := c.decodeName()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	to, st2 := c.decodeName()
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	if st == nfsv4.NFS4_OK {
		st = st2
	}
	if st != nfsv4.NFS4_OK {
		return st
	}
	if st := c.pair(); st != nfsv4.NFS4_OK {
		return st
	}
	if c.s.cfg.State.InGrace(c.now) {
		return nfsv4.NFS4ERR_GRACE
	}
	end, st := c.renaming(entry{&c.saved, from}, entry{&c.cur, to})
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	c.changed()
	source, target, err := c.cur.export.FS.Rename(c.ctx, c.fsCred(), c.saved.ino, from, c.cur.ino, to)
	if err != nil {
		return c.renameStatus(statusOf(err, false))
	}
	c.r.B = appendChangeInfo(c.r.B, source)
	c.r.B = appendChangeInfo(c.r.B, target)
	return nfsv4.NFS4_OK
}

// renameStatus is the status of a failed RENAME: for NOTDIR it finds out
// whether one of the two directories is a symlink.
func (c *compound) renameStatus(st status) status {
	if st != nfsv4.NFS4ERR_NOTDIR && st != nfsv4.NFS4ERR_WRONG_TYPE {
		return st
	}
	for _, o := range []*object{&c.saved, &c.cur} {
		if s := c.typeStatus(o, true, st); s == nfsv4.NFS4ERR_SYMLINK {
			return s
		}
	}
	return st
}

// opLink is LINK: the saved filehandle gets a name in the current one's
// directory (RFC 8881, 18.9).
func (c *compound) opLink() status {
	name, st := c.decodeName()
	if st != nfsv4.NFS4_OK {
		return st
	}
	if st := c.pair(); st != nfsv4.NFS4_OK {
		return st
	}
	end, st := c.changing(&c.saved)
	if st != nfsv4.NFS4_OK {
		return st
	}
	defer end()
	c.changed()
	a, ch, err := c.cur.export.FS.Link(c.ctx, c.fsCred(), c.saved.ino, c.cur.ino, name)
	if err != nil {
		st := statusOf(err, false)
		if st == nfsv4.NFS4ERR_NOTDIR || st == nfsv4.NFS4ERR_WRONG_TYPE {
			st = c.typeStatus(&c.cur, true, st)
		}
		return st
	}
	c.saved.attr, c.saved.hasAttr = a, true
	c.r.B = appendChangeInfo(c.r.B, ch)
	return nfsv4.NFS4_OK
}

// Sizes in bytes of what READDIR's result is made of.
const (
	dirHead  = 8 // cookieverf
	dirTail  = 8 // no further entry, eof
	minEntry = 4 + 8 + 4 + 4 + 4 + 4
)

// dirVerifier is the cookieverf4 of every directory.
const dirVerifier = 0x7261636b66730001

// maxDirPage bounds the entries asked of the vfs for one READDIR.
const maxDirPage = 8192

// listing fills one READDIR reply.
type listing struct {
	c        *compound
	want     bitmap
	src      attrSource
	room     int // bytes left of maxcount or of the reply
	dirRoom  int // bytes left of dircount; dirCount says whether it binds
	dirCount bool
	n        int    // entries added
	full     bool   // an entry did not fit
	plain    int    // bytes of an entry without a name, by pageSize
	asked    int    // clients that have an entry for writing
	st       status // of one that did not answer
}

// opReadDir is READDIR (RFC 8881, 18.23).
func (c *compound) opReadDir() status {
	cookie, verf := c.d.Uint64(), c.d.Uint64()
	dirCount, maxCount := c.d.Uint32(), c.d.Uint32()
	want := decodeBitmap(&c.d)
	if c.d.Err() != nil {
		return nfsv4.NFS4ERR_BADXDR
	}
	switch {
	case !want.and(writeOnly).empty():
		return nfsv4.NFS4ERR_INVAL
	case cookie == 1 || cookie == 2:
		return nfsv4.NFS4ERR_BAD_COOKIE // never given out (18.23.3)
	case cookie != 0 && verf != dirVerifier:
		return nfsv4.NFS4ERR_NOT_SAME
	}
	l := listing{c: c, want: want.and(c.enc.supported), dirRoom: int(dirCount), dirCount: dirCount != 0}
	room, tooBig := c.room()
	if int64(maxCount) <= int64(room) {
		room, tooBig = int(maxCount), nfsv4.NFS4ERR_TOOSMALL
	}
	l.room = room - dirHead - dirTail
	if l.room < 0 {
		return tooBig
	}
	c.r.B = xdr.AppendUint64(c.r.B, dirVerifier)
	var eof bool
	var st status
	if c.cur.pseudo() {
		eof, st = l.addPseudo(cookie)
	} else {
		eof, st = l.addEntries(cookie)
	}
	if st != nfsv4.NFS4_OK {
		return st
	}
	if l.n == 0 && l.full {
		return tooBig
	}
	c.r.B = xdr.AppendBool(c.r.B, false)
	c.r.B = xdr.AppendBool(c.r.B, eof && !l.full)
	return nfsv4.NFS4_OK
}

// addEntries adds a page of the current filehandle's directory.
func (l *listing) addEntries(cookie uint64) (eof bool, st status) {
	c := l.c
	l.src = attrSource{fsid: c.fsid(&c.cur), xattrs: xattrsOf(&c.cur) != nil}
	// Attributes that a directory entry itself has need no look at the inode.
	free := bits4(nfsv4.FATTR4_TYPE, nfsv4.FATTR4_FILEID, nfsv4.FATTR4_FSID, nfsv4.FATTR4_FILEHANDLE,
		nfsv4.FATTR4_RDATTR_ERROR, nfsv4.FATTR4_MOUNTED_ON_FILEID)
	attrs := !l.want.without(free).empty()
	if !l.want.and(statAttrs).empty() {
		stat, err := c.cur.export.FS.StatFS(c.ctx, c.cur.ino)
		if err != nil {
			return false, statusOf(err, true)
		}
		l.src.stat = &stat
	}
	room := l.room
	defer func() {
		if l.n > 0 {
			c.s.nameBytes.Store(int32(max(0, (room-l.room)/l.n-l.plain)))
		}
	}()
	for {
		page, err := c.cur.export.FS.ReadDir(c.ctx, c.fsCred(), c.cur.ino, cookie, l.pageSize(), attrs)
		if err != nil {
			return false, c.typeStatus(&c.cur, true, statusOf(err, true))
		}
		for i := range page.Entries {
			if !l.addEntry(&page.Entries[i], attrs) {
				if l.n == 0 {
					return false, l.st
				}
				return false, nfsv4.NFS4_OK
			}
			cookie = page.Entries[i].Cookie
		}
		// A page of which every entry vanished would look like no progress.
		if page.EOF || l.n > 0 || len(page.Entries) == 0 {
			return page.EOF, nfsv4.NFS4_OK
		}
	}
}

// addEntry adds e of the current filehandle's directory; false: it did not fit.
func (l *listing) addEntry(e *vfs.Dirent, attrs bool) bool {
	want, a := l.want, e.Attr
	l.src.err = nfsv4.NFS4_OK
	if a == nil {
		a = &vfs.Attr{Ino: e.Ino, Type: e.Type}
		if attrs { // its inode vanished since it was listed
			if !want.has(nfsv4.FATTR4_RDATTR_ERROR) {
				return true
			}
			l.src.err, want = nfsv4.NFS4ERR_NOENT, bits4(nfsv4.FATTR4_RDATTR_ERROR)
		}
	}
	o := object{node: l.c.cur.node, export: l.c.cur.export, ino: e.Ino}
	if e.Attr != nil && !want.and(heldAttrs).empty() {
		if a = l.current(&o, a); a == nil {
			return false
		}
	}
	l.src.attr, l.src.handle, l.src.mounted = a, o.handle(), uint64(e.Ino)
	return l.add(e.Cookie, e.Name, want)
}

// current are the attributes of an entry, a unless another client may have changed them by a delegation. nil: the page ends before it.
func (l *listing) current(o *object, a *vfs.Attr) *vfs.Attr {
	if l.asked >= maxAsked {
		return nil
	}
	o.attr, o.hasAttr = *a, true
	asked, st := l.c.askHolder(o)
	if !asked && st == nfsv4.NFS4_OK {
		return a
	}
	l.asked++
	if st == nfsv4.NFS4_OK {
		st = l.c.load(o)
	}
	switch st {
	case nfsv4.NFS4_OK:
		return &o.attr
	case nfsv4.NFS4ERR_STALE: // as it was when it was listed
		return a
	}
	l.st = st
	return nil
}

// pageSize estimates how many entries will fit, from the size of the attributes and what names took in the listing before, so that one call to the vfs
// fills a reply and brings little that does not fit.
func (l *listing) pageSize() int {
	blank := l.src
	blank.attr = &vfs.Attr{Type: vfs.TypeFile}
	l.c.scratch = l.c.enc.append(l.c.scratch[:0], l.want, &blank)
	l.plain = minEntry + len(l.c.scratch) - 8
	n := l.room/(l.plain+int(l.c.s.nameBytes.Load())) + 1
	if l.dirCount {
		n = min(n, l.dirRoom/16+1)
	}
	return min(n, maxDirPage)
}

// addPseudo adds the entries of a directory of the pseudo file system. An
// export shows the attributes of its root.
func (l *listing) addPseudo(cookie uint64) (eof bool, st status) {
	c := l.c
	for _, n := range c.cur.node.Children(cookie, c.from) {
		o := c.pseudoObject(n)
		src, st := c.source(&o, l.want)
		want := l.want
		if st != nfsv4.NFS4_OK {
			if !want.has(nfsv4.FATTR4_RDATTR_ERROR) {
				return false, st
			}
			src.err, want = st, bits4(nfsv4.FATTR4_RDATTR_ERROR)
		}
		l.src = src
		if !l.add(n.ID, n.Name, want) {
			return false, nfsv4.NFS4_OK
		}
	}
	return true, nfsv4.NFS4_OK
}

// add appends one entry unless it exceeds a limit.
func (l *listing) add(cookie uint64, name string, want bitmap) bool {
	r := l.c.r
	at := len(r.B)
	b := xdr.AppendBool(r.B, true)
	b = xdr.AppendUint64(b, cookie)
	b = xdr.AppendString(b, name)
	hint := 8 + 4 + len(name) + xdr.Pad(len(name)) // what dircount counts: cookie and name
	b = l.c.enc.append(b, want, &l.src)
	size := len(b) - at
	r.B = b[:at]
	// dircount is a hint that must not keep a listing from making progress.
	if size > l.room || (l.dirCount && hint > l.dirRoom && l.n > 0) {
		l.full = true
		return false
	}
	r.B = b
	l.room -= size
	l.dirRoom -= hint
	l.n++
	return true
}
