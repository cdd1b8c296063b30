package fsm

import (
	"bytes"
	"encoding/binary"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

// Bounds of answers about NFS clients.
const (
	answerClients      = 256
	answerClientsLook  = 4096 // records that one page looks at
	answerClientsBytes = 1 << 20
	answerStates       = 1000
)

// known reports whether a client is known at this shard.
func (r *reader) known(id uint64) (bool, error) {
	_, ok, err := r.view.Get(appendKnown(nil, id))
	return ok, err
}

// mayKnow is that of the overlay.
func (r *reader) mayKnow(id uint64, op string) error {
	if id == 0 || id > maxClientID {
		return vfs.Errorf(vfs.KindInvalid, op, "client %d", id)
	}
	if ok, err := r.known(id); err != nil || ok {
		return err
	}
	gone, err := r.wasReleased(id)
	if err == nil && gone {
		err = vfs.Errorf(vfs.KindExpired, op, "client %d", id)
	}
	return err
}

// wasReleased is released of the overlay.
func (r *reader) wasReleased(id uint64) (gone bool, err error) {
	err = r.view.Scan(appendID(nil, "W/", id), prefixEnd([]byte("W/")), func(_, v []byte) bool {
		gone = len(v) == 8 && binary.BigEndian.Uint64(v) <= id
		return false
	})
	return gone, err
}

func (r *reader) testLock(q *metapb.TestLockQ) (*metapb.QueryResult, error) {
	const op = "testlock"
	w, err := newLockWant(q.Client, q.Owner, q.Type, q.Offset, q.Length, op)
	if err != nil {
		return nil, err
	}
	if err := r.mayKnow(q.Client, op); err != nil {
		return nil, err
	}
	n, err := r.must(q.Ino, op)
	if err != nil {
		return nil, err
	}
	if err := checkFile(n, op); err != nil {
		return nil, err
	}
	res := &metapb.LockResult{}
	if q.Type != metapb.LockType_LOCK_NONE && n.locks > 0 {
		against, _, err := w.survey(r.view.Scan, r.fs, q.Ino)
		if err != nil {
			return nil, err
		}
		for _, d := range against {
			if ok, err := r.known(d.Client); err != nil {
				return nil, err
			} else if ok {
				res.Denied = d
				break
			}
		}
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Lock{Lock: res}}, nil
}

func (r *reader) fileOpens(q *metapb.FileOpensQ) (*metapb.QueryResult, error) {
	n, err := r.must(q.Ino, "opens")
	if err != nil {
		return nil, err
	}
	var list []*metapb.ClientOpen
	if n.opens > 0 {
		if list, err = r.opensBelow(appendIno(nil, "O/", r.fs, q.Ino), r.fs, q.Ino); err != nil {
			return nil, err
		}
	}
	res := &metapb.FileOpensR{}
	for _, o := range list {
		if ok, err := r.known(o.Client); err != nil {
			return nil, err
		} else if ok {
			res.Opens = append(res.Opens, o)
		}
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_FileOpens{FileOpens: res}}, nil
}

// opensBelow decodes the opens with a prefix.
func (r *reader) opensBelow(prefix []byte, fs uint32, ino uint64) (list []*metapb.ClientOpen, err error) {
	var bad error
	err = r.view.Scan(prefix, prefixEnd(prefix), func(k, v []byte) bool {
		o, err := decodeOpen(k, v)
		if err != nil {
			bad = err
			return false
		}
		list = append(list, &metapb.ClientOpen{
			Client: o.client, Stateid: o.stateid[:], Owner: o.rec.Owner, Access: o.rec.Access, Deny: o.rec.Deny, State: o.rec.State,
			Fs: fs, Ino: ino,
		})
		return true
	})
	if err == nil {
		err = bad
	}
	return list, err
}

func (r *reader) clientState(q *metapb.ClientStateQ) (*metapb.QueryResult, error) {
	const op = "clientstate"
	if err := r.mayKnow(q.Client, op); err != nil {
		return nil, err
	}
	limit := int(q.Limit)
	if limit == 0 || limit > answerStates {
		limit = answerStates
	}
	// Which files come: each has an open or a lock at least.
	type file struct {
		fs  uint32
		ino uint64
	}
	var files []file
	lo := append(appendClientFile(nil, q.Client, q.AfterFs, q.AfterIno), 0)
	err := r.view.Scan(lo, prefixEnd(appendKnown(nil, q.Client)), func(k, _ []byte) bool {
		if len(k) == clientFileLen {
			files = append(files, file{binary.BigEndian.Uint32(k[knownLen:]), tail64(k)})
		}
		return len(files) <= limit
	})
	if err != nil {
		return nil, err
	}
	res := &metapb.ClientStateR{}
	bytes := 0
	for i, f := range files {
		if i > 0 && (len(res.Opens)+len(res.Locks) >= limit || bytes > answerClientsBytes) {
			res.More, res.NextFs, res.NextIno = true, files[i-1].fs, files[i-1].ino
			break
		}
		opens, err := r.opensBelow(appendOpens(nil, f.fs, f.ino, q.Client), f.fs, f.ino)
		if err != nil {
			return nil, err
		}
		locks, err := r.locksBelow(appendLocks(nil, f.fs, f.ino, q.Client), f.fs, f.ino)
		if err != nil {
			return nil, err
		}
		for _, o := range opens {
			bytes += o.SizeVT()
		}
		for _, l := range locks {
			bytes += l.SizeVT()
		}
		res.Opens, res.Locks = append(res.Opens, opens...), append(res.Locks, locks...)
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_ClientState{ClientState: res}}, nil
}

func (r *reader) locksBelow(prefix []byte, fs uint32, ino uint64) (list []*metapb.ClientLocks, err error) {
	var bad error
	err = r.view.Scan(prefix, prefixEnd(prefix), func(k, v []byte) bool {
		l, err := decodeLocks(k, v)
		if err != nil {
			bad = err
			return false
		}
		c := &metapb.ClientLocks{Fs: fs, Ino: ino, Owner: l.owner, Stateid: l.stateid, State: l.state}
		for _, g := range l.ranges {
			c.Ranges = append(c.Ranges, &metapb.LockRange{First: g.First, Last: g.Last, Write: g.Write})
		}
		list = append(list, c)
		return true
	})
	if err == nil {
		err = bad
	}
	return list, err
}

func (r *reader) sessionSlots(q *metapb.SessionSlotsQ) (*metapb.QueryResult, error) {
	if len(q.Session) != sessionLen {
		return nil, vfs.Errorf(vfs.KindInvalid, "slots", "session of %d bytes", len(q.Session))
	}
	res := &metapb.SessionSlotsR{}
	prefix := append([]byte("z/"), q.Session...)
	var bad error
	err := r.view.Scan(prefix, prefixEnd(prefix), func(k, v []byte) bool {
		var s *slotRow
		if s, bad = decodeSlot(v); bad != nil {
			return false
		}
		res.Slots = append(res.Slots, &metapb.SessionSlot{Slot: binary.BigEndian.Uint32(k[len(k)-4:]), Seq: s.seq})
		return true
	})
	if err == nil {
		err = bad
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_SessionSlots{SessionSlots: res}}, err
}

func (r *reader) clients(q *metapb.ClientsQ) (*metapb.QueryResult, error) {
	limit := int(q.Limit)
	if limit == 0 || limit > answerClients {
		limit = answerClients
	}
	want := metapb.ClientState_CLIENT_ACTIVE
	if q.Releasing {
		want = metapb.ClientState_CLIENT_RELEASING
	}
	res := &metapb.ClientsR{}
	if q.After == 1<<64-1 {
		return &metapb.QueryResult{R: &metapb.QueryResult_Clients{Clients: res}}, nil
	}
	var bad error
	looked, bytes, last := 0, 0, uint64(0)
	err := r.view.Scan(appendID(nil, "C/", q.After+1), prefixEnd([]byte("C/")), func(k, v []byte) bool {
		if len(res.Clients) == limit || looked == answerClientsLook || bytes > answerClientsBytes {
			res.Next = last
			return false
		}
		looked++
		last = tail64(k)
		c := new(metapb.ClientRecord)
		if bad = c.UnmarshalVT(v); bad != nil {
			return false
		}
		if c.Id = last; c.State == want && (q.Gateway == "" || c.Gateway == q.Gateway) {
			bytes += len(v)
			res.Clients = append(res.Clients, &metapb.ClientSessions{Client: c})
		}
		return true
	})
	if bad != nil {
		err = corrupt("client: %w", bad)
	}
	if err != nil {
		return nil, err
	}
	for i, c := range res.Clients {
		if err := r.sessions(c); err != nil {
			return nil, err
		}
		for _, s := range c.Sessions {
			bytes += s.SizeVT()
		}
		if bytes > answerClientsBytes && i < len(res.Clients)-1 {
			res.Clients, res.Next = res.Clients[:i+1], c.Client.Id
			break
		}
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Clients{Clients: res}}, nil
}

// sessions adds a client's sessions.
func (r *reader) sessions(c *metapb.ClientSessions) error {
	for _, id := range c.Client.Sessions {
		s, err := r.session(id)
		if err != nil {
			return err
		}
		if s == nil {
			return corrupt("client %d has a session without record", c.Client.Id)
		}
		c.Sessions = append(c.Sessions, s)
	}
	return nil
}

func (r *reader) session(id []byte) (*metapb.SessionRecord, error) {
	b, ok, err := r.view.Get(sessionKey(id))
	if err != nil || !ok {
		return nil, err
	}
	s := new(metapb.SessionRecord)
	if err := s.UnmarshalVT(b); err != nil {
		return nil, corrupt("session: %w", err)
	}
	s.Id = id
	return s, nil
}

func (r *reader) client(q *metapb.ClientQ) (*metapb.QueryResult, error) {
	const op = "client"
	id := q.Client
	if len(q.Session) > 0 {
		s, err := r.session(q.Session)
		if err != nil {
			return nil, err
		}
		if s == nil {
			return nil, vfs.Errorf(vfs.KindNotFound, op, "no such session")
		}
		id = s.Client
	}
	if len(q.Owner) > 0 {
		var err error
		if id, err = r.clientOfOwner(q.Owner); err != nil {
			return nil, err
		}
	}
	b, ok, err := r.view.Get(clientRecordKey(id))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, vfs.Errorf(vfs.KindNotFound, op, "client %d", id)
	}
	c := &metapb.ClientSessions{Client: new(metapb.ClientRecord)}
	if err := c.Client.UnmarshalVT(b); err != nil {
		return nil, corrupt("client %d: %w", id, err)
	}
	c.Client.Id = id
	if err := r.sessions(c); err != nil {
		return nil, err
	}
	return &metapb.QueryResult{R: &metapb.QueryResult_Clients{Clients: &metapb.ClientsR{Clients: []*metapb.ClientSessions{c}}}}, nil
}

// clientOfOwner is the newest client of an owner that has not ended, 0 if there is none. It looks at all clients, which is for when one introduces itself.
func (r *reader) clientOfOwner(owner []byte) (id uint64, err error) {
	var bad error
	err = r.view.Scan([]byte("C/"), prefixEnd([]byte("C/")), func(k, v []byte) bool {
		if !bytes.Contains(v, owner) { // much faster than decoding it
			return true
		}
		var c metapb.ClientRecord
		if bad = c.UnmarshalVT(v); bad != nil {
			return false
		}
		if c.State == metapb.ClientState_CLIENT_ACTIVE && bytes.Equal(c.Owner, owner) {
			id = tail64(k)
		}
		return true
	})
	if bad != nil {
		err = corrupt("client: %w", bad)
	}
	return id, err
}
