package fsm

import (
	"encoding/binary"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

const (
	maxClientID  = 1 << 62
	maxReleased  = 64  // clients that one ReleaseClients names
	clientsBatch = 256 // clients that other commands name
)

// knownClient is a KnownClient record: an NFS client at a namespace shard. Whoever changes one sets another.
type knownClient struct {
	opens, ranges, owners uint32
}

func (k *knownClient) encode() ([]byte, error) {
	return (&metapb.KnownClient{Opens: k.opens, Ranges: k.ranges, Owners: k.owners}).MarshalVT()
}

// client returns an NFS client that is known here, nil if it is not: what records say that it has is void then.
func (o *overlay) client(id uint64) (*knownClient, error) {
	if k, ok := o.clients.get(id); ok {
		return k, nil
	}
	o.key = appendKnown(o.key[:0], id)
	b, ok, err := o.read(o.key)
	if err != nil || !ok {
		return nil, err
	}
	k, err := decodeKnown(b)
	if err == nil {
		o.clients.keep(id, k)
	}
	return k, err
}

func decodeKnown(b []byte) (*knownClient, error) {
	var r metapb.KnownClient
	if err := r.UnmarshalVT(b); err != nil {
		return nil, corrupt("client: %w", err)
	}
	return &knownClient{r.Opens, r.Ranges, r.Owners}, nil
}

// released reports whether ReleaseClients has named id. Released ids are kept as intervals, W/last -> first: ids are given one
// after the other and all released in the end, so there are about as many intervals as living clients.
func (o *overlay) released(id uint64) (bool, error) {
	_, first, err := o.releasedFrom(id)
	return first != 0 && first <= id, err
}

// releasedFrom returns the first interval that ends at id or after it; first 0: there is none.
func (o *overlay) releasedFrom(id uint64) (last, first uint64, err error) {
	var bad error
	err = o.scan(appendID(nil, "W/", id), prefixEnd([]byte("W/")), func(k, v []byte) bool {
		if len(v) != 8 {
			bad = corrupt("released clients %q", k)
			return false
		}
		last, first = tail64(k), binary.BigEndian.Uint64(v)
		return false
	})
	if err == nil {
		err = bad
	}
	return last, first, err
}

// mayKnow refuses a client that no command may name any more.
func (o *overlay) mayKnow(id uint64, op string) error {
	if id == 0 || id > maxClientID {
		return vfs.Errorf(vfs.KindInvalid, op, "client %d", id)
	}
	k, err := o.client(id)
	if err != nil || k != nil {
		return err
	}
	gone, err := o.released(id)
	if err == nil && gone {
		err = vfs.Errorf(vfs.KindExpired, op, "client %d", id)
	}
	return err
}

// know returns a client, which is registered if it was not known. mayKnow came first.
func (m *Machine) know(id uint64, op string) (*knownClient, error) {
	k, err := m.client(id)
	if err != nil || k != nil {
		return k, err
	}
	n, err := m.count(counterKey{what: counterClients})
	if err != nil {
		return nil, err
	}
	if n >= uint64(m.opts.limits.clients) {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d NFS clients use this shard", n)
	}
	m.setCount(counterKey{what: counterClients}, n+1)
	k = new(knownClient)
	m.clients.set(m.entry, id, k)
	return k, nil
}

// releaseClients ends clients: what they have is void from here on, Purge removes it.
func (x *call) releaseClients(c *metapb.ReleaseClients) (*metapb.Result, error) {
	const op = "client.release"
	if len(c.Clients) > maxReleased {
		return nil, vfs.Errorf(vfs.KindTooMany, op, "%d clients, at most %d", len(c.Clients), maxReleased)
	}
	for _, id := range c.Clients {
		if id == 0 || id > maxClientID {
			return nil, vfs.Errorf(vfs.KindInvalid, op, "client %d", id)
		}
		k, err := x.client(id)
		if err != nil {
			return nil, err
		}
		if k != nil {
			x.clients.set(x.entry, id, nil)
			if err := x.lower(counterClients); err != nil {
				return nil, err
			}
			if err := x.enqueue(&metapb.PurgeRecord{Client: id}); err != nil {
				return nil, err
			}
		}
		if err := x.markReleased(id); err != nil {
			return nil, err
		}
	}
	return &metapb.Result{}, nil
}

// lower takes one from a counter that counts records.
func (x *call) lower(what counter) error {
	n, err := x.count(counterKey{what: what})
	if err != nil {
		return err
	}
	if n == 0 {
		return corrupt("counter %d would fall below zero", what)
	}
	x.setCount(counterKey{what: what}, n-1)
	return nil
}

// markReleased adds id to the intervals.
func (x *call) markReleased(id uint64) error {
	last, first, err := x.releasedFrom(id)
	switch {
	case err != nil:
		return err
	case first != 0 && first <= id:
		return nil
	case first != id+1: // not joined with the one behind
		last = id
	}
	first = id
	before, ok, err := x.get(appendID(nil, "W/", id-1))
	if err != nil {
		return err
	}
	if ok {
		if len(before) != 8 {
			return corrupt("released clients before %d", id)
		}
		first = binary.BigEndian.Uint64(before)
		x.del(appendID(nil, "W/", id-1))
	}
	x.set(appendID(nil, "W/", last), binary.BigEndian.AppendUint64(nil, first))
	return nil
}

// purgeClient removes what a released client left: opens and locks, file by file, and replies.
func (x *call) purgeClient(id uint64, budget int) (done bool, err error) {
	lo := append(appendKnown(nil, id), 0)
	for x.touched() < budget {
		var key []byte
		err := x.scan(lo, prefixEnd(appendKnown(nil, id)), func(k, _ []byte) bool {
			key = append(key, k...)
			return false
		})
		if err != nil || key == nil {
			return err == nil, err
		}
		room := max(1, budget-x.touched())
		switch len(key) {
		case clientFileLen:
			sub := *x
			sub.fs = binary.BigEndian.Uint32(key[knownLen:])
			if done, err = sub.purgeClientFile(id, tail64(key), room); err != nil || !done {
				return false, err
			}
		case clientSessionLen:
			if done, err = x.purgeCalls(sessionID(key[knownLen:]), room); err != nil || !done {
				return false, err
			}
			x.del(key)
		default:
			return false, corrupt("key %q", key)
		}
	}
	return false, nil
}

// purgeClientFile removes up to limit records of a released client on one file.
func (x *call) purgeClientFile(client, ino uint64, limit int) (done bool, err error) {
	n, err := x.inode(x.fs, ino)
	if err != nil {
		return false, err
	}
	if n == nil {
		return false, corrupt("inode %d is gone and client %d has it open", ino, client)
	}
	n = n.clone()
	opens, more, err := x.firstOpens(n, client, limit)
	if err != nil {
		return false, err
	}
	for i := range opens {
		x.dropOpen(n, &opens[i])
	}
	if more {
		x.setInode(x.fs, n)
		return false, nil
	}
	keys, more, err := x.firstKeys(appendLocks(nil, x.fs, ino, client), max(1, limit-len(opens)))
	if err != nil {
		return false, err
	}
	for _, k := range keys {
		x.del(k)
		n.locks--
	}
	if more {
		x.setInode(x.fs, n)
		return false, nil
	}
	x.del(appendClientFile(x.key[:0], client, x.fs, ino))
	return true, x.unheld(n)
}

// unheld writes n, which has lost records of clients, or deletes it if nothing keeps it any more.
func (x *call) unheld(n *inode) error {
	if n.attr.Nlink == 0 && !n.opened() {
		keys, _, err := x.firstKeys(appendIno(nil, "o/", x.fs, uint64(n.attr.Ino)), 1)
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			return x.deleteInode(n)
		}
	}
	x.setInode(x.fs, n)
	return nil
}

// noFile removes the index entry of a client's file when it has neither opens nor locks of it any more; n is what is left of
// the file, mostly nothing of anybody, which takes no look.
func (x *call) noFile(client uint64, n *inode) error {
	ino := uint64(n.attr.Ino)
	if n.opened() {
		for _, prefix := range [][]byte{appendOpens(nil, x.fs, ino, client), appendLocks(nil, x.fs, ino, client)} {
			keys, _, err := x.firstKeys(prefix, 1)
			if err != nil || len(keys) > 0 {
				return err
			}
		}
	}
	x.del(appendClientFile(x.key[:0], client, x.fs, ino))
	return nil
}

// hasFile adds the index entry; n does not count yet what the client is about to have.
func (x *call) hasFile(client uint64, n *inode) error {
	key := appendClientFile(x.key[:0], client, x.fs, uint64(n.attr.Ino))
	if n.opened() {
		if _, ok, err := x.get(key); err != nil || ok {
			return err
		}
	}
	x.set(key, nil)
	return nil
}
