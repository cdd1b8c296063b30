package fsm

import (
	"bytes"
	"encoding/binary"

	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// clientChecker checks what NFS clients have: counts, indexes, that nobody has what another one's open or lock denies, and that what
// is void is about to be purged.
type clientChecker struct {
	*checker
	purging map[uint64]bool
	known   map[uint64]*knownClient
	until   uint64 // the end of the interval of released clients that was seen last
	opens   map[inoKey][]openRow
	locks   map[inoKey][]*lockRow
	files   map[clientFile]bool
	ids     map[uint64]*metapb.ClientRecord
	listed  int // sessions in client records
}

type clientFile struct {
	client uint64
	file   inoKey
}

func (c *clientChecker) purged(id uint64) {
	if c.purging == nil {
		c.purging = map[uint64]bool{}
	}
	if c.purging[id] {
		c.fail("client %d is in the queue twice", id)
	}
	c.purging[id] = true
}

func (c *clientChecker) record(p string, k, v []byte) {
	if c.level < levelPOSIX {
		c.fail("key %q at level %d", k, c.level)
	}
	if c.known == nil {
		c.known = map[uint64]*knownClient{}
		c.opens, c.locks = map[inoKey][]openRow{}, map[inoKey][]*lockRow{}
		c.files, c.ids = map[clientFile]bool{}, map[uint64]*metapb.ClientRecord{}
	}
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(k[2+at:]) }
	file := func(at int) inoKey { return inoKey{binary.BigEndian.Uint32(k[2+at:]), u64(at + 4)} }
	must := func(err error) {
		if err != nil {
			c.fail("%q: %v", k, err)
		}
	}
	switch p {
	case "W/":
		if !c.first() {
			break
		}
		first := binary.BigEndian.Uint64(v)
		if first == 0 || first > u64(0) || c.until != 0 && first <= c.until+1 {
			c.fail("released clients %d to %d, after %d", first, u64(0), c.until)
		}
		c.until = u64(0)
	case "w/":
		c.knownKey(k, v)
	case "O/":
		if !c.mine(file(0)) {
			break
		}
		o, err := decodeOpen(k, v)
		must(err)
		c.counted(o.client).opens++
		if c.deleted[file(0).fs] {
			break
		}
		c.opens[file(0)] = append(c.opens[file(0)], *o)
		c.has(o.client, file(0))
	case "L/":
		if !c.mine(file(0)) {
			break
		}
		l, err := decodeLocks(k, v)
		must(err)
		n := c.counted(l.client)
		n.owners++
		n.ranges += uint32(len(l.ranges))
		if c.deleted[file(0).fs] {
			break
		}
		c.locks[file(0)] = append(c.locks[file(0)], l)
		c.has(l.client, file(0))
	case "z/":
		if !c.first() {
			break
		}
		s, err := decodeSlot(v)
		must(err)
		if c.get(appendClientSession(nil, s.client, sessionID(k[2:]))) == nil {
			c.fail("replies %q of client %d without its index", k, s.client)
		}
	case "C/":
		r := new(metapb.ClientRecord)
		must(r.UnmarshalVT(v))
		if r.Origin == 0 || r.Gateway == "" || u64(0) == 0 || u64(0) >= max(c.counts["m/next/client"], 1) {
			c.fail("client %d: %v", u64(0), r)
		}
		if r.State != metapb.ClientState_CLIENT_ACTIVE && len(r.Sessions) > 0 {
			c.fail("client %d is in release and has %d sessions", u64(0), len(r.Sessions))
		}
		c.ids[u64(0)] = r
		c.listed += len(r.Sessions)
	case "S/":
		var s metapb.SessionRecord
		must(s.UnmarshalVT(v))
		n := 0
		if r := c.ids[s.Client]; r != nil {
			for _, id := range r.Sessions {
				if bytes.Equal(id, k[2:]) {
					n++
				}
			}
		}
		if n != 1 {
			c.fail("client %d has session %x %d times", s.Client, k[2:], n)
		}
		c.listed--
	}
}

// knownKey checks a key below w/.
func (c *clientChecker) knownKey(k, v []byte) {
	id := binary.BigEndian.Uint64(k[2:])
	switch len(k) {
	case knownLen:
		r, err := decodeKnown(v)
		if err != nil {
			c.fail("%v", err)
		}
		if gone, err := (&reader{view: c.view}).wasReleased(id); err != nil || gone {
			c.fail("client %d is known and was released (%v)", id, err)
		}
		if c.purging[id] {
			c.fail("client %d is known and in the queue", id)
		}
		c.known[id] = r
	case clientFileLen:
		f := inoKey{binary.BigEndian.Uint32(k[knownLen:]), tail64(k)}
		if c.mayBeLeft(f.fs, k); c.mine(f) {
			c.owned(id)
			if !c.deleted[f.fs] {
				c.files[clientFile{id, f}] = false
			}
		}
	case clientSessionLen:
		c.owned(id)
	default:
		c.fail("key %q", k)
	}
}

// owned fails if what a client has is neither its own nor about to be purged.
func (c *clientChecker) owned(client uint64) {
	if c.known[client] == nil && !c.purging[client] {
		c.fail("client %d is not known, and what it has will not be purged", client)
	}
}

func (c *clientChecker) counted(client uint64) *knownClient {
	if c.count[client] == nil {
		c.count[client] = new(knownClient)
	}
	return c.count[client]
}

func (c *clientChecker) has(client uint64, k inoKey) {
	f := clientFile{client, k}
	if _, ok := c.files[f]; !ok {
		c.fail("client %d has inode %d without an index", client, k.ino)
	}
	c.files[f] = true
	if n := c.inodes[k]; n == nil || !n.isFile() {
		c.fail("client %d has inode %d, which is no file", client, k.ino)
	}
}

func (c *clientChecker) finish() {
	if c.first() {
		c.try(func() {
			if n := c.counts["m/clients"]; c.shard != 0 && n != uint64(len(c.known)) || c.shard == 0 && n != uint64(len(c.ids)) {
				c.fail("%d clients are known, %d have records, counted %d", len(c.known), len(c.ids), n)
			}
			if c.listed != 0 {
				c.fail("clients list %d sessions too many", c.listed)
			}
		})
	}
	if c.last() {
		for id, k := range c.known {
			c.try(func() {
				if n := c.count[id]; n == nil && *k != (knownClient{}) || n != nil && *n != *k {
					c.fail("client %d has %+v, counts %+v", id, n, *k)
				}
			})
		}
	}
	for f, used := range c.files {
		c.try(func() {
			if !used {
				c.fail("client %d has an index of inode %d and nothing else", f.client, f.file.ino)
			}
		})
	}
	for k, n := range c.inodes {
		c.try(func() {
			deniers := 0
			for _, o := range c.opens[k] {
				if o.rec.Deny != 0 {
					deniers++
				}
			}
			if int(n.opens) != len(c.opens[k]) || int(n.deniers) != deniers || int(n.locks) != len(c.locks[k]) {
				c.fail("inode %d has %d opens, %d with deny, %d lock-owners, counts %d, %d, %d", k.ino, len(c.opens[k]), deniers, len(c.locks[k]), n.opens, n.deniers, n.locks)
			}
		})
	}
	c.try(c.noConflicts)
}

// noConflicts fails if two living clients have what one of them denies the other.
func (c *clientChecker) noConflicts() {
	for k, opens := range c.opens {
		if n := c.inodes[k]; n == nil || n.attr.Nlink == 0 {
			continue // its last link may have brought opens that were granted without the shard
		}
		for i, a := range opens {
			for _, b := range opens[:i] {
				own := a.client == b.client && bytes.Equal(a.rec.Owner, b.rec.Owner)
				if !own && c.known[a.client] != nil && c.known[b.client] != nil && (a.rec.Access&b.rec.Deny != 0 || a.rec.Deny&b.rec.Access != 0) {
					c.fail("inode %d: opens %v of client %d and %v of client %d", k.ino, a.rec, a.client, b.rec, b.client)
				}
			}
		}
	}
	for k, locks := range c.locks {
		for i, a := range locks {
			for _, b := range locks[:i] {
				for _, r := range a.ranges {
					if x, bad := b.ranges.Conflict(r.First, r.Last, r.Write); bad && c.known[a.client] != nil && c.known[b.client] != nil {
						c.fail("inode %d: client %d has locked %v, client %d %v", k.ino, a.client, r, b.client, x)
					}
				}
			}
		}
	}
}
