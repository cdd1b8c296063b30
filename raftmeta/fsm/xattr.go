package fsm

import (
	"cmp"
	"slices"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// xattrs is metapb.Xattrs.
type xattrs struct {
	vfs.XattrTotals
	lastCookie uint64
}

// xattr returns an attribute, nil if there is none of that name.
func (x *call) xattr(ino uint64, name string) (*metapb.XattrRecord, error) {
	b, ok, err := x.get(x.xattrKey(ino, name))
	if err != nil || !ok {
		return nil, err
	}
	return decodeXattr(b)
}

func (x *call) xattrKey(ino uint64, name string) []byte {
	x.key = appendXattr(x.key[:0], x.fs, ino, name)
	return x.key
}

func decodeXattr(b []byte) (*metapb.XattrRecord, error) {
	r := new(metapb.XattrRecord)
	if err := r.UnmarshalVT(b); err != nil {
		return nil, corrupt("extended attribute: %w", err)
	}
	return r, nil
}

// mayXattr returns the inode of ino if the caller may change its attribute of that name, and that attribute.
func (x *call) mayXattr(ino uint64, name, op string) (*inode, *metapb.XattrRecord, error) {
	if err := vfs.CheckXattrName(name, op); err != nil {
		return nil, nil, err
	}
	n, err := x.must(ino, op)
	if err != nil {
		return nil, nil, err
	}
	if err := vfs.CheckXattr(&x.cred, &n.attr, vfs.AccessWrite, op); err != nil {
		return nil, nil, err
	}
	if err := x.notHeld(n, op); err != nil {
		return nil, nil, err
	}
	old, err := x.xattr(ino, name)
	return n, old, err
}

func (x *call) setXattr(c *metapb.SetXattr) (*metapb.Result, error) {
	const op = "setxattr"
	name, how := string(c.Name), vfs.XattrHow(min(c.How, uint32(vfs.XattrReplace)+1))
	if err := vfs.CheckXattrValue(c.Value, how, op); err != nil {
		return nil, err
	}
	n, old, err := x.mayXattr(c.Ino, name, op)
	if err != nil {
		return nil, err
	}
	rec, size := &metapb.XattrRecord{Cookie: n.xattrs.lastCookie + 1, Value: c.Value}, -1
	if old != nil {
		rec.Cookie, size = old.Cookie, len(old.Value)
	}
	then := n.xattrs.Replace(name, size, len(c.Value))
	if err := vfs.CheckXattrSet(then, old != nil, how, op); err != nil {
		return nil, err
	}
	if err := x.setRecord(appendXattr(nil, x.fs, c.Ino, name), rec); err != nil {
		return nil, err
	}
	return x.xattrsChanged(n, xattrs{then, max(n.xattrs.lastCookie, rec.Cookie)})
}

func (x *call) removeXattr(c *metapb.RemoveXattr) (*metapb.Result, error) {
	const op = "removexattr"
	name := string(c.Name)
	n, old, err := x.mayXattr(c.Ino, name, op)
	if err != nil {
		return nil, err
	}
	if old == nil {
		return nil, vfs.KindNoAttr.Err(op)
	}
	x.del(x.xattrKey(c.Ino, name))
	return x.xattrsChanged(n, xattrs{n.xattrs.Remove(name, len(old.Value)), n.xattrs.lastCookie})
}

func (x *call) xattrsChanged(n *inode, now xattrs) (*metapb.Result, error) {
	n2 := n.clone()
	n2.xattrs = now
	n2.changed(x.now)
	x.setInode(x.fs, n2)
	return &metapb.Result{Of: &metapb.Result_Xattr{Xattr: &metapb.XattrResult{Attr: toWire(&n2.attr), Change: dirChange(n, n2)}}}, nil
}

// dropXattrs removes the attributes of n, which is deleted, if they are few; left says that they are not.
func (x *call) dropXattrs(n *inode) (left bool, err error) {
	if n.xattrs.Count == 0 || n.xattrs.Count > x.deletions() {
		return n.xattrs.Count > 0, nil
	}
	keys, _, err := x.firstKeys(appendIno(nil, "a/", x.fs, uint64(n.attr.Ino)), n.xattrs.Count)
	for _, k := range keys {
		x.del(k)
	}
	return false, err
}

// purgeXattrs removes attributes of an inode that is gone, until the command has touched budget records.
func (x *call) purgeXattrs(ino uint64, budget int) (done bool, err error) {
	keys, more, err := x.firstKeys(appendIno(nil, "a/", x.fs, ino), max(1, budget-x.touched()))
	for _, k := range keys {
		x.del(k)
	}
	return !more, err
}

func (r *reader) getXattr(q *metapb.GetXattrQ) (*metapb.QueryResult, error) {
	const op = "getxattr"
	if err := vfs.CheckXattrName(string(q.Name), op); err != nil {
		return nil, err
	}
	n, err := r.must(q.Ino, op)
	if err != nil {
		return nil, err
	}
	if r.cred != nil {
		if err := vfs.CheckXattr(r.cred, &n.attr, vfs.AccessRead, op); err != nil {
			return nil, err
		}
	}
	if n.xattrs.Count == 0 {
		return nil, vfs.KindNoAttr.Err(op)
	}
	r.key = appendXattr(r.key[:0], r.fs, q.Ino, string(q.Name))
	b, ok, err := r.view.Get(r.key)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, vfs.KindNoAttr.Err(op)
	}
	rec, err := decodeXattr(b)
	if err != nil {
		return nil, err
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_GetXattr{GetXattr: &metapb.GetXattrR{Value: rec.Value}}}, nil
}

func (r *reader) listXattrs(q *metapb.ListXattrsQ) (*metapb.QueryResult, error) {
	const op = "listxattrs"
	n, err := r.must(q.Ino, op)
	if err != nil {
		return nil, err
	}
	if r.cred != nil {
		if err := vfs.CheckXattrList(r.cred, &n.attr, op); err != nil {
			return nil, err
		}
	}
	list, err := r.xattrNames(n, q.Cookie)
	if err != nil {
		return nil, err
	}
	bytes, maxBytes := 0, limitOf(q.MaxBytes, vfs.XattrListMax, vfs.XattrListMax)
	res := &metapb.ListXattrsR{Eof: true}
	for _, a := range list {
		if bytes += len(a.Name); bytes > maxBytes && len(res.Names) > 0 {
			res.Eof = false
			break
		}
		res.Names = append(res.Names, []byte(a.Name))
		res.Cookies = append(res.Cookies, a.Cookie)
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_ListXattrs{ListXattrs: res}}, nil
}

// xattrNames are the attributes of n after cookie in the order of their cookies. Keys are in the order of names, so all of
// them are read, which are at most XattrBytesMax.
func (r *reader) xattrNames(n *inode, cookie uint64) (list []vfs.XattrName, err error) {
	if n.xattrs.Count == 0 {
		return nil, nil
	}
	prefix := appendIno(nil, "a/", r.fs, uint64(n.attr.Ino))
	var inner error
	err = r.view.Scan(prefix, prefixEnd(prefix), func(k, v []byte) bool {
		var rec *metapb.XattrRecord
		if rec, inner = decodeXattr(v); inner == nil && rec.Cookie > cookie {
			list = append(list, vfs.XattrName{Cookie: rec.Cookie, Name: string(k[len(prefix):])})
		}
		return inner == nil
	})
	if inner != nil {
		return nil, inner
	}
	slices.SortFunc(list, func(a, b vfs.XattrName) int { return cmp.Compare(a.Cookie, b.Cookie) })
	return list, err
}
