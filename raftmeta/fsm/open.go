package fsm

import (
	"bytes"
	"encoding/binary"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of what commands bring of a client's opens and locks.
const (
	stateidLen     = 12   // "other" of a stateid
	maxStateOwner  = 1024 // open-owner, lock-owner (NFS4_OPAQUE_LIMIT)
	maxClientState = 256  // the state store's own
	shareRead      = 1    // bits of access, and of deny
	shareBoth      = 3
	maxKeepOpens   = 256
	maxFileCloses  = 256 // files and lock-owners of one CloseFiles
)

// openRow is an open of a client: an OpenRecord with its key.
type openRow struct {
	client  uint64
	stateid [stateidLen]byte
	rec     *metapb.OpenRecord
}

// openKey is scratch: it is valid until the next use of one.
func (x *call) openKey(ino uint64, o *openRow) []byte {
	return append(appendOpens(x.key[:0], x.fs, ino, o.client), o.stateid[:]...)
}

// share is an open that a command is to record; nil before level 3.
func (x *call) share(o *metapb.ClientOpen, op string) (*openRow, error) {
	if o == nil || x.level < levelPOSIX {
		return nil, nil
	}
	switch {
	case len(o.Stateid) != stateidLen:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "stateid of %d bytes", len(o.Stateid))
	case len(o.Owner) > maxStateOwner || len(o.State) > maxClientState:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "open-owner of %d bytes, state of %d", len(o.Owner), len(o.State))
	case o.Access == 0 || o.Access > shareBoth || o.Deny > shareBoth:
		return nil, vfs.Errorf(vfs.KindInvalid, op, "share access %d, deny %d", o.Access, o.Deny)
	}
	if err := x.mayKnow(o.Client, op); err != nil {
		return nil, err
	}
	return &openRow{client: o.Client, stateid: [stateidLen]byte(o.Stateid), rec: &metapb.OpenRecord{
		Owner: o.Owner, Access: o.Access, Deny: o.Deny, State: o.State,
	}}, nil
}

// denied returns an open in the way of want on n, nil if there is none. Opens of one owner are not in each other's way, and
// those of released clients are void.
func (x *call) denied(n *inode, want *openRow) (*metapb.ShareDenied, error) {
	if n.opens == 0 || n.deniers == 0 && want.rec.Deny == 0 {
		return nil, nil
	}
	var against []openRow
	err := x.eachOpen(appendIno(nil, "O/", x.fs, uint64(n.attr.Ino)), func(o *openRow) bool {
		own := o.client == want.client && bytes.Equal(o.rec.Owner, want.rec.Owner)
		if !own && (o.rec.Deny&want.rec.Access != 0 || o.rec.Access&want.rec.Deny != 0) {
			against = append(against, *o)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	for _, o := range against {
		if k, err := x.client(o.client); err != nil {
			return nil, err
		} else if k != nil {
			return &metapb.ShareDenied{Client: o.client, Owner: o.rec.Owner, Access: o.rec.Access, Deny: o.rec.Deny}, nil
		}
	}
	return nil, nil
}

// mayDeny fails if another origin has n to itself and o denies something, from level 7 on: the holder opens the file without asking. While there are such opens nobody has
// it to itself among several gateways (give).
func (x *call) mayDeny(n *inode, o *openRow, op string) error {
	if o.rec.Deny == 0 || x.level < levelHandover {
		return nil
	}
	return x.notHeld(n, op)
}

// eachOpen calls fn for the records with the prefix until it returns false; fn must not write.
func (x *call) eachOpen(prefix []byte, fn func(*openRow) bool) error {
	var bad error
	err := x.scan(prefix, prefixEnd(prefix), func(k, v []byte) bool {
		o, err := decodeOpen(k, v)
		if err != nil {
			bad = err
			return false
		}
		return fn(o)
	})
	if err == nil {
		err = bad
	}
	return err
}

func decodeOpen(k, v []byte) (*openRow, error) {
	if len(k) != ofClientLen+stateidLen {
		return nil, corrupt("key %q", k)
	}
	o := &openRow{
		client:  binary.BigEndian.Uint64(k[ofClientLen-8:]),
		stateid: [stateidLen]byte(k[ofClientLen:]),
		rec:     new(metapb.OpenRecord),
	}
	if err := o.rec.UnmarshalVT(v); err != nil {
		return nil, corrupt("open: %w", err)
	}
	return o, nil
}

// firstOpens returns up to limit opens of a client on n.
func (x *call) firstOpens(n *inode, client uint64, limit int) (list []openRow, more bool, err error) {
	err = x.eachOpen(appendOpens(nil, x.fs, uint64(n.attr.Ino), client), func(o *openRow) bool {
		if len(list) == limit {
			more = true
			return false
		}
		list = append(list, *o)
		return true
	})
	return list, more, err
}

// getOpen returns the record that o's key names, nil if there is none.
func (x *call) getOpen(ino uint64, o *openRow) (*openRow, error) {
	r := new(metapb.OpenRecord)
	ok, err := x.getRecord(x.openKey(ino, o), r)
	if err != nil || !ok {
		return nil, err
	}
	return &openRow{o.client, o.stateid, r}, nil
}

// putOpen records o as an open of n, which it changes in place.
func (x *call) putOpen(n *inode, o *openRow, op string) error {
	ino := uint64(n.attr.Ino)
	var old *openRow
	if n.opens > 0 {
		var err error
		if old, err = x.getOpen(ino, o); err != nil {
			return err
		}
	}
	if old == nil {
		k, err := x.know(o.client, op)
		if err != nil {
			return err
		}
		if int(n.opens) >= x.opts.limits.opens || int(k.opens) >= x.opts.limits.clientOpens {
			return vfs.Errorf(vfs.KindTooMany, op, "%d opens of the file, %d of client %d", n.opens, k.opens, o.client)
		}
		k2 := *k
		k2.opens++
		x.clients.set(x.entry, o.client, &k2)
		if err := x.hasFile(o.client, n); err != nil {
			return err
		}
		n.opens++
	} else if old.rec.Deny != 0 {
		n.deniers--
	}
	if o.rec.Deny != 0 {
		n.deniers++
	}
	return x.setRecord(x.openKey(ino, o), o.rec)
}

// dropOpen removes a record that is there from n, which it changes in place. The rest of what has to be done is the caller's:
// what the client has, its index, and unheld.
func (x *call) dropOpen(n *inode, o *openRow) {
	x.del(x.openKey(uint64(n.attr.Ino), o))
	n.opens--
	if o.rec.Deny != 0 {
		n.deniers--
	}
}

func (x *call) openFile(c *metapb.OpenFile) (*metapb.Result, error) {
	const op = "open"
	n, err := x.file(c.Ino, op)
	if err != nil {
		return nil, err
	}
	if err := checkOpen(n, &x.cred, c.Flags, c.Override, op); err != nil {
		return nil, err
	}
	if c.Share == nil {
		return nil, vfs.Errorf(vfs.KindInvalid, op, "no open to record")
	}
	o, err := x.share(c.Share, op)
	if err != nil {
		return nil, err
	}
	if err := x.mayDeny(n, o, op); err != nil {
		return nil, err
	}
	res := &metapb.OpenResult{}
	if res.Denied, err = x.denied(n, o); err != nil {
		return nil, err
	}
	if res.Denied == nil {
		n = n.clone()
		if c.Lease {
			if x.holds(n) {
				if err := shown(n, c.Change, op); err != nil {
					return nil, err
				}
			}
			if err := x.grantOpen(n, n.opens, op); err != nil {
				return nil, err
			}
			res.Lease = x.usable(n)
		}
		if err := x.putOpen(n, o, op); err != nil {
			return nil, err
		}
		x.setInode(x.fs, n)
		res.Attr, res.Stateid = toWire(&n.attr), c.Share.Stateid
	}
	return &metapb.Result{Of: &metapb.Result_Open{Open: res}}, nil
}

// keepOpens records the opens of n among list, of which the last link has just gone; it changes n in place. They were
// made already, so nobody is asked whether he denies them. Clients that are gone have nothing open.
func (x *call) keepOpens(n *inode, list []*metapb.ClientOpen, op string) error {
	if x.level < levelPOSIX {
		return nil
	}
	if len(list) > maxKeepOpens {
		return vfs.Errorf(vfs.KindTooMany, op, "%d opens to keep, at most %d", len(list), maxKeepOpens)
	}
	if !n.isFile() {
		return nil
	}
	for _, s := range list {
		if s.Ino != uint64(n.attr.Ino) {
			continue
		}
		if s.Access != shareRead || s.Deny != 0 {
			return vfs.Errorf(vfs.KindInvalid, op, "share access %d, deny %d of an open that has no record", s.Access, s.Deny)
		}
		o, err := x.share(s, op)
		if vfs.KindOf(err) == vfs.KindExpired {
			continue
		}
		if err != nil {
			return err
		}
		if old, err := x.getOpen(s.Ino, o); err != nil {
			return err
		} else if old != nil {
			continue
		}
		if err := x.putOpen(n, o, op); err != nil {
			return err
		}
	}
	return nil
}

func (x *call) closeFiles(c *metapb.CloseFiles) (*metapb.Result, error) {
	const op = "close"
	total := 0
	for _, f := range c.Files {
		if total += 1 + len(f.Locks); total > maxFileCloses {
			return nil, vfs.Errorf(vfs.KindTooMany, op, "more than %d files and lock-owners", maxFileCloses)
		}
		if len(f.Stateid) != 0 && len(f.Stateid) != stateidLen {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "stateid of %d bytes", len(f.Stateid))
		}
	}
	for _, f := range c.Files {
		sub := *x
		if f.Fs != 0 {
			sub.fs = f.Fs
		}
		if err := sub.closeFile(f); err != nil {
			return nil, err
		}
	}
	return &metapb.Result{}, nil
}

func (x *call) closeFile(f *metapb.FileClose) error {
	k, err := x.client(f.Client)
	if err != nil || k == nil {
		return err // what it has goes by itself
	}
	n, err := x.inode(x.fs, f.Ino)
	if err != nil || n == nil {
		return err
	}
	n2, k2 := n.clone(), *k
	if len(f.Stateid) != 0 {
		o, err := x.getOpen(f.Ino, &openRow{client: f.Client, stateid: [stateidLen]byte(f.Stateid)})
		if err != nil {
			return err
		}
		if o != nil {
			x.dropOpen(n2, o)
			k2.opens--
		}
	}
	for _, l := range f.Locks {
		r, err := x.getLocks(f.Ino, f.Client, l.Owner)
		if err != nil {
			return err
		}
		if r != nil && bytes.Equal(r.stateid, l.Stateid) {
			x.del(x.lockKey(f.Ino, f.Client, l.Owner))
			n2.locks--
			k2.owners--
			k2.ranges -= uint32(len(r.ranges))
		}
	}
	if n2.opens == n.opens && n2.locks == n.locks {
		return nil
	}
	x.clients.set(x.entry, f.Client, &k2)
	if err := x.noFile(f.Client, n2); err != nil {
		return err
	}
	return x.unheld(n2)
}
