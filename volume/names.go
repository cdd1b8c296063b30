package volume

import (
	"context"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// overlaid is a as told by the metadata while x watched, with what only this
// gateway knows.
func (v *Volume) overlaid(ctx context.Context, x *watch, a vfs.Attr, op string) (vfs.Attr, error) {
	a, err := v.written(ctx, x, a, op)
	return v.touches.overlay(a), err
}

// written is a with what was written here.
func (v *Volume) written(ctx context.Context, x *watch, a vfs.Attr, op string) (vfs.Attr, error) {
	if a.Type != vfs.TypeFile {
		return a, nil
	}
	if e := v.find(a.Ino); e != nil {
		defer v.release(e)
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.dead && e.leased() && e.known {
			e.learn(a)
			return e.attr(), nil
		}
	}
	if !v.watches.saw(x, a.Ino) {
		return a, nil
	}
	now, err := v.queryAttr(ctx, op, a.Ino)
	if vfs.KindOf(err) == vfs.KindStale {
		return a, nil // it was deleted since
	}
	return now, err
}

// touched is overlaid for the result of an operation that changed the inode
// besides its data, and so raised its change value.
func (v *Volume) touched(ctx context.Context, x *watch, a vfs.Attr, op string) (vfs.Attr, error) {
	shown, err := v.overlaid(ctx, x, a, op)
	if e := v.find(a.Ino); e != nil && err == nil {
		defer v.release(e)
		if v.rise(ctx, e, op) {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.attr(), nil
		}
	}
	return shown, err
}

// rise makes buffered writes of e show a change value above the metadata's, if
// that overtook them. It reports whether it had to. Should it fail, the value of the
// metadata is shown, which is right for the attributes, and the flush shows
// another one.
func (v *Volume) rise(ctx context.Context, e *inode, op string) bool {
	e.mu.Lock()
	must := e.overtaken()
	e.mu.Unlock()
	return must && v.catchUp(ctx, e, op) == nil
}

// changedElsewhere says that an operation changed ino's attributes in a way
// its result does not tell.
func (v *Volume) changedElsewhere(ctx context.Context, ino uint64, op string) {
	e := v.find(vfs.Ino(ino))
	if e == nil {
		return
	}
	defer v.release(e)
	e.mu.Lock()
	dirty := e.leased() && e.over.seq != 0
	e.forget()
	e.mu.Unlock()
	if dirty {
		_ = v.catchUp(ctx, e, op) // as in rise
	}
}

// GetAttr implements vfs.FS.
func (v *Volume) GetAttr(ctx context.Context, ino vfs.Ino) (vfs.Attr, error) {
	const op = "getattr"
	var a vfs.Attr
	var err error
	if e := v.find(ino); e == nil {
		a, err = v.queryAttr(ctx, op, ino)
	} else {
		defer v.release(e)
		a, err = v.inodeAttr(ctx, e, op)
	}
	return v.touches.overlay(a), err
}

func (v *Volume) queryAttr(ctx context.Context, op string, ino vfs.Ino) (vfs.Attr, error) {
	var m struct { // one piece of memory: it is the most frequent query
		query metapb.Query
		of    metapb.Query_GetAttr
		ask   metapb.GetAttrQ
	}
	m.ask.Ino = uint64(ino)
	m.of.GetAttr = &m.ask
	m.query.Q = &m.of
	r, err := v.query(ctx, op, nil, &m.query)
	if err != nil {
		return vfs.Attr{}, err
	}
	return attrOf(r.GetAttr().GetAttr()), nil
}

// inodeAttr are the effective attributes of e.
func (v *Volume) inodeAttr(ctx context.Context, e *inode, op string) (vfs.Attr, error) {
	for {
		e.mu.Lock()
		if e.dead {
			e.mu.Unlock()
			return vfs.Attr{}, vfs.Errorf(vfs.KindStale, op, "inode %d", e.ino)
		}
		leased := e.leased() && e.known
		if leased && e.fresh {
			defer e.mu.Unlock()
			return e.attr(), nil
		}
		gen := e.gen
		e.mu.Unlock()
		a, err := v.queryAttr(ctx, op, e.ino)
		if err != nil {
			return vfs.Attr{}, err
		}
		e.mu.Lock()
		switch {
		case e.leased() && e.known:
			e.learn(a)
			e.fresh = e.fresh || e.gen == gen
			e.mu.Unlock()
			v.rise(ctx, e, op)
			e.mu.Lock()
			if e.leased() && e.known {
				a = e.attr()
			}
			e.mu.Unlock()
			return a, nil
		case !leased || a.Change >= e.shown:
			e.mu.Unlock()
			return a, nil
		}
		e.mu.Unlock() // the lease went meanwhile, and a is from before
	}
}

// fileAttr is inodeAttr of what must be a regular file.
func (v *Volume) fileAttr(ctx context.Context, e *inode, op string) (vfs.Attr, error) {
	a, err := v.inodeAttr(ctx, e, op)
	switch {
	case err != nil:
		return a, err
	case a.Type == vfs.TypeDir:
		return a, vfs.KindIsDir.Err(op)
	case a.Type != vfs.TypeFile:
		return a, vfs.KindWrongType.Err(op)
	}
	return a, nil
}

// Lookup implements vfs.FS.
func (v *Volume) Lookup(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string) (vfs.Attr, error) {
	const op = "lookup"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Attr{}, err
	}
	x := v.watches.begin()
	defer v.watches.end(x)
	r, err := v.query(ctx, op, c, &metapb.Query{Q: &metapb.Query_Lookup{Lookup: &metapb.LookupQ{Dir: uint64(dir), Name: []byte(name)}}})
	if err != nil {
		return vfs.Attr{}, err
	}
	return v.overlaid(ctx, x, attrOf(r.GetAttr().GetAttr()), op)
}

// Parent implements vfs.FS.
func (v *Volume) Parent(ctx context.Context, c *vfs.Cred, dir vfs.Ino) (vfs.Attr, error) {
	r, err := v.query(ctx, "parent", c, &metapb.Query{Q: &metapb.Query_Parent{Parent: &metapb.ParentQ{Dir: uint64(dir)}}})
	if err != nil {
		return vfs.Attr{}, err
	}
	return attrOf(r.GetAttr().GetAttr()), nil
}

// ReadDir implements vfs.FS.
func (v *Volume) ReadDir(ctx context.Context, c *vfs.Cred, dir vfs.Ino, cookie uint64, maxEntries int, attrs bool) (vfs.DirPage, error) {
	const op = "readdir"
	if maxEntries < 1 {
		return vfs.DirPage{}, vfs.Errorf(vfs.KindInvalid, op, "at most %d entries", maxEntries)
	}
	x := v.watches.begin()
	defer v.watches.end(x)
	r, err := v.query(ctx, op, c, &metapb.Query{Q: &metapb.Query_ReadDir{ReadDir: &metapb.ReadDirQ{
		Dir: uint64(dir), Cookie: cookie, MaxEntries: uint32(min(maxEntries, 1<<20)), Attrs: attrs,
	}}})
	if err != nil {
		return vfs.DirPage{}, err
	}
	d := r.GetReadDir()
	page := vfs.DirPage{EOF: d.GetEof(), Dir: attrOf(d.GetDir()), Entries: make([]vfs.Dirent, len(d.GetEntries()))}
	page.Dir = v.touches.overlay(page.Dir)
	if v.wasListed(&page.Dir) {
		page.Dir = v.touches.overlay(page.Dir)
	}
	var as []vfs.Attr // one piece of memory, as that of names
	if attrs {
		as = make([]vfs.Attr, len(page.Entries))
	}
	var all strings.Builder
	size := 0
	for _, pe := range d.GetEntries() {
		size += len(pe.Name)
	}
	all.Grow(size)
	for i, pe := range d.GetEntries() {
		e := &page.Entries[i]
		at := all.Len()
		all.Write(pe.Name)
		e.Cookie, e.Name, e.Ino, e.Type = pe.Cookie, all.String()[at:], vfs.Ino(pe.Ino), vfs.Type(pe.Type)
		if attrs && pe.Attr != nil {
			as[i] = attrOf(pe.Attr)
			e.Attr = &as[i]
		}
	}
	if err := v.overlayAll(ctx, x, as, op); err != nil {
		return vfs.DirPage{}, err
	}
	return page, nil
}

// overlayAll makes of attributes that one answer of the metadata told, while x watched, what overlaid makes of each; there are none where the inode number is 0. What is
// listed does not count as used: it keeps no place in the table by that.
func (v *Volume) overlayAll(ctx context.Context, x *watch, as []vfs.Attr, op string) (err error) {
	const atOnce = 256 // under the table's lock
	for some := range slices.Chunk(as, atOnce) {
		v.table.overlay(some)
	}
	if gone := v.watches.gone(x); len(gone) > 0 { // after the look at the table: what is not there any more is among them
		given := make(map[vfs.Ino]bool, len(gone))
		for _, ino := range gone {
			given[ino] = true
		}
		for i := range as {
			if given[as[i].Ino] {
				if as[i], err = v.written(ctx, x, as[i], op); err != nil {
					return err
				}
			}
		}
	}
	v.touches.overlayAll(as)
	return nil
}

// ReadLink implements vfs.FS.
func (v *Volume) ReadLink(ctx context.Context, ino vfs.Ino) (string, error) {
	r, err := v.query(ctx, "readlink", nil, &metapb.Query{Q: &metapb.Query_ReadLink{ReadLink: &metapb.ReadLinkQ{Ino: uint64(ino)}}})
	if err != nil {
		return "", err
	}
	return string(r.GetReadLink().GetTarget()), nil
}

// MakeNode implements vfs.FS.
func (v *Volume) MakeNode(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, a vfs.NodeArgs) (vfs.Created, error) {
	const op = "mknod"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Created{}, err
	}
	if a.Type == vfs.TypeFile {
		return vfs.Created{}, vfs.Errorf(vfs.KindWrongType, op, "Create makes regular files")
	}
	r, err := v.apply(ctx, op, c, &metapb.Command{Op: &metapb.Command_Create{Create: &metapb.Create{
		Parent: uint64(dir), Name: []byte(name), Type: uint32(a.Type), Exclusive: uint32(vfs.Guarded),
		Attr: pbSetAttr(&a.Attr), Target: []byte(a.Target), DevMajor: a.Dev.Major, DevMinor: a.Dev.Minor,
	}}})
	if err != nil {
		return vfs.Created{}, err
	}
	cr := r.GetCreate()
	return vfs.Created{Attr: attrOf(cr.GetAttr()), Dir: dirChangeOf(cr.GetDir()), New: cr.GetCreated()}, nil
}

// Link implements vfs.FS.
func (v *Volume) Link(ctx context.Context, c *vfs.Cred, ino, dir vfs.Ino, name string) (vfs.Attr, vfs.DirChange, error) {
	const op = "link"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.Attr{}, vfs.DirChange{}, err
	}
	x := v.watches.begin()
	defer v.watches.end(x)
	r, err := v.apply(ctx, op, c, &metapb.Command{Op: &metapb.Command_Link{Link: &metapb.Link{
		Ino: uint64(ino), Parent: uint64(dir), Name: []byte(name),
	}}})
	if err != nil {
		return vfs.Attr{}, vfs.DirChange{}, err
	}
	l := r.GetLink()
	a, err := v.touched(patient(ctx), x, attrOf(l.GetAttr()), op)
	return a, dirChangeOf(l.GetDir()), err
}

// Remove implements vfs.FS.
func (v *Volume) Remove(ctx context.Context, c *vfs.Cred, dir vfs.Ino, name string, what vfs.RemoveKind) (vfs.DirChange, error) {
	const op = "remove"
	if err := vfs.CheckName(name, op); err != nil {
		return vfs.DirChange{}, err
	}
	return detached(ctx, v, op, func(ctx context.Context) (vfs.DirChange, error) {
		return v.remove(ctx, c, &metapb.Remove{Parent: uint64(dir), Name: []byte(name), What: uint32(what)})
	}, nil)
}

func (v *Volume) remove(ctx context.Context, c *vfs.Cred, ask *metapb.Remove) (vfs.DirChange, error) {
	const op = "remove"
	rm := v.removals.begin()
	defer v.removals.end(rm)
	ask.KeepOpen = v.keepOpens() // first: what is recorded of an open is then held for this gateway, too
	open, few, at := v.table.openInodes(maxKeepInodes)
	ask.KeepIno, ask.Keep, rm.at = open, !few, at
	r, err := v.apply(ctx, op, c, &metapb.Command{Op: &metapb.Command_Remove{Remove: ask}})
	if err != nil {
		return vfs.DirChange{}, err
	}
	res := r.GetRemove()
	v.unlinked(ctx, rm, res.GetIno(), left{res.GetNlink(), res.GetOrphan(), res.GetOpened()}, ask.KeepOpen, op)
	return dirChangeOf(res.GetDir()), nil
}

// Rename implements vfs.FS.
func (v *Volume) Rename(ctx context.Context, c *vfs.Cred, fromDir vfs.Ino, from string, toDir vfs.Ino, to string) (vfs.DirChange, vfs.DirChange, error) {
	const op = "rename"
	for _, name := range []string{from, to} {
		if err := vfs.CheckName(name, op); err != nil {
			return vfs.DirChange{}, vfs.DirChange{}, err
		}
	}
	ch, err := detached(ctx, v, op, func(ctx context.Context) ([2]vfs.DirChange, error) {
		return v.rename(ctx, c, &metapb.Rename{
			FromParent: uint64(fromDir), FromName: []byte(from), ToParent: uint64(toDir), ToName: []byte(to),
		})
	}, nil)
	return ch[0], ch[1], err
}

func (v *Volume) rename(ctx context.Context, c *vfs.Cred, ask *metapb.Rename) (ch [2]vfs.DirChange, err error) {
	const op = "rename"
	rm := v.removals.begin()
	defer v.removals.end(rm)
	ask.KeepOpen = v.keepOpens() // first: what is recorded of an open is then held for this gateway, too
	open, few, at := v.table.openInodes(maxKeepInodes)
	ask.KeepIno, ask.Keep, rm.at = open, !few, at
	r, err := v.apply(ctx, op, c, &metapb.Command{Op: &metapb.Command_Rename{Rename: ask}})
	if err != nil {
		return ch, err
	}
	res := r.GetRename()
	ch[0], ch[1] = dirChangeOf(res.GetFrom()), dirChangeOf(res.GetTo())
	if ch[0].Before != ch[0].After || ch[1].Before != ch[1].After {
		v.changedElsewhere(ctx, res.GetIno(), op)
	}
	if old := res.GetReplacedIno(); old != 0 {
		v.unlinked(ctx, rm, old, left{res.GetReplacedNlink(), res.GetOrphan(), res.GetOpened()}, ask.KeepOpen, op)
	}
	return ch, nil
}
